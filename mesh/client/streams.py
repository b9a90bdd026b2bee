"""The items of streams: those that arrive, unpacked one by one, and those that leave, packed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from mesh.client import base
from mesh.client.calls import ENDED, Call
from mesh.protocol import payload
from mesh.protocol.messages import BATCH

MAX_GROUP = 256
GROUP_BYTES = 64 * 1024
# Iterators that always have the next item at hand.
_AT_HAND: Sequence[Iterable[Any]] = ([], (), range(0), range(1 << 65), "", b"", {}, set())
_PROMPT_SOURCES = frozenset(type(iter(kind)) for kind in _AT_HAND)


class Nothing:
    """What `Inflow.get` returns when there is nothing to read yet."""


NOTHING: Final = Nothing()


class Inflow:
    """The items of a stream in order, unpacked. `read` counts what has not yet been reported."""

    __slots__ = ("call", "ready", "unreported")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.ready: deque[Any] = deque()
        self.unreported = 0

    def get(self) -> Any:
        """The next item, or NOTHING if it has not arrived.

        Raises:
            StopIteration: the stream has ended well.
            CallError: it has failed.
        """
        ready = self.ready
        if not ready and not self._fill():
            return NOTHING
        self.unreported += 1
        return ready.popleft()

    def _fill(self) -> bool:
        call = self.call
        reader = call.reader
        if reader is None:
            raise StopIteration
        # The state is read first: what is in the inbox after the end has been seen is all there is.
        ended = call.state == ENDED
        if reader.inbox:
            message = reader.inbox.popleft()
            items = base.value_of(call, message)
            if not message.flags & BATCH:
                self.ready.append(items)
            elif isinstance(items, list) and len(items) == (message.credit or 1):
                self.ready.extend(items)
            else:
                raise base.unreadable(call, "a part of the stream does not hold its items")
            return True
        if not ended:
            return False
        reply, call.reply = call.reply, None
        value = base.result(call) if reply is None else base.value_of(call, reply)
        if value is None:
            raise StopIteration
        self.ready.append(value)  # a method that is no stream: its value is the only item
        return True

    def due(self) -> int:
        """How many items are to be reported as read now; 0 if it can wait."""
        reader = self.call.reader
        read = self.unreported
        if reader is None or read < reader.step:
            return 0
        self.unreported = 0
        return read


class Outflow:
    """The caller's stream on its way out: how many of its items may share a message.

    No item may wait for the next one, on which its source could block for ever: the other side may
    be expected to answer first. So only where the source is known not to block are items collected.
    """

    __slots__ = ("item_size", "prompt", "source")

    def __init__(self, source: Any) -> None:
        self.source = source
        self.prompt = type(source) in _PROMPT_SOURCES
        self.item_size = 0.0

    def allowance(self, room: int) -> int:
        """How many items a message may hold, where `room` is the credit that is left."""
        fitting = int(GROUP_BYTES / self.item_size) if self.item_size else 1
        return max(1, min(room, fitting, MAX_GROUP))

    def pack(self, items: list[Any]) -> tuple[bytes, int]:
        """Body and flags of a CHUNK with `items`.

        Raises:
            InvalidArgument: an item cannot be sent.
        """
        if len(items) == 1:
            body, flags = payload.encode(items[0], root="item"), 0
        else:
            body, flags = payload.encode(items, root="items"), BATCH
        self.item_size += 0.5 * (len(body) / len(items) - self.item_size)
        return body, flags
