"""Section 7, 1-3: which worker gets which request, and which requests are refused or wait."""

from __future__ import annotations

from collections import Counter

import pytest

from broker.state import CALL_OVERHEAD
from mesh import errors
from mesh.protocol import payload
from mesh.protocol.mdp import MDP01
from mesh.protocol.messages import (
    BULK,
    ERROR,
    FINAL,
    HIGH,
    IDEMPOTENT,
    NORMAL,
    REQUEST,
    SYSTEM,
    Message,
)
from tests.unit.broker.driver import (
    INCARNATION,
    Mesh,
    brief,
    failure,
    only,
    request,
    requests,
    tags,
)


def test_a_request_and_its_reply(mesh: Mesh) -> None:
    mesh.join(b"w1")
    assert mesh.ask(b"c1", 5, timeout=2.0, flags=0x80, frames=[b"body", b"meta"]) == [
        (
            b"w1",
            Message(
                REQUEST,
                0x80,
                NORMAL,
                tag=1,
                timeout=2.0,
                incarnation=INCARNATION,
                sequence=5,
                service=b"echo",
                method=b"m",
                frames=[b"body", b"meta"],
            ),
        )
    ]
    assert mesh.final(b"w1", 1) == [
        (
            b"c1",
            Message(FINAL, tag=1, incarnation=INCARNATION, sequence=5, frames=[b"done"]),
        )
    ]
    mesh.assert_idle()


def test_clients_may_use_the_same_ids(mesh: Mesh) -> None:
    mesh.join(b"w1", window=2)
    first = only(mesh.ask(b"c1", 1), b"w1", REQUEST).tag
    second = only(mesh.ask(b"c2", 1), b"w1", REQUEST).tag
    assert first != second
    assert mesh.final(b"w1", second, b"two")[0][0] == b"c2"
    assert mesh.final(b"w1", first, b"one")[0][0] == b"c1"


def test_an_open_id_is_dropped_and_a_closed_one_may_return(mesh: Mesh) -> None:
    mesh.join(b"w1", window=2)
    mesh.ask(b"c1", 1)
    assert mesh.ask(b"c1", 1) == []
    assert mesh.counted("dropped:duplicate_request") == 1
    mesh.final(b"w1", 1)
    assert requests(mesh.ask(b"c1", 1)) == [(b"w1", 1)]


def test_a_native_request_without_an_id_is_dropped(mesh: Mesh) -> None:
    mesh.join(b"w1")
    assert mesh.ask(b"c1", 0) == []
    mesh.hello(b"c2")
    assert mesh.ask(b"c2", 0) == []
    assert mesh.ask(b"c2", 0, code=200) == []
    assert mesh.counted("dropped:no_request_id") == 3
    assert mesh.router.accepted == 0


@pytest.mark.parametrize("command", [FINAL, ERROR])
def test_a_tag_that_is_not_open_is_dropped(mesh: Mesh, command: int) -> None:
    mesh.join(b"w1")
    mesh.join(b"w2")
    tag = only(mesh.ask(b"c1", 1), b"w1", REQUEST).tag
    assert mesh.say(b"w2", Message(command, tag=tag)) == []
    assert mesh.say(b"w1", Message(command, tag=tag + 1)) == []
    assert mesh.say(b"w1", Message(command)) == []
    assert mesh.counted("dropped:unknown_tag") == 3
    assert mesh.final(b"w1", tag)[0][0] == b"c1"
    assert mesh.final(b"w1", tag) == []


# -------------------------------------------------------------------- credit


def test_never_more_than_the_window(mesh: Mesh) -> None:
    mesh.join(b"w1", window=3)
    got = [requests(mesh.ask(b"c1", n)) for n in range(1, 6)]
    assert got == [[(b"w1", 1)], [(b"w1", 2)], [(b"w1", 3)], [], []]
    assert requests(mesh.final(b"w1", 1)) == [(b"w1", 4)]


def test_the_most_free_credit_gets_the_next(mesh: Mesh) -> None:
    mesh.join(b"small", window=1)
    mesh.join(b"large", window=4)
    got = [requests(mesh.ask(b"c1", n))[0][0] for n in range(1, 6)]
    assert got == [b"large", b"large", b"large", b"small", b"large"]


def test_equals_take_turns(mesh: Mesh) -> None:
    workers = [b"w1", b"w2", b"w3"]
    for worker in workers:
        mesh.join(worker, window=2)
    got = [requests(mesh.ask(b"c1", n))[0][0] for n in range(1, 7)]
    assert got == workers * 2
    for tag in (2, 1, 3):
        mesh.final(workers[tag - 1], tag)
    got = [requests(mesh.ask(b"c1", n))[0][0] for n in range(11, 14)]
    assert got == [b"w2", b"w1", b"w3"]


def test_even_load_over_time(mesh: Mesh) -> None:
    workers = [b"w%d" % n for n in range(5)]
    for worker in workers:
        mesh.join(worker, window=10)
    load: Counter[bytes] = Counter()
    for sequence in range(1, 101):
        message = mesh.ask(b"c1", sequence)[0]
        load[message[0]] += 1
        mesh.final(message[0], message[1].tag)
    assert set(load.values()) == {20}


def test_capacity_grows_shrinks_and_stops(mesh: Mesh) -> None:
    mesh.join(b"w1")
    for sequence in range(1, 6):
        mesh.ask(b"c1", sequence)
    assert requests(mesh.capacity(b"w1", b"", 3)) == [(b"w1", 2), (b"w1", 3)]
    assert mesh.capacity(b"w1", b"", 1) == []
    assert requests(mesh.final(b"w1", 1)) == []
    assert requests(mesh.final(b"w1", 2)) == []
    assert requests(mesh.final(b"w1", 3)) == [(b"w1", 4)]
    assert mesh.capacity(b"w1", b"", 0) == []
    assert requests(mesh.final(b"w1", 4)) == []
    assert requests(mesh.capacity(b"w1", b"", 1)) == [(b"w1", 5)]


def test_capacity_may_open_a_lane(mesh: Mesh) -> None:
    mesh.join(b"w1", methods={"put": {"lane": "writer"}})
    assert mesh.ask(b"c1", 1, b"put") == []
    assert requests(mesh.capacity(b"w1", b"writer", 1)) == [(b"w1", 1)]


def test_lanes_of_a_worker_are_bounded(mesh: Mesh) -> None:
    mesh.join(b"w1")
    for number in range(100):
        mesh.capacity(b"w1", b"lane%d" % number, 1)
    assert len(mesh.router.workers[b"w1"].seats) == 64
    assert mesh.counted("dropped:too_many_lanes") == 37


# -------------------------------------------------------------------- lanes, priority, fairness

METHODS = {"put": {"lane": "writer"}, "get": {"idempotent": True}, "count": {"lane": ""}}


def test_methods_go_to_their_lanes(mesh: Mesh) -> None:
    mesh.join(b"reader", lanes={"": 4}, methods=METHODS)
    mesh.join(b"writer", lanes={"writer": 1}, methods=METHODS)
    assert requests(mesh.ask(b"c1", 1, b"put")) == [(b"writer", 1)]
    assert requests(mesh.ask(b"c1", 2, b"get")) == [(b"reader", 2)]
    assert requests(mesh.ask(b"c1", 3, b"put")) == []
    assert requests(mesh.ask(b"c1", 4, b"unknown")) == [(b"reader", 4)]
    assert requests(mesh.final(b"writer", 1)) == [(b"writer", 3)]


def test_one_worker_in_two_lanes_has_two_windows(mesh: Mesh) -> None:
    mesh.join(b"w1", lanes={"": 1, "writer": 1}, methods=METHODS)
    assert requests(mesh.ask(b"c1", 1, b"put")) == [(b"w1", 1)]
    assert requests(mesh.ask(b"c1", 2, b"get")) == [(b"w1", 2)]
    assert requests(mesh.ask(b"c1", 3, b"put")) == []
    assert requests(mesh.ask(b"c1", 4, b"get")) == []
    assert requests(mesh.final(b"w1", 2)) == [(b"w1", 4)]


def test_a_declared_idempotent_method_is_marked_in_the_reply(mesh: Mesh) -> None:
    mesh.join(b"w1", methods=METHODS)
    mesh.ask(b"c1", 1, b"get")
    assert mesh.final(b"w1", 1)[0][1].flags == IDEMPOTENT
    mesh.ask(b"c1", 2, b"count")
    assert mesh.final(b"w1", 2)[0][1].flags == 0
    mesh.ask(b"c1", 3, b"get")
    assert mesh.error(b"w1", 3, errors.REMOTE_ERROR)[0][1].flags == IDEMPOTENT


def test_priority_classes(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    for sequence, priority in ((2, BULK), (3, NORMAL), (4, HIGH), (5, SYSTEM), (6, HIGH)):
        mesh.ask(b"c1", sequence, priority=priority)
    order = []
    for tag in range(1, 6):
        order += [sequence for _, sequence in requests(mesh.final(b"w1", tag))]
    assert order == [5, 4, 6, 3, 2]


def test_no_class_starves(mesh: Mesh) -> None:
    """While high ones keep coming, the one of a lower class that waits longest gets a share."""
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    for sequence, priority in ((2, BULK), (3, NORMAL), (4, BULK)):
        mesh.ask(b"c2", sequence, priority=priority)
        mesh.wait(0.01)
    mesh.ask(b"c1", 10, priority=HIGH)
    order = []
    for tag in range(1, 50):
        mesh.ask(b"c1", 10 + tag, priority=HIGH)
        order += [sequence for _, sequence in requests(mesh.final(b"w1", tag))]
    assert [order.index(sequence) for sequence in (2, 3, 4)] == [15, 31, 47]


def test_clients_take_turns(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"greedy", 100)
    for sequence in range(101, 110):
        mesh.ask(b"greedy", sequence)
    mesh.ask(b"modest", 1)
    mesh.ask(b"modest", 2)
    mesh.ask(b"late", 51)
    order = []
    for tag in range(1, 8):
        order += [sequence for _, sequence in requests(mesh.final(b"w1", tag))]
    assert order == [101, 1, 51, 102, 2, 103, 104]


# -------------------------------------------------------------------- bounds


def refused_for(out: list[tuple[bytes, Message]], code: int) -> float:
    message = only(out, b"c1", ERROR)
    assert message.code == code
    assert message.flags == 0
    return float(payload.decode_map(message.body).get("retry_after", 0.0))


def test_a_queue_is_bounded_in_length() -> None:
    mesh = Mesh(max_queue=2)
    mesh.join(b"w1")
    for sequence in range(1, 4):
        mesh.ask(b"c1", sequence)
    assert refused_for(mesh.ask(b"c1", 4), errors.OVERLOADED) > 0
    assert mesh.counted("refused:overloaded") == 1
    mesh.final(b"w1", 1)
    assert mesh.ask(b"c1", 4) == []


def test_a_full_queue_of_a_lower_class_shuts_out_nobody_above_it() -> None:
    mesh = Mesh(max_queue=2)
    mesh.join(b"w1")
    for sequence in range(1, 4):
        mesh.ask(b"c1", sequence, priority=BULK)
    refused_for(mesh.ask(b"c1", 4, priority=BULK), errors.OVERLOADED)
    assert mesh.ask(b"c1", 5, priority=SYSTEM) == []
    assert mesh.ask(b"c1", 6, priority=HIGH) == []
    refused_for(mesh.ask(b"c1", 7, priority=NORMAL), errors.OVERLOADED)
    assert requests(mesh.final(b"w1", 1)) == [(b"w1", 5)]


def test_the_bytes_held_are_bounded() -> None:
    mesh = Mesh(max_held_bytes=100 + 2 * CALL_OVERHEAD)
    mesh.join(b"w1", window=10)
    mesh.ask(b"c1", 1, frames=[b"x" * 60])
    assert refused_for(mesh.ask(b"c1", 2, frames=[b"x" * 41]), errors.OVERLOADED) > 0
    assert requests(mesh.ask(b"c1", 3, frames=[b"x" * 30, b"y" * 10])) == [(b"w1", 3)]
    mesh.final(b"w1", 1)
    assert requests(mesh.ask(b"c1", 4, frames=[b"x" * 60])) == [(b"w1", 4)]


def test_calls_without_a_body_are_bounded_too() -> None:
    mesh = Mesh(max_held_bytes=5 * CALL_OVERHEAD)
    mesh.join(b"w1", window=3)
    for number in range(1, 6):
        taken = mesh.ask(b"c%d" % number, number, frames=[b""])
        assert brief(taken) == ([(b"w1", "REQUEST")] if number <= 3 else [])
    assert refused_for(mesh.ask(b"c1", 9, frames=[b""]), errors.OVERLOADED) > 0
    assert requests(mesh.final(b"w1", 1)) == [(b"w1", 4)]
    assert mesh.ask(b"c9", 10, frames=[b""]) == []


def test_one_body_is_bounded() -> None:
    mesh = Mesh(max_body=100)
    mesh.join(b"w1")
    refused_for(mesh.ask(b"c1", 1, frames=[b"x" * 101]), errors.TOO_LARGE)
    assert requests(mesh.ask(b"c1", 2, frames=[b"x" * 100])) == [(b"w1", 2)]


def test_a_queue_is_bounded_in_time(mesh: Mesh) -> None:
    """Ten requests a second with a hundred waiting: one that has a second is refused at once."""
    mesh.beating.add(b"w1")
    mesh.join(b"w1")
    for sequence in range(1, 200):
        mesh.ask(b"c1", sequence, timeout=100.0)
    for tag in range(1, 100):
        mesh.wait(0.1)
        mesh.final(b"w1", tag)
    waiting = mesh.router.services[b"echo"].queued
    assert waiting == 99
    assert 4.0 < refused_for(mesh.ask(b"c1", 1000, timeout=1.0), errors.OVERLOADED) <= 5.0
    assert mesh.ask(b"c1", 1001, timeout=20.0) == []
    assert mesh.ask(b"c1", 1002, timeout=1.0, priority=HIGH) == [], "it would not wait for those"


def test_a_stated_time_is_cut_and_a_missing_one_is_filled() -> None:
    mesh = Mesh(default_timeout=3.0, max_timeout=10.0)
    mesh.join(b"w1", window=3)
    assert mesh.ask(b"c1", 1)[0][1].timeout == pytest.approx(3.0)
    assert mesh.ask(b"c1", 2, timeout=5.0)[0][1].timeout == pytest.approx(5.0)
    assert mesh.ask(b"c1", 3, timeout=4000.0)[0][1].timeout == pytest.approx(10.0)


def test_a_waiting_request_is_sent_with_the_time_that_remains(mesh: Mesh) -> None:
    mesh.beating.add(b"w1")
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    mesh.ask(b"c1", 2, timeout=5.0)
    mesh.wait(2.0)
    assert mesh.final(b"w1", 1)[1][1].timeout == pytest.approx(3.0)


def test_names_that_nobody_serves_are_bounded() -> None:
    mesh = Mesh(max_services=2)
    mesh.ask(b"c1", 1, service=b"a")
    mesh.ask(b"c1", 2, service=b"b")
    refused_for(mesh.ask(b"c1", 3, service=b"c"), errors.SERVICE_NOT_FOUND)
    refused_for(mesh.ask(b"c1", 4, service=b""), errors.SERVICE_NOT_FOUND)
    assert mesh.ask(b"c1", 5, service=b"b") == []
    mesh.wait(2.5)
    assert mesh.router.services == {}


# -------------------------------------------------------------------- services that are not there


def test_a_service_is_waited_for_then_not_found(mesh: Mesh) -> None:
    assert mesh.ask(b"c1", 1) == []
    assert mesh.wait(1.9) == []
    assert failure(mesh.wait(0.2), b"c1") == (errors.SERVICE_NOT_FOUND, 0)
    mesh.assert_idle()


def test_a_deadline_before_the_end_of_grace_counts(mesh: Mesh) -> None:
    mesh.ask(b"c1", 1, timeout=0.5)
    assert failure(mesh.wait(0.6), b"c1") == (errors.DEADLINE_EXCEEDED, 0)


def test_a_service_that_comes_in_time_gets_what_waited(mesh: Mesh) -> None:
    mesh.ask(b"c1", 1, b"get")
    mesh.ask(b"c1", 2, b"put")
    mesh.ask(b"c2", 1, b"put", priority=HIGH)
    mesh.wait(1.0)
    assert requests(mesh.join(b"reader", lanes={"": 4}, methods=METHODS)) == [(b"reader", 1)]
    assert mesh.router.workers[b"reader"].calls[1].idempotent
    mesh.beating |= {b"reader", b"writer"}
    assert mesh.wait(1.9) == []
    out = mesh.join(b"writer", lanes={"writer": 2}, methods=METHODS)
    assert requests(out) == [(b"writer", 1), (b"writer", 2)]
    assert [message.service for _, message in out] == [b"echo", b"echo"]


def test_a_lane_that_nobody_serves_is_waited_for_then_named(mesh: Mesh) -> None:
    mesh.beating |= {b"reader", b"writer"}
    mesh.join(b"reader", lanes={"": 4}, methods=METHODS)
    assert mesh.ask(b"c1", 1, b"put") == []
    assert mesh.wait(1.9) == []
    out = mesh.wait(0.2)
    assert failure(out, b"c1") == (errors.SERVICE_NOT_FOUND, 0)
    assert "lane 'writer'" in payload.decode_map(out[0][1].body)["message"]
    mesh.ask(b"c1", 2, b"put")
    mesh.wait(1.0)
    assert requests(mesh.join(b"writer", lanes={"writer": 1}, methods=METHODS)) == [(b"writer", 2)]


@pytest.mark.parametrize("how", ["lost", "capacity"])
def test_grace_begins_when_the_last_one_gives_up_a_lane(mesh: Mesh, how: str) -> None:
    mesh.beating |= {b"reader", b"writer"}
    mesh.join(b"reader", lanes={"": 4}, methods=METHODS)
    mesh.join(b"writer", lanes={"writer": 1}, methods=METHODS)
    mesh.ask(b"c1", 1, b"put", flags=IDEMPOTENT)
    mesh.ask(b"c1", 2, b"put")
    assert mesh.wait(3.0) == []
    if how == "lost":
        mesh.lost(b"writer")
    else:
        mesh.capacity(b"writer", b"writer", 0)
        mesh.error(b"writer", 1, errors.NOT_STARTED)
    assert mesh.wait(1.9) == []
    out = mesh.wait(0.2)
    assert [(m.code, m.sequence) for _, m in out] == [
        (errors.SERVICE_NOT_FOUND, 2),
        (errors.SERVICE_NOT_FOUND, 1),
    ]
    mesh.assert_idle()


def test_a_lane_that_comes_back_in_grace_keeps_its_calls(mesh: Mesh) -> None:
    mesh.beating.add(b"w1")
    mesh.join(b"w1", lanes={"": 1, "writer": 1}, methods=METHODS)
    mesh.ask(b"c1", 1, b"put")
    mesh.ask(b"c1", 2, b"put")
    mesh.capacity(b"w1", b"writer", 0)
    mesh.wait(1.0)
    mesh.capacity(b"w1", b"writer", 1)
    assert mesh.wait(5.0) == []
    assert brief(mesh.final(b"w1", 1)) == [(b"c1", "FINAL"), (b"w1", "REQUEST")]


def test_mdp_requests_wait_for_a_lane_beyond_the_grace(mesh: Mesh) -> None:
    mesh.beating.add(b"w1")
    mesh.join(b"w1", lanes={"": 1, "writer": 1}, methods=METHODS)
    mesh.capacity(b"w1", b"writer", 0)
    mesh.ask_mdp(b"m1", MDP01)
    assert mesh.wait(20.0) == []
    assert brief(mesh.capacity(b"w1", b"writer", 1)) == [(b"w1", "REQUEST")]


def test_grace_begins_when_the_last_worker_leaves(mesh: Mesh) -> None:
    mesh.beating |= {b"w1", b"w2"}
    mesh.join(b"w1", window=1)
    mesh.join(b"w2", window=1)
    for sequence in range(1, 5):
        mesh.ask(b"c1", sequence)
    mesh.wait(3.0)
    out = mesh.lost(b"w1")
    assert brief(out) == [(b"c1", "ERROR")]
    assert mesh.wait(3.0) == []
    assert brief(mesh.lost(b"w2")) == [(b"c1", "ERROR")]
    assert mesh.wait(1.9) == []
    out = mesh.wait(0.2)
    assert [(message.code, message.sequence) for _, message in out] == [
        (errors.SERVICE_NOT_FOUND, 3),
        (errors.SERVICE_NOT_FOUND, 4),
    ]
    mesh.assert_idle()


def test_a_worker_that_returns_in_grace_gets_what_waits(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1, flags=IDEMPOTENT)
    mesh.ask(b"c1", 2)
    assert mesh.lost(b"w1") == []
    mesh.wait(1.0)
    assert requests(mesh.join(b"w2", window=2)) == [(b"w2", 1), (b"w2", 2)]
    mesh.beating.add(b"w2")
    assert mesh.wait(3.0) == []


def test_a_new_version_with_other_lanes_gets_what_waited_for_the_old(mesh: Mesh) -> None:
    mesh.join(b"old", lanes={"slow": 1}, methods={"m": {"lane": "slow"}})
    mesh.ask(b"c1", 1, flags=IDEMPOTENT)
    mesh.ask(b"c1", 2)
    mesh.lost(b"old")
    out = mesh.join(b"new", lanes={"fast": 2}, methods={"m": {"lane": "fast"}})
    assert requests(out) == [(b"new", 1), (b"new", 2)]


def test_a_service_without_workers_and_calls_is_forgotten(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.lost(b"w1")
    mesh.wait(0.3)
    assert mesh.router.services == {}


def test_work_of_one_service_never_reaches_another(mesh: Mesh) -> None:
    mesh.join(b"w1", b"echo")
    assert mesh.ask(b"c1", 1, service=b"other") == []
    assert requests(mesh.join(b"w2", b"other")) == [(b"w2", 1)]


def test_what_the_router_sends_is_never_changed_later(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.join(b"w2")
    out = mesh.ask(b"c1", 1, flags=IDEMPOTENT)
    sent = out[0][1]
    assert requests(mesh.lost(b"w1")) == [(b"w2", 1)]
    assert sent.tag == 1
    assert tags(out) == {1: 1}
    assert request(1).sequence == 1
