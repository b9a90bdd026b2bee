"""From what a broker knows to figures of Prometheus."""

from __future__ import annotations

import re
from typing import Any

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from broker import admin
from mesh.monitoring import families
from mesh.monitoring.http import text_of
from mesh.protocol import payload
from mesh.protocol.messages import READY, REQUEST, Message
from tests.support import ROOT
from tests.unit.broker.driver import Mesh


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


def figures(status: dict[str, Any]) -> dict[str, Metric]:
    text = text_of(families.of_broker(status)).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family: Metric, *labels: str) -> dict[tuple[str, ...], float]:
    return {tuple(s.labels[label] for label in labels): s.value for s in family.samples}


def status(mesh: Mesh) -> dict[str, Any]:
    return admin.status(mesh.router, mesh.now)


def test_calls_by_outcome_and_time(mesh: Mesh) -> None:
    mesh.beating.add(b"w1")
    mesh.join(b"w1", window=2)
    for sequence in range(1, 4):
        mesh.ask(b"c1", sequence, frames=[b"12345"])
    mesh.now += 0.1
    mesh.final(b"w1", 1, b"123")
    mesh.error(b"w1", 2, 9)
    mesh.now += 0.2
    found = figures(status(mesh))
    answers = values(found["sage_mesh_answers"], "service", "lane", "outcome")
    assert answers == {("echo", "", "ok"): 1.0, ("echo", "", "error"): 1.0}
    assert values(found["sage_mesh_in_flight"], "service") == {("echo",): 1.0}
    assert values(found["sage_mesh_queued"], "service") == {("echo",): 0.0}
    assert values(found["sage_mesh_octets"], "direction") == {("in",): 15.0, ("out",): 3.0}
    assert values(found["sage_mesh_requests_accepted"]) == {(): 3.0}
    assert values(found["sage_mesh_workers"], "state")["active",] == 1.0
    assert abs(values(found["sage_mesh_oldest_request_seconds"], "service")["echo",] - 0.3) < 1e-6
    mesh.final(b"w1", 3)
    latency = figures(status(mesh))["sage_mesh_latency_seconds"].samples
    sums = {s.labels["phase"]: s.value for s in latency if s.name.endswith("_sum")}
    counts = {s.labels["phase"]: s.value for s in latency if s.name.endswith("_count")}
    assert counts == {"queue": 3.0, "service": 3.0, "total": 3.0}
    assert abs(sums["queue"] - 0.1) < 1e-6
    assert abs(sums["service"] - 0.4) < 1e-6
    assert abs(sums["total"] - 0.5) < 1e-6


def test_what_happened_by_reason(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask(b"c1", 1)
    mesh.lost(b"w1")
    happened = values(figures(status(mesh))["sage_mesh_events"], "event", "reason")
    assert happened["lost", "disconnected"] == 1.0
    assert happened["joined", ""] == 1.0
    assert happened["failed", "worker_lost"] == 1.0


def test_figures_of_what_has_left_vanish(mesh: Mesh) -> None:
    mesh.join(b"w1")
    assert "echo" in text_of(families.of_broker(status(mesh))).decode()
    mesh.lost(b"w1")
    mesh.wait(1.0)
    assert "echo" not in text_of(families.of_broker(status(mesh))).decode()


def test_labels_are_bounded_whatever_peers_invent(mesh: Mesh) -> None:
    for number in range(1, 10_001):
        asking = Message(REQUEST, incarnation=1, sequence=number, service=b"invented%d" % number)
        asking.method = b"method%d" % number
        mesh.router.receive(b"c1", asking, mesh.now)
    mesh.router.take()
    mesh.join(b"w1")
    credit = values(figures(status(mesh))["sage_mesh_credit"], "service", "lane")
    assert credit["echo", ""] == 1.0
    assert len(credit) <= families.MOST + 1
    body = payload.encode({"lanes": {"": 1}})
    for number in range(300):
        ready = Message(READY, service=b"service%d" % number, frames=[body])
        mesh.router.receive(b"x%d" % number, ready, mesh.now)
    found = figures(status(mesh))
    credit = values(found["sage_mesh_credit"], "service", "lane")
    assert len(credit) == families.MOST + 1
    assert sum(credit.values()) == 301.0
    workers = values(found["sage_mesh_workers"], "service", "state")
    assert len(workers) == (families.MOST + 1) * len(families.STATES)


def test_the_documentation_names_every_figure_of_a_broker(mesh: Mesh) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    documented = set(re.findall(r"`(sage_mesh_\w+)`", text))
    mesh.join(b"w1")
    worker = {"service": "s", "brokers": 1, "in_hand": {"": 1}, "counters": {"a:b": 1}}
    told = [*families.of_broker(status(mesh)), *families.of_worker(worker)]
    assert {family.name for family in told} <= documented
