"""What the memory service adds to a worker's figures: its store, and what was asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from mesh.monitoring.families import PREFIX, counter, cumulated, gauge
from workers.memory.backend import Backend, Op
from workers.memory.backends.durable import LmdbBackend

MOST = 100
"""Namespaces with figures of their own."""


def families(backend: Backend) -> Iterator[Metric]:
    """The figures of `backend`; those that only the process that writes knows, from that one."""
    if not isinstance(backend, LmdbBackend):
        return
    store = backend.store
    writing = store.writing
    yield gauge("store_writing", "1 in the process that writes the store.", float(writing))
    if not writing:
        return
    yield gauge("store_file_octets", "Size of the store's file.", store.size)
    yield gauge("store_epoch", "How often the right to write has changed hands.", store.epoch)
    done = CounterMetricFamily(
        f"{PREFIX}store_events",
        "What the writer did: commits, jobs, failed, grown, full and so on.",
        labels=("event",),
    )
    for event, count in store.counters.items():
        done.add_metric((event,), count)
    yield done
    flushes = HistogramMetricFamily(
        f"{PREFIX}store_flush_seconds", "Seconds that a commit took to be on disk."
    )
    took = store.flushes
    flushes.add_metric((), cumulated(took.counts), took.sum)
    yield flushes
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
