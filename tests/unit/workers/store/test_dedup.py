"""Requests that come twice: windows, keys, forgetting, and the quota."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mesh.errors import InvalidArgument, KeyReused, OutcomeUnknown, QuotaExceeded
from workers.store import Change, Job, Store
from workers.store.dedup import KEEP, MAX_KEY, MAX_OUTCOME, REMEMBER, WINDOW, Dedup, digest

A = digest(b"set", b"a")
B = digest(b"set", b"b")


class Desk:
    """Requests to a store, and how often each was done."""

    def __init__(self, store: Store, **options: Any) -> None:
        self.store = store
        self.now = 0.0
        self.done = 0
        self.dedup = self.term(**options)

    def term(self, **options: Any) -> Dedup:
        """As after a take-over: nothing is left in memory."""
        self.dedup = Dedup(self.store.tables, clock=lambda: self.now, **options)
        return self.dedup

    def job(self, sequence: int, *, effect: Any = None, **options: Any) -> Job:
        usual = {"session": 1, "content": A}
        run = effect or self.effect
        return Job(
            lambda change: self.dedup.once(
                change, run, **{**usual, "sequence": sequence, **options}
            )
        )

    def effect(self, change: Change) -> bytes:
        number = int(change.get(self.store.tables["items"], b"n") or b"0") + 1
        change.put(self.store.tables["items"], b"n", b"%d" % number)
        return b"outcome %d" % number

    def ask(self, sequence: int, **options: Any) -> Any:
        (outcome,) = self.store.execute([self.job(sequence, **options)])
        return outcome

    def effects(self) -> int:
        with self.store.view() as view:
            return int(view.get(self.store.tables["items"], b"n") or b"0")

    def sweep(self, limit: int = 1000) -> int:
        (outcome,) = self.store.execute([Job(lambda change: self.dedup.sweep(change, limit))])
        assert isinstance(outcome, int)
        return outcome

    def records(self) -> int:
        with self.store.view() as view:
            return view.count(self.store.tables["dedup"])


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)


def test_a_repetition_gets_the_first_outcome(desk: Desk) -> None:
    assert desk.ask(1) == b"outcome 1"
    assert desk.ask(1) == b"outcome 1"
    assert desk.ask(2) == b"outcome 2"
    assert desk.ask(1, session=2) == b"outcome 3"
    assert desk.effects() == 3


def test_a_repetition_within_one_group(desk: Desk) -> None:
    outcomes = desk.store.execute([desk.job(1), desk.job(1), desk.job(0), desk.job(1)])
    assert outcomes == [b"outcome 1", b"outcome 1", b"outcome 2", b"outcome 1"]


def test_a_take_over_changes_nothing(desk: Desk) -> None:
    desk.ask(1)
    desk.term()
    assert desk.ask(1) == b"outcome 1"
    assert desk.effects() == 1


def test_the_last_1024_numbers_are_known_and_older_ones_are_refused(desk: Desk) -> None:
    desk.store.execute([desk.job(number) for number in range(3 * WINDOW)])
    for number in (2 * WINDOW, 3 * WINDOW - 1):
        assert desk.ask(number) == b"outcome %d" % (number + 1)
    for number in (0, WINDOW, 2 * WINDOW - 1):
        refusal = desk.ask(number)
        assert isinstance(refusal, OutcomeUnknown)
        assert refusal.maybe_executed and not refusal.retryable
    assert desk.effects() == 3 * WINDOW
    assert desk.records() == WINDOW + 1


def test_numbers_may_come_in_any_order_and_with_gaps(desk: Desk) -> None:
    for number in (5000, 4500, 4000, 4999):
        assert desk.ask(number).startswith(b"outcome")
    assert desk.effects() == 4


def test_another_content_under_the_same_id_is_refused(desk: Desk) -> None:
    desk.ask(1)
    for refusal in (desk.ask(1, content=B), desk.ask(1, content=B)):
        assert isinstance(refusal, KeyReused) and not refusal.retryable
    assert desk.effects() == 1


def test_what_failed_is_not_remembered(desk: Desk) -> None:
    def refuses(change: Change) -> bytes:
        raise InvalidArgument("no")

    def fails_late(change: Change) -> bytes:
        change.put(desk.store.tables["items"], b"half", b"v")
        raise InvalidArgument("no")

    for effect in (refuses, fails_late):
        assert isinstance(desk.ask(1, effect=effect), InvalidArgument)
    assert desk.records() == 0
    assert desk.ask(1) == b"outcome 1"
    with desk.store.view() as view:
        assert view.get(desk.store.tables["items"], b"half") is None


def test_a_large_outcome_is_given_once(desk: Desk) -> None:
    large = bytes(MAX_OUTCOME + 1)
    assert desk.ask(1, effect=lambda change: large) == large
    refusal = desk.ask(1)
    assert isinstance(refusal, OutcomeUnknown) and "was done" in str(refusal)
    fits = bytes(MAX_OUTCOME)
    assert desk.ask(2, effect=lambda change: fits) == fits
    assert desk.ask(2) == fits


@pytest.mark.parametrize("session", [0, 2**64 - 1])
def test_the_ends_of_the_range(desk: Desk, session: int) -> None:
    assert desk.ask(2**64 - 2, session=session) == b"outcome 1"
    assert desk.ask(2**64 - 2, session=session) == b"outcome 1"
    assert isinstance(desk.ask(2**64 - 1, session=session), InvalidArgument)
    assert isinstance(desk.ask(-1, session=session), InvalidArgument)
    assert isinstance(desk.ask(1, session=2**64), InvalidArgument)


# ---------------------------------------------------------------- keys


def test_a_key_counts_whatever_the_request_id_is(desk: Desk) -> None:
    assert desk.ask(1, key=b"order-1") == b"outcome 1"
    assert desk.ask(2, key=b"order-1", session=9) == b"outcome 1"
    assert desk.ask(1, key=b"order-2") == b"outcome 2"
    assert isinstance(desk.ask(3, key=b"order-1", content=B), KeyReused)


def test_a_key_is_kept_for_its_time_and_then_forgotten(desk: Desk) -> None:
    desk.ask(1, key=b"k")
    desk.now = KEEP - 1
    assert desk.sweep() == 0
    assert desk.ask(2, key=b"k") == b"outcome 1"
    desk.now = KEEP
    assert desk.sweep() == 1
    assert desk.ask(3, key=b"k") == b"outcome 2"


def test_a_key_has_its_length(desk: Desk) -> None:
    assert desk.ask(1, key=b"k" * MAX_KEY) == b"outcome 1"
    assert isinstance(desk.ask(1, key=b"k" * (MAX_KEY + 1)), InvalidArgument)


# ---------------------------------------------------------------- forgetting


def test_an_idle_session_loses_its_slots_but_nothing_is_done_again(desk: Desk) -> None:
    for number in range(10):
        desk.ask(number)
    desk.now = KEEP
    assert desk.sweep() == 1
    assert desk.records() == 2, "how far it came, and the clock"
    for number in (0, 9):
        assert isinstance(desk.ask(number), OutcomeUnknown)
    assert desk.ask(10) == b"outcome 11", "the client that is still there goes on"
    assert isinstance(desk.ask(9), OutcomeUnknown)
    assert desk.effects() == 11


def test_after_a_take_over_a_forgotten_session_is_still_known(desk: Desk) -> None:
    desk.ask(7)
    desk.now = KEEP
    desk.sweep()
    desk.term()
    assert isinstance(desk.ask(7), OutcomeUnknown)
    assert desk.ask(8) == b"outcome 2"


def test_a_session_in_use_is_not_forgotten(desk: Desk) -> None:
    for turn in range(50):
        desk.now = turn * KEEP / 4
        assert desk.ask(turn) == b"outcome %d" % (turn + 1)
        desk.sweep()
        assert desk.ask(0) == b"outcome 1"
    assert desk.records() == 52


def test_in_the_end_nothing_is_left(desk: Desk) -> None:
    for number in range(5):
        desk.ask(number)
    desk.now = KEEP
    desk.sweep()
    desk.now = KEEP + REMEMBER - 1
    assert desk.sweep() == 0
    desk.now = KEEP + REMEMBER
    assert desk.sweep() == 1
    assert desk.records() == 1


def test_forgetting_comes_in_slices(desk: Desk) -> None:
    for session in range(10):
        desk.ask(1, session=session)
    desk.now = KEEP
    assert [desk.sweep(4) for _ in range(4)] == [4, 4, 2, 0]


def test_a_group_that_sweeps_and_asks(desk: Desk) -> None:
    """What is remembered in memory must not outlive what is forgotten in the same transaction."""
    desk.ask(5)
    desk.now = KEEP
    outcomes = desk.store.execute([Job(desk.dedup.sweep), desk.job(5), desk.job(6), desk.job(6)])
    assert isinstance(outcomes[1], OutcomeUnknown)
    assert outcomes[2:] == [b"outcome 2", b"outcome 2"]


def test_the_clock_goes_on_where_it_was_saved_and_never_jumps(desk: Desk) -> None:
    desk.ask(1, key=b"k")
    desk.now = 100.0
    desk.sweep()
    desk.now = 1_000_000.0  # of another machine, or after a restart
    desk.term()
    assert desk.sweep() == 0
    assert desk.ask(2, key=b"k") == b"outcome 1"
    desk.now += KEEP - 100
    assert desk.sweep() == 1, "what had passed before was saved"


def test_housekeeping_is_due_once_a_second(desk: Desk) -> None:
    assert desk.dedup.housekeeping() is None
    desk.now = 1.0
    job = desk.dedup.housekeeping()
    assert job is not None and job.releases
    assert desk.dedup.housekeeping() is None
    assert desk.store.execute([job]) == [0]


# ---------------------------------------------------------------- full


def test_a_full_quota_refuses_and_forgets_nothing(opened: Callable[..., Store]) -> None:
    desk = Desk(opened(), quota=100_000)
    number = 0
    while not isinstance(refusal := desk.ask(number, session=number), QuotaExceeded):
        number += 1
    assert 300 < number < 2000
    assert refusal.retryable and refusal.retry_after
    assert desk.effects() == number
    assert isinstance(desk.ask(0, session=number, key=b"key"), QuotaExceeded)
    for known in (0, number // 2, number - 1):
        assert desk.ask(known, session=known) == b"outcome %d" % (known + 1)
    assert isinstance(desk.ask(number, session=number), QuotaExceeded)


def test_at_a_full_quota_a_session_may_use_its_slots_again(store: Store) -> None:
    desk = Desk(store)
    desk.ask(1)
    desk.term(quota=0)
    assert desk.ask(1) == b"outcome 1"
    assert isinstance(desk.ask(2), QuotaExceeded)
    assert desk.ask(1 + WINDOW) == b"outcome 2"


def test_there_is_room_again_after_forgetting(store: Store) -> None:
    desk = Desk(store, quota=50_000)
    number = 0
    while not isinstance(desk.ask(number), QuotaExceeded):
        number += 1
        if number == WINDOW:
            pytest.fail("the quota was never reached")
    desk.now = KEEP
    desk.sweep()
    assert desk.ask(number) == b"outcome %d" % (number + 1)


def test_the_digest_tells_parts_apart() -> None:
    assert len(A) == 16
    assert digest(b"ab", b"c") != digest(b"a", b"bc") != digest(b"abc")
    assert digest(memoryview(b"set"), b"a") == A
