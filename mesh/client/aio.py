"""The asyncio client: `connect_async`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import (
    AsyncIterable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
)
from functools import cached_property
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack, overload

from mesh.client import base, batches
from mesh.client.aio_driver import LoopDriver
from mesh.client.aio_streams import AsyncResults
from mesh.client.awaited import AwaitedCall, Connection
from mesh.client.base import Options
from mesh.client.batches import MAX_BATCH
from mesh.client.calls import ENDED, Call, ClientSettings
from mesh.client.configured import configure
from mesh.client.sync import CallOptions
from mesh.client.wire import Wire
from mesh.discovery import names
from mesh.errors import CallError
from mesh.protocol.messages import BATCH

if TYPE_CHECKING:
    from mesh.client.memory import AsyncMemory
    from mesh.client.search import AsyncSearch
    from mesh.client.storage import AsyncStorage

P = ParamSpec("P")
T = TypeVar("T")


class AsyncCaller:
    """Makes calls on one event loop, with the options bound to it."""

    def __init__(self, connection: Connection, options: Options) -> None:
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
    def call(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Call "service.method", or a function that a Service declared, and return its value.

        An iterator among the arguments, plain or asynchronous, is sent item by item, as the worker
        asks for them. Cancelling the task cancels the call.

        Raises:
            CallError: it failed; the kind of error says why.
            ConfigError: the target makes no sense.
        """
        return AwaitedCall(self._connection, self._options, target, args, kwargs)

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
        for count, body in batches.pack_batch(items, max_items):
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
                    found += batches.outcomes(part, count)
        except BaseException:
            for _, part in parts:
                if isinstance(part, Call):
                    driver.cancel(part)
            raise
        return batches.settle(found, raise_errors)


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

    return AsyncMesh(Connection(make, chosen), Options().but(options))
