"""Direct connections: both ends of them, and either end with libzmq's sockets at the other."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from mesh import transport
from mesh.errors import ConfigError
from mesh.protocol import native
from mesh.protocol.messages import HELLO, WELCOME, Body, Message
from mesh.transport import direct
from mesh.transport.direct import DirectLink
from mesh.transport.handshake import Handshake
from mesh.transport.listening import DirectBound

pytestmark = pytest.mark.skipif(not direct.AVAILABLE, reason="nothing is compiled here")


def until(done: Callable[[], object], *turns: Callable[[], object], seconds: float = 10.0) -> None:
    give_up_at = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < give_up_at, "it did not come about"
        for turn in turns:
            turn()


class Port:
    """A direct port, turned by the test."""

    def __init__(self, address: str = "tcp://127.0.0.1:*", **options: int) -> None:
        self.bound = DirectBound(transport.parse_endpoint(address, bind=True), **options)
        self.endpoint = self.bound.endpoints[0]
        self.heard: list[tuple[bytes, Message | list[Body]]] = []
        self.gone: list[bytes] = []

    def turn(self) -> None:
        poll = select.poll()
        for fd in self.bound.descriptors():
            poll.register(fd, select.POLLIN)
        if not self.bound.pending:
            poll.poll(1)
        found = self.bound.pump.read(100)
        self.heard += found
        self.bound.after(found, time.monotonic())
        if self.bound.pump.drained:
            self.gone += self.bound.departed()


@pytest.fixture
def port() -> Iterator[Port]:
    made = Port()
    yield made
    made.bound.close()


@pytest.fixture
def link(port: Port) -> Iterator[DirectLink]:
    made = DirectLink(port.endpoint)
    until(lambda: made.up, port.turn, made.drain)
    yield made
    made.close()


def greet(link: transport.AnyLink) -> None:
    assert link.pump.write([(0, Message(HELLO, sequence=1, frames=[b"hello"]))]) == []


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:*", "tcp://[::1]:*", "ipc", "ipc://@"])
def test_there_and_back(address: str, tmp_path: Path) -> None:
    if address == "tcp://[::1]:*" and not _has_ipv6():
        pytest.skip("no IPv6 here")
    if address.startswith("ipc"):
        address = f"ipc://{tmp_path}/s" if address == "ipc" else f"ipc://@mesh-{os.getpid()}"
    port = Port(address)
    link = DirectLink(port.endpoint)
    greet(link)  # it leaves when the connection stands
    until(lambda: port.heard, port.turn, link.drain)
    ((peer, message),) = port.heard
    assert isinstance(message, Message) and message.body == b"hello"
    assert port.bound.pump.write([(peer, Message(WELCOME))]) == []
    found: list[object] = []
    until(lambda: found, lambda: found.extend(link.pump.read(10)))
    link.close()
    until(lambda: port.gone == [peer], port.turn)
    port.bound.close()
    assert not list(tmp_path.iterdir())


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("kind", ["DEALER", "REQ"])
def test_a_socket_of_libzmq_connects_to_a_direct_port(port: Port, kind: str) -> None:
    with zmq.Context() as context, context.socket(getattr(zmq, kind)) as other:
        other.setsockopt(zmq.LINGER, 0)
        other.setsockopt(zmq.IDENTITY, b"chosen")
        other.setsockopt(zmq.HEARTBEAT_IVL, 10)
        other.setsockopt(zmq.HEARTBEAT_TIMEOUT, 500)
        other.connect(port.endpoint)
        other.send(b"question")
        until(lambda: port.heard, port.turn)
        peer, frames = port.heard[0]
        assert isinstance(frames, list)
        assert frames == [peer, *([b""] if kind == "REQ" else []), b"question"]
        # Long enough for many heartbeats, which must be answered.
        ends_at = time.monotonic() + 1.0
        until(lambda: time.monotonic() > ends_at, port.turn)
        assert port.bound.pump.send([[*frames[:-1], b"answer"]]) == []
        assert other.recv() == b"answer" and port.gone == []
    until(lambda: port.gone == [peer], port.turn)


def test_a_direct_link_connects_to_a_socket_of_libzmq() -> None:
    bound = transport.router_socket("tcp://127.0.0.1:*", heartbeat_every=0.05)
    link = DirectLink(bound.endpoints[0])
    greet(link)
    found: list[tuple[bytes, Message | list[Body]]] = []
    until(lambda: found, lambda: found.extend(bound.pump.read(10)), link.drain)
    peer, message = found[0]
    assert isinstance(message, Message) and message.body == b"hello"
    bound.pump.write([(peer, message)])
    back: list[tuple[bytes, Message | list[Body]]] = []
    until(lambda: back, lambda: back.extend(link.pump.read(10)))
    link.close()
    bound.close()


def test_the_last_words_arrive(port: Port, link: DirectLink) -> None:
    """Also when more is unsent than the kernel takes, and there is something unread."""
    greet(link)
    until(lambda: port.heard, port.turn)
    peer = port.heard[0][0]
    port.bound.pump.write([(peer, Message(WELCOME, frames=[bytes(1000)]))])
    body = bytes(1_000_000)
    entries = [(0, Message(HELLO, sequence=n, frames=[body])) for n in range(20)]
    assert link.pump.write(entries) == [] and link.pump.unsent
    closing = threading.Thread(target=link.close, args=(10.0,))
    closing.start()
    until(lambda: port.gone, port.turn)
    closing.join()
    assert [message.sequence for _, message in port.heard[1:]] == list(range(20))


def test_a_port_that_closes_sends_what_it_has(port: Port, link: DirectLink) -> None:
    greet(link)
    until(lambda: port.heard, port.turn)
    peer = port.heard[0][0]
    entries = [(peer, Message(WELCOME, sequence=n, frames=[bytes(500_000)])) for n in range(20)]
    assert port.bound.pump.write(entries) == []
    closing = threading.Thread(target=port.bound.close, args=(10.0,))
    closing.start()
    heard: list[tuple[bytes, Message | list[Body]]] = []
    until(lambda: link.lost, lambda: heard.extend(link.pump.read(10)), link.drain)
    closing.join()
    assert [m.sequence for _, m in heard if isinstance(m, Message)] == list(range(20))
    port.bound = Port().bound  # for the fixture to close


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
    link = DirectLink(f"tcp://127.0.0.1:{number}")
    until(lambda: link.lost, link.drain)
    assert link.lost == "nobody answered there" and not link.established
    link.close()


def test_nobody_there_by_ipc(tmp_path: Path) -> None:
    link = DirectLink(f"ipc://{tmp_path}/nobody")
    assert link.lost == "nobody answered there"
    link.close()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff\0\0"])
def test_somebody_else_there(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = DirectLink(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        other, _ = server.accept()
        with other:
            other.sendall(said)
            other.shutdown(socket.SHUT_WR)
            until(lambda: link.lost, link.drain)
    assert "handshake" in link.lost or "ZMTP" in link.lost
    assert not link.established
    link.close()


def test_a_connection_that_is_reset(port: Port, link: DirectLink) -> None:
    greet(link)
    until(lambda: port.heard, port.turn)
    (connection,) = port.bound._members.values()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    port.bound.close()
    until(lambda: link.lost, lambda: link.pump.read(10), link.drain)
    assert link.established and not link.up
    assert link.pump.write([(0, Message(HELLO))]) == []
    link.close()
    link.close()
    port.bound = Port().bound


def test_a_name_that_is_not_known_is_looked_up_in_the_background(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, answer = threading.Event(), threading.Event()
    real = direct._lookup

    def slow(host: str, port: int, flags: int) -> list[direct.Address]:
        if flags:
            return real(host, port, flags)
        asked.set()
        answer.wait(10)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(direct, "_lookup", slow)
    link = DirectLink("tcp://no.such.host.invalid:1")
    closed = DirectLink("tcp://no.such.host.invalid:1")
    assert asked.wait(10) and not link.drain() and not link.lost
    closed.close()
    answer.set()
    poll = select.poll()
    poll.register(link.descriptors()[0], select.POLLIN)
    assert poll.poll(10_000)
    until(lambda: link.lost, link.drain)
    assert "no known host" in link.lost
    link.close()


def test_the_next_address_of_a_name_is_tried(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = ("127.0.0.1", server.getsockname()[1])
    number = int(port.endpoint.rpartition(":")[2])
    found = [(socket.AF_INET, nobody), (socket.AF_INET, ("127.0.0.1", number))]
    monkeypatch.setattr(direct, "_lookup", lambda *_: list(found))
    link = DirectLink("tcp://two.addresses:1")
    until(lambda: link.up, port.turn, link.drain)
    link.close()


def test_a_forked_child_lets_go(port: Port, link: DirectLink) -> None:
    """The connection ends with the parent's end of it, though the child lives on."""
    greet(link)
    until(lambda: port.heard, port.turn)
    hold, release = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(release)
        lost = link.lost == "the process forked"
        os.read(hold, 1)
        os._exit(0 if lost else 1)
    os.close(hold)
    assert link.up
    link.close()
    until(lambda: port.gone, port.turn)
    os.close(release)
    assert os.waitpid(child, 0)[1] == 0


# -------------------------------------------------------------------- peers that are no friends


def test_who_does_not_finish_the_handshake_is_parted_with(
    port: Port, link: DirectLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = ("127.0.0.1", int(port.endpoint.rpartition(":")[2]))
    with socket.create_connection(address) as slow, socket.create_connection(address) as wrong:
        slow.sendall(b"\xff")
        wrong.sendall(b"GET / HTTP/1.1\r\n\r\n")
        until(lambda: port.bound.handshake_failures == 1, port.turn)
        assert port.bound.next_at < time.monotonic() + 2.1
        until(lambda: port.bound.handshake_failures == 2, port.turn)
        slow.settimeout(10)
        while slow.recv(1000):
            pass
    greet(link)
    until(lambda: port.heard, port.turn)
    assert port.bound._guests == {}


def test_a_message_without_end_is_cut() -> None:
    small = Port(max_frame=10_000)
    address = ("127.0.0.1", int(small.endpoint.rpartition(":")[2]))
    with socket.create_connection(address) as endless:
        frame = b"\x03" + (1000).to_bytes(8, "big") + bytes(1000)
        endless.sendall(Handshake(b"DEALER", ()).hello + frame * 30)
        until(lambda: small.bound.cut, small.turn)
    assert small.bound.cut == 1 and small.heard == []
    small.bound.close()


SHORT_OF_DESCRIPTORS = """
import resource, socket, sys, time
sys.path.insert(0, sys.argv[1])
from tests.unit.transport.test_direct import Port, until
port = Port()
address = ("127.0.0.1", int(port.endpoint.rpartition(":")[2]))
first = socket.create_connection(address)
until(lambda: port.bound.accepted == 1, port.turn)
limit = first.fileno() + 8
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
rest = [socket.socket() for _ in range(limit - first.fileno() - 3)]
for one in rest[1:]:
    one.close()
waiting = [socket.create_connection(address) for _ in range(3)]
turns = 0
ends_at = time.monotonic() + 0.3
while time.monotonic() < ends_at:
    port.turn()
    turns += 1
assert turns < 1000, turns
first.close()
for one in waiting[:2]:
    one.close()
waiting[2].settimeout(5)
until(lambda: port.bound.accepted == 4, port.turn)
print("accepted")
"""


def test_when_descriptors_run_out_connections_wait() -> None:
    root = str(Path(__file__).parents[3])
    found = subprocess.run(
        [sys.executable, "-c", SHORT_OF_DESCRIPTORS, root],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert found.stdout == "accepted\n", found.stderr


# -------------------------------------------------------------------- listening


def test_a_port_in_use(port: Port) -> None:
    with pytest.raises(ConfigError, match="another process listens there"):
        DirectBound(port.endpoint)


def test_a_socket_file_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    port = Port(f"ipc://{path}")
    with pytest.raises(ConfigError, match="another process listens"):
        DirectBound(f"ipc://{path}")
    port.bound.close()
    path.write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        DirectBound(f"ipc://{path}")
    assert path.read_text() == "precious"


def test_a_host_that_is_not_ours() -> None:
    with pytest.raises(ConfigError, match="no such address"):
        DirectBound("tcp://192.0.2.1:*")


def test_a_peer_that_was_killed_is_named(port: Port) -> None:
    code = (
        "import socket, sys, signal\n"
        f"s = socket.create_connection(('127.0.0.1', {port.endpoint.rpartition(':')[2]}))\n"
        "s.sendall(bytes.fromhex(sys.argv[1])); print('up', flush=True); signal.pause()\n"
    )
    hello = Handshake(b"DEALER", ()).hello + b"\x00" + _octet(native.encode(Message(HELLO))[0])
    with subprocess.Popen(
        [sys.executable, "-c", code, hello.hex()], stdout=subprocess.PIPE, text=True
    ) as child:
        until(lambda: port.heard, port.turn)
        child.send_signal(signal.SIGKILL)
        until(lambda: port.gone == [port.heard[0][0]], port.turn)


def _octet(frame: bytes) -> bytes:
    return bytes([len(frame)]) + frame
