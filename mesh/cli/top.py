"""`top`: what is busy, by two looks at each broker."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mesh.cli.output import Failure, Output, clean
from mesh.cli.status import Status, count, duration, fetch, table
from mesh.errors import ConfigError
from mesh.monitoring.histogram import quantile

if TYPE_CHECKING:
    from rich.console import Group

SHOWN = 20
COLUMNS = {
    "calls": "c",
    "errors": "e",
    "retries": "r",
    "flight": "f",
    "queued": "q",
    "p50": "5",
    "p99": "9",
}
END = "x"


@dataclass(slots=True)
class Plan:
    """What to look at, how often, and by what to sort."""

    endpoints: list[str]
    every: float
    timeout: float
    sort: str


@dataclass(slots=True)
class Row:
    """A lane of a service, a method, a worker or a client. Rates per second, times in seconds."""

    name: str
    calls: float = 0.0
    errors: float = 0.0
    flight: int = 0
    retries: float = 0.0
    queued: int = 0
    p50: float = 0.0
    p99: float = 0.0
    state: str = ""
    counts: list[int] = field(default_factory=list)
    """Answers of this interval by duration, as `p50` and `p99` are made from."""

    def count(self, past: Status | None, now: Status) -> None:
        """Take in how many durations each bucket has got."""
        before = past["counts"] if past else [0] * len(now["counts"])
        counts = self.counts or [0] * len(before)
        self.counts = [c + b - a for c, a, b in zip(counts, before, now["counts"], strict=True)]
        self.p50, self.p99 = quantile(self.counts, 0.5), quantile(self.counts, 0.99)


Rows = dict[str, Row]


@dataclass(slots=True)
class Frame:
    """What one look shows."""

    services: list[Row] = field(default_factory=list)
    methods: list[Row] = field(default_factory=list)
    workers: list[Row] = field(default_factory=list)
    clients: list[Row] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def column(name: str) -> str:
    """The column that is meant. Raises ConfigError if there is none."""
    if name in COLUMNS:
        return name
    raise ConfigError(f"--sort {name!r}: choose one of {', '.join(COLUMNS)}")


def run(plan: Plan, output: Output, *, once: bool) -> bool:
    """Show what is busy until the user ends it; whether all brokers answered at the last look.

    Raises:
        Failure: no broker answers.
    """
    before = look(plan)
    if all("error" in status for status in before):
        raise Failure(
            "; ".join(f"no status from {s['endpoint']}: {s['error']}" for s in before),
            f"start a broker with `sage-mesh broker --bind {plan.endpoints[0]}`, or name another "
            "one with --broker or SAGE_BROKERS",
        )
    if once or output.as_json or not sys.stdout.isatty():
        while True:
            time.sleep(plan.every)
            after = look(plan)
            frame = compare(before, after, plan.every, plan.sort)
            if output.as_json:
                output.json(asdict(frame))
            else:
                output.show(render(frame, plan.sort))
            if once:
                return not frame.failed
            before = after
    from rich.live import Live

    with _keys() as key, Live(console=output.console(), auto_refresh=False, screen=True) as live:
        frame = Frame()
        while True:
            pressed = key(plan.every)
            if pressed in (END, "\x03"):
                return not frame.failed
            plan.sort = next((n for n, k in COLUMNS.items() if k == pressed), plan.sort)
            after = look(plan)
            frame = compare(before, after, plan.every, plan.sort)
            before = after
            live.update(render(frame, plan.sort), refresh=True)


@contextmanager
def _keys() -> Iterator[Any]:
    """What waits so many seconds for a key; empty text if none was pressed."""
    if not sys.stdin.isatty():

        def wait(timeout: float) -> str:
            time.sleep(timeout)
            return ""

        yield wait
        return
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)

    def key(timeout: float) -> str:
        ready, _, _ = select.select([number], [], [], timeout)
        return sys.stdin.read(1) if ready else ""

    try:
        yield key
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def look(plan: Plan) -> list[Status]:
    """The statuses of all brokers now."""
    return [
        {**fetch(endpoint, plan.timeout), "taken_at": time.monotonic()}
        for endpoint in plan.endpoints
    ]


def compare(before: Sequence[Status], after: Sequence[Status], every: float, sort: str) -> Frame:
    """What happened between two looks at the same brokers; `every` if their time is unknown."""
    frame = Frame()
    lanes: Rows = {}
    methods: Rows = {}
    for old, new in zip(before, after, strict=True):
        if "error" in new:
            frame.failed[new["endpoint"]] = new["error"]
            continue
        if "error" in old or old["broker"] != new["broker"]:
            old = {"services": [], "workers": [], "busiest_clients": []}
        seconds = max(1e-3, new.get("taken_at", every) - old.get("taken_at", 0.0))
        if not old["services"] and not old["workers"]:
            seconds = max(1e-3, new["uptime"])
        _add_lanes(lanes, old, new, seconds)
        _add_methods(methods, old, new, seconds)
        known = {_worker(w): w for w in old["workers"]}
        for worker in new["workers"]:
            past = known.get(_worker(worker), {"ended": 0, "errors": 0})
            calls = (worker["ended"] - past["ended"]) / seconds
            errors = (worker["errors"] - past["errors"]) / seconds
            frame.workers.append(
                Row(_worker(worker), calls, errors, worker["in_flight"], state=worker["state"])
            )
        asked = {client["id"]: client["asked"] for client in old["busiest_clients"]}
        for client in new["busiest_clients"]:
            calls = max(0, client["asked"] - asked.get(client["id"], 0)) / seconds
            frame.clients.append(Row(_client(client), calls, flight=client["open"]))
    frame.services = list(lanes.values())
    frame.methods = list(methods.values())
    for rows in (frame.services, frame.methods, frame.workers, frame.clients):
        rows.sort(key=lambda row: (-getattr(row, sort), row.name))
    return frame


def _add_lanes(lanes: Rows, old: Status, new: Status, seconds: float) -> None:
    known = {service["name"]: service["lanes"] for service in old["services"]}
    for service in new["services"]:
        for lane, facts in service["lanes"].items():
            past = known.get(service["name"], {}).get(lane)
            name = f"{service['name']} {lane}".rstrip()
            row = _add(lanes, name, past, facts, seconds)
            row.retries += _more("retried", past, facts) / seconds
            row.flight += facts["in_flight"]
            row.queued += facts["queued"]
            row.count(past and past["latency"]["total"], facts["latency"]["total"])


def _add_methods(methods: Rows, old: Status, new: Status, seconds: float) -> None:
    known = {service["name"]: service["busiest_methods"] for service in old["services"]}
    for service in new["services"]:
        for method, facts in service["busiest_methods"].items():
            past = known.get(service["name"], {}).get(method)
            if past is not None and past["ended"] > facts["ended"]:
                past = None  # all its workers had left meanwhile
            row = _add(methods, f"{service['name']}.{method}", past, facts, seconds)
            if "latency" in facts:
                row.count(past and past["latency"], facts["latency"])


def _add(rows: Rows, name: str, past: Status | None, facts: Status, seconds: float) -> Row:
    """The row of that name, with the answers that one more broker counted."""
    row = rows.setdefault(name, Row(name))
    row.calls += _more("ended", past, facts) / seconds
    row.errors += _more("failed", past, facts) / seconds
    return row


def _more(name: str, past: Status | None, facts: Status) -> int:
    """By how much a count has grown. A broker of another version may have none."""
    more: int = facts.get(name, 0) - (past or {}).get(name, 0)
    return more


def _worker(worker: dict[str, Any]) -> str:
    return f"{worker['service']} pid {worker['pid']} on {worker['host'] or '?'}"


def _client(client: dict[str, Any]) -> str:
    name = client["name"] or "client"
    return f"{name} pid {client['pid']} on {client['host'] or '?'}"


def render(frame: Frame, sort: str) -> Group:
    """The tables of one look."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(f"sorted by {sort}", "dim")]
    for endpoint, reason in frame.failed.items():
        parts.append(Text(f"{clean(endpoint)}  {clean(reason)}", "bold red"))
    services = table(
        "service", "calls/s", "errors/s", "retries/s", "in flight", "queued", "p50", "p99"
    )
    for row in frame.services[:SHOWN]:
        services.add_row(
            Text(clean(row.name)),
            _rate(row.calls),
            _rate(row.errors),
            _rate(row.retries),
            count(row.flight),
            count(row.queued),
            duration(row.p50 or None),
            duration(row.p99 or None),
        )
    methods = table("method", "calls/s", "errors/s", "p50", "p99")
    for row in [row for row in frame.methods if row.calls][:SHOWN]:
        methods.add_row(
            Text(clean(row.name)),
            _rate(row.calls),
            _rate(row.errors),
            duration(row.p50 or None),
            duration(row.p99 or None),
        )
    workers = table("worker of", "calls/s", "errors/s", "in flight", "state")
    for row in frame.workers[:SHOWN]:
        workers.add_row(
            Text(clean(row.name)),
            _rate(row.calls),
            _rate(row.errors),
            count(row.flight),
            Text(clean(row.state), "" if row.state == "active" else "yellow"),
        )
    clients = table("client", "calls/s", "open")
    for row in frame.clients[:SHOWN]:
        clients.add_row(Text(clean(row.name)), _rate(row.calls), count(row.flight))
    for each in (services, methods, workers, clients):
        if each.row_count:
            parts += [Text(), each]
    return Group(*parts)


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10 or not per_second else f"{per_second:.1f}"
