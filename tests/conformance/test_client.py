"""Our clients against a broker that misbehaves, or leaves, or says nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from mesh import (
    BrokerLost,
    CallError,
    DeadlineExceeded,
    MeshError,
    RemoteError,
    connect,
    connect_async,
    errors,
)
from mesh.protocol import payload
from mesh.protocol.messages import (
    BATCH,
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
    PARTIAL,
    READY,
    REQUEST,
    STARTED,
    STREAM,
    WELCOME,
    Message,
)
from tests.conformance.fake_broker import GARBAGE, FakeBroker
from tests.conformance.raw import PATIENCE

Work = Callable[..., Any]
Run = Callable[[Work], "Future[Any]"]

YES = payload.encode("yes")
IGNORED = [HELLO, READY, CAPACITY, REQUEST, CHUNK, END, CANCEL, HEARTBEAT, CREDIT, PARTIAL, ERROR]


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as made:
        yield made


@pytest.fixture
def other() -> Iterator[FakeBroker]:
    with FakeBroker() as made:
        yield made


@pytest.fixture(params=["sync", "aio"])
def call(request: pytest.FixtureRequest) -> Iterator[Callable[..., Future[Any]]]:
    """`call(brokers, [arguments of calls], **options)` makes them one after the other, elsewhere.

    The future has the result of the last one.
    """

    def make_sync(endpoints: list[str], calls: list[tuple[Any, ...]], options: Any) -> Any:
        with connect(*endpoints, **options) as mesh:
            return [mesh.call(*arguments) for arguments in calls][-1]

    async def make_aio(endpoints: list[str], calls: list[tuple[Any, ...]], options: Any) -> Any:
        async with connect_async(*endpoints, **options) as mesh:
            return [await mesh.call(*arguments) for arguments in calls][-1]

    pool = ThreadPoolExecutor()

    def start(
        brokers: FakeBroker | list[FakeBroker], *calls: tuple[Any, ...], **options: Any
    ) -> Future[Any]:
        several = brokers if isinstance(brokers, list) else [brokers]
        endpoints = [broker.endpoint for broker in several]
        options.setdefault("timeout", 10.0)
        if request.param == "sync":
            return pool.submit(make_sync, endpoints, list(calls), options)
        return pool.submit(lambda: asyncio.run(make_aio(endpoints, list(calls), options)))

    yield start
    pool.shutdown()


Call = Callable[..., "Future[Any]"]


def test_the_words_of_a_client(broker: FakeBroker, call: Call) -> None:
    future = call(broker, ("shop.cart.total", "c1", 2))
    peer, request = broker.request()
    [(greeter, hello)] = broker.greeted
    assert greeter == peer
    assert hello.command == HELLO
    assert hello.incarnation == request.incarnation != 0
    assert isinstance(payload.decode_map(hello.body).get("pid"), int)
    assert (request.service, request.method) == (b"shop.cart", b"total")
    assert request.sequence == 1
    assert 9.0 < request.timeout <= 10.0
    assert [payload.decode(frame) for frame in request.frames] == [[["c1", 2]]]
    broker.answer(peer, request, FINAL, frames=[YES])
    assert future.result(PATIENCE) == "yes"


def test_garbage_is_ignored(broker: FakeBroker, call: Call) -> None:
    future = call(broker, ("a.b",))
    peer, request = broker.request()
    for frames in GARBAGE:
        broker.send_frames(peer, *frames)
    broker.answer(peer, request, FINAL, frames=[YES])
    assert future.result(PATIENCE) == "yes"


@pytest.mark.parametrize("command", IGNORED)
def test_what_is_not_for_this_call_is_ignored(broker: FakeBroker, call: Call, command: int) -> None:
    future = call(broker, ("a.b",))
    peer, request = broker.request()
    for ids in ((request.incarnation, 99), (request.incarnation ^ 1, request.sequence), (0, 0)):
        for code in (0, errors.REMOTE_ERROR, errors.DRAINING):
            broker.send(
                peer,
                command,
                incarnation=ids[0],
                sequence=ids[1],
                credit=3,
                code=code if command == ERROR else 0,
                frames=[YES],
            )
    broker.answer(peer, request, FINAL, frames=[YES])
    assert future.result(PATIENCE) == "yes"


@pytest.mark.parametrize("body", [b"", b"\xc1", payload.encode([1]), b"\x91" * 5000])
def test_an_odd_welcome_is_survived(broker: FakeBroker, call: Call, body: bytes) -> None:
    future = call(broker, ("a.b",))
    peer, request = broker.request()
    broker.send(peer, WELCOME, frames=[body])
    broker.send(peer, WELCOME, frames=[payload.encode({"heartbeat": 10**400, "max_body": "x"})])
    broker.send(peer, WELCOME, frames=[payload.encode({"heartbeat": float("nan"), "brokers": []})])
    broker.answer(peer, request, FINAL, frames=[YES])
    assert future.result(PATIENCE) == "yes"


def test_only_the_first_final_counts(broker: FakeBroker, call: Call) -> None:
    future = call(broker, ("a.b",), ("a.c",))
    peer, request = broker.request()
    for answer in ("first", "second"):
        broker.answer(peer, request, FINAL, frames=[payload.encode(answer)])
    peer, following = broker.request()
    assert following.sequence != request.sequence
    broker.answer(peer, request, FINAL, frames=[payload.encode("third")])
    broker.answer(peer, following, FINAL, frames=[YES])
    assert future.result(PATIENCE) == "yes"


@pytest.mark.parametrize("body", [b"\xc1", b"\x92\x01", b"\xdd\xff\xff\xff\xff"])
@pytest.mark.parametrize("flags", [0, BATCH])
def test_an_answer_that_is_no_value_is_an_error(
    broker: FakeBroker, call: Call, flags: int, body: bytes
) -> None:
    future = call(broker, ("a.b",), retries=0)
    peer, request = broker.request()
    broker.answer(peer, request, FINAL, flags, frames=[body])
    with pytest.raises(MeshError):
        future.result(PATIENCE)


@pytest.mark.parametrize("code", sorted({*errors.BY_CODE, 14, 63, 64, 255}))
def test_every_code_has_its_error(broker: FakeBroker, call: Call, code: int) -> None:
    future = call(broker, ("a.b",), retries=0)
    peer, request = broker.request()
    fields = {"message": "words", "kind": "Kind", "retry_after": 1.5, "data": {"k": 1}}
    broker.answer(peer, request, ERROR, STARTED, code=code, frames=[payload.encode(fields)])
    with pytest.raises(CallError) as caught:
        future.result(PATIENCE)
    assert type(caught.value) is errors.BY_CODE.get(code, RemoteError)
    assert caught.value.message == "words"
    assert caught.value.maybe_executed
    assert (caught.value.service, caught.value.method) == ("a", "b")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        payload.encode([1]),
        payload.encode({"message": 7, "kind": [1], "retry_after": "soon", "data": 3}),
        payload.encode({"retry_after": 10**400, "kind": 10**5000, "traceback": {}}),
        payload.encode({"retry_after": float("nan")}),
        payload.encode({"retry_after": -1e9}),
    ],
)
@pytest.mark.parametrize("code", [errors.REMOTE_ERROR, errors.OVERLOADED, 0])
def test_an_error_without_sense_is_still_an_error(
    broker: FakeBroker, call: Call, code: int, body: bytes
) -> None:
    future = call(broker, ("a.b",), retries=0)
    peer, request = broker.request()
    broker.answer(peer, request, ERROR, code=code, frames=[body])
    with pytest.raises(CallError) as caught:
        future.result(PATIENCE)
    assert str(caught.value)


def test_an_overloaded_service_is_asked_again_with_the_same_id(
    broker: FakeBroker, call: Call
) -> None:
    future = call(broker, ("a.b",))
    peer, request = broker.request()
    body = payload.encode({"message": "full", "retry_after": 0.05})
    broker.answer(peer, request, ERROR, code=errors.OVERLOADED, frames=[body])
    peer, again = broker.request()
    assert (again.incarnation, again.sequence) == (request.incarnation, request.sequence)
    assert again.timeout < request.timeout
    broker.answer(peer, again, FINAL, frames=[YES])
    assert future.result(PATIENCE) == "yes"


@pytest.mark.parametrize("retry_after", [float("nan"), float("inf"), 1e300, -5.0, "soon"])
def test_an_odd_time_to_come_back_is_survived(
    broker: FakeBroker, call: Call, retry_after: Any
) -> None:
    """Whatever it does about this call, it goes on, and makes the next one."""
    future = call(broker, ("a.b",), timeout=1.0)
    peer, request = broker.request()
    body = payload.encode({"retry_after": retry_after})
    broker.answer(peer, request, ERROR, code=errors.OVERLOADED, frames=[body])
    try:
        peer, request = broker.request(timeout=2.0)
    except AssertionError:  # nothing came: too far away to be worth the wait
        pass
    else:
        if request.command == REQUEST:
            broker.answer(peer, request, FINAL, frames=[YES])
    with contextlib.suppress(CallError):
        assert future.result(PATIENCE) == "yes"
    assert future.done()


def test_a_remote_error_is_an_answer(broker: FakeBroker, call: Call) -> None:
    future = call(broker, ("a.b",), idempotent=True)
    peer, request = broker.request()
    broker.answer(peer, request, ERROR, STARTED, code=errors.REMOTE_ERROR)
    with pytest.raises(RemoteError):
        future.result(PATIENCE)


# ------------------------------------------------------------------------------ leaving


def first_of(*brokers: FakeBroker) -> tuple[FakeBroker, FakeBroker, bytes, Message]:
    """The broker that was asked, the one that was not, and the request."""
    give_up_at = time.monotonic() + PATIENCE
    while time.monotonic() < give_up_at:
        for broker in brokers:
            if broker.socket.poll(10):
                found = broker._next(give_up_at)
                if found is not None:
                    [idle] = [each for each in brokers if each is not broker]
                    return broker, idle, *found
    raise AssertionError("nobody was asked")


def test_a_draining_broker_is_left_for_another(
    broker: FakeBroker, other: FakeBroker, call: Call
) -> None:
    future = call([broker, other], ("a.b",))
    asked, idle, peer, request = first_of(broker, other)
    asked.send(peer, DRAIN)
    asked.answer(peer, request, ERROR, code=errors.DRAINING)
    peer_there, again = idle.request()
    assert (again.incarnation, again.sequence) == (request.incarnation, request.sequence)
    asked.take(DRAIN)
    idle.answer(peer_there, again, FINAL, frames=[YES])
    assert future.result(PATIENCE) == "yes"


def test_a_draining_broker_still_answers_what_it_has(
    broker: FakeBroker, other: FakeBroker, call: Call
) -> None:
    future = call([broker, other], ("a.b",), ("a.c",))
    asked, idle, peer, request = first_of(broker, other)
    asked.send(peer, DRAIN)
    assert asked.take(DRAIN)[0] == peer
    asked.answer(peer, request, FINAL, frames=[YES])
    peer_there, following = idle.request()
    assert following.method == b"c"
    idle.answer(peer_there, following, FINAL, frames=[YES])
    assert future.result(PATIENCE) == "yes"


@pytest.mark.parametrize("how", ["goodbye", "gone"])
def test_a_lost_broker_ends_what_is_not_idempotent(call: Call, how: str) -> None:
    with FakeBroker() as broker:
        future = call(broker, ("a.b",))
        peer, _ = broker.request()
        if how == "goodbye":
            broker.send(peer, GOODBYE)
            with pytest.raises(BrokerLost) as caught:
                future.result(PATIENCE)
    if how == "gone":
        with pytest.raises(BrokerLost) as caught:
            future.result(PATIENCE)
    assert caught.value.maybe_executed
    assert not caught.value.retryable


def test_an_idempotent_call_is_sent_again_on_a_new_connection(
    broker: FakeBroker, call: Call
) -> None:
    future = call(broker, ("a.b",), idempotent=True)
    peer, request = broker.request()
    broker.send(peer, GOODBYE)
    while True:
        new_peer, again = broker.receive()
        if again.command != GOODBYE:  # the client may say it too
            break
    assert new_peer != peer
    assert (again.command, again.incarnation, again.sequence) == (
        REQUEST,
        request.incarnation,
        request.sequence,
    )
    broker.answer(new_peer, again, FINAL, frames=[YES])
    assert future.result(PATIENCE) == "yes"


def test_a_silent_broker_is_lost(call: Call) -> None:
    with FakeBroker(heartbeat=0.1) as broker:
        began = time.monotonic()
        future = call(broker, ("a.b",), retries=0)
        broker.request()
        with pytest.raises(BrokerLost):
            future.result(PATIENCE)
        # Ten intervals; an interval of its own proposal (0.5 s) would also be in order.
        assert 0.8 < time.monotonic() - began < 6.0
        while broker.socket.poll(0):
            broker._next(time.monotonic())
        assert broker.beats, "it had a call open and gave no sign of life"


def test_a_broker_that_beats_is_waited_for(call: Call) -> None:
    with FakeBroker(heartbeat=0.1) as broker:
        future = call(broker, ("a.b",))
        peer, request = broker.request()
        for _ in range(15):
            broker.send(peer, HEARTBEAT)
            broker.expect_nothing(0.1)
        broker.answer(peer, request, FINAL, frames=[YES])
        assert future.result(PATIENCE) == "yes"


def test_the_deadline_holds_whatever_the_broker_does(broker: FakeBroker, call: Call) -> None:
    began = time.monotonic()
    future = call(broker, ("a.b",), timeout=0.3)
    peer, request = broker.request()
    with pytest.raises(DeadlineExceeded) as caught:
        future.result(PATIENCE)
    assert 0.25 < time.monotonic() - began < 2.0
    assert caught.value.maybe_executed
    canceller, cancel = broker.take(CANCEL)
    assert (canceller, cancel.sequence) == (peer, request.sequence)


# ------------------------------------------------------------------------------ streams


def test_a_stream_is_granted_and_spent(broker: FakeBroker) -> None:
    with ThreadPoolExecutor() as pool, connect(broker.endpoint, timeout=10.0) as mesh:
        future = pool.submit(lambda: list(mesh.stream("a.count", 300)))
        peer, request = broker.request()
        assert request.flags & STREAM
        credit = request.credit
        assert credit > 0
        sent = 0
        while sent < 300:
            if not credit:
                _, grant = broker.take(CREDIT)
                assert grant.sequence == request.sequence
                assert grant.credit > 0
                credit += grant.credit
                continue
            size = min(credit, 300 - sent, 50)
            items = payload.encode(list(range(sent, sent + size)))
            broker.answer(peer, request, PARTIAL, BATCH, credit=size, frames=[items])
            credit -= size
            sent += size
        broker.answer(peer, request, FINAL)
        assert future.result(PATIENCE) == list(range(300))


@pytest.mark.parametrize(
    ("flags", "credit", "body"),
    [
        (0, 1, b"\xc1"),
        (BATCH, 2, b"\xc1"),
        (BATCH, 2, payload.encode(7)),
        (BATCH, 2, payload.encode({})),
    ],
)
def test_items_that_are_none_end_the_stream(
    broker: FakeBroker, flags: int, credit: int, body: bytes
) -> None:
    with ThreadPoolExecutor() as pool, connect(broker.endpoint, timeout=3.0) as mesh:
        future = pool.submit(lambda: list(mesh.stream("a.count")))
        peer, request = broker.request()
        broker.answer(peer, request, PARTIAL, flags, credit=credit, frames=[body])
        broker.answer(peer, request, FINAL)
        with pytest.raises(MeshError):
            future.result(PATIENCE)


def test_a_stream_with_items_does_not_start_again(broker: FakeBroker) -> None:
    with ThreadPoolExecutor() as pool, connect(broker.endpoint, idempotent=True) as mesh:
        future = pool.submit(lambda: list(mesh.stream("a.count")))
        peer, request = broker.request()
        broker.answer(peer, request, PARTIAL, credit=1, frames=[YES])
        broker.send(peer, GOODBYE)
        with pytest.raises(BrokerLost):
            future.result(PATIENCE)
