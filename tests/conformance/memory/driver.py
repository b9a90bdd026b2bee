"""A store under test: one way to call verbs, and time that can be made to pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import msgpack

from workers.memory.backend import READS, Backend, Op

NS = "default"


class Clock:
    """Unix time in ms that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now

    def advance(self, ms: int) -> None:
        self.now += ms


class RealClock:
    """The machine's time, for engines that have their own."""

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000

    def advance(self, ms: int) -> None:
        threading.Event().wait(ms / 1000)


class Driver:
    """Runs verbs one at a time; reads go through `read`, all else through `execute`."""

    def __init__(self, backend: Backend, clock: Any) -> None:
        self.backend = backend
        self.clock = clock
        self.can = backend.capabilities
        self._relaxed: set[str] | None = None

    def relax(self) -> None:
        """Use relaxed namespaces alone; what is read then is read by the writer."""
        self._relaxed = set()

    def tighten(self) -> None:
        """Read in any process again."""
        self._relaxed = None

    def __call__(self, verb: str, ns: str = NS, **arguments: Any) -> Any:
        if self._relaxed is not None and ns not in self._relaxed and ns:
            self._relaxed.add(ns)
            self("configure", ns, relaxed=True, quota=None)
        reads = verb in READS and self._relaxed is None and verb != "stats"
        way: Callable[..., Any] = self.backend.read if reads else self.backend.execute
        (result,) = way([Op(verb, ns, arguments)])
        if isinstance(result, Exception):
            raise result
        return result

    def set(self, key: bytes, value: Any, ns: str = NS, **arguments: Any) -> int:
        version: int = self("set", ns, key=key, body=msgpack.packb(value), **arguments)
        return version

    def get(self, key: bytes, ns: str = NS, **arguments: Any) -> Any:
        """The value, None if there is none."""
        entry = self("get", ns, key=key, **arguments)
        return None if entry is None else msgpack.unpackb(entry.body)

    def at(self, ms: int) -> int:
        """A moment `ms` from now."""
        return int(self.clock()) + ms

    def keys(self, prefix: bytes = b"", ns: str = NS, limit: int = 100) -> list[bytes]:
        """All keys, by pages."""
        found: list[bytes] = []
        after = b""
        while True:
            page, after = self("scan", ns, prefix=prefix, after=after, limit=limit, values=False)
            found += [key for key, _ in page]
            if not after:
                return found
