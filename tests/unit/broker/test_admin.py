"""What the broker says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from broker.state import CALL_OVERHEAD
from mesh import errors
from mesh.monitoring.histogram import Latency
from mesh.protocol import payload
from mesh.protocol.messages import ERROR, FINAL
from tests.unit.broker.driver import Mesh, only


def status(mesh: Mesh) -> dict[str, Any]:
    out = mesh.ask(b"admin", 1, b"status", service=b"mesh.broker")
    return payload.decode_map(only(out, b"admin", FINAL).body)


def test_status_of_an_empty_broker(mesh: Mesh) -> None:
    mesh.now += 5.0
    assert status(mesh) == {
        "broker": "broker-1",
        "uptime": 5.0,
        "draining": False,
        "endpoints": [],
        "services": [],
        "workers": [],
        "clients": 1,
        "busiest_clients": [
            {"id": b"admin".hex(), "name": "", "host": "", "pid": 0, "open": 0, "asked": 1}
        ],
        "accepted": 0,
        "finished": 0,
        "held_bytes": 0,
        "octets_in": 0,
        "octets_out": 0,
        "streams": 0,
        "heartbeats": 0,
        "counters": {},
    }


def test_status_of_a_busy_broker(mesh: Mesh) -> None:
    mesh.join(b"w1", window=1, instance="i1", version="1.2", host="h", pid=9)
    mesh.ask(b"c1", 1, frames=[b"12345"])
    mesh.now += 1.0
    mesh.ask(b"c1", 2)
    mesh.now += 1.0
    found = status(mesh)
    assert found["services"] == [
        {
            "name": "echo",
            "workers": 1,
            "in_flight": 1,
            "credit": 1,
            "queued": 1,
            "oldest_age": 2.0,
            "lanes": {
                "": {
                    "in_flight": 1,
                    "credit": 1,
                    "queued": 1,
                    "ended": 0,
                    "failed": 0,
                    "retried": 0,
                    "spent": 0.0,
                    "latency": Latency().snapshot(),
                }
            },
            "busiest_methods": {},
        }
    ]
    assert found["workers"] == [
        {
            "service": "echo",
            "instance": "i1",
            "version": "1.2",
            "store": None,
            "host": "h",
            "pid": 9,
            "state": "active",
            "lanes": [""],
            "in_flight": 1,
            "credit": 1,
            "ended": 0,
            "errors": 0,
            "age": 2.0,
        }
    ]
    assert (found["accepted"], found["finished"], found["held_bytes"]) == (
        2,
        0,
        9 + 2 * CALL_OVERHEAD,
    )
    assert found["counters"] == {"joined": 1}


def test_status_counts_what_ended(mesh: Mesh) -> None:
    mesh.join(b"w1", window=2)
    mesh.ask(b"c1", 1)
    mesh.ask(b"c1", 2)
    mesh.now += 1.0
    mesh.final(b"w1", 1)
    mesh.now += 2.0
    mesh.error(b"w1", 2, errors.REMOTE_ERROR)
    worker = status(mesh)["workers"][0]
    assert (worker["ended"], worker["errors"]) == (2, 1)
    lane = status(mesh)["services"][0]["lanes"][""]
    assert (lane["ended"], lane["failed"], lane["spent"]) == (2, 1, 4.0)
    assert lane["latency"]["total"]["sum"] == 4.0


@pytest.mark.parametrize("method", [b"", b"stop", b"\xff"])
def test_the_broker_has_no_other_methods(mesh: Mesh, method: bytes) -> None:
    out = mesh.ask(b"admin", 1, method, service=b"mesh.broker")
    assert only(out, b"admin", ERROR).code == errors.METHOD_NOT_FOUND


def test_a_draining_broker_still_tells_its_status(mesh: Mesh) -> None:
    mesh.router.drain(mesh.now)
    assert status(mesh)["draining"] is True


def test_status_counts_by_method_what_was_declared(mesh: Mesh) -> None:
    methods: dict[str, Any] = {"put": {}, "get": {}}
    mesh.join(b"w1", window=9, methods=methods)
    mesh.join(b"w2", window=9, methods=methods)
    for sequence, method in enumerate((b"put", b"put", b"get", b"other"), 1):
        mesh.ask(b"c1", sequence, method)
    mesh.now += 1.0
    for peer, worker in mesh.router.workers.items():
        for tag in list(worker.calls):
            if tag == 1:
                mesh.error(peer, tag, errors.REMOTE_ERROR)
            else:
                mesh.final(peer, tag)
    found = status(mesh)["services"][0]["busiest_methods"]
    assert {n: (m["ended"], m["failed"], m["latency"]["sum"]) for n, m in found.items()} == {
        "put": (2, 1, 2.0),
        "get": (1, 0, 1.0),
    }
    assert sum(found["put"]["latency"]["counts"]) == 2


def test_status_counts_what_is_asked_again_and_why(mesh: Mesh) -> None:
    mesh.join(b"w1", window=9)
    mesh.ask(b"c1", 1)
    for sequence, code in enumerate((errors.OVERLOADED, errors.BROKER_LOST, 250), 2):
        mesh.ask(b"c1", sequence, code=code)
    mesh.ask(b"c1", 9, service=b"nobody", code=errors.SERVICE_NOT_FOUND)
    found = status(mesh)
    assert {name: n for name, n in found["counters"].items() if name.startswith("retried:")} == {
        "retried:overloaded": 1,
        "retried:broker_lost": 1,
        "retried:other": 1,
        "retried:service_not_found": 1,
    }
    retried = {s["name"]: s["lanes"][""]["retried"] for s in found["services"]}
    assert retried == {"echo": 3, "nobody": 1}
