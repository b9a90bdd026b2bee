"""The ring of events: bounded, merged within a second, and told by the broker when asked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.history import History
from mesh import errors
from mesh.protocol import payload
from mesh.protocol.messages import DRAIN, FINAL, IDEMPOTENT, REQUEST, Message
from tests.unit.broker.driver import INCARNATION, Mesh, only


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.floats(0, 2), st.sampled_from(["lost:silent", "joined", "ejected"]))),
)
def test_the_ring_is_bounded_and_nothing_in_it_is_lost(
    kept: int, steps: list[tuple[float, str]]
) -> None:
    history = History(kept)
    now = 0.0
    for wait, what in steps:
        now += wait
        history.note(now, what)
        assert len(history.events) <= kept
        assert len(history._latest) <= kept
    numbers = [entry.number for entry in history.events]
    assert numbers == list(range(history.last - len(numbers) + 1, history.last + 1))
    if history.last <= kept:
        assert sum(entry.count for entry in history.events) == len(steps)
    for after in range(history.last + 2):
        assert history.since(after) == [e for e in history.events if e.number > after]


def test_only_the_same_event_within_a_second_is_merged() -> None:
    history = History()
    for at in (0.0, 0.9, 1.0):
        history.note(at, "refused:full")
    history.note(1.0, "refused:full", service=b"other")
    assert [(e.at, e.reason, e.service, e.count) for e in history.events] == [
        (0.0, "full", "", 2),
        (1.0, "full", "", 1),
        (1.0, "full", "other", 1),
    ]


def told(mesh: Mesh, *args: Any) -> list[dict[str, Any]]:
    """What the broker answers to `mesh.broker.history`, without its start."""
    frames = [payload.encode([list(args)])]
    asking = Message(
        REQUEST, incarnation=9, sequence=1, service=b"mesh.broker", method=b"history", frames=frames
    )
    out = mesh.say(b"operator", asking)
    found: dict[str, Any] = payload.decode(only(out, b"operator", FINAL).body)
    mesh.lost(b"operator")
    return [entry for entry in found["events"] if entry["event"] != "broker"]


def brief(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(entry["event"], entry["reason"]) for entry in events]


def test_silence_and_loss_are_told_once_each(mesh: Mesh) -> None:
    mesh.join(b"w1", instance="i", host="box", pid=7)
    mesh.wait(6.0)
    events = told(mesh)
    assert brief(events) == [("joined", ""), ("suspected", ""), ("lost", "silent")]
    assert {entry["worker"] for entry in events} == {"pid 7 on box"}
    assert {entry["service"] for entry in events} == {"echo"}
    assert events[0]["age"] == pytest.approx(6.0)
    number = events[1]["number"]
    assert brief(told(mesh, number)) == [("lost", "silent")]
    assert told(mesh, 10_000) == []
    assert brief(told(mesh, "nonsense")) == brief(events)


def test_what_becomes_of_requests_names_the_first_of_them(mesh: Mesh) -> None:
    mesh.join(b"w1", window=10)
    for sequence in (1, 2):
        mesh.ask(b"c1", sequence, flags=IDEMPOTENT)
    mesh.ask(b"c1", 3)
    mesh.lost(b"w1")
    events = told(mesh)
    assert brief(events) == [
        ("joined", ""),
        ("lost", "disconnected"),
        ("failed", "worker_lost"),
        ("redispatched", "worker_lost"),
    ]
    assert events[2]["request"] == f"{INCARNATION:016x}-3"
    assert events[3]["count"] == 2


def test_the_changes_of_a_worker_are_told(mesh: Mesh) -> None:
    mesh.beating |= {b"w0", b"w1"}
    for peer in (b"w0", b"w1"):
        mesh.join(peer)
    for sequence in range(1, 11):
        peer, asked = mesh.ask(b"c1", sequence)[0]
        if peer == b"w1":
            mesh.error(peer, asked.tag, errors.REMOTE_ERROR)
        else:
            mesh.final(peer, asked.tag)
    mesh.say(b"w0", Message(DRAIN))
    found = brief(told(mesh))
    assert [each for each in found if each[0] != "joined"] == [
        ("ejected", ""),
        ("drained", ""),
        ("probed", ""),
    ]


def test_a_take_over_is_told(mesh: Mesh) -> None:
    store = {"uuid": "u"}
    for number in (1, 2):
        mesh.join(
            b"w%d" % number,
            lanes={"": 1, "writer": 1},
            epochs={"writer": number},
            store=store,
            pid=number,
        )
    found = [entry for entry in told(mesh) if entry["event"] != "joined"]
    assert brief(found) == [("took_over", ""), ("took_over", ""), ("closed", "old_epoch")]
    assert {entry["lane"] for entry in found} == {"writer"}


def test_a_flood_of_refusals_is_one_event_a_second(mesh: Mesh) -> None:
    mesh = Mesh(max_queue=1)
    mesh.beating.add(b"w1")
    mesh.join(b"w1")
    for sequence in range(1, 1003):
        mesh.ask(b"c1", sequence)
    (refused,) = [entry for entry in told(mesh) if entry["event"] == "refused"]
    assert (refused["reason"], refused["count"]) == ("overloaded", 1000)
