"""Sections 4 and 7: how a request ends, whatever becomes of its client and its worker."""

from __future__ import annotations

import pytest

from mesh import errors
from mesh.protocol.messages import (
    CANCEL,
    CREDIT,
    ERROR,
    GOODBYE,
    IDEMPOTENT,
    MORE,
    REQUEST,
    STARTED,
    STREAM,
    Message,
)
from tests.unit.broker.driver import (
    INCARNATION,
    Mesh,
    brief,
    failure,
    only,
    requests,
)

STOP = Message(CANCEL, tag=1, incarnation=INCARNATION, sequence=1)


# -------------------------------------------------------------------- deadlines


def test_a_waiting_request_expires_without_having_started(mesh: Mesh) -> None:
    mesh.beating.add(b"w1")
    mesh.join(b"w1")
    mesh.ask(b"c1", 1, timeout=60.0)
    mesh.ask(b"c2", 2, timeout=1.0)
    assert mesh.wait(0.99) == []
    assert failure(mesh.wait(0.03), b"c2") == (errors.DEADLINE_EXCEEDED, 0)
    assert brief(mesh.final(b"w1", 1)) == [(b"c1", "FINAL")]
    mesh.assert_idle()


def test_an_expired_request_is_never_dispatched(mesh: Mesh) -> None:
    """Even if the worker becomes free before the clock was looked at."""
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    mesh.ask(b"c2", 2, timeout=1.0)
    mesh.now += 1.0
    out = mesh.final(b"w1", 1)
    assert brief(out) == [(b"c1", "FINAL"), (b"c2", "ERROR")]
    assert (out[1][1].code, out[1][1].flags) == (errors.DEADLINE_EXCEEDED, 0)
    mesh.assert_idle()


def test_what_comes_after_the_end_is_counted(mesh: Mesh) -> None:
    mesh.beating.add(b"w1")
    mesh.join(b"w1", window=2)
    for sequence in (1, 2):
        mesh.ask(b"c1", sequence, timeout=1.0, flags=STREAM | MORE, credit=5)
    mesh.wait(1.1)
    assert mesh.partial(b"w1", 1) == []
    assert mesh.say(b"w1", Message(CREDIT, tag=1, credit=1)) == []
    assert mesh.final(b"w1", 1) == []
    assert mesh.error(b"w1", 2, errors.REMOTE_ERROR) == []
    assert mesh.counted("dropped:ended") == 4
    mesh.assert_idle()


def test_a_deadline_in_hand_stops_the_worker_and_keeps_its_seat(mesh: Mesh) -> None:
    mesh.beating.add(b"w1")
    mesh.join(b"w1")
    mesh.ask(b"c1", 1, timeout=1.0)
    mesh.ask(b"c1", 2)
    out = mesh.wait(1.1)
    assert brief(out) == [(b"c1", "ERROR"), (b"w1", "CANCEL")]
    assert (out[0][1].code, out[0][1].flags) == (errors.DEADLINE_EXCEEDED, STARTED)
    assert out[1][1] == STOP
    assert mesh.router.workers[b"w1"].seats[b""].in_flight == 1
    assert requests(mesh.error(b"w1", 1, errors.CANCELLED)) == [(b"w1", 2)]


def test_a_late_reply_is_for_nobody(mesh: Mesh) -> None:
    mesh.beating.add(b"w1")
    mesh.join(b"w1")
    mesh.ask(b"c1", 1, timeout=1.0)
    mesh.wait(1.1)
    assert mesh.partial(b"w1", 1) == []
    assert mesh.final(b"w1", 1) == []
    mesh.assert_idle()


# -------------------------------------------------------------------- cancel


def test_cancel_of_a_waiting_request(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    mesh.ask(b"c1", 2)
    assert mesh.cancel(b"c1", 2) == []
    assert brief(mesh.final(b"w1", 1)) == [(b"c1", "FINAL")]
    mesh.assert_idle()


def test_cancel_of_a_request_in_hand(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    mesh.ask(b"c1", 2)
    assert mesh.cancel(b"c1", 1) == [(b"w1", STOP)]
    assert mesh.cancel(b"c1", 1) == []
    assert mesh.counted("dropped:unknown_request") == 1
    assert requests(mesh.error(b"w1", 1, errors.CANCELLED)) == [(b"w1", 2)]


def test_an_id_may_be_used_again_while_the_worker_still_has_the_old_call(mesh: Mesh) -> None:
    mesh.join(b"w1", window=2)
    mesh.ask(b"c1", 1)
    mesh.cancel(b"c1", 1)
    assert only(mesh.ask(b"c1", 1), b"w1", REQUEST).tag == 2
    assert mesh.final(b"w1", 1, b"old") == []
    assert bytes(mesh.final(b"w1", 2, b"new")[0][1].body) == b"new"


def test_a_client_cannot_cancel_for_another(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    mesh.hello(b"c2")
    assert mesh.cancel(b"c2", 1) == []
    assert brief(mesh.final(b"w1", 1)) == [(b"c1", "FINAL")]


def test_a_lost_client_takes_its_calls_along(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    mesh.ask(b"c1", 2)
    mesh.ask(b"c2", 3)
    assert mesh.lost(b"c1") == [(b"w1", STOP)]
    assert mesh.counted("cancelled:client_lost") == 2
    assert requests(mesh.final(b"w1", 1)) == [(b"w1", 3)]
    assert mesh.lost(b"c1") == []


def test_goodbye_of_a_client_is_the_same(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    assert mesh.say(b"c1", Message(GOODBYE)) == [(b"w1", STOP)]
    assert mesh.router.clients == {}
    mesh.assert_idle()


# -------------------------------------------------------------------- a worker dies


def test_an_idempotent_request_goes_to_another_worker(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1, flags=IDEMPOTENT)
    mesh.join(b"w2")
    out = mesh.lost(b"w1")
    assert requests(out) == [(b"w2", 1)]
    assert out[0][1].tag == 2
    assert bytes(out[0][1].body) == b"body"
    assert mesh.final(b"w2", 2)[0][1].flags == IDEMPOTENT
    mesh.assert_idle()


def test_a_declared_idempotent_method_too(mesh: Mesh) -> None:
    methods = {"get": {"idempotent": True}}
    mesh.join(b"w1", methods=methods)
    mesh.ask(b"c1", 1, b"get")
    mesh.join(b"w2", methods=methods)
    assert requests(mesh.lost(b"w1")) == [(b"w2", 1)]


def test_any_other_request_ends_at_once(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    mesh.join(b"w2")
    assert failure(mesh.lost(b"w1"), b"c1") == (errors.WORKER_LOST, STARTED)
    mesh.assert_idle()


def test_a_request_of_which_a_part_was_seen_ends_at_once(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1, flags=IDEMPOTENT | 0x08, credit=5)
    mesh.partial(b"w1", 1)
    mesh.join(b"w2")
    assert failure(mesh.lost(b"w1"), b"c1") == (errors.WORKER_LOST, STARTED | IDEMPOTENT)


def test_goodbye_with_work_in_hand_is_a_loss(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    assert failure(mesh.say(b"w1", Message(GOODBYE)), b"c1") == (errors.WORKER_LOST, STARTED)


def test_what_a_lost_worker_had_comes_before_what_waits_in_its_old_order(mesh: Mesh) -> None:
    mesh.join(b"w1", window=3)
    for sequence in range(1, 6):
        mesh.ask(b"c1", sequence, flags=IDEMPOTENT)
    mesh.lost(b"w1")
    assert requests(mesh.join(b"w2", window=10)) == [(b"w2", n) for n in range(1, 6)]


def test_redispatch_has_a_limit() -> None:
    mesh = Mesh(max_redispatches=2)
    mesh.join(b"w0")
    mesh.ask(b"c1", 1, flags=IDEMPOTENT)
    for number in range(2):
        mesh.join(b"w%d" % (number + 1))
        assert requests(mesh.lost(b"w%d" % number)) == [(b"w%d" % (number + 1), 1)]
    mesh.join(b"w3")
    assert failure(mesh.lost(b"w2"), b"c1") == (errors.WORKER_LOST, STARTED | IDEMPOTENT)
    assert mesh.counted("redispatched:worker_lost") == 2


def test_the_clock_runs_on_through_redispatches(mesh: Mesh) -> None:
    mesh.beating |= {b"w1", b"w2"}
    mesh.join(b"w1")
    mesh.ask(b"c1", 1, flags=IDEMPOTENT, timeout=5.0)
    mesh.wait(2.0)
    mesh.join(b"w2")
    assert mesh.lost(b"w1")[0][1].timeout == pytest.approx(3.0)
    assert brief(mesh.wait(3.1)) == [(b"c1", "ERROR"), (b"w2", "CANCEL")]


def test_what_a_lost_worker_had_may_have_been_done(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1, flags=IDEMPOTENT, timeout=1.0)
    mesh.ask(b"c2", 2, flags=IDEMPOTENT)
    mesh.lost(b"w1")
    out = mesh.wait(2.1)
    assert [(m.sequence, m.code, m.flags & STARTED) for _, m in out] == [
        (1, errors.DEADLINE_EXCEEDED, STARTED),
        (2, errors.SERVICE_NOT_FOUND, 0),
    ]


def test_the_loss_of_a_worker_with_a_cancelled_request_is_told_to_nobody(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    mesh.cancel(b"c1", 1)
    assert mesh.lost(b"w1") == []
    mesh.assert_idle()


# -------------------------------------------------------------------- not started


def test_not_started_goes_to_another_worker_and_pauses_the_first(mesh: Mesh) -> None:
    mesh.join(b"w1", window=5)
    mesh.join(b"w2", window=1)
    mesh.ask(b"c1", 1)
    assert requests(mesh.error(b"w1", 1, errors.NOT_STARTED)) == [(b"w2", 1)]
    assert mesh.ask(b"c1", 2) == []
    assert requests(mesh.wait(0.025)) == [(b"w1", 2)]


def test_not_started_without_another_worker_waits_for_the_pause(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    mesh.ask(b"c1", 2)
    assert mesh.error(b"w1", 1, errors.NOT_STARTED) == []
    assert mesh.wait(0.019) == []
    assert requests(mesh.wait(0.002)) == [(b"w1", 1)]


def test_a_refused_request_that_expires_meanwhile_is_not_started(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1, timeout=0.01)
    mesh.error(b"w1", 1, errors.NOT_STARTED)
    assert failure(mesh.wait(0.03), b"c1") == (errors.DEADLINE_EXCEEDED, 0)


def test_not_started_of_a_cancelled_request_frees_the_seat(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    mesh.cancel(b"c1", 1)
    assert mesh.error(b"w1", 1, errors.NOT_STARTED) == []
    mesh.wait(0.03)
    assert requests(mesh.ask(b"c1", 2)) == [(b"w1", 2)]


def test_not_started_after_a_part_was_sent_is_not_believed(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.join(b"w2")
    mesh.ask(b"c1", 1, flags=0x08, credit=5)
    mesh.partial(b"w1", 1)
    out = mesh.error(b"w1", 1, errors.NOT_STARTED)
    assert only(out, b"c1", ERROR).code == errors.WORKER_LOST
    assert out[0][1].flags & STARTED


def test_not_started_does_not_use_up_the_redispatches() -> None:
    mesh = Mesh(max_redispatches=0)
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    for tag in range(1, 10):
        mesh.error(b"w1", tag, errors.NOT_STARTED)
        assert requests(mesh.wait(0.03)) == [(b"w1", 1)]


# -------------------------------------------------------------------- undelivered


def test_an_undelivered_request_goes_to_another_worker(mesh: Mesh) -> None:
    mesh.join(b"w1", window=2)
    mesh.join(b"w2")
    out = mesh.ask(b"c1", 1)
    again = mesh.undelivered(*out[0])
    assert requests(again) == [(b"w2", 1)]
    assert out[0][1].tag != again[0][1].tag
    mesh.ask(b"c1", 2)
    assert requests(mesh.wait(0.03)) == [(b"w1", 2)]


def test_an_undelivered_request_of_a_client_that_has_gone_is_forgotten(mesh: Mesh) -> None:
    mesh.join(b"w1")
    out = mesh.ask(b"c1", 1)
    mesh.lost(b"c1")
    assert mesh.undelivered(*out[0]) == []
    mesh.assert_idle()


def test_an_undelivered_request_of_a_worker_that_has_gone_is_dealt_with(mesh: Mesh) -> None:
    mesh.join(b"w1")
    out = mesh.ask(b"c1", 1, flags=IDEMPOTENT)
    mesh.lost(b"w1")
    assert mesh.undelivered(*out[0]) == []
    mesh.join(b"w1")
    assert mesh.undelivered(*out[0]) == []


def test_an_undelivered_reply_is_counted(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    out = mesh.final(b"w1", 1)
    assert mesh.undelivered(*out[0]) == []
    assert mesh.counted("undelivered:to_client") == 1


# -------------------------------------------------------------------- errors of workers


@pytest.mark.parametrize("code", [0, 2, 3, 4, 5, 6, 8, 9, 11, 64, 255])
def test_an_error_is_passed_on_as_it_is(mesh: Mesh, code: int) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    out = mesh.error(b"w1", 1, code, STARTED)
    assert out == [
        (
            b"c1",
            Message(
                ERROR,
                STARTED,
                code=code,
                tag=1,
                incarnation=INCARNATION,
                sequence=1,
                frames=[b"\x80"],
            ),
        )
    ]
    mesh.assert_idle()
