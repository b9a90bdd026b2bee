"""The beginning of a ZMTP 3 connection without security: rfc.zeromq.org/spec/37, NULL."""

from __future__ import annotations

import struct
from collections.abc import Collection

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
MAX_COMMAND = 4096
NO_ZMTP = "the other side does not speak ZMTP as we do"

_COMMAND, _LONG = 4, 2


class Handshake:
    """One side of the handshake; knows no sockets.

    `hello` is to be sent first. What the other side sends goes to `receive`, until `done` or
    `failed` (which says why). Then `rest` is what came after the handshake.
    """

    def __init__(self, own: bytes, others: Collection[bytes]) -> None:
        """`own` is our type of socket, `others` are those that we talk to."""
        self.hello = GREETING + _ready(own)
        self.done = False
        self.failed = ""
        self.rest = b""
        self._others = others

    def receive(self, data: bytes) -> None:
        """Take in what the other side sent next."""
        self.rest += data
        if not self.done and not self.failed:
            self._read()

    def _read(self) -> None:
        data = self.rest
        wrong_start = data[:1] not in (b"", b"\xff") or data[9:10] not in (b"", b"\x7f")
        if wrong_start or data[10:11] not in (b"", b"\x03"):
            self.failed = NO_ZMTP
            return
        if len(data) >= 32 and data[12:32].rstrip(b"\0") != b"NULL":
            self.failed = "the other side wants another security mechanism than NULL"
            return
        if len(data) < 66:
            return
        start, size = 66, data[65]
        if data[64] == _COMMAND | _LONG:
            if len(data) < 73:
                return
            start, size = 73, int.from_bytes(data[65:73], "big")
        elif data[64] != _COMMAND:
            self.failed = NO_ZMTP
            return
        if size > MAX_COMMAND:
            self.failed = NO_ZMTP
            return
        if len(data) < start + size:
            return
        self.rest = data[start + size :]
        self._obey(data[start : start + size])

    def _obey(self, command: bytes) -> None:
        if command.startswith(b"\x05ERROR"):
            self.failed = f"the other side refused: {command[7:].decode('ascii', 'replace')}"
        elif not command.startswith(b"\x05READY"):
            self.failed = NO_ZMTP
        else:
            try:
                other = _properties(command[6:]).get(b"socket-type", b"")
            except ValueError:
                self.failed = NO_ZMTP
                return
            if other in self._others:
                self.done = True
            else:
                self.failed = f"the other side is a {other.decode('ascii', 'replace') or 'nothing'}"


def _ready(own: bytes) -> bytes:
    properties = ((b"Socket-Type", own), (b"Identity", b""))
    command = b"\x05READY" + b"".join(
        bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
        for name, value in properties
    )
    return bytes([_COMMAND, len(command)]) + command


def _properties(data: bytes) -> dict[bytes, bytes]:
    """Raises ValueError if they are cut off."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        name = data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
        size = int.from_bytes(data[at : at + 4], "big")
        at += 4
        if at + size > len(data):
            raise ValueError("a property is cut off")
        found[name.lower()] = data[at : at + size]
        at += size
    return found
