"""Sections 8 and 9: silence, suspicion, loss, ejection of those that fail, and leaving."""

from __future__ import annotations

import pytest

from broker.state import ACTIVE, DRAINING, EJECTED, SUSPECT
from mesh import errors
from mesh.protocol.messages import DRAIN, ERROR, GOODBYE, HEARTBEAT, IDEMPOTENT, REQUEST, Message
from tests.unit.broker.driver import Mesh, Out, brief, failure, only, requests


def state(mesh: Mesh, peer: bytes) -> str:
    return mesh.router.workers[peer].state


# -------------------------------------------------------------------- silence


def test_a_silent_worker_is_suspect_after_two_beats_and_lost_after_ten(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.wait(0.95)
    assert state(mesh, b"w1") == ACTIVE
    mesh.wait(0.2)
    assert state(mesh, b"w1") == SUSPECT
    assert mesh.wait(3.8) == []
    assert mesh.wait(0.3) == [(b"w1", Message(GOODBYE))]
    assert mesh.router.workers == {}
    assert mesh.counted("lost:silent") == 1
    assert mesh.say(b"w1", Message(HEARTBEAT)) == []


def test_the_agreed_heartbeat_counts(mesh: Mesh) -> None:
    mesh.join(b"w1", heartbeat=2.0)
    mesh.wait(3.9)
    assert state(mesh, b"w1") == ACTIVE
    mesh.wait(0.3)
    assert state(mesh, b"w1") == SUSPECT
    assert mesh.wait(15.7) == []
    assert brief(mesh.wait(0.4)) == [(b"w1", "GOODBYE")]


def test_a_suspect_gets_no_work_until_it_speaks(mesh: Mesh) -> None:
    mesh.join(b"w1", window=5)
    mesh.join(b"w2", window=1)
    mesh.beating.add(b"w2")
    mesh.wait(1.2)
    assert requests(mesh.ask(b"c1", 1)) == [(b"w2", 1)]
    assert mesh.ask(b"c1", 2) == []
    mesh.say(b"w1", Message(HEARTBEAT))
    assert requests(mesh.wait(0.15)) == [(b"w1", 2)]
    assert state(mesh, b"w1") == ACTIVE


@pytest.mark.parametrize("command", ["final", "heartbeat", "capacity", "partial"])
def test_every_word_is_a_sign_of_life(mesh: Mesh, command: str) -> None:
    mesh.join(b"w1", window=5)
    for sequence in range(1, 5):
        mesh.ask(b"c1", sequence, flags=0x08, credit=10)
    for tag in range(1, 4):
        mesh.wait(0.9)
        if command == "final":
            mesh.final(b"w1", tag)
        elif command == "partial":
            mesh.partial(b"w1", tag)
        elif command == "capacity":
            mesh.capacity(b"w1", b"", 5)
        else:
            mesh.say(b"w1", Message(HEARTBEAT))
    mesh.wait(0.05)
    assert state(mesh, b"w1") == ACTIVE


def test_a_worker_with_work_in_hand_is_given_sixty_beats(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1, timeout=100.0)
    assert mesh.wait(29.8) == []
    assert state(mesh, b"w1") == SUSPECT
    assert brief(mesh.wait(0.5)) == [(b"w1", "GOODBYE"), (b"c1", "ERROR")]


def test_a_broker_that_was_held_up_does_not_blame_its_workers(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.wait(0.5)
    mesh.now += 20.0
    mesh.router.tick(mesh.now)
    mesh.out()
    assert state(mesh, b"w1") == ACTIVE
    assert mesh.wait(0.3) == []
    assert state(mesh, b"w1") == ACTIVE
    mesh.wait(1.0)
    assert state(mesh, b"w1") == SUSPECT


def test_the_broker_says_a_beat_when_it_has_nothing_else_to_say(mesh: Mesh) -> None:
    mesh.join(b"w1", window=100)
    mesh.beating.add(b"w1")

    def beats(seconds: float) -> int:
        until = mesh.now + seconds
        count = 0
        while mesh.now < until:
            mesh.now = mesh.router.next_deadline()
            mesh.say(b"w1", Message(HEARTBEAT))
            mesh.router.tick(mesh.now)
            count += brief(mesh.out()).count((b"w1", "HEARTBEAT"))
        return count

    assert 18 <= beats(10.0) <= 21
    for sequence in range(1, 21):
        mesh.ask(b"c1", sequence)
        assert beats(0.3) == 0


def test_a_native_client_that_is_silent_is_kept(mesh: Mesh) -> None:
    mesh.hello(b"c1")
    mesh.wait(700.0)
    assert b"c1" in mesh.router.clients


def test_what_a_suspect_has_goes_to_others_where_it_may_be_done_twice(mesh: Mesh) -> None:
    mesh.join(b"w1", window=4)
    for sequence, flags in ((1, IDEMPOTENT), (2, 0), (3, IDEMPOTENT | 0x08), (4, IDEMPOTENT)):
        mesh.ask(b"c1", sequence, flags=flags, credit=5)
    mesh.partial(b"w1", 3)
    mesh.cancel(b"c1", 4)
    mesh.join(b"w2", window=4)
    mesh.beating.add(b"w2")
    out = mesh.wait(1.2)
    assert brief(out) == [(b"w1", "CANCEL"), (b"w2", "REQUEST")]
    assert (out[0][1].tag, out[1][1].tag, out[1][1].sequence) == (1, 5, 1)
    assert mesh.router.workers[b"w1"].seats[b""].in_flight == 4
    assert mesh.final(b"w1", 1) == []
    assert brief(mesh.final(b"w2", 5)) == [(b"c1", "FINAL")]
    assert brief(mesh.final(b"w1", 2)) == [(b"c1", "FINAL")]


def test_a_request_moves_away_from_suspects_once(mesh: Mesh) -> None:
    """Should it be what silences workers, it must not reach them all."""
    mesh.join(b"w1")
    mesh.ask(b"c1", 1, flags=IDEMPOTENT, timeout=100.0)
    for peer in (b"w2", b"w3"):
        mesh.join(peer, heartbeat=0.6)
    assert requests(mesh.wait(1.15)) == [(b"w2", 1)]
    mesh.beating.add(b"w3")
    assert mesh.wait(5.0) == []
    assert (state(mesh, b"w2"), state(mesh, b"w3")) == (SUSPECT, ACTIVE)
    assert not mesh.router.workers[b"w3"].calls
    assert mesh.counted("redispatched:suspect") == 1


def test_a_suspect_keeps_its_work_if_nobody_else_serves_the_lane(mesh: Mesh) -> None:
    mesh.join(b"w1", lanes={"": 1}, methods={"put": {"lane": "writer"}})
    mesh.join(b"w2", lanes={"writer": 1}, methods={"put": {"lane": "writer"}})
    mesh.beating.add(b"w2")
    mesh.ask(b"c1", 1, flags=IDEMPOTENT)
    assert mesh.wait(3.0) == []
    assert brief(mesh.final(b"w1", 1)) == [(b"c1", "FINAL")]
    mesh.assert_idle()


def test_what_a_suspect_has_moves_when_somebody_comes_who_serves_the_lane(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1, flags=IDEMPOTENT, timeout=100.0)
    assert mesh.wait(3.0) == []
    assert state(mesh, b"w1") == SUSPECT
    mesh.beating.add(b"w2")
    mesh.join(b"w2")
    assert requests(mesh.wait(0.2)) == [(b"w2", 1)]
    assert brief(mesh.final(b"w2", 2)) == [(b"c1", "FINAL")]


# -------------------------------------------------------------------- ejection


class Group:
    """Workers of one service with a window of one each, and a client that asks."""

    def __init__(self, mesh: Mesh, size: int) -> None:
        self.mesh = mesh
        self.peers = [b"w%d" % number for number in range(size)]
        self.sequence = 0
        mesh.beating.update(self.peers)
        for peer in self.peers:
            mesh.join(peer)

    def ask_all(self) -> dict[bytes, int]:
        """One request to each worker that takes work; the tags they got."""
        tags = {}
        for _ in self.peers:
            self.sequence += 1
            out = self.mesh.ask(b"c1", self.sequence)
            if out:
                tags[out[0][0]] = only(out, out[0][0], REQUEST).tag
            else:
                self.mesh.cancel(b"c1", self.sequence)
        return tags

    def round(self, *bad: bytes, code: int = errors.REMOTE_ERROR) -> set[bytes]:
        """The good ones succeed, then `bad` fail; who took part."""
        tags = self.ask_all()
        for peer, tag in tags.items():
            if peer not in bad:
                self.mesh.final(peer, tag)
        for peer in bad:
            if peer in tags:
                self.mesh.error(peer, tags[peer], code)
        return set(tags)

    def ejected(self) -> set[bytes]:
        return {p for p, w in self.mesh.router.workers.items() if w.state == EJECTED}


def test_a_worker_that_fails_while_others_succeed_is_ejected(mesh: Mesh) -> None:
    group = Group(mesh, 3)
    for _ in range(4):
        assert b"w1" in group.round(b"w1")
    assert group.ejected() == set()
    group.round(b"w1")
    assert group.ejected() == {b"w1"}
    assert group.round(b"w1") == {b"w0", b"w2"}
    assert mesh.counted("ejected") == 1


def test_a_success_in_between_forgives(mesh: Mesh) -> None:
    group = Group(mesh, 3)
    for _ in range(5):
        for _ in range(4):
            group.round(b"w1")
        group.round()
    assert group.ejected() == set()


@pytest.mark.parametrize("code", [2, 3, 5, 6, 8, 13])
def test_errors_that_are_the_callers_fault_do_not_count(mesh: Mesh, code: int) -> None:
    group = Group(mesh, 3)
    for _ in range(10):
        group.round(b"w1", code=code)
    assert group.ejected() == set()


def test_nobody_is_ejected_if_all_fail(mesh: Mesh) -> None:
    group = Group(mesh, 3)
    for _ in range(10):
        group.round(*group.peers)
    assert group.ejected() == set()


def test_a_lone_worker_is_never_ejected(mesh: Mesh) -> None:
    group = Group(mesh, 1)
    group.round()
    for _ in range(10):
        group.round(b"w0")
    assert group.ejected() == set()


@pytest.mark.parametrize(("size", "most"), [(2, 1), (3, 1), (4, 2), (5, 2)])
def test_never_more_than_half_are_ejected(mesh: Mesh, size: int, most: int) -> None:
    group = Group(mesh, size)
    for _ in range(12):
        group.round(*group.peers[1:])
    assert len(group.ejected()) == most


def ejected_group(mesh: Mesh, size: int = 2) -> Group:
    group = Group(mesh, size)
    for _ in range(5):
        group.round(b"w1")
    assert group.ejected() == {b"w1"}
    return group


def test_an_ejected_worker_is_probed_with_one_request_and_restored(mesh: Mesh) -> None:
    group = ejected_group(mesh)
    mesh.capacity(b"w1", b"", 3)
    mesh.wait(9.9)
    assert group.round() == {b"w0"}
    mesh.wait(0.2)
    assert mesh.counted("probed") == 1
    assert [requests(mesh.ask(b"c2", n)) for n in (1, 2, 3)] == [[(b"w0", 1)], [(b"w1", 2)], []]
    probe = next(iter(mesh.router.workers[b"w1"].calls))
    assert requests(mesh.final(b"w1", probe)) == [(b"w1", 3)]
    assert mesh.counted("restored") == 1
    assert [requests(mesh.ask(b"c2", n)) for n in (4, 5, 6)] == [[(b"w1", 4)], [(b"w1", 5)], []]


@pytest.mark.parametrize("waiting", [True, False])
def test_a_probe_is_one_request_over_all_lanes(mesh: Mesh, waiting: bool) -> None:
    """Each lane takes work by itself; a worker on trial must not get one request of each."""
    methods = {"put": {"lane": "writer"}, "scan": {"lane": "slow"}}
    lanes = {"": 1, "writer": 1, "slow": 1}
    mesh.beating |= {b"w0", b"w1"}
    for peer in (b"w0", b"w1"):
        mesh.join(peer, lanes=lanes, methods=methods)
    for sequence in range(1, 11):
        peer, request = mesh.ask(b"c1", sequence)[0]
        if peer == b"w1":
            mesh.error(peer, request.tag, errors.REMOTE_ERROR)
        else:
            mesh.final(peer, request.tag)
    assert state(mesh, b"w1") == EJECTED
    busy = [mesh.ask(b"c1", n, m)[0] for n, m in ((21, b""), (22, b"put"), (23, b"scan"))]
    assert {peer for peer, _ in busy} == {b"w0"}
    if not waiting:
        mesh.wait(10.1)
    out = [mesh.ask(b"c1", n, m) for n, m in ((31, b""), (32, b"put"), (33, b"scan"))]
    if waiting:
        out.append(mesh.wait(10.2))
    assert sum(len(requests(each)) for each in out) == 1
    probe = next(iter(mesh.router.workers[b"w1"].calls))
    assert len(requests(mesh.final(b"w1", probe))) == 2
    assert mesh.counted("restored") == 1


@pytest.mark.parametrize("how", ["drains", "falls silent", "leaves"])
def test_an_ejected_worker_is_recalled_when_the_others_are_no_longer_there(
    mesh: Mesh, how: str
) -> None:
    ejected_group(mesh)
    if how == "drains":
        mesh.say(b"w0", Message(DRAIN))
    elif how == "leaves":
        mesh.lost(b"w0")
    else:
        mesh.beating.discard(b"w0")
        mesh.wait(1.3)
        assert state(mesh, b"w0") == SUSPECT
    assert mesh.counted("probed") == 1
    assert requests(mesh.ask(b"c2", 1)) == [(b"w1", 1)]


def test_those_that_leave_do_not_make_up_the_half_that_stays(mesh: Mesh) -> None:
    group = Group(mesh, 4)
    mesh.say(b"w2", Message(DRAIN))
    mesh.say(b"w3", Message(DRAIN))
    for _ in range(6):
        group.round(b"w0", b"w1")
    assert len(group.ejected()) <= 1


def test_a_failed_probe_ejects_for_longer(mesh: Mesh) -> None:
    group = ejected_group(mesh)
    mesh.wait(10.1)
    group.round(b"w1")
    assert group.ejected() == {b"w1"}
    mesh.wait(19.8)
    assert group.ejected() == {b"w1"}
    mesh.wait(0.4)
    assert group.ejected() == set()
    group.round()
    assert mesh.counted("restored") == 1


def test_a_restored_worker_serves_all_its_lanes(mesh: Mesh) -> None:
    methods = {"put": {"lane": "writer"}}
    mesh.beating |= {b"w0", b"w1"}
    for peer in (b"w0", b"w1"):
        mesh.join(peer, lanes={"": 1, "writer": 1}, methods=methods)
    for sequence in range(1, 11):
        out = mesh.ask(b"c1", sequence)
        peer, tag = out[0][0], out[0][1].tag
        if peer == b"w1":
            mesh.error(peer, tag, errors.REMOTE_ERROR)
        else:
            mesh.final(peer, tag)
    assert state(mesh, b"w1") == EJECTED
    for sequence in range(21, 25):
        mesh.ask(b"c1", sequence, b"put", timeout=100.0)
    for sequence in range(31, 35):
        mesh.ask(b"c1", sequence, timeout=100.0)
    assert len(requests(mesh.wait(10.2))) == 1
    probe = next(iter(mesh.router.workers[b"w1"].calls))
    mesh.final(b"w1", probe)
    assert mesh.router.workers[b"w1"].seats[b""].in_flight == 1
    assert mesh.router.workers[b"w1"].seats[b"writer"].in_flight == 1


def test_a_probing_worker_that_refuses_or_falls_silent_is_still_probed_only(mesh: Mesh) -> None:
    group = ejected_group(mesh)
    mesh.capacity(b"w1", b"", 5)
    mesh.wait(10.1)
    mesh.ask(b"c2", 1)
    mesh.ask(b"c2", 2)
    probe = next(iter(mesh.router.workers[b"w1"].calls))
    mesh.error(b"w1", probe, errors.NOT_STARTED)
    mesh.ask(b"c2", 3)
    mesh.wait(0.03)
    assert len(mesh.router.workers[b"w1"].calls) == 1
    mesh.error(b"w1", next(iter(mesh.router.workers[b"w1"].calls)), errors.INVALID_ARGUMENT)
    assert len(mesh.router.workers[b"w1"].calls) == 1
    mesh.error(b"w1", next(iter(mesh.router.workers[b"w1"].calls)), errors.INVALID_ARGUMENT)
    mesh.beating.discard(b"w1")
    mesh.wait(1.3)
    assert state(mesh, b"w1") == SUSPECT
    mesh.say(b"w1", Message(HEARTBEAT))
    mesh.wait(0.2)
    for sequence in range(11, 16):
        mesh.ask(b"c2", sequence)
    assert len(mesh.router.workers[b"w1"].calls) == 1
    assert group.ejected() == set()


def test_a_probed_worker_without_credit_gets_nothing(mesh: Mesh) -> None:
    ejected_group(mesh)
    mesh.capacity(b"w1", b"", 0)
    mesh.wait(10.1)
    mesh.ask(b"c2", 1)
    assert mesh.ask(b"c2", 2) == []
    assert requests(mesh.capacity(b"w1", b"", 2)) == [(b"w1", 2)]
    assert mesh.ask(b"c2", 3) == []


def test_the_last_ones_are_probed_at_once_when_the_others_leave(mesh: Mesh) -> None:
    group = ejected_group(mesh)
    mesh.ask(b"c2", 1, flags=IDEMPOTENT)
    mesh.ask(b"c2", 2)
    assert requests(mesh.lost(b"w0")) == [(b"w1", 1)]
    assert group.ejected() == set()
    assert requests(mesh.error(b"w1", max(mesh.router.workers[b"w1"].calls), 9)) == [(b"w1", 2)]


def test_an_ejected_worker_may_drain_and_leave(mesh: Mesh) -> None:
    ejected_group(mesh)
    mesh.say(b"w1", Message(DRAIN))
    mesh.wait(15.0)
    assert state(mesh, b"w1") == DRAINING
    mesh.say(b"w1", Message(GOODBYE))
    assert set(mesh.router.workers) == {b"w0"}


# -------------------------------------------------------------------- leaving


def test_a_draining_worker_finishes_and_gets_nothing_new(mesh: Mesh) -> None:
    mesh.beating |= {b"w1", b"w2"}
    mesh.join(b"w1", window=2)
    mesh.ask(b"c1", 1)
    assert mesh.say(b"w1", Message(DRAIN)) == [(b"w1", Message(DRAIN, credit=1))]
    assert mesh.ask(b"c1", 2) == []
    assert mesh.capacity(b"w1", b"", 9) == []
    assert mesh.wait(3.0) == []
    assert requests(mesh.join(b"w2")) == [(b"w2", 2)]
    assert brief(mesh.final(b"w1", 1)) == [(b"c1", "FINAL")]
    assert mesh.say(b"w1", Message(GOODBYE)) == []
    assert set(mesh.router.workers) == {b"w2"}
    assert mesh.counted("left:goodbye") == 1


@pytest.mark.parametrize("broker_first", [True, False])
def test_the_answer_to_a_drain_is_not_the_brokers_own(mesh: Mesh, broker_first: bool) -> None:
    """Where the two cross, the worker must know which of them says that no more will come."""
    mesh.join(b"w1")
    out: Out = []
    if broker_first:
        mesh.router.drain(mesh.now)
    out += mesh.say(b"w1", Message(DRAIN))
    mesh.router.drain(mesh.now)
    out += mesh.out()
    assert [(p, m.command, m.credit) for p, m in out] == [
        (b"w1", DRAIN, 0 if broker_first else 1),
        (b"w1", DRAIN, 1 if broker_first else 0),
    ]


def test_what_a_draining_worker_has_moves_when_it_falls_silent(mesh: Mesh) -> None:
    mesh.join(b"w1", window=2)
    mesh.ask(b"c1", 1, flags=IDEMPOTENT)
    mesh.ask(b"c1", 2)
    mesh.say(b"w1", Message(DRAIN))
    mesh.wait(2.0)
    mesh.beating.add(b"w2")
    assert mesh.join(b"w2", window=2) == []
    out = mesh.wait(0.2)
    assert brief(out) == [(b"w1", "CANCEL"), (b"w2", "REQUEST")]
    assert requests(out) == [(b"w2", 1)]
    assert mesh.wait(1.0) == []
    assert state(mesh, b"w1") == DRAINING
    assert mesh.final(b"w1", 1) == []
    assert brief(mesh.final(b"w1", 2)) == [(b"c1", "FINAL")]
    assert brief(mesh.final(b"w2", 3)) == [(b"c1", "FINAL")]


def test_what_an_ejected_worker_has_moves_when_it_falls_silent(mesh: Mesh) -> None:
    mesh.join(b"w1", window=6)
    for sequence in range(1, 7):
        mesh.ask(b"c1", sequence, flags=IDEMPOTENT)
    mesh.join(b"w2", window=9)
    mesh.error(b"w1", 2, errors.REMOTE_ERROR)
    assert requests(mesh.ask(b"c1", 7)) == [(b"w2", 7)]
    mesh.final(b"w2", 7)
    for tag in range(3, 7):
        mesh.error(b"w1", tag, errors.REMOTE_ERROR)
    assert state(mesh, b"w1") == EJECTED
    mesh.beating.add(b"w2")
    assert requests(mesh.wait(1.2)) == [(b"w2", 1)]
    assert state(mesh, b"w1") == EJECTED


def test_what_a_draining_worker_refuses_goes_elsewhere(mesh: Mesh) -> None:
    mesh.join(b"w1", window=2)
    mesh.ask(b"c1", 1)
    mesh.say(b"w1", Message(DRAIN))
    mesh.join(b"w2")
    assert requests(mesh.error(b"w1", 1, errors.NOT_STARTED)) == [(b"w2", 1)]
    mesh.wait(0.1)
    assert state(mesh, b"w1") == DRAINING


def test_a_paused_worker_that_drains_stays_away(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    mesh.error(b"w1", 1, errors.NOT_STARTED)
    mesh.say(b"w1", Message(DRAIN))
    assert mesh.wait(0.5) == []


def test_the_broker_says_that_it_leaves_and_finishes(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.hello(b"c1")
    mesh.hello(b"c2")
    mesh.ask(b"c1", 1)
    mesh.ask(b"c1", 2)
    assert not mesh.router.drained(mesh.now)
    mesh.router.drain(mesh.now)
    assert brief(mesh.out()) == [(b"c1", "DRAIN"), (b"c2", "DRAIN"), (b"w1", "DRAIN")]
    mesh.router.drain(mesh.now)
    assert mesh.out() == []
    assert failure(mesh.ask(b"c2", 1), b"c2") == (errors.DRAINING, 0)
    mesh.say(b"c1", Message(DRAIN))
    mesh.say(b"c2", Message(DRAIN))
    assert not mesh.router.drained(mesh.now)
    assert requests(mesh.final(b"w1", 1)) == [(b"w1", 2)]
    assert not mesh.router.drained(mesh.now)
    mesh.final(b"w1", 2)
    assert mesh.router.drained(mesh.now)
    mesh.router.farewell()
    assert brief(mesh.out()) == [(b"c1", "GOODBYE"), (b"c2", "GOODBYE"), (b"w1", "GOODBYE")]


def test_a_draining_broker_waits_a_moment_for_idle_clients(mesh: Mesh) -> None:
    mesh.hello(b"c1")
    mesh.wait(6.0)
    mesh.router.drain(mesh.now)
    mesh.out()
    mesh.wait(0.9)
    assert not mesh.router.drained(mesh.now)
    mesh.wait(0.2)
    assert mesh.router.drained(mesh.now)


def test_a_draining_broker_waits_longer_for_clients_that_were_busy(mesh: Mesh) -> None:
    mesh.hello(b"c1")
    mesh.router.drain(mesh.now)
    mesh.out()
    mesh.wait(4.9)
    assert not mesh.router.drained(mesh.now)
    mesh.wait(0.2)
    assert mesh.router.drained(mesh.now)


def test_who_comes_to_a_draining_broker_is_told(mesh: Mesh) -> None:
    mesh.router.drain(mesh.now)
    assert brief(mesh.hello(b"c1")) == [(b"c1", "WELCOME"), (b"c1", "DRAIN")]
    out = mesh.ready(b"w1", b"echo", {"lanes": {"": 1}})
    assert brief(out) == [(b"w1", "WELCOME"), (b"w1", "DRAIN")]
    assert only(mesh.ask(b"c1", 1), b"c1", ERROR).code == errors.DRAINING
