"""Counting what happened, by namespace, since the writer began: the numbers behind `stats`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from workers.memory.backend import Op
from workers.memory.cache import Cache
from workers.memory.change import DELETED, EVICTED, EXPIRED, SET
from workers.memory.locks import Event
from workers.memory.running import Counts

_SPACE_AND_KIND = itemgetter(0, 2)
_FIGURES = ("hits", "misses", "written", "deleted", "expired", "evicted")
_BY_EVENT = {SET: "written", DELETED: "deleted", EXPIRED: "expired", EVICTED: "evicted"}


class Statistics:
    """Counters by namespace."""

    def __init__(self) -> None:
        self._spaces: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_FIGURES, 0))

    def add_events(self, events: Iterable[Event]) -> None:
        """Entries were written or went."""
        for (ns, kind), count in Counter(map(_SPACE_AND_KIND, events)).items():
            figure = _BY_EVENT.get(kind)
            if figure is not None:
                self._spaces[ns][figure] += count

    def add_counts(self, counts: Mapping[str, Counts]) -> None:
        """Entries were asked for."""
        for ns, found in counts.items():
            space = self._spaces[ns]
            space["hits"] += found.hits
            space["misses"] += found.misses

    def complete(self, ops: Sequence[Op], results: list[Any], cache: Cache) -> list[Any]:
        """Put the counters into the results of `stats`."""
        for index, op in enumerate(ops):
            if op.verb == "stats" and isinstance(results[index], dict):
                results[index] = self._completed(results[index], cache)
        return results

    def _completed(self, stats: dict[str, Any], cache: Cache) -> dict[str, Any]:
        for name, facts in stats["namespaces"].items():
            facts.update(self._spaces[name])
        for figure in _FIGURES:
            stats[figure] = sum(space[figure] for space in self._spaces.values())
        stats["capacity"] = cache.capacity
        stats["limit"] = cache.limit
        return stats
