"""Order, backoff and drain of supervised processes, on virtual time."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from mesh.supervision.core import BROKER, MAX_BACKOFF, STABLE_TTL, WORKER, Supervision

MEMBERS = [("b1", BROKER), ("b2", BROKER), ("w", WORKER)]


def make() -> Supervision:
    return Supervision(MEMBERS, random.Random(1), ready_timeout=30.0, drain_timeout=60.0)


def step(core: Supervision, now: float) -> list[tuple[str, str]]:
    core.tick(now)
    core.check()
    return list(core.take())


def running() -> Supervision:
    core = make()
    step(core, 0.0)
    core.became_ready("b1", 0.0)
    core.became_ready("b2", 0.0)
    step(core, 0.0)
    core.became_ready("w", 0.0)
    return core


def test_workers_start_once_all_brokers_are_ready() -> None:
    core = make()
    assert step(core, 0.0) == [("start", "b1"), ("start", "b2")]
    core.became_ready("b1", 1.0)
    assert step(core, 1.0) == []
    core.became_ready("b2", 2.0)
    assert step(core, 2.0) == [("start", "w")]
    assert not core.ready
    core.became_ready("w", 3.0)
    assert core.ready


def test_a_crash_loop_backs_off_and_a_stable_run_forgives() -> None:
    core, now, pauses = running(), 0.0, []
    for _ in range(9):
        core.ended("w", now)
        assert step(core, now) == []
        pauses.append(core.next_deadline() - now)
        now = core.next_deadline()
        assert step(core, now) == [("start", "w")]
    assert MAX_BACKOFF / 2 <= pauses[-1] <= MAX_BACKOFF
    assert pauses[0] <= 0.2
    assert core.members["w"].restarts == 9
    core.became_ready("w", now)
    core.ended("w", now + STABLE_TTL)
    assert core.members["w"].start_at - (now + STABLE_TTL) <= 0.1


def test_workers_drain_before_brokers() -> None:
    core = running()
    core.drain(1.0)
    assert step(core, 1.0) == [("drain", "w")]
    core.ended("w", 2.0)
    assert step(core, 2.0) == [("drain", "b1"), ("drain", "b2")]
    core.ended("b1", 3.0)
    core.ended("b2", 3.0)
    assert core.done
    assert core.status == 0


def test_who_does_not_drain_or_get_ready_is_killed() -> None:
    core = make()
    step(core, 0.0)
    assert step(core, 30.0) == [("kill", "b1"), ("kill", "b2")]
    core = running()
    core.drain(1.0)
    step(core, 1.0)
    assert step(core, 61.0) == [("kill", "w")]


def test_a_second_drain_kills_at_once() -> None:
    core = running()
    core.drain(1.0)
    step(core, 1.0)
    core.drain(1.5)
    assert {name for action, name in step(core, 1.5) if action == "kill"} == {"b1", "b2", "w"}


def test_a_hopeless_member_ends_everything() -> None:
    core = running()
    core.ended("w", 1.0, hopeless=True)
    assert step(core, 1.0) == [("drain", "b1"), ("drain", "b2")]
    assert core.status == 1


@given(
    st.lists(st.tuples(st.sampled_from("red"), st.sampled_from(["b1", "b2", "w"]), st.floats(0, 9)))
)
def test_nothing_is_started_twice_and_all_ends(events: list[tuple[str, str, float]]) -> None:
    core, now, alive = make(), 0.0, set[str]()

    def act() -> None:
        for action, name in step(core, now):
            if action == "start":
                assert name not in alive
                assert not core.draining
                alive.add(name)
            else:
                assert name in alive

    for event, name, pause in events:
        now += pause
        act()
        if event == "r" and name in alive:
            core.became_ready(name, now)
        elif event == "e" and name in alive:
            alive.discard(name)
            core.ended(name, now)
        elif event == "d" and name == "w":
            core.drain(now)
    core.drain(now)
    while alive:
        act()
        for name in [n for n in alive if core.members[n].state == "draining"]:
            alive.discard(name)
            core.ended(name, now)
    assert core.done
