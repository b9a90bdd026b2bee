"""One call of the asyncio client, as its caller awaits it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

from mesh.client.aio_driver import LoopDriver
from mesh.client.aio_streams import call_with_stream
from mesh.client.base import Options, pack, result
from mesh.client.calls import ENDED, Call, ClientSettings
from mesh.ending import Ending


class Connection:
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
        """What moves the calls."""
        if self._driver is None:
            self._driver = self._make(asyncio.get_running_loop())
        return self._driver

    def close(self) -> None:
        """End all calls and connections."""
        if self._driver is not None:
            self._driver.close()

    @property
    def counters(self) -> dict[str, int]:
        """What happened so far, by name."""
        return dict(self._driver.core.counters) if self._driver is not None else {}


class AwaitedCall(Ending):
    """What `mesh.call(...)` gives: a coroutine by its protocol, which makes the call when awaited.

    It then becomes the future that its task waits for, so a call takes one object where an
    `async def` with a future takes three. Whoever stops waiting, by `throw` or `close`, cancels it.
    """

    def __init__(
        self,
        connection: Connection,
        options: Options,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        # None says to asyncio that it is no future; before it is awaited it is a coroutine only.
        self._asyncio_future_blocking = None
        self._loop: Any = None
        self._done = False
        self._cancelled = False
        self._reason = None
        self._callback = None
        self._context = None
        self._connection = connection
        self._options = options
        self._target = target
        self._args: tuple[Any, ...] | None = args
        self._kwargs = kwargs
        self._call: Call | None = None
        self._streaming: Coroutine[Any, Any, Any] | None = None

    def __next__(self) -> Any:
        if self._args is not None:
            self._begin()
        if self._streaming is not None:
            return self._streaming.send(None)
        call = self._call
        if call is None:
            raise RuntimeError("this call was awaited already")
        if call.state != ENDED:
            if self._callback is not None:
                raise RuntimeError("this call is being awaited already")
            self._asyncio_future_blocking = True
            return self
        self._call = None
        raise StopIteration(result(call))

    def _begin(self) -> None:
        args = self._args
        self._args = None
        assert args is not None
        driver = self._connection.driver()
        frame, source = pack(args, self._kwargs)
        if source is None:
            self._call = call = driver.begin(self._options, self._target, frame)
            self._loop = driver.loop
            if call.state != ENDED:
                call.handle = self
        else:
            self._streaming = call_with_stream(driver, self._options, self._target, frame, source)

    def send(self, value: Any) -> Any:
        """Go on, as `next` does."""
        if value is not None and self._args is not None:
            raise TypeError("can't send a value to a call that was not begun")
        if self._streaming is not None:
            return self._streaming.send(value)
        return self.__next__()

    def throw(self, kind: Any, value: Any = None, trace: Any = None) -> Any:
        """Raise an exception where the call is awaited, and end the call.

        Raises:
            BaseException: the one that was given.
        """
        if value is None:
            value = kind() if isinstance(kind, type) else kind
        elif not isinstance(value, BaseException):
            value = kind(value)
        if trace is not None:
            value = value.with_traceback(trace)
        if self._streaming is not None:
            return self._streaming.throw(value)
        self._give_up()
        raise value

    def close(self) -> None:
        """Nobody waits any more: end the call."""
        if self._streaming is not None:
            self._streaming.close()
        self._give_up()

    def _give_up(self) -> None:
        call = self._call
        self._args = self._call = None
        if call is not None:
            self._connection.driver().cancel(call)

    def __del__(self) -> None:
        if self._args is not None:
            warnings.warn(
                f"the call of {self._target!r} was never awaited", RuntimeWarning, stacklevel=2
            )
