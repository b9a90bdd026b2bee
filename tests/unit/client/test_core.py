"""Scripts for the client core: messages in, messages out, with a clock that the script moves."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from mesh import errors
from mesh.client.calls import ENDED, SENT, Call
from mesh.client.core import ClientCore, ClientSettings
from mesh.protocol import payload
from mesh.protocol.messages import (
    CANCEL,
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
    PARTIAL,
    REQUEST,
    STARTED,
    STREAM,
    WELCOME,
    Message,
)


class Script:
    """A core, the messages it has sent, and short ways to say what happens to it."""

    def __init__(self, brokers: int = 1, **settings: Any) -> None:
        self.now = 10.0
        self.core = ClientCore(
            [f"tcp://broker:{n}" for n in range(brokers)],
            ClientSettings(**settings),
            incarnation=5,
            rng=random.Random(3),
            now=self.now,
        )
        self.links: list[int] = []
        self.news: list[Call] = []

    def open(self) -> list[tuple[int, str]]:
        """The links to be opened now."""
        return [(n, e) for n, e in self.core.take_links() if e is not None]

    def up(self) -> int:
        """Open what is to be opened; the number of the last link."""
        for link, _ in self.open():
            self.core.connected(link, self.now)
            body = payload.encode({"heartbeat": 0.5})
            self.core.receive(link, Message(WELCOME, frames=[body]), self.now)
            assert [m.command for _, m in self.core.take()][:1] == [HELLO]
            self.links.append(link)
        return self.links[-1]

    def call(self, method: bytes = b"m", timeout: float = 5.0, **options: Any) -> Call:
        return self.core.call(
            b"s",
            method,
            [b"\x91\x90"],
            now=self.now,
            expires_at=self.now + timeout,
            **options,
        )

    def sent(self) -> list[tuple[int, Message]]:
        return self.core.take()

    def commands(self) -> list[int]:
        return [message.command for _, message in self.core.take()]

    def answer(self, call: Call, command: int = FINAL, **fields: Any) -> None:
        message = Message(command, incarnation=5, sequence=call.sequence, **fields)
        self.core.receive(call.link, message, self.now)

    def error(self, call: Call, code: int, flags: int = 0, **fields: Any) -> None:
        self.answer(call, ERROR, code=code, flags=flags, frames=[payload.encode(fields)])

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.core.tick(self.now)

    def wait_for_retry(self) -> None:
        """Let time pass in small steps until something is sent."""
        for _ in range(3000):
            self.wait(0.002)
            if self.core._out:
                return
        pytest.fail("nothing was sent")


@pytest.fixture
def script() -> Iterator[Script]:
    found = Script()
    yield found
    found.core.check()


def test_a_call_waits_for_a_connection_and_then_leaves(script: Script) -> None:
    call = script.call()
    assert script.sent() == []
    ((link, endpoint),) = script.open()
    assert endpoint == "tcp://broker:0"
    script.now += 1.0
    script.core.connected(link, script.now)
    hello, (where, request) = script.sent()
    assert hello[1].command == HELLO and hello[1].incarnation == 5
    assert where == link
    assert (request.command, request.service, request.method) == (REQUEST, b"s", b"m")
    assert (request.incarnation, request.sequence) == (5, call.sequence)
    assert request.timeout == pytest.approx(4.0)
    script.answer(call, frames=[b"\x07"])
    assert script.core.take_news() == [call]
    assert call.state == ENDED and call.reply is not None and call.error is None


def test_without_any_broker_the_deadline_says_so(script: Script) -> None:
    ((link, _),) = script.open()
    script.core.lost(link, script.now, "nobody answered there")
    call = script.call(timeout=1.0)
    script.wait(1.0)
    assert isinstance(call.error, errors.DeadlineExceeded)
    assert not call.error.maybe_executed
    assert "tcp://broker:0: nobody answered there" in str(call.error)


def test_a_lost_broker_is_connected_again_within_a_second(script: Script) -> None:
    delays = []
    for _ in range(12):
        ((link, _),) = script.open()
        script.core.lost(link, script.now)
        due = script.core.next_deadline()
        delays.append(due - script.now)
        script.now = due
        script.core.tick(due)
    assert delays[0] <= 0.02
    assert max(delays) <= 0.9


def test_a_lost_broker_ends_what_may_have_run(script: Script) -> None:
    link = script.up()
    call = script.call()
    script.sent()
    script.core.lost(link, script.now)
    assert isinstance(call.error, errors.BrokerLost)
    assert call.error.maybe_executed and not call.error.retryable


def test_what_had_not_left_when_the_broker_was_lost_is_sent_anew(script: Script) -> None:
    script.up()
    call = script.call()
    script.core.lost(script.links[-1], script.now)  # before the shell has taken it
    assert call.state != ENDED
    assert not call.maybe_executed


def test_a_lost_broker_does_not_end_what_may_run_twice(script: Script) -> None:
    link = script.up()
    call = script.call(idempotent=True)
    (first,) = script.sent()
    assert first[1].flags & IDEMPOTENT
    script.core.lost(link, script.now)
    script.wait(0.05)
    ((link, _),) = script.open()
    script.core.connected(link, script.now)
    again = script.sent()[-1]
    assert again[0] == link
    assert again[1].sequence == first[1].sequence and again[1].incarnation == 5
    assert again[1].timeout == pytest.approx(4.95)
    script.answer(call)
    assert call.error is None


def test_what_the_service_declares_is_remembered(script: Script) -> None:
    link = script.up()
    script.answer(script.call(), flags=IDEMPOTENT)
    call, other = script.call(), script.call(b"other")
    refused = script.call(idempotent=False)
    script.sent()
    script.core.lost(link, script.now)
    assert call.state != ENDED
    assert isinstance(other.error, errors.BrokerLost)
    assert isinstance(refused.error, errors.BrokerLost)


def test_a_call_that_never_left_is_moved(script: Script) -> None:
    link = script.up()
    call = script.call()
    ((_, request),) = script.sent()
    script.core.undelivered(link, request, script.now)
    script.core.lost(link, script.now)
    assert call.state != ENDED
    script.wait(0.05)
    script.up()
    assert call.state == SENT
    script.answer(call)
    assert call.error is None


def test_the_deadline_ends_a_call_here_and_there(script: Script) -> None:
    script.up()
    call = script.call(timeout=1.0)
    script.sent()
    script.wait(1.005)
    assert call.state == SENT  # the broker may still say whether it had begun
    script.wait(0.01)
    assert isinstance(call.error, errors.DeadlineExceeded)
    assert call.error.maybe_executed
    assert CANCEL in script.commands()
    script.core.receive(call.link, Message(FINAL, incarnation=5, sequence=1), script.now)
    assert script.core.counters["dropped:unknown_call"] == 1


def test_cancelling_tells_the_broker(script: Script) -> None:
    link = script.up()
    call = script.call()
    script.sent()
    script.core.cancel(call, script.now)
    assert isinstance(call.error, errors.Cancelled) and call.error.maybe_executed
    ((where, message),) = script.sent()
    assert (where, message.command, message.sequence) == (link, CANCEL, call.sequence)
    script.core.cancel(call, script.now)
    assert script.sent() == []


# -------------------------------------------------------------------- retries


def test_an_overloaded_service_is_asked_again_after_the_pause_it_wants(script: Script) -> None:
    script.up()
    call = script.call()
    script.sent()
    script.error(call, errors.OVERLOADED, message="full", retry_after=1.0)
    script.wait(0.999)
    assert script.sent() == []
    script.wait(0.051)
    assert script.commands() == [REQUEST]


def test_a_pause_beyond_the_deadline_is_an_error_now(script: Script) -> None:
    script.up()
    call = script.call(timeout=2.0)
    script.error(call, errors.OVERLOADED, message="full", retry_after=3.0)
    assert isinstance(call.error, errors.Overloaded)
    assert call.error.retry_after == 3.0 and call.error.retryable


def test_retries_are_counted(script: Script) -> None:
    script.up()
    call = script.call(retries=2, timeout=30.0)
    script.sent()
    for _ in range(2):
        script.error(call, errors.SERVICE_NOT_FOUND)
        assert call.state != ENDED
        script.wait_for_retry()
        assert script.commands() == [REQUEST]
    script.error(call, errors.SERVICE_NOT_FOUND, message="none")
    assert isinstance(call.error, errors.ServiceNotFound)
    assert call.error.service == "s" and call.error.method == "m"


def test_a_request_that_is_made_again_says_why() -> None:
    script = Script(brokers=2)
    script.up()
    call = script.call(idempotent=True, timeout=30.0)
    codes = []

    def look() -> None:
        codes.extend([m.code for _, m in script.sent() if m.command == REQUEST])

    look()
    for code in (errors.OVERLOADED, errors.NOT_STARTED):
        script.error(call, code)
        script.wait_for_retry()
        look()
    script.core.lost(call.link, script.now)
    look()
    script.wait(1.0)
    for link, _ in script.open():  # to the broker that was lost
        script.core.connected(link, script.now)
    script.sent()
    script.error(call, errors.DRAINING)
    look()
    again = [errors.OVERLOADED, errors.NOT_STARTED, errors.BROKER_LOST, errors.DRAINING]
    assert codes == [0, *again]


@pytest.mark.parametrize(
    ("code", "flags", "idempotent", "again"),
    [
        (errors.WORKER_LOST, STARTED, False, False),
        (errors.WORKER_LOST, STARTED, True, True),
        (errors.WORKER_LOST, 0, False, True),
        (errors.OVERLOADED, STARTED, False, False),
        (errors.REMOTE_ERROR, STARTED, True, False),
        (errors.INVALID_ARGUMENT, 0, True, False),
        (errors.METHOD_NOT_FOUND, 0, True, False),
        (errors.DEADLINE_EXCEEDED, 0, True, False),
        (errors.CANCELLED, 0, True, False),
        (200, STARTED, True, False),
    ],
)
def test_what_is_tried_again(
    script: Script, code: int, flags: int, idempotent: bool, again: bool
) -> None:
    script.up()
    call = script.call(idempotent=idempotent)
    script.sent()
    script.error(call, code, flags, message="x")
    assert (call.state != ENDED) == again
    if again:
        script.wait_for_retry()
        assert script.commands() == [REQUEST]
        script.answer(call)


def test_retries_end_with_their_budget() -> None:
    script = Script(breaker=no_breaker())
    script.up()
    ended = 0
    for _ in range(200):
        call = script.call(timeout=30.0)
        script.error(call, errors.SERVICE_NOT_FOUND)
        ended += call.state == ENDED
    # Ten saved at the start, and a tenth of the calls.
    assert 165 <= ended <= 172
    assert script.core.counters["refused:retry_budget"] == ended
    script.core.check()


def no_breaker() -> Any:
    from mesh.resilience import BreakerSettings

    return BreakerSettings(least=1_000_000)


def test_a_refusal_that_says_not_started_is_no_retry(script: Script) -> None:
    script.up()
    call = script.call(retries=0, timeout=30.0)
    for _ in range(20):
        script.sent()
        script.error(call, errors.NOT_STARTED)
        script.wait_for_retry()
    script.answer(call)
    assert call.error is None


def test_the_breaker_refuses_here_what_fails_there(script: Script) -> None:
    script.up()
    for _ in range(20):
        script.error(script.call(retries=0), errors.WORKER_LOST, STARTED)
    script.sent()
    with pytest.raises(errors.CircuitOpen) as caught:
        script.call()
    assert caught.value.retryable
    assert 4.0 < (caught.value.retry_after or 0.0) <= 5.0
    assert script.sent() == []
    script.core.call(b"t", b"m", [b""], now=script.now, expires_at=script.now + 1.0)
    script.wait(5.0)
    for _ in range(3):
        script.answer(script.call())
    script.answer(script.call())


def test_errors_of_handlers_do_not_open_the_breaker(script: Script) -> None:
    script.up()
    for code in [errors.REMOTE_ERROR, errors.INVALID_ARGUMENT, errors.METHOD_NOT_FOUND] * 20:
        script.error(script.call(), code, STARTED)
    script.answer(script.call())


# -------------------------------------------------------------------- several brokers


def test_a_draining_broker_gets_nothing_new_and_may_finish() -> None:
    script = Script(brokers=2)
    script.up()
    first = script.call()
    leaving = first.link
    script.sent()
    script.core.receive(leaving, Message(DRAIN), script.now)
    assert script.sent() == [(leaving, Message(DRAIN))]
    for _ in range(10):
        assert script.call().link != leaving
    script.answer(first)
    assert first.error is None
    script.core.receive(leaving, Message(GOODBYE), script.now)
    assert (leaving, None) in script.core.take_links()
    script.core.check()


def test_a_call_refused_by_a_draining_broker_goes_elsewhere_at_once() -> None:
    script = Script(brokers=2)
    script.up()
    call = script.call(retries=0)
    leaving = call.link
    script.sent()
    script.error(call, errors.DRAINING)
    assert call.state == SENT and call.link != leaving
    assert script.commands() == [DRAIN, REQUEST]
    script.core.check()


def test_a_single_draining_broker_is_not_asked_again_and_again(script: Script) -> None:
    script.up()
    call = script.call(timeout=2.0)
    script.sent()
    script.error(call, errors.DRAINING)
    assert script.commands() == [DRAIN]
    script.wait(1.0)
    assert script.commands() == []
    script.wait(1.0)
    assert isinstance(call.error, errors.DeadlineExceeded)


def test_the_broker_with_less_to_do_is_preferred() -> None:
    script = Script(brokers=2)
    script.up()
    calls = [script.call() for _ in range(100)]
    first = script.links[0]
    assert sum(call.link == first for call in calls) == 50
    for call in calls:
        if call.link == first:
            script.answer(call)
    assert all(script.call().link == first for _ in range(49))


def test_a_silent_broker_is_asked_and_then_given_up(script: Script) -> None:
    link = script.up()
    script.wait(60.0)
    assert script.commands() == []  # nothing is open: nothing to worry about
    call = script.call(timeout=30.0)
    script.sent()
    beats = 0
    for _ in range(70):
        script.wait(0.1)
        beats += script.commands().count(HEARTBEAT)
        if call.state == ENDED:
            break
    assert isinstance(call.error, errors.BrokerLost)
    assert 9 <= beats <= 11
    assert (link, None) in script.core.take_links()


def test_a_program_that_was_busy_does_not_blame_the_broker(script: Script) -> None:
    link = script.up()
    call = script.call(timeout=60.0)
    script.wait(30.0)
    assert HEARTBEAT in script.commands()
    script.core.receive(link, Message(HEARTBEAT), script.now)
    script.wait(4.9)
    assert call.state == SENT


# -------------------------------------------------------------------- streams


def test_a_reader_that_keeps_up_gets_a_growing_window(script: Script) -> None:
    script.up()
    call = script.call(flags=STREAM)
    ((_, request),) = script.sent()
    assert request.credit == 64
    reader = call.reader
    assert reader is not None
    granted = received = 64
    for _ in range(6):
        script.answer(call, PARTIAL, credit=received, frames=[b"x"])
        reader.inbox.clear()
        script.core.taken(call, received)
        ((_, grant),) = script.sent()
        assert grant.command == CREDIT
        received = grant.credit
        granted += received
    assert reader.window == 1024 and received == 1024


def test_a_window_is_bounded_in_octets_too(script: Script) -> None:
    script.up()
    call = script.call(flags=STREAM)
    reader = call.reader
    assert reader is not None
    for _ in range(30):
        count = min(reader.unseen, 32)
        script.answer(call, PARTIAL, credit=count, frames=[bytes(count * 65536)])
        reader.inbox.clear()
        script.core.taken(call, count)
    assert reader.window == 64


def test_a_fixed_window_stays(script: Script) -> None:
    script.up()
    call = script.call(flags=STREAM, credit=2)
    ((_, request),) = script.sent()
    assert request.credit == 2
    script.answer(call, PARTIAL, credit=1, frames=[b"x"])
    script.core.taken(call, 1)
    assert script.sent()[0][1].credit == 1


def test_a_stream_is_not_begun_anew_once_something_was_seen(script: Script) -> None:
    script.up()
    call = script.call(flags=STREAM, idempotent=True)
    script.answer(call, PARTIAL, credit=1, frames=[b"x"])
    script.error(call, errors.WORKER_LOST, STARTED)
    assert isinstance(call.error, errors.WorkerLost)


def test_the_caller_sends_no_more_items_than_were_granted(script: Script) -> None:
    script.up()
    call = script.call(flags=MORE)
    assert call.writer is not None and call.writer.room == 0
    script.answer(call, CREDIT, credit=2)
    script.core.chunk(call, 2, b"x")
    with pytest.raises(ValueError, match="exceed the credit"):
        script.core.chunk(call, 1, b"x")


@pytest.mark.parametrize("command", [CHUNK, END, CREDIT])
def test_a_part_of_a_stream_that_was_not_sent_ends_the_call(script: Script, command: int) -> None:
    script.up()
    call = script.call(flags=MORE | STREAM, idempotent=True)
    script.answer(call, CREDIT, credit=2)
    script.answer(call, PARTIAL, credit=64, frames=[b"x"])
    script.sent()
    if command == CREDIT:
        script.core.taken(call, 64)
    elif command == CHUNK:
        script.core.chunk(call, 2, b"x")
    else:
        script.core.finish(call)
    ((link, part),) = script.sent()
    assert part.command == command
    script.core.undelivered(link, part, script.now)
    assert isinstance(call.error, errors.BrokerLost)
    assert call.error.maybe_executed
    assert script.commands() == [CANCEL]
    assert call in script.core.take_news()
    assert not script.core.calls


def test_a_part_of_a_stream_that_has_ended_may_be_lost(script: Script) -> None:
    script.up()
    call = script.call(flags=MORE)
    script.answer(call, CREDIT, credit=2)
    script.sent()
    script.core.chunk(call, 2, b"x")
    ((link, part),) = script.sent()
    script.answer(call, FINAL)
    script.core.undelivered(link, part, script.now)
    assert call.error is None
    assert script.sent() == []


# -------------------------------------------------------------------- limits


def test_too_many_open_calls_are_refused() -> None:
    script = Script(max_calls=2)
    script.up()
    first = script.call()
    script.call()
    with pytest.raises(errors.Overloaded):
        script.call()
    script.answer(first)
    script.call()


def test_too_many_octets_are_refused() -> None:
    script = Script(max_bytes=5, max_body=4)
    script.up()
    with pytest.raises(errors.TooLarge):
        script.core.call(b"s", b"m", [b"12345"], now=script.now, expires_at=script.now + 1.0)
    script.call()
    script.call()
    with pytest.raises(errors.Overloaded):
        script.call()


def test_no_time_left_is_an_error_at_once(script: Script) -> None:
    script.up()
    with pytest.raises(errors.DeadlineExceeded):
        script.call(timeout=0.0)


def test_a_deadline_is_at_most_the_limit(script: Script) -> None:
    script.up()
    script.call(timeout=1e9)
    assert script.sent()[0][1].timeout == 300.0


def test_closing_ends_everything(script: Script) -> None:
    link = script.up()
    call = script.call()
    script.sent()
    script.core.close(script.now)
    assert isinstance(call.error, errors.Cancelled)
    assert script.sent() == [(link, Message(GOODBYE))]
    assert script.core.take_links() == [(link, None)]
    with pytest.raises(errors.Cancelled, match="closed"):
        script.call()


def test_ended_calls_leave_nothing_behind(script: Script) -> None:
    script.up()
    for _ in range(5000):
        script.answer(script.call(timeout=30.0))
    script.sent()
    script.core.take_news()
    assert len(script.core._expiries) < 1100
    assert script.core.bytes == 0 and not script.core.calls


def test_the_least_body_limit_of_the_brokers_holds_and_follows_their_restarts() -> None:
    script = Script(brokers=2, max_body=1000)
    links = [link for link, _ in script.open()]
    assert len(links) == 2

    def welcome(link: int, limit: object) -> None:
        script.core.connected(link, script.now)
        body = payload.encode({"heartbeat": 0.5, "max_body": limit})
        script.core.receive(link, Message(WELCOME, frames=[body]), script.now)

    def begin(size: int) -> None:
        script.core.call(b"s", b"m", [bytes(size)], now=script.now, expires_at=script.now + 5)

    welcome(links[0], 5000)
    begin(1000)
    with pytest.raises(errors.TooLarge, match="1,001 octets; the limit is 1,000"):
        begin(1001)
    welcome(links[1], 300)
    with pytest.raises(errors.TooLarge, match="301 octets; the limit is 300"):
        begin(301)
    for nonsense in (0, -1, "many", None, True):
        welcome(links[1], nonsense)
    begin(300)
    welcome(links[1], 400)
    begin(400)


# -------------------------------------------------------------------- brokers that come and go


def test_brokers_that_come_and_go() -> None:
    script = Script()
    old = script.up()
    call = script.call()
    script.sent()
    script.core.aim(["tcp://new:1"], "", script.now)
    assert [endpoint for _, endpoint in script.open()] == ["tcp://new:1"]
    script.answer(call)  # the old one still serves what it has
    assert call.error is None
    script.core.lost(old, script.now)
    script.core.check()
    script.wait(60.0)
    assert "tcp://broker:0" not in [endpoint for _, endpoint in script.open()]


def test_a_broker_that_is_named_again_keeps_its_connection(script: Script) -> None:
    link = script.up()
    script.core.aim([], "", script.now)
    script.core.aim(["tcp://broker:0"], "", script.now)
    assert script.open() == []
    script.core.lost(link, script.now)
    script.wait(1.0)
    assert [endpoint for _, endpoint in script.open()] == ["tcp://broker:0"]


def test_the_limit_of_a_broker_goes_with_it() -> None:
    script = Script(brokers=2)
    for number, (link, _) in enumerate(script.open()):
        script.core.connected(link, script.now)
        body = payload.encode({"max_body": 10_000 * (number + 1)})
        script.core.receive(link, Message(WELCOME, frames=[body]), script.now)
    with pytest.raises(errors.TooLarge, match="10,000"):
        script.core.call(b"s", b"m", [b"x" * 15_000], script.now, script.now + 1.0)
    script.core.aim(["tcp://broker:1"], "", script.now)
    script.core.call(b"s", b"m", [b"x" * 15_000], script.now, script.now + 1.0)


def test_why_no_broker_is_known_is_told(script: Script) -> None:
    script.core.aim([], "dns://brokers: not known", script.now)
    call = script.call(timeout=1.0)
    script.wait(1.0)
    assert isinstance(call.error, errors.DeadlineExceeded)
    assert "dns://brokers: not known" in call.error.message
