"""The one record that travels through every core, and the numbers of the native protocol.

A `Message` is an event on its way into a core and an action on its way out of it. The fields are
those of docs/protocol.md section 1; what a command does not use keeps its default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias


class LargeBody(Protocol):
    """A large frame that the transport owns: it has a length and the buffer protocol."""

    def __len__(self) -> int: ...

    def __bytes__(self) -> bytes: ...

    def __buffer__(self, flags: int, /) -> memoryview: ...


Body: TypeAlias = bytes | bytearray | memoryview | LargeBody

HELLO = 1
READY = 2
WELCOME = 3
HEARTBEAT = 4
CAPACITY = 5
DRAIN = 6
GOODBYE = 7
REQUEST = 8
PARTIAL = 9
FINAL = 10
ERROR = 11
CANCEL = 12
CREDIT = 13
CHUNK = 14
END = 15

NAMES = {
    HELLO: "HELLO",
    READY: "READY",
    WELCOME: "WELCOME",
    HEARTBEAT: "HEARTBEAT",
    CAPACITY: "CAPACITY",
    DRAIN: "DRAIN",
    GOODBYE: "GOODBYE",
    REQUEST: "REQUEST",
    PARTIAL: "PARTIAL",
    FINAL: "FINAL",
    ERROR: "ERROR",
    CANCEL: "CANCEL",
    CREDIT: "CREDIT",
    CHUNK: "CHUNK",
    END: "END",
}

IDEMPOTENT = 0x01
BATCH = 0x02
MORE = 0x04
STREAM = 0x08
STARTED = 0x10
RAW = 0x20

SYSTEM, HIGH, NORMAL, BULK = range(4)
PRIORITIES = 4

MAX_NAME = 200
MAX_BODY = 64 * 1024 * 1024

NO_FRAMES: tuple[Body, ...] = ()


class Message:
    """One protocol message. Never changed once it has been given away.

    `timeout` is in seconds (0.0 = none stated); `frames` are the body frames: `[body]`,
    `[body, metadata]`, or with RAW any number.
    """

    __slots__ = (
        "code",
        "command",
        "credit",
        "flags",
        "frames",
        "incarnation",
        "method",
        "priority",
        "sequence",
        "service",
        "tag",
        "timeout",
    )

    def __init__(
        self,
        command: int,
        flags: int = 0,
        priority: int = 0,
        code: int = 0,
        tag: int = 0,
        timeout: float = 0.0,
        credit: int = 0,
        incarnation: int = 0,
        sequence: int = 0,
        service: bytes = b"",
        method: bytes = b"",
        frames: Sequence[Body] = NO_FRAMES,
    ) -> None:
        self.command = command
        self.flags = flags
        self.priority = priority
        self.code = code
        self.tag = tag
        self.timeout = timeout
        self.credit = credit
        self.incarnation = incarnation
        self.sequence = sequence
        self.service = service
        self.method = method
        self.frames = frames

    @property
    def body(self) -> Body:
        """The first body frame, empty if there is none."""
        return self.frames[0] if self.frames else b""

    @property
    def size(self) -> int:
        """Octets of all body frames."""
        return sum(map(len, self.frames))

    def replace(self, **changes: Any) -> Message:
        """A copy with some fields changed."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return Message(**{**fields, **changes})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return all(
            getattr(self, name) == getattr(other, name)
            for name in self.__slots__
            if name != "frames"
        ) and [bytes(f) for f in self.frames] == [bytes(f) for f in other.frames]

    def __repr__(self) -> str:
        shown = []
        for name in self.__slots__:
            value = getattr(self, name)
            if name == "frames":
                value = [f"<{len(f)} octets>" if len(f) > 64 else f for f in value]
            if name != "command" and value:
                shown.append(f"{name}={value!r}")
        return f"{NAMES.get(self.command, self.command)}({', '.join(shown)})"


def make(
    command: int,
    flags: int,
    priority: int,
    code: int,
    tag: int,
    timeout: float,
    credit: int,
    incarnation: int,
    sequence: int,
    service: bytes,
    method: bytes,
    frames: Sequence[Body],
) -> Message:
    """`Message` with every field given, for hot paths: a compiled class is slow to `__init__`."""
    message = Message.__new__(Message)
    message.command = command
    message.flags = flags
    message.priority = priority
    message.code = code
    message.tag = tag
    message.timeout = timeout
    message.credit = credit
    message.incarnation = incarnation
    message.sequence = sequence
    message.service = service
    message.method = method
    message.frames = frames
    return message
