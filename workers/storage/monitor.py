"""What the storage service adds to a worker's figures: its store, and what its buckets hold."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from mesh.monitoring.families import PREFIX
from workers.storage.engine import LmdbEngine
from workers.storage.operations import Engine, Op
from workers.store import monitor

MOST = 100
"""Buckets with figures of their own."""


def families(engine: Engine) -> Iterator[Metric]:
    """The figures of `engine`; those of the buckets from the process that writes."""
    if not isinstance(engine, LmdbEngine):
        return
    yield from monitor.families(engine.store)
    if not engine.store.writing:
        return
    (found,) = engine.read((Op("buckets", ""),))
    if isinstance(found, Exception):
        return
    buckets = sorted(found, key=lambda bucket: -int(bucket["octets"]))
    for figure, text in (
        ("entries", "Records and objects of a bucket."),
        ("octets", "Octets of the records and objects of a bucket."),
    ):
        family = GaugeMetricFamily(f"{PREFIX}storage_{figure}", text, labels=("bucket",))
        for bucket in buckets[:MOST]:
            family.add_metric((bucket["name"],), bucket[figure])
        if len(buckets) > MOST:
            family.add_metric(("(other)",), sum(bucket[figure] for bucket in buckets[MOST:]))
        yield family
