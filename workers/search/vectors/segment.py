"""A segment: vectors that never change, and the graph (HNSW) by which the nearest are found.

    <name>.graph   a usearch index; its keys are positions, and its vectors lie in their order
    <name>.rows    the row of each position, 64 bits each

Both files are mapped into memory. Their checksums are verified when they are opened, once in each
process: usearch trusts what it maps, and a wrong link would end the process.

How widely a graph must be searched depends on the data: 32 candidates find 99.9 % of the nearest
ten among 20,000 vectors in clusters, and 74 % of them among random ones. So each graph is tried out
when it is built, with vectors that it does not hold yet, and its own `expansion` noted.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from usearch.index import Index
from xxhash import xxh3_64

from workers.search.derived import IndexDamaged
from workers.search.schema import Field
from workers.search.vectors.manifest import Entry
from workers.search.vectors.metrics import (
    BLOCK,
    GRAPH_METRICS,
    Floats,
    Positions,
    Rows,
    compared,
    highest,
)

CONNECTIVITY: Final = 32
"""Links of a vector. Among 20,000 random vectors of 64 numbers, 10 neighbours in 0.2 ms: 32 links
find 99 % of them, 16 find 95 %, for 128 octets less a vector."""
EXPANSION_ADD: Final = 128
"""Candidates when a vector is linked; 256 takes twice the time and finds no more."""
EXPANSIONS: Final = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Candidates of a search, of which the smallest is chosen that finds `RECALL`."""
DEFAULT_EXPANSION: Final = 96
"""Where too few vectors are added to try it out."""
RECALL: Final = 0.99
"""Share of the nearest ten that must be found when a graph is tried out."""
TRIALS: Final = 64
CHUNK: Final = 256
"""Vectors that are linked between two looks at what else there is to do."""
AS_TEN: Final = 16
"""Neighbours up to which the expansion for ten does."""
_OFFSET: Final = 8
_READ: Final = 1 << 20


class Segment:
    """One that is open for searching. Any thread."""

    def __init__(self, path: Path, entry: Entry, field: Field) -> None:
        """Map it.

        Raises:
            IndexDamaged: it is not what was written.
            FileNotFoundError: it has served its time, or was lost.
        """
        self.entry = entry
        self.name = entry.name
        self.count = entry.count
        self.expansion = entry.expansion
        data = _mapped(path / f"{entry.name}.graph", entry.octets, entry.graph)
        rows = _mapped(path / f"{entry.name}.rows", 8 * entry.count, entry.rows)
        self.rows: Rows = np.frombuffer(rows, "<u8")
        shape = (entry.count, field.dimension)
        vectors = np.frombuffer(data, "<f4", shape[0] * shape[1], entry.vectors)
        self.matrix: Floats = vectors.reshape(shape)
        self._data = data  # the graph lies in it
        graph = _restored(data, view=True)
        if graph is None or len(graph) != entry.count:
            raise IndexDamaged(f"{entry.name}.graph holds no graph")
        graph.expansion_search = entry.expansion
        self._graph = graph  # it ends what lies in it when it goes
        # Without the wrapper, which takes a tenth of the time of a search.
        self._search = graph._compiled.search_many
        self._order: Any = None
        self._sorted = self.rows
        if entry.count > 1 and not (self.rows[1:] > self.rows[:-1]).all():
            self._order = np.argsort(self.rows, kind="stable")
            self._sorted = self.rows[self._order]

    def nearest(self, vector: Floats, wanted: int) -> Positions:
        """Where the nearest `wanted` vectors and some more stand, the nearest first.

        Measured on random vectors: an expansion that is right for 10 neighbours finds the same
        share of more if it grows by two for each.
        """
        if wanted > AS_TEN:
            wanted = min(self.count, self.expansion + 2 * (wanted - AS_TEN))
        keys, _, counts, *_ = self._search(vector[None], wanted, threads=1)
        found: Positions = keys[0, : counts[0]].astype(np.uint32)
        return found

    def nearest_each(self, vectors: Floats, wanted: int) -> Positions | None:
        """Where the nearest `wanted` of each row of `vectors` stand; None if there are too few.

        `wanted`: up to AS_TEN.
        """
        keys, _, counts, *_ = self._search(vectors, wanted, threads=1)
        if counts.min() < wanted:
            return None
        found: Positions = keys.astype(np.uint32)
        return found

    def loaded(self) -> Any:
        """A copy of the graph in memory, which may be added to."""
        return _restored(self._data, view=False)

    def positions(self, rows: Rows) -> Positions:
        """Where those of `rows` stand that are here, in no order; of a row that came twice, the
        later one."""
        at = np.searchsorted(self._sorted, rows, side="right") - 1
        at = at[(at >= 0) & (self._sorted[np.maximum(at, 0)] == rows)]
        found: Positions = at if self._order is None else self._order[at]
        return found.astype("<u4")


class Building:
    """A segment that is being built, in memory: 4 octets a number and about 280 a vector."""

    def __init__(self, field: Field, base: Segment | None, rows: Rows, matrix: Floats) -> None:
        """Add `rows` with their vectors to what `base` holds, whose positions remain."""
        self._metric = field.metric
        self._base = base
        held_out = min(TRIALS, len(rows) // 16)
        if held_out < TRIALS // 4:
            held_out = 0  # too few to tell
        trial = np.linspace(0, len(rows) - 1, held_out).astype(np.intp)
        order = np.concatenate((np.delete(np.arange(len(rows)), trial), trial))
        self.order = order
        """Of what is added: where each stood in `rows`."""
        self._rows = rows[order]
        self._matrix = np.ascontiguousarray(matrix[order], dtype=np.float32)
        self._trials = held_out
        self.start = 0 if base is None else base.count
        self.expansion = DEFAULT_EXPANSION if base is None else base.expansion
        if base is None:
            self._graph: Any = Index(
                ndim=field.dimension, metric=GRAPH_METRICS[field.metric], dtype="f32",
                connectivity=CONNECTIVITY, expansion_add=EXPANSION_ADD,
            )  # fmt: skip
        else:
            self._graph = base.loaded()
            self._graph.expansion_add = EXPANSION_ADD

    def steps(self) -> Iterator[None]:
        """Build it, a chunk between two turns."""
        end = len(self._rows)
        yield from self._add(0, end - self._trials)
        if self._trials:
            self.expansion = self._tried_out()
            yield from self._add(end - self._trials, end)

    def write(self, path: Path, name: str) -> Entry:
        """Put it on disk. Its names are durable once the directory is flushed."""
        rows = self._rows.astype("<u8")
        if self._base is not None:
            rows = np.concatenate((self._base.rows, rows))
        _store(path, f"{name}.rows", lambda temporary: temporary.write_bytes(rows.tobytes()))
        _store(path, f"{name}.graph", lambda temporary: self._graph.save(os.fspath(temporary)))
        graph = path / f"{name}.graph"
        octets = graph.stat().st_size
        entry = Entry(
            name=name, count=len(rows), octets=octets, graph=_checksum(_map(graph)),
            rows=_checksum(_map(path / f"{name}.rows")), vectors=_OFFSET, expansion=self.expansion,
        )  # fmt: skip
        self._check_order(graph)
        return entry

    def _add(self, start: int, end: int) -> Iterator[None]:
        for at in range(start, end, CHUNK):
            until = min(at + CHUNK, end)
            keys = np.arange(self.start + at, self.start + until, dtype=np.uint64)
            self._graph.add(keys, self._matrix[at:until], threads=1)
            yield

    def _tried_out(self) -> int:
        """The smallest expansion that finds enough of the nearest ten."""
        queries = self._matrix[-self._trials :]
        held = self._matrix[: -self._trials]
        parts = [held] if self._base is None else [self._base.matrix, held]
        wanted = min(10, sum(map(len, parts)))
        nearest = [set(one) for one in self._exact(parts, queries, wanted)]
        for expansion in EXPANSIONS:
            self._graph.expansion_search = expansion
            found = self._graph.search(queries, wanted, threads=1).keys
            hits = sum(
                len(one.intersection(keys.tolist()))
                for one, keys in zip(nearest, found, strict=True)
            )
            if hits >= RECALL * wanted * self._trials:
                return expansion
        return EXPANSIONS[-1]

    def _exact(self, parts: list[Floats], queries: Floats, wanted: int) -> list[list[int]]:
        positions: list[list[int]] = [[] for _ in queries]
        similar: list[list[float]] = [[] for _ in queries]
        start = 0
        for part in parts:
            for at in range(0, len(part), BLOCK):
                found = compared(self._metric, part[at : at + BLOCK], queries)
                for number, values in enumerate(found):
                    best = highest(values, wanted)
                    positions[number] += (start + at + best).tolist()
                    similar[number] += values[best].tolist()
            start += len(part)
        picked = [highest(np.array(values), wanted) for values in similar]
        return [[one[at] for at in best] for one, best in zip(positions, picked, strict=True)]

    def _check_order(self, graph: Path) -> None:
        """That vectors lie in the file in the order of their positions, as `Segment` reads them."""
        dimension = self._matrix.shape[1]
        start = _OFFSET + 4 * self.start * dimension
        written = np.frombuffer(_map(graph), "<f4", self._matrix.size, start)
        if not np.array_equal(written, self._matrix.ravel()):
            raise RuntimeError(
                "this version of usearch lays its files out in another way: "
                "install the one that the project names"
            )


def _restored(data: mmap.mmap, *, view: bool) -> Any:
    return Index.restore(data, view=view)  # type: ignore[arg-type]  # takes any buffer


def _store(path: Path, name: str, save: Any) -> None:
    temporary = path / f"tmp-{name}"
    temporary.touch(mode=0o600)
    save(temporary)
    file = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
    temporary.rename(path / name)


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _mapped(path: Path, octets: int, checksum: int) -> mmap.mmap:
    """The whole file, verified."""
    if path.stat().st_size != octets:
        raise IndexDamaged(f"{path.name} has another length than was written")
    data = _map(path)
    if _checksum(data) != checksum:
        raise IndexDamaged(f"{path.name} is not what was written")
    return data


def _checksum(data: mmap.mmap) -> int:
    found = xxh3_64()
    view = memoryview(data)
    for at in range(0, len(view), _READ):
        found.update(view[at : at + _READ])
    return found.intdigest()
