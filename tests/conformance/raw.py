"""Peers that speak raw frames, so that a test sees what is really on the wire.

The frames of MDP are written out here by hand: a mistake in the codec cannot hide itself.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import zmq

from mesh.protocol import native, payload
from mesh.protocol.messages import (
    FINAL,
    HEARTBEAT,
    HELLO,
    READY,
    REQUEST,
    WELCOME,
    Message,
)
from tests.support import Child

Frames = list[bytes]

PATIENCE = 5.0
QUIET = 0.15
"""Seconds after which a peer that has said nothing is taken to have nothing to say."""

INCARNATION = 0xABCDEF
TIMEOUT = 30.0


class Peer:
    """One socket connected to a broker; every connection is a new peer."""

    kind = zmq.DEALER

    def __init__(self, endpoint: str) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(self.kind)
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Vanish without a word."""
        self.socket.close()

    def send_frames(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def receive_frames(self, timeout: float = PATIENCE) -> Frames:
        """The next message; fails if there is none within `timeout` seconds."""
        assert self.socket.poll(int(timeout * 1000)), f"nothing came within {timeout} s"
        return self.socket.recv_multipart()

    def expect(self, *frames: bytes) -> None:
        assert self.receive_frames() == list(frames)

    def expect_nothing(self, duration: float = QUIET) -> None:
        while self.socket.poll(int(duration * 1000)):
            frames = self.socket.recv_multipart()
            assert self.is_heartbeat(frames), f"unexpected: {frames}"

    def is_heartbeat(self, frames: Frames) -> bool:
        return False


@dataclass(frozen=True)
class Dialect:
    """The frames of one MDP dialect, as a DEALER sends and receives them."""

    name: str
    number: int
    client: list[bytes]
    worker: list[bytes]
    request_octet: list[bytes]
    partial_octet: list[bytes] | None
    final_octet: list[bytes]
    names_service: bool
    worker_partial: bytes | None
    worker_final: bytes
    heartbeat_octet: bytes
    disconnect_octet: bytes

    def request(self, service: bytes, *body: bytes) -> Frames:
        return [*self.client, *self.request_octet, service, *body]

    def final(self, service: bytes, *body: bytes) -> Frames:
        named = [service] if self.names_service else []
        return [*self.client, *self.final_octet, *named, *body]

    def partial(self, service: bytes, *body: bytes) -> Frames:
        assert self.partial_octet is not None
        named = [service] if self.names_service else []
        return [*self.client, *self.partial_octet, *named, *body]

    def ready(self, service: bytes) -> Frames:
        return [*self.worker, b"\x01", service]

    def work(self, address: bytes, *body: bytes) -> Frames:
        return [*self.worker, b"\x02", address, b"", *body]

    def reply(self, address: bytes, *body: bytes) -> Frames:
        return [*self.worker, self.worker_final, address, b"", *body]

    def part(self, address: bytes, *body: bytes) -> Frames:
        assert self.worker_partial is not None
        return [*self.worker, self.worker_partial, address, b"", *body]

    @property
    def heartbeat(self) -> Frames:
        return [*self.worker, self.heartbeat_octet]

    @property
    def disconnect(self) -> Frames:
        return [*self.worker, self.disconnect_octet]

    def __str__(self) -> str:
        return self.name


MDP01 = Dialect(
    "mdp01", 1, [b"", b"MDPC01"], [b"", b"MDPW01"], [], None, [], True, None, b"\3", b"\4", b"\5"
)
MDP02 = Dialect(
    "mdp02",
    2,
    [b"MDPC02"],
    [b"MDPW02"],
    [b"\1"],
    [b"\2"],
    [b"\3"],
    True,
    b"\3",
    b"\4",
    b"\5",
    b"\6",
)
LEGACY02 = Dialect(
    "legacy02",
    3,
    [b"", b"MDPC02"],
    [b"", b"MDPW02"],
    [b"\2"],
    [b"\3"],
    [b"\4"],
    False,
    b"\3",
    b"\4",
    b"\5",
    b"\6",
)
DIALECTS = [MDP01, MDP02, LEGACY02]


class MdpClient(Peer):
    """An MDP client over a DEALER."""

    def __init__(self, endpoint: str, dialect: Dialect) -> None:
        super().__init__(endpoint)
        self.dialect = dialect

    def request(self, service: bytes, *body: bytes) -> None:
        self.send_frames(*self.dialect.request(service, *body))

    def expect_final(self, service: bytes, *body: bytes) -> None:
        self.expect(*self.dialect.final(service, *body))

    def expect_partial(self, service: bytes, *body: bytes) -> None:
        self.expect(*self.dialect.partial(service, *body))

    def ask(self, service: bytes, *body: bytes) -> Frames:
        """The body of the FINAL to a request."""
        self.request(service, *body)
        frames = self.receive_frames()
        head = self.dialect.final(service)
        assert frames[: len(head)] == head
        return frames[len(head) :]


class MdpWorker(Peer):
    """An MDP worker. Heartbeats of the broker are left out unless asked for."""

    def __init__(self, endpoint: str, dialect: Dialect) -> None:
        super().__init__(endpoint)
        self.dialect = dialect

    def is_heartbeat(self, frames: Frames) -> bool:
        return frames == self.dialect.heartbeat

    def receive_work(self, timeout: float = PATIENCE) -> tuple[bytes, Frames]:
        """Address and body of the next request."""
        frames = self.receive_frames(timeout)
        while self.is_heartbeat(frames):
            frames = self.receive_frames(timeout)
        head = [*self.dialect.worker, b"\x02"]
        assert frames[: len(head)] == head, f"no request: {frames}"
        address, gap, *body = frames[len(head) :]
        assert gap == b""
        return address, body

    def reply(self, address: bytes, *body: bytes) -> None:
        self.send_frames(*self.dialect.reply(address, *body))

    def part(self, address: bytes, *body: bytes) -> None:
        self.send_frames(*self.dialect.part(address, *body))

    def expect_disconnect(self) -> None:
        """DISCONNECT comes, and nothing after it."""
        frames = self.receive_frames()
        while self.is_heartbeat(frames):
            frames = self.receive_frames()
        assert frames == self.dialect.disconnect
        assert not self.socket.poll(int(QUIET * 1000)), "something came after DISCONNECT"


class NativePeer(Peer):
    """A peer that speaks the native protocol, message by message."""

    def send(self, command: int, flags: int = 0, **fields: Any) -> None:
        self.send_frames(*native.encode(Message(command, flags, **fields)))  # type: ignore[arg-type]

    def receive(self, timeout: float = PATIENCE) -> Message:
        """The next message that is not a HEARTBEAT."""
        while True:
            message = native.decode(self.receive_frames(timeout))
            if message.command != HEARTBEAT:
                return message

    def take(self, command: int, timeout: float = PATIENCE) -> Message:
        message = self.receive(timeout)
        assert message.command == command, f"unexpected: {message}"
        return message

    def is_heartbeat(self, frames: Frames) -> bool:
        return native.decode(frames).command == HEARTBEAT


class NativeClient(NativePeer):
    """A client. It numbers its requests from 1."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.sequences = itertools.count(1)

    def hello(self, **fields: Any) -> dict[str, Any]:
        """Say HELLO; what WELCOME holds."""
        self.send(HELLO, incarnation=INCARNATION, frames=[payload.encode(fields)])
        return payload.decode_map(self.take(WELCOME).body)

    def request(self, service: bytes, method: bytes = b"m", flags: int = 0, **fields: Any) -> int:
        """Send a REQUEST; its sequence."""
        sequence: int = fields.pop("sequence", None) or next(self.sequences)
        defaults = {
            "incarnation": INCARNATION,
            "priority": 2,
            "timeout": TIMEOUT,
            "frames": [payload.encode([[]])],
        }
        self.send(
            REQUEST,
            flags,
            service=service,
            method=method,
            sequence=sequence,
            **{**defaults, **fields},
        )
        return sequence

    def status(self) -> dict[str, Any]:
        """What the broker tells about itself. Replies to earlier requests must have been taken."""
        sequence = self.request(b"mesh.broker", b"status")
        reply = self.take(FINAL)
        assert reply.sequence == sequence
        found: dict[str, Any] = payload.decode(reply.body)
        return found


class NativeWorker(NativePeer):
    """A worker. `welcome` is what the broker answered to its registration."""

    welcome: dict[str, Any]

    def register(self, service: bytes, **fields: Any) -> None:
        body = payload.encode({"lanes": {"": 1}, **fields})
        self.send(READY, service=service, incarnation=7, frames=[body])

    def work(self, timeout: float = PATIENCE) -> Message:
        return self.take(REQUEST, timeout)

    def answer(self, request: Message, command: int = FINAL, flags: int = 0, **fields: Any) -> None:
        """Reply to `request`: its tag and id, and the rest as given."""
        fields.setdefault("frames", [payload.encode("done")] if command == FINAL else [])
        self.send(
            command,
            flags,
            tag=request.tag,
            incarnation=request.incarnation,
            sequence=request.sequence,
            **fields,
        )


class Broker:
    """A running broker, and the raw peers that a test has connected to it."""

    def __init__(self, child: Child, endpoint: str) -> None:
        self.child = child
        self.endpoint = endpoint
        self.peers: list[Peer] = []

    def mdp_client(self, dialect: Dialect) -> MdpClient:
        return self._keep(MdpClient(self.endpoint, dialect))

    def mdp_worker(self, dialect: Dialect, service: bytes | None = None) -> MdpWorker:
        """Registered for `service`, and known to the broker as such when this returns."""
        worker = self._keep(MdpWorker(self.endpoint, dialect))
        if service is not None:
            before = self.workers_of(service)
            worker.send_frames(*dialect.ready(service))
            self.await_workers(service, before + 1)
        return worker

    def native_client(self, *, hello: bool = True) -> NativeClient:
        client = self._keep(NativeClient(self.endpoint))
        if hello:
            client.hello()
        return client

    def native_worker(self, service: bytes | None = None, **fields: Any) -> NativeWorker:
        """Registered for `service`, if one is given; `fields` go into the READY map."""
        worker = self._keep(NativeWorker(self.endpoint))
        if service is not None:
            worker.register(service, **fields)
            worker.welcome = payload.decode_map(worker.take(WELCOME).body)
        return worker

    def peer(self) -> Peer:
        return self._keep(Peer(self.endpoint))

    def workers_of(self, service: bytes) -> int:
        with MdpClient(self.endpoint, MDP02) as client:
            [count] = client.ask(b"mmi.workers", service)
        return int(count)

    def await_workers(self, service: bytes, count: int, timeout: float = PATIENCE) -> None:
        """Ask until `service` has `count` workers: workers of MDP are told nothing."""
        give_up_at = time.monotonic() + timeout
        while (found := self.workers_of(service)) != count:
            assert time.monotonic() < give_up_at, f"{service!r} has {found} workers, not {count}"

    def assert_alive(self) -> None:
        assert self.child.returncode is None, self.child.report()
        assert self.workers_of(b"nobody") == 0

    def close_peers(self) -> None:
        for peer in self.peers:
            peer.close()
        self.peers.clear()

    def _keep(self, peer: AnyPeer) -> AnyPeer:
        self.peers.append(peer)
        return peer


AnyPeer = TypeVar("AnyPeer", bound=Peer)
