"""What can go wrong around a direct connection, and what it may not touch."""

from __future__ import annotations

import contextlib
import select
import socket as net
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mesh.protocol.messages import REQUEST, Message
from mesh.transport import direct
from mesh.transport.direct import AVAILABLE, DirectLink
from mesh.transport.handshake import GREETING
from mesh.transport.listening import DirectBound

pytestmark = [
    pytest.mark.skipif(not AVAILABLE, reason="direct connections are compiled"),
    pytest.mark.timeout(30),
]


@pytest.fixture
def port() -> Iterator[DirectBound]:
    with contextlib.closing(DirectBound("tcp://127.0.0.1:0")) as bound:
        yield bound


def turn(port: DirectBound, *links: DirectLink) -> list[tuple[bytes, Any]]:
    """Let the port and `links` do what there is to do; what the port has read."""
    found = port.pump.read(100)
    port.after(found, time.monotonic())
    for link in links:
        link.drain()
        link.pump.read(100)
    return found


def connected(port: DirectBound, endpoint: str = "") -> DirectLink:
    link = DirectLink(endpoint or port.endpoints[0])
    ends_at = time.monotonic() + 10
    while not link.up:
        turn(port, link)
        assert not link.lost, link.lost
        assert time.monotonic() < ends_at
    return link


def received(port: DirectBound, count: int, *links: DirectLink) -> list[tuple[bytes, Any]]:
    found: list[tuple[bytes, Any]] = []
    ends_at = time.monotonic() + 10
    while len(found) < count:
        found += turn(port, *links)
        assert time.monotonic() < ends_at
    return found


def message(number: int, frames: Any = (b"body",)) -> Message:
    return Message(REQUEST, service=b"s", method=b"m", sequence=number, frames=frames)


def test_what_cannot_be_packed_takes_nothing_else_with_it(port: DirectBound) -> None:
    with contextlib.closing(connected(port)) as link:
        unsendable: Any = object()
        with pytest.raises(TypeError):
            link.pump.write([(b"", message(1)), (b"", message(2, [unsendable]))])
        link.pump.write([(b"", message(3))])
        found = received(port, 2, link)
        assert [(m.sequence, list(m.frames)) for _, m in found] == [(1, [b"body"]), (3, [b"body"])]


def test_at_a_port_it_does_not_reach_the_other_peers(port: DirectBound) -> None:
    links = [connected(port) for _ in range(2)]
    for number, link in enumerate(links):
        link.pump.write([(b"", message(number))])
    peers = {m.sequence: peer for peer, m in received(port, 2, *links)}
    unsendable: Any = object()
    with pytest.raises(TypeError):
        port.pump.write([(peers[0], message(10)), (peers[0], message(11, [unsendable]))])
    port.pump.write([(peers[1], message(20)), (peers[0], message(12))])
    for link, expected in zip(links, ([10, 12], [20]), strict=True):
        found: list[Any] = []
        ends_at = time.monotonic() + 10
        while len(found) < len(expected):
            found += link.pump.read(10)
            assert time.monotonic() < ends_at
        assert [m.sequence for _, m in found] == expected
        link.close()


def test_another_address_gets_a_handshake_of_its_own(
    port: DirectBound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first address says half of a greeting and resets the connection."""
    with net.create_server(("127.0.0.1", 0)) as first:

        def reset() -> None:
            connection, _ = first.accept()
            connection.sendall(GREETING[:30])
            connection.setsockopt(net.SOL_SOCKET, net.SO_LINGER, struct.pack("ii", 1, 0))
            asked.wait(10)
            connection.close()

        asked = threading.Event()
        thread = threading.Thread(target=reset)
        thread.start()
        where = [
            (net.AF_INET, ("127.0.0.1", int(at))) for at in (
                first.getsockname()[1], port.endpoints[0].rpartition(":")[2])
        ]  # fmt: skip
        monkeypatch.setattr(direct, "_lookup", lambda *_: list(where))
        link = DirectLink("tcp://127.0.0.1:9")
        poll = select.poll()
        poll.register(link.descriptors()[0], select.POLLIN)
        ends_at = time.monotonic() + 10
        while len(link._handshake.rest) < 30:
            poll.poll(100)
            link.drain()
            assert time.monotonic() < ends_at
        asked.set()
        thread.join()
        while not link.up:
            turn(port, link)
            assert not link.lost, link.lost
            assert time.monotonic() < ends_at
        link.close()


def test_a_connection_that_cannot_be_watched_is_refused_and_counted(
    port: DirectBound, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """An epoll instance whose user may watch no more."""

        def register(self, *_: Any) -> None:
            raise OSError(28, "no space left")

    with net.create_connection(("127.0.0.1", int(port.endpoints[0].rpartition(":")[2]))) as peer:
        with monkeypatch.context() as patched:
            patched.setattr(port, "_epoll", Full())
            ends_at = time.monotonic() + 10
            while not port.troubles[0]:
                turn(port)
                assert time.monotonic() < ends_at
        peer.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            while peer.recv(4096):
                pass
    with contextlib.closing(connected(port)) as link:
        link.pump.write([(b"", message(1))])
        assert received(port, 1, link)[0][1].sequence == 1


NO_MEMORY = """
import resource, socket, sys, time
from mesh.transport.handshake import Handshake
from mesh.transport.listening import DirectBound

port = DirectBound("tcp://127.0.0.1:0")
peer = socket.create_connection(("127.0.0.1", int(port.endpoints[0].rpartition(":")[2])))
peer.sendall(Handshake(b"DEALER", ()).hello)

def turn():
    found = port.pump.read(10)
    port.after(found, time.monotonic())
    return found

while not port.pump.streams:
    turn()
size = next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (size + 8_000_000, -1))
peer.sendall(b"\\x02" + (60_000_000).to_bytes(8, "big") + b"begin")
while not port.pump.departed:
    turn()
print(port.pump.departed[0].ended)
port.departed()
port.close()
"""


def test_without_memory_for_a_frame_its_sender_is_cut_off() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_MEMORY], capture_output=True, text=True, timeout=25, check=False
    )
    assert done.stderr == ""
    assert done.stdout == "there is no memory for what the other side sends\n"
