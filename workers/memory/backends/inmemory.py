"""A store in the memory of one process: for tests, and for caches that may be lost."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from workers.memory.backend import Capabilities, Op, Watch
from workers.memory.cache import Cache
from workers.memory.running import Tally, run_changes, run_reads
from workers.memory.statistics import Statistics
from workers.memory.tables import MemoryTables


class MemoryBackend:
    """The store. `clock` gives Unix time in milliseconds."""

    name = "memory"
    capabilities = Capabilities(evicts=True)

    def __init__(
        self,
        cache_size: int,
        eviction: str = "s3-fifo",
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._uuid = str(uuid.uuid4())
        self._tables = MemoryTables()
        self._cache = Cache(eviction, cache_size)
        self._clock = clock
        self._tally = Tally()
        self._statistics = Statistics()
        self._report: Watch = lambda events: None
        # Readers are on the I/O thread, writers on the lane's own.
        self._lock = threading.Lock()

    def read(self, ops: Sequence[Op]) -> list[Any]:
        """Run operations that only read."""
        with self._lock:
            results, view = run_reads(self._tables, ops, self._clock())
            self._tally.note(view, ops, results)
            self._settle()
            return self._statistics.complete(ops, results, self._cache)

    def execute(self, ops: Sequence[Op]) -> list[Any]:
        """Run any operations."""
        with self._lock:
            ran = run_changes(self._tables, ops, self._clock(), self._cache)
            view = run_reads(self._tables, (), self._clock())[1]
            self._tally.note(view, ops, ran.results)
            self._cache.settle(ran.effects)
            self._statistics.add_events(ran.events)
            self._settle()
            results = self._statistics.complete(ops, ran.results, self._cache)
        if ran.events:
            self._report(ran.events)
        return results

    def identity(self) -> dict[str, Any]:
        """Each process has a store of its own."""
        return {"uuid": self._uuid, "epoch": 1}

    def stand(self, gained: Callable[[int], None], lost: Callable[[Exception], None]) -> None:
        """Nobody else writes."""
        gained(1)

    def now(self) -> int:
        """Unix time in ms."""
        return self._clock()

    def tick(self) -> bool:
        """Clear what has expired."""
        with self._lock:
            ran = run_changes(self._tables, (), self._clock(), self._cache, tidy=1000)
            self._cache.settle(ran.effects)
            self._statistics.add_events(ran.events)
        if ran.events:
            self._report(ran.events)
        return ran.tidied >= 1000

    def watch(self, report: Watch) -> None:
        """Have `report` called with what has happened."""
        self._report = report

    def follow(self, namespaces: set[str]) -> None:
        """All are reported anyway."""

    def close(self) -> None:
        """Forget everything."""
        self._tables = MemoryTables()

    def _settle(self) -> None:
        self._cache.hits(self._tally.slots)
        self._statistics.add_counts(self._tally.counts)
        self._tally = Tally()
