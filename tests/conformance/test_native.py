"""The native protocol, message by message, against a real broker (docs/protocol.md)."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from mesh import errors
from mesh.protocol import native, payload
from mesh.protocol.messages import (
    BATCH,
    BULK,
    CANCEL,
    CAPACITY,
    CHUNK,
    CREDIT,
    DRAIN,
    END,
    ERROR,
    FINAL,
    GOODBYE,
    HEARTBEAT,
    HELLO,
    HIGH,
    IDEMPOTENT,
    MORE,
    NORMAL,
    PARTIAL,
    RAW,
    READY,
    REQUEST,
    STARTED,
    STREAM,
    SYSTEM,
    WELCOME,
    Message,
)
from tests.conformance.raw import INCARNATION, PATIENCE, Broker, NativeClient, NativePeer

BrokerWith = Callable[..., Broker]


def expect_error(client: NativeClient, code: int, sequence: int, *, started: bool) -> Message:
    error = client.take(ERROR)
    assert (error.code, error.sequence) == (code, sequence)
    assert bool(error.flags & STARTED) == started
    assert payload.decode_map(error.body)["message"]
    return error


def expect_goodbye(peer: NativePeer) -> None:
    """GOODBYE comes, and nothing after it."""
    assert peer.take(GOODBYE).code == errors.PROTOCOL
    assert not peer.socket.poll(100), "something came after GOODBYE"


def counters(client: NativeClient) -> dict[str, int]:
    found: dict[str, int] = client.status()["counters"]
    return found


# ------------------------------------------------------------------------------ registration


def test_welcome(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service, heartbeat=9.0)
    assert worker.welcome["heartbeat"] == 9.0  # the slower of both proposals
    assert worker.welcome["capabilities"] == 0
    assert worker.welcome["max_body"] == 64 * 1024 * 1024
    client = broker.native_client(hello=False)
    welcome = client.hello(heartbeat=0.1)
    assert welcome["heartbeat"] == 5.0
    assert welcome["broker"] == worker.welcome["broker"]


@pytest.mark.parametrize("proposed", [0, -1.0, 1e9, float("nan"), float("inf"), "soon", 2**2000])
def test_odd_heartbeat_proposals_end_within_bounds(
    broker: Broker, service: bytes, proposed: Any
) -> None:
    worker = broker.native_worker()
    worker.register(service, heartbeat=proposed)
    message = worker.receive()
    if message.command == WELCOME:
        assert 0.1 <= payload.decode_map(message.body)["heartbeat"] <= 10.0
    else:
        assert message.command == GOODBYE


@pytest.mark.parametrize(
    "name", [b"mmi.x", b"mmi.", b".a", b"a.", b".", b"\xff\xfe", b"", b"mesh.broker"]
)
def test_names_that_no_worker_may_have(broker: Broker, name: bytes) -> None:
    worker = broker.native_worker()
    worker.register(name)
    expect_goodbye(worker)


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",
        payload.encode([]),
        payload.encode({1: 2}),
        payload.encode({"lanes": {}}),
        payload.encode({"lanes": []}),
        payload.encode({"lanes": {"": 0}}),
        payload.encode({"lanes": {"": -1}}),
        payload.encode({"lanes": {"": "many"}}),
        payload.encode({"lanes": {"": 1.5}}),
        payload.encode({"lanes": {1: 1}}),
        payload.encode({"lanes": {str(n): 1 for n in range(1000)}}),
        payload.encode({"methods": []}),
        payload.encode({"methods": {"m": []}}),
        payload.encode({"methods": {1: {}}}),
        payload.encode({"methods": {"m": {"lane": 1}}}),
        payload.encode({"methods": {str(n): {} for n in range(100_000)}}),
    ],
)
def test_ready_with_a_wrong_map_is_refused(broker: Broker, service: bytes, body: bytes) -> None:
    worker = broker.native_worker()
    worker.send(READY, service=service, frames=[body])
    expect_goodbye(worker)
    assert broker.workers_of(service) == 0


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


ODD_VALUES = {
    "too many digits to print": 10**5000,
    "too deep to print": deep(300),
    "map": {"a": b"\xff"},
    "nothing": None,
    "not a number": float("nan"),
    "more than 64 bits": 2**70,
}


@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES)
@pytest.mark.parametrize(
    "key",
    ["capabilities", "heartbeat", "instance", "version", "host", "pid", "name", "mdp", "unknown"],
)
def test_odd_values_in_maps_are_survived(
    broker: Broker, service: bytes, key: str, value: Any
) -> None:
    worker = broker.native_worker()
    worker.register(service, **{key: value})
    assert worker.receive().command in (WELCOME, GOODBYE)
    client = broker.native_client(hello=False)
    client.send(HELLO, incarnation=1, frames=[payload.encode({key: value})])
    broker.assert_alive()
    assert broker.native_client().status()["broker"]  # what was taken in can also be told


def test_a_large_window_is_cut_down(broker: Broker, service: bytes) -> None:
    broker.native_worker(service, lanes={"": 2**63})
    client = broker.native_client()
    [found] = [one for one in client.status()["services"] if one["name"] == service.decode()]
    assert 0 < found["credit"] <= 1_000_000


@pytest.mark.parametrize(
    "command",
    [WELCOME, HEARTBEAT, CAPACITY, PARTIAL, FINAL, ERROR],
)
def test_workers_begin_with_ready(broker: Broker, service: bytes, command: int) -> None:
    stranger = broker.native_worker()
    stranger.send(command, service=service if command == CAPACITY else b"", tag=1, credit=1)
    expect_goodbye(stranger)
    stranger.register(service)
    stranger.expect_nothing()
    assert broker.workers_of(service) == 0


def test_ready_twice(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service)
    worker.register(service)
    expect_goodbye(worker)
    assert broker.workers_of(service) == 0
    worker.register(service)
    worker.expect_nothing()


@pytest.mark.parametrize("command", [HELLO, REQUEST, WELCOME])
def test_a_worker_is_no_client(broker: Broker, service: bytes, command: int) -> None:
    worker = broker.native_worker(service)
    worker.send(command, service=service if command == REQUEST else b"", sequence=1, incarnation=1)
    expect_goodbye(worker)
    assert broker.workers_of(service) == 0


# ------------------------------------------------------------------------------ a call


@pytest.mark.parametrize("flags", [0, IDEMPOTENT, BATCH, IDEMPOTENT | BATCH, RAW, 0xC0])
@pytest.mark.parametrize("frames", [[b""], [b"body"], [b"body", b"metadata"], [b"x" * 300_000]])
def test_a_call_there_and_back(
    broker: Broker, service: bytes, flags: int, frames: list[bytes]
) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    sequence = client.request(service, b"method", flags, frames=frames, priority=BULK)
    request = worker.work()
    assert request.tag
    assert 0 < request.timeout <= 30.0
    expected = Message(
        REQUEST,
        flags,
        BULK,
        tag=request.tag,
        timeout=request.timeout,
        incarnation=INCARNATION,
        sequence=sequence,
        service=service,
        method=b"method",
        frames=frames,
    )
    assert request == expected
    worker.answer(request, flags=flags & (BATCH | RAW), frames=frames)
    reply = client.take(FINAL)
    assert (reply.incarnation, reply.sequence) == (INCARNATION, sequence)
    assert reply.flags == flags & (IDEMPOTENT | BATCH | RAW)
    assert list(reply.frames) == frames


def test_a_service_that_declares_a_method_idempotent_says_so_to_its_callers(
    broker: Broker, service: bytes
) -> None:
    worker = broker.native_worker(service, methods={"read": {"idempotent": True}, "write": {}})
    client = broker.native_client()
    for method, flag in ((b"read", IDEMPOTENT), (b"write", 0)):
        client.request(service, method)
        worker.answer(worker.work())
        assert client.take(FINAL).flags == flag
        client.request(service, method)
        worker.answer(worker.work(), ERROR, code=errors.REMOTE_ERROR)
        assert client.take(ERROR).flags & IDEMPOTENT == flag


@pytest.mark.parametrize("code", [3, 5, 9, 14, 63, 64, 255])
def test_error_codes_pass_through(broker: Broker, service: bytes, code: int) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    sequence = client.request(service)
    body = payload.encode({"message": "no", "kind": "E"})
    worker.answer(worker.work(), ERROR, STARTED, code=code, frames=[body])
    error = client.take(ERROR)
    assert (error.code, error.sequence, error.body) == (code, sequence, body)
    assert error.flags & STARTED


def test_hello_may_be_left_out(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client(hello=False)
    client.request(service)
    worker.answer(worker.work())
    client.take(FINAL)


def test_time_limits_are_bounded(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service, lanes={"": 2})
    client = broker.native_client()
    client.request(service, timeout=4000.0)
    client.request(service, timeout=0.0)
    assert 0 < worker.work().timeout <= 300.0
    assert 0 < worker.work().timeout <= 30.0


def test_a_body_above_the_limit_is_refused(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    sequence = client.request(service, frames=[bytes(64 * 1024 * 1024 + 1)])
    expect_error(client, errors.TOO_LARGE, sequence, started=False)
    worker.expect_nothing(0.05)


def test_a_request_id_that_is_open_is_dropped(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service, lanes={"": 2})
    client = broker.native_client()
    client.request(service, sequence=77)
    client.request(service, sequence=77)
    request = worker.work()
    worker.expect_nothing(0.05)
    other = broker.native_client()  # ids are per connection
    other.request(service, sequence=77)
    worker.answer(worker.work())
    other.take(FINAL)
    worker.answer(request)
    client.take(FINAL)
    client.expect_nothing(0.05)
    client.request(service, sequence=77)  # it has ended: a retry
    worker.answer(worker.work())
    client.take(FINAL)


def test_a_request_without_id_is_dropped(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service, lanes={"": 9})
    for client in (broker.native_client(), broker.native_client(hello=False)):
        for code in (0, 1, 2, 3, 99):
            client.send(REQUEST, service=service, incarnation=1, code=code, frames=[b""])
    worker.expect_nothing()


def test_a_tag_that_is_not_open_is_dropped(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service, lanes={"": 2})
    client = broker.native_client()
    sequence = client.request(service)
    request = worker.work()
    for command in (FINAL, ERROR, PARTIAL, CREDIT):
        for tag in (0, request.tag + 1, 2**64 - 1):
            worker.send(command, tag=tag, incarnation=INCARNATION, sequence=sequence)
    worker.answer(request)
    worker.answer(request)
    assert client.take(FINAL).sequence == sequence
    client.expect_nothing(0.05)
    assert broker.workers_of(service) == 1


def test_a_worker_cannot_answer_for_another(broker: Broker, service: bytes) -> None:
    honest = broker.native_worker(service)
    client = broker.native_client()
    client.request(service)
    request = honest.work()
    thief = broker.native_worker(service)
    thief.answer(request, frames=[payload.encode("stolen")])
    honest.answer(request, frames=[payload.encode("honest")])
    assert payload.decode(client.take(FINAL).body) == "honest"
    client.expect_nothing(0.05)


INVALID = [
    [b"\xe5"],
    [b"\xe5\x01"],
    [b"\xe5\x02" + bytes(38)],
    [b"\xe5\x01\x00" + bytes(37)],
    [b"\xe5\x01\x10" + bytes(37)],
    [b"\xe5\x01\xff" + bytes(37)],
    [b"\xe5\x01\x08" + bytes(36)],
    [b"\xe5\x01\x08\x00\x04" + bytes(35)],
    [b"\xe5\x01\x08\x00\x00\x00\x04\x00" + bytes(32) + b"abc"],
    [b"\xe5\x01\x08\x00\x00\x00\xff\x00" + bytes(32) + b"x" * 255],
    [b"\xe5\x01\x08" + bytes(37), b"1", b"2", b"3"],
    [b"\xe5\x01\x08" + bytes(37) + b"x" * 100_000],
    [b"", b"\xe5\x01\x04" + bytes(37)],
    [b"", b"MDPC01", b"another dialect", b"x"],
]


@pytest.mark.parametrize("frames", INVALID, ids=lambda frames: repr(frames)[:40])
def test_what_does_not_parse_is_dropped_and_nothing_else(
    broker: Broker, service: bytes, frames: list[bytes]
) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    before = sum(count for reason, count in counters(client).items() if "invalid" in reason)
    worker.send_frames(*frames)
    client.send_frames(*frames)
    client.request(service)
    worker.answer(worker.work())
    client.take(FINAL)
    after = sum(count for reason, count in counters(client).items() if "invalid" in reason)
    assert after == before + 2


def test_mmi_for_native_clients(broker: Broker, service: bytes) -> None:
    client = broker.native_client()
    broker.native_worker(service)

    def ask(verb: bytes, *arguments: Any) -> list[bytes]:
        client.request(b"mmi", verb, frames=[payload.encode([list(arguments)])])
        reply = client.take(FINAL)
        assert reply.flags & RAW
        return [bytes(frame) for frame in reply.frames]  # type: ignore[arg-type]

    assert ask(b"service", service.decode()) == [b"200"]
    assert ask(b"service", "nobody") == [b"404"]
    assert ask(b"service") == ask(b"service", 7) == ask(b"service", []) == [b"404"]
    assert ask(b"workers", service.decode()) == [b"1"]
    assert service in ask(b"services")
    assert ask(b"other") == [b"501"]


# ------------------------------------------------------------------------------ credit


def test_no_lane_gets_more_than_its_window(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service, lanes={"": 3, "w": 1}, methods={"write": {"lane": "w"}})
    client = broker.native_client()
    for _ in range(8):
        client.request(service)
        client.request(service, b"write")
    taken = [worker.work() for _ in range(4)]
    assert sorted(request.method for request in taken) == [b"m", b"m", b"m", b"write"]
    worker.expect_nothing()
    for request in taken:
        worker.answer(request)
        client.take(FINAL)
        following = worker.work()
        assert following.method == request.method
        worker.expect_nothing(0.02)


def test_capacity_changes_the_window(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    for _ in range(6):
        client.request(service)
    taken = [worker.work()]
    worker.expect_nothing(0.05)
    worker.send(CAPACITY, service=service, credit=3)
    taken += [worker.work(), worker.work()]
    worker.expect_nothing(0.05)
    worker.send(CAPACITY, service=service, credit=0)
    for request in taken:
        worker.answer(request)
    worker.expect_nothing(0.05)
    worker.send(CAPACITY, service=service, credit=2**32 - 1)
    for _ in range(3):
        worker.answer(worker.work())
    for _ in range(6):
        client.take(FINAL)


def test_not_started_goes_to_another_worker(broker: Broker, service: bytes) -> None:
    full = broker.native_worker(service)
    client = broker.native_client()
    sequence = client.request(service)  # neither idempotent nor started: safe all the same
    refused = full.work()
    free = broker.native_worker(service)
    full.answer(refused, ERROR, code=errors.NOT_STARTED)
    request = free.work()
    assert (request.incarnation, request.sequence) == (INCARNATION, sequence)
    assert request.tag != refused.tag
    full.answer(refused)  # too late
    free.answer(request, frames=[payload.encode("free")])
    assert payload.decode(client.take(FINAL).body) == "free"
    client.expect_nothing(0.05)


def test_a_worker_that_refuses_for_ever_cannot_spin_the_broker(
    broker: Broker, service: bytes
) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    client.request(service, timeout=0.5)
    refusals = 0
    ends_at = time.monotonic() + 0.4
    while time.monotonic() < ends_at and worker.socket.poll(100):
        worker.answer(worker.work(), ERROR, code=errors.NOT_STARTED)
        refusals += 1
    assert 1 <= refusals <= 100
    assert client.take(ERROR).code == errors.DEADLINE_EXCEEDED


def test_priorities_then_fairness_among_clients(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service)
    greedy, modest = broker.native_client(), broker.native_client()
    greedy.request(service, b"first")
    first = worker.work()
    for number in range(4):
        greedy.request(service, b"greedy%d" % number)
    greedy.status()  # and thereby sure that those have arrived
    for method, priority in ((b"bulk", BULK), (b"modest", NORMAL), (b"high", HIGH)):
        modest.request(service, method, priority=priority)
    modest.request(service, b"system", priority=SYSTEM)
    modest.status()
    order = []
    worker.answer(first)
    for _ in range(8):
        request = worker.work()
        order.append(request.method)
        worker.answer(request)
    assert order[:2] == [b"system", b"high"]
    assert b"modest" in order[2:4]
    assert order[-1] == b"bulk"
    assert [name for name in order if name.startswith(b"greedy")] == [
        b"greedy%d" % number for number in range(4)
    ]


# ------------------------------------------------------------------------------ ends of calls


def test_nobody_offers_it(broker: Broker, service: bytes) -> None:
    client = broker.native_client()
    began = time.monotonic()
    sequence = client.request(service)
    expect_error(client, errors.SERVICE_NOT_FOUND, sequence, started=False)
    assert time.monotonic() - began < 2.0  # the grace, not the deadline


def test_a_worker_that_comes_within_the_grace(broker_with: BrokerWith) -> None:
    broker = broker_with("--grace", "5")
    client = broker.native_client()
    client.request(b"late")
    worker = broker.native_worker(b"late")
    worker.answer(worker.work())
    client.take(FINAL)


def test_expired_requests_are_never_sent(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    client.request(service)
    busy_with = worker.work()
    sequence = client.request(service, timeout=0.2)
    expect_error(client, errors.DEADLINE_EXCEEDED, sequence, started=False)
    worker.answer(busy_with)
    client.take(FINAL)
    worker.expect_nothing()


def test_a_deadline_at_the_worker(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    sequence = client.request(service, timeout=0.2)
    request = worker.work()
    expect_error(client, errors.DEADLINE_EXCEEDED, sequence, started=True)
    assert worker.take(CANCEL).tag == request.tag
    client.request(service, b"next")
    worker.expect_nothing(0.05)  # its slot is taken until it answers
    worker.answer(request, ERROR, code=errors.CANCELLED)
    assert worker.work().method == b"next"
    client.expect_nothing(0.05)


def test_cancel_of_a_waiting_call(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    client.request(service)
    first = worker.work()
    sequence = client.request(service, b"unwanted")
    client.send(CANCEL, incarnation=INCARNATION, sequence=sequence)
    client.status()  # and thereby sure that the CANCEL has arrived
    client.request(service, b"wanted")
    worker.answer(first)
    assert worker.work().method == b"wanted"
    assert client.take(FINAL).sequence == 1
    client.expect_nothing(0.05)


def test_cancel_of_a_call_at_the_worker(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    sequence = client.request(service)
    request = worker.work()
    client.send(CANCEL, incarnation=INCARNATION, sequence=sequence)
    client.send(CANCEL, incarnation=INCARNATION, sequence=sequence)
    cancel = worker.take(CANCEL)
    assert cancel.tag == request.tag
    client.request(service, b"next")
    worker.expect_nothing(0.05)
    worker.answer(request, ERROR, code=errors.CANCELLED)
    assert worker.work().method == b"next"
    client.expect_nothing(0.05)


@pytest.mark.parametrize("goodbye", [True, False])
def test_calls_of_a_client_that_left_are_cancelled(
    broker: Broker, service: bytes, goodbye: bool
) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    client.request(service)
    client.request(service, b"waiting")
    request = worker.work()
    if goodbye:
        client.send(GOODBYE)
    else:
        client.close()
    assert worker.take(CANCEL).tag == request.tag
    worker.answer(request)
    worker.expect_nothing()


@pytest.mark.parametrize("goodbye", [True, False])
def test_a_lost_worker(broker: Broker, service: bytes, goodbye: bool) -> None:
    doomed = broker.native_worker(service, lanes={"": 3})
    client = broker.native_client()
    unsafe = client.request(service, b"unsafe")
    safe = client.request(service, b"safe", IDEMPOTENT)
    begun = client.request(service, b"begun", IDEMPOTENT | STREAM, credit=5)
    requests = {request.sequence: request for request in (doomed.work() for _ in range(3))}
    doomed.answer(requests[begun], PARTIAL, credit=1, frames=[payload.encode(1)])
    assert client.take(PARTIAL).sequence == begun
    heir = broker.native_worker(service, lanes={"": 3})
    began = time.monotonic()
    if goodbye:
        doomed.send(GOODBYE)
    else:
        doomed.close()
    ended = {error.sequence: error for error in (client.take(ERROR), client.take(ERROR))}
    assert time.monotonic() - began < 1.0
    assert set(ended) == {unsafe, begun}
    for error in ended.values():
        assert error.code == errors.WORKER_LOST
        assert error.flags & STARTED
    request = heir.work()
    assert request.sequence == safe
    heir.answer(request)
    assert client.take(FINAL).sequence == safe


def test_a_request_that_kills_every_worker_ends(broker: Broker, service: bytes) -> None:
    client = broker.native_client()
    sequence = client.request(service, flags=IDEMPOTENT)
    for _ in range(10):
        victim = broker.native_worker(service)
        if not victim.socket.poll(300):
            break
        assert victim.work().sequence == sequence
        victim.close()
    else:
        pytest.fail("it was given to ten workers")
    assert client.take(ERROR).code == errors.WORKER_LOST


# ------------------------------------------------------------------------------ streams


def test_partials_within_their_credit(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    sequence = client.request(service, flags=STREAM, credit=3)
    request = worker.work()
    assert (request.flags & STREAM, request.credit) == (STREAM, 3)
    worker.answer(request, PARTIAL, credit=1, frames=[b"\x01"])
    worker.answer(request, PARTIAL, BATCH, credit=2, frames=[b"\x92\x02\x03"])
    first, second = client.take(PARTIAL), client.take(PARTIAL)
    assert (first.sequence, first.credit, first.body) == (sequence, 1, b"\x01")
    assert (second.flags & BATCH, second.credit) == (BATCH, 2)
    client.send(CREDIT, incarnation=INCARNATION, sequence=sequence, credit=1)
    grant = worker.take(CREDIT)
    assert (grant.tag, grant.credit) == (request.tag, 1)
    worker.answer(request, PARTIAL, credit=1, frames=[b"\x04"])
    worker.answer(request, frames=[])
    assert client.take(PARTIAL).body == b"\x04"
    assert client.take(FINAL).sequence == sequence


@pytest.mark.parametrize("sizes", [[4], [1, 1, 1, 1], [2, 2], [2**32 - 1]])
def test_partials_beyond_their_credit(broker: Broker, service: bytes, sizes: list[int]) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    sequence = client.request(service, flags=STREAM, credit=3)
    request = worker.work()
    for size in sizes:
        worker.answer(request, PARTIAL, BATCH, credit=size, frames=[b"\x90"])
    message = client.receive()
    received = 0
    while message.command == PARTIAL:
        received += message.credit
        message = client.receive()
    assert received <= 3
    assert (message.command, message.code) == (ERROR, errors.PROTOCOL)
    assert message.sequence == sequence
    expect_goodbye(worker)
    assert broker.workers_of(service) == 0


def test_partials_that_nobody_asked_for(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    sequence = client.request(service, credit=100)
    worker.answer(worker.work(), PARTIAL, credit=1, frames=[b"\x01"])
    expect_error(client, errors.PROTOCOL, sequence, started=True)
    expect_goodbye(worker)


def test_credit_granted_while_the_request_waits_counts(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    client.request(service)
    first = worker.work()
    sequence = client.request(service, flags=STREAM, credit=1)
    client.send(CREDIT, incarnation=INCARNATION, sequence=sequence, credit=4)
    client.status()
    worker.answer(first)
    client.take(FINAL)
    assert worker.work().credit == 5


def test_credit_cannot_overflow(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    client.request(service)
    first = worker.work()
    sequence = client.request(service, flags=STREAM, credit=2**32 - 1)
    for _ in range(3):
        client.send(CREDIT, incarnation=INCARNATION, sequence=sequence, credit=2**32 - 1)
    client.status()
    worker.answer(first)
    client.take(FINAL)
    assert worker.work().sequence == sequence


def test_chunks_within_their_credit(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    sequence = client.request(service, flags=MORE)
    request = worker.work()
    assert request.flags & MORE
    worker.answer(request, CREDIT, credit=3)
    grant = client.take(CREDIT)
    assert (grant.sequence, grant.incarnation, grant.credit) == (sequence, INCARNATION, 3)
    ids: dict[str, Any] = {"incarnation": INCARNATION, "sequence": sequence}
    client.send(CHUNK, credit=1, frames=[b"\x01"], **ids)
    client.send(CHUNK, BATCH, credit=2, frames=[b"\x92\x02\x03"], **ids)
    client.send(END, **ids)
    chunks = [worker.take(CHUNK), worker.take(CHUNK)]
    assert [(chunk.tag, chunk.credit) for chunk in chunks] == [(request.tag, 1), (request.tag, 2)]
    assert worker.take(END).tag == request.tag
    worker.answer(request)
    client.take(FINAL)


@pytest.mark.parametrize("granted", [0, 1])
def test_chunks_beyond_their_credit(broker: Broker, service: bytes, granted: int) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    sequence = client.request(service, flags=MORE)
    request = worker.work()
    if granted:
        worker.answer(request, CREDIT, credit=granted)
        client.take(CREDIT)
    for _ in range(granted + 1):
        client.send(CHUNK, credit=1, incarnation=INCARNATION, sequence=sequence, frames=[b"\x01"])
    expect_error(client, errors.PROTOCOL, sequence, started=True)
    for _ in range(granted):
        worker.take(CHUNK)
    assert worker.take(CANCEL).tag == request.tag
    worker.answer(request, ERROR, code=errors.CANCELLED)
    client.request(service, b"next")
    assert worker.work().method == b"next"


def test_a_stream_that_its_client_gives_up(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service)
    client = broker.native_client()
    sequence = client.request(service, flags=MORE)
    request = worker.work()
    body = payload.encode({"message": "the iterator raised"})
    client.send(END, code=9, incarnation=INCARNATION, sequence=sequence, frames=[body])
    end = worker.take(END)
    assert (end.tag, end.code, end.body) == (request.tag, 9, body)


# ------------------------------------------------------------------------------ heartbeats


def test_heartbeats_of_the_broker(broker_with: BrokerWith) -> None:
    broker = broker_with("--heartbeat", "0.2")
    worker = broker.native_worker(b"echo")
    assert worker.welcome["heartbeat"] == 0.2
    for _ in range(3):
        began = time.monotonic()
        assert native.decode(worker.receive_frames()).command == HEARTBEAT
        assert time.monotonic() - began < 0.6
        worker.send(HEARTBEAT)
    client = broker.native_client()
    client.expect_nothing(0.3)
    assert not client.socket.poll(300), "clients get a HEARTBEAT only in answer to theirs"
    client.send(HEARTBEAT)
    assert native.decode(client.receive_frames()).command == HEARTBEAT


def test_a_silent_worker_is_suspect_and_then_lost(broker_with: BrokerWith) -> None:
    broker = broker_with("--heartbeat", "0.2", "--grace", "30")
    worker = broker.native_worker(b"echo")
    client = broker.native_client()
    time.sleep(0.8)  # its silence is what is tested
    sequence = client.request(b"echo", flags=IDEMPOTENT)
    worker.expect_nothing(0.1)
    worker.send(HEARTBEAT)  # any sign of life clears it
    request = worker.work()
    worker.answer(request)
    assert client.take(FINAL).sequence == sequence
    assert worker.take(GOODBYE)
    assert broker.workers_of(b"echo") == 0


def test_a_busy_silent_worker_is_given_longer(broker_with: BrokerWith) -> None:
    broker = broker_with("--heartbeat", "0.1")
    worker = broker.native_worker(b"echo")
    client = broker.native_client()
    sequence = client.request(b"echo")
    request = worker.work()
    client.expect_nothing(2.0)  # twenty intervals; the connection stands
    worker.answer(request)
    assert client.take(FINAL).sequence == sequence


# ------------------------------------------------------------------------------ leaving


def test_a_draining_worker(broker: Broker, service: bytes) -> None:
    worker = broker.native_worker(service, lanes={"": 2})
    client = broker.native_client()
    client.request(service)
    request = worker.work()
    worker.send(DRAIN)
    assert worker.take(DRAIN)
    client.request(service, b"next", timeout=10.0)
    worker.expect_nothing()
    worker.answer(request)
    assert client.take(FINAL).sequence == request.sequence
    heir = broker.native_worker(service)
    assert heir.work().method == b"next"
    worker.send(GOODBYE)
    broker.await_workers(service, 1)


def test_a_draining_broker(broker_with: BrokerWith) -> None:
    broker = broker_with()
    worker = broker.native_worker(b"echo", lanes={"": 9})
    client = broker.native_client()
    idle = broker.native_client()
    sequence = client.request(b"echo")
    request = worker.work()
    broker.child.send_signal(signal.SIGTERM)
    for peer in (client, idle, worker):
        peer.take(DRAIN)
    refused = client.request(b"echo", b"too late")
    error = client.take(ERROR)
    assert (error.code, error.sequence) == (errors.DRAINING, refused)
    for peer in (client, idle):
        peer.send(DRAIN)
    worker.answer(request)
    assert client.take(FINAL).sequence == sequence
    for peer in (client, idle, worker):
        peer.take(GOODBYE)
    assert broker.child.wait() == 0


def test_a_broker_drains_no_longer_than_its_timeout(broker_with: BrokerWith) -> None:
    broker = broker_with("--drain-timeout", "0.3")
    worker = broker.native_worker(b"echo")
    client = broker.native_client()
    client.request(b"echo")
    worker.work()
    broker.child.send_signal(signal.SIGTERM)
    for peer in (client, worker):
        peer.take(DRAIN)
        peer.take(GOODBYE)
    assert broker.child.wait() == 0


def test_sigint_twice_leaves_at_once(broker_with: BrokerWith) -> None:
    broker = broker_with()
    worker = broker.native_worker(b"echo")
    client = broker.native_client()
    client.request(b"echo")
    worker.work()
    broker.child.send_signal(signal.SIGINT)
    client.take(DRAIN)
    broker.child.send_signal(signal.SIGINT)
    client.take(GOODBYE)
    assert broker.child.wait(timeout=PATIENCE) == 0


def test_every_pair_of_commands_is_survived(broker_with: BrokerWith) -> None:
    """From every kind of peer, any command after any other: the broker never minds."""
    broker = broker_with("--heartbeat", "5", "--grace", "0.05")
    commands = range(1, 16)
    for first, second in itertools.product(commands, commands):
        for flags in (0, MORE | STREAM):
            peer = broker.native_client(hello=False)
            for command in (first, second):
                peer.send(
                    command,
                    flags,
                    service=b"s" if command in (READY, CAPACITY, REQUEST) else b"",
                    sequence=1,
                    incarnation=1,
                    tag=1,
                    credit=1,
                    code=errors.NOT_STARTED if command == ERROR else 0,
                    frames=[payload.encode({})] if command in (HELLO, READY) else [],
                )
        if second == commands[-1]:
            broker.close_peers()
    broker.assert_alive()
