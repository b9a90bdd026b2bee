"""Calls with streams on an event loop: the caller's iterator going out, the worker's coming in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from mesh.client import base
from mesh.client.aio_driver import LoopDriver
from mesh.client.base import Options
from mesh.client.calls import ENDED, SENT, Call
from mesh.client.streams import NOTHING, Inflow, Outflow
from mesh.errors import CallError, to_wire

T = TypeVar("T")


async def call_with_stream(
    driver: LoopDriver, options: Options, target: Any, frame: bytes, source: Any
) -> Any:
    """The value of a call with the stream `source` among its arguments, the others in `frame`.

    Raises:
        CallError: it failed, or the source of the stream did.
        ConfigError: the target makes no sense.
    """
    call = driver.begin(options, target, frame, base.stream_flags(source, reading=False))
    await Exchange(driver, call, source).over()
    return base.result(call)


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
