"""Group commit: what a failed job leaves, growth, a full store, and fencing."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from mesh.errors import DataCorrupted, InvalidArgument, StoreBusy, StoreError, StoreFull
from tests.unit.workers.store.conftest import MIB
from workers.store import Change, Job, Store, engine, format, writer


def put(store: Store, key: bytes, value: bytes = b"v") -> Job:
    items = store.tables["items"]
    return Job(lambda change: change.put(items, key, value))


def delete(store: Store, *keys: bytes) -> Job:
    items = store.tables["items"]
    return Job(lambda change: [change.delete(items, key) for key in keys], releases=True)


def get(store: Store, key: bytes) -> bytes | None:
    with store.view() as view:
        return view.get(store.tables["items"], key)


def refused(change: Change) -> None:
    raise InvalidArgument("not this")


def test_jobs_are_run_in_order_and_see_each_other(store: Store) -> None:
    items = store.tables["items"]

    def count(change: Change) -> int:
        number = int(change.get(items, b"n") or b"0") + 1
        change.put(items, b"n", b"%d" % number)
        return number

    assert store.execute([Job(count)] * 50) == list(range(1, 51))
    assert get(store, b"n") == b"50"
    assert store.counters["commits"] == 1
    assert store.execute([]) == []


def test_a_job_that_refuses_fails_alone(store: Store) -> None:
    outcomes = store.execute([put(store, b"a"), Job(refused), put(store, b"b")])
    assert isinstance(outcomes[1], InvalidArgument)
    assert [outcomes[0], outcomes[2]] == [None, None]
    assert get(store, b"a") == get(store, b"b") == b"v"
    assert store.counters["reruns"] == 0


def test_a_job_that_raises_after_writing_is_undone_alone(store: Store) -> None:
    items = store.tables["items"]
    noted: list[str] = []

    def half(change: Change) -> None:
        change.put(items, b"half", b"x")
        change.delete(items, b"a")
        change.after_commit(lambda: noted.append("half"))
        raise KeyError("late")

    def whole(change: Change) -> None:
        change.put(items, b"whole", b"x")
        change.after_commit(lambda: noted.append("whole"))

    outcomes = store.execute([put(store, b"a"), Job(half), Job(whole), Job(half), put(store, b"b")])
    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        KeyError,
        type(None),
        KeyError,
        type(None),
    ]
    assert get(store, b"half") is None
    assert get(store, b"a") == get(store, b"b") == b"v" and get(store, b"whole") == b"x"
    assert noted == ["whole"]
    assert store.counters["reruns"] == 1 and store.counters["commits"] == 1


def test_memory_changes_only_after_the_commit_and_in_order(store: Store) -> None:
    items = store.tables["items"]
    seen: list[Any] = []

    def note(number: int) -> Callable[[Change], None]:
        def run(change: Change) -> None:
            change.put(items, b"%d" % number, b"v")
            change.after_commit(lambda: seen.append((number, get(store, b"3"))))

        return run

    def refuses(change: Change) -> None:
        change.after_commit(lambda: seen.append("never"))
        raise InvalidArgument("no")

    store.execute([Job(note(1)), Job(refuses), Job(note(2)), Job(note(3))])
    assert seen == [(1, b"v"), (2, b"v"), (3, b"v")]


def test_what_is_no_exception_leaves_nothing(store: Store) -> None:
    def interrupted(change: Change) -> None:
        change.put(store.tables["items"], b"a", b"v")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.execute([put(store, b"b"), Job(interrupted)])
    assert get(store, b"a") is None and get(store, b"b") is None
    assert store.execute([put(store, b"c")]) == [None]


def test_a_damaged_value_fails_its_reader_alone(store: Store) -> None:
    items = store.tables["items"]
    store.execute([Job(lambda change: change.raw.put(b"bad", b"?", db=items.handle))])
    read = Job(lambda change: change.get(items, b"bad"))
    outcomes = store.execute([put(store, b"a"), read, put(store, b"b")])
    assert isinstance(outcomes[1], DataCorrupted)
    assert get(store, b"a") == get(store, b"b") == b"v"


def test_a_transaction_that_lmdb_gave_up_is_run_job_by_job(store: Store) -> None:
    """As it does when a job met a damaged page: what comes after it must not suffer."""
    items = store.tables["items"]

    def spoils(change: Change) -> None:
        change.put(items, b"spoiled", b"v")
        raise lmdb.BadTxnError("as after damage")

    outcomes = store.execute([put(store, b"a"), Job(spoils), put(store, b"b")])
    assert outcomes[0] is None and outcomes[2] is None
    assert isinstance(outcomes[1], Exception)
    assert get(store, b"spoiled") is None and get(store, b"b") == b"v"
    assert store.writing


def test_large_groups_are_committed_in_parts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GROUP_BYTES", 10_000)
    assert store.execute([put(store, b"%d" % n, bytes(1000)) for n in range(95)]) == [None] * 95
    assert store.counters["commits"] == 10


def test_the_map_grows_while_others_read(store: Store) -> None:
    stop = threading.Event()
    problems: list[BaseException] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        try:
            while not stop.wait(0.001):
                with store.view() as view:
                    for key, value in view.items(store.tables["items"], prefix=b"1"):
                        assert value == key * 2000
                reads += 1
        except BaseException as error:
            problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for start in range(0, 2000, 100):
        keys = [b"%d" % number for number in range(start, start + 100)]
        assert store.execute([put(store, key, key * 2000) for key in keys]) == [None] * 100
    stop.set()
    for reader in readers:
        reader.join()
    assert not problems and reads
    assert store.counters["grown"] >= 3


def test_growth_does_not_wait_for_a_view_forever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_GATE_TIMEOUT", 0.05)
    with store.view():
        (outcome,) = store.execute([put(store, b"a", bytes(2 * MIB))])
    assert isinstance(outcome, StoreBusy) and outcome.retryable
    assert store.execute([put(store, b"a", bytes(2 * MIB))]) == [None]


def test_a_full_store_refuses_what_does_not_fit_and_takes_the_rest(
    opened: Callable[..., Store],
) -> None:
    store = opened(max_size=2 * MIB)
    large = [put(store, b"L%d" % n, bytes(700_000)) for n in range(4)]
    small = [put(store, b"s%d" % n) for n in range(4)]
    outcomes = store.execute([job for pair in zip(large, small, strict=True) for job in pair])
    assert outcomes[1::2] == [None] * 4, "the small ones fit"
    full = [outcome for outcome in outcomes[::2] if isinstance(outcome, StoreFull)]
    assert 1 <= len(full) <= 3
    assert "limit of 2097152 octets" in str(full[0]) and full[0].retryable
    assert store.writing


def test_a_full_store_is_taken_over(path: Path, opened: Callable[..., Store]) -> None:
    store = opened(map_size=MIB, max_size=MIB)
    count = 0
    while store.execute([put(store, b"%d" % count, bytes(4000))]) == [None]:
        count += 1
    for _ in range(5):
        store.close()
        store = opened(map_size=MIB, max_size=MIB)
        assert isinstance(store.execute([put(store, b"more", bytes(90_000))])[0], StoreFull)
    assert store.execute([delete(store, b"1", b"2")]) == [[True, True]]


def test_a_full_store_can_be_emptied(opened: Callable[..., Store]) -> None:
    """Deleting needs pages first; those of the reserve are for nothing else."""
    store = opened(max_size=2 * MIB)
    kept = [n for n in range(600) if store.execute([put(store, b"%d" % n, bytes(8000))]) == [None]]
    assert 100 < len(kept) < 300
    assert all(store.execute([delete(store, b"%d" % n)]) == [[True]] for n in kept)
    assert store.execute([put(store, b"again", bytes(100_000))]) == [None]
    assert store.size <= 2 * MIB + engine.RESERVE


@pytest.mark.parametrize("then", ["a full disk", "no room at all"])
def test_what_fails_at_the_size_limit_is_an_outcome(
    opened: Callable[..., Store], then: str
) -> None:
    """A job that releases is tried once more, with some room of its own."""
    store = opened(map_size=MIB, max_size=MIB)
    items, runs = store.tables["items"], []

    def run(change: Change) -> None:
        runs.append(change)
        if len(runs) == 1:
            raise lmdb.MapFullError("as if")
        if then == "a full disk":
            raise lmdb.DiskError(os.strerror(errno.ENOSPC))
        change.put(items, b"k", b"v")
        raise InvalidArgument("late") if len(runs) == 2 else lmdb.MapFullError("again")

    (outcome,) = store.execute([Job(run, releases=True)])
    assert isinstance(outcome, StoreFull), outcome
    assert store.writing and store.execute([put(store, b"k")]) == [None]


def test_deleting_does_not_let_a_store_grow_for_ever(opened: Callable[..., Store]) -> None:
    store = opened(max_size=2 * MIB)
    for turn in range(300):
        for n in range(20):
            store.execute([put(store, b"%d-%d" % (turn % 7, n), bytes(20_000))])
        store.execute([delete(store, *(b"%d-%d" % ((turn + 3) % 7, n) for n in range(20)))])
    assert store.counters["full"] and store.size <= 4 * MIB


def test_whoever_has_lost_the_lock_without_knowing_cannot_commit(store: Store) -> None:
    """Another process became the writer: it has raised the epoch."""

    def usurp(change: Change) -> None:
        format.set_epoch(change.raw, store._own, store.epoch + 1)

    assert store.execute([Job(usurp), put(store, b"before")]) == [None, None]
    outcomes = store.execute([put(store, b"a"), put(store, b"b")])
    assert [type(outcome) for outcome in outcomes] == [StoreBusy] * 2
    assert "another process has become the writer" in str(outcomes[0])
    assert get(store, b"before") == b"v" and get(store, b"a") is None
    assert type(store.execute([put(store, b"c")])[0]) is StoreBusy
    assert store.counters["fenced"] == 1 and not store.writing


def test_a_store_whose_file_was_taken_away_is_not_written(store: Store) -> None:
    aside = store.path.with_name("aside")
    store.path.rename(aside)
    (outcome,) = store.execute([put(store, b"a")])
    assert isinstance(outcome, StoreBusy) and "moved or deleted" in str(outcome)
    aside.rename(store.path)
    assert not store.writing
    assert get(store, b"a") is None


def test_a_disk_that_fails_ends_the_writer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = store._engine.begin_write

    class Failing:
        """A transaction whose flush fails."""

        def __init__(self) -> None:
            self._raw = begin()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._raw, name)

        def commit(self) -> None:
            self._raw.abort()
            raise lmdb.Error("mdb_txn_commit: Input/output error")

    monkeypatch.setattr(store._engine, "begin_write", Failing)
    (outcome,) = store.execute([put(store, b"a")])
    assert type(outcome) is StoreError and "Input/output error" in str(outcome)
    assert not outcome.maybe_executed and outcome.retryable
    assert not store.writing
    assert get(store, b"a") is None
