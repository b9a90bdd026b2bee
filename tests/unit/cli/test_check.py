"""What `check` makes of the statuses of brokers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mesh.cli import check
from mesh.cli.findings import FAIL, OK, WARN
from mesh.cli.output import Output

A, B = "tcp://127.0.0.1:1", "tcp://127.0.0.1:2"


def worker(**facts: Any) -> dict[str, Any]:
    usual = {"service": "cart", "state": "active", "version": "1", "store": None}
    return {**usual, "pid": 7, "host": "box", **facts}


def service(**facts: Any) -> dict[str, Any]:
    return {"name": "cart", "workers": 1, "queued": 0, "oldest_age": 0.0, **facts}


def status(*services: dict[str, Any], workers: Any = (), **facts: Any) -> dict[str, Any]:
    return {"draining": False, "services": list(services), "workers": list(workers), **facts}


OTHERS = [worker(service="x")]
WELL = status(service(), workers=[worker()])
CASES: dict[str, tuple[dict[str, dict[str, Any]], str, str, str]] = {
    "away": ({A: {"error": "Connection refused"}}, FAIL, f"broker {A}", "sage-mesh broker"),
    "empty": ({A: status()}, WARN, f"broker {A}", "sage-mesh serve"),
    "draining": ({A: {**WELL, "draining": True}}, WARN, f"broker {A}", "successor"),
    "no workers": (
        {A: status(service(workers=0, queued=9), workers=OTHERS)},
        FAIL,
        "service cart",
        "serve",
    ),
    "old": (
        {A: status(service(oldest_age=60.0), workers=OTHERS)},
        WARN,
        "service cart",
        "sage-mesh status",
    ),
    "at one only": (
        {A: WELL, B: status(workers=[worker(service="x")])},
        WARN,
        "service cart",
        "every broker",
    ),
    "suspect": (
        {A: status(service(), workers=[worker(state="suspect")])},
        WARN,
        "worker cart pid 7 on box",
        "silent",
    ),
    "versions": (
        {A: status(service(workers=2), workers=[worker(), worker(version="2")])},
        WARN,
        "service cart",
        "older workers",
    ),
    "stores": (
        {
            A: status(service(), workers=[worker(store={"uuid": "x"})]),
            B: status(service(), workers=[worker(store={"uuid": "y"})]),
        },
        FAIL,
        "service cart",
        "same directory",
    ),
}


def examine(
    monkeypatch: pytest.MonkeyPatch, statuses: dict[str, dict[str, Any]]
) -> list[check.Finding]:
    def fetch(endpoint: str, timeout: float) -> dict[str, Any]:
        return {**statuses[endpoint], "endpoint": endpoint}

    monkeypatch.setattr(check, "fetch", fetch)
    return check.examine(list(statuses), 1.0)


def test_a_mesh_that_is_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = examine(monkeypatch, {A: WELL})
    assert [finding.state for finding in found] == [OK, OK]
    assert check.run([A], Output(as_json=True), timeout=1.0) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_named_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    statuses, state, name, hint = CASES[case]
    wrong = [f for f in examine(monkeypatch, statuses) if f.state != OK]
    assert [(f.state, f.name) for f in wrong] == [(state, name)]
    assert hint in wrong[0].hint
    assert check.run(list(statuses), Output(), timeout=1.0) == (1 if state == FAIL else 3)
    assert f"-> {wrong[0].hint}" in capsys.readouterr().out
