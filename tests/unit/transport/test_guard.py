"""A message without end is cut; large and many honest messages are not."""

from __future__ import annotations

import math
import socket as net
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from mesh.transport import Bound, ByteGuard, Link
from mesh.transport.guard import SUPPORTED, bytes_received
from tests.unit.transport.wire import RawPeer, collect

Listen = Callable[..., Bound]
Dial = Callable[..., Link]

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="the kernel does not count bytes here")

MIB = 1 << 20


class Loop:
    """A broker's loop around a router and its guard."""

    def __init__(self, router: Bound, limit: int, interval: float = 0.02) -> None:
        self.router = router
        self.guard = ByteGuard(router.watch, router.pump, limit=limit, interval=interval)
        self.received = 0
        self.gone: list[bytes] = []

    def turn(self, limit: int = 1000) -> None:
        now = time.monotonic()
        if not self.router.watch.pending:
            self.router.pump.wait(max(0.0, min(0.5, self.guard.next_at - now)))
        self.router.watch.drain()
        messages = self.router.pump.receive(limit)
        self.received += len(messages)
        self.guard.after(messages, time.monotonic())
        if self.router.pump.drained:
            self.gone += self.router.watch.departed(self.router.pump)


class Flood(threading.Thread):
    """Sends frames that all announce another, until the connection ends."""

    def __init__(self, peer: RawPeer) -> None:
        super().__init__()
        self.peer = peer
        self.sent = 0

    def run(self) -> None:
        with suppress(OSError):
            while True:
                self.peer.send_frame(b"x" * 16 * 1024, more=True)
                self.sent += 16 * 1024


@pytest.fixture
def raw() -> Iterator[Callable[[Bound], RawPeer]]:
    peers: list[RawPeer] = []

    def make(router: Bound) -> RawPeer:
        peers.append(RawPeer(router.endpoints[0]))
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_a_message_without_end_is_cut(
    known: bool, listen: Listen, raw: Callable[[Bound], RawPeer], dial: Dial
) -> None:
    router = listen()
    loop = Loop(router, 4 * MIB)
    honest = dial(router)
    peer = raw(router)
    if known:
        peer.send_frame(b"hello", more=False)
        collect(router.pump, 1)
    loop.turn()
    assert len(router.watch.connections()) == 2
    flood = Flood(peer)
    flood.start()
    sent = 0
    try:
        ends_at = time.monotonic() + 20
        while len(router.watch.connections()) == 2:
            assert time.monotonic() < ends_at
            assert honest.pump.send([[b"ping"]]) == []
            sent += 1
            loop.turn()
    finally:
        # With a full window the other side might hear of its end only from a late probe.
        with suppress(OSError):
            peer.socket.shutdown(net.SHUT_RDWR)
        flood.join(10)
    assert flood.sent > 4 * MIB
    assert loop.guard.cut == 1
    while loop.received < sent or len(loop.gone) < known:
        assert time.monotonic() < ends_at
        loop.turn()
    assert len(loop.gone) == known
    assert honest.watch.up


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_what_came_before_the_first_look_counts(
    known: bool, listen: Listen, raw: Callable[[Bound], RawPeer]
) -> None:
    router = listen()
    loop = Loop(router, 4 * MIB)
    peer = raw(router)
    router.watch.drain()
    [connection] = router.watch.connections()
    if known:
        peer.send_frame(b"hello", more=False)
    while loop.received < known or loop.guard.next_at == math.inf:
        loop.turn()
    looked_at = loop.guard.next_at
    while loop.guard.next_at == looked_at:
        loop.turn()
    ends_at = time.monotonic() + 10
    sent = 0
    while sent < 8 * MIB:  # all of it between two looks, and nothing after it
        peer.send_frame(b"x" * MIB, more=True)
        sent += MIB
    while (bytes_received(connection.fd) or 0) < sent and time.monotonic() < ends_at:
        router.socket.poll(1)
    while not loop.guard.cut:
        assert time.monotonic() < ends_at
        loop.turn()
    while router.watch.connections():
        assert time.monotonic() < ends_at
        loop.turn()
    assert loop.guard.cut == 1


@pytest.mark.parametrize(("size", "count"), [(6 * MIB, 40), (2000, 60_000)])
def test_honest_traffic_far_over_the_limit_is_left_alone(
    size: int, count: int, listen: Listen, dial: Dial
) -> None:
    router = listen()
    # The limit must leave room for a message and for what the kernel holds back.
    loop = Loop(router, 24 * MIB, interval=0.005)
    dealer = dial(router)
    body = b"x" * size
    unsent = count
    ends_at = time.monotonic() + 30
    while loop.received < count and time.monotonic() < ends_at:
        if unsent:
            batch = min(unsent, max(1, 12 * MIB // size))
            assert dealer.pump.send([[b"head", body]] * batch) == []
            unsent -= batch
        loop.turn()
    dealer.watch.drain()
    assert (loop.received, loop.guard.cut, dealer.watch.lost) == (count, 0, "")


def test_a_slow_message_after_a_burst_is_left_alone(
    listen: Listen, raw: Callable[[Bound], RawPeer]
) -> None:
    router = listen()
    loop = Loop(router, 16 * MIB, interval=0.02)
    peer = raw(router)
    loop.turn()
    before = loop.guard.next_at - 0.001
    for _ in range(30):  # delivered in full before the guard has another look
        peer.send_frame(b"x" * MIB, more=False)
        messages = collect(router.pump, 1)
        loop.received += len(messages)
        loop.guard.after(messages, before)
    assert loop.received == 30
    peer.send_head(100_000, more=False)
    for _ in range(10):
        peer.socket.sendall(b"x" * 10_000)
        ends_at = time.monotonic() + 0.03
        while time.monotonic() < ends_at:
            loop.turn()
    while loop.received < 31:
        loop.turn()
    assert loop.guard.cut == 0


def test_a_router_that_was_busy_blames_nobody(listen: Listen, dial: Dial) -> None:
    router = listen()
    loop = Loop(router, 4 * MIB, interval=0.01)
    dealer = dial(router)
    dealer.pump.send([[b"hello"]])
    while not loop.received:
        loop.turn()
    dealer.pump.send([[b"x" * MIB] for _ in range(20)])
    router.watch.drain()
    fd = next(iter(router.pump.sources.values()))
    ends_at = time.monotonic() + 10
    while (bytes_received(fd) or 0) < 20 * MIB and time.monotonic() < ends_at:
        router.socket.poll(1)  # everything arrives while the loop does something else
    # One message a turn: the connection stays over the limit for long, but it delivers.
    while loop.received < 21 and time.monotonic() < ends_at:
        loop.turn(1)
    assert loop.received == 21
    assert loop.guard.cut == 0


def test_an_idle_router_without_connections_is_not_woken(listen: Listen) -> None:
    router = listen()
    guard = ByteGuard(router.watch, router.pump)
    router.watch.drain()
    guard.after([], 5.0)
    assert guard.next_at == float("inf")


def test_bytes_received_knows_tcp_sockets_only(listen: Listen) -> None:
    here, there = net.socketpair()
    fd = here.fileno()
    with here, there:
        assert bytes_received(fd) is None
    assert bytes_received(fd) is None
    with (
        net.create_server(("127.0.0.1", 0)) as server,
        net.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        client.sendall(b"x" * 1234)
        accepted.recv(1)
        assert bytes_received(accepted.fileno()) == 1234
        assert accepted.recv(1) == b"x"  # the descriptor was left open
