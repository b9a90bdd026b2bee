"""The vector index of a field: one process writes it, any number of them search it.

    manifest       which of the following count (see `manifest`)
    log-<n>        what was committed since the last flush (see `log`)
    segment-<n>.*  vectors and the graph through them (see `segment`, and `merging` for their size)
    lock           keeps a second writer off

A commit appends to the log, whatever the size of the collection. Everything is verified when it is
opened; what is not what was written raises IndexDamaged. Files that nobody needs any more are
removed by the writer: who has them mapped keeps them, who has only read of them reads the manifest
again. A reader holds the fresh vectors in memory (4 MiB, up to eight times that while the writer is
ahead of its merger); segments are mapped.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from mesh.errors import InvalidArgument, StoreBusy
from workers.search.derived import IndexDamaged
from workers.search.schema import Field
from workers.search.vectors import manifest
from workers.search.vectors.log import Frame, LogReader, LogWriter, is_empty
from workers.search.vectors.manifest import Entry, Manifest
from workers.search.vectors.merging import Merger
from workers.search.vectors.metrics import Floats, Rows, prepared
from workers.search.vectors.nearest import Found, nearest, nearest_each
from workers.search.vectors.state import Follower, State

LOCK: Final = "lock"
LOOK_EVERY: Final = 0.25
"""Seconds after which a search looks whether there are new segments."""


class VectorReader:
    """Searches the index. Any process; threads may search at once."""

    def __init__(self, path: Path, field: Field) -> None:
        """Open it as of the last commit. Raises IndexDamaged."""
        self._field = field
        self._follower = Follower(path, field)
        self._look_at = time.monotonic() + LOOK_EVERY

    @property
    def count(self) -> int:
        """Vectors that searches find."""
        return self._follower.state.count

    @property
    def segments(self) -> int:
        """Graphs that a search goes through."""
        return len(self._follower.state.segments)

    def refresh(self) -> None:
        """See the last commit. Searches that run go on with what they began with.

        Raises:
            IndexDamaged: what is there is not what was written; searches see what they saw before.
        """
        self._follower.refresh()

    def search(
        self,
        vector: bytes | Floats,
        k: int,
        allowed: Rows | None = None,
        exclude: Collection[int] = (),
    ) -> Found:
        """The nearest `k` rows and their similarities, best first.

        Similarities: the cosine, the dot product, or minus the squared distance (l2), of 32-bit
        floats. `allowed`: only these rows, in ascending order. `exclude`: these not.

        Raises:
            InvalidArgument: the vector has another dimension.
            IndexDamaged: a segment that has come since is not what was written.
        """
        given = vector if isinstance(vector, bytes) else np.asarray(vector, "<f4").tobytes()
        vectors = self._prepared([given])
        state = self._state()
        if allowed is None and not exclude:
            return nearest_each(state, self._field.metric, vectors, k)[0]
        return nearest(state, self._field.metric, vectors[0], k, allowed, exclude)

    def search_each(self, vectors: Sequence[bytes], k: int) -> list[Found]:
        """What `search` finds for each of them, in less time. Raises as `search`."""
        return nearest_each(self._state(), self._field.metric, self._prepared(vectors), k)

    def close(self) -> None:
        """Forget it; its files are given back when the last search has ended."""
        self._follower.forget()

    def _prepared(self, vectors: Sequence[bytes]) -> Floats:
        dimension = self._field.dimension
        for vector in vectors:
            if len(vector) != 4 * dimension:
                raise InvalidArgument(
                    f"field {self._field.name!r}: a vector of {len(vector) // 4} numbers; "
                    f"it has {dimension}"
                )
        matrix = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), dimension)
        return prepared(self._field.metric, matrix)

    def _state(self) -> State:
        """The index as it is searched now."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            if self._follower.behind():
                with suppress(OSError):  # out of descriptors: the old segments do as well
                    self.refresh()
        return self._follower.state


class VectorWriter:
    """Writes the index: one process, one thread at a time."""

    def __init__(self, path: Path, field: Field) -> None:
        """Open or make it.

        Raises:
            IndexDamaged: it is not what was written.
            StoreBusy: another writer has it.
        """
        self.path = path
        self.field = field
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._publishing = threading.RLock()
        self._lock = _locked(path / LOCK)
        self._highest = -1
        self._removed: set[int] = set()
        self._added: dict[int, bytes] = {}
        self._log: LogWriter | None = None
        self._merger = Merger(self)
        try:
            self._manifest = self._opened()
            self._clean()
            self._begin()
            self._log = LogWriter(path / self._manifest.logs[-1], field.dimension)
        except BaseException:
            self.close()
            raise
        self._merger.start()

    def apply(self, removed: Sequence[int], added: Sequence[tuple[int, bytes]]) -> None:
        """Take rows out, then bring rows in with their vectors (32-bit floats, little endian).

        A row that is there is replaced, one to be removed need not be there. Seen after `commit`.

        Raises:
            InvalidArgument: a vector has another dimension; nothing was applied.
        """
        octets = 4 * self.field.dimension
        for row, vector in added:
            if len(vector) != octets:
                raise InvalidArgument(
                    f"field {self.field.name!r}: the vector of row {row} has {len(vector)} octets; "
                    f"it has {octets}"
                )
        self._removed.update(removed)
        for row in removed:
            self._added.pop(row, None)
        for row, vector in added:
            if row <= self._highest:
                self._removed.add(row)  # it may be there already
            self._added[row] = vector
        self._highest = max([self._highest, *(row for row, _ in added)])

    def commit(self) -> None:
        """Put what was applied on disk, for readers to see after their `refresh`."""
        if not self._added and not self._removed:
            return
        packed = np.frombuffer(b"".join(self._added.values()), "<f4")
        matrix = packed.reshape(len(self._added), self.field.dimension)
        frame = Frame(
            _rows(sorted(self._removed)), _rows(self._added), prepared(self.field.metric, matrix)
        )
        with self._publishing:
            assert self._log is not None
            self._log.append(frame)
        self._removed, self._added = set(), {}
        self._merger.committed(len(frame.rows), len(frame.removed))

    def settle(self) -> None:
        """Merge now what would be merged when nothing is written for a while."""
        self._merger.settle()

    def close(self) -> None:
        """Give the files back; what was not committed is forgotten."""
        self._merger.stop()
        if self._log is not None:
            self._log.close()
        os.close(self._lock)

    # ---------------------------------------------------------------- opening

    def _opened(self) -> Manifest:
        try:
            return manifest.read(self.path, self.field)
        except FileNotFoundError:
            pass
        first = "log-1"
        for file in self.path.iterdir():
            begun = file.name == first and is_empty(file)
            if file.name != LOCK and not file.name.startswith("tmp-") and not begun:
                raise IndexDamaged("the manifest is missing")
        LogWriter.make(self.path / first, self.field.dimension)
        made = Manifest(2, (), (first,))
        manifest.write(self.path, made, self.field)
        return made

    def _begin(self) -> None:
        """Verify all of it, and find out how far it is."""
        follower = Follower(self.path, self.field)
        highest = [int(one.rows.max()) for one, _ in follower.state.segments]
        fresh = removed = 0
        for name in self._manifest.logs:
            for frame in LogReader(self.path / name, self.field.dimension).read():
                fresh += len(frame.rows)
                removed += len(frame.removed)
                highest += [int(frame.rows.max())] if len(frame.rows) else []
        self._highest = max(highest, default=-1)
        self._merger.committed(fresh, removed, wait=False)

    def _clean(self) -> None:
        """Remove the files that do not count."""
        wanted = {*self._manifest.files, LOCK}
        for file in self.path.iterdir():
            if file.name not in wanted:
                with suppress(FileNotFoundError):
                    file.unlink()

    # ---------------------------------------------------------------- for the merger

    def manifest(self) -> Manifest:
        """As it is now."""
        return self._manifest

    def number(self) -> int:
        """A number that no file has had."""
        with self._publishing:
            number = self._manifest.next_number
            self._manifest = replace(self._manifest, next_number=number + 1)
            return number

    def rotate(self) -> tuple[str, ...]:
        """Begin a new log; the names of those that came before it."""
        with self._publishing:
            if self._manifest.logs[:-1] and is_empty(self.path / self._manifest.logs[-1]):
                return self._manifest.logs[:-1]  # the last attempt to flush them has failed
            name = f"log-{self.number()}"
            LogWriter.make(self.path / name, self.field.dimension)
            before = self._manifest.logs
            self._write(replace(self._manifest, logs=(*before, name)))
            old, self._log = self._log, LogWriter(self.path / name, self.field.dimension)
            if old is not None:
                old.close()
            return before

    def publish(
        self, change: Callable[[tuple[Entry, ...]], tuple[Entry, ...]], logs: Sequence[str] = ()
    ) -> None:
        """Change the segments, and have `logs` served their time."""
        with self._publishing:
            before = self._manifest
            left = tuple(name for name in before.logs if name not in logs)
            self._write(replace(before, segments=change(before.segments), logs=left))
            for name in before.files - self._manifest.files:
                with suppress(FileNotFoundError):
                    (self.path / name).unlink()

    def _write(self, found: Manifest) -> None:
        manifest.write(self.path, found, self.field)
        self._manifest = found


def _rows(rows: Any) -> Rows:
    return np.fromiter(rows, np.uint64, len(rows))


def _locked(path: Path) -> int:
    """The descriptor that holds the writer's lock."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise StoreBusy(
            f"{path.parent} is being written by another process", retry_after=0.2
        ) from None
    return file
