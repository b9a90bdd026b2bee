"""Credit on streams, in both directions: end to end, and nobody gets away with more."""

from __future__ import annotations

import pytest

from mesh import errors
from mesh.protocol.messages import (
    BATCH,
    CHUNK,
    CREDIT,
    END,
    IDEMPOTENT,
    MORE,
    PARTIAL,
    STARTED,
    STREAM,
    Message,
)
from tests.unit.broker.driver import INCARNATION, Mesh, Out, brief, failure, only, requests


@pytest.fixture
def reading(mesh: Mesh) -> Mesh:
    """Call 1 of `c1` streams from `w1` with a grant of three, tag 1."""
    mesh.join(b"w1", window=2)
    assert mesh.ask(b"c1", 1, flags=STREAM, credit=3)[0][1].credit == 3
    return mesh


@pytest.fixture
def writing(mesh: Mesh) -> Mesh:
    """Call 1 of `c1` streams to `w1`, tag 1, nothing granted yet."""
    mesh.join(b"w1", window=2)
    mesh.ask(b"c1", 1, flags=MORE)
    return mesh


def credit(mesh: Mesh, peer: bytes, items: int) -> Out:
    tag, sequence = (1, 0) if peer.startswith(b"w") else (0, 1)
    return mesh.say(peer, Message(CREDIT, tag=tag, sequence=sequence, credit=items))


def chunk(mesh: Mesh, items: int = 1, flags: int = 0) -> Out:
    return mesh.say(b"c1", Message(CHUNK, flags, sequence=1, credit=items, frames=[b"chunk"]))


def end(mesh: Mesh, code: int = 0) -> Out:
    return mesh.say(b"c1", Message(END, sequence=1, code=code))


# -------------------------------------------------------------------- from the worker


def test_partials_pass_in_order_and_the_final_ends_them(reading: Mesh) -> None:
    out = reading.partial(b"w1", 1, 1, b"a") + reading.partial(b"w1", 1, 2, b"b")
    assert [message.body for _, message in out] == [b"a", b"b"]
    assert out[0] == (
        b"c1",
        Message(PARTIAL, tag=1, credit=1, incarnation=INCARNATION, sequence=1, frames=[b"a"]),
    )
    assert brief(reading.final(b"w1", 1)) == [(b"c1", "FINAL")]
    assert reading.partial(b"w1", 1) == []
    reading.assert_idle()


def test_more_than_was_granted_ends_the_stream_and_the_worker(reading: Mesh) -> None:
    reading.ask(b"c1", 2)
    assert brief(reading.partial(b"w1", 1, 3)) == [(b"c1", "PARTIAL")]
    out = reading.partial(b"w1", 1, 1)
    assert brief(out) == [(b"c1", "ERROR"), (b"w1", "GOODBYE"), (b"c1", "ERROR")]
    assert [m.code for p, m in out] == [errors.PROTOCOL, errors.PROTOCOL, errors.WORKER_LOST]
    assert out[0][1].flags == STARTED
    assert reading.router.workers == {}
    reading.assert_idle()


def test_a_grant_reaches_the_worker_and_may_be_spent(reading: Mesh) -> None:
    reading.partial(b"w1", 1, 3)
    assert credit(reading, b"c1", 2) == [(b"w1", Message(CREDIT, tag=1, sequence=1, credit=2))]
    assert brief(reading.partial(b"w1", 1, 2)) == [(b"c1", "PARTIAL")]
    assert brief(reading.partial(b"w1", 1))[0] == (b"c1", "ERROR")


def test_a_partial_that_nobody_asked_for(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1, credit=10)
    assert brief(mesh.partial(b"w1", 1)) == [(b"c1", "ERROR"), (b"w1", "GOODBYE")]


def test_a_partial_that_states_no_items_counts_as_one(reading: Mesh) -> None:
    for _ in range(3):
        assert brief(reading.partial(b"w1", 1, 0)) == [(b"c1", "PARTIAL")]
    assert brief(reading.partial(b"w1", 1, 0))[0] == (b"c1", "ERROR")


def test_a_grant_before_the_dispatch_goes_with_the_request(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 9)
    mesh.ask(b"c1", 1, flags=STREAM, credit=3)
    assert credit(mesh, b"c1", 4) == []
    assert mesh.final(b"w1", 1)[1][1].credit == 7


def test_a_grant_after_a_redispatch_counts_once(reading: Mesh) -> None:
    reading.lost(b"w1")
    reading.ask(b"c1", 2, flags=STREAM | IDEMPOTENT, credit=3)
    reading.join(b"w2")
    assert reading.say(b"c1", Message(CREDIT, sequence=2, credit=5))[0][0] == b"w2"
    reading.join(b"w3")
    out = reading.lost(b"w2")
    assert requests(out) == [(b"w3", 2)] and out[0][1].credit == 8


def test_grants_have_a_ceiling_that_both_sides_see(reading: Mesh) -> None:
    top = 0xFFFFFFFF
    assert credit(reading, b"c1", top)[0][1].credit == top - 3
    assert credit(reading, b"c1", top)[0][1].credit == 0
    assert brief(reading.partial(b"w1", 1, top)) == [(b"c1", "PARTIAL")]


def test_parts_after_a_cancel_are_for_nobody(reading: Mesh) -> None:
    reading.cancel(b"c1", 1)
    assert reading.partial(b"w1", 1, 1000) == []
    assert credit(reading, b"w1", 5) == []
    assert b"w1" in reading.router.workers


# -------------------------------------------------------------------- from the client


def test_chunks_pass_within_the_grant(writing: Mesh) -> None:
    out = credit(writing, b"w1", 2)
    assert out == [(b"c1", Message(CREDIT, tag=1, incarnation=INCARNATION, sequence=1, credit=2))]
    out = chunk(writing, 2, BATCH)
    assert out == [(b"w1", Message(CHUNK, BATCH, tag=1, sequence=1, credit=2, frames=[b"chunk"]))]
    assert end(writing) == [(b"w1", Message(END, tag=1, sequence=1))]
    assert brief(writing.final(b"w1", 1)) == [(b"c1", "FINAL")]
    writing.assert_idle()


def test_a_chunk_without_a_grant_ends_the_call_at_both(writing: Mesh) -> None:
    out = chunk(writing)
    assert brief(out) == [(b"w1", "CANCEL"), (b"c1", "ERROR")]
    assert (out[1][1].code, out[1][1].flags) == (errors.PROTOCOL, STARTED)
    assert writing.final(b"w1", 1) == []


def test_a_chunk_beyond_the_grant_ends_the_call_at_both(writing: Mesh) -> None:
    credit(writing, b"w1", 2)
    assert brief(chunk(writing, 3)) == [(b"w1", "CANCEL"), (b"c1", "ERROR")]


def test_a_chunk_of_a_waiting_call_ends_it(mesh: Mesh) -> None:
    mesh.ask(b"c1", 1, flags=MORE)
    assert failure(chunk(mesh), b"c1") == (errors.PROTOCOL, 0)
    mesh.assert_idle()


@pytest.mark.parametrize("command", [CHUNK, END])
def test_a_stream_that_was_not_announced_ends_the_call(mesh: Mesh, command: int) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    out = mesh.say(b"c1", Message(command, sequence=1, credit=1))
    assert brief(out) == [(b"w1", "CANCEL"), (b"c1", "ERROR")]


@pytest.mark.parametrize("command", [CHUNK, END])
def test_nothing_follows_the_end(writing: Mesh, command: int) -> None:
    credit(writing, b"w1", 10)
    end(writing)
    out = writing.say(b"c1", Message(command, sequence=1, credit=1))
    assert brief(out) == [(b"w1", "CANCEL"), (b"c1", "ERROR")]


@pytest.mark.parametrize("code", [0, errors.REMOTE_ERROR])
def test_an_end_before_the_dispatch_follows_the_request(mesh: Mesh, code: int) -> None:
    """A stream without items, or one that failed, needs no grant."""
    mesh.join(b"w1")
    mesh.ask(b"c1", 9)
    mesh.ask(b"c1", 1, flags=MORE)
    assert end(mesh, code) == []
    out = mesh.final(b"w1", 1)
    assert brief(out) == [(b"c1", "FINAL"), (b"w1", "REQUEST"), (b"w1", "END")]
    assert (out[2][1].tag, out[2][1].code) == (2, code)


def test_an_end_goes_along_to_the_next_worker(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1, flags=MORE | IDEMPOTENT)
    end(mesh)
    mesh.join(b"w2")
    out = mesh.lost(b"w1")
    assert brief(out) == [(b"w2", "REQUEST"), (b"w2", "END")]
    assert out[1][1].tag == out[0][1].tag


def test_a_call_whose_worker_granted_items_is_not_given_to_another(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1, flags=MORE | IDEMPOTENT)
    credit(mesh, b"w1", 1)
    mesh.join(b"w2")
    assert failure(mesh.lost(b"w1"), b"c1") == (errors.WORKER_LOST, STARTED | IDEMPOTENT)


def test_a_grant_for_a_call_without_a_stream_is_dropped(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1, flags=IDEMPOTENT)
    assert credit(mesh, b"w1", 5) == []
    mesh.join(b"w2")
    assert requests(mesh.lost(b"w1")) == [(b"w2", 1)]


def test_a_grant_for_another_workers_call_is_dropped(writing: Mesh) -> None:
    writing.join(b"w2")
    assert credit(writing, b"w2", 5) == []
    assert writing.counted("dropped:unknown_tag") == 1


# -------------------------------------------------------------------- holes


def test_an_undelivered_part_ends_the_call(reading: Mesh) -> None:
    out = reading.undelivered(*reading.partial(b"w1", 1)[0])
    assert brief(out) == [(b"w1", "CANCEL"), (b"c1", "ERROR")]
    assert (out[1][1].code, out[1][1].flags) == (errors.WORKER_LOST, STARTED)


def test_an_undelivered_chunk_ends_the_call(writing: Mesh) -> None:
    credit(writing, b"w1", 5)
    out = writing.undelivered(*chunk(writing)[0])
    assert brief(out) == [(b"w1", "CANCEL"), (b"c1", "ERROR")]


def test_an_undelivered_cancel_is_only_counted(reading: Mesh) -> None:
    out = reading.cancel(b"c1", 1)
    assert reading.undelivered(*out[0]) == []
    assert only(out, b"w1", 12).tag == 1
