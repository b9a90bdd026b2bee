"""Sockets as they are made: settings, addresses, restarts, forks."""

from __future__ import annotations

import errno
import os
import socket as net
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from mesh.errors import ConfigError
from mesh.transport import MAX_MESSAGE, Bound, Link, context, dealer_socket, router_socket
from mesh.transport.sockets import seed_c_random
from tests import support
from tests.unit.transport.wire import RawPeer, collect, until

Listen = Callable[..., Bound]
Dial = Callable[..., Link]

BROKER = """
import sys
from mesh.transport import router_socket
bound = router_socket(sys.argv[1])
print("listening", *bound.endpoints, flush=True)
while True:
    bound.pump.wait(-1)
    bound.watch.drain()
    bound.pump.send(bound.pump.receive(100))
"""


def test_a_router_listens_at_several_endpoints_and_names_the_real_ones(
    tmp_path: Path, opened: list[Bound | Link]
) -> None:
    bound = router_socket(["localhost:0", "tcp://127.0.0.1:*", f"ipc://{tmp_path}/here"])
    opened.append(bound)
    first, second, third = bound.endpoints
    assert first != second
    assert first.startswith("tcp://127.0.0.1:")
    assert int(first.rpartition(":")[2]) > 0
    assert third == f"ipc://{tmp_path}/here"
    for endpoint in bound.endpoints:
        link = dealer_socket(endpoint)
        opened.append(link)
        link.pump.send([[endpoint.encode()]])
    assert {m[1].decode() for m in collect(bound.pump, 3)} == set(bound.endpoints)


def test_the_settings_that_matter_are_made(listen: Listen, dial: Dial) -> None:
    router, dealer = listen(), None
    dealer = dial(router)
    for socket in (router.socket, dealer.socket):
        assert socket.getsockopt(zmq.MAXMSGSIZE) == MAX_MESSAGE
        assert socket.getsockopt(zmq.HANDSHAKE_IVL) == 2000
        assert socket.getsockopt(zmq.HEARTBEAT_IVL) == 500
        assert socket.getsockopt(zmq.HEARTBEAT_TIMEOUT) == 5000
        assert socket.getsockopt(zmq.HEARTBEAT_TTL) == 5000
        assert socket.getsockopt(zmq.LINGER) == 0
    assert router.socket.getsockopt(zmq.SNDHWM) == 100_000
    assert router.socket.getsockopt(zmq.RCVHWM) == 100_000
    assert router.socket.getsockopt(zmq.BACKLOG) == 512
    assert dealer.socket.getsockopt(zmq.RECONNECT_IVL) == -1


def test_a_frame_over_the_limit_ends_the_connection(listen: Listen, dial: Dial) -> None:
    router = listen(max_frame=1000)
    dealer = dial(router)
    dealer.pump.send([[b"x" * 1000], [b"y" * 1001]])
    assert collect(router.pump, 1)[0][1] == b"x" * 1000
    until(lambda: bool(dealer.watch.lost), lambda: (dealer.pump.wait(1), dealer.watch.drain()))
    assert router.pump.receive(10) == []


def test_a_frame_that_takes_its_time_is_not_taken_for_silence(listen: Listen) -> None:
    router = listen()
    peer = RawPeer(router.endpoints[0])
    try:
        peer.send_head(20_000, more=False)
        for _ in range(20):  # longer than two heartbeats, which cannot be answered meanwhile
            router.pump.wait(0.06)
            router.watch.drain()
            peer.socket.sendall(b"x" * 1000)
        assert len(collect(router.pump, 1)[0][1]) == 20_000
        assert not router.watch.pending
    finally:
        peer.close()


def test_an_address_in_use_is_refused_with_advice(address: str, listen: Listen) -> None:
    router = listen(address)
    with pytest.raises(ConfigError, match="another process listens there"):
        router_socket(router.endpoints[0])


@pytest.mark.parametrize("endpoint", ["tcp://192.0.2.1:0", "tcp://no-such-interface:0"])
def test_an_address_of_another_machine_is_refused_with_advice(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="no such address"):
        router_socket(endpoint)


def test_a_router_needs_an_endpoint() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        router_socket([])


def test_ipc_touches_no_file_that_is_not_its_own(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data")
    with pytest.raises(ConfigError, match="no socket"):
        router_socket(f"ipc://{precious}")
    assert precious.read_text() == "data"
    with pytest.raises(ConfigError, match="make it first"):
        router_socket(f"ipc://{tmp_path}/missing/socket")


def test_a_broker_killed_and_restarted_binds_at_once(
    address: str, process: support.Start, opened: list[Bound | Link]
) -> None:
    first = process(sys.executable, "-c", BROKER, address)
    endpoint = first.expect(r"^listening (\S+)$")[1]
    old = dealer_socket(endpoint)
    opened.append(old)
    old.pump.send([[b"one"]])
    assert collect(old.pump, 1) == [[b"one"]]
    first.kill()
    if endpoint.startswith("ipc"):
        assert Path(endpoint.removeprefix("ipc://")).is_socket()
    second = process(sys.executable, "-c", BROKER, endpoint)
    assert second.expect(r"^listening (\S+)$")[1] == endpoint
    new = dealer_socket(endpoint)
    opened.append(new)
    new.pump.send([[b"two"]])
    assert collect(new.pump, 1) == [[b"two"]]
    # The old socket is used up: it neither reconnects nor keeps messages for the new broker.
    until(lambda: bool(old.watch.lost), lambda: (old.watch.drain(), old.pump.wait(0.1)))
    until(
        lambda: old.pump.send([[b"ghost"]]) == [(0, errno.EAGAIN)],
        lambda: old.pump.wait(0.01),
    )


def test_a_dealer_queues_before_the_connection_unless_told_otherwise(
    listen: Listen, opened: list[Bound | Link]
) -> None:
    router = listen()
    early = dealer_socket(router.endpoints[0])
    careful = dealer_socket("tcp://192.0.2.1:9", immediate=True)  # never answers
    opened += [early, careful]
    assert early.pump.send([[b"at once"]]) == []
    assert collect(router.pump, 1)[0][1] == b"at once"
    assert careful.pump.send([[b"later"]]) == [(0, errno.EAGAIN)]


def test_ipv6_loopback(opened: list[Bound | Link]) -> None:
    try:
        net.create_server(("::1", 0), family=net.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    bound = router_socket("[::1]:0")
    link = dealer_socket(bound.endpoints[0])
    opened += [bound, link]
    link.pump.send([[b"six"]])
    assert collect(bound.pump, 1)[0][1] == b"six"


def test_one_context_per_process_and_a_new_one_after_a_fork(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    assert context() is context()
    parents = id(context())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            mine = context()
            bound = router_socket("tcp://127.0.0.1:0")
            link = dealer_socket(bound.endpoints[0])
            link.pump.send([[b"child"]])
            came = collect(bound.pump, 1)[0][1] == b"child"
            status = 0 if came and id(mine) != parents and context() is mine else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    dealer.pump.send([[b"parent"]])
    assert collect(router.pump, 1)[0][1] == b"parent"
    assert id(context()) == parents


def test_messages_survive_the_end_of_a_program_that_ends_its_context(
    listen: Listen, process: support.Start
) -> None:
    router = listen()
    code = """
import sys
from mesh.transport import dealer_socket, end_context
link = dealer_socket(sys.argv[1], linger=5)
assert link.pump.send([[b"%d" % n, b"x" * 10_000] for n in range(1000)]) == []
link.close()
end_context()
end_context()
"""
    child = process(sys.executable, "-c", code, router.endpoints[0])
    assert [m[1] for m in collect(router.pump, 1000)] == [b"%d" % n for n in range(1000)]
    assert child.wait() == 0


def test_close_with_linger_zero_does_not_wait(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router, linger=30)
    dealer.close(linger=0)
    dealer.close()
    started = time.monotonic()
    router.close()
    router.close()
    assert time.monotonic() - started < 5


def test_routing_ids_begin_anywhere(process: support.Start) -> None:
    code = """
from mesh.transport import router_socket, dealer_socket
bound = router_socket("tcp://127.0.0.1:0")
link = dealer_socket(bound.endpoints[0])
link.pump.send([[b"x"]])
bound.pump.wait(10)
while not (messages := bound.pump.receive(1)):
    bound.watch.drain()
    bound.pump.wait(10)
print("id", messages[0][0].hex())
"""
    ids = {process(sys.executable, "-c", code).expect(r"^id (\w+)$")[1] for _ in range(3)}
    assert len(ids) == 3
    assert seed_c_random()
