"""Our service runtime against a broker that misbehaves, or leaves, or says nothing."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from mesh import Service, Stream, errors
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
    IDEMPOTENT,
    MORE,
    NORMAL,
    PARTIAL,
    RAW,
    READY,
    REQUEST,
    STARTED,
    STREAM,
    WELCOME,
    Body,
    Message,
)
from mesh.service.runtime import Runtime
from tests.conformance.fake_broker import GARBAGE, FakeBroker
from tests.conformance.raw import INCARNATION, PATIENCE

TAGS = itertools.count(1000)


class Hand:
    """What the tests hold handlers with."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.started = 0
        self.cancelled = threading.Event()
        self.closed = threading.Event()


def make_service(hand: Hand) -> Service:
    service = Service("work", version="1.2.3", threads=2)

    @service.rpc(idempotent=True)
    async def echo(value: Any, *, twice: bool = False) -> Any:
        return [value, value] if twice else value

    @service.rpc
    def hold() -> str:
        hand.started += 1
        hand.release.wait(PATIENCE)
        return "released"

    @service.rpc
    async def sleep() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            hand.cancelled.set()
            raise

    @service.rpc
    async def fail() -> None:
        raise LookupError("not there")

    @service.rpc
    async def unpackable() -> Any:
        return object()

    @service.rpc
    async def count(to: int) -> AsyncIterator[int]:
        try:
            for number in range(to):
                yield number
        finally:
            hand.closed.set()

    @service.rpc
    async def total(chunks: Stream[int]) -> int:
        return sum([chunk async for chunk in chunks])

    @service.rpc
    async def join(*frames: bytes) -> bytes:
        return b"+".join(frames)

    return service


@pytest.fixture
def hand() -> Iterator[Hand]:
    made = Hand()
    yield made
    made.release.set()


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as made:
        yield made


@pytest.fixture
def runtime(broker: FakeBroker, hand: Hand) -> Iterator[Runtime]:
    made = Runtime(make_service(hand), [broker.endpoint]).start()
    yield made
    hand.release.set()
    made.stop(timeout=0.5)


class Served:
    """A registered worker, seen from its broker."""

    def __init__(self, broker: FakeBroker) -> None:
        self.broker = broker
        self.peer, self.ready = broker.registered()

    def give(
        self,
        method: bytes,
        *arguments: Any,
        flags: int = 0,
        timeout: float = 10.0,
        credit: int = 0,
        frames: list[Body] | None = None,
    ) -> int:
        """Send a REQUEST; its tag."""
        tag = next(TAGS)
        self.broker.send(
            self.peer,
            REQUEST,
            flags,
            priority=NORMAL,
            service=b"work",
            method=method,
            tag=tag,
            timeout=timeout,
            credit=credit,
            incarnation=INCARNATION,
            sequence=tag,
            frames=[payload.encode([list(arguments)])] if frames is None else frames,
        )
        return tag

    def take(self, command: int, tag: int) -> Message:
        """The next message, which must be this command about this request."""
        peer, message = self.broker.take(command)
        assert peer == self.peer
        assert (message.tag, message.incarnation, message.sequence) == (tag, INCARNATION, tag)
        return message

    def result(self, tag: int) -> Any:
        return payload.decode(self.take(FINAL, tag).body)

    def error(self, tag: int, code: int, *, started: bool) -> dict[str, Any]:
        message = self.take(ERROR, tag)
        assert message.code == code, message
        assert bool(message.flags & STARTED) == started
        return payload.decode_map(message.body)

    def works(self) -> None:
        assert self.result(self.give(b"echo", "still here")) == "still here"


@pytest.fixture
def worker(broker: FakeBroker, runtime: Runtime) -> Served:
    return Served(broker)


def test_the_words_of_a_worker(worker: Served) -> None:
    ready = worker.ready
    assert (ready.command, ready.service) == (READY, b"work")
    fields = payload.decode_map(ready.body)
    assert fields["lanes"][""] > 0
    assert set(fields["methods"]) == {
        "echo", "hold", "sleep", "fail", "unpackable", "count", "total", "join"
    }  # fmt: skip
    assert fields["methods"]["echo"]["idempotent"] is True
    assert fields["methods"]["count"]["stream"] is True
    assert fields["version"] == "1.2.3"
    assert isinstance(fields["instance"], str)
    assert isinstance(fields["pid"], int)
    assert 0.1 <= fields["heartbeat"] <= 10.0
    assert worker.result(worker.give(b"echo", {"k": [1]})) == {"k": [1]}


def test_garbage_is_ignored(worker: Served) -> None:
    tag = worker.give(b"hold")
    for frames in GARBAGE:
        worker.broker.send_frames(worker.peer, *frames)
    worker.works()
    worker.broker.expect_nothing(0.05)
    assert tag


@pytest.mark.parametrize(
    "command", [HELLO, READY, CAPACITY, PARTIAL, FINAL, ERROR, CANCEL, CREDIT, CHUNK, END]
)
def test_what_is_not_about_a_request_is_ignored(worker: Served, command: int) -> None:
    for tag in (0, 1, 2**64 - 1):
        worker.broker.send(worker.peer, command, tag=tag, credit=5, frames=[b"\xc1"])
    worker.works()


@pytest.mark.parametrize(
    "fields",
    [
        {"heartbeat": 10**400},
        {"heartbeat": float("nan"), "brokers": -1, "capabilities": "all"},
        {"heartbeat": 1e-9},
        {"broker": 10**5000},
        {"broker": [[]], "brokers": 10**30, "max_body": -5},
        {"brokers": "many", "max_body": None},
        None,
    ],
    ids=lambda fields: ",".join(fields or ["none"]),
)
def test_an_odd_welcome_is_survived(worker: Served, fields: dict[str, Any] | None) -> None:
    body = b"\xc1" if fields is None else payload.encode(fields)
    worker.broker.send(worker.peer, WELCOME, frames=[body])
    worker.works()
    beats = worker.broker.beats
    worker.broker.expect_nothing(0.3)
    assert worker.broker.beats - beats <= 10, "it was talked into a flood of heartbeats"


def test_a_deeply_nested_welcome_is_survived(worker: Served) -> None:
    nested: list[Any] = []
    for _ in range(400):
        nested = [nested]
    worker.broker.send(worker.peer, WELCOME, frames=[payload.encode({"broker": nested})])
    worker.works()


# ------------------------------------------------------------------------------ outcomes


def test_an_unknown_method(worker: Served) -> None:
    worker.error(worker.give(b"nothing"), errors.METHOD_NOT_FOUND, started=False)
    worker.error(worker.give(b""), errors.METHOD_NOT_FOUND, started=False)
    worker.error(worker.give(b"\xff\xfe"), errors.METHOD_NOT_FOUND, started=False)
    worker.works()


@pytest.mark.parametrize(
    "body",
    [
        payload.encode([[]]),
        payload.encode([[1, 2]]),
        payload.encode([[1], {"unknown": 1}]),
        payload.encode([[1], {1: 1}]),
        payload.encode([[1], [2]]),
        payload.encode([1]),
        payload.encode([[1], {}, 3]),
        payload.encode([]),
        payload.encode({}),
        payload.encode(None),
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5000,
    ],
)
def test_arguments_that_do_not_fit(worker: Served, body: bytes) -> None:
    tag = worker.give(b"echo", frames=[body])
    assert worker.error(tag, errors.INVALID_ARGUMENT, started=False)["message"]
    worker.works()


def test_a_request_without_a_body_is_answered(worker: Served) -> None:
    tag = worker.give(b"echo", frames=[])
    worker.error(tag, errors.INVALID_ARGUMENT, started=False)


def test_keywords(worker: Served) -> None:
    tag = worker.give(b"echo", frames=[payload.encode([[1], {"twice": True}])])
    assert worker.result(tag) == [1, 1]


def test_a_handler_that_raises(worker: Served) -> None:
    fields = worker.error(worker.give(b"fail"), errors.REMOTE_ERROR, started=True)
    assert fields["kind"] == "LookupError"
    assert fields["message"] == "not there"
    assert "traceback" not in fields


def test_a_result_that_cannot_travel(worker: Served) -> None:
    fields = worker.error(worker.give(b"unpackable"), errors.REMOTE_ERROR, started=True)
    assert "cannot be sent" in fields["message"]


def test_a_batch_has_an_outcome_for_each_call(worker: Served) -> None:
    calls = [[["a"]], [["b"], {"twice": True}], [[]], [], 7]
    message = worker.take(FINAL, worker.give(b"echo", flags=BATCH, frames=[payload.encode(calls)]))
    assert message.flags & BATCH
    outcomes = payload.decode(message.body)
    assert outcomes[:2] == [[0, "a"], [0, ["b", "b"]]]
    assert [code for code, _ in outcomes[2:]] == [errors.INVALID_ARGUMENT] * 3


@pytest.mark.parametrize("body", [b"\xc1", payload.encode(7), payload.encode({"a": 1})])
def test_a_batch_that_is_none(worker: Served, body: bytes) -> None:
    tag = worker.give(b"echo", flags=BATCH, frames=[body])
    worker.error(tag, errors.INVALID_ARGUMENT, started=False)
    worker.works()


@pytest.mark.parametrize("frames", [[], [b""], [b"a"], [b"a", b"", b"c"], [b"x"] * 900])
def test_raw_frames_are_arguments_and_results(worker: Served, frames: list[Body]) -> None:
    message = worker.take(FINAL, worker.give(b"join", flags=RAW, frames=frames))
    assert message.flags & RAW
    assert list(message.frames) == [b"+".join(map(bytes, frames))]  # type: ignore[arg-type]


def test_what_has_expired_is_not_begun(worker: Served, hand: Hand) -> None:
    worker.error(worker.give(b"hold", timeout=1e-6), errors.DEADLINE_EXCEEDED, started=False)
    assert hand.started == 0


def test_no_more_than_its_capacity(worker: Served, hand: Hand) -> None:
    capacity = payload.decode_map(worker.ready.body)["lanes"][""]
    tags = [worker.give(b"hold") for _ in range(capacity + 3)]
    refused = set()
    for _ in range(3):
        _, message = worker.broker.take(ERROR)
        assert message.code == errors.NOT_STARTED
        refused.add(message.tag)
    hand.release.set()
    answered = {worker.broker.take(FINAL)[1].tag for _ in range(capacity)}
    assert answered | refused == set(tags)


def test_cancel(worker: Served, hand: Hand) -> None:
    tag = worker.give(b"sleep")
    worker.works()
    worker.broker.send(worker.peer, CANCEL, tag=tag)
    worker.error(tag, errors.CANCELLED, started=True)
    assert hand.cancelled.wait(PATIENCE)
    worker.broker.send(worker.peer, CANCEL, tag=tag)
    worker.works()


# ------------------------------------------------------------------------------ streams


def items(message: Message) -> list[Any]:
    value = payload.decode(message.body)
    found = value if message.flags & BATCH else [value]
    assert len(found) == message.credit
    return list(found)


def test_no_more_items_than_granted(worker: Served) -> None:
    tag = worker.give(b"count", 7, flags=STREAM | IDEMPOTENT, credit=2)
    found: list[Any] = []
    for granted in (2, 5):
        while len(found) < granted:
            found += items(worker.take(PARTIAL, tag))
        assert len(found) == granted
        worker.broker.expect_nothing(0.1)
        worker.broker.send(worker.peer, CREDIT, tag=tag, credit=3 if granted == 2 else 2**32 - 1)
    while len(found) < 7:
        found += items(worker.take(PARTIAL, tag))
    assert found == list(range(7))
    assert len(worker.take(FINAL, tag).body) <= 1  # nil, or nothing


def test_cancel_reaches_a_waiting_generator(worker: Served, hand: Hand) -> None:
    tag = worker.give(b"count", 10**9, flags=STREAM, credit=1)
    assert items(worker.take(PARTIAL, tag)) == [0]
    worker.broker.send(worker.peer, CANCEL, tag=tag)
    worker.error(tag, errors.CANCELLED, started=True)
    assert hand.closed.wait(PATIENCE)


def give_stream(worker: Served) -> int:
    """A request whose only argument is a stream of the caller's."""
    mark = b"\x91\x91\xd4\x64\x00"  # [[ext 100]]: the place of the stream among the arguments
    tag = worker.give(b"total", flags=MORE, frames=[mark])
    assert worker.take(CREDIT, tag).credit > 0
    return tag


def test_chunks_of_a_caller(worker: Served) -> None:
    tag = give_stream(worker)
    worker.broker.send(worker.peer, CHUNK, tag=tag, credit=1, frames=[payload.encode(1)])
    worker.broker.send(
        worker.peer, CHUNK, BATCH, tag=tag, credit=2, frames=[payload.encode([10, 100])]
    )
    worker.broker.send(worker.peer, END, tag=tag)
    _, message = worker.broker.receive()
    while message.command == CREDIT:  # it may grant more as it reads
        _, message = worker.broker.receive()
    assert (message.command, message.tag) == (FINAL, tag)
    assert payload.decode(message.body) == 111


@pytest.mark.parametrize(
    ("flags", "body"), [(0, b"\xc1"), (BATCH, b"\xc1"), (BATCH, payload.encode(7))]
)
def test_chunks_that_are_none_end_the_call(worker: Served, flags: int, body: bytes) -> None:
    tag = give_stream(worker)
    worker.broker.send(worker.peer, CHUNK, flags, tag=tag, credit=1, frames=[body])
    worker.broker.send(worker.peer, END, tag=tag)
    assert worker.take(ERROR, tag).code
    worker.works()


def test_a_stream_that_its_caller_gives_up(worker: Served) -> None:
    tag = give_stream(worker)
    body = payload.encode({"message": "the iterator raised"})
    worker.broker.send(worker.peer, END, tag=tag, code=errors.REMOTE_ERROR, frames=[body])
    assert worker.take(ERROR, tag).code


# ------------------------------------------------------------------------------ leaving


def test_a_draining_broker_is_served_until_it_goes(worker: Served) -> None:
    worker.broker.send(worker.peer, DRAIN)
    worker.works()
    worker.broker.send(worker.peer, GOODBYE)
    new_peer, ready = worker.broker.registered(2)
    assert new_peer != worker.peer
    assert ready.service == b"work"
    worker.peer = new_peer
    worker.works()


def test_goodbye_is_followed_by_a_new_registration(worker: Served, hand: Hand) -> None:
    worker.give(b"sleep")
    worker.works()
    worker.broker.send(worker.peer, GOODBYE)
    worker.peer, again = worker.broker.registered(2)
    first = payload.decode_map(worker.ready.body)
    assert payload.decode_map(again.body)["instance"] == first["instance"]
    assert hand.cancelled.wait(PATIENCE)  # there is nobody to give its answer to
    worker.works()


def test_a_broker_that_returns_is_found_again(hand: Hand) -> None:
    with FakeBroker() as broker:
        runtime = Runtime(make_service(hand), [broker.endpoint]).start()
        broker.registered()
    try:
        with FakeBroker(endpoint=broker.endpoint) as again:
            began = time.monotonic()
            again.registered()
            assert time.monotonic() - began < 3.0
    finally:
        runtime.stop(timeout=0.2)


def test_a_silent_broker_is_left(hand: Hand) -> None:
    with FakeBroker(heartbeat=0.1) as broker:
        runtime = Runtime(make_service(hand), [broker.endpoint]).start()
        try:
            first, _ = broker.registered()
            began = time.monotonic()
            second, _ = broker.registered(2)
            assert second != first
            assert time.monotonic() - began > 0.7
            assert broker.beats >= 5
        finally:
            runtime.stop(timeout=0.2)


def test_a_broker_that_beats_is_stayed_with(hand: Hand) -> None:
    with FakeBroker(heartbeat=0.1) as broker:
        runtime = Runtime(make_service(hand), [broker.endpoint]).start()
        try:
            peer, _ = broker.registered()
            for _ in range(15):
                broker.send(peer, HEARTBEAT)
                broker.expect_nothing(0.1)
            assert len(broker.greeted) == 1
        finally:
            runtime.stop(timeout=0.2)


def test_stopping_finishes_first(
    broker: FakeBroker, runtime: Runtime, worker: Served, hand: Hand
) -> None:
    tag = worker.give(b"hold")
    worker.works()
    stopping = threading.Thread(target=runtime.stop)
    stopping.start()
    broker.take(DRAIN)
    late = worker.give(b"echo", 1)
    worker.error(late, errors.NOT_STARTED, started=False)
    hand.release.set()
    assert worker.result(tag) == "released"
    # It has read the DRAIN of the worker, and sends nothing new any more.
    broker.send(worker.peer, DRAIN, credit=1)
    broker.take(GOODBYE)
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
