"""The structures of the router against plain models of what they promise."""

from __future__ import annotations

import tracemalloc
from collections import OrderedDict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.queues import CreditPool, ExpiryWheel, FairQueue
from broker.state import Call, Client, Lane, Seat, Service, Worker, open_call
from mesh.protocol.mdp import NATIVE
from mesh.protocol.messages import PRIORITIES
from tests.unit.broker.driver import request

SERVICE = Service(b"echo")
LANE = Lane(SERVICE, b"", FairQueue(), CreditPool())
CLIENTS = [Client(b"c%d" % number, NATIVE, 0.0) for number in range(3)]


def call_of(client: int, sequence: int, priority: int = 2, at: float = 0.0) -> Call:
    message = request(sequence, priority=priority)
    return open_call(CLIENTS[client], LANE, message, sequence, 4, False, 0.0, at)


@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from(["push", "front"]),
                st.integers(0, len(CLIENTS) - 1),
                st.integers(0, PRIORITIES - 1),
            ),
            st.tuples(st.sampled_from(["pop", "remove"]), st.integers(0, 50), st.just(0)),
        ),
        max_size=60,
    )
)
@example([("push", 0, 1), ("push", 0, 3), *[("push", 1, 2)] * 40, *[("pop", 0, 0)] * 42])
def test_fair_queue(steps: list[tuple[str, int, int]]) -> None:
    """Model: for each class the clients in turn, each with its calls in order."""
    queue = FairQueue()
    model: list[list[tuple[int, list[Call]]]] = [[] for _ in range(PRIORITIES)]
    passed = 0
    for number, (what, which, priority) in enumerate(steps):
        held = [call for turns in model for _, calls in turns for call in calls]
        if what in ("push", "front"):
            call = call_of(which, number, priority, float(number))
            turns = model[priority]
            mine = next((turn for turn in turns if turn[0] == which), None)
            if mine is None:
                mine = (which, [])
                turns.append(mine)
            if what == "push":
                queue.push(call)
                mine[1].append(call)
            else:
                queue.push_front(call)
                mine[1].insert(0, call)
                turns.remove(mine)
                turns.insert(0, mine)
        elif what == "pop":
            waiting = [turns for turns in model if turns]
            if not waiting:
                with pytest.raises(IndexError):
                    queue.pop()
                continue
            turns, *lower = waiting
            passed += bool(lower)
            if passed == FairQueue.SHARE:
                turns = min(lower, key=lambda turns: turns[0][1][0].queued_at)
                passed = 0
            mine = turns.pop(0)
            assert queue.pop() is mine[1].pop(0)
            if mine[1]:
                turns.append(mine)
        elif held:
            call = held[which % len(held)]
            queue.remove(call)
            for turns in model:
                for turn in list(turns):
                    if call in turn[1]:
                        turn[1].remove(call)
                        if not turn[1]:
                            turns.remove(turn)
        held = [call for turns in model for _, calls in turns for call in calls]
        assert list(queue) == held
        assert queue.length == len(held)


def test_oldest() -> None:
    queue = FairQueue()
    assert queue.oldest_at() is None
    for client, at in ((0, 5.0), (1, 3.0), (1, 4.0), (2, 9.0)):
        queue.push(call_of(client, int(at), at=at))
    assert queue.oldest_at() == 3.0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=80))
def test_credit_pool(steps: list[tuple[int, int]]) -> None:
    """Model: seats with their free credit, in the order in which each came to that credit.

    Step (0-3, n): put that seat with window n. (4, _): take. (5, n): discard seat n.
    """
    pool = CreditPool()
    workers = [Worker(b"w%d" % number, SERVICE, NATIVE, 0.0) for number in range(4)]
    seats = [Seat(worker, LANE, 0) for worker in workers]
    model: OrderedDict[Seat, int] = OrderedDict()
    for which, amount in steps:
        if which < 4:
            seat = seats[which]
            seat.window = amount
            pool.put(seat)
            free = amount - seat.in_flight
            if model.get(seat) != free:
                model.pop(seat, None)
                if free > 0:
                    model[seat] = free
        elif which == 4:
            taken = pool.take()
            if not model:
                assert taken is None
                continue
            best = max(model.values())
            expected = next(seat for seat, free in model.items() if free == best)
            assert taken is expected
            del model[expected]
            if best > 1:
                model[expected] = best - 1
        elif amount < 4:
            pool.discard(seats[amount])
            model.pop(seats[amount], None)
        assert pool.size == len(model)
        assert set(pool) == set(model)
        assert pool._top == max(model.values(), default=0)


@given(st.lists(st.tuples(st.floats(0.0, 50.0), st.booleans()), max_size=40), st.data())
def test_expiry_wheel(calls: list[tuple[float, bool]], data: st.DataObject) -> None:
    """Nothing is due early, nothing more than one slot late, and removed calls never."""
    wheel = ExpiryWheel()
    due_at: dict[Call, float] = {}
    for number, (at, removed) in enumerate(calls):
        call = call_of(0, number)
        wheel.add(call, at)
        if removed:
            wheel.discard(call)
            wheel.discard(call)
        else:
            due_at[call] = at
    assert len(wheel) == len(due_at)
    now = 0.0
    while due_at:
        assert wheel.next_at() < float("inf")
        now = max(now, data.draw(st.sampled_from([wheel.next_at(), now + 0.1, now + 20.0])))
        for call in wheel.due(now):
            assert due_at.pop(call) <= now
            assert call.wheel_slot == -1
        assert all(at > now - 0.011 for at in due_at.values())
    assert len(wheel) == 0


def test_calls_that_have_ended_leave_no_room_behind_in_the_wheel() -> None:
    """Five seconds of 100,000 calls a second that are due in a minute."""
    wheel = ExpiryWheel()
    calls = [call_of(0, number) for number in range(1000)]
    tracemalloc.start()
    try:
        for slot in range(500):
            for call in calls:
                wheel.add(call, 60.0 + slot / wheel.RESOLUTION)
            for call in calls:
                wheel.discard(call)
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(wheel) == 0
    assert left < 500 * 500
