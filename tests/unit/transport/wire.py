"""What the transport tests share: waiting for messages, and a peer that speaks ZMTP by hand."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from mesh.transport import Body, Pump


def collect(pump: Pump, count: int, *, timeout: float = 10.0) -> list[list[Body]]:
    """Receive `count` messages, or fail after `timeout` seconds."""
    messages: list[list[Body]] = []
    ends_at = time.monotonic() + timeout
    while len(messages) < count:
        messages += pump.receive(count - len(messages))
        if len(messages) < count:
            left = ends_at - time.monotonic()
            assert left > 0, f"{len(messages)} of {count} messages in {timeout} s"
            pump.wait(left)
    return messages


def plain(messages: list[list[Body]]) -> list[list[bytes]]:
    """The messages with every frame as bytes."""
    return [[bytes(frame) for frame in frames] for frames in messages]


def until(done: Callable[[], bool], step: Callable[[], object], *, timeout: float = 10.0) -> None:
    """Repeat `step`, which waits by itself, until `done`; fail after `timeout` seconds."""
    ends_at = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < ends_at, f"not done in {timeout} s"
        step()


class RawPeer:
    """A TCP connection that speaks ZMTP 3.0 (NULL security, as a DEALER) byte by byte."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0"
        self.socket.sendall(greeting.ljust(64, b"\0"))
        self._read(64)
        body = b"\x05READY" + b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
        self.socket.sendall(b"\x04" + bytes([len(body)]) + body)
        self._read(self._read(2)[1])

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self.socket.recv(size - len(data)) or self._ended()
        return data

    def _ended(self) -> bytes:
        raise ConnectionError("the other side closed the connection")

    def send_frame(self, body: bytes, *, more: bool) -> None:
        """Send one frame in the long form."""
        self.send_head(len(body), more=more)
        self.socket.sendall(body)

    def send_head(self, size: int, *, more: bool) -> None:
        """Announce a frame of `size` bytes."""
        self.socket.sendall(bytes([2 | more]) + size.to_bytes(8, "big"))

    def close(self) -> None:
        self.socket.close()
