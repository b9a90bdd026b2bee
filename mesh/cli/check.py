"""`check`: does a running mesh do its work, and if not, what is to be done about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mesh.cli.findings import FAIL, OK, WARN, Finding, show
from mesh.cli.output import Output
from mesh.cli.status import Status, fetch
from mesh.errors import MeshError

if TYPE_CHECKING:
    from mesh.client.sync import Caller

EXIT_WARNED = 3
SLOW = 0.25
OLD = 5.0
FULL = 0.95
ADVICE = {
    "suspect": "it is silent: look whether it is stopped, overloaded or cut off",
    "ejected": "it fails again and again while others succeed: read its log",
}


def run(endpoints: Sequence[str], output: Output, *, timeout: float) -> int:
    """Print what is found; the exit code: 0 all is well, 1 something fails, 3 only warnings."""
    found = examine(endpoints, timeout)
    show(found, output)
    states = {finding.state for finding in found}
    return 1 if FAIL in states else EXIT_WARNED if WARN in states else 0


def examine(endpoints: Sequence[str], timeout: float) -> list[Finding]:
    """All findings about the mesh of these brokers. Each step takes at most `timeout` seconds."""
    found: list[Finding] = []
    statuses: list[Status] = []
    for endpoint in endpoints:
        begun = perf_counter()
        status = fetch(endpoint, timeout)
        found.append(_broker(endpoint, status, perf_counter() - begun))
        if "error" not in status:
            statuses.append(status)
    found += _services(statuses)
    found += _workers([worker for status in statuses for worker in status["workers"]])
    offered = {service["name"] for service in _offered(statuses)}
    for name, call in CALLS.items():
        if name in offered:
            found.append(_called(f"service {name}", call, endpoints, timeout))
    return found


def _broker(endpoint: str, status: Status, took: float) -> Finding:
    name = f"broker {endpoint}"
    if "error" in status:
        hint = f"start it with `sage-mesh broker --bind {endpoint}`, or name another with --broker"
        return Finding(name, FAIL, status["error"], hint)
    if status["draining"]:
        return Finding(name, WARN, "is leaving", "start its successor, if none runs yet")
    text = f"answers in {1000 * took:.0f} ms, {len(status['workers'])} workers"
    if not status["workers"]:
        hint = "start some: `sage-mesh serve`, `sage-mesh up`; those that run come back in a moment"
        return Finding(name, WARN, "answers, but no worker is registered", hint)
    if took > SLOW:
        return Finding(name, WARN, text, "it is busy or far away: look at `sage-mesh status`")
    return Finding(name, OK, text)


def _offered(statuses: Iterable[Status]) -> Iterator[dict[str, Any]]:
    for status in statuses:
        yield from (service for service in status["services"] if service["workers"])


def _services(statuses: Sequence[Status]) -> Iterator[Finding]:
    names = sorted({service["name"] for status in statuses for service in status["services"]})
    for name in names:
        known = [s for status in statuses for s in status["services"] if s["name"] == name]
        title = f"service {name}"
        workers = sum(service["workers"] for service in known)
        waiting = sum(service["queued"] for service in known)
        oldest = max(service["oldest_age"] for service in known)
        if not workers:
            text = f"no worker offers it, and {waiting} requests wait"
            yield Finding(title, FAIL, text, "start its workers: `sage-mesh serve` or `up`")
            continue
        lacking = [
            status["endpoint"]
            for status in statuses
            if not any(s["name"] == name and s["workers"] for s in status["services"])
        ]
        text = f"{workers} workers, {waiting} requests wait, the oldest open one for {oldest:.1f} s"
        if lacking:
            hint = "tell its workers of every broker: --broker, or `brokers` in their configuration"
            yield Finding(title, WARN, f"not offered at {', '.join(lacking)}", hint)
        elif oldest > OLD:
            hint = "its workers are slow or too few: `sage-mesh status` shows which have it in hand"
            yield Finding(title, WARN, text, hint)
        else:
            yield Finding(title, OK, text)


def _workers(workers: Iterable[dict[str, Any]]) -> Iterator[Finding]:
    versions: dict[str, set[str]] = defaultdict(set)
    stores: dict[str, set[str]] = defaultdict(set)
    for worker in workers:
        if worker["state"] in ADVICE:
            name = f"worker {worker['service']} pid {worker['pid']} on {worker['host']}"
            yield Finding(name, WARN, f"is {worker['state']}", ADVICE[worker["state"]])
        versions[worker["service"]].add(worker["version"])
        stores[worker["service"]].add((worker["store"] or {}).get("uuid", ""))
    for service, found in sorted(versions.items()):
        if len(found) > 1:
            text = f"several versions at once: {', '.join(sorted(found))}"
            hint = "fine while it is being replaced; else restart the older workers"
            yield Finding(f"service {service}", WARN, text, hint)
    for service, uuids in sorted(stores.items()):
        if len(uuids) > 1:
            text = "its workers have different stores at different brokers"
            hint = "their data will differ: give all of them the same directory, or another name"
            yield Finding(f"service {service}", FAIL, text, hint)


def _called(
    name: str,
    call: Callable[[Caller], tuple[str, str, str]],
    endpoints: Sequence[str],
    timeout: float,
) -> Finding:
    """How real calls of a built-in service go."""
    from mesh import connect

    try:
        with connect(*endpoints) as mesh:
            quick = mesh.options(timeout=timeout, priority="system", idempotent=True)
            state, text, hint = call(quick)
    except MeshError as error:
        hint = "read the log of its workers, and see `sage-mesh status`"
        return Finding(name, FAIL, f"a call failed: {error}", hint)
    return Finding(name, state, text, hint)


def _storage(mesh: Caller) -> tuple[str, str, str]:
    begun = perf_counter()
    mesh.storage.exists("check")
    read = perf_counter() - begun
    begun = perf_counter()
    mesh.storage.delete()  # of nothing, but it goes the way of all writes
    wrote = perf_counter() - begun
    return OK, f"a read took {1000 * read:.1f} ms, a write to disk {1000 * wrote:.1f} ms", ""


def _memory(mesh: Caller) -> tuple[str, str, str]:
    begun = perf_counter()
    mesh.memory.exists("check")
    took = perf_counter() - begun
    stats = mesh.memory.stats()
    capacity = stats["capacity"]
    share = stats["octets"] / capacity if capacity else 0.0
    text = f"a read took {1000 * took:.1f} ms; {share:.0%} of its {capacity:,} octets are in use"
    if share > FULL and not stats["evicted"]:
        hint = "raise performance.cache_size, or let it evict (services.memory.eviction)"
        return WARN, text, hint
    return OK, text, ""


def _search(mesh: Caller) -> tuple[str, str, str]:
    begun = perf_counter()
    found = mesh.search.collections()
    read = perf_counter() - begun
    text = f"a read took {1000 * read:.1f} ms; {len(found)} collections"
    behind = [one.name for one in found if one.rebuilding is not None]
    return OK, text + (f", built anew: {', '.join(behind)}" if behind else ""), ""


CALLS = {"memory": _memory, "storage": _storage, "search": _search}
"""Calls of each built-in service: some that every process answers, some that its writer does."""
