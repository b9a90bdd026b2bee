"""Turning the log into segments, and small segments into large ones, behind the writer's back.

**Flush.** When the logs hold `fresh_limit` vectors, a new log is begun, and the content of the
others becomes a segment, or is added to the youngest one while that is small.

**Merge.** When the youngest segments together hold an eighth of an older one, all are added to the
largest; a segment of which a quarter was removed is built anew. So there are few segments (three
for a million vectors), and a vector is linked two or three times in its life. A long merge pauses
for flushes that become due. After `IDLE` seconds without a commit smaller things are worth it: then
one segment remains, or one and a much smaller one.

Both happen in a thread; commits wait for it only if the logs hold many times the limit. A crash
loses what was not finished, which is begun anew: the manifest names only what is complete.

**Memory.** What is built is held as a whole (see `segment.Building`), what is flushed twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from workers.search.schema import Field
from workers.search.vectors.manifest import Entry, Manifest
from workers.search.vectors.metrics import Positions
from workers.search.vectors.segment import Building, Segment
from workers.search.vectors.state import Follower, State, without
from workers.store.place import sync_directory

FRESH_ROWS: Final = 8192
FRESH_OCTETS: Final = 4 * 1024 * 1024
"""Vectors that are compared one by one: what costs about 0.1 ms a query."""
REMOVED: Final = 65_536
"""Removed rows after which the logs are flushed as well."""
IDLE: Final = 2.0
IDLE_ROWS: Final = 512
SMALL: Final = 16
"""Times the limit up to which a flush adds to the youngest segment."""
RATIO: Final = 8
IDLE_RATIO: Final = 32
AHEAD: Final = 8
"""Times the limit that the logs may hold before commits wait."""
GONE: Final = 0.25
"""Share of a segment that may be removed before it is built anew."""
RETRY_EVERY: Final = 10.0
"""Seconds until what failed (a full disk) is tried again."""

log = logging.getLogger("workers.search")


def fresh_limit(dimension: int) -> int:
    """Vectors in the logs beyond which they are flushed."""
    return max(64, min(FRESH_ROWS, FRESH_OCTETS // (4 * dimension)))


class Files(Protocol):
    """What the merger needs of the writer."""

    path: Path
    field: Field

    def manifest(self) -> Manifest:
        """As it is now."""

    def number(self) -> int:
        """A number that no file has had."""

    def rotate(self) -> tuple[str, ...]:
        """Begin a new log; the names of those that came before it."""

    def publish(
        self, change: Callable[[tuple[Entry, ...]], tuple[Entry, ...]], logs: Sequence[str] = ()
    ) -> None:
        """Change the segments, and have `logs` served their time."""


class Stopped(Exception):
    """The writer is being closed."""


class Merger:
    """Keeps the segments few, in a thread of its own. `clock`: seconds, monotonic."""

    def __init__(self, files: Files, clock: Callable[[], float] = time.monotonic) -> None:
        self._files = files
        self._clock = clock
        self._limit = fresh_limit(files.field.dimension)
        self._open: dict[str, Segment] = {}
        self._work = threading.Lock()
        self._changed = threading.Condition()
        self._fresh = 0
        self._removed = 0
        self._stopping = False
        self._settled = False
        self._failed = False
        self._look_at = 0.0
        """When to look for what is worth it after a while without a commit, or after a failure."""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="vector merger", daemon=True)
        self._thread.start()

    def committed(self, added: int, removed: int, wait: bool = True) -> None:
        """A commit is on disk. Waits while far more is fresh than should be."""
        with self._changed:
            self._fresh += added
            self._removed += removed
            self._settled = False
            if not self._failed:
                self._look_at = self._clock() + IDLE
            self._changed.notify_all()
            if wait:
                self._changed.wait_for(self._bearable, RETRY_EVERY)

    def settle(self) -> None:
        """Do at once what would be done when nothing is written for a while."""
        with self._work:
            self._flush_if(1)
            self._merge(IDLE_RATIO)

    def stop(self) -> None:
        """End; what is half done is dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    # ---------------------------------------------------------------- when

    def _run(self) -> None:
        while (idle := self._wait()) is not None:
            try:
                with self._work:
                    self._flush_if(IDLE_ROWS if idle else self._limit)
                    self._merge(IDLE_RATIO if idle else RATIO)
            except Stopped:
                return
            except Exception:
                # Nothing is lost by it: what is not merged is searched as it is.
                log.exception("vectors of field %r cannot be merged", self._files.field.name)
                self._failed = True
                self._look_at = self._clock() + RETRY_EVERY
            else:
                self._failed = False

    def _wait(self) -> bool | None:
        """Wait until there is something to do: whether all is quiet. None: stop."""
        with self._changed:
            while not self._stopping:
                left = self._look_at - self._clock()
                if not self._failed and self._due():
                    return False
                if left <= 0 and not self._settled:
                    quiet = not self._failed
                    self._settled = quiet
                    return quiet
                self._changed.wait(None if self._settled else left)
            return None

    def _due(self) -> bool:
        return self._fresh >= self._limit or self._removed >= REMOVED

    def _bearable(self) -> bool:
        return self._failed or self._stopping or self._fresh < AHEAD * self._limit

    # ---------------------------------------------------------------- what

    def _flush_if(self, rows: int, busy: frozenset[str] = frozenset()) -> None:
        """Flush the logs if they hold that many vectors, or many removed ones."""
        with self._changed:
            if self._fresh < rows and self._removed < (REMOVED if rows > 1 else 1):
                return
            logs = self._files.rotate()
            # Whatever is committed from now on goes to the new log.
            fresh, removed = self._fresh, self._removed
            self._fresh = self._removed = 0
        try:
            self._flush(logs, busy)
        except BaseException:
            with self._changed:
                self._fresh += fresh
                self._removed += removed
            raise
        with self._changed:
            self._changed.notify_all()

    def _flush(self, logs: tuple[str, ...], busy: frozenset[str]) -> None:
        known = self._segments()
        state = Follower(self._files.path, self._files.field, logs=logs, known=known).state
        gone = {segment.name: positions for segment, positions in state.segments}
        replaced: Segment | None = None
        fresh: tuple[Entry, ...] = ()
        if len(state.rows):
            replaced = self._youngest(state, busy)
            building = Building(self._files.field, replaced, state.rows, state.matrix)
            made = self._built(building, busy=None)
            fresh = (made if replaced is None else made.with_gone(gone[replaced.name]),)

        def change(now: tuple[Entry, ...]) -> tuple[Entry, ...]:
            kept = [one for one in now if replaced is None or one.name != replaced.name]
            return (*(one.with_gone(gone[one.name]) for one in kept), *fresh)

        self._files.publish(change, logs)

    def _youngest(self, state: State, busy: frozenset[str]) -> Segment | None:
        """The segment that a flush may add to."""
        if not state.segments:
            return None
        segment, gone = state.segments[-1]
        large = segment.count > SMALL * self._limit
        return None if segment.name in busy or large or worn(segment.count, gone) else segment

    def _merge(self, ratio: int) -> None:
        """Merge what is due, until nothing is."""
        while chosen := to_merge(self._files.manifest().segments, ratio):
            self._merge_all(chosen)

    def _merge_all(self, entries: Sequence[Entry]) -> None:
        """Make one segment of some that stand side by side."""
        field = self._files.field
        known = self._segments()
        largest = max(entries, key=lambda one: one.count)
        base = None
        if not worn(largest.count, largest.gone_positions):
            base = known[largest.name]
        added = [one for one in entries if base is None or one.name != base.name]
        alive = [without(one.count, one.gone_positions) for one in added]
        parts = [(known[one.name], at) for one, at in zip(added, alive, strict=True)]
        rows = np.concatenate([np.empty(0, np.uint64), *(one.rows[at] for one, at in parts)])
        nothing = np.empty((0, field.dimension), np.float32)
        matrix = np.concatenate([nothing, *(one.matrix[at] for one, at in parts)])
        names = frozenset(one.name for one in entries)
        places = np.empty(len(rows), np.uint32)
        fresh: tuple[Entry, ...] = ()
        if len(rows) or base is not None:
            building = Building(field, base, rows, matrix)
            del matrix
            places[building.order] = np.arange(len(rows), dtype=np.uint32) + building.start
            fresh = (self._built(building, busy=names),)

        def change(now: tuple[Entry, ...]) -> tuple[Entry, ...]:
            # What was removed meanwhile is gone in the new segment, too.
            current = {one.name: one.gone_positions for one in now}
            gone = [np.empty(0, np.uint32) if base is None else current[base.name]]
            offset = 0
            for one, at in zip(added, alive, strict=True):
                place = places[offset : offset + len(at)]
                gone.append(place[np.isin(at, current[one.name], assume_unique=True)])
                offset += len(at)
            everything = np.sort(np.concatenate(gone))
            first = next(index for index, one in enumerate(now) if one.name in names)
            kept = [one for one in now if one.name not in names]
            made = [one.with_gone(everything) for one in fresh]
            return (*kept[:first], *made, *kept[first:])

        self._files.publish(change)

    def _segments(self) -> dict[str, Segment]:
        """All segments, open."""
        before = self._open
        self._open = {
            one.name: before.get(one.name) or Segment(self._files.path, one, self._files.field)
            for one in self._files.manifest().segments
        }
        return self._open

    def _built(self, building: Building, busy: frozenset[str] | None) -> Entry:
        """Build and write it. `busy`: the segments that go into it, if flushes may interrupt."""
        for _ in building.steps():
            if self._stopping:
                raise Stopped
            if busy is not None:
                self._flush_if(self._limit, busy)
        entry = building.write(self._files.path, f"segment-{self._files.number()}")
        sync_directory(self._files.path)
        return entry


def to_merge(segments: Sequence[Entry], ratio: int) -> Sequence[Entry]:
    """Which segments, side by side, are to become one; none if all is well."""
    together = 0
    first = len(segments)
    for index in range(len(segments) - 1, 0, -1):
        together += segments[index].alive
        if ratio * together >= segments[index - 1].alive:
            first = index - 1
    if first < len(segments):
        return segments[first:]
    return [one for one in segments if worn(one.count, one.gone_positions)][:1]


def worn(count: int, gone: Positions) -> bool:
    """Whether so much of a segment is gone that it is better built anew."""
    return len(gone) > GONE * count
