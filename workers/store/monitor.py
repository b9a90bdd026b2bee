"""What a store tells of itself: its size, its commits, how long they take to be on disk."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from mesh.monitoring.families import PREFIX, cumulated, labelled
from workers.store.store import Store

SERVICE = ("service",)


def families(store: Store) -> Iterator[Metric]:
    """The figures of `store`; those that only the process that writes knows, from that one."""
    name = (store.service,)

    def gauge(figure: str, text: str, value: float) -> Metric:
        return labelled(GaugeMetricFamily, figure, text, SERVICE, {name: value})

    yield gauge("store_writing", "1 in the process that writes the store.", float(store.writing))
    if not store.writing:
        return
    yield gauge("store_file_octets", "Size of the store's file.", store.size)
    yield gauge("store_epoch", "How often the right to write has changed hands.", store.epoch)
    done = CounterMetricFamily(
        f"{PREFIX}store_events",
        "What the writer did: commits, jobs, failed, grown, full and so on.",
        labels=(*SERVICE, "event"),
    )
    for event, count in store.counters.items():
        done.add_metric((*name, event), count)
    yield done
    flushes = HistogramMetricFamily(
        f"{PREFIX}store_flush_seconds",
        "Seconds that a commit took to be on disk.",
        labels=SERVICE,
    )
    took = store.flushes
    flushes.add_metric(name, cumulated(took.counts), took.sum)
    yield flushes
