"""The shell around the router, on real sockets, one turn of its loop at a time."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from broker import backlog, server
from broker.router import Router
from broker.server import Endpoint, Server
from broker.state import Client, RouterSettings
from mesh import errors, transport
from mesh.protocol import mdp, native, payload
from mesh.protocol.messages import (
    CANCEL,
    CHUNK,
    CREDIT,
    DRAIN,
    ERROR,
    FINAL,
    GOODBYE,
    HELLO,
    MORE,
    PARTIAL,
    READY,
    REQUEST,
    STARTED,
    STREAM,
    WELCOME,
    Body,
    Message,
)
from mesh.transport import direct
from mesh.transport.listening import DirectBound
from tests.support import Child

PART = bytes(200_000)
PARTS = 60


class Peer:
    """One connection to the server, native or not."""

    def __init__(self, link: transport.Link) -> None:
        self.link = link

    def say(self, *messages: Message) -> None:
        assert self.link.pump.send([native.encode(message) for message in messages]) == []

    def hear(self, limit: int = 1000) -> list[Message]:
        return [native.decode(frames) for frames in self.link.pump.receive(limit)]

    def hear_into(self, heard: list[Message], limit: int = 1000) -> list[Message]:
        heard += self.hear(limit)
        return heard


def narrow_router(endpoint: str) -> transport.Bound:
    return transport.router_socket(endpoint, heartbeat_every=0.0, send_limit=2)


def narrow_port(endpoint: str) -> DirectBound:
    return DirectBound(transport.parse_endpoint(endpoint, bind=True), unsent_limit=len(PART))


class Broker:
    """A server whose queues take little, and its peers, all driven by the test."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        folder: Path,
        listen: Callable[[str], transport.AnyBound],
        *roles: str,
    ) -> None:
        monkeypatch.setattr(transport, "listen", listen)
        self.router = Router(RouterSettings(heartbeat=10.0))
        endpoints = [Endpoint(f"ipc://{folder}/{n}", role) for n, role in enumerate(roles)]
        self.server = Server(self.router, endpoints, spin=0.0)
        self.peers: list[Peer] = []

    def connect(self, port: int = 0, **options: Any) -> Peer:
        link = transport.dealer_socket(self.server.endpoints[port], **options)
        self.peers.append(Peer(link))
        return self.peers[-1]

    def client(self, port: int = 0) -> Peer:
        """A client that takes no more than a message into its own queue before it reads."""
        peer = self.connect(port, receive_limit=1)
        peer.say(Message(HELLO))
        self.until(lambda: [m.command for m in peer.hear()] == [WELCOME])
        return peer

    def worker(self, port: int = 0, **fields: Any) -> Peer:
        peer = self.connect(port)
        body = payload.encode({"lanes": {"": 100}, "heartbeat": 10.0, **fields})
        peer.say(Message(READY, service=b"echo", frames=[body]))
        self.until(lambda: [m.command for m in peer.hear()] == [WELCOME])
        return peer

    def until(self, done: Callable[[], bool], seconds: float = 10.0) -> None:
        give_up_at = monotonic() + seconds
        while not done():
            assert monotonic() < give_up_at, "it did not come about"
            self.server._turn(limit=0.01)

    def counted(self, reason: str) -> int:
        return self.router.counters.get(reason, 0)

    def close(self) -> None:
        for peer in self.peers:
            peer.link.close()
        for port in self.server._ports:
            port.bound.close()
        self.server._ports = []
        self.server._close()


@pytest.fixture(
    params=[
        pytest.param(narrow_router, id="libzmq"),
        pytest.param(
            narrow_port,
            id="direct",
            marks=pytest.mark.skipif(not direct.AVAILABLE, reason="nothing is compiled here"),
        ),
    ]
)
def broker(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Broker]:
    """A server with two ports that nobody has connected to yet."""
    made = Broker(monkeypatch, tmp_path, request.param, server.BOTH, server.BOTH)
    yield made
    made.close()


def request(sequence: int, **fields: Any) -> Message:
    return Message(
        REQUEST, incarnation=1, sequence=sequence, service=b"echo", method=b"m", **fields
    )


def flood(broker: Broker, client: Peer, worker: Peer, sequence: int = 1) -> None:
    """The worker answers a call of the client by a stream far larger than the queues between."""
    client.say(request(sequence, flags=STREAM, credit=1000, timeout=60.0))
    asked: list[Message] = []
    broker.until(lambda: bool(worker.hear_into(asked)))
    for number in range(PARTS):
        frames: list[Body] = [b"%d" % number + PART]
        worker.say(Message(PARTIAL, tag=asked[0].tag, credit=1, frames=frames))
    worker.say(Message(FINAL, tag=asked[0].tag, frames=[b"end"]))
    broker.until(lambda: broker.router.finished == broker.router.accepted)


@pytest.mark.parametrize("port", [0, 1])
def test_a_slow_reader_gets_everything_in_order(broker: Broker, port: int) -> None:
    client, worker = broker.client(port), broker.worker()
    flood(broker, client, worker)
    assert broker.counted("delayed:queue_full") > 10
    late = broker.counted("delayed:queue_full")
    client.say(Message(HELLO))
    broker.until(lambda: broker.counted("delayed:queue_full") > late)
    heard: list[Message] = []
    broker.until(lambda: len(client.hear_into(heard, 5)) == PARTS + 2)
    assert [m.command for m in heard] == [*[PARTIAL] * PARTS, FINAL, WELCOME]
    assert [bytes(m.body)[:4].rstrip(b"\0") for m in heard[:PARTS]] == [
        b"%d" % number for number in range(PARTS)
    ]
    assert not broker.server._backlog
    assert broker.counted("undelivered:to_client") == 0


@pytest.mark.parametrize("limit", ["MAX_MESSAGES", "MAX_OCTETS"])
def test_a_peer_that_reads_nothing_is_parted_with(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(backlog, limit, 5 if limit == "MAX_MESSAGES" else 5 * len(PART))
    deaf, other, worker = broker.client(), broker.client(), broker.worker()
    deaf.say(request(7, timeout=60.0))
    broker.until(lambda: bool(worker.hear()))
    flood_given_up(broker, deaf, worker)
    assert broker.counted("lost:unread") == 1
    assert broker.counted("cancelled:client_lost") == 2
    assert all(len(known.refused) == 1 for known in broker.server._backlog._peers.values())
    other.say(request(1))
    broker.until(lambda: any(m.command == REQUEST for m in worker.hear()))
    heard: list[Message] = []
    broker.until(lambda: GOODBYE in [m.command for m in deaf.hear_into(heard)])
    assert {m.command for m in heard[:-1]} == {PARTIAL} and heard[-1].code == errors.OVERLOADED
    deaf.say(request(9))
    broker.until(lambda: broker.counted("dropped:expelled") == 1)
    deaf.link.close()
    broker.until(lambda: not broker.router.expelled)
    assert len(broker.router.clients) == 1 and not broker.server._backlog


def flood_given_up(broker: Broker, client: Peer, worker: Peer) -> None:
    """As `flood`, but the client is gone before its end; the worker is told to stop."""
    client.say(request(1, flags=STREAM, credit=1000, timeout=60.0))
    asked: list[Message] = []
    broker.until(lambda: bool(worker.hear_into(asked)))
    for _ in range(PARTS):
        worker.say(Message(PARTIAL, tag=asked[0].tag, credit=1, frames=[PART]))
    stopped: list[Message] = []
    broker.until(lambda: len(worker.hear_into(stopped)) == 2)
    assert {m.command for m in stopped} == {CANCEL}


def test_what_is_kept_of_a_peer_goes_with_it(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker()
    flood(broker, client, worker)
    assert broker.server._backlog
    client.link.close()
    broker.until(lambda: not broker.router.clients)
    assert not broker.server._backlog


@pytest.mark.parametrize("port", [0, 1])
def test_a_worker_that_dies_within_a_stream_to_its_client(broker: Broker, port: int) -> None:
    client, worker = broker.client(port), broker.worker()
    client.say(request(1, flags=STREAM, credit=10, timeout=60.0))
    asked: list[Message] = []
    broker.until(lambda: bool(worker.hear_into(asked)))
    worker.say(Message(PARTIAL, tag=asked[0].tag, credit=1, frames=[b"item"]))
    heard: list[Message] = []
    broker.until(lambda: bool(client.hear_into(heard)))
    worker.link.close()
    broker.until(lambda: len(client.hear_into(heard)) == 2)
    assert [m.command for m in heard] == [PARTIAL, ERROR]
    assert (heard[1].code, heard[1].flags & STARTED) == (errors.WORKER_LOST, STARTED)


def writing(broker: Broker, worker: Peer) -> tuple[Peer, int]:
    """A client that may send the worker any number of items; and the tag of its call."""
    client = broker.client()
    client.say(request(1, flags=MORE, timeout=60.0))
    asked: list[Message] = []
    broker.until(lambda: REQUEST in [m.command for m in worker.hear_into(asked)])
    worker.say(Message(CREDIT, tag=asked[-1].tag, credit=1000))
    broker.until(lambda: [m.command for m in client.hear()] == [CREDIT])
    return client, asked[-1].tag


def test_a_worker_that_dies_within_a_stream_from_its_client(broker: Broker) -> None:
    worker = broker.worker()
    client, _ = writing(broker, worker)
    worker.link.close()
    for _ in range(3):
        client.say(Message(CHUNK, sequence=1, credit=1, frames=[b"item"]))
    heard: list[Message] = []
    broker.until(lambda: bool(client.hear_into(heard)))
    assert [(m.command, m.code) for m in heard] == [(ERROR, errors.WORKER_LOST)]
    assert not broker.router.workers
    # libzmq may call the queue of one that is just leaving full: the next try finds it gone.
    broker.until(lambda: not broker.server._backlog)


def test_a_client_that_dies_within_its_stream(broker: Broker) -> None:
    worker = broker.worker()
    client, tag = writing(broker, worker)
    client.say(Message(CHUNK, sequence=1, credit=1, frames=[b"item"]))
    heard: list[Message] = []
    broker.until(lambda: bool(worker.hear_into(heard)))
    client.link.close()
    broker.until(lambda: len(worker.hear_into(heard)) == 2)
    assert [(m.command, m.tag) for m in heard] == [(CHUNK, tag), (CANCEL, tag)]


def test_a_worker_that_reads_nothing_of_its_clients_stream_is_parted_with(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "MAX_MESSAGES", 5)
    deaf = broker.connect(receive_limit=1)
    body = payload.encode({"lanes": {"": 100}, "heartbeat": 10.0})
    deaf.say(Message(READY, service=b"echo", frames=[body]))
    client, _ = writing(broker, deaf)
    heard: list[Message] = []
    for _ in range(PARTS):
        client.say(Message(CHUNK, sequence=1, credit=1, frames=[PART]))
    broker.until(lambda: bool(client.hear_into(heard)))
    assert [(m.command, m.code) for m in heard] == [(ERROR, errors.WORKER_LOST)]
    assert broker.counted("lost:unread") == 1 and not broker.router.workers
    broker.until(lambda: GOODBYE in [m.command for m in deaf.hear_into(heard)])


@pytest.mark.parametrize("port", [0, 1])
def test_a_peer_that_never_stops_talking_hides_no_death(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    """There is more to read in every turn of the loop than one turn reads."""
    monkeypatch.setattr(server, "RECEIVE_BUDGET", 2)
    monkeypatch.setattr(server, "DEAF_TTL", 0.2)
    client, worker, chatter = broker.client(port), broker.worker(), broker.connect()
    client.say(request(1, timeout=60.0))
    broker.until(lambda: bool(worker.hear()))
    beats = [native.encode(Message(CREDIT, sequence=1))] * 400
    chatter.link.pump.send(beats)
    worker.link.close()
    heard: list[Message] = []

    def told() -> bool:
        if broker.counted("dropped:unknown_peer") % 100 > 50:
            chatter.link.pump.send(beats[:100])
        return bool(client.hear_into(heard))

    broker.until(told, 4.0)
    assert [(m.command, m.code) for m in heard] == [(ERROR, errors.WORKER_LOST)]


def test_requests_for_a_worker_that_does_not_read_go_to_another(broker: Broker) -> None:
    client, deaf = broker.client(), broker.connect(receive_limit=1)
    body = payload.encode({"lanes": {"": 100}, "heartbeat": 10.0})
    ready = Message(READY, service=b"echo", frames=[body])
    deaf.say(ready)
    broker.until(lambda: b"echo" in broker.router.services)
    for sequence in range(1, 61):
        client.say(request(sequence, frames=[PART], timeout=60.0))
    broker.until(lambda: broker.router.accepted == 60)
    assert broker.counted("redispatched:undelivered") > 0
    worker = broker.connect()
    worker.say(ready)
    heard: list[Message] = []
    broker.until(lambda: len(worker.hear_into(heard)) > 20)
    assert {m.command for m in heard[1:]} == {REQUEST}
    assert broker.counted("delayed:queue_full") == 0


def test_a_broker_that_leaves_first_gives_away_what_it_has_kept(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, worker = broker.client(), broker.worker()
    flood(broker, client, worker)
    heard: list[Message] = []
    turn = broker.server._turn

    def turn_and_read(limit: float) -> None:
        turn(limit)
        client.hear_into(heard, 3)

    monkeypatch.setattr(broker.server, "_turn", turn_and_read)
    for known in broker.router.clients.values():
        known.drained = True
    broker.server._drain()
    assert not broker.server._backlog
    broker.until(lambda: len(client.hear_into(heard)) == PARTS + 2)
    assert sorted({m.command for m in heard}) == [DRAIN, PARTIAL, FINAL]


FLOOD = """
import sys
from functools import partial
from time import monotonic, sleep
from broker.router import Router
from broker.server import Endpoint, Server
from mesh import transport
transport.listen = partial(transport.router_socket, heartbeat_every=0.0, receive_limit=100)
server = Server(Router(), [Endpoint("tcp://127.0.0.1:0")])
link = transport.dealer_socket(server.endpoints[0])
link.pump.send([[bytes(100)]] * 50_000)
while not link.watch.up:
    link.watch.drain()
    server._turn(limit=0.01)
sleep(0.2)
link.close()
sleep(1.2)
until = monotonic() + 0.5
while monotonic() < until:
    server._turn(limit=0.01)
print("alive", server.router.counters)
"""


def test_a_flood_that_ends_while_the_broker_is_held_up_does_not_end_the_broker(
    process: Callable[..., Child],
) -> None:
    """libzmq would abort the process if it had to send a heartbeat then."""
    assert process(sys.executable, "-c", FLOOD).wait(timeout=20.0) == 0


def test_what_the_ports_refuse_and_drop_is_counted(broker: Broker) -> None:
    path = broker.server.endpoints[0].removeprefix("ipc://")
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(path)
        stranger.sendall((b"\xff" + bytes(8) + b"\x7f\x03\x00PLAIN").ljust(64, b"\0"))
        broker.until(lambda: broker.counted("refused:handshake") == 1)
    broker.connect().link.pump.send([[b""] * 2000])
    broker.until(lambda: broker.counted("dropped:oversize") == 1)


def test_who_comes_to_the_wrong_endpoint_is_told_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broker = Broker(monkeypatch, tmp_path, narrow_router, server.CLIENTS, server.WORKERS)
    try:
        ready = Message(READY, service=b"echo", frames=[payload.encode({"lanes": {"": 1}})])
        for port, message, wanted in (
            (0, ready, b"workers"),
            (1, Message(HELLO), b"clients"),
            (1, request(1), b"clients"),
        ):
            peer = broker.connect(port)
            peer.say(message, message)
            heard: list[Message] = []
            broker.until(lambda peer=peer, heard=heard: bool(peer.hear_into(heard)))
            assert [(m.command, m.code) for m in heard] == [(GOODBYE, errors.INVALID_ARGUMENT)]
            assert wanted in bytes(heard[0].body)
        assert broker.counted("refused:wrong_endpoint") == 3
        broker.until(lambda: broker.counted("dropped:expelled") == 3)
    finally:
        broker.close()


# -------------------------------------------------------------------- forms of MDP


def test_a_native_worker_cannot_claim_to_speak_mdp(broker: Broker) -> None:
    peer = broker.connect()
    body = payload.encode({"lanes": {"": 1}, "mdp": mdp.MDP01})
    peer.say(Message(READY, service=b"echo", code=mdp.MDP01, frames=[body]))
    broker.until(lambda: [m.command for m in peer.hear()] == [WELCOME])


def test_remembering_who_speaks_mdp_costs_each_peer_the_same(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is rebuilt when it has doubled, not for each peer beyond its size."""
    monkeypatch.setattr(server, "MAX_FORMS", 50)
    broker.server._prune_at = 50
    rebuilt = 0

    def arrive(number: int) -> bytes:
        nonlocal rebuilt
        peer = b"\0%d" % number
        before = broker.server._forms
        broker.server._first_of_mdp(peer, [peer, b"", b"MDPC01", b"echo", b"body"])
        rebuilt += broker.server._forms is not before
        return peer

    for number in range(1000):
        peer = arrive(number)
        broker.router.clients[peer] = Client(peer, mdp.MDP01, 0.0)
    assert len(broker.server._forms) == 1000
    assert 0 < rebuilt < 10
    broker.router.clients.clear()
    for number in range(1000, 3000):
        arrive(number)
    assert len(broker.server._forms) < 1000


def test_an_error_is_no_message_of_mdp(broker: Broker) -> None:
    link = broker.connect().link
    link.pump.send([[b"", b"MDPC01", b"nobody", b"x"]])
    broker.until(lambda: broker.router.accepted == 1)
    peer = next(iter(broker.router.clients))
    broker.router.send(peer, Message(ERROR, sequence=1))
    broker.until(lambda: broker.counted("mdp:unanswered") == 1)
    assert broker.counted("dropped:inexpressible") == 0


CLOSING = """
import os, signal, sys
from broker.router import Router
from broker.server import Endpoint, Server
from broker.state import RouterSettings
server = Server(Router(RouterSettings()), [Endpoint(sys.argv[1])])
close = os.close
def closed(file):
    heeded = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(heeded)
    if file == heeded:
        sys.exit("a signal would be written to what is closed, or to what is opened next")
    close(file)
os.close = closed
server.run(lambda endpoints: server.stop())
"""


def test_signals_are_written_nowhere_when_it_has_closed(
    process: Callable[..., Child], tmp_path: Path
) -> None:
    child = process(sys.executable, "-c", CLOSING, f"ipc://{tmp_path}/b")
    assert child.wait(timeout=20.0) == 0
