"""Who left: named in time, named after its last message, and never while it lives."""

from __future__ import annotations

import os
import signal
import socket as net
import sys
import time
from collections.abc import Callable

import pytest
import zmq

from mesh.transport import Bound, Link, context, dealer_socket, disconnect
from tests import support
from tests.unit.transport.wire import RawPeer, collect, until

# ZMTP, but with a security mechanism that we do not use.
PLAIN_GREETING = (b"\xff" + bytes(8) + b"\x7f\x03\x00PLAIN").ljust(64, b"\0")

Listen = Callable[..., Bound]
Dial = Callable[..., Link]

PEER = """
import sys
from mesh.transport import dealer_socket
link = dealer_socket(sys.argv[1])
link.pump.send([[b"ready", sys.argv[2].encode()]])
while True:
    link.pump.wait(-1)
    link.watch.drain()
    link.pump.receive(100)
"""


def turn(router: Bound, wait: float = 0.5) -> tuple[list[list[bytes]], list[bytes]]:
    """One turn of a broker's loop: the messages, and the peers that left."""
    if not router.watch.pending:
        router.pump.wait(wait)
    router.watch.drain()
    messages = router.pump.receive(10_000)
    assert router.pump.drained
    return messages, router.watch.departed(router.pump)


def test_a_killed_process_is_named(address: str, listen: Listen, process: support.Start) -> None:
    router = listen(address)
    names: dict[bytes, bytes] = {}
    children = {
        name: process(sys.executable, "-c", PEER, router.endpoints[0], name) for name in "abc"
    }
    while len(names) < 3:
        messages, gone = turn(router)
        names.update({message[0]: message[2] for message in messages})
        assert gone == []
    os.kill(children["b"].pid, signal.SIGKILL)
    killed_at = time.monotonic()
    left: list[bytes] = []
    while not left:
        assert time.monotonic() - killed_at < 5
        left = turn(router)[1]
    assert [names[peer] for peer in left] == [b"b"]
    assert left[0] not in router.pump.sources
    assert set(router.pump.sources) == set(names) - set(left)
    assert turn(router, 0.05) == ([], [])


def test_a_stopped_process_is_named_by_heartbeats(
    address: str, listen: Listen, process: support.Start
) -> None:
    router = listen(address, heartbeat_every=0.1, heartbeat_timeout=0.3)
    child = process(sys.executable, "-c", PEER, router.endpoints[0], "x")
    while not turn(router)[0]:
        pass
    child.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    while not turn(router)[1]:
        assert time.monotonic() - stopped_at < 5


def test_everything_a_dead_peer_sent_is_read_before_it_is_named(
    address: str, listen: Listen, process: support.Start
) -> None:
    code = """
import sys
from mesh.transport import dealer_socket, end_context
link = dealer_socket(sys.argv[1], linger=5)
assert link.pump.send([[b"reply", b"%d" % n] for n in range(500)]) == []
while not link.pump.receive(1):
    link.watch.drain()
    link.pump.wait(-1)
link.close()
end_context()
"""
    router = listen(address)
    child = process(sys.executable, "-c", code, router.endpoints[0])
    # The first message gives the peer's id; then the peer ends with the rest unread.
    [[peer, *first]] = collect(router.pump, 1)
    assert router.pump.send([[peer, b"end"]]) == []
    assert child.wait() == 0
    until(lambda: router.watch.pending, lambda: _hear(router))
    messages, gone = turn(router)
    assert first == [b"reply", b"0"]
    assert [message[2] for message in messages] == [b"%d" % n for n in range(1, 500)]
    assert gone == [peer]


def _hear(router: Bound) -> None:
    router.watch.socket.poll(100)
    router.watch.drain()


def test_a_peer_heard_first_after_its_end_is_named_too(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    dealer.pump.send([[b"only word"]])
    assert router.pump.wait(5)
    until(lambda: bool(router.socket.poll(0)), lambda: router.socket.poll(10))
    dealer.close()
    until(lambda: router.watch.pending, lambda: _hear(router))
    assert router.watch.departed(router.pump) == []  # nobody is known there yet
    messages, gone = turn(router)
    assert [message[1] for message in messages] == [b"only word"]
    assert gone == [messages[0][0]]


def test_churn_on_reused_descriptors_never_names_a_living_peer(
    address: str, listen: Listen, dial: Dial
) -> None:
    router = listen(address)
    steady = dial(router)
    steady.pump.send([[b"steady"]])
    [[loyal, _]] = collect(router.pump, 1)
    alive: dict[bytes, Link] = {}
    gone: set[bytes] = set()
    descriptors = []
    links: list[Link] = []
    ever: set[bytes] = set()
    for number in range(100):
        link = dial(router)
        link.pump.send([[b"%d" % number]])
        links.append(link)
        # Of three connections two end at once, some before they are heard of at all.
        if number % 3:
            link.close()
        messages, left = turn(router) if number % 2 else ([], [])
        for message in messages:
            peer = message[0]
            ever.add(peer)
            descriptors.append(router.pump.sources.get(peer))
            living = links[int(message[1])]
            if not living.socket.closed:
                alive[peer] = living
        assert not set(left) & alive.keys(), "a living peer was named"
        assert loyal not in left
        gone |= set(left)
    quiet = False
    while not quiet:
        messages, left = turn(router, 0.1)
        quiet = not messages and not left and not router.watch.pending
        for message in messages:
            ever.add(message[0])
            if not links[int(message[1])].socket.closed:
                alive[message[0]] = links[int(message[1])]
        gone |= set(left)
    assert not gone & alive.keys()
    assert loyal in router.pump.sources
    assert alive.keys() <= router.pump.sources.keys()
    assert len(set(descriptors)) < len(descriptors), "no descriptor was reused: nothing was tested"
    assert len(gone) >= 40
    # Whoever was named is out of reach, and whoever was not named and lives is in reach.
    assert all(router.pump.send([[peer, b"?"]]) for peer in gone)
    assert router.pump.send([[peer, b"?"] for peer in alive]) == []


def test_a_peer_that_came_back_under_its_own_name_is_not_named(listen: Listen) -> None:
    router = listen()
    # libzmq refuses a name while it believes that its last bearer is connected.
    router.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    descriptors = set()
    for number in range(5):
        with context().socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.routing_id = b"my-name"
            dealer.connect(router.endpoints[0])
            dealer.send(b"%d" % number)
            # Its last connection has ended meanwhile, and its new one is heard of before anybody
            # asked for that end.
            assert collect(router.pump, 1) == [[b"my-name", b"%d" % number]]
            _hear(router)
            router.pump.receive(1)
            assert router.watch.departed(router.pump) == []
            descriptors.add(router.pump.sources[b"my-name"])
        until(lambda: router.watch.pending, lambda: _hear(router))
    assert len(descriptors) < 5, "no descriptor was reused: nothing was tested"
    assert turn(router) == ([], [b"my-name"])
    assert b"my-name" not in router.pump.sources


def test_disconnect_ends_a_connection_and_its_peer_is_named(
    address: str, listen: Listen, dial: Dial
) -> None:
    router = listen(address)
    dealers = [dial(router) for _ in range(2)]
    for number, dealer in enumerate(dealers):
        dealer.pump.send([[b"%d" % number]])
    peers = {message[1]: message[0] for message in collect(router.pump, 2)}
    disconnect(router.pump.sources[peers[b"0"]])
    until(lambda: bool(dealers[0].watch.lost), lambda: _listen(dealers[0]))
    gone: list[bytes] = []
    until(lambda: bool(gone), lambda: gone.extend(turn(router)[1]))
    assert gone == [peers[b"0"]]
    assert dealers[1].watch.up
    read, write = os.pipe()
    try:
        with pytest.raises(OSError, match=r"\w"):
            disconnect(read)
    finally:
        os.close(read)
        os.close(write)


def test_cut_ends_only_the_connection_that_is_meant(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    dealer.pump.send([[b"x"]])
    [[peer, _]] = collect(router.pump, 1)
    router.watch.drain()
    connection = router.watch.newest(router.pump.sources[peer])
    assert connection is not None
    assert router.watch.connections() == [connection]
    assert router.watch.cut(connection)
    gone: list[bytes] = []
    until(lambda: bool(gone), lambda: gone.extend(turn(router)[1]))
    assert gone == [peer]
    successor = dial(router)  # takes over the descriptor
    successor.pump.send([[b"y"]])
    collect(router.pump, 1)
    assert not router.watch.cut(connection)
    assert successor.pump.send([[b"z"]]) == []
    collect(router.pump, 1)
    assert successor.watch.up


def test_failed_handshakes_are_counted_and_harm_nobody(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    dealer.pump.send([[b"x"]])
    collect(router.pump, 1)
    host, _, port = router.endpoints[0].removeprefix("tcp://").rpartition(":")
    for _ in range(3):
        with net.create_connection((host, int(port))) as stranger:
            stranger.sendall(PLAIN_GREETING)
            stranger.settimeout(5)
            try:
                while stranger.recv(1000):
                    pass
            except ConnectionError:
                pass
    until(lambda: router.watch.handshake_failures >= 3, lambda: _hear(router))
    assert turn(router, 0.01) == ([], [])
    assert router.watch.connections() != []


def test_a_flood_of_connections_does_not_block_the_router(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    host, _, port = router.endpoints[0].removeprefix("tcp://").rpartition(":")
    for _ in range(1500):  # nobody drains the watch meanwhile
        net.create_connection((host, int(port))).close()
    dealer.pump.send([[b"still there?"]])
    assert collect(router.pump, 1)[0][1] == b"still there?"
    until(lambda: router.watch.accepted == 1501, lambda: _hear(router))


def _listen(link: Link) -> None:
    link.pump.wait(0.5)
    link.watch.drain()


def test_a_link_is_up_and_then_lost(address: str, listen: Listen, dial: Dial) -> None:
    router = listen(address)
    link = dial(router)
    assert link.watch.up
    assert link.watch.established
    assert not link.watch.drain()
    router.close()
    until(lambda: bool(link.watch.lost), lambda: _listen(link))
    assert link.watch.established
    assert not link.watch.up
    assert link.watch.lost == "the connection ended"


@pytest.mark.parametrize("where", ["tcp", "ipc"])
def test_a_link_that_nobody_answers_is_lost_without_ever_being_up(
    where: str,
    tmp_path: object,
    opened: list[Bound | Link],
    free_port: Callable[[], int],
) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}" if where == "tcp" else f"ipc://{tmp_path}/none"
    link = dealer_socket(endpoint)
    opened.append(link)
    until(lambda: bool(link.watch.lost), lambda: _listen(link))
    assert not link.watch.established
    assert link.watch.lost == "nobody answered there"


def test_a_link_that_times_out_is_lost(opened: list[Bound | Link]) -> None:
    with net.create_server(("127.0.0.1", 0), backlog=1) as silent:
        link = dealer_socket(f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        opened.append(link)
        until(lambda: bool(link.watch.lost), lambda: _listen(link))
        assert not link.watch.established


def test_a_link_to_a_stranger_is_lost(opened: list[Bound | Link]) -> None:
    with net.create_server(("127.0.0.1", 0)) as server:
        link = dealer_socket(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        opened.append(link)
        with server.accept()[0] as stranger:
            stranger.sendall(PLAIN_GREETING)
            until(lambda: bool(link.watch.lost), lambda: _listen(link))
    assert not link.watch.established
    assert "ZMTP" in link.watch.lost


def test_a_raw_peer_is_a_peer(listen: Listen) -> None:
    router = listen()
    peer = RawPeer(router.endpoints[0])
    try:
        peer.send_frame(b"one", more=True)
        peer.send_frame(b"two", more=False)
        [[_, *frames]] = collect(router.pump, 1)
        assert frames == [b"one", b"two"]
    finally:
        peer.close()


def test_a_watch_can_be_closed_twice_and_leaves_the_socket_usable(
    listen: Listen, dial: Dial
) -> None:
    router = listen()
    dealer = dial(router)
    dealer.watch.close()
    dealer.watch.close()
    assert dealer.pump.send([[b"x"]]) == []
    assert collect(router.pump, 1)[0][1] == b"x"
    assert isinstance(router.watch.fileno(), int)
