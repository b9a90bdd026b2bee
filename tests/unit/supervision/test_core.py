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


def test_a_hopeless_member_ends_everything_before_all_has_served() -> None:
    core = make()
    step(core, 0.0)
    core.became_ready("b1", 0.0)
    core.became_ready("b2", 0.0)
    step(core, 0.0)
    core.ended("w", 1.0, hopeless=True)
    assert step(core, 1.0) == [("drain", "b1"), ("drain", "b2")]
    assert core.status == 2


def test_what_serves_is_not_ended_for_a_member_that_became_hopeless() -> None:
    core, now = running(), 20.0
    for _ in range(3):
        core.ended("w", now, hopeless=True)
        assert step(core, now) == []
        now = core.next_deadline()
        assert step(core, now) == [("start", "w")]
    core.became_ready("w", now)
    assert core.ready and core.status == 0


def roll_to(core: Supervision, *, now: float) -> list[tuple[str, str]]:
    """Begin a rollout; its first actions."""
    assert core.roll()
    return step(core, now)


def test_a_rollout_replaces_workers_then_brokers_one_by_one() -> None:
    core = running()
    assert roll_to(core, now=20.0) == [("start", "w.2")]
    assert core.outcome is None
    assert not core.roll()
    core.became_ready("w.2", 21.0)
    assert step(core, 21.0) == [("drain", "w")]
    core.ended("w", 22.0)
    assert step(core, 22.0) == [("drain", "b1")]
    assert core.members.keys() == {"b1", "b2", "w.2"}
    core.ended("b1", 23.0)
    assert step(core, 23.0) == [("start", "b1")]
    core.became_ready("b1", 24.0)
    assert step(core, 24.0) == [("drain", "b2")]
    core.ended("b2", 25.0)
    assert step(core, 25.0) == [("start", "b2")]
    core.became_ready("b2", 26.0)
    assert step(core, 26.0) == []
    assert (core.outcome, core.rollout.replaced) == ("", 3)
    assert roll_to(core, now=30.0) == [("start", "w.3")]


def test_a_successor_that_fails_stops_the_rollout_and_the_old_one_stays() -> None:
    core = running()
    roll_to(core, now=20.0)
    core.ended("w.2", 21.0, hopeless=True)
    assert step(core, 21.0) == []
    assert core.outcome == "w.2, the successor of w, ended before it served"
    assert core.members["w"].state == "ready"
    assert core.ready and not core.draining
    assert core.roll()


def test_a_successor_that_never_serves_is_killed_and_stops_the_rollout() -> None:
    core = running()
    roll_to(core, now=20.0)
    assert step(core, 50.0) == [("kill", "w.2")]
    core.ended("w.2", 50.1)
    assert core.outcome
    assert core.ready


def test_a_broker_that_does_not_come_back_stops_the_rollout() -> None:
    core = running()
    roll_to(core, now=20.0)
    core.became_ready("w.2", 20.0)
    step(core, 20.0)
    core.ended("w", 20.0)
    step(core, 20.0)
    core.ended("b1", 21.0)
    step(core, 21.0)
    core.ended("b1", 22.0)
    assert core.outcome == "b1 ended before it served again"
    assert step(core, core.next_deadline()) == [("start", "b1")]
    assert core.members["b2"].state == "ready"


def test_an_old_worker_that_crashes_while_its_successor_starts() -> None:
    core = running()
    roll_to(core, now=20.0)
    core.ended("w", 20.5)
    core.became_ready("w.2", 20.6)
    assert step(core, 20.6) == [("drain", "b1")]
    assert "w" not in core.members


def test_an_end_in_the_middle_of_a_rollout() -> None:
    core = running()
    roll_to(core, now=20.0)
    core.drain(20.5)
    assert step(core, 20.5) == [("drain", "w"), ("drain", "w.2")]
    assert core.outcome == "the mesh is being ended"


def test_nothing_is_rolled_unless_all_is_ready() -> None:
    core = make()
    step(core, 0.0)
    assert not core.roll()


@given(
    st.lists(
        st.tuples(st.sampled_from("redo"), st.sampled_from(["b1", "b2", "w"]), st.floats(0, 9))
    )
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

    for event, base, pause in events:
        now += pause
        act()
        # Of those in one line of successors, the latest or the first.
        line = sorted(name for name in alive if name.partition(".")[0] == base) or [base]
        name = line[-1] if pause < 5 else line[0]
        if event == "r" and name in alive:
            core.became_ready(name, now)
        elif event == "e" and name in alive:
            alive.discard(name)
            core.ended(name, now)
        elif event == "d" and base == "w":
            core.drain(now)
        elif event == "o":
            core.roll()
    core.drain(now)
    while alive:
        act()
        for name in sorted(alive):
            if core.members[name].state != "draining":
                continue
            alive.discard(name)
            core.ended(name, now)
    assert core.done
