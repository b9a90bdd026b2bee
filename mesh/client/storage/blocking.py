"""`m.storage` of the blocking client."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Concatenate, ParamSpec, Self, TypeVar

from mesh.client.storage import calls, outgoing, receiving, sending
from mesh.client.storage.files import Target, upload_name
from mesh.client.storage.plans import Await, Begin, Do, Give, Pause, Plan, Progress, Take
from mesh.client.storage.requests import (
    HOW_TO_START,
    SERVICE,
    Change,
    Item,
    ObjectInfo,
)
from mesh.client.storage.steps import Steps
from mesh.client.verbs import Patience, Request, caller_for, explain
from mesh.errors import CallError, InvalidArgument
from mesh.protocol import storage as limits

if TYPE_CHECKING:
    from mesh.client.sync import Caller, Pending

P = ParamSpec("P")
T = TypeVar("T")

STREAM_TIMEOUT = 300.0


def _blocking(
    build: Callable[Concatenate[str, P], Request[T]],
) -> Callable[Concatenate[Storage, P], T]:
    """The verb that `build` describes, as a method."""

    @wraps(build)
    def verb(self: Storage, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._ask(build(self.name, *args, **kwargs))

    return verb


class Storage:
    """The verbs of the storage service, on one bucket. Any number of threads may use it.

    What a write returns for is on disk. Everything raises CallError if it fails; InvalidArgument
    says what would be accepted. Values are whatever the mesh can carry: None, numbers, text, bytes,
    lists, dicts, sets, times.
    """

    def __init__(self, caller: Caller, timeout: float, name: str = limits.DEFAULT_BUCKET) -> None:
        self.name = name
        """Of the bucket."""
        self._caller = caller
        self._safe = caller.options(idempotent=True)
        self._timeout = timeout

    def bucket(self, name: str) -> Storage:
        """The same verbs on another bucket."""
        return Storage(self._caller, self._timeout, limits.check_bucket(name))

    get = _blocking(calls.get)
    entry = _blocking(calls.entry)
    get_many = _blocking(calls.get_many)
    exists = _blocking(calls.exists)
    keys_page = _blocking(calls.keys_page)
    list_page = _blocking(calls.list_page)
    object_info = _blocking(calls.object_info_of)
    info = _blocking(calls.info)
    buckets = _blocking(calls.buckets)

    put = _blocking(calls.put)
    put_many = _blocking(calls.put_many)
    delete = _blocking(calls.delete)
    copy = _blocking(calls.copy)
    configure = _blocking(calls.configure)
    drop = _blocking(calls.drop)

    def batch(self) -> StorageBatch:
        """Several changes of this bucket, done together or not at all."""
        return StorageBatch(self)

    # ---------------------------------------------------------------- many keys

    def keys(
        self, prefix: str = "", *, start: str = "", end: str = "", reverse: bool = False
    ) -> Iterator[str]:
        """All keys that begin with `prefix`, start <= key < end, in their order.

        A key that exists all the time comes exactly once, also if a worker dies meanwhile.
        """
        kwargs = calls.scanned(self.name, prefix, start, end, reverse)
        return self._scan(prefix, kwargs, lambda key: key, lambda key: key)

    def items(
        self, prefix: str = "", *, start: str = "", end: str = "", reverse: bool = False
    ) -> Iterator[tuple[str, Any]]:
        """The same keys with their values; with an ObjectInfo in the place of an object's."""
        kwargs = calls.scanned(self.name, prefix, start, end, reverse)
        kwargs |= {"values": True, "packed": True}
        return self._scan(
            prefix, kwargs, lambda pair: calls.bound(self.name, pair), lambda pair: pair[0]
        )

    def listing(
        self, prefix: str = "", *, start: str = "", end: str = "", reverse: bool = False
    ) -> Iterator[Item]:
        """The same keys with their sizes, versions and so on."""
        cursor = b""
        while True:
            page = self.list_page(prefix, start=start, end=end, reverse=reverse, cursor=cursor)
            yield from page.items
            if not (cursor := page.cursor):
                return

    def _scan(
        self,
        prefix: str,
        kwargs: dict[str, Any],
        read: Callable[[Any], T],
        key_of: Callable[[T], str],
    ) -> Iterator[T]:
        patience = self._patience()
        caller = self._caller.options(timeout=STREAM_TIMEOUT)
        while True:
            try:
                with caller.stream("storage.scan", prefix, **kwargs) as found:
                    for one in found:
                        value = read(one)
                        kwargs["cursor"] = key_of(value).encode()
                        patience.worked()
                        yield value
                return
            except CallError as error:
                time.sleep(self._pause(patience, error))

    def changes(self, after: int = 0, *, prefix: str = "", follow: bool = True) -> Iterator[Change]:
        """What has happened to the keys of this bucket since version `after`, and what happens.

        Of each key only its last change is told; after 0 comes all that is there. Keep the
        version of the last change that you have dealt with, and follow from there the next time;
        deletions are told for a day. A change of kind "now" says that all up to its version have
        been told. Without `follow` the stream ends there. If the worker dies, it goes on elsewhere.

        Raises:
            InvalidArgument: `after` lies too far back; read the bucket anew.
        """
        limits.check_prefix(prefix)
        patience = self._patience()
        caller = self._caller.options(timeout=STREAM_TIMEOUT)
        reached = limits.check_version(after)
        kwargs = {"prefix": prefix, "follow": follow, "bucket": self.name}
        while True:
            try:
                with caller.stream("storage.changes", reached, **kwargs) as found:
                    for version, kind, key in found:
                        patience.worked()
                        reached = version
                        yield Change(kind, key, version)
                return
            except CallError as error:
                time.sleep(self._pause(patience, error))

    # ---------------------------------------------------------------- objects

    def put_object(
        self,
        key: str,
        source: bytes | BinaryIO | Iterable[bytes],
        *,
        content_type: str = "",
        metadata: dict[str, str] | None = None,
        ttl: float | None = None,
        only_if: calls.Absence = "",
        version: int | None = None,
        progress: Progress | None = None,
    ) -> int | None:
        """Write an object of any size; its version, None if `only_if` prevented it.

        `source` is read once, a mebibyte at a time. Until the last octet is on disk the key holds
        what it held before. `progress(done, total)` is called with octets, `total` None if unknown.

        Raises:
            VersionConflict: the key has not that `version`.
            QuotaExceeded: the bucket has no room for it.
            StoreFull: the disk has none.
        """
        return self._send(
            sending.prepare(
                self.name,
                key,
                outgoing.of(source),
                self._patience(),
                content_type=content_type,
                metadata=metadata,
                ttl=ttl,
                only_if=only_if,
                version=version,
                progress=progress,
            )
        )

    def put_file(
        self,
        key: str,
        path: str | os.PathLike[str],
        *,
        content_type: str = "",
        metadata: dict[str, str] | None = None,
        ttl: float | None = None,
        only_if: calls.Absence = "",
        version: int | None = None,
        progress: Progress | None = None,
        resume: bool = True,
    ) -> int | None:
        """Write a file as an object; as `put_object`.

        With `resume` an attempt within a day that was cut off, of this program or an earlier one,
        goes on where it ended, if the file is still the same (size and time of change).
        """

        def attempt(upload: bytes) -> int | None:
            with Path(path).open("rb") as file:
                return self._send(
                    sending.prepare(
                        self.name,
                        key,
                        outgoing.of(file),
                        self._patience(),
                        content_type=content_type,
                        metadata=metadata,
                        ttl=ttl,
                        only_if=only_if,
                        version=version,
                        progress=progress,
                        upload=upload,
                    )
                )

        try:
            return attempt(upload_name(self.name, key, Path(path)) if resume else b"")
        except InvalidArgument as error:
            if not error.data.get("finished"):
                raise
            return attempt(b"")  # it was stored before, and has gone from its key since

    def get_object(
        self, key: str, start: int = 0, end: int | None = None, *, progress: Progress | None = None
    ) -> Object | None:
        """An object, or its octets from `start` to before `end`, to be read; None if there is none.

        `with m.storage.get_object(key) as found: for piece in found: ...`

        Raises:
            InvalidArgument: the key holds a record.
        """
        of = receiving.prepare(self.name, key, start, end, self._patience(), progress)
        return Object(self, of) if self._follow(receiving.find(of)) else None

    def get_file(
        self,
        key: str,
        path: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
    ) -> ObjectInfo | None:
        """Write an object to a file, which is there once it is complete; None if there is none."""
        found = self.get_object(key, progress=progress)
        if found is None:
            return None
        with found, Target(Path(path)) as target:
            for piece in found:
                target.write(piece)
            target.done()
        return found.info

    # ---------------------------------------------------------------- how it is done

    def _patience(self) -> Patience:
        return Patience(time.monotonic, self._timeout, random.Random())

    def _pause(self, patience: Patience, error: CallError) -> float:
        try:
            return patience.pause(error)
        except CallError as last:
            explain(last, SERVICE, HOW_TO_START)

    def _ask(self, request: Request[T]) -> T:
        try:
            found = caller_for(request, self._caller, self._safe).call(
                f"storage.{request.verb}", *request.args, **request.kwargs
            )
        except CallError as error:
            explain(error, SERVICE, HOW_TO_START)
        return request.read(found)

    def _answer(self, pending: Pending[T]) -> T:
        try:
            return pending.result()
        except CallError as error:
            explain(error, SERVICE, HOW_TO_START)

    def _begin(self, request: Request[Any]) -> Pending[Any]:
        caller = caller_for(request, self._caller, self._safe)
        return caller.submit(f"storage.{request.verb}", *request.args, **request.kwargs)

    def _send(self, to: sending.Sending) -> int | None:
        try:
            return self._follow(sending.send(to))
        except BaseException:
            if request := sending.give_up(to):
                with suppress(CallError):
                    self._ask(request)
            raise

    def _follow(self, plan: Plan[T]) -> T:
        """Do what a plan says that gives nothing; what it returns."""
        run = self._run(plan)
        try:
            next(run)
        except StopIteration as stop:
            value: T = stop.value
            return value
        raise AssertionError("a plan gave something to nobody")

    def _run(self, plan: Plan[T]) -> Iterator[bytes]:
        """Do what a plan says: what it gives, one after the other; its result at the end."""
        open_calls: dict[int, Pending[Any]] = {}
        outcome: Any = None
        failure: BaseException | None = None
        try:
            while True:
                try:
                    step = plan.send(outcome) if failure is None else plan.throw(failure)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                outcome = failure = None
                try:
                    match step:
                        case Request():
                            outcome = self._ask(step)
                        case Begin(request):
                            outcome = self._begin(request)
                            open_calls[id(outcome)] = outcome
                        case Await(ticket):
                            del open_calls[id(ticket)]
                            outcome = self._answer(ticket)
                        case Take(source):
                            outcome = source.take()
                        case Do(call):
                            call()
                        case Give(data):
                            yield data
                        case Pause(seconds):
                            time.sleep(seconds)
                except GeneratorExit:
                    raise
                except BaseException as error:
                    failure = error
        finally:
            plan.close()
            for pending in open_calls.values():
                pending.cancel()


class Object:
    """An object that is being read: its octets, in pieces, verified. For one thread at a time.

    Leaving the `with` block early gives up the rest.
    """

    def __init__(self, storage: Storage, of: receiving.Receiving) -> None:
        assert of.info is not None
        self.info: ObjectInfo = of.info
        """What is known of it."""
        self._pieces = storage._run(receiving.receive(of))

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def read(self) -> bytes:
        """All that is left."""
        return b"".join(self)

    def close(self) -> None:
        """Give up what was not read."""
        self._pieces.close()  # type: ignore[attr-defined]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class StorageBatch(Steps):
    """Steps of one transaction; see `Storage.batch`."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage.name)
        self._storage = storage

    def run(self, *, idempotency_key: str = "") -> list[int]:
        """Do all steps, in their order: the version of what each put, how many each deleted.

        Raises:
            VersionConflict: something `require`d is not so; nothing was done.
        """
        return self._storage._ask(self._request(idempotency_key))
