"""`bench`: how fast calls, batches and streams are here; a check, not a comparison."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mesh.cli.output import Failure, Output
from mesh.cli.processes import start_broker, start_workers
from mesh.errors import CallError

if TYPE_CHECKING:
    from rich.table import Table

SERVICE = "mesh.cli.benchservice:service"
BATCH = 100
WARM_UP = 0.2


@dataclass(slots=True)
class Plan:
    """How to measure: `seconds` each, `in_flight` calls at a time, `size` octets an argument."""

    seconds: float
    in_flight: int
    size: int
    workers: int


@dataclass(slots=True)
class Result:
    """One measurement: `p50` and `p99` in seconds, of a call or a batch; a stream has none."""

    name: str
    unit: str
    per_second: float
    p50: float | None
    p99: float | None
    errors: int


def run(plan: Plan, endpoints: Sequence[str], output: Output) -> bool:
    """Measure against the brokers at `endpoints`, or against an own one; whether no call failed."""
    with ExitStack() as stack:
        own = not endpoints
        if own:
            broker, endpoint = start_broker()
            stack.callback(broker.end)
            endpoints = [endpoint]
        workers = start_workers(SERVICE, endpoints, plan.workers)
        stack.callback(workers.end)
        where = f"{endpoints[0]}{' (started for this)' if own else ''}"
        results: list[Result] = []
        if not output.as_json:
            output.value(
                f"{plan.workers} worker{'s' if plan.workers > 1 else ''}, {plan.size} octets, "
                f"{plan.seconds:g} s each, broker {where}"
            )
        for result in measure(plan, endpoints):
            results.append(result)
    if output.as_json:
        output.json({"plan": asdict(plan), "results": [asdict(result) for result in results]})
    else:
        output.show(render(results))
    errors = sum(result.errors for result in results)
    if errors and not output.as_json:
        raise Failure(
            f"{errors} calls failed", "`sage-mesh status` and `sage-mesh doctor` may tell why"
        )
    return not errors


def measure(plan: Plan, endpoints: Sequence[str]) -> list[Result]:
    """All measurements, one after the other."""
    return [one_at_a_time(plan, endpoints), *asyncio.run(_many(plan, endpoints))]


def one_at_a_time(plan: Plan, endpoints: Sequence[str]) -> Result:
    """A blocking client that waits for each answer: the latency of the whole way."""
    from mesh import connect

    took: list[float] = []
    errors = 0
    with connect(*endpoints) as mesh:
        value = bytes(plan.size)
        begun = now = perf_counter()
        warm_at, end_at = begun + WARM_UP, begun + WARM_UP + plan.seconds
        while now < end_at:
            try:
                mesh.call("sage-bench.echo", value)
            except CallError:
                errors += 1
            before, now = now, perf_counter()
            if before >= warm_at:
                took.append(now - before)
    return _result("one call at a time", "calls", len(took), sum(took), took, errors)


async def _many(plan: Plan, endpoints: Sequence[str]) -> list[Result]:
    from mesh import connect_async

    async with connect_async(*endpoints) as mesh:
        value = bytes(plan.size)
        calls = await _loop(plan, plan.in_flight, lambda: mesh.call("sage-bench.echo", value))
        arguments = [(value,)] * BATCH
        batches = await _loop(plan, 4, lambda: mesh.batch("sage-bench.echo", arguments))
        return [
            _result(f"{plan.in_flight} calls in flight", "calls", *calls),
            _result(f"batches of {BATCH}", "items", batches[0] * BATCH, *batches[1:]),
            await _stream(plan, mesh, value),
        ]


async def _loop(
    plan: Plan, in_flight: int, call: Callable[[], Awaitable[Any]]
) -> tuple[int, float, list[float], int]:
    """Keep `in_flight` calls open; number, seconds, the time of each, and how many failed."""
    took: list[float] = []
    errors = 0
    begun = perf_counter()
    warm_at, end_at = begun + WARM_UP, begun + WARM_UP + plan.seconds

    async def caller() -> None:
        nonlocal errors
        while (before := perf_counter()) < end_at:
            try:
                await call()
            except CallError:
                errors += 1
                continue
            now = perf_counter()
            if warm_at <= now < end_at:
                took.append(now - before)

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return len(took), plan.seconds, took, errors


async def _stream(plan: Plan, mesh: Any, value: bytes) -> Result:
    number = errors = 0
    begun = perf_counter()
    end_at = begun + plan.seconds
    try:
        async with mesh.stream("sage-bench.items", 1 << 40, value) as items:
            async for _ in items:
                number += 1
                if not number & 255 and perf_counter() >= end_at:
                    break
    except CallError:
        errors += 1
    return _result("one stream", "items", number, perf_counter() - begun, [], errors)


def _result(
    name: str, unit: str, number: int, seconds: float, took: list[float], errors: int
) -> Result:
    took.sort()
    p50, p99 = (took[int(len(took) * part)] if took else None for part in (0.5, 0.99))
    return Result(name, unit, number / seconds if seconds else 0.0, p50, p99, errors)


def render(results: Sequence[Result]) -> Table:
    """The results as a table."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    table.add_column("measured")
    for column in ("a second", "", "p50", "p99", "failed"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for result in results:
        table.add_row(
            result.name,
            f"{result.per_second:,.0f}",
            result.unit,
            _milliseconds(result.p50),
            _milliseconds(result.p99),
            str(result.errors),
            style="red" if result.errors else None,
        )
    return table


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.2f} ms"
