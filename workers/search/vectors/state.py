"""An index as it stood at some commit, and how one process follows it.

A commit is read from the log: what it added is compared with a query one by one (the fresh part is
bounded, see `merging`), what it removed is noted, for each segment, as positions that do not count.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from workers.search.derived import IndexDamaged
from workers.search.schema import Field
from workers.search.vectors import manifest
from workers.search.vectors.log import Frame, LogReader
from workers.search.vectors.manifest import Manifest
from workers.search.vectors.metrics import Floats, Positions, Rows, among
from workers.search.vectors.segment import Segment

ATTEMPTS: Final = 20


@dataclass(frozen=True, slots=True)
class State:
    """What a search sees. It never changes, and its files stay mapped as long as it is used."""

    segments: tuple[tuple[Segment, Positions], ...] = ()
    """With the positions that are gone, in order."""
    rows: Rows = field(default_factory=lambda: np.empty(0, np.uint64))
    """The fresh part."""
    matrix: Floats = field(default_factory=lambda: np.empty((0, 1), np.float32))
    count: int = 0
    """Vectors that are found."""


class Follower:
    """Follows the index in a directory, in any process."""

    def __init__(
        self,
        path: Path,
        of: Field,
        logs: Sequence[str] | None = None,
        known: Mapping[str, Segment] | None = None,
    ) -> None:
        """Read it as it is now; `logs`: with these only, `known`: segments that are open already.

        Raises:
            IndexDamaged: it is not what was written.
        """
        self._path = path
        self._field = of
        self._wanted = logs
        self._lock = threading.Lock()
        self._version: Any = None
        self._manifest = Manifest()
        self._segments = dict(known or {})
        self._gone: dict[str, Positions] = {}
        self._logs: list[LogReader] = []
        self._fresh = _Fresh(of.dimension)
        self.state = State()
        self.refresh()

    def refresh(self) -> State:
        """The index as of the last commit, which `state` is from now on. Raises IndexDamaged."""
        with self._lock:
            for _ in range(ATTEMPTS):
                try:
                    self._follow()
                except FileNotFoundError as error:
                    missing = error
                    if self._has_moved_on():
                        continue
                    break
                except BaseException:
                    self._version = None  # read all of it again next time
                    raise
                return self.state
            self._version = None
            raise IndexDamaged(f"{Path(missing.filename or '').name} is missing")

    def behind(self) -> bool:
        """Whether segments were built or merged since: no commit tells of that."""
        return self._version is not None and self._has_moved_on()

    def forget(self) -> None:
        """Hold nothing any more."""
        with self._lock:
            self._version = None
            self._segments, self._gone, self._logs = {}, {}, []
            self.state = State()

    def _has_moved_on(self) -> bool:
        try:
            now = manifest.version(self._path)
        except FileNotFoundError:
            return False
        return bool(now != self._version)

    def _follow(self) -> None:
        version = manifest.version(self._path)
        changed = version != self._version
        if changed:
            self._version = version
            self._load(manifest.read(self._path, self._field))
        for log in self._logs:
            for frame in log.read():
                changed = True
                self._apply(frame)
        if changed:
            self.state = self._current()

    def _load(self, found: Manifest) -> None:
        self._manifest = found
        kept = self._segments
        self._segments = {}
        for entry in found.segments:
            self._segments[entry.name] = kept.get(entry.name) or Segment(
                self._path, entry, self._field
            )
        self._gone = {entry.name: entry.gone_positions for entry in found.segments}
        names = found.logs if self._wanted is None else self._wanted
        self._logs = [LogReader(self._path / name, self._field.dimension) for name in names]
        self._fresh = _Fresh(self._field.dimension)

    def _apply(self, frame: Frame) -> None:
        if len(frame.removed):
            self._fresh.remove(frame.removed)
            for name, segment in self._segments.items():
                self._gone[name] = merged(self._gone[name], segment.positions(frame.removed))
        self._fresh.add(frame.rows, frame.matrix)

    def _current(self) -> State:
        rows, matrix = self._fresh.alive()
        segments = tuple((one, self._gone[name]) for name, one in self._segments.items())
        held = sum(segment.count - len(gone) for segment, gone in segments)
        return State(segments, rows, matrix, held + len(rows))


class _Fresh:
    """Rows that no segment has yet. Its arrays grow in place: what was given out stays as it is."""

    def __init__(self, dimension: int) -> None:
        self._rows: Rows = np.empty(256, np.uint64)
        self._matrix: Floats = np.empty((256, dimension), np.float32)
        self._end = 0
        self._at: dict[int, int] = {}

    def remove(self, rows: Rows) -> None:
        """Forget some of them."""
        if self._at:
            for row in rows.tolist():
                self._at.pop(row, None)

    def add(self, rows: Rows, matrix: Floats) -> None:
        """Add rows that are not here."""
        end = self._end + len(rows)
        if end > len(self._rows):
            size = max(end, 2 * len(self._rows))
            self._rows = np.concatenate((self._rows[: self._end], np.empty(size, np.uint64)))
            more = np.empty((size, self._matrix.shape[1]), np.float32)
            self._matrix = np.concatenate((self._matrix[: self._end], more))
        self._rows[self._end : end] = rows
        self._matrix[self._end : end] = matrix
        self._at.update(zip(rows.tolist(), range(self._end, end), strict=True))
        self._end = end

    def alive(self) -> tuple[Rows, Floats]:
        """Rows that were not removed, and their vectors."""
        if len(self._at) == self._end:
            return self._rows[: self._end], self._matrix[: self._end]
        at = np.fromiter(self._at.values(), np.intp, len(self._at))
        return self._rows[at], self._matrix[at]


def merged(gone: Positions, more: Positions) -> Positions:
    """Two sets of positions, the first in order, as one in order."""
    more = np.unique(more)
    more = more[~among(gone, more)]
    if not len(more):
        return gone
    found: Positions = np.insert(gone, np.searchsorted(gone, more), more)
    return found


def without(count: int, gone: Positions) -> Positions:
    """The positions below `count` that are not gone."""
    return np.delete(np.arange(count, dtype=np.uint32), gone.astype(np.intp))
