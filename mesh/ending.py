"""A future that runs its task at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any


class Ending:
    """The end of something, which one task awaits: a future by asyncio's protocol.

    asyncio's own future hands its task to the loop, one by one, which costs more than the step of
    the task itself. This one runs the task within `wake`: a client wakes all tasks whose replies it
    has read in one callback of the loop, in the order of the replies, and a worker the task that
    runs its handlers in the callback that has read the requests.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking: bool | None = False
        self._loop = loop
        self._done = False
        self._cancelled = False
        self._reason: Any = None
        self._callback: Callable[[Any], object] | None = None
        self._context: Context | None = None

    def __await__(self) -> Generator[Any, Any, None]:
        return self  # type: ignore[return-value]

    def __iter__(self) -> Ending:
        return self

    def __next__(self) -> Ending:
        if not self._done:
            self._asyncio_future_blocking = True
            return self
        self.result()
        raise StopIteration

    def wake(self, ended: Any = None) -> None:
        """It has ended: run the task until it waits again. Not from within a task.

        `ended`, a future of asyncio's that has ended well, is shown to the task in place of this
        one, whose result it would ask for by name.
        """
        self._done = True
        callback = self._callback
        if callback is not None:
            context = self._context
            self._callback = self._context = None
            if ended is None:
                ended = self
            if context is None:
                callback(ended)
            else:
                context.run(callback, ended)

    # ---------------------------------------------------------------- what asyncio asks for

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the task."""
        return self._loop

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        """Who is to be told of the end: the task that waits.

        Raises:
            RuntimeError: another one waits already.
        """
        if self._callback is not None:
            raise RuntimeError("this is being awaited already")
        self._callback = callback
        self._context = context

    def cancel(self, msg: Any = None) -> bool:
        """The task gives up waiting; False if it is too late for that."""
        if self._done:
            return False
        self._done = self._cancelled = True
        self._reason = msg
        if self._callback is not None:
            self._loop.call_soon(self._callback, self, context=self._context)
            self._callback = self._context = None
        return True

    def done(self) -> bool:
        """Whether it has ended, or nobody waits for it any more."""
        return self._done

    def result(self) -> None:
        """Nothing, if it has ended.

        Raises:
            CancelledError: the task gave up waiting.
        """
        if self._cancelled:
            raise asyncio.CancelledError(*(() if self._reason is None else (self._reason,)))
