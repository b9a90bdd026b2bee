"""`m.storage` of the asyncio client."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Concatenate, ParamSpec, Self, TypeVar

from mesh.client.storage import calls, outgoing, receiving, sending
from mesh.client.storage.files import Target, upload_name
from mesh.client.storage.outgoing import Outgoing, Part
from mesh.client.storage.plans import (
    Await,
    Begin,
    Do,
    Give,
    Pause,
    Plan,
    Progress,
    Take,
)
from mesh.client.storage.requests import HOW_TO_START, SERVICE, Change, Item, ObjectInfo
from mesh.client.storage.steps import Steps
from mesh.client.verbs import Patience, Request, caller_for, explain
from mesh.errors import CallError, InvalidArgument
from mesh.protocol import storage as limits

if TYPE_CHECKING:
    from mesh.client.aio import AsyncCaller

P = ParamSpec("P")
T = TypeVar("T")

STREAM_TIMEOUT = 300.0


def _awaited(
    build: Callable[Concatenate[str, P], Request[T]],
) -> Callable[Concatenate[AsyncStorage, P], Coroutine[Any, Any, T]]:
    """The verb that `build` describes, as a method to be awaited."""

    @wraps(build)
    def verb(self: AsyncStorage, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return self._ask(build(self.name, *args, **kwargs))

    return verb


class AsyncStorage:
    """The verbs of the storage service, on one bucket; those of `Storage`, to be awaited."""

    def __init__(
        self, caller: AsyncCaller, timeout: float, name: str = limits.DEFAULT_BUCKET
    ) -> None:
        self.name = name
        """Of the bucket."""
        self._caller = caller
        self._safe = caller.options(idempotent=True)
        self._timeout = timeout

    def bucket(self, name: str) -> AsyncStorage:
        """The same verbs on another bucket."""
        return AsyncStorage(self._caller, self._timeout, limits.check_bucket(name))

    get = _awaited(calls.get)
    entry = _awaited(calls.entry)
    get_many = _awaited(calls.get_many)
    exists = _awaited(calls.exists)
    keys_page = _awaited(calls.keys_page)
    list_page = _awaited(calls.list_page)
    object_info = _awaited(calls.object_info_of)
    info = _awaited(calls.info)
    buckets = _awaited(calls.buckets)

    put = _awaited(calls.put)
    put_many = _awaited(calls.put_many)
    delete = _awaited(calls.delete)
    copy = _awaited(calls.copy)
    configure = _awaited(calls.configure)
    drop = _awaited(calls.drop)

    def batch(self) -> AsyncStorageBatch:
        """Several changes of this bucket, done together or not at all."""
        return AsyncStorageBatch(self)

    # ---------------------------------------------------------------- many keys

    def keys(
        self, prefix: str = "", *, start: str = "", end: str = "", reverse: bool = False
    ) -> AsyncIterator[str]:
        """As `Storage.keys`."""
        kwargs = calls.scanned(self.name, prefix, start, end, reverse)
        return self._scan(prefix, kwargs, lambda key: key, lambda key: key)

    def items(
        self, prefix: str = "", *, start: str = "", end: str = "", reverse: bool = False
    ) -> AsyncIterator[tuple[str, Any]]:
        """As `Storage.items`."""
        kwargs = calls.scanned(self.name, prefix, start, end, reverse)
        kwargs |= {"values": True, "packed": True}
        return self._scan(
            prefix, kwargs, lambda pair: calls.bound(self.name, pair), lambda pair: pair[0]
        )

    async def listing(
        self, prefix: str = "", *, start: str = "", end: str = "", reverse: bool = False
    ) -> AsyncIterator[Item]:
        """As `Storage.list`."""
        cursor = b""
        while True:
            page = await self.list_page(
                prefix, start=start, end=end, reverse=reverse, cursor=cursor
            )
            for one in page.items:
                yield one
            if not (cursor := page.cursor):
                return

    async def _scan(
        self,
        prefix: str,
        kwargs: dict[str, Any],
        read: Callable[[Any], T],
        key_of: Callable[[T], str],
    ) -> AsyncIterator[T]:
        patience = self._patience()
        caller = self._caller.options(timeout=STREAM_TIMEOUT)
        while True:
            try:
                async with caller.stream("storage.scan", prefix, **kwargs) as found:
                    async for one in found:
                        value = read(one)
                        kwargs["cursor"] = key_of(value).encode()
                        patience.worked()
                        yield value
                return
            except CallError as error:
                await asyncio.sleep(self._pause(patience, error))

    async def changes(
        self, after: int = 0, *, prefix: str = "", follow: bool = True
    ) -> AsyncIterator[Change]:
        """As `Storage.changes`."""
        limits.check_prefix(prefix)
        patience = self._patience()
        caller = self._caller.options(timeout=STREAM_TIMEOUT)
        reached = limits.check_version(after)
        kwargs = {"prefix": prefix, "follow": follow, "bucket": self.name}
        while True:
            try:
                async with caller.stream("storage.changes", reached, **kwargs) as found:
                    async for version, kind, key in found:
                        patience.worked()
                        reached = version
                        yield Change(kind, key, version)
                return
            except CallError as error:
                await asyncio.sleep(self._pause(patience, error))

    # ---------------------------------------------------------------- objects

    async def put_object(
        self,
        key: str,
        source: bytes | BinaryIO | Iterable[bytes] | AsyncIterable[bytes],
        *,
        content_type: str = "",
        metadata: dict[str, str] | None = None,
        ttl: float | None = None,
        only_if: calls.Absence = "",
        version: int | None = None,
        progress: Progress | None = None,
    ) -> int | None:
        """As `Storage.put_object`; `source` may bring its octets asynchronously.

        What it is made of is read and summed up in a thread.
        """
        pieces = aiter(source) if isinstance(source, AsyncIterable) else None
        given = Outgoing(None, None) if pieces is not None else outgoing.of(source)
        return await self._send(
            sending.prepare(
                self.name,
                key,
                given,
                self._patience(),
                content_type=content_type,
                metadata=metadata,
                ttl=ttl,
                only_if=only_if,
                version=version,
                progress=progress,
            ),
            pieces,
        )

    async def put_file(
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
        """As `Storage.put_file`."""

        async def attempt(upload: bytes) -> int | None:
            with Path(path).open("rb") as file:
                return await self._send(
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
            return await attempt(upload_name(self.name, key, Path(path)) if resume else b"")
        except InvalidArgument as error:
            if not error.data.get("finished"):
                raise
            return await attempt(b"")  # it was stored before, and has gone from its key since

    async def get_object(
        self, key: str, start: int = 0, end: int | None = None, *, progress: Progress | None = None
    ) -> AsyncObject | None:
        """As `Storage.get_object`; the object is read with `async for`."""
        of = receiving.prepare(self.name, key, start, end, self._patience(), progress)
        return AsyncObject(self, of) if await self._follow(receiving.find(of)) else None

    async def get_file(
        self,
        key: str,
        path: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
    ) -> ObjectInfo | None:
        """As `Storage.get_file`."""
        found = await self.get_object(key, progress=progress)
        if found is None:
            return None
        async with found:
            with Target(Path(path)) as target:
                async for piece in found:
                    await asyncio.to_thread(target.write, piece)
                await asyncio.to_thread(target.done)
        return found.info

    # ---------------------------------------------------------------- how it is done

    def _patience(self) -> Patience:
        return Patience(monotonic, self._timeout, random.Random())

    def _pause(self, patience: Patience, error: CallError) -> float:
        try:
            return patience.pause(error)
        except CallError as last:
            explain(last, SERVICE, HOW_TO_START)

    async def _ask(self, request: Request[T]) -> T:
        caller = caller_for(request, self._caller, self._safe)
        try:
            answer = await caller.call(f"storage.{request.verb}", *request.args, **request.kwargs)
        except CallError as error:
            explain(error, SERVICE, HOW_TO_START)
        return request.read(answer)

    async def _send(
        self, to: sending.Sending, pieces: AsyncIterator[bytes] | None = None
    ) -> int | None:
        try:
            return await self._follow(sending.send(to), pieces)
        except BaseException:
            if request := sending.give_up(to):
                with suppress(CallError):
                    await asyncio.shield(self._ask(request))
            raise

    async def _follow(self, plan: Plan[T], pieces: AsyncIterator[bytes] | None = None) -> T:
        """Do what a plan says that gives nothing; what it returns."""
        returned: list[T] = []
        async for _ in self._run(plan, pieces, returned):
            raise AssertionError("a plan gave something to nobody")
        return returned[0]

    async def _run(
        self, plan: Plan[T], pieces: AsyncIterator[bytes] | None, returned: list[T]
    ) -> AsyncIterator[bytes]:
        """Do what a plan says: what it gives, one after the other; its result into `returned`."""
        tasks: set[asyncio.Task[Any]] = set()
        outcome: Any = None
        failure: BaseException | None = None
        try:
            while True:
                try:
                    step = plan.send(outcome) if failure is None else plan.throw(failure)
                except StopIteration as stop:
                    returned.append(stop.value)
                    return
                outcome = failure = None
                try:
                    match step:
                        case Request():
                            outcome = await self._ask(step)
                        case Begin(request):
                            outcome = asyncio.ensure_future(self._ask(request))
                            tasks.add(outcome)
                        case Await(ticket):
                            outcome = await ticket
                            tasks.discard(ticket)
                        case Take(source):
                            outcome = await _take(source, pieces)
                        case Do(call):
                            await asyncio.to_thread(call)
                        case Give(data):
                            yield data
                        case Pause(seconds):
                            await asyncio.sleep(seconds)
                except GeneratorExit:
                    raise
                except BaseException as error:
                    failure = error
        finally:
            plan.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _take(source: Outgoing, pieces: AsyncIterator[bytes] | None) -> Part | None:
    while pieces is not None and source.lacking:
        try:
            source.push(await anext(pieces))
        except StopAsyncIteration:
            source.end()
    return await asyncio.to_thread(source.take)


class AsyncObject:
    """An object that is being read: its octets, in pieces, verified; see `Object`."""

    def __init__(self, storage: AsyncStorage, of: receiving.Receiving) -> None:
        assert of.info is not None
        self.info: ObjectInfo = of.info
        """What is known of it."""
        self._pieces = storage._run(receiving.receive(of), None, [])

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)

    async def read(self) -> bytes:
        """All that is left."""
        return b"".join([piece async for piece in self])

    async def close(self) -> None:
        """Give up what was not read."""
        await self._pieces.aclose()  # type: ignore[attr-defined]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class AsyncStorageBatch(Steps):
    """Steps of one transaction; see `AsyncStorage.batch`."""

    def __init__(self, storage: AsyncStorage) -> None:
        super().__init__(storage.name)
        self._storage = storage

    async def run(self, *, idempotency_key: str = "") -> list[int]:
        """As `StorageBatch.run`."""
        return await self._storage._ask(self._request(idempotency_key))
