"""The screens of `status`, `bench` and `doctor`, and how addresses are looked at."""

from __future__ import annotations

import io
import socket
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from mesh.cli import bench, doctor, status
from mesh.cli.endpoints import require_one, why_unreachable
from mesh.cli.output import Failure

STATUS = {
    "endpoint": "tcp://127.0.0.1:8080",
    "broker": "b7",
    "uptime": 3.5,
    "clients": 2,
    "services": [
        {
            "name": "cart",
            "workers": 1,
            "in_flight": 3,
            "credit": 16,
            "queued": 12345,
            "oldest_age": 0.25,
        },
        {"name": "mail", "workers": 0, "in_flight": 0, "credit": 0, "queued": 0, "oldest_age": 0.0},
    ],
    "workers": [
        {
            "service": "cart",
            "host": "box",
            "pid": 77,
            "state": "active",
            "in_flight": 3,
            "credit": 16,
            "ended": 1000,
            "errors": 1,
            "age": 4000.0,
        }
    ],
    "counters": {"redispatched:worker_lost": 4, "never": 0},
}


def shown(renderable: RenderableType) -> str:
    stream = io.StringIO()
    Console(file=stream, width=120, highlight=False).print(renderable)
    return stream.getvalue()


def test_status_shows_services_workers_and_counters() -> None:
    lines = shown(status.render([STATUS])).splitlines()
    assert lines[0] == "tcp://127.0.0.1:8080  broker b7, up 3.5 s, clients: 2"
    rows = [line.split() for line in lines]
    assert ["cart", "1", "3", "16", "12,345", "250.0", "ms"] in rows
    assert ["mail", "0", "0", "0", "0", "-"] in rows
    assert ["cart", "3", "16", "1,000", "1", "1", "h", "06", "m", "active", "box:77"] in rows
    assert lines[-1] == "counted: redispatched:worker_lost 4"


def test_a_broker_that_is_away_does_not_hide_the_others() -> None:
    text = shown(status.render([{"endpoint": "tcp://a:1", "error": "Connection refused"}, STATUS]))
    assert "tcp://a:1  Connection refused" in text
    assert "cart" in text


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"services": 3, "workers": "x", "counters": [1]},
        {
            "services": [None, {"name": "\x1b[2J[/red]", "workers": None}],
            "workers": [{"state": "[/]"}],
        },
    ],
)
def test_whatever_a_broker_answers_is_shown_safely(found: dict[str, object]) -> None:
    text = shown(status.render([{"endpoint": "tcp://a:1", **found}]))
    assert "tcp://a:1" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0015, "1.5 ms"),
        (59.94, "59.9 s"),
        (125, "2 m 05 s"),
        (3900, "1 h 05 m"),
        (90_000, "25 h 00 m"),
        (200_000, "2 d 07 h"),
        (None, "-"),
        ("x", "-"),
    ],
)
def test_durations_have_the_unit_that_suits_them(seconds: object, text: str) -> None:
    assert status.duration(seconds) == text


def test_percentiles_of_a_measurement() -> None:
    took = [n / 1000 for n in range(100, 0, -1)]
    result = bench._result("calls", "calls", 100, 2.0, took, 0)
    assert (result.per_second, result.p50, result.p99) == (50.0, 0.051, 0.1)
    row = shown(bench.render([result])).splitlines()[-1].split()
    assert row == ["calls", "50", "calls", "51.00", "ms", "100.00", "ms", "0"]


def test_a_measurement_without_any_answer() -> None:
    result = bench._result("calls", "calls", 0, 0.0, [], 7)
    assert (result.per_second, result.p50) == (0.0, None)
    assert shown(bench.render([result])).splitlines()[-1].split()[-1] == "7"


def test_why_unreachable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        assert why_unreachable(endpoint) is None
        require_one(["tcp://127.0.0.1:1", endpoint])
    assert why_unreachable(endpoint) == "Connection refused"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        assert why_unreachable(f"ipc://{tmp_path}/s") is None
    assert why_unreachable(f"ipc://{tmp_path}/none") == "No such file or directory"


def test_without_any_broker_the_failure_names_them_all() -> None:
    with pytest.raises(Failure) as failure:
        require_one(["tcp://127.0.0.1:1", "ipc:///nowhere"])
    assert "tcp://127.0.0.1:1: Connection refused" in failure.value.what
    assert "ipc:///nowhere: No such file" in failure.value.what
    assert "sage-mesh broker --bind tcp://127.0.0.1:1" in failure.value.advice


def test_doctor_says_how_to_get_the_other_pump(monkeypatch: pytest.MonkeyPatch) -> None:
    from mesh.transport import pump

    monkeypatch.setattr(pump, "KIND", "pure")
    monkeypatch.setattr(pump, "why", lambda: "no compiler")
    monkeypatch.delenv("SAGE_PUMP", raising=False)
    finding = doctor._pump()
    assert (finding.state, finding.text) == (doctor.WARN, "pure Python: no compiler")
    assert "C compiler" in finding.hint
    monkeypatch.setenv("SAGE_PUMP", "pure")
    assert "unset SAGE_PUMP" in doctor._pump().hint


def test_doctor_names_what_is_missing_and_how_to_get_it() -> None:
    finding = doctor._module("no-such-thing", "no_such_thing")
    assert finding.state == doctor.FAIL
    assert "pip install no-such-thing" in finding.hint


@pytest.mark.parametrize(
    ("brokers", "state"), [(None, doctor.WARN), (["127.0.0.1:1"], doctor.FAIL)]
)
def test_doctor_fails_only_for_brokers_that_were_asked_for(
    brokers: list[str] | None, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.cli.endpoints.DEFAULT_BROKER", "tcp://127.0.0.1:1")
    (finding,) = doctor._brokers(brokers)
    assert finding.state == state
    assert "tcp://127.0.0.1:1: Connection refused" in finding.text


def test_doctor_refuses_what_is_no_address() -> None:
    (finding,) = doctor._brokers(["nope"])
    assert finding.state == doctor.FAIL
    assert "nope" in finding.text
