"""Calls the verbs of the storage service on an engine, as its handler does."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mesh.errors import DataCorrupted
from mesh.protocol.storage import PART, part_digest
from workers.acts import Act
from workers.storage.engine import LmdbEngine
from workers.storage.operations import Op, together
from workers.storage.verbs import Verbs

READING = frozenset(
    ("get", "entry", "get_many", "exists", "scan_page", "list_page", "changes_page", "info",
     "buckets", "object")
)  # fmt: skip


class Clock:
    """Unix time in milliseconds that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += int(seconds * 1000)


def opened_lmdb(path: Path, clock: Callable[[], int], **sizes: int) -> LmdbEngine:
    """An engine over the store in `path`, which writes."""
    engine = LmdbEngine(path, clock=clock, **sizes)
    gained = threading.Event()
    engine.stand(lambda epoch: gained.set(), lambda error: None)
    assert gained.wait(10)
    return engine


class Driver:
    """The verbs as methods: each returns its answer or raises its error."""

    def __init__(self, engine: Any, clock: Clock) -> None:
        self.engine = engine
        self.clock = clock
        self._verbs = Verbs()
        self._sequence = 0

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        build = getattr(self._verbs, verb)

        def call(*args: Any, **kwargs: Any) -> Any:
            act: Act[Op] = build(*args, **kwargs)
            run = self.engine.read if verb in READING else self.engine.execute
            (result,) = run((act.op,))
            if isinstance(result, Exception):
                raise result
            return act.answer(result)

        return call

    def op(self, verb: str, *args: Any, **kwargs: Any) -> Op:
        """The operation of a call, to be executed with others."""
        op: Op = getattr(self._verbs, verb)(*args, **kwargs).op
        return op

    def again(self, op: Op, sequence: int, content: bytes = b"c" * 16) -> Any:
        """The result of a request with that number in one session."""
        op.call = (7, sequence, content)
        (result,) = self.engine.execute((op,))
        if isinstance(result, Exception):
            raise result
        return result

    def execute(self, *ops: Op) -> list[Any]:
        """Some operations that have arrived together, as one group."""
        found: list[Any] = self.engine.execute(ops)
        return found

    def many(self, *ops: Op) -> Any:
        """Some operations as one request."""
        (result,) = self.engine.execute((together(list(ops)),))
        return result

    def put_small(self, key: str, data: bytes, **kwargs: Any) -> Any:
        """An object of one part."""
        return self.put_object(key, data, sha256=hashlib.sha256(data).digest(), **kwargs)

    def send(self, data: bytes, upload: bytes = b"") -> tuple[bytes, bytes]:
        """Send all parts of an upload: its name, and their digests."""
        name = upload or os.urandom(16)
        digests = b""
        for number, at in enumerate(range(0, len(data), PART)):
            part = data[at : at + PART]
            digests += part_digest(part)
            self.engine.write_part(name, number, part, digests[-8:])
        return name, digests

    def finish(self, key: str, data: bytes, name: bytes, digests: bytes, **kwargs: Any) -> Any:
        """Make an object of an upload."""
        act = self._verbs.upload_finished(
            key, name, len(data), digests, sha256=hashlib.sha256(data).digest(), **kwargs
        )
        result = self.engine.finish_upload(act.op, len(data), digests)
        if isinstance(result, Exception):
            raise result
        return act.answer(result)

    def put_large(self, key: str, data: bytes, **kwargs: Any) -> Any:
        """An object of several parts."""
        return self.finish(key, data, *self.send(data), **kwargs)

    def content(self, key: str, **kwargs: Any) -> bytes | None:
        """The content of an object, verified."""
        found = self.object(key, **kwargs)
        if found is None:
            return None
        if found["data"] is not None:
            data: bytes = found["data"]
        else:
            parts = []
            for number in range(-(-found["size"] // PART)):
                part = self.engine.read_part(found["blob"], number, 0, PART)
                if part is None:
                    return None
                parts.append(part)
            data = b"".join(parts)
        if hashlib.sha256(data).digest() != found["sha256"]:
            raise DataCorrupted("the content differs from its digest")
        return data

    def tick(self) -> None:
        """Do all that is due."""
        while self.engine.tick():
            pass
