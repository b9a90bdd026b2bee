"""The asyncio client: `connect_async`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
)
from functools import cached_property
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, Unpack, overload

from mesh.client import base
from mesh.client.aio_driver import LoopDriver
from mesh.client.base import MAX_BATCH, Options
from mesh.client.calls import ENDED, SENT, Call, ClientSettings
from mesh.client.configured import configure
from mesh.client.streams import NOTHING, Inflow, Outflow
from mesh.client.sync import CallOptions
from mesh.client.wire import Wire
from mesh.discovery import names
from mesh.errors import CallError, to_wire
from mesh.protocol.messages import BATCH

if TYPE_CHECKING:
    from mesh.client.memory import AsyncMemory
    from mesh.client.search import AsyncSearch
    from mesh.client.storage import AsyncStorage

P = ParamSpec("P")
T = TypeVar("T")


class Exchange:
    """A call with a stream in at least one direction."""

    def __init__(self, driver: LoopDriver, call: Call, source: Any) -> None:
        self.driver = driver
        self.call = call
        self.failure: Exception | None = None
        self._waiting: list[asyncio.Future[None]] = []
        call.handle = self
        self._upload = (
            driver.loop.create_task(self._send(Outflow(source))) if source is not None else None
        )
        driver.soon()

    def wake(self) -> None:
        """Something happened to the call: whoever waits looks again."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready`."""
        while not ready():
            future = self.driver.loop.create_future()
            self._waiting.append(future)
            await future

    async def over(self) -> None:
        """Wait for the end of the call, and with it of the caller's stream.

        Raises:
            Exception: whatever the caller's iterator raised.
        """
        try:
            await self.until(lambda: self.call.state == ENDED)
            if self._upload is not None:
                self._upload.cancel()
                await asyncio.gather(self._upload, return_exceptions=True)
        except BaseException:
            self.stop()
            raise
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """End the call; the worker is told to stop."""
        if self._upload is not None:
            self._upload.cancel()
        self.driver.cancel(self.call)

    async def _send(self, flow: Outflow) -> None:
        """Send the caller's stream as the worker asks for it.

        Items that come without a pause share a message: `flush` runs as soon as the source, or this
        task, waits for anything.
        """
        call, driver, source = self.call, self.driver, flow.source
        asynchronous = hasattr(source, "__anext__")
        items: list[Any] = []

        def flush() -> None:
            if items and self.failure is None and call.state == SENT:
                try:
                    body, flags = flow.pack(items)
                    driver.chunk(call, len(items), body, flags)
                except CallError as error:
                    self.failure = error
            items.clear()

        def room() -> int:
            return call.writer.room - len(items) if call.writer and call.state == SENT else 0

        ended = False
        while not ended and self.failure is None:
            await self.until(lambda: room() > 0 or call.state == ENDED)
            if call.state == ENDED:
                break
            try:
                item = await anext(source) if asynchronous else next(source)
            except (StopIteration, StopAsyncIteration):
                ended = True
            except Exception as error:
                flush()
                self.failure = error
            else:
                items.append(item)
                if len(items) == 1:
                    driver.loop.call_soon(flush)
                if len(items) >= flow.allowance(room() + len(items)):
                    flush()
                    if not asynchronous:
                        await asyncio.sleep(0)
        flush()
        if self.failure is not None:
            driver.finish(call, *to_wire(self.failure))
        elif ended:
            driver.finish(call)
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


class AsyncResults(Generic[T]):
    """The items of a stream, as they come. Also an async context manager; leaving early ends it."""

    def __init__(self, driver: LoopDriver, call: Call, source: Any) -> None:
        self._call = call
        self._driver = driver
        self._inflow = Inflow(call)
        self._exchange = Exchange(driver, call, source)
        self._over = False

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        if self._over:
            raise StopAsyncIteration
        try:
            while (item := self._inflow.get()) is NOTHING:
                await self._exchange.until(self._ready)
            if read := self._inflow.due():
                self._driver.taken(self._call, read)
        except StopIteration:
            await self._finished()
            raise StopAsyncIteration from None
        except CallError:
            await self._finished()
            raise
        except BaseException:
            await self.close()
            raise
        return item  # type: ignore[no-any-return]

    async def _finished(self) -> None:
        self._over = True
        self._driver.cancel(self._call)
        await self._exchange.over()

    def _ready(self) -> bool:
        reader = self._call.reader
        return self._call.state == ENDED or (reader is not None and bool(reader.inbox))

    async def close(self) -> None:
        """Take no more items; the worker is told to stop."""
        self._over = True
        self._exchange.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if not getattr(self, "_over", True) and self._call.state != ENDED:
            self._driver.abandon(self._call)


class _Connection:
    """The driver, made on the loop that first uses it."""

    def __init__(
        self,
        make: Callable[[asyncio.AbstractEventLoop], LoopDriver],
        settings: ClientSettings,
    ) -> None:
        self.settings = settings
        self._make = make
        self._driver: LoopDriver | None = None

    def driver(self) -> LoopDriver:
        if self._driver is None:
            self._driver = self._make(asyncio.get_running_loop())
        return self._driver

    def close(self) -> None:
        if self._driver is not None:
            self._driver.close()

    @property
    def counters(self) -> dict[str, int]:
        return dict(self._driver.core.counters) if self._driver is not None else {}


class AsyncCaller:
    """Makes calls on one event loop, with the options bound to it."""

    def __init__(self, connection: _Connection, options: Options) -> None:
        self._connection = connection
        self._options = options

    def options(self, **given: Unpack[CallOptions]) -> AsyncCaller:
        """The same connections with other options; they are those of `mesh.client.sync.Caller`.

        Raises:
            ConfigError: an option is unknown or wrong.
        """
        return AsyncCaller(self._connection, self._options.but(given))

    @cached_property
    def memory(self) -> AsyncMemory:
        """The memory service: cache, sessions, counters, locks."""
        from mesh.client.memory import AsyncMemory  # here, since not every program needs it

        return AsyncMemory(self, self._options.timeout or self._connection.settings.timeout)

    @cached_property
    def storage(self) -> AsyncStorage:
        """The storage service: durable records and objects."""
        from mesh.client.storage import AsyncStorage

        return AsyncStorage(self, self._options.timeout or self._connection.settings.timeout)

    @cached_property
    def search(self) -> AsyncSearch:
        """The search service: documents found by words, values and vectors."""
        from mesh.client.search import AsyncSearch

        return AsyncSearch(self, self._options.timeout or self._connection.settings.timeout)

    @overload
    def call(
        self, target: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def call(
        self, target: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def call(self, target: str, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]: ...
    async def call(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Call "service.method", or a function that a Service declared, and return its value.

        An iterator among the arguments, plain or asynchronous, is sent item by item, as the worker
        asks for them. Cancelling the task cancels the call.

        Raises:
            CallError: it failed; the kind of error says why.
            ConfigError: the target makes no sense.
        """
        driver = self._connection.driver()
        frame, source = base.pack(args, kwargs)
        if source is None:
            call = driver.begin(self._options, target, frame)
            if call.state != ENDED:
                try:
                    await driver.ended(call)
                except BaseException:
                    driver.cancel(call)
                    raise
        else:
            flags = base.stream_flags(source, reading=False)
            call = driver.begin(self._options, target, frame, flags)
            await Exchange(driver, call, source).over()
        return base.result(call)

    @overload
    def stream(
        self, target: Callable[P, AsyncIterable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> AsyncResults[T]: ...
    @overload
    def stream(
        self, target: Callable[P, Iterable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> AsyncResults[T]: ...
    @overload
    def stream(self, target: str, *args: Any, **kwargs: Any) -> AsyncResults[Any]: ...
    def stream(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a method that is a generator; read its items with `async for`.

        Raises:
            CallError: it was refused at once; while reading: it failed.
            ConfigError: the target makes no sense.
        """
        driver = self._connection.driver()
        frame, source = base.pack(args, kwargs)
        flags = base.stream_flags(source, reading=True)
        return AsyncResults(driver, driver.begin(self._options, target, frame, flags), source)

    @overload
    async def batch(
        self,
        target: Callable[..., Coroutine[Any, Any, T]],
        items: Iterable[Any],
        *,
        raise_errors: bool = ...,
        max_items: int = ...,
    ) -> list[T | CallError]: ...
    @overload
    async def batch(
        self,
        target: Callable[..., T],
        items: Iterable[Any],
        *,
        raise_errors: bool = ...,
        max_items: int = ...,
    ) -> list[T | CallError]: ...
    @overload
    async def batch(
        self,
        target: str,
        items: Iterable[Any],
        *,
        raise_errors: bool = ...,
        max_items: int = ...,
    ) -> list[Any]: ...
    async def batch(
        self,
        target: Any,
        items: Iterable[Any],
        *,
        raise_errors: bool = False,
        max_items: int = MAX_BATCH,
    ) -> Any:
        """Many calls of one method in one message, or in as few as their size allows.

        Each of `items` is one call: a tuple holds its arguments, anything else is its only one.
        Returns the values in the order of `items`; a call that failed has its CallError there,
        which with `raise_errors` is raised instead.
        """
        driver = self._connection.driver()
        parts: list[tuple[int, Call | CallError]] = []
        for count, body in base.pack_batch(items, max_items):
            try:
                parts.append((count, driver.begin(self._options, target, body, BATCH)))
            except CallError as error:
                parts.append((count, error))
        found: list[Any] = []
        try:
            for count, part in parts:
                if isinstance(part, CallError):
                    found += [part] * count
                else:
                    if part.state != ENDED:
                        await driver.ended(part)
                    found += base.outcomes(part, count)
        except BaseException:
            for _, part in parts:
                if isinstance(part, Call):
                    driver.cancel(part)
            raise
        return base.settle(found, raise_errors)


class AsyncMesh(AsyncCaller):
    """A client of the mesh on one event loop. See `connect_async`."""

    async def close(self) -> None:
        """End the connections; calls that are open end as Cancelled."""
        self._connection.close()

    @property
    def counters(self) -> dict[str, int]:
        """What was dropped, refused, retried and resent, by reason, since the start."""
        return self._connection.counters

    async def __aenter__(self) -> Self:
        self._connection.driver()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __await__(self) -> Generator[Any, None, Self]:
        return self.__aenter__().__await__()


def connect_async(
    *endpoints: str,
    name: str = "",
    settings: ClientSettings | None = None,
    config: str | os.PathLike[str] | None = None,
    **options: Unpack[CallOptions],
) -> AsyncMesh:
    """An asyncio client of the brokers at `endpoints`; for `async with`, or `await` it.

    Args:
        name: shown to operators.
        settings: limits and policies.
        config: a file that says them instead, and the endpoints if none are given.
        options: how calls are made unless `options()` says otherwise.

    Raises:
        ConfigError: an endpoint, an option or the file is wrong.
    """
    checked, chosen = configure(endpoints, name, settings, config)

    def make(loop: asyncio.AbstractEventLoop) -> LoopDriver:
        seed = int.from_bytes(os.urandom(16), "little")
        core = base.new_core(checked, chosen, seed=seed, now=monotonic())
        driver = LoopDriver(core, Wire(core), loop)
        names.follow(checked, driver)
        return driver

    return AsyncMesh(_Connection(make, chosen), Options().but(options))
