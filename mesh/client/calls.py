"""The records of the client core: calls, and the two directions of their streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.errors import CallError
from mesh.protocol.messages import MAX_BODY, NO_FRAMES, Body, Message
from mesh.resilience.breaker import Breaker, BreakerSettings

UNSENT, SENT, PAUSED, ENDED = range(4)

FIRST_WINDOW = 64
MAX_WINDOW = 1024
WINDOW_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class ClientSettings:
    """What a client may be tuned by. Durations in seconds, sizes in octets."""

    name: str = ""
    timeout: float = 30.0
    max_timeout: float = 300.0
    retries: int = 3
    heartbeat: float = 0.5
    lost_beats: int = 10
    connect_timeout: float = 5.0
    max_calls: int = 100_000
    max_bytes: int = 512 * 1024 * 1024
    max_body: int = MAX_BODY
    retry_ratio: float = 0.1
    retry_rate: float = 1.0
    retry_factor: float = 2.0
    breaker: BreakerSettings = field(default_factory=BreakerSettings)


class Target:
    """What the client remembers of a service: its breaker, and which methods are idempotent."""

    __slots__ = ("breaker", "idempotent", "incarnation", "name")

    def __init__(self, name: bytes, incarnation: int, breaker: Breaker) -> None:
        self.name = name
        self.incarnation = incarnation
        self.breaker = breaker
        self.idempotent: set[bytes] = set()


class Reader:
    """Items on their way to the caller. `inbox` holds the PARTIALs that it has not yet taken.

    `window` items may be on their way or unread. The shell reports what was read, with
    `ClientCore.taken`, whenever it has added up to `step` items. `unread` counts granted items that
    were not yet reported, `unseen` those that have not yet arrived.
    """

    __slots__ = ("fixed", "inbox", "item_size", "step", "unread", "unseen", "window")

    def __init__(self, window: int, fixed: bool) -> None:
        self.inbox: deque[Message] = deque()
        self.window = self.unread = self.unseen = window
        self.fixed = fixed
        self.item_size = 0.0
        self.step = 1
        self._settle()

    def arrived(self, message: Message) -> bool:
        """Take in a PARTIAL; False if it is more than was granted."""
        items = message.credit or 1
        self.unseen -= items
        if self.unseen < 0:
            return False
        self.inbox.append(message)
        self.item_size += 0.25 * (message.size / items - self.item_size)
        return True

    def taken(self, items: int) -> int:
        """The caller has read `items` more; how many to grant now."""
        self.unread -= items
        if self.unread > self.window // 2:
            return 0
        if not self.fixed:
            fitting = WINDOW_BYTES / max(1.0, self.item_size)
            # An empty inbox says that the reader waits for the writer: let more be on its way.
            wanted = self.window if self.inbox else 2 * self.window
            self.window = max(1, int(min(wanted, MAX_WINDOW, fitting)))
            self._settle()
        more = self.window - self.unread
        if more <= 0:
            return 0
        self.unread += more
        self.unseen += more
        return more

    def _settle(self) -> None:
        self.step = max(1, self.window // 4)


class Writer:
    """Items on their way to the worker: `granted` by it, `sent` so far."""

    __slots__ = ("ended", "granted", "sent")

    def __init__(self) -> None:
        self.granted = 0
        self.sent = 0
        self.ended = False

    @property
    def room(self) -> int:
        """How many items may be sent now."""
        return 0 if self.ended else self.granted - self.sent


class Call:
    """One call, from the moment it is made to its end. `handle` belongs to the shell.

    When `state` is ENDED, either `error` is set or `reply` is the FINAL. `link` is the number of
    the link that has it while it is SENT, otherwise the one that had it last (0: none).
    `retry_code` is that of the error for which it is made again, 0 at first.
    `maybe_executed` says that an earlier try may have run; `touched`, that a part of its stream has
    been seen, so that it cannot begin anew.
    """

    __slots__ = (
        "attempts",
        "credit",
        "error",
        "expires_at",
        "flags",
        "frames",
        "handle",
        "idempotent",
        "last_error",
        "link",
        "maybe_executed",
        "method",
        "priority",
        "reader",
        "reply",
        "retries",
        "retry_at",
        "retry_code",
        "sent_at",
        "sequence",
        "size",
        "state",
        "target",
        "ticket",
        "touched",
        "writer",
    )

    attempts: int
    credit: int
    error: CallError | None
    expires_at: float
    flags: int
    frames: Sequence[Body]
    handle: Any
    idempotent: bool | None
    last_error: CallError | None
    link: int
    maybe_executed: bool
    method: bytes
    priority: int
    reader: Reader | None
    reply: Message | None
    retries: int
    retry_at: float
    retry_code: int
    sent_at: float
    sequence: int
    size: int
    state: int
    target: Target
    ticket: int
    touched: bool
    writer: Writer | None

    @property
    def repeatable(self) -> bool:
        """Whether it may be handed over once more after it may have run."""
        if self.touched:
            return False
        if self.idempotent is None:
            return self.method in self.target.idempotent
        return self.idempotent

    def identity(self) -> dict[str, Any]:
        """The fields by which an error names its call."""
        return {
            "service": self.target.name.decode("utf-8", "replace"),
            "method": self.method.decode("utf-8", "replace"),
            "request_id": f"{self.target.incarnation:016x}-{self.sequence}",
            "idempotent": self.repeatable,
        }

    def forget_body(self) -> None:
        """It will not be sent again."""
        self.frames = NO_FRAMES


def open_call(
    sequence: int,
    target: Target,
    method: bytes,
    frames: Sequence[Body],
    size: int,
    flags: int,
    priority: int,
    expires_at: float,
    retries: int,
    idempotent: bool | None,
    ticket: int,
) -> Call:
    """A call that is not with any link yet."""
    call = Call.__new__(Call)
    call.sequence = sequence
    call.target = target
    call.method = method
    call.frames = frames
    call.size = size
    call.flags = flags
    call.priority = priority
    call.expires_at = expires_at
    call.retries = retries
    call.idempotent = idempotent
    call.ticket = ticket
    call.state = UNSENT
    call.link = 0
    call.credit = 0
    call.attempts = 0
    call.retry_at = 0.0
    call.retry_code = 0
    call.sent_at = 0.0
    call.touched = False
    call.maybe_executed = False
    call.reader = None
    call.writer = None
    call.reply = None
    call.error = None
    call.last_error = None
    call.handle = None
    return call
