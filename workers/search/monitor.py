"""What the search service adds to a worker's figures: its store, and what its collections hold."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mesh.monitoring.families import PREFIX
from workers.search.engine import SearchEngine
from workers.search.operations import Op
from workers.store import monitor

MOST = 100
"""Collections with figures of their own."""


def families(engine: SearchEngine) -> Iterator[Metric]:
    """The figures of `engine`; those of the collections from the process that writes."""
    yield from monitor.families(engine.store)
    if not engine.store.writing:
        return
    for name, text, value in (
        ("refreshes", "How often an index was brought up to date.", engine.indexer.refreshes),
        ("not_indexed", "Documents that could not be read or indexed.", engine.indexer.damaged),
    ):
        counter = CounterMetricFamily(f"{PREFIX}search_{name}", text)
        counter.add_metric((), value)
        yield counter
    (found,) = engine.read((Op("collections", ""),))
    if isinstance(found, Exception):
        return
    ranked = sorted(found, key=lambda one: -int(one["documents"]))
    for figure, text in (
        ("documents", "Documents of a collection."),
        ("octets", "Octets of the documents of a collection."),
        ("behind", "Changes of the store that searches of a collection do not see yet."),
    ):
        family = GaugeMetricFamily(f"{PREFIX}search_{figure}", text, labels=("collection",))
        for one in ranked:
            one["behind"] = one["version"] - one["refreshed"]
        for one in ranked[:MOST]:
            family.add_metric((one["name"],), one[figure])
        if len(ranked) > MOST:
            family.add_metric(("(other)",), sum(one[figure] for one in ranked[MOST:]))
        yield family
