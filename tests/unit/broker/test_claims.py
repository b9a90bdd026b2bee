"""Section 6: one store for each service, and lanes that only the newest claim may serve."""

from __future__ import annotations

from typing import Any

import pytest

from mesh import errors
from mesh.protocol import payload
from mesh.protocol.mdp import MDP01
from mesh.protocol.messages import (
    CAPACITY,
    CREDIT,
    GOODBYE,
    IDEMPOTENT,
    MORE,
    STARTED,
    WELCOME,
    Message,
)
from tests.unit.broker.driver import Mesh, Out, brief, failure, only, requests

METHODS = {"put": {"lane": "writer"}, "get": {}}
STORE = {"uuid": "store-a", "epoch": 3, "host": "alpha"}


def join(mesh: Mesh, peer: bytes, epoch: int = 0, **fields: Any) -> Out:
    """A worker over STORE that reads, and with an epoch also writes. All that it is told."""
    facts: dict[str, Any] = {"methods": METHODS, "store": STORE, "lanes": {"": 2}}
    if epoch:
        facts |= {"lanes": {"": 2, "writer": 2}, "epochs": {"writer": epoch}}
    mesh.beating.add(peer)
    return mesh.ready(peer, b"echo", facts | fields)


def closed(epoch: int, lane: bytes = b"writer") -> Message:
    return Message(CAPACITY, service=b"echo", method=lane, credit=0, sequence=epoch)


def put(mesh: Mesh, sequence: int, flags: int = 0) -> Out:
    return mesh.ask(b"c1", sequence, b"put", flags=flags)


# -------------------------------------------------------------------- stores


@pytest.mark.parametrize(
    ("mine", "named"),
    [({"uuid": "store-b", "epoch": 9, "host": "beta"}, "store-b on beta"), (None, "none")],
)
def test_a_second_store_of_a_service_is_refused(
    mesh: Mesh, mine: dict[str, Any] | None, named: str
) -> None:
    join(mesh, b"w1")
    fields = {"store": mine} if mine else {}
    goodbye = only(mesh.ready(b"w2", b"echo", fields), b"w2", GOODBYE)
    assert goodbye.code == errors.INVALID_ARGUMENT
    text = bytes(goodbye.body).decode()
    assert f"yours is {named}," in text and "have store-a on alpha;" in text and "stop" in text
    assert mesh.counted("refused:other_store") == 1
    assert mesh.ready(b"w2", b"echo", fields) == []
    assert set(mesh.router.workers) == {b"w1"}


def test_a_store_for_a_service_that_has_none_is_refused(mesh: Mesh) -> None:
    mesh.join(b"w1")
    assert only(join(mesh, b"w2"), b"w2", GOODBYE).code == errors.INVALID_ARGUMENT
    assert mesh.join_mdp(b"w3", MDP01) == []


def test_a_worker_of_mdp_has_no_store(mesh: Mesh) -> None:
    join(mesh, b"w1")
    assert brief(mesh.join_mdp(b"w2", MDP01)) == [(b"w2", "GOODBYE")]


def test_workers_over_the_same_store_serve_together(mesh: Mesh) -> None:
    for peer, epoch in ((b"w1", 3), (b"w2", 4)):
        only(join(mesh, peer, store={**STORE, "epoch": epoch, "host": "h2"}), peer, WELCOME)
    assert len(mesh.router.services[b"echo"].workers) == 2


def test_another_service_may_have_another_store(mesh: Mesh) -> None:
    join(mesh, b"w1")
    out = mesh.ready(b"w2", b"other", {"store": {"uuid": "store-b"}})
    only(out, b"w2", WELCOME)


def test_another_store_may_follow_once_the_others_have_left(mesh: Mesh) -> None:
    join(mesh, b"w1", 7)
    mesh.lost(b"w1")
    other = {"uuid": "store-b", "epoch": 1}
    only(join(mesh, b"w2", 1, store=other), b"w2", WELCOME)
    assert requests(put(mesh, 1)) == [(b"w2", 1)]
    assert only(join(mesh, b"w3"), b"w3", GOODBYE).code == errors.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "fields",
    [
        {"store": None},
        {"store": "uuid"},
        {"store": {}},
        {"store": {"uuid": ""}},
        {"store": {"uuid": 7}},
        {"store": {"uuid": "x" * 201}},
        {"store": {"uuid": "u", "epoch": -1}},
        {"store": {"uuid": "u", "epoch": 1.5}},
        {"store": {"uuid": "u", "epoch": 1 << 64}},
        {"epochs": []},
        {"epochs": {"": 0}},
        {"epochs": {"": "1"}},
        {"epochs": {"": True}},
        {"epochs": {"": 1 << 64}},
        {"epochs": {7: 1}},
        {"epochs": {"x" * 201: 1}},
        {"epochs": {f"lane{i}": 1 for i in range(65)}},
    ],
)
def test_a_malformed_store_or_claim_is_refused(mesh: Mesh, fields: dict[str, Any]) -> None:
    goodbye = only(mesh.ready(b"w1", b"echo", fields), b"w1", GOODBYE)
    assert goodbye.code == errors.PROTOCOL
    assert mesh.counted("refused:bad_ready") == 1


def test_odd_names_of_stores_can_be_told(mesh: Mesh) -> None:
    join(mesh, b"w1")
    for number, host in enumerate((None, 7, "x" * 10_000, "\x00\n")):
        peer = b"w%d" % (number + 2)
        out = join(mesh, peer, store={"uuid": "数据", "host": host})
        assert len(only(out, peer, GOODBYE).body) < 1000


# -------------------------------------------------------------------- claims


def test_a_newer_claim_closes_the_lane_of_the_older(mesh: Mesh) -> None:
    join(mesh, b"w1", 3)
    join(mesh, b"w2")
    assert requests(put(mesh, 1)) == [(b"w1", 1)]
    assert mesh.capacity(b"w2", b"writer", 2, epoch=4) == [(b"w1", closed(4))]
    assert requests(put(mesh, 2) + put(mesh, 3) + put(mesh, 4)) == [(b"w2", 2), (b"w2", 3)]
    assert mesh.counted("closed:old_epoch") == 1
    assert requests(mesh.final(b"w1", 1)) == []
    assert requests(mesh.ask(b"c2", 1, b"get") + mesh.ask(b"c2", 2, b"get")) == [
        (b"w1", 1),
        (b"w2", 2),
    ]


def test_what_the_older_has_moves_where_it_may_be_done_twice(mesh: Mesh) -> None:
    join(mesh, b"w1", 3, lanes={"": 2, "writer": 5})
    for sequence, flags in ((1, IDEMPOTENT), (2, 0), (3, IDEMPOTENT | MORE), (4, IDEMPOTENT)):
        put(mesh, sequence, flags)
    mesh.say(b"w1", Message(CREDIT, tag=3, credit=1))
    mesh.ask(b"c1", 5, b"get", flags=IDEMPOTENT)
    out = join(mesh, b"w2", 4)
    assert brief(out) == [
        (b"w2", "WELCOME"),
        (b"w1", "CAPACITY"),
        (b"w1", "CANCEL"),
        (b"w1", "CANCEL"),
        (b"w2", "REQUEST"),
        (b"w2", "REQUEST"),
    ]
    assert requests(out) == [(b"w2", 1), (b"w2", 4)]
    assert mesh.counted("redispatched:old_epoch") == 2
    assert mesh.final(b"w1", 1) == []
    assert brief(mesh.final(b"w1", 2)) == [(b"c1", "FINAL")]
    out = mesh.lost(b"w1")
    assert failure(out[:1], b"c1") == (errors.WORKER_LOST, STARTED | IDEMPOTENT)
    assert requests(out) == [(b"w2", 5)]


def test_what_moves_does_so_within_the_limit() -> None:
    mesh = Mesh(max_redispatches=1)
    join(mesh, b"w1", 1)
    put(mesh, 1, IDEMPOTENT)
    assert requests(join(mesh, b"w2", 2)) == [(b"w2", 1)]
    assert requests(join(mesh, b"w3", 3)) == []
    assert brief(mesh.final(b"w2", 2)) == [(b"c1", "FINAL")]


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_an_older_claim_is_refused_and_told_so(mesh: Mesh, epoch: int) -> None:
    join(mesh, b"w1", 4)
    join(mesh, b"w2")
    assert mesh.capacity(b"w2", b"writer", 2, epoch) == [(b"w2", closed(4))]
    assert mesh.counted("refused:old_epoch") == 1
    assert mesh.router.workers[b"w2"].seats[b"writer"].window == 0
    assert requests(put(mesh, 1)) == [(b"w1", 1)]


@pytest.mark.parametrize("epochs", [{}, {"writer": 3}, {"other": 9}])
def test_a_worker_that_registers_with_an_old_claim_serves_the_rest(
    mesh: Mesh, epochs: dict[str, int]
) -> None:
    join(mesh, b"w1", 4)
    out = join(mesh, b"w2", 3, epochs=epochs)
    assert brief(out) == [(b"w2", "WELCOME"), (b"w2", "CAPACITY")]
    assert out[1][1] == closed(4)
    assert requests(put(mesh, 1) + put(mesh, 2) + put(mesh, 3)) == [(b"w1", 1), (b"w1", 2)]
    assert requests(mesh.ask(b"c2", 1, b"get") + mesh.ask(b"c2", 2, b"get"))[1] == (b"w2", 2)


def test_the_epoch_is_remembered_when_nobody_is_left(mesh: Mesh) -> None:
    join(mesh, b"w1", 4)
    mesh.lost(b"w1")
    mesh.wait(1.0)
    assert mesh.router.services == {}
    assert brief(join(mesh, b"w2", 3)) == [(b"w2", "WELCOME"), (b"w2", "CAPACITY")]
    assert put(mesh, 1) == []
    assert requests(mesh.capacity(b"w2", b"writer", 1, epoch=5)) == [(b"w2", 1)]


def test_the_same_worker_may_come_back_with_its_claim(mesh: Mesh) -> None:
    join(mesh, b"w1", 4)
    assert brief(join(mesh, b"w1-again", 4)) == [(b"w1-again", "WELCOME")]
    mesh.lost(b"w1")
    assert requests(put(mesh, 1)) == [(b"w1-again", 1)]


def test_the_holder_may_change_its_window_and_give_the_lane_up(mesh: Mesh) -> None:
    join(mesh, b"w1", 4)
    assert mesh.capacity(b"w1", b"writer", 1, epoch=4) == []
    assert requests(put(mesh, 1) + put(mesh, 2)) == [(b"w1", 1)]
    assert mesh.capacity(b"w1", b"writer", 0) == []
    assert mesh.final(b"w1", 1)[1:] == []
    join(mesh, b"w2")
    assert requests(mesh.capacity(b"w2", b"writer", 1, epoch=5)) == [(b"w2", 2)]


def test_a_claim_closes_a_lane_that_was_served_without_one(mesh: Mesh) -> None:
    join(mesh, b"w1", lanes={"writer": 2})
    join(mesh, b"w2")
    assert mesh.capacity(b"w2", b"writer", 1, epoch=1) == [(b"w1", closed(1))]


def test_claims_of_other_lanes_and_services_are_apart(mesh: Mesh) -> None:
    join(mesh, b"w1", 9)
    join(mesh, b"w2")
    assert mesh.capacity(b"w2", b"compactor", 1, epoch=1) == []
    out = mesh.ready(b"w3", b"other", {"lanes": {"writer": 1}, "epochs": {"writer": 1}})
    assert brief(out) == [(b"w3", "WELCOME")]


def test_a_suspect_with_the_newest_claim_gets_its_work_when_it_speaks(mesh: Mesh) -> None:
    join(mesh, b"w1", 1)
    join(mesh, b"w2")
    put(mesh, 1, IDEMPOTENT)
    mesh.beating.discard(b"w2")
    mesh.wait(1.2)
    out = mesh.capacity(b"w2", b"writer", 1, epoch=2)
    assert brief(out) == [(b"w1", "CAPACITY"), (b"w1", "CANCEL")]
    assert requests(mesh.wait(0.2)) == [(b"w2", 1)]


def test_requests_for_a_closed_lane_wait_for_the_grace_only(mesh: Mesh) -> None:
    join(mesh, b"w1", 4)
    mesh.lost(b"w1")
    join(mesh, b"w2", 3)
    put(mesh, 1)
    assert mesh.wait(1.9) == []
    assert failure(mesh.wait(0.2), b"c1") == (errors.SERVICE_NOT_FOUND, 0)


def test_an_old_claim_that_is_lost_leaves_nothing_behind(mesh: Mesh) -> None:
    join(mesh, b"w1", 3)
    put(mesh, 1, IDEMPOTENT)
    join(mesh, b"w2")
    mesh.capacity(b"w2", b"writer", 1, epoch=4)
    mesh.lost(b"w1")
    assert brief(mesh.final(b"w2", 2)) == [(b"c1", "FINAL")]
    mesh.assert_idle()


def test_what_is_remembered_of_claims_is_bounded(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.registration.CLAIMS_KEPT", 3)
    mesh.ready(b"w1", b"echo", {"lanes": {"": 1}})
    for number in range(10):
        mesh.capacity(b"w1", b"lane%d" % (number % 5), 1, epoch=number + 1)
        mesh.capacity(b"w1", b"lane0", 1, epoch=100)
    assert sorted(lane for _, _, lane in mesh.router.claims) == [b"lane0", b"lane3", b"lane4"]


def test_operators_see_stores(mesh: Mesh) -> None:
    join(mesh, b"w1", 4)
    mesh.join(b"w2", b"plain")
    out = mesh.ask(b"admin", 1, b"status", service=b"mesh.broker")
    found = payload.decode_map(out[0][1].body)["workers"]
    assert [worker["store"] for worker in found] == [STORE, None]
