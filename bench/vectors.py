"""The vector index by itself: what it finds with and without filters, and how fast, beside usearch.

`python -m bench.vectors [--count N] [--dimension D] [--data clustered|random] [--metric ...]`

usearch is searched in the same process as the index is, with the parameters that the index has
found out for the data (the same expansion and links), so that both find the same share.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from usearch.index import Index

from workers.search.schema import METRICS, Field
from workers.search.vectors.index import VectorReader, VectorWriter
from workers.search.vectors.metrics import GRAPH_METRICS, prepared
from workers.search.vectors.segment import CONNECTIVITY, EXPANSION_ADD

Floats = npt.NDArray[np.float32]
BATCH = 1000
QUERIES = 200


def data(kind: str, count: int, dimension: int, seed: int = 1) -> Floats:
    """Vectors around two hundred centres, or spread without any order."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((count, dimension))
    if kind == "clustered":
        found = rng.standard_normal((200, dimension))[rng.integers(0, 200, count)] + 0.5 * found
    return found.astype(np.float32)


def exact(metric: str, vectors: Floats, queries: Floats, k: int) -> npt.NDArray[np.intp]:
    """Where the nearest `k` of each query stand."""
    values = 2 * (queries @ vectors.T) if metric == "l2" else queries @ vectors.T
    if metric == "l2":
        values -= (vectors * vectors).sum(axis=1)
    return np.argsort(-values, axis=1)[:, :k]


def rate(search: Callable[[Floats], Any], queries: Floats, seconds: float = 0.7) -> float:
    """Queries a second."""
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for query in queries[:50]:
            search(query)
        done += 50
    return done / (time.perf_counter() - began)


def measure(kind: str, metric: str, count: int, dimension: int) -> dict[str, Any]:
    """All figures of one collection."""
    vectors = data(kind, count + QUERIES, dimension)
    queries, vectors = vectors[:QUERIES], vectors[QUERIES:]
    field = Field("v", "vector", dimension=dimension, metric=metric)
    found: dict[str, Any] = {"data": kind, "metric": metric, "count": count, "numbers": dimension}
    with tempfile.TemporaryDirectory() as folder:
        writer = VectorWriter(Path(folder) / "index", field)
        began = time.perf_counter()
        for start in range(0, count, BATCH):
            rows = range(start, min(start + BATCH, count))
            writer.apply([], [(row, vectors[row].tobytes()) for row in rows])
            writer.commit()
        found["committed a second"] = count / (time.perf_counter() - began)
        reader = VectorReader(Path(folder) / "index", field)
        found["segments at once"] = reader.segments
        writer.settle()
        found["merged a second"] = count / (time.perf_counter() - began)
        reader.refresh()
        found["segments"] = reader.segments
        octets = sum(file.stat().st_size for file in (Path(folder) / "index").iterdir())
        found["octets a vector"] = octets / count
        found.update(
            _searched(reader, metric, prepared(metric, vectors), prepared(metric, queries))
        )
        writer.close()
        reader.close()
    return found


def _searched(
    reader: VectorReader, metric: str, vectors: Floats, queries: Floats
) -> dict[str, Any]:
    count, dimension = vectors.shape
    (segment, _), *_ = reader._follower.state.segments
    rival = Index(
        ndim=dimension, metric=GRAPH_METRICS[metric], dtype="f32", connectivity=CONNECTIVITY,
        expansion_add=EXPANSION_ADD, expansion_search=segment.expansion,
    )  # fmt: skip
    rival.add(np.arange(count, dtype=np.uint64), vectors, threads=1)
    found: dict[str, Any] = {"expansion": segment.expansion}
    rng = np.random.default_rng(2)
    for share in (1.0, 0.5, 0.1, 0.01):
        rows = np.sort(rng.permutation(count)[: int(share * count)]).astype(np.uint64)
        allowed = None if share == 1.0 else rows
        for k in (10, 100):
            nearest = exact(metric, vectors[rows], queries, k)
            hits = sum(
                len(set(reader.search(query, k, allowed)[0]) & set(rows[best].tolist()))
                for query, best in zip(queries, nearest, strict=True)
            )
            found[f"recall@{k} of {share:.0%}"] = hits / (k * QUERIES)
        found[f"queries a second of {share:.0%}"] = rate(
            functools.partial(_search, reader, allowed), queries
        )
    found["usearch queries a second"] = rate(
        lambda query: rival.search(query, 10, threads=1), queries
    )
    return found


def _search(reader: VectorReader, allowed: npt.NDArray[np.uint64] | None, query: Floats) -> None:
    reader.search(query, 10, allowed)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.vectors", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--data", choices=("clustered", "random"), default="clustered")
    parser.add_argument("--metric", choices=METRICS, default="cosine")
    options = parser.parse_args()
    figures = measure(options.data, options.metric, options.count, options.dimension)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
