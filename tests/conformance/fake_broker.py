"""A broker that says exactly what a test wants it to say."""

from __future__ import annotations

import time
from typing import Any, Self

import zmq

from mesh.protocol import native, payload
from mesh.protocol.messages import HEARTBEAT, HELLO, READY, REQUEST, WELCOME, Message
from tests.conformance.raw import PATIENCE, Frames

SLOW = 10.0
"""An interval of heartbeats at which silence does not matter during a test."""


class FakeBroker:
    """A bare ROUTER. It answers HELLO and READY with WELCOME, and says nothing else by itself."""

    def __init__(self, *, heartbeat: float = SLOW, endpoint: str = "") -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.router_mandatory = True
        if endpoint:
            self._bind_again(endpoint)
        else:
            endpoint = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"
        self.endpoint = endpoint
        self.heartbeat = heartbeat
        self.greeted: list[tuple[bytes, Message]] = []
        self.beats = 0

    def _bind_again(self, endpoint: str) -> None:
        """Listen where another socket of this process has just been closed.

        libzmq lets go of the port in a thread of its own, some time after the close.
        """
        give_up_at = time.monotonic() + 5.0
        while True:
            try:
                self.socket.bind(endpoint)
                return
            except zmq.ZMQError as error:
                if error.errno != zmq.EADDRINUSE or time.monotonic() > give_up_at:
                    raise
            self.socket.poll(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send_frames(self, peer: bytes, *frames: bytes) -> None:
        self.socket.send_multipart([peer, *frames])

    def send(self, peer: bytes, command: int, flags: int = 0, **fields: Any) -> None:
        self.send_frames(peer, *native.encode(Message(command, flags, **fields)))  # type: ignore[arg-type]

    def answer(
        self, peer: bytes, request: Message, command: int, flags: int = 0, **fields: Any
    ) -> None:
        """Send something about `request` to the client that made it."""
        self.send(
            peer,
            command,
            flags,
            incarnation=request.incarnation,
            sequence=request.sequence,
            **fields,
        )

    def receive(self, timeout: float = PATIENCE) -> tuple[bytes, Message]:
        """The next message that is neither HELLO nor READY nor HEARTBEAT."""
        give_up_at = time.monotonic() + timeout
        while True:
            found = self._next(give_up_at)
            if found is not None:
                return found

    def take(self, command: int, timeout: float = PATIENCE) -> tuple[bytes, Message]:
        peer, message = self.receive(timeout)
        assert message.command == command, f"unexpected: {message}"
        return peer, message

    def request(self, timeout: float = PATIENCE) -> tuple[bytes, Message]:
        return self.take(REQUEST, timeout)

    def registered(self, count: int = 1, timeout: float = PATIENCE) -> tuple[bytes, Message]:
        """The `count`-th peer that has introduced itself, and how."""
        give_up_at = time.monotonic() + timeout
        while len(self.greeted) < count:
            found = self._next(give_up_at)
            assert found is None, f"unexpected: {found}"
        return self.greeted[count - 1]

    def expect_nothing(self, duration: float = 0.15) -> None:
        ends_at = time.monotonic() + duration
        while self.socket.poll(max(0, int((ends_at - time.monotonic()) * 1000))):
            found = self._next(ends_at)
            assert found is None, f"unexpected: {found}"

    def _next(self, give_up_at: float) -> tuple[bytes, Message] | None:
        left = max(0.0, give_up_at - time.monotonic())
        assert self.socket.poll(int(left * 1000)), "nothing came in time"
        peer, *frames = self._receive_frames()
        message = native.decode(frames)
        if message.command in (HELLO, READY):
            self.greeted.append((peer, message))
            welcome = {
                "capabilities": 0,
                "heartbeat": self.heartbeat,
                "broker": "fake",
                "max_body": 1 << 26,
                "brokers": 0,
            }
            self.send(peer, WELCOME, frames=[payload.encode(welcome)])
            return None
        if message.command == HEARTBEAT:
            self.beats += 1
            return None
        return peer, message

    def _receive_frames(self) -> Frames:
        return self.socket.recv_multipart()


GARBAGE: list[Frames] = [
    [b""],
    [b"junk"],
    [b"", b"MDPC01", b"echo", b"x"],
    [b"MDPW02", b"\x05"],
    [b"\xe5"],
    [b"\xe5\x02" + bytes(38)],
    [b"\xe5\x01\x00" + bytes(37)],
    [b"\xe5\x01\x10" + bytes(37)],
    [b"\xe5\x01\x1f" + bytes(37)],
    [b"\xe5\x01\xff" + bytes(37)],
    [b"\xe5\x01\x0a\x00\x00\x00\x05" + bytes(33)],
    [b"\xe5\x01\x0a" + bytes(37), b"1", b"2", b"3"],
    [b"\xe5\x01\x0a" + bytes(37) + b"x" * 100_000],
    [b"\xe5\x01\x0a" + bytes(37), b"x" * 100_000],
    [b"x"] * 1500,
]
"""What no broker sends, as frames after the routing id."""
