"""What the memory service adds to a worker's figures: its store, and what was asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric

from mesh.monitoring.families import PREFIX, counter, gauge
from workers.memory.backend import Backend, Op
from workers.memory.backends.durable import LmdbBackend
from workers.store import monitor

MOST = 100
"""Namespaces with figures of their own."""


def families(backend: Backend) -> Iterator[Metric]:
    """The figures of `backend`; those that only the process that writes knows, from that one."""
    if not isinstance(backend, LmdbBackend):
        return
    yield from monitor.families(backend.store)
    if not backend.store.writing:
        return
    (stats,) = backend.execute((Op("stats", "", {}),))
    if isinstance(stats, dict):
        yield from _of_stats(stats)


def _of_stats(stats: dict[str, Any]) -> Iterator[Metric]:
    yield gauge("memory_capacity_octets", "Octets that entries may take.", stats["capacity"])
    for figure, text in (
        ("hits", "Reads that found an entry."),
        ("misses", "Reads that found none."),
        ("written", "Entries written."),
        ("deleted", "Entries deleted."),
        ("expired", "Entries that had expired and were cleared."),
        ("evicted", "Entries that had to make room."),
    ):
        yield counter(f"memory_{figure}", text, stats[figure])
    spaces = sorted(stats["namespaces"].items(), key=lambda each: -each[1]["octets"])
    for figure, text in (
        ("entries", "Entries of a namespace."),
        ("octets", "Octets of the entries of a namespace."),
    ):
        family = GaugeMetricFamily(f"{PREFIX}memory_{figure}", text, labels=("namespace",))
        for name, facts in spaces[:MOST]:
            family.add_metric((name,), facts[figure])
        if len(spaces) > MOST:
            family.add_metric(("(other)",), sum(facts[figure] for _, facts in spaces[MOST:]))
        yield family
