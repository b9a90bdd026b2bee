"""The vector index and what befalls its files and its processes."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import Start
from tests.unit.workers.search.vectors.model import as_bytes, clustered
from workers.search.derived import IndexDamaged
from workers.search.schema import Field
from workers.search.vectors import merging
from workers.search.vectors.index import VectorReader, VectorWriter
from workers.search.vectors.segment import Building

FIELD = Field("v", "vector", dimension=4, metric="dot")
HERE = "tests.unit.workers.search.vectors"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with two segments, some of whose rows are gone, and a log."""
    path = tmp_path_factory.mktemp("vectors") / "index"
    vectors = clustered(np.random.default_rng(1), 2600, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging.Merger, "start", lambda self: None)
        patch.setattr(merging, "SMALL", 0)
        writer = VectorWriter(path, FIELD)
        for start, end, removed in ((0, 2500, []), (2500, 2570, [5, 6]), (2570, 2600, [7, 2510])):
            rows = range(start, end)
            writer.apply(removed, [(row, as_bytes(vectors[row])) for row in rows])
            writer.commit()
            if end < 2600:
                writer.settle()
        writer.close()
    assert len(list(path.glob("*.graph"))) == 2
    return path


def names(written: Path) -> list[str]:
    return sorted(file.name for file in written.iterdir() if file.name != "lock")


def flipped(file: Path) -> None:
    """Each of some octets in turn, spread over the whole of it."""
    data = bytearray(file.read_bytes())
    at = len(data) * 5 // 7
    data[at] ^= 4
    file.write_bytes(data)


def flipped_first(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[0] ^= 128
    file.write_bytes(data)


def flipped_last(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def shortened(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


DAMAGE = (flipped, flipped_first, flipped_last, shortened, emptied, Path.unlink)


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda one: one.__name__)
def test_damage_is_found(written: Path, tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    """Whichever file it is, by whoever opens it."""
    assert VectorReader(written, FIELD).count == 2596
    for name in names(written):
        path = tmp_path / f"damaged-{name}"
        shutil.copytree(written, path)
        damage(path / name)
        with pytest.raises(IndexDamaged, match=name.partition(".")[0].partition("-")[0]):
            VectorReader(path, FIELD)
        with pytest.raises(IndexDamaged):
            VectorWriter(path, FIELD)


def test_damage_is_found_by_a_reader_that_goes_on(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "index"
    shutil.copytree(written, path)
    reader = VectorReader(path, FIELD)
    writer = VectorWriter(path, FIELD)
    before = reader.search(np.ones(4, np.float32), 5)
    writer.apply([], [(9000, as_bytes(100 * np.ones(4)))])
    writer.commit()
    flipped_last(next(path.glob("log-*")))
    for _ in range(2):
        with pytest.raises(IndexDamaged):
            reader.refresh()
        assert reader.search(np.ones(4, np.float32), 5) == before
    writer.close()


@pytest.mark.parametrize(
    "other",
    [
        Field("v", "vector", dimension=5, metric="dot"),
        Field("v", "vector", dimension=4, metric="l2"),
    ],
)
def test_an_index_of_another_kind_is_none(written: Path, tmp_path: Path, other: Field) -> None:
    path = tmp_path / "index"
    shutil.copytree(written, path)
    with pytest.raises(IndexDamaged, match="another format, dimension or metric"):
        VectorWriter(path, other)


def test_a_reader_needs_an_index(tmp_path: Path) -> None:
    with pytest.raises(IndexDamaged, match="manifest is missing"):
        VectorReader(tmp_path / "nothing", FIELD)


def test_a_kill_at_any_moment_leaves_the_last_commit(process: Start, tmp_path: Path) -> None:
    child = process(sys.executable, "-m", f"{HERE}.killed", str(tmp_path / "index"))
    steps = int(child.expect(r"^steps (\d+)$", timeout=50)[1])
    assert steps > 100
    assert child.wait() == 0


def test_another_process_follows(
    process: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is merged and removed while it reads."""
    monkeypatch.setattr(merging, "FRESH_ROWS", 64)
    monkeypatch.setattr(merging, "IDLE", 0.001)
    monkeypatch.setattr(merging, "IDLE_ROWS", 1)
    path = tmp_path / "index"
    writer = VectorWriter(path, FIELD)
    writer.apply([], [(0, as_bytes(np.zeros(4)))])
    writer.commit()
    last = 600
    child = process(sys.executable, "-m", f"{HERE}.follower", str(path), str(last))
    child.expect("following")
    for row in range(1, last + 1):
        writer.apply([row - 5] * (row >= 5), [(row, as_bytes(row * np.ones(4)))])
        writer.commit()
    assert int(child.expect(r"^saw (\d+)$")[1]) > 10
    assert child.wait() == 0
    writer.close()


def test_a_merge_that_fails_loses_nothing_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(merging, "FRESH_ROWS", 64)
    monkeypatch.setattr(merging, "RETRY_EVERY", 0.01)
    write = Building.write
    failures = [OSError(28, "No space left on device")] * 3
    written = threading.Event()

    def sometimes(self: Building, path: Path, name: str) -> Any:
        if failures:
            raise failures.pop()
        written.set()
        return write(self, path, name)

    monkeypatch.setattr(Building, "write", sometimes)
    path = tmp_path / "index"
    writer = VectorWriter(path, FIELD)
    vectors = clustered(np.random.default_rng(1), 100, 4)
    writer.apply([], list(enumerate(map(as_bytes, vectors))))
    writer.commit()
    reader = VectorReader(path, FIELD)
    assert reader.count == 100
    assert written.wait(10)
    writer.settle()  # waits for the one that was begun
    assert "cannot be merged" in caplog.text
    assert not failures
    reader.refresh()
    assert (reader.count, reader.segments) == (100, 1)
    assert len(list(path.glob("log-*"))) == 1
    writer.close()


def test_files_that_are_not_needed_go(tmp_path: Path) -> None:
    path = tmp_path / "index"
    writer = VectorWriter(path, FIELD)
    vectors = clustered(np.random.default_rng(1), 300, 4)
    for start in range(0, 300, 100):
        rows = range(start, start + 100)
        writer.apply([], [(row, as_bytes(vectors[row])) for row in rows])
        writer.commit()
        writer.settle()
    (path / "tmp-segment-9.graph").touch()
    writer.close()
    VectorWriter(path, FIELD).close()
    kinds = sorted(file.suffix or file.name.partition("-")[0] for file in path.iterdir())
    assert kinds == [".graph", ".rows", "lock", "log", "manifest"]
    assert all(file.stat().st_mode & 0o077 == 0 for file in path.iterdir())
