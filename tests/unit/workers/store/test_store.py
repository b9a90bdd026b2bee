"""A store from its opening to its end, in one process and its children."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.errors import ConfigError, DataCorrupted, StoreBusy, StoreError
from tests.unit.workers.store.conftest import ITEMS, gain
from workers.store import Job, Store, lock_holder
from workers.store.engine import LOCKS, MAX_READERS
from workers.store.place import DATA


def put(store: Store, key: bytes, value: bytes = b"v") -> Job:
    items = store.tables["items"]
    return Job(lambda change: change.put(items, key, value))


def open_store(path: Path) -> Store:
    return Store.open(path, service="test", tables=ITEMS)


def test_what_was_written_is_there_after_reopening(path: Path) -> None:
    with open_store(path) as store:
        gain(store)
        assert store.execute([put(store, b"a")]) == [None]
    with open_store(path) as store, store.view() as view:
        assert view.get(store.tables["items"], b"a") == b"v"


def test_each_term_has_an_epoch_of_its_own(path: Path) -> None:
    for number in (1, 2):
        with open_store(path) as store:
            epochs: list[int] = []
            gained = threading.Event()
            store.elect(lambda epoch, e=epochs, g=gained: (e.append(epoch), g.set()))  # type: ignore[misc]
            assert gained.wait(10)
            assert epochs == [number] and store.epoch == number
            store.resign()
            assert store.epoch == number


def test_only_the_writer_executes(path: Path) -> None:
    with open_store(path) as store:
        (outcome,) = store.execute([put(store, b"a")])
        assert isinstance(outcome, StoreBusy) and outcome.retryable
        gain(store)
        assert store.writing and lock_holder(path) == os.getpid()
        assert store.execute([put(store, b"a")]) == [None]
        store.resign()
        assert not store.writing and lock_holder(path) is None
        assert isinstance(store.execute([put(store, b"b")])[0], StoreBusy)
        gain(store)
        assert store.execute([put(store, b"b")]) == [None]
        assert store.counters["jobs"] == 2


def test_one_stands_once_at_a_time(store: Store) -> None:
    with pytest.raises(StoreError, match="stands for election already"):
        store.elect(lambda _: None)


def test_gaining_may_write(path: Path) -> None:
    with open_store(path) as store:
        outcomes: list[object] = []
        done = threading.Event()

        def gained(epoch: int) -> None:
            outcomes.extend(store.execute([put(store, b"a")]))
            done.set()

        store.elect(gained)
        assert done.wait(10)
        assert outcomes == [None]


def test_a_writer_that_cannot_begin_steps_down(path: Path) -> None:
    with open_store(path) as store:
        lost: list[StoreError] = []
        told = threading.Event()

        def gained(epoch: int) -> None:
            raise ValueError("no memory for it")

        store.elect(gained, lambda error: (lost.append(error), told.set()))  # type: ignore[func-returns-value]
        assert told.wait(10)
        assert "ValueError: no memory for it" in str(lost[0])
        assert lock_holder(path) is None and not store.writing
        assert store.execute([put(store, b"a")]) == lost


def test_the_loss_of_the_file_is_told(path: Path) -> None:
    with open_store(path) as store:
        lost: list[StoreError] = []
        gained, told = threading.Event(), threading.Event()
        store.elect(
            lambda _: gained.set(),
            lambda error: (lost.append(error), told.set()),  # type: ignore[func-returns-value]
        )
        assert gained.wait(10)
        (path / DATA).rename(path / "elsewhere")
        assert isinstance(store.execute([put(store, b"a")])[0], StoreBusy)
        assert told.wait(10)
        assert "moved or deleted" in str(lost[0])


def test_a_forked_child_is_told_to_open_anew(store: Store) -> None:
    def child() -> str:
        try:
            with store.view():
                return "used it"
        except StoreError as error:
            if "opened before this process was forked" not in str(error):
                return str(error)
        (outcome,) = store.execute([put(store, b"child")])
        if "forked" not in str(outcome):
            return str(outcome)
        with open_store(store.path) as own, own.view() as view:
            return "read " + str(view.get(own.tables["items"], b"parent"))

    assert store.execute([put(store, b"parent")]) == [None]
    assert in_fork(child) == "read b'v'"
    assert lock_holder(store.path) == os.getpid(), "the child has not taken the lock away"
    assert store.execute([put(store, b"parent", b"again")]) == [None]
    with store.view() as view:
        assert view.get(store.tables["items"], b"parent") == b"again"


def in_fork(function: Callable[[], str]) -> str:
    """What `function` returns in a forked child of this process."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, function().encode())
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return text


def test_a_closed_store_says_so(path: Path) -> None:
    store = open_store(path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="it was closed"), store.view():
        pass
    assert isinstance(store.execute([put(store, b"a")])[0], StoreBusy)


def test_junk_is_not_taken_for_a_store(path: Path) -> None:
    path.mkdir()
    (path / DATA).write_bytes(b"junk" * 5000)
    with pytest.raises(DataCorrupted, match="is not a store of this version"):
        open_store(path)
    (path / DATA).unlink()
    open_store(path).close()


def test_a_store_of_another_service_is_refused(store: Store) -> None:
    store.close()
    with pytest.raises(ConfigError, match="'test', not of 'search'"):
        Store.open(store.path, service="search", tables={})
    open_store(store.path).close()


def test_the_lock_file_of_lmdb_has_its_blocks(store: Store) -> None:
    """A hole in it would kill the process by SIGBUS when the disk is full."""
    found = (store.path / LOCKS).stat()
    assert found.st_blocks * 512 >= found.st_size
    assert store._engine.env.info()["max_readers"] >= MAX_READERS


def test_an_environment_variable_does_not_choose_the_format(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMDB_DEFAULT_LIB_VERSION", "1")
    with open_store(path) as store:
        assert store._engine.env.lib_version()[0] == 0


def test_a_view_is_one_moment(store: Store) -> None:
    items = store.tables["items"]
    store.execute([put(store, b"a", b"1")])
    with store.view() as view:
        store.execute([put(store, b"a", b"2")])
        assert view.get(items, b"a") == b"1"
    with store.view() as view:
        assert view.get(items, b"a") == b"2"
