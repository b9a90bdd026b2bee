"""`status`: what each broker says about itself, its services and its workers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mesh.cli.endpoints import why_unreachable
from mesh.cli.output import Failure, Output, clean
from mesh.errors import MeshError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

Status = dict[str, Any]

_COLOURS = {"active": "green", "suspect": "yellow", "draining": "cyan", "ejected": "red"}


def fetch(endpoint: str, timeout: float) -> Status:
    """The status of the broker at `endpoint`; `{"endpoint", "error"}` if it cannot be had."""
    return ask(endpoint, timeout, "status")


def ask(endpoint: str, timeout: float, what: str, *args: Any) -> Status:
    """What the broker at `endpoint` answers itself; `{"endpoint", "error"}` if it does not."""
    from mesh import connect

    reason = why_unreachable(endpoint, min(timeout, 1.0))
    if reason is not None:
        return {"endpoint": endpoint, "error": reason}
    try:
        with connect(endpoint) as mesh:
            bound = mesh.options(timeout=timeout, priority="system", retries=0)
            found = bound.call(f"mesh.broker.{what}", *args)
    except MeshError as error:
        return {"endpoint": endpoint, "error": str(error)}
    if not isinstance(found, dict):
        return {"endpoint": endpoint, "error": "the answer is not a map"}
    return {"endpoint": endpoint, **found}


def once(endpoints: Sequence[str], output: Output, *, timeout: float) -> bool:
    """Show the status of all brokers; whether each of them answered.

    Raises:
        Failure: none answered (without JSON: there it is part of the result).
    """
    found = [fetch(endpoint, timeout) for endpoint in endpoints]
    failed = [status for status in found if "error" in status]
    if output.as_json:
        output.json({"brokers": found})
    elif len(failed) == len(found):
        raise Failure(
            "; ".join(f"no status from {s['endpoint']}: {s['error']}" for s in failed),
            f"start a broker with `sage-mesh broker --bind {endpoints[0]}`, or name another one "
            "with --broker or SAGE_BROKERS",
        )
    else:
        output.show(render(found))
    return not failed


def watch(endpoints: Sequence[str], output: Output, *, every: float, timeout: float) -> None:
    """Show the status every `every` seconds until interrupted; a broker that is away may return."""
    if output.as_json:
        while True:
            output.json({"brokers": [fetch(endpoint, timeout) for endpoint in endpoints]})
            time.sleep(every)
    from rich.live import Live

    with Live(console=output.console(), auto_refresh=False, screen=False) as live:
        while True:
            live.update(render([fetch(endpoint, timeout) for endpoint in endpoints]), refresh=True)
            time.sleep(every)


def render(found: Sequence[Status]) -> Group:
    """The tables of several brokers."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    for status in found:
        if parts:
            parts.append(Text())
        head = Text.assemble((clean(status["endpoint"]), "bold"), "  ")
        if "error" in status:
            head.append(clean(status["error"]), "bold red")
            parts.append(head)
            continue
        head.append(
            f"broker {clean(status.get('broker', '?'))}, up {duration(status.get('uptime'))}, "
            f"clients: {count(status.get('clients'))}"
        )
        if status.get("draining"):
            head.append(", draining", "cyan")
        parts += [head, Text(), services_table(status), Text(), workers_table(status)]
        counters = {k: v for k, v in _map(status.get("counters")).items() if v}
        if counters:
            shown = ", ".join(f"{clean(name)} {count(n)}" for name, n in sorted(counters.items()))
            parts += [Text(), Text.assemble(("counted: ", "dim"), shown)]
    return Group(*parts)


def services_table(status: Status) -> Table:
    """One row per service: what is waiting and what is running."""
    rows = table("service", "workers", "in flight", "credit", "queued", "oldest")
    for service in _rows(status.get("services")):
        workers = service.get("workers")
        rows.add_row(
            _text(service.get("name", "?")),
            count(workers),
            count(service.get("in_flight")),
            count(service.get("credit")),
            count(service.get("queued")),
            duration(service.get("oldest_age") or None),
            style=None if workers else "red",
        )
    if not rows.row_count:
        rows.add_row("(none)", *[""] * 5, style="dim")
    return rows


def workers_table(status: Status) -> Table:
    """One row per worker; what is not ready stands out."""
    rows = table("worker of", "in flight", "credit", "ended", "errors", "age", "state", "where")
    for worker in _rows(status.get("workers")):
        state = str(worker.get("state", "?"))
        rows.add_row(
            _text(worker.get("service", "?")),
            count(worker.get("in_flight")),
            count(worker.get("credit")),
            count(worker.get("ended")),
            count(worker.get("errors")),
            duration(worker.get("age")),
            _text(state, _COLOURS.get(state, "yellow")),
            _text(f"{worker.get('host') or '?'}:{worker.get('pid') or '?'}"),
        )
    return rows


def count(number: Any) -> str:
    """A number of things: "12,345"; "-" if there is none."""
    return f"{number:,}" if isinstance(number, int) else "-"


def duration(seconds: Any) -> str:
    """A time span in the unit that suits it: "1.5 ms", "12.0 s", "3 h 05 m"."""
    if not isinstance(seconds, int | float):
        return "-"
    if seconds < 1.0:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 120.0:
        return f"{seconds:.1f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if hours < 1:
        return f"{minutes} m {seconds % 60:02.0f} s"
    return f"{hours} h {minutes % 60:02d} m" if days < 2 else f"{days} d {hours % 24:02d} h"


def table(*columns: str) -> Table:
    """A plain table; what is no text stands to the right."""
    from rich import box
    from rich.table import Table

    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    texts = {"service", "method", "worker of", "client", "process", "state", "serves", "where"}
    for column in columns:
        rows.add_column(column, justify="left" if column in texts else "right", no_wrap=True)
    return rows


def _text(value: Any, style: str = "") -> Text:
    from rich.text import Text

    return Text(clean(value), style)


def _rows(value: Any) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
