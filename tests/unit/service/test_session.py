"""The session's side of the protocol, message by message."""

from __future__ import annotations

from typing import Any

import pytest

from mesh import errors
from mesh.protocol import payload
from mesh.protocol.messages import (
    BATCH,
    CANCEL,
    CAPACITY,
    CHUNK,
    CREDIT,
    DRAIN,
    ERROR,
    FINAL,
    GOODBYE,
    HEARTBEAT,
    MORE,
    PARTIAL,
    READY,
    REQUEST,
    STARTED,
    STREAM,
    WELCOME,
    Message,
)
from mesh.service import Service, Stream
from mesh.service.requests import packed_array
from mesh.service.session import CANCELLED_SIGNAL, SessionCore


def shop() -> Service:
    made = Service("shop", version="2", concurrency=3)

    @made.rpc(idempotent=True)
    def plain() -> None: ...

    @made.rpc(timeout=2)
    def timed() -> None: ...

    @made.rpc(concurrency=1)
    def limited() -> None: ...

    @made.rpc
    def items() -> Any:
        yield 1

    @made.rpc
    def upload(chunks: Stream[int]) -> None: ...

    return made


class Bench:
    """A session with `brokers` brokers, the first link of each welcomed."""

    def __init__(self, brokers: int = 1, *, welcome: bool = True) -> None:
        made = shop()
        self.now = 10.0
        self.core = SessionCore(
            made.name,
            made.methods.values(),
            made.lanes(),
            [f"tcp://127.0.0.1:{n + 1}" for n in range(brokers)],
            uniform=lambda: 0.5,
            facts={"instance": "i", "version": made.version},
            now=self.now,
        )
        self.core.tick(self.now)
        self.links = [link for link, _ in self.core.take_links()]
        self.ready = self.core.take()
        if welcome:
            for link in self.links:
                self.welcome(link)
            self.core.take()

    def welcome(self, link: int, heartbeat: float = 0.5) -> None:
        body = payload.encode({"heartbeat": heartbeat})
        self.core.receive(link, Message(WELCOME, frames=[body]), self.now)

    def receive(self, message: Message, link: int | None = None) -> list[Message]:
        self.core.receive(link or self.links[0], message, self.now)
        self.core.check()
        return [message for _, message in self.core.take()]

    def request(self, method: bytes, tag: int = 1, flags: int = 0, **fields: Any) -> list[Message]:
        return self.receive(
            Message(
                REQUEST,
                flags,
                tag=tag,
                incarnation=5,
                sequence=tag,
                service=b"shop",
                method=method,
                frames=[payload.encode([[]])],
                **fields,
            )
        )

    def later(self, seconds: float) -> list[tuple[int, Message]]:
        self.now += seconds
        self.core.tick(self.now)
        self.core.check()
        return self.core.take()


def test_ready_comes_first_and_says_what_is_offered() -> None:
    bench = Bench(welcome=False)
    ((link, ready),) = bench.ready
    assert ready.command == READY
    assert ready.service == b"shop"
    fields = payload.decode_map(ready.body)
    assert fields["lanes"] == {"": 3}
    assert fields["instance"] == "i"
    assert fields["methods"]["plain"] == {"idempotent": True}
    assert fields["methods"]["items"] == {"stream": True}
    assert bench.core.live == 0
    bench.welcome(link)
    assert bench.core.live == 1


def test_capacity_is_shared_among_live_brokers_and_given_back() -> None:
    bench = Bench(2, welcome=False)
    first, second = bench.links
    bench.welcome(first)
    assert bench.core.take() == []
    bench.welcome(second)
    told = {link: m.credit for link, m in bench.core.take() if m.command == CAPACITY}
    assert told == {first: 2, second: 2}
    bench.core.lost(second, bench.now)
    ((link, message),) = bench.core.take()
    assert (link, message.command, message.credit) == (first, CAPACITY, 3)


def test_a_request_is_answered_once_with_its_tag_and_id() -> None:
    bench = Bench()
    assert bench.request(b"plain", tag=9) == []
    (request,) = bench.core.take_starts()
    bench.core.finish(request, [b"\x01"])
    bench.core.finish(request, [b"\x02"])
    ((_, final),) = bench.core.take()
    assert (final.command, final.tag, final.incarnation, final.sequence) == (FINAL, 9, 5, 9)
    assert bench.core.counters["dropped:ended_twice"] == 1
    assert bench.core.ended == 1


@pytest.mark.parametrize(
    ("method", "flags", "code"),
    [
        (b"absent", 0, errors.METHOD_NOT_FOUND),
        (b"items", 0, errors.INVALID_ARGUMENT),
        (b"plain", STREAM, errors.INVALID_ARGUMENT),
        (b"upload", 0, errors.INVALID_ARGUMENT),
        (b"plain", MORE, errors.INVALID_ARGUMENT),
        (b"items", STREAM | BATCH, errors.INVALID_ARGUMENT),
    ],
)
def test_what_makes_no_sense_is_refused_before_it_starts(
    method: bytes, flags: int, code: int
) -> None:
    bench = Bench()
    (error,) = bench.request(method, flags=flags)
    assert (error.command, error.code, error.flags & STARTED) == (ERROR, code, 0)
    assert bench.core.take_starts() == []
    assert bench.core.in_hand == 0


def test_beyond_true_capacity_is_not_started() -> None:
    bench = Bench(2)
    for tag in range(3):
        assert bench.request(b"plain", tag=tag) == []
    (error,) = bench.request(b"plain", tag=3)
    assert (error.command, error.code) == (ERROR, errors.NOT_STARTED)


def test_a_limited_method_holds_back_and_goes_on() -> None:
    bench = Bench()
    bench.request(b"limited", tag=1)
    bench.request(b"limited", tag=2)
    (first,) = bench.core.take_starts()
    bench.core.finish(first, [b"\xc0"])
    (second,) = bench.core.take_starts()
    assert second.tag == 2


def test_cancelling_what_waits_ends_it_unstarted() -> None:
    bench = Bench()
    bench.request(b"limited", tag=1)
    bench.request(b"limited", tag=2)
    (error,) = bench.receive(Message(CANCEL, tag=2))
    assert (error.tag, error.code, error.flags & STARTED) == (2, errors.CANCELLED, 0)


def test_cancelling_what_runs_signals_and_overrides_the_result() -> None:
    bench = Bench()
    bench.request(b"plain")
    (request,) = bench.core.take_starts()
    assert bench.receive(Message(CANCEL, tag=1)) == []
    assert bench.core.take_signals() == [(CANCELLED_SIGNAL, request)]
    assert request.cancelled
    bench.core.finish(request, [b"\x01"])
    ((_, error),) = bench.core.take()
    assert (error.code, error.flags & STARTED) == (errors.CANCELLED, STARTED)


def test_what_has_expired_must_not_start() -> None:
    bench = Bench()
    bench.request(b"plain", timeout=0.5)
    (request,) = bench.core.take_starts()
    assert request.refusal(bench.now + 0.4) == 0
    assert request.refusal(bench.now + 0.5) == errors.DEADLINE_EXCEEDED


def test_a_declared_timeout_cancels() -> None:
    bench = Bench()
    bench.request(b"timed", timeout=30.0)
    (request,) = bench.core.take_starts()
    assert request.deadline == pytest.approx(bench.now + 2)
    bench.later(1.9)
    assert bench.core.take_signals() == []
    bench.receive(Message(HEARTBEAT))
    bench.later(0.1)
    assert bench.core.take_signals() == [(CANCELLED_SIGNAL, request)]
    assert request.cancel_code == errors.DEADLINE_EXCEEDED


def test_stream_items_are_joined_up_to_the_credit() -> None:
    bench = Bench()
    bench.request(b"items", flags=STREAM, credit=2)
    (request,) = bench.core.take_starts()
    bench.core.partial(request, [b"\x01", b"\x02"])
    with pytest.raises(ValueError, match="granted"):
        bench.core.partial(request, [b"\x03"])
    bench.receive(Message(CREDIT, tag=1, credit=1))
    bench.core.partial(request, [b"\x03"])
    assert bench.core.take_signals()[0][1] is request
    ((_, last),) = bench.core.take()
    assert (last.command, last.flags, last.credit, bytes(last.body)) == (PARTIAL, 0, 1, b"\x03")


def test_long_runs_of_items_are_split() -> None:
    bench = Bench()
    bench.request(b"items", flags=STREAM, credit=1000)
    (request,) = bench.core.take_starts()
    bench.core.partial(request, [payload.encode(n) for n in range(600)])
    parts = [message for _, message in bench.core.take()]
    assert [part.credit for part in parts] == [256, 256, 88]
    assert [n for part in parts for n in payload.decode(part.body)] == list(range(600))
    bench.core.partial(request, [b"\xc6\0\0\xc3\x50" + bytes(50_000)] * 3)
    assert [message.credit for _, message in bench.core.take()] == [1, 1, 1]


def test_chunks_beyond_what_was_allowed_cancel_the_call() -> None:
    bench = Bench()
    bench.request(b"upload", flags=MORE)
    (request,) = bench.core.take_starts()
    bench.core.grant(request, 2)
    ((_, grant),) = bench.core.take()
    assert (grant.command, grant.credit) == (CREDIT, 2)
    bench.receive(Message(CHUNK, tag=1, credit=2, frames=[b"\x92\1\2"]))
    assert request.cancel_code == 0
    bench.receive(Message(CHUNK, tag=1, credit=1, frames=[b"\1"]))
    assert request.cancel_code == errors.PROTOCOL


def test_a_lost_link_orphans_its_requests_and_returns_with_backoff() -> None:
    bench = Bench()
    bench.request(b"plain")
    (request,) = bench.core.take_starts()
    bench.core.lost(bench.links[0], bench.now)
    assert bench.core.take_links() == [(bench.links[0], None)]
    assert bench.core.take_signals() == [(CANCELLED_SIGNAL, request)]
    bench.core.finish(request, [b"\xc0"])
    assert bench.core.take() == []
    assert bench.core.in_hand == 0
    assert bench.core.next_deadline() == pytest.approx(bench.now + 0.015)
    ((link, ready),) = bench.later(0.02)
    assert ready.command == READY
    assert link != bench.links[0]


def test_an_item_that_cannot_be_sent_ends_the_link_and_its_streams() -> None:
    bench = Bench()
    bench.request(b"items", flags=STREAM, credit=4)
    bench.request(b"plain", tag=2)
    stream, plain = bench.core.take_starts()
    bench.core.partial(stream, [b"\1"])
    ((link, part),) = bench.core.take()
    assert part.command == PARTIAL
    bench.core.undelivered(link, part, bench.now)
    assert bench.core.counters["undelivered"] == 1
    assert bench.core.take_links() == [(link, None)]
    assert bench.core.take_signals() == [(CANCELLED_SIGNAL, stream), (CANCELLED_SIGNAL, plain)]
    bench.core.partial(stream, [b"\2"])
    bench.core.finish(stream, [])
    bench.core.finish(plain, [b"\xc0"])
    assert bench.core.take() == []
    assert bench.core.in_hand == 0


def test_backoff_grows_to_a_second() -> None:
    bench = Bench()
    waits = []
    link = bench.links[0]
    for _ in range(10):
        bench.core.lost(link, bench.now)
        waits.append(bench.core.next_deadline() - bench.now)
        ((link, _),) = bench.later(1.0)
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(0.75)  # a second, less the jitter of this test


def test_heartbeats_fill_the_silence_only() -> None:
    bench = Bench()
    bench.receive(Message(HEARTBEAT))
    bench.later(0.25)
    beats = bench.later(0.25)
    assert [m.command for _, m in beats] == [HEARTBEAT]
    bench.request(b"plain")
    (request,) = bench.core.take_starts()
    bench.core.finish(request, [b"\xc0"])
    bench.core.take()
    assert bench.later(0.25) == []
    ((_, beat),) = bench.later(0.25)
    assert (beat.credit, beat.sequence) == (0, 1)


def test_a_silent_broker_is_lost() -> None:
    bench = Bench()
    for _ in range(20):
        bench.later(0.25)
    assert (bench.links[0], None) in bench.core.take_links()
    assert bench.core.counters["link:silent"] == 1


def test_drain_waits_for_what_is_in_hand_and_on_its_way() -> None:
    bench = Bench()
    bench.request(b"plain")
    (request,) = bench.core.take_starts()
    bench.core.drain(bench.now)
    assert [m.command for _, m in bench.core.take()] == [DRAIN]
    (late,) = bench.request(b"plain", tag=2)
    assert late.code == errors.NOT_STARTED
    bench.core.finish(request, [b"\xc0"])
    assert bench.core.take()[0][1].command == FINAL
    assert not bench.core.done
    assert bench.receive(Message(DRAIN)) == []  # its own, on its way when ours was sent
    assert bench.later(0.0) == []
    assert bench.receive(Message(DRAIN, credit=1)) == []  # the broker has heard
    ((_, goodbye),) = bench.later(0.0)
    assert goodbye.command == GOODBYE
    assert bench.core.done


def test_drain_ends_without_the_brokers_answer() -> None:
    bench = Bench()
    bench.core.drain(bench.now)
    bench.core.take()
    assert not bench.core.done
    messages = bench.later(1.0)
    assert messages[-1][1].command == GOODBYE
    assert bench.core.done


def test_a_draining_broker_is_served_until_its_goodbye() -> None:
    bench = Bench(2)
    first = bench.links[0]
    bench.request(b"plain")
    (request,) = bench.core.take_starts()
    told = bench.receive(Message(DRAIN), first)
    assert [m.command for m in told] == [CAPACITY]
    assert bench.core.live == 1
    bench.core.finish(request, [b"\xc0"])
    ((link, final),) = bench.core.take()
    assert (link, final.command) == (first, FINAL)
    bench.receive(Message(GOODBYE), first)
    assert (first, None) in bench.core.take_links()


def test_packed_arrays() -> None:
    for count in (1, 15, 16, 300):
        items = [payload.encode(n) for n in range(count)]
        assert payload.decode(packed_array(items)) == list(range(count))


def test_reserved_or_unknown_messages_are_counted() -> None:
    bench = Bench()
    bench.receive(Message(FINAL, tag=1))
    bench.receive(Message(CANCEL, tag=1))
    bench.receive(Message(HEARTBEAT), link=99)
    assert bench.core.counters == {
        "dropped:unexpected_command": 1,
        "dropped:unknown_tag": 1,
        "dropped:unknown_link": 1,
    }


def test_a_lane_is_claimed_with_its_epoch_and_closed_by_a_newer_claim() -> None:
    bench = Bench(2)
    first, second = bench.links
    bench.core.set_lane("writer", 4, bench.now, epoch=7)
    told = {link: (m.method, m.credit, m.sequence) for link, m in bench.core.take()}
    assert told == {first: (b"writer", 2, 7), second: (b"writer", 2, 7)}
    same = Message(CAPACITY, service=b"shop", method=b"writer", sequence=7)
    assert bench.receive(same) == []
    assert bench.core.lanes["writer"].capacity == 4
    newer = Message(CAPACITY, service=b"shop", method=b"writer", sequence=8)
    bench.core.receive(first, newer, bench.now)
    ((link, given_up),) = bench.core.take()
    assert (link, given_up.command, given_up.credit) == (second, CAPACITY, 0)
    assert bench.core.counters["closed:old_epoch"] == 1
    bench.core.set_lane("writer", 4, bench.now, epoch=9)
    assert {m.sequence for _, m in bench.core.take()} == {9}


def test_a_claim_is_part_of_the_registration() -> None:
    bench = Bench()
    bench.core.set_lane("writer", 4, bench.now, epoch=7)
    bench.core.take()
    bench.core.lost(bench.links[0], bench.now)
    ready = [m for _, m in bench.later(1.0) if m.command == READY]
    fields = payload.decode_map(ready[0].body)
    assert fields["epochs"] == {"writer": 7}
    assert fields["lanes"]["writer"] == 4


def test_brokers_that_come_and_go() -> None:
    bench = Bench()
    (old,) = bench.links
    bench.core.aim(["tcp://127.0.0.1:9"], bench.now)
    bench.later(0.01)
    (((new, endpoint),)) = bench.core.take_links()
    assert endpoint == "tcp://127.0.0.1:9"
    bench.welcome(new)
    bench.request(b"plain")
    assert bench.core.live == 2  # what has been said there is answered
    bench.receive(Message(GOODBYE), old)
    assert (old, None) in bench.core.take_links()
    bench.welcome(new)
    for _ in range(20):
        bench.later(0.4)
        bench.core.receive(new, Message(HEARTBEAT), bench.now)
        assert bench.core.take_links() == []
    bench.core.aim(["tcp://127.0.0.1:1"], bench.now)
    bench.later(1.0)
    ((_, endpoint),) = bench.core.take_links()
    assert endpoint == "tcp://127.0.0.1:1"
