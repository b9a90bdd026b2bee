"""What a supervisor sees of the writer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.store import progress
from workers.store.progress import Progress, ProgressFile, ProgressWatch, read_progress


@pytest.fixture
def holder(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Who holds the lock, as the kernel would tell."""
    found: list[int | None] = [os.getpid()]
    monkeypatch.setattr(progress, "lock_holder", lambda _: found[0])
    return found


@pytest.fixture
def file(tmp_path: Path) -> Iterator[ProgressFile]:
    found = ProgressFile(tmp_path, epoch=7)
    yield found
    found.close()


def test_a_reading(file: ProgressFile, tmp_path: Path) -> None:
    file.beat()
    file.beat()
    file.begin()
    started = progress.process_start(os.getpid())
    assert started > 0
    assert read_progress(tmp_path) == Progress(os.getpid(), started, 7, 2, 1, 0)
    file.end()
    file.begin()
    assert read_progress(tmp_path) == Progress(os.getpid(), started, 7, 2, 2, 1)


def test_there_is_none_before_the_first_writer(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    (tmp_path / progress.PROGRESS).write_bytes(bytes(4096))
    assert read_progress(tmp_path) is None
    (tmp_path / progress.PROGRESS).write_bytes(b"short")
    assert read_progress(tmp_path) is None


def test_a_holder_without_a_beat_is_stuck(
    file: ProgressFile, holder: list[int | None], tmp_path: Path
) -> None:
    watch = ProgressWatch(tmp_path, silence=3.0)
    assert watch.look(100.0) is None
    assert watch.look(102.9) is None
    file.beat()
    assert watch.look(104.0) is None
    assert watch.look(106.9) is None
    stuck = watch.look(107.0)
    assert stuck is not None and stuck.pid == os.getpid()


def test_a_holder_that_does_not_end_a_group_is_stuck(
    file: ProgressFile, holder: list[int | None], tmp_path: Path
) -> None:
    watch = ProgressWatch(tmp_path, silence=3.0, patience=30.0)

    def look(now: float) -> Progress | None:
        file.beat()
        return watch.look(now)

    assert look(0.0) is None
    file.begin()
    assert look(10.0) is None
    assert look(39.9) is None
    assert look(40.0) is not None
    file.end()
    assert look(41.0) is None
    assert look(99.0) is None, "without work there is nothing to wait for"


def test_a_file_that_was_left_accuses_nobody(
    file: ProgressFile, holder: list[int | None], tmp_path: Path
) -> None:
    watch = ProgressWatch(tmp_path, silence=3.0)
    assert watch.look(0.0) is None
    for other in (None, os.getpid() + 1):
        holder[0] = other
        assert watch.look(10.0) is None
    holder[0] = os.getpid()
    assert watch.look(20.0) is None, "it is watched from now on"


def test_a_stranger_with_the_number_of_the_dead_is_left_alone(
    file: ProgressFile, holder: list[int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = ProgressWatch(tmp_path, silence=3.0)
    assert watch.look(0.0) is None
    monkeypatch.setattr(progress, "process_start", lambda _: 1)
    assert watch.look(10.0) is None


def test_the_start_of_a_process_that_is_gone_is_unknown() -> None:
    assert progress.process_start(2**22 + 1) == 0
