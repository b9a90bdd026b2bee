"""Codec of the Majordomo protocols: MDP/0.1, MDP/0.2 and the 0.2 dialect of `majortomo`.

A `Form` is what one kind of peer, a client or a worker of one dialect, sends and understands. It
turns that peer's frames into the messages of the native protocol and back (docs/protocol.md
section 10). `decode` raises ProtocolError and nothing else, whatever the frames are; `encode`
returns None for a message that the dialect cannot express. Which message may come when is the
router's business.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.errors import ProtocolError
from mesh.protocol import payload
from mesh.protocol.messages import (
    FINAL,
    GOODBYE,
    HEARTBEAT,
    IDEMPOTENT,
    MAX_NAME,
    MORE,
    NORMAL,
    PARTIAL,
    RAW,
    READY,
    REQUEST,
    Body,
    Message,
)
from mesh.protocol.native import MAX_FRAMES, PREFIX

NATIVE, MDP01, MDP02, LEGACY02 = range(4)

CLIENT = "client"
WORKER = "worker"

EMPTY = b""
ADDRESS_SIZE = 8
_ADDRESS_GAP = 2
_READY = b"\x01"
_REQUEST = b"\x02"
_ONE_LANE = payload.encode({"lanes": {"": 1}})


class ClientForm:
    """A client of one dialect: it sends REQUEST and takes FINAL, and PARTIAL if it knows that.

    Each `*_head` is the frames up to where the service name, or else the body, begins.
    """

    __slots__ = ("dialect", "final_head", "names_service", "partial_head", "request_head")
    role = CLIENT

    def __init__(
        self,
        dialect: int,
        request_head: tuple[bytes, ...],
        partial_head: tuple[bytes, ...] | None,
        final_head: tuple[bytes, ...],
        *,
        names_service: bool = True,
    ) -> None:
        self.dialect = dialect
        self.request_head = request_head
        self.partial_head = partial_head
        self.final_head = final_head
        self.names_service = names_service

    def decode(self, frames: Sequence[Body], start: int = 0) -> Message:
        """The REQUEST in `frames[start:]`: idempotent and RAW, without id and time limit.

        Raises:
            ProtocolError: it is anything else.
        """
        for expected in self.request_head:
            if start >= len(frames) or frames[start] != expected:
                raise ProtocolError("not a REQUEST of an MDP client")
            start += 1
        service = _name(frames, start)
        return Message(
            REQUEST,
            IDEMPOTENT | RAW,
            NORMAL,
            service=service,
            frames=_body(frames, start + 1),
        )

    def encode(self, message: Message) -> list[Body] | None:
        """Frames of a FINAL or PARTIAL, whose `service` must be filled in; None for all others."""
        if message.command == FINAL:
            head: tuple[bytes, ...] | None = self.final_head
        elif message.command == PARTIAL:
            head = self.partial_head
        else:
            head = None
        if head is None:
            return None
        if self.names_service:
            return [*head, message.service, *_opaque(message)]
        return [*head, *_opaque(message)]


class WorkerForm:
    """A worker of one dialect. Each of its messages is `head`, one octet of command, the rest.

    `replies` maps the octet of a reply to PARTIAL or FINAL.
    """

    __slots__ = ("dialect", "disconnect", "head", "heartbeat", "replies")
    role = WORKER

    def __init__(
        self,
        dialect: int,
        head: tuple[bytes, ...],
        replies: dict[bytes, int],
        heartbeat: bytes,
        disconnect: bytes,
    ) -> None:
        self.dialect = dialect
        self.head = head
        self.replies = replies
        self.heartbeat = heartbeat
        self.disconnect = disconnect

    def decode(self, frames: Sequence[Body], start: int = 0) -> Message:
        """The worker's message in `frames[start:]`.

        A reply to an address that is not one of the broker's tags becomes a reply with tag 0, which
        is never open. A REQUEST, which only brokers send, becomes such a reply too: both are well
        formed, so the router has to answer them as unexpected.

        Raises:
            ProtocolError: it is not a message of such a worker.
        """
        for expected in self.head:
            if start >= len(frames) or frames[start] != expected:
                raise ProtocolError("not a message of an MDP worker")
            start += 1
        command = frames[start] if start < len(frames) else None
        if type(command) is not bytes:
            raise ProtocolError("no MDP command")
        start += 1
        reply = FINAL if command == _REQUEST else self.replies.get(command)
        if reply is not None:
            body = _body(frames, start + _ADDRESS_GAP)
            if frames[start + 1] != EMPTY:
                raise ProtocolError("no empty frame after the client address")
            tag = 0 if command == _REQUEST else _tag(frames[start])
            return Message(reply, RAW, tag=tag, credit=int(reply == PARTIAL), frames=body)
        if command == _READY:
            message = Message(READY, service=_name(frames, start), frames=(_ONE_LANE,))
            start += 1
        elif command == self.heartbeat:
            message = Message(HEARTBEAT)
        elif command == self.disconnect:
            message = Message(GOODBYE)
        else:
            raise ProtocolError("unknown command of an MDP worker")
        if len(frames) != start:
            raise ProtocolError("surplus frames")
        return message

    def encode(self, message: Message) -> list[Body] | None:
        """Frames of a REQUEST, HEARTBEAT or GOODBYE; None for all others.

        A request that streams from its client has no form either: a worker of MDP gets its whole
        request at once.
        """
        command = message.command
        if command == REQUEST:
            if message.flags & MORE:
                return None
            address = message.tag.to_bytes(ADDRESS_SIZE, "big")
            return [*self.head, _REQUEST, address, EMPTY, *_opaque(message)]
        if command == HEARTBEAT:
            return [*self.head, self.heartbeat]
        if command == GOODBYE:
            return [*self.head, self.disconnect]
        return None


Form = ClientForm | WorkerForm

_C01, _W01, _C02, _W02 = b"MDPC01", b"MDPW01", b"MDPC02", b"MDPW02"
_REPLIES_02 = {b"\x03": PARTIAL, b"\x04": FINAL}

FORMS: dict[tuple[int, str], Form] = {
    (form.dialect, form.role): form
    for form in (
        ClientForm(MDP01, (EMPTY, _C01), None, (EMPTY, _C01)),
        ClientForm(MDP02, (_C02, b"\x01"), (_C02, b"\x02"), (_C02, b"\x03")),
        ClientForm(
            LEGACY02,
            (EMPTY, _C02, b"\x02"),
            (EMPTY, _C02, b"\x03"),
            (EMPTY, _C02, b"\x04"),
            names_service=False,
        ),
        WorkerForm(MDP01, (EMPTY, _W01), {b"\x03": FINAL}, b"\x04", b"\x05"),
        WorkerForm(MDP02, (_W02,), _REPLIES_02, b"\x05", b"\x06"),
        WorkerForm(LEGACY02, (EMPTY, _W02), _REPLIES_02, b"\x05", b"\x06"),
    )
}

_FIRST = {_C02: FORMS[MDP02, CLIENT], _W02: FORMS[MDP02, WORKER]}
_AFTER_EMPTY = {
    _C01: FORMS[MDP01, CLIENT],
    _W01: FORMS[MDP01, WORKER],
    _C02: FORMS[LEGACY02, CLIENT],
    _W02: FORMS[LEGACY02, WORKER],
}


def form_of(frames: Sequence[Body], start: int = 0) -> Form | None:
    """The kind of MDP peer that sent `frames[start:]`; None if it does not speak MDP."""
    forms = _FIRST
    if start < len(frames) and frames[start] == EMPTY:
        forms = _AFTER_EMPTY
        start += 1
    header = frames[start] if start < len(frames) else None
    return forms.get(header) if type(header) is bytes else None


def dialect_of(frames: Sequence[Body], start: int = 0) -> int | None:
    """NATIVE, MDP01, MDP02 or LEGACY02, by the first frames from `start`; None if they are invalid.

    Says nothing about the rest of the message.
    """
    form = form_of(frames, start)
    if form is not None:
        return form.dialect
    header = frames[start] if start < len(frames) else None
    return NATIVE if type(header) is bytes and header.startswith(PREFIX) else None


def _name(frames: Sequence[Body], index: int) -> bytes:
    name = frames[index] if index < len(frames) else None
    if type(name) is not bytes or not 0 < len(name) <= MAX_NAME:
        raise ProtocolError(f"no service name of 1 to {MAX_NAME} octets")
    return name


def _body(frames: Sequence[Body], start: int) -> Sequence[Body]:
    """The frames from `start`: there may be none, but what comes before them must be there."""
    if not start <= len(frames) <= start + MAX_FRAMES:
        raise ProtocolError(f"{len(frames) - start} body frames")
    return frames[start:]


def _tag(address: Body) -> int:
    """The tag that was given to the worker as the client's address; 0 if it is not one."""
    if type(address) is not bytes or len(address) != ADDRESS_SIZE:
        return 0
    return int.from_bytes(address, "big")


def _opaque(message: Message) -> Sequence[Body]:
    """The body as MDP peers see it: without the metadata frame of a native message."""
    return message.frames if message.flags & RAW else message.frames[:1]
