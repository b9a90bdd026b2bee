"""The records of a worker's session: a lane, a method, a request and its streams.

They hold facts; the rules are in `session`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mesh import errors
from mesh.context import Call
from mesh.protocol.messages import BATCH, MORE, RAW, STREAM, Body, Message
from mesh.service.links import Link


class MethodFacts(Protocol):
    """What the core needs to know of a method; the declaration has it."""

    @property
    def service(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def lane(self) -> str: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def concurrency(self) -> int | None: ...
    @property
    def stream(self) -> bool: ...
    @property
    def takes_stream(self) -> bool: ...
    def facts(self) -> dict[str, Any]: ...


class Lane:
    """How many requests this worker wants to have in hand there, over all brokers.

    `epoch` is that of the claim to a lane which only one worker may serve; 0 without one.
    """

    __slots__ = ("capacity", "epoch", "in_hand", "name")

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        self.epoch = 0
        self.in_hand = 0


class Entry:
    """A method in this session. `waiting` are requests that its own limit holds back.

    `streams` says that at least one direction is a stream.
    """

    __slots__ = ("lane", "limit", "method", "running", "streams", "timeout", "timers", "waiting")

    def __init__(self, method: MethodFacts, lane: Lane) -> None:
        self.method = method
        self.lane = lane
        self.limit = method.concurrency or 0
        self.running = 0
        self.streams = method.stream or method.takes_stream
        self.timeout = method.timeout
        self.waiting: deque[Request] = deque()
        self.timers: OrderedDict[Request, float] | None = (
            OrderedDict() if method.timeout is not None else None
        )


class Flow:
    """Both directions of a request's streams. `granted` and `inbox` are read by other threads.

    Items out: `granted` by the caller, `sent`. Items in: `allowed` by the handler, `arrived`.
    `inbox` holds `(credit, flags, body)` of each CHUNK, and `(0, code, body)` for the END. A waker,
    when set, is called after the fact it waits for has changed.
    """

    __slots__ = (
        "allowed",
        "arrived",
        "chunk_waker",
        "credit_waker",
        "granted",
        "inbox",
        "sent",
    )

    def __init__(self, granted: int) -> None:
        self.granted = granted
        self.sent = 0
        self.allowed = 0
        self.arrived = 0
        self.inbox: deque[tuple[int, int, Body]] = deque()
        self.credit_waker: Callable[[], None] | None = None
        self.chunk_waker: Callable[[], None] | None = None


class Request(Call):
    """A request in hand, from its arrival to its answer. `handle` belongs to whoever runs it."""

    __slots__ = ("done", "entry", "flags", "flow", "frames", "handle", "link", "tag")

    done: bool
    entry: Entry
    flags: int
    flow: Flow | None
    frames: Sequence[Body]
    handle: Any
    link: Link | None
    tag: int

    def refusal(self, now: float) -> int:
        """0 if the work may begin at `now`, else the code of the error to answer instead."""
        if self.cancel_code:
            return self.cancel_code
        return errors.DEADLINE_EXCEEDED if self.deadline <= now else 0


def accept(message: Message, link: Link, entry: Entry, deadline: float) -> Request:
    """The request that `message` brought over `link`."""
    request = Request.__new__(Request)
    flags = message.flags
    frames = message.frames
    request.target = entry.method
    request.deadline = deadline
    request.incarnation = message.incarnation
    request.sequence = message.sequence
    request.cancel_code = 0
    request.flags = flags
    request.frames = frames
    request.metadata_body = frames[1] if len(frames) == 2 and not flags & RAW else b""
    request.tag = message.tag
    request.link = link
    request.entry = entry
    request.flow = None
    request.handle = None
    request.done = False
    return request


def packed_array(items: Sequence[bytes]) -> bytes:
    """The MessagePack array of `items`, each of which is packed already; at most 65,535."""
    count = len(items)
    header = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return header + b"".join(items)


def stream_mismatch(method: MethodFacts, flags: int) -> str:
    """Why the streams that the caller has in mind are not those of `method`; empty if they are."""
    if flags & BATCH:
        return "a call with a stream cannot be part of a batch"
    if flags & RAW:
        return "it takes a stream, which MDP cannot carry" if method.takes_stream else ""
    if method.stream and not flags & STREAM:
        return "its result is a stream: ask for it with stream(), not call()"
    if flags & STREAM and not method.stream:
        return "its result is not a stream: ask for it with call(), not stream()"
    if method.takes_stream and not flags & MORE:
        return "it takes a stream: give an iterator or generator as argument"
    if flags & MORE and not method.takes_stream:
        return (
            "it does not take a stream: give a list instead of an iterator or generator, or let "
            "the handler's parameter be a Stream"
        )
    return ""
