"""What the index should find: rows and vectors in a dictionary, compared in numpy."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.search.vectors.index import VectorReader

Floats = npt.NDArray[np.float32]


def as_bytes(vector: npt.NDArray[Any]) -> bytes:
    return vector.astype("<f4").tobytes()


def clustered(
    rng: np.random.Generator, count: int, dimension: int, clusters: int = 50, spread: float = 0.5
) -> Floats:
    centres = rng.standard_normal((clusters, dimension))
    noise = spread * rng.standard_normal((count, dimension))
    return (centres[rng.integers(0, clusters, count)] + noise).astype(np.float32)


def similarities(metric: str, matrix: Floats, query: Floats) -> npt.NDArray[np.float64]:
    wide, given = matrix.astype(np.float64), query.astype(np.float64)
    found: npt.NDArray[np.float64] = wide @ given
    if metric == "l2":
        found = -((wide - given) ** 2).sum(axis=1)
    elif metric == "cosine":
        found /= np.linalg.norm(wide, axis=1) * np.linalg.norm(given)
    return found


def recall(
    reader: VectorReader,
    metric: str,
    rows: npt.NDArray[np.uint64],
    vectors: Floats,
    queries: Floats,
    allowed: npt.NDArray[np.uint64] | None = None,
    k: int = 10,
) -> float:
    """The share of the nearest `k` that is found."""
    if allowed is not None:
        kept = np.isin(rows, allowed)
        rows, vectors = rows[kept], vectors[kept]
    hits = 0
    for query in queries:
        expected = rows[np.argsort(-similarities(metric, vectors, query))[:k]]
        found, _ = reader.search(query, k, allowed)
        hits += len(set(found) & set(expected.tolist()))
    return hits / (k * len(queries))


class Model:
    """The rows that should be there, and changes at random."""

    def __init__(self, metric: str, dimension: int, seed: int) -> None:
        self._metric = metric
        self._rng = np.random.default_rng(seed)
        self._dimension = dimension
        self._next = 1
        self.there: dict[int, Floats] = {}

    def change(self, source: random.Random, most: int) -> tuple[list[int], list[tuple[int, bytes]]]:
        """Rows to remove and to add; the model has done it."""
        known = sorted(self.there)
        removed = source.sample(known, min(len(known), source.randrange(most // 2)))
        removed += [source.randrange(1, self._next + 10) for _ in range(source.randrange(3))]
        for row in removed:
            self.there.pop(row, None)
        added: list[tuple[int, bytes]] = []
        for vector in clustered(self._rng, source.randrange(most), self._dimension, 5):
            row = self._next
            if source.random() < 0.05 and known:
                row = source.choice(known)  # one that is there, or was just removed
            else:
                self._next += source.randrange(1, 3)
            self.there[row] = vector
            added.append((row, as_bytes(vector)))
        return removed, added

    def check(self, reader: VectorReader, source: random.Random) -> None:
        """That a query finds what it should, with a filter or without."""
        assert reader.count == len(self.there)
        rows = np.array(sorted(self.there), np.uint64)
        query = clustered(self._rng, 1, self._dimension)[0]
        kept = np.array([source.random() < 0.5 for _ in rows], dtype=bool)
        for wanted in (None, rows[kept]):
            expected = rows if wanted is None else wanted
            k = source.choice((1, 5, 20, 1000))
            found, scores = reader.search(query, k, wanted)
            assert len(found) == len(set(found)) == min(k, len(expected))
            assert set(found) <= set(expected.tolist())
            if not found:
                continue
            matrix = np.array([self.there[row] for row in found])
            exact = similarities(self._metric, matrix, query)
            assert np.allclose(scores, exact, rtol=1e-4, atol=1e-5)
            assert scores == sorted(scores, reverse=True)
            everything = np.array([self.there[row] for row in expected.tolist()])
            least = np.sort(similarities(self._metric, everything, query))[-len(found)]
            worse = (exact < least - 1e-4 * abs(least) - 1e-5).sum()
            assert worse <= 0.1 * len(found)
