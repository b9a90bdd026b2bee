"""MDP/0.1, MDP/0.2, its legacy dialect and MMI, frame by frame, against a real broker."""

from __future__ import annotations

import itertools

import pytest
import zmq

from mesh.protocol import payload
from mesh.protocol.messages import BATCH, FINAL, RAW
from tests.conformance.raw import DIALECTS, LEGACY02, MDP01, MDP02, Broker, Dialect, Frames

clients = pytest.mark.parametrize("client_dialect", DIALECTS, ids=str)
workers = pytest.mark.parametrize("worker_dialect", DIALECTS, ids=str)
dialects = pytest.mark.parametrize("dialect", DIALECTS, ids=str)


@clients
@workers
@pytest.mark.parametrize("body", [[], [b""], [b"one"], [b"one", b"", b"three"], [b"x" * 200_000]])
def test_any_client_is_served_by_any_worker(
    broker: Broker,
    service: bytes,
    client_dialect: Dialect,
    worker_dialect: Dialect,
    body: list[bytes],
) -> None:
    worker = broker.mdp_worker(worker_dialect, service)
    client = broker.mdp_client(client_dialect)
    client.request(service, *body)
    address, asked = worker.receive_work()
    assert asked == body
    worker.reply(address, b"answer", *body)
    client.expect_final(service, b"answer", *body)


def test_a_req_socket_is_a_client_of_the_first_version(broker: Broker, service: bytes) -> None:
    worker = broker.mdp_worker(MDP01, service)
    with zmq.Context.instance().socket(zmq.REQ) as client:
        client.linger = 0
        client.connect(broker.endpoint)
        for number in (b"1", b"2"):
            client.send_multipart([b"MDPC01", service, number])
            address, body = worker.receive_work()
            worker.reply(address, *body, b"")
            assert client.poll(5000)
            assert client.recv_multipart() == [b"MDPC01", service, number, b""]


@clients
@pytest.mark.parametrize("worker_dialect", [MDP02, LEGACY02], ids=str)
def test_partials_come_in_order_or_within_the_one_reply(
    broker: Broker, service: bytes, client_dialect: Dialect, worker_dialect: Dialect
) -> None:
    worker = broker.mdp_worker(worker_dialect, service)
    client = broker.mdp_client(client_dialect)
    client.request(service, b"go")
    address, _ = worker.receive_work()
    worker.part(address, b"1", b"1b")
    worker.part(address)
    worker.part(address, b"3")
    worker.reply(address, b"end")
    if client_dialect is MDP01:  # it takes one reply, and no PARTIAL
        client.expect_final(service, b"1", b"1b", b"3", b"end")
    else:
        client.expect_partial(service, b"1", b"1b")
        client.expect_partial(service)
        client.expect_partial(service, b"3")
        client.expect_final(service, b"end")
    client.expect_nothing()


@dialects
def test_a_worker_has_one_request_at_a_time(
    broker: Broker, service: bytes, dialect: Dialect
) -> None:
    worker = broker.mdp_worker(dialect, service)
    client = broker.mdp_client(MDP02)
    for number in (b"1", b"2", b"3"):
        client.request(service, number)
    for number in (b"1", b"2", b"3"):
        address, body = worker.receive_work()
        assert body == [number]
        worker.expect_nothing()
        worker.reply(address, number)
        client.expect_final(service, number)


def test_addresses_tell_nothing_about_clients(broker: Broker, service: bytes) -> None:
    worker = broker.mdp_worker(MDP02, service)
    client = broker.peer()
    client.socket.disconnect(broker.endpoint)
    client.socket.setsockopt(zmq.ROUTING_ID, b"my-secret")
    client.socket.connect(broker.endpoint)
    addresses = set()
    for _ in range(3):
        client.send_frames(*MDP02.request(service, b"x"))
        address, _ = worker.receive_work()
        assert len(address) == 8
        assert address != b"my-secret"
        addresses.add(address)
        worker.reply(address, b"ok")
        client.expect(*MDP02.final(service, b"ok"))
    assert len(addresses) == 3


@dialects
def test_requests_wait_for_a_worker(broker: Broker, service: bytes, dialect: Dialect) -> None:
    client = broker.mdp_client(dialect)
    client.request(service, b"early")
    client.expect_nothing(0.5)  # longer than the grace that native calls get
    worker = broker.mdp_worker(dialect, service)
    address, body = worker.receive_work()
    assert body == [b"early"]
    worker.reply(address, b"served")
    client.expect_final(service, b"served")


# ------------------------------------------------------------------------------ MMI


@clients
def test_mmi_service(broker: Broker, service: bytes, client_dialect: Dialect) -> None:
    client = broker.mdp_client(client_dialect)
    assert client.ask(b"mmi.service", service) == [b"404"]
    broker.mdp_worker(MDP01, service)
    assert client.ask(b"mmi.service", service) == [b"200"]
    assert client.ask(b"mmi.service", b"") == [b"404"]
    assert client.ask(b"mmi.service") == [b"404"]


@clients
def test_mmi_services_and_workers(broker: Broker, service: bytes, client_dialect: Dialect) -> None:
    client = broker.mdp_client(client_dialect)
    assert client.ask(b"mmi.workers", service) == [b"0"]
    first = broker.mdp_worker(MDP01, service)
    broker.mdp_worker(MDP02, service)
    broker.native_worker(service + b".native")
    assert client.ask(b"mmi.workers", service) == [b"2"]
    named = client.ask(b"mmi.services")
    assert named.count(service) == 1
    assert service + b".native" in named
    first.send_frames(*MDP01.disconnect)
    broker.await_workers(service, 1)


@clients
@pytest.mark.parametrize("name", [b"mmi.other", b"mmi.", b"mmi.service.x", b"mmi"])
def test_what_mmi_does_not_know_is_501(
    broker: Broker, client_dialect: Dialect, name: bytes
) -> None:
    assert broker.mdp_client(client_dialect).ask(name, b"body") == [b"501"]


def test_services_with_requests_but_without_workers_are_404(broker: Broker, service: bytes) -> None:
    client = broker.mdp_client(MDP02)
    client.request(service, b"waits")
    assert client.ask(b"mmi.service", service) == [b"404"]
    assert service not in client.ask(b"mmi.services")


# ------------------------------------------------------------------------------ unexpected


def unexpected_first(dialect: Dialect) -> list[Frames]:
    found = [dialect.heartbeat, dialect.reply(bytes(8), b"x"), dialect.work(bytes(8), b"x")]
    if dialect.worker_partial is not None:
        found.append(dialect.part(bytes(8), b"x"))
    return found


@pytest.mark.parametrize(
    ("dialect", "frames"),
    [(dialect, frames) for dialect in DIALECTS for frames in unexpected_first(dialect)],
)
def test_commands_before_ready_are_answered_with_disconnect(
    broker: Broker, service: bytes, dialect: Dialect, frames: Frames
) -> None:
    worker = broker.mdp_worker(dialect)
    worker.send_frames(*frames)
    worker.expect_disconnect()
    # From then on the broker sends this connection nothing: it must not count as a worker.
    worker.send_frames(*dialect.ready(service))
    worker.expect_nothing()
    assert broker.workers_of(service) == 0


@dialects
def test_a_second_ready_is_answered_with_disconnect(
    broker: Broker, service: bytes, dialect: Dialect
) -> None:
    worker = broker.mdp_worker(dialect, service)
    worker.send_frames(*dialect.ready(service))
    worker.expect_disconnect()
    assert broker.workers_of(service) == 0
    again = broker.mdp_worker(dialect, service)  # on a new connection it may
    broker.mdp_client(MDP02).request(service, b"x")
    assert again.receive_work()[1] == [b"x"]


@dialects
@pytest.mark.parametrize("name", [b"mmi.evil", b"mmi.service", b"mmi.", b"mmi", b".x", b"\xff"])
def test_reserved_and_wrong_names_are_answered_with_disconnect(
    broker: Broker, dialect: Dialect, name: bytes
) -> None:
    worker = broker.mdp_worker(dialect)
    worker.send_frames(*dialect.ready(name))
    worker.expect_disconnect()


@dialects
def test_an_unsolicited_reply_is_answered_with_disconnect(
    broker: Broker, service: bytes, dialect: Dialect
) -> None:
    worker = broker.mdp_worker(dialect, service)
    worker.reply(bytes(8), b"unasked")
    worker.expect_disconnect()
    assert broker.workers_of(service) == 0


@dialects
def test_a_second_reply_is_answered_with_disconnect(
    broker: Broker, service: bytes, dialect: Dialect
) -> None:
    worker = broker.mdp_worker(dialect, service)
    client = broker.mdp_client(MDP02)
    client.request(service, b"x")
    address, _ = worker.receive_work()
    worker.reply(address, b"first")
    worker.reply(address, b"second")
    client.expect_final(service, b"first")
    worker.expect_disconnect()
    client.expect_nothing()


@dialects
@pytest.mark.parametrize("address", [b"", b"\0\0\0\0\0", b"\xff" * 8, b"\xff" * 9])
def test_a_reply_to_somebody_else_is_answered_with_disconnect(
    broker: Broker, service: bytes, dialect: Dialect, address: bytes
) -> None:
    worker = broker.mdp_worker(dialect, service)
    client = broker.mdp_client(MDP02)
    client.request(service, b"x")
    worker.receive_work()
    worker.reply(address, b"spoofed")
    worker.expect_disconnect()
    honest = broker.mdp_worker(dialect, service)  # which gets the request again
    true_address, _ = honest.receive_work()
    honest.reply(true_address, b"true")
    client.expect_final(service, b"true")


def test_a_worker_cannot_answer_for_another(broker: Broker, service: bytes) -> None:
    honest = broker.mdp_worker(MDP02, service)
    client = broker.mdp_client(MDP02)
    client.request(service, b"x")
    address, _ = honest.receive_work()
    thief = broker.mdp_worker(MDP02, service)
    thief.reply(address, b"stolen")
    thief.expect_disconnect()
    honest.reply(address, b"honest")
    client.expect_final(service, b"honest")


# ------------------------------------------------------------------------------ invalid

INVALID: list[Frames] = [
    [b"junk"],
    [b""],
    [b"", b""],
    [b"", b"MDPC01"],
    [b"", b"MDPW01"],
    [b"MDPC02"],
    [b"MDPW02"],
    [b"MDPC01", b"echo", b"without the empty frame"],
    [b"", b"MDPC03", b"echo", b"x"],
    [b"", b"MDPC01", b""],
    [b"", b"MDPC01", b"n" * 201, b"x"],
    [b"", b"MDPC01", b"n" * 100_000, b"x"],
    [b"MDPC02", b"\x09", b"echo", b"x"],
    [b"", b"MDPW01", b"\x01"],
    [b"", b"MDPW01", b"\x01", b""],
    [b"", b"MDPW01", b"\x01", b"echo", b"surplus"],
    [b"", b"MDPW01", b"\x03"],
    [b"", b"MDPW01", b"\x03", b"address"],
    [b"", b"MDPW01", b"\x03", b"address", b"no gap"],
    [b"", b"MDPW01", b"\x06"],
    [b"", b"MDPW01", b"\xff", b"x"],
    [b"", b"MDPW01", b""],
    [b"MDPW02", b"\x01"],
    [b"MDPW02", b"\x04", b"address"],
    [b"MDPW02", b"\x07"],
    [b"MDPC02", b"\x01"],
    [b"", b"MDPC02", b"\x01", b"echo", b"the octet of the other dialect"],
    [b"", b"MDPC01", b"echo", *[b"x"] * 1500],
]


@pytest.mark.parametrize("frames", INVALID, ids=lambda frames: repr(frames)[:40])
def test_invalid_messages_are_dropped(broker: Broker, service: bytes, frames: Frames) -> None:
    stranger = broker.peer()
    stranger.send_frames(*frames)
    stranger.expect_nothing(0.05)
    worker = broker.mdp_worker(MDP01, service)
    client = broker.mdp_client(MDP01)
    client.request(service, b"x")
    address, _ = worker.receive_work()
    worker.reply(address, b"y")
    client.expect_final(service, b"y")


@dialects
def test_an_unknown_command_of_a_busy_worker_is_dropped(
    broker: Broker, service: bytes, dialect: Dialect
) -> None:
    worker = broker.mdp_worker(dialect, service)
    client = broker.mdp_client(dialect)
    client.request(service, b"x")
    address, _ = worker.receive_work()
    worker.send_frames(*dialect.worker, b"\x09", address, b"", b"?")
    worker.reply(address, b"y")
    client.expect_final(service, b"y")


@pytest.mark.parametrize(("first", "second"), [*itertools.permutations(DIALECTS, 2)], ids=str)
def test_a_peer_keeps_its_dialect(
    broker: Broker, service: bytes, first: Dialect, second: Dialect
) -> None:
    client = broker.mdp_client(first)
    assert client.ask(b"mmi.service", service) == [b"404"]
    client.send_frames(*second.request(b"mmi.service", service))
    client.expect_nothing()
    assert client.ask(b"mmi.service", service) == [b"404"]


# ------------------------------------------------------------------------------ MDP and native


@dialects
def test_a_native_call_to_an_mdp_worker_is_one_frame(
    broker: Broker, service: bytes, dialect: Dialect
) -> None:
    worker = broker.mdp_worker(dialect, service)
    client = broker.native_client()
    arguments = payload.encode([["a", 1], {"k": b"v"}])
    sequence = client.request(service, frames=[arguments, b"metadata"])
    address, body = worker.receive_work()
    assert body == [arguments]
    worker.reply(address, b"one", b"two")
    reply = client.take(FINAL)
    assert (reply.sequence, reply.flags & RAW, list(reply.frames)) == (
        sequence,
        RAW,
        [b"one", b"two"],
    )


@dialects
def test_an_mdp_request_to_a_native_worker(
    broker: Broker, service: bytes, dialect: Dialect
) -> None:
    worker = broker.native_worker(service, methods={"m": {}})
    client = broker.mdp_client(dialect)
    client.request(service + b".m", b"one", b"", b"three")
    request = worker.work()
    assert (request.service, request.method) == (service, b"m")
    assert request.flags & RAW
    assert list(request.frames) == [b"one", b"", b"three"]
    assert 0 < request.timeout <= 30
    worker.answer(request, flags=RAW, frames=[b"x", b"y"])
    client.expect_final(service if dialect is LEGACY02 else service + b".m", b"x", b"y")


def test_a_service_with_a_dot_goes_before_a_method(broker: Broker, service: bytes) -> None:
    parent = broker.native_worker(service)
    child = broker.native_worker(service + b".sub")
    client = broker.mdp_client(MDP02)
    client.request(service + b".sub", b"x")
    request = child.work()
    assert (request.service, request.method) == (service + b".sub", b"")
    parent.expect_nothing(0.05)


def test_an_error_has_no_form_in_mdp(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service)
    client = broker.mdp_client(MDP02)
    client.request(service, b"x")
    worker.answer(worker.work(), flags=0, command=11, code=9, frames=[payload.encode({})])
    client.expect_nothing()
    client.request(service, b"y")  # and the connection goes on
    worker.answer(worker.work(), flags=RAW, frames=[b"z"])
    client.expect_final(service, b"z")


def test_mdp_traffic_goes_to_the_writer_lane(broker: Broker, service: bytes) -> None:
    reader = broker.native_worker(service, lanes={"": 8})
    writer = broker.native_worker(service, lanes={"writer": 8})
    client = broker.mdp_client(MDP01)
    for number in range(4):
        client.request(service, b"%d" % number)
    assert [writer.work().frames[0] for _ in range(4)] == [b"0", b"1", b"2", b"3"]
    reader.expect_nothing(0.05)


def test_native_streams_have_no_way_into_mdp_workers(broker: Broker, service: bytes) -> None:
    worker = broker.mdp_worker(MDP02, service)
    client = broker.native_client()
    client.request(service, flags=4)
    assert client.take(11).code == 3
    worker.expect_nothing(0.05)
    client.request(service, flags=BATCH)  # while the worker is still good for what it understands
    address, _ = worker.receive_work()
    worker.reply(address, b"ok")
    client.take(FINAL)
