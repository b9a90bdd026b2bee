"""What a broker or a worker knows of itself, as families of Prometheus.

All names begin with `sage_mesh_`. Labels are bounded: reasons come from the code, services and
lanes from registered workers; beyond MOST of them the rest is counted together as `(other)`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector

from mesh.monitoring.histogram import BOUNDS

PREFIX = "sage_mesh_"
MOST = 200
OTHER = "(other)"
PHASES = ("queue", "service", "total")
STATES = ("active", "suspect", "draining", "ejected")
Labels = dict[tuple[str, ...], float]
Durations = dict[tuple[str, ...], tuple[list[int], float]]
"""Counts by bucket, and their sum in seconds."""
_ENDS = (*map(str, BOUNDS), "+Inf")


def gauge(name: str, text: str, value: float) -> Metric:
    """A figure that goes up and down."""
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def counter(name: str, text: str, value: float) -> Metric:
    """A figure that only grows; `_total` is appended to its name."""
    return CounterMetricFamily(PREFIX + name, text, value=value)


def labelled(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: Labels,
) -> Metric:
    """One figure for each combination of labels."""
    family = kind(PREFIX + name, text, labels=labels)
    for which, value in values.items():
        family.add_metric(which, value)
    return family


def events(name: str, text: str, counters: Mapping[str, int]) -> Metric:
    """Counters by reason, as in `refused:overloaded`: its event and its reason."""
    found: Labels = {}
    for key, count in counters.items():
        event, _, reason = key.partition(":")
        found[event, reason] = count
    return labelled(CounterMetricFamily, name, text, ("event", "reason"), found)


def of_process() -> Iterator[Metric]:
    """Processor time, memory and open files of this process."""
    yield from ProcessCollector(registry=None).collect()


def of_broker(status: Mapping[str, Any]) -> Iterator[Metric]:
    """The figures in a broker's status (`broker.admin`)."""
    yield gauge("broker_uptime_seconds", "Seconds since the broker began.", status["uptime"])
    yield gauge("broker_draining", "1 while the broker leaves.", float(status["draining"]))
    yield gauge("clients", "Clients that are known.", status["clients"])
    yield gauge("held_octets", "Octets of the open requests.", status["held_bytes"])
    yield counter("requests_accepted", "Requests that the broker took.", status["accepted"])
    yield counter("requests_finished", "Requests that have ended, in any way.", status["finished"])
    yield counter("streams", "Requests among them that have streamed.", status["streams"])
    yield counter("heartbeats", "Heartbeats of workers and clients.", status["heartbeats"])
    octets: Labels = {("in",): status["octets_in"], ("out",): status["octets_out"]}
    text = "Octets of the bodies of requests taken (in) and answers passed on (out)."
    yield labelled(CounterMetricFamily, "octets", text, ("direction",), octets)
    text = "What happened, by reason: refused, dropped, redispatched, lost, ejected and so on."
    yield events("events", text, status["counters"])
    # Those that exist are shown first: anybody can ask for names that nobody offers.
    services = sorted(status["services"], key=lambda service: not service["workers"])
    yield from _of_workers(services, status["workers"])
    yield from _of_lanes(services)
    yield from _of_methods(services)


def _of_workers(
    services: Iterable[Mapping[str, Any]], workers: Iterable[Mapping[str, Any]]
) -> Iterator[Metric]:
    shown = _Shown()
    states: Labels = {}
    ages: Labels = {}
    for service in services:
        (name,) = shown(service["name"])
        for state in STATES:
            states.setdefault((name, state), 0)
        ages[name,] = max(ages.get((name,), 0.0), service["oldest_age"])
    for worker in workers:
        (name,) = shown(worker["service"])
        which = (name, worker["state"])
        states[which] = states.get(which, 0) + 1
    text = "Registered workers by state."
    yield labelled(GaugeMetricFamily, "workers", text, ("service", "state"), states)
    text = "Age of the oldest open request of a service."
    yield labelled(GaugeMetricFamily, "oldest_request_seconds", text, ("service",), ages)


def _of_lanes(services: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    shown = _Shown()
    labels = ("service", "lane")
    gauges: dict[str, Labels] = {
        "in_flight": defaultdict(float),
        "credit": defaultdict(float),
        "queued": defaultdict(float),
    }
    answers: Labels = defaultdict(float)
    retries: Labels = defaultdict(float)
    latency: Durations = {}
    for service in services:
        for lane, facts in service["lanes"].items():
            which = shown(service["name"], lane)
            for name, values in gauges.items():
                values[which] += facts[name]
            answers[(*which, "error")] += facts["failed"]
            answers[(*which, "ok")] += facts["ended"] - facts["failed"]
            retries[which] += facts["retried"]
            for phase in PHASES:
                _add(latency, (*which, phase), facts["latency"][phase])
    texts = {
        "in_flight": "Requests that workers have in hand.",
        "credit": "Requests that workers want in hand at most.",
        "queued": "Requests that wait.",
    }
    for name, values in gauges.items():
        yield labelled(GaugeMetricFamily, name, texts[name], labels, values)
    text = "What workers have answered, by outcome."
    yield labelled(CounterMetricFamily, "answers", text, (*labels, "outcome"), answers)
    text = "Requests that clients have made again, after a refusal or a loss."
    yield labelled(CounterMetricFamily, "retries", text, labels, retries)
    text = "Seconds of answered requests: in the queue, at the worker (service), and both (total)."
    yield _histogram("latency_seconds", text, (*labels, "phase"), latency)


def _of_methods(services: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    shown = _Shown()
    labels = ("service", "method")
    answers: Labels = defaultdict(float)
    latency: Durations = {}
    for service in services:
        for method, facts in service["busiest_methods"].items():
            which = shown(service["name"], method)
            answers[(*which, "error")] += facts["failed"]
            answers[(*which, "ok")] += facts["ended"] - facts["failed"]
            _add(latency, which, facts["latency"])
    text = "What workers have answered by method, by outcome."
    yield labelled(CounterMetricFamily, "method_answers", text, (*labels, "outcome"), answers)
    text = "Seconds from arrival to answer, by method."
    yield _histogram("method_latency_seconds", text, labels, latency)


def _add(durations: Durations, which: tuple[str, ...], found: Mapping[str, Any]) -> None:
    counts, total = durations.get(which, ([0] * len(_ENDS), 0.0))
    summed = [a + b for a, b in zip(counts, found["counts"], strict=True)]
    durations[which] = (summed, total + found["sum"])


def _histogram(name: str, text: str, labels: tuple[str, ...], durations: Durations) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text, labels=labels)
    for which, (counts, total) in durations.items():
        family.add_metric(which, cumulated(counts), total)
    return family


def cumulated(counts: Iterable[int]) -> list[tuple[str, float]]:
    """Buckets as Prometheus has them: how many were not longer than each bound."""
    found, so_far = [], 0
    for end, count in zip(_ENDS, counts, strict=True):
        so_far += count
        found.append((end, float(so_far)))
    return found


class _Shown:
    """Combinations of names as they are shown: as they are, until there are too many."""

    def __init__(self) -> None:
        self._known: set[tuple[str, ...]] = set()

    def __call__(self, *names: str) -> tuple[str, ...]:
        if names not in self._known:
            if len(self._known) >= MOST:
                return tuple(OTHER for _ in names)
            self._known.add(names)
        return names


def of_worker(status: Mapping[str, Any]) -> Iterator[Metric]:
    """The figures in a worker's status (`mesh.service.monitor`)."""
    name = status["service"]
    live: Labels = {(name,): float(status["brokers"])}
    text = "Brokers that the worker is registered at."
    yield labelled(GaugeMetricFamily, "worker_brokers", text, ("service",), live)
    text = "Requests that the worker has in hand."
    lanes: Labels = {(name, lane): float(count) for lane, count in status["in_hand"].items()}
    yield labelled(GaugeMetricFamily, "worker_in_hand", text, ("service", "lane"), lanes)
    text = "What happened in the worker, by reason."
    yield events("worker_events", text, status["counters"])
