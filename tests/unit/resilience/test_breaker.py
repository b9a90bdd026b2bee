"""The circuit breaker, by example and as a state machine."""

from __future__ import annotations

import random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.resilience import CLOSED, HALF_OPEN, OPEN, Breaker, BreakerSettings


def breaker() -> Breaker:
    return Breaker(BreakerSettings(), random.Random(1), 0.0)


def tripped(now: float = 0.0) -> Breaker:
    found = breaker()
    for _ in range(20):
        found.failure(found.allow(now), now)
    assert found.state == OPEN
    return found


def test_it_opens_at_the_twentieth_failure() -> None:
    found = breaker()
    for _ in range(19):
        found.failure(found.allow(1.0), 1.0)
    assert found.state == CLOSED
    found.failure(found.allow(1.0), 1.0)
    assert found.state == OPEN and not found.allow(1.0)
    assert 4.5 <= found.open_until - 1.0 <= 5.0


def test_it_stays_closed_while_most_calls_are_served() -> None:
    found = breaker()
    for n in range(2000):
        now = n * 0.01
        ticket = found.allow(now)
        if n % 5 < 2:
            found.failure(ticket, now)
        else:
            found.success(ticket, now)
        found.check()
    assert found.state == CLOSED


def test_old_successes_do_not_hide_an_outage() -> None:
    found = breaker()
    for _ in range(10_000):
        found.success(found.allow(0.0), 0.0)
    failures = 0
    now = 11.0
    while found.allow(now):
        found.failure(found.allow(now), now)
        failures += 1
    assert failures == 20


def test_failures_far_apart_do_not_open_it() -> None:
    found = breaker()
    for n in range(100):
        found.failure(found.allow(n * 1.0), n * 1.0)
    assert found.state == CLOSED


def test_three_probes_close_it() -> None:
    found = tripped()
    now = found.open_until
    tickets = [found.allow(now) for _ in range(5)]
    assert [bool(ticket) for ticket in tickets] == [True, True, True, False, False]
    for ticket in tickets[:3]:
        found.success(ticket, now)
    assert found.state == CLOSED and found.idle


def test_one_bad_probe_opens_it_for_twice_as_long_up_to_a_minute() -> None:
    found = tripped()
    ttls = []
    for _ in range(6):
        now = found.open_until
        found.failure(found.allow(now), now)
        assert found.state == OPEN
        ttls.append(found.open_until - now)
    for ttl, expected in zip(ttls, [10, 20, 40, 60, 60, 60], strict=True):
        assert 0.9 * expected <= ttl <= expected


def test_answers_from_before_say_nothing_about_now() -> None:
    found = breaker()
    early = found.allow(0.0)
    for _ in range(20):
        found.failure(found.allow(0.0), 0.0)
    now = found.open_until
    found.allow(now)
    found.failure(early, now)
    assert found.state == HALF_OPEN
    found.success(early, now)
    found.check()


def test_an_abandoned_probe_makes_room_for_another() -> None:
    found = tripped()
    now = found.open_until
    tickets = [found.allow(now) for _ in range(3)]
    assert not found.allow(now)
    found.abandoned(tickets[0])
    assert found.allow(now)


def test_probes_that_never_end_do_not_shut_it_for_ever() -> None:
    found = tripped()
    now = found.open_until
    while found.allow(now):
        pass
    assert found.allow(now + 31.0)


class BreakerMachine(RuleBasedStateMachine):
    """Calls overlap, end in any order, or never. `service_works` heals and breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(BreakerSettings(), random.Random(1), 0.0)
        self.open_calls: list[int] = []

    @rule(count=st.integers(1, 30))
    def call(self, count: int) -> None:
        for _ in range(count):
            was_open = self.breaker.state == OPEN and self.now < self.breaker.open_until
            ticket = self.breaker.allow(self.now)
            assert not (was_open and ticket), "a call passed an open breaker"
            if ticket:
                self.open_calls.append(ticket)

    @precondition(lambda self: self.open_calls)
    @rule(ends=st.lists(st.tuples(st.integers(0, 99), st.sampled_from("sfa")), max_size=30))
    def end(self, ends: list[tuple[int, str]]) -> None:
        for index, how in ends:
            if not self.open_calls:
                return
            ticket = self.open_calls.pop(index % len(self.open_calls))
            if how == "s":
                self.breaker.success(ticket, self.now)
            elif how == "f":
                self.breaker.failure(ticket, self.now)
            else:
                self.breaker.abandoned(ticket)

    @rule(step=st.sampled_from([0.1, 1.0, 3.0, 31.0, 100.0]))
    def wait(self, step: float) -> None:
        self.now += step

    @invariant()
    def sound(self) -> None:
        self.breaker.check()
        if self.breaker.state == OPEN:
            assert self.breaker.open_until - self.now <= 60.0

    def teardown(self) -> None:
        """A service that works again is found out in the end."""
        for _ in range(10):
            self.now += 61.0
            for _ in range(3):
                ticket = self.breaker.allow(self.now)
                if ticket:
                    self.breaker.success(ticket, self.now)
        assert self.breaker.state == CLOSED


TestBreakerMachine = BreakerMachine.TestCase
