"""The vector index against exact search, whatever happens to it between."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesh.errors import InvalidArgument, StoreBusy
from tests.unit.workers.search.vectors.model import Model, as_bytes, clustered, recall
from workers.search.schema import METRICS, Field
from workers.search.vectors import index, merging
from workers.search.vectors.index import VectorReader, VectorWriter
from workers.search.vectors.metrics import prepared

DIMENSION = 8


def field(metric: str = "cosine", dimension: int = DIMENSION) -> Field:
    return Field("v", "vector", dimension=dimension, metric=metric)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vectors"


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small things flushed and merged."""
    monkeypatch.setattr(merging, "FRESH_ROWS", 64)
    monkeypatch.setattr(merging, "SMALL", 2)
    monkeypatch.setattr(merging, "IDLE", 0.01)
    monkeypatch.setattr(merging, "IDLE_ROWS", 16)


def test_finds_the_nearest_first(path: Path) -> None:
    writer = VectorWriter(path, field("l2"))
    reader = VectorReader(path, field("l2"))
    axis = np.eye(DIMENSION, dtype=np.float32)
    writer.apply([], [(7, as_bytes(axis[0])), (9, as_bytes(2 * axis[0])), (11, as_bytes(axis[1]))])
    assert reader.search(as_bytes(axis[0]), 3) == ([], [])
    writer.commit()
    reader.refresh()
    assert reader.search(as_bytes(axis[0]), 3) == ([7, 9, 11], [0.0, -1.0, -2.0])
    assert reader.search(axis[0], 1, exclude=[7]) == ([9], [-1.0])
    assert reader.search(axis[0], 3, allowed=np.array([9, 10, 11], np.uint64))[0] == [9, 11]
    assert reader.count == 3
    writer.close()
    reader.close()


@pytest.mark.parametrize(
    ("metric", "expected"), [("cosine", [1.0, 0.0]), ("dot", [6.0, 0.0]), ("l2", [-1.0, -13.0])]
)
def test_similarities(path: Path, metric: str, expected: list[float]) -> None:
    writer = VectorWriter(path, field(metric))
    axis = np.eye(DIMENSION, dtype=np.float32)
    writer.apply([], [(1, as_bytes(2 * axis[0])), (2, as_bytes(2 * axis[1]))])
    writer.commit()
    rows, scores = VectorReader(path, field(metric)).search(3 * axis[0], 2)
    assert (rows, scores) == ([1, 2], expected)
    writer.close()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("often")
def test_agrees_with_exact_search(path: Path, metric: str, seed: int) -> None:
    """Random writes, reopening and merging; readers old and new agree with a model."""
    source = random.Random(f"{metric} {seed}")
    model = Model(metric, DIMENSION, seed)
    writer = VectorWriter(path, field(metric))
    reader = VectorReader(path, field(metric))
    for _ in range(40):
        step = source.random()
        if step < 0.75:
            removed, added = model.change(source, most=120)
            writer.apply(removed, added)
            if source.random() < 0.3:
                writer.apply(removed, added)  # once more, as after a crash
            writer.commit()
        elif step < 0.85:
            writer.settle()
        else:
            writer.close()
            writer = VectorWriter(path, field(metric))
        reader.refresh()
        model.check(reader, source)
    model.check(VectorReader(path, field(metric)), source)
    writer.close()


def test_what_was_not_committed_is_forgotten(path: Path) -> None:
    vector = as_bytes(np.ones(DIMENSION))
    writer = VectorWriter(path, field())
    writer.apply([], [(1, vector)])
    writer.commit()
    writer.apply([1], [(2, vector)])
    writer.close()
    assert VectorReader(path, field()).search(vector, 5)[0] == [1]


def test_merged_segments_are_found_without_a_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "LOOK_EVERY", 0.0)
    writer = VectorWriter(path, field())
    vectors = clustered(np.random.default_rng(1), 300, DIMENSION)
    writer.apply([], [(row, as_bytes(one)) for row, one in enumerate(vectors)])
    writer.commit()
    reader = VectorReader(path, field())
    before = reader.search(vectors[7], 5)
    assert reader.segments == 0
    writer.settle()
    assert reader.search(vectors[7], 5) == before
    assert reader.segments == 1
    writer.close()
    reader.close()


def test_a_single_vector_is_prepared_like_those_of_a_matrix() -> None:
    vectors = 1e10 * clustered(np.random.default_rng(2), 50, DIMENSION)
    together = prepared("cosine", vectors)
    for one, expected in zip(vectors, together, strict=True):
        np.testing.assert_allclose(prepared("cosine", one), expected, rtol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("state", ["one graph", "two graphs", "something is gone", "fresh rows"])
def test_several_are_searched_for_at_once(
    path: Path, metric: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one after the other, whatever the index consists of."""
    monkeypatch.setattr(merging, "SMALL", 0)
    monkeypatch.setattr(merging, "IDLE_RATIO", 1)
    vectors = clustered(np.random.default_rng(3), 3300, DIMENSION)
    added = list(enumerate(map(as_bytes, vectors)))
    writer = VectorWriter(path, field(metric))
    writer.apply([], added[:3000])
    writer.commit()
    writer.settle()
    if state != "one graph":
        writer.apply([7] if state == "something is gone" else [], added[3000:])
        writer.commit()
    if state == "two graphs":
        writer.settle()
    reader = VectorReader(path, field(metric))
    assert reader.segments == (2 if state == "two graphs" else 1)
    queries = [as_bytes(one) for one in vectors[5:12]]
    for wanted in (0, 1, 10, 16, 17, 4000):
        found = reader.search_each(queries, wanted)
        assert found == [reader.search(one, wanted) for one in queries]
        assert found == [reader.search(one, wanted, exclude=[9999]) for one in queries]
    writer.close()
    reader.close()


def test_removing_is_idempotent_and_a_row_may_come_back(path: Path) -> None:
    first, second = np.eye(DIMENSION, dtype=np.float32)[:2]
    writer = VectorWriter(path, field())
    for row in (1, 2):
        writer.apply([], [(row, as_bytes(first))])
    writer.apply([99, 1], [])
    writer.commit()
    writer.apply([1, 1], [])
    writer.commit()
    writer.settle()
    writer.apply([2], [(2, as_bytes(second)), (1, as_bytes(first))])
    writer.commit()
    writer.settle()
    writer.apply([], [(2, as_bytes(second))])
    writer.commit()
    reader = VectorReader(path, field())
    assert reader.count == 2
    assert reader.search(second, 2) == ([2, 1], [1.0, 0.0])
    writer.apply([2], [])
    writer.commit()
    reader.refresh()
    assert reader.search(second, 2)[0] == [1]
    writer.close()


@pytest.mark.parametrize(
    ("metric", "kind"),
    [("cosine", "random"), ("cosine", "clustered"), ("dot", "clustered"), ("l2", "clustered")],
)
def test_recall(path: Path, metric: str, kind: str) -> None:
    """Nearly all of the nearest are found, with filters and after changes, too."""
    rng = np.random.default_rng(1)
    count, dimension = 8000, 32
    vectors = clustered(rng, count + 1000 + 40, dimension)
    if kind == "random":
        vectors = rng.standard_normal(vectors.shape).astype(np.float32)
    if metric == "dot":
        vectors *= np.exp(0.3 * rng.standard_normal((len(vectors), 1))).astype(np.float32)
    queries, vectors = vectors[:40], vectors[40:]
    of = field(metric, dimension)
    writer = VectorWriter(path, of)
    rows = np.arange(1, len(vectors) + 1, dtype=np.uint64)
    for start in range(0, count, 1000):
        added = zip(
            rows[start:][:1000].tolist(), map(as_bytes, vectors[start:][:1000]), strict=True
        )
        writer.apply([], list(added))
        writer.commit()
    writer.settle()
    reader = VectorReader(path, of)
    assert reader.segments == 1
    assert recall(reader, metric, rows[:count], vectors[:count], queries) >= 0.98
    for share in (0.01, 0.1, 0.5):
        allowed = np.sort(rng.permutation(rows[:count])[: int(share * count)])
        found = recall(reader, metric, rows[:count], vectors[:count], queries, allowed)
        assert found >= 0.98, share
    writer.apply(
        rows[:1000].tolist(),
        list(zip(rows[count:].tolist(), map(as_bytes, vectors[count:]), strict=True)),
    )
    writer.commit()
    reader.refresh()
    assert recall(reader, metric, rows[1000:], vectors[1000:], queries) >= 0.98
    writer.settle()
    reader.refresh()
    assert recall(reader, metric, rows[1000:], vectors[1000:], queries) >= 0.98
    writer.close()


def test_far_filters_and_removed_neighbours(path: Path) -> None:
    """What is asked for is found where the graph leads elsewhere."""
    rng = np.random.default_rng(2)
    vectors = clustered(rng, 3000, DIMENSION, clusters=3, spread=0.05)
    writer = VectorWriter(path, field("l2"))
    writer.apply([], list(enumerate(map(as_bytes, vectors))))
    writer.commit()
    writer.settle()
    distances = ((vectors - vectors[0]) ** 2).sum(axis=1)
    order = np.argsort(distances)
    reader = VectorReader(path, field("l2"))
    far = np.sort(order[1500:]).astype(np.uint64)
    assert reader.search(vectors[0], 5, allowed=far)[0] == order[1500:1505].tolist()
    writer.apply(order[:600].tolist(), [])
    writer.commit()
    reader.refresh()
    assert reader.search(vectors[0], 5)[0] == order[600:605].tolist()
    assert (
        reader.search(vectors[0], 3, exclude=set(order[600:700].tolist()))[0]
        == order[700:703].tolist()
    )
    writer.close()


@pytest.mark.parametrize("metric", METRICS)
def test_numbers_of_every_size(path: Path, metric: str) -> None:
    huge = np.full(DIMENSION, 3e38, np.float32)
    tiny = np.full(DIMENSION, 1e-38, np.float32)
    mixed = huge * np.array([1, -1] * (DIMENSION // 2), np.float32)
    writer = VectorWriter(path, field(metric))
    writer.apply([], [(1, as_bytes(huge)), (2, as_bytes(tiny)), (3, as_bytes(mixed))])
    writer.commit()
    reader = VectorReader(path, field(metric))
    for query in (huge, tiny, mixed):
        rows, scores = reader.search(query, 3)
        assert sorted(rows) == [1, 2, 3]
        assert scores == sorted(scores, reverse=True)
        assert not any(np.isnan(scores))
    writer.close()


def test_another_dimension_is_refused(path: Path) -> None:
    writer = VectorWriter(path, field())
    with pytest.raises(InvalidArgument, match="row 3 has 4 octets; it has 32"):
        writer.apply([], [(3, bytes(4))])
    with pytest.raises(InvalidArgument, match="a vector of 1 numbers; it has 8"):
        VectorReader(path, field()).search(bytes(4), 1)
    writer.close()


def test_there_is_one_writer(path: Path) -> None:
    writer = VectorWriter(path, field())
    with pytest.raises(StoreBusy, match="another process"):
        VectorWriter(path, field())
    writer.close()
    VectorWriter(path, field()).close()


@pytest.mark.usefixtures("often")
def test_searches_go_on_while_it_is_written(path: Path) -> None:
    """Threads that search see each state whole: the newest row is the nearest, and none is lost."""
    writer = VectorWriter(path, field("dot"))
    writer.apply([], [(0, as_bytes(np.zeros(DIMENSION)))])
    writer.commit()
    reader = VectorReader(path, field("dot"))
    ones = np.ones(DIMENSION, np.float32)
    wrong: list[Any] = []
    done = threading.Event()

    def search() -> None:
        before = 0
        while not done.is_set():
            rows, _ = reader.search(ones, 3)
            if rows[0] < before or rows != [
                row for row in range(rows[0], rows[0] - 3, -1) if row >= 0
            ]:
                wrong.append((before, rows))
            before = rows[0]

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for row in range(1, 121):
        removed = [row - 5] if row >= 5 else []
        writer.apply(removed, [(row, as_bytes(ones * row))])
        writer.commit()
        reader.refresh()
        if row % 30 == 0:
            writer.settle()
            reader.refresh()
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
    writer.close()
