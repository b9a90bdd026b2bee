"""Streams of values as handlers see them: `Stream[T]`, and the pace of a generator.

The reader of a stream grants credit and the writer spends it, so neither side holds more than was
asked for. A handler runs in one thread or task; the I/O thread wakes it through the wakers of the
request's `Flow`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

from mesh import errors
from mesh.errors import CallError, ProtocolError
from mesh.protocol import payload
from mesh.protocol.messages import BATCH
from mesh.service.requests import Flow, Request

T = TypeVar("T")

FIRST_WINDOW = 64
MAX_WINDOW = 1024
WINDOW_BYTES = 4 * 1024 * 1024


class Stream(Generic[T]):
    """Values that travel one after the other instead of all at once.

    In the signature of a handler it declares a parameter that receives the caller's iterator; such
    a handler reads it with `for`, or with `async for` if it is async. Around any iterable it marks
    an argument to be sent as a stream, and makes the handler callable without a mesh.
    """

    __mesh_stream__ = True

    def __init__(self, source: Iterable[T] | AsyncIterable[T]) -> None:
        self.source = source

    def __iter__(self) -> Iterator[T]:
        if not isinstance(self.source, Iterable):
            raise TypeError("this stream is asynchronous: read it with `async for`")
        return iter(self.source)

    def __aiter__(self) -> AsyncIterator[T]:
        return _aiter(self.source)


async def _aiter(source: Any) -> AsyncIterator[Any]:
    if isinstance(source, AsyncIterable):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item


class Incoming(Stream[Any]):
    """The stream that a caller sends with its request.

    Reading it grants credit: a first window, which then doubles as long as the reader empties it
    faster than it fills, up to MAX_WINDOW items or about WINDOW_BYTES octets.

    Raises while being read:
        CallError: the caller's iterator raised, or the call was cancelled.
    """

    def __init__(self, request: Request, grant: Callable[[Request, int], None]) -> None:
        super().__init__(())
        if request.flow is None:
            raise ValueError("the request carries no stream")
        self._request = request
        self._flow: Flow = request.flow
        self._grant = grant
        self._items: deque[Any] = deque()
        self._window = FIRST_WINDOW
        self._unread = FIRST_WINDOW
        # False while it goes on, None when it has ended well.
        self._ended: CallError | bool | None = False
        grant(request, FIRST_WINDOW)

    def __iter__(self) -> Iterator[Any]:
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            raise TypeError("read this stream with `async for`: waiting here would block the loop")
        return self

    def __next__(self) -> Any:
        while not self._ready():
            event = threading.Event()
            self._flow.chunk_waker = event.set
            if not self._ready():
                event.wait()
            self._flow.chunk_waker = None
        if not self._items:
            raise StopIteration
        return self._pop()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while not self._ready():
            event = asyncio.Event()
            self._flow.chunk_waker = _waker(event)
            if not self._ready():
                await event.wait()
            self._flow.chunk_waker = None
        if not self._items:
            raise StopAsyncIteration
        return self._pop()

    def _ready(self) -> bool:
        """Whether there is an item to read, or the stream has ended well.

        Raises:
            CallError: it ended badly, and every item before that has been read.
        """
        if self._items:
            return True
        if self._request.cancel_code:
            raise errors.from_wire(
                self._request.cancel_code, {"message": "the call was cancelled"}, started=True
            )
        inbox = self._flow.inbox
        while inbox and not self._items and self._ended is False:
            credit, flags, body = inbox.popleft()
            if credit:
                self._take(credit, flags, body)
            else:
                self._ended = _end_error(flags, body)
        if self._items or self._ended is None:
            return True
        if self._ended is not False:
            raise self._ended  # type: ignore[misc]
        return False

    def _take(self, credit: int, flags: int, body: Any) -> None:
        try:
            items = payload.decode(body)
        except ProtocolError as error:
            self._ended = errors.InvalidArgument(f"an item of the stream: {error}")
            return
        if not flags & BATCH:
            self._items.append(items)
        elif isinstance(items, list) and len(items) == credit:
            self._items.extend(items)
        else:
            self._ended = errors.InvalidArgument("a chunk of the stream does not hold its items")
            return
        if self._flow.inbox or self._window >= MAX_WINDOW:
            return
        # The reader has caught up with the writer: let more be on its way.
        if 2 * self._window * len(body) // credit <= WINDOW_BYTES:
            self._unread += self._window
            self._grant(self._request, self._window)
            self._window *= 2

    def _pop(self) -> Any:
        self._unread -= 1
        if self._unread <= self._window // 2 and self._ended is False:
            missing = self._window - self._unread
            self._unread += missing
            self._grant(self._request, missing)
        return self._items.popleft()


def _end_error(code: int, body: Any) -> CallError | None:
    """What the reader of a stream sees at its END: None if it ended well."""
    if not code:
        return None
    try:
        fields = payload.decode_map(body)
    except ProtocolError:
        fields = {}
    if code == errors.REMOTE_ERROR:
        fields = {"message": "the caller's iterator raised", **fields}
    return errors.from_wire(code, fields, started=True)


def _waker(event: asyncio.Event) -> Callable[[], None]:
    """Sets `event` on the running loop, from any thread."""
    loop = asyncio.get_running_loop()

    def wake() -> None:
        # A loop that has ended has nobody who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(event.set)

    return wake


class Pace:
    """Counts the items that a handler has produced, and lets it wait until more are wanted."""

    __slots__ = ("_flow", "_request", "produced")

    def __init__(self, request: Request) -> None:
        if request.flow is None:
            raise ValueError("the request carries no stream")
        self._request = request
        self._flow: Flow = request.flow
        self.produced = 0

    def open(self) -> bool:
        """Whether the reader wants a further item now."""
        return self.produced < self._flow.granted

    def _over(self) -> bool:
        return self.open() or self._request.cancel_code != 0

    def wait(self) -> None:
        """Block until the reader wants an item, or the call is cancelled."""
        while not self._over():
            event = threading.Event()
            self._flow.credit_waker = event.set
            if not self._over():
                event.wait()
            self._flow.credit_waker = None

    async def wait_async(self) -> None:
        """Like `wait`, for a task."""
        while not self._over():
            event = asyncio.Event()
            self._flow.credit_waker = _waker(event)
            if not self._over():
                await event.wait()
            self._flow.credit_waker = None
