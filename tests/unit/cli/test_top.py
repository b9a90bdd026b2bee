"""`top` and `history`: what they make of what brokers tell."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from mesh.cli import history, top
from mesh.errors import ConfigError
from mesh.monitoring.histogram import Histogram, Latency

A, B = "tcp://127.0.0.1:1", "tcp://127.0.0.1:2"


def shown(renderable: RenderableType, width: int = 100) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(renderable)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def lane(ended: int, failed: int, seconds: float) -> dict[str, Any]:
    latency = Latency()
    for _ in range(ended):
        latency.observe(0.0, 0.0, seconds)
    return {
        "in_flight": 3,
        "queued": 2,
        "ended": ended,
        "failed": failed,
        "retried": failed // 2,
        "latency": latency.snapshot(),
    }


def method(ended: int, failed: int, seconds: float) -> dict[str, Any]:
    latency = Histogram()
    for _ in range(ended):
        latency.observe(seconds)
    return {"ended": ended, "failed": failed, "latency": latency.snapshot()}


def status(at: float, ended: int, failed: int = 0, broker: str = "b1") -> dict[str, Any]:
    worker = {"service": "cart", "pid": 7, "host": "box", "in_flight": 3, "state": "suspect"}
    client = {"id": "c1", "name": "shop", "pid": 9, "host": "box", "open": 5, "asked": ended}
    return {
        "endpoint": A,
        "broker": broker,
        "uptime": 100.0,
        "taken_at": at,
        "services": [
            {
                "name": "cart",
                "lanes": {"": lane(ended, failed, 0.001)},
                "busiest_methods": {
                    "total": method(ended, failed, 0.001),
                    "slow": method(ended, failed, 0.1),
                },
            }
        ],
        "workers": [{**worker, "ended": ended, "errors": failed}],
        "busiest_clients": [client],
    }


def test_rates_are_those_between_two_looks() -> None:
    frame = top.compare([status(10.0, 100)], [status(12.0, 300, 20)], 2.0, "calls")
    (row,) = frame.services
    assert (row.name, row.calls, row.errors, row.flight, row.queued) == ("cart", 100.0, 10.0, 3, 2)
    assert 0.0005 < row.p50 < 0.002
    assert [(w.calls, w.errors, w.state) for w in frame.workers] == [(100.0, 10.0, "suspect")]
    assert row.retries == 5.0
    slow, quick = frame.methods
    assert (quick.name, quick.calls, quick.errors) == ("cart.total", 100.0, 10.0)
    assert 0.0005 < quick.p50 <= quick.p99 < 0.002
    assert 0.05 < slow.p50 <= slow.p99 < 0.2
    assert [(c.name, c.calls, c.flight) for c in frame.clients] == [("shop pid 9 on box", 100.0, 5)]
    lines = shown(top.render(frame, "calls"))
    assert any(line.split()[:4] == ["cart", "100", "10", "5.0"] for line in lines)
    assert any("suspect" in line for line in lines)


def test_a_broker_of_an_older_version_is_shown_without_what_it_does_not_count() -> None:
    looks = [status(10.0, 100), status(12.0, 300)]
    for look in looks:
        (service,) = look["services"]
        del service["lanes"][""]["retried"], service["busiest_methods"]["total"]["latency"]
    frame = top.compare([looks[0]], [looks[1]], 2.0, "calls")
    assert (frame.services[0].calls, frame.services[0].retries) == (100.0, 0.0)
    assert (frame.methods[1].calls, frame.methods[1].p99) == (100.0, 0.0)


def test_a_broker_that_was_replaced_begins_anew() -> None:
    frame = top.compare([status(10.0, 500)], [status(12.0, 200, broker="b2")], 2.0, "calls")
    assert frame.services[0].calls == pytest.approx(2.0)  # 200 in its 100 seconds


def test_several_brokers_add_up_and_one_that_is_away_is_named() -> None:
    other = {"endpoint": B, "error": "Connection refused"}
    both = [status(0.0, 0), status(0.0, 0, broker="b2")]
    later = [status(1.0, 10), status(1.0, 30, broker="b2")]
    frame = top.compare([*both, other], [*later, other], 1.0, "p99")
    assert frame.services[0].calls == pytest.approx(40.0)
    assert frame.methods[0].calls == pytest.approx(40.0)
    assert [m.name for m in frame.methods] == ["cart.slow", "cart.total"]  # by p99
    assert frame.failed == {B: "Connection refused"}
    assert any("Connection refused" in line for line in shown(top.render(frame, "p99")))


def test_columns() -> None:
    assert top.column("p99") == "p99"
    with pytest.raises(ConfigError, match="calls, errors"):
        top.column("name")


def event(number: int, age: float, **facts: Any) -> dict[str, Any]:
    usual = {"reason": "", "service": "", "lane": "", "worker": "", "request": "", "count": 1}
    return {"number": number, "age": age, "event": "joined", **usual, **facts}


def test_histories_of_several_brokers_in_the_order_of_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {
        A: {"last": 2, "events": [event(1, 9.0), event(2, 0.5)]},
        B: {"last": 1, "events": [event(1, 5.0)]},
    }
    monkeypatch.setattr(history, "ask", lambda endpoint, *rest: told[endpoint])
    settled, unsettled, failed = history.gather([A, B], {A: 0, B: 0}, 1.0)
    assert [(e["broker"], e["number"]) for e in settled] == [(A, 1), (B, 1)]
    assert [e["number"] for e in unsettled] == [2]
    assert failed == {}


def test_a_line_of_history() -> None:
    entry = event(
        3, 0.0, event="lost", reason="silent", service="memory", lane="writer",
        worker="pid 7 on box\x1b[2J", request="ab-1", count=1200, time=0.0, broker=A,
    )  # fmt: skip
    (line,) = shown(history.line(entry, several=True), 200)
    assert "lost" in line and "silent" in line and "memory lane writer" in line
    assert "request ab-1  x 1,200  at tcp://127.0.0.1:1" in line
    assert "\x1b[2J" not in line
