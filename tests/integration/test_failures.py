"""Processes that die, hang, leave and come back, under load, as the default client sees them.

No timing is asserted beyond generous bounds; what is lost, refused or repeated is.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from mesh import AsyncMesh, BrokerLost, CallError, WorkerLost, connect, connect_async
from tests import support

SOAK = bool(os.environ.get("SAGE_SOAK"))
SERVICE = "tests.integration.probe:probe"
LANES = 16


class Load:
    """Calls of one method, several at a time, until told to stop; `failures` are its errors."""

    def __init__(self, mesh: AsyncMesh, method: str, argument: Callable[[int], Any]) -> None:
        self.done = 0
        self.failures: list[CallError] = []
        self.outcomes: dict[Any, str] = {}
        self.slowest = 0.0
        self._mesh = mesh
        self._method = method
        self._argument = argument
        self._numbers = itertools.count()
        self._stopping = False
        self._grown = asyncio.Condition()

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._run()) for _ in range(LANES)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), 40)

    async def _run(self) -> None:
        while not self._stopping:
            argument = self._argument(next(self._numbers))
            begun_at = time.monotonic()
            try:
                assert await self._mesh.call(self._method, argument) == argument
                self.outcomes[argument] = "done"
            except CallError as error:
                self.failures.append(error)
                self.outcomes[argument] = "unknown" if error.maybe_executed else "unsent"
            self.slowest = max(self.slowest, time.monotonic() - begun_at)
            self.done += 1
            async with self._grown:
                self._grown.notify_all()

    async def more(self, calls: int) -> None:
        """Wait until so many more calls have ended."""
        target = self.done + calls
        async with self._grown:
            await asyncio.wait_for(self._grown.wait_for(lambda: self.done >= target), 30)


def in_loop(body: Coroutine[Any, Any, None]) -> None:
    asyncio.run(body)


def number(value: int) -> int:
    return value


def workers(process: support.Start, *endpoints: str, count: int, **env: str) -> list[support.Child]:
    brokers = [word for endpoint in endpoints for word in ("--broker", endpoint)]
    return [support.start_service(process, SERVICE, *brokers, env=env) for _ in range(count)]


def same_port(process: support.Start, endpoint: str) -> support.Child:
    broker, endpoints = support.start_broker(process, binds=(endpoint,))
    assert endpoints == [endpoint]
    return broker


@pytest.mark.timeout(120)
def test_idempotent_calls_survive_a_killed_worker(process: support.Start) -> None:
    async def scene() -> None:
        async with connect_async(endpoint) as mesh, Load(mesh, "probe.echo", number) as load:
            for _ in range(20 if SOAK else 3):
                await load.more(300)
                victim = children.pop(0)
                await asyncio.to_thread(victim.kill)
                await load.more(300)
                children.extend(await asyncio.to_thread(workers, process, endpoint, count=1))
        assert load.failures == []
        assert load.slowest < 5

    _, (endpoint,) = support.start_broker(process)
    children = workers(process, endpoint, count=2)
    in_loop(scene())


def test_other_calls_are_told_at_once_that_their_worker_died(process: support.Start) -> None:
    async def scene() -> None:
        async with connect_async(endpoint) as mesh:
            calls = [asyncio.create_task(mesh.call("probe.hold", 25.0)) for _ in range(10)]
            while (await status(mesh))["services"][0]["in_flight"] < 10:
                pass
            killed_at = time.monotonic()
            await asyncio.to_thread(children[0].kill)
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - killed_at < 5
        for outcome in outcomes:
            assert isinstance(outcome, WorkerLost)
            assert outcome.maybe_executed and not outcome.retryable

    _, (endpoint,) = support.start_broker(process)
    children = workers(process, endpoint, count=1)
    in_loop(scene())


async def status(mesh: AsyncMesh) -> dict[str, Any]:
    found: dict[str, Any] = await mesh.call("mesh.broker.status")
    return found


def test_a_stopped_worker_is_avoided_and_its_calls_go_elsewhere(process: support.Start) -> None:
    async def scene() -> None:
        async with connect_async(endpoint) as mesh, Load(mesh, "probe.echo", number) as load:
            await load.more(300)
            os.kill(pids[0], signal.SIGSTOP)
            try:
                await load.more(300)
                while len((await status(mesh))["workers"]) == 2:
                    await load.more(10)
                load.slowest = 0.0
                await load.more(1000)
                assert load.slowest < 1
            finally:
                os.kill(pids[0], signal.SIGCONT)
            while len((await status(mesh))["workers"]) < 2:  # it comes back by itself
                await load.more(10)
            await load.more(300)
        assert load.failures == []

    patience = () if SOAK else ("--set", "broker.hung_beats=12")  # 6 s with work in hand, not 30
    _, (endpoint,) = support.start_broker(process, *patience)
    children = workers(process, endpoint, count=2)
    pids = [child.pid for child in children]
    in_loop(scene())


def test_a_broker_that_dies_and_returns_costs_no_idempotent_call(process: support.Start) -> None:
    async def scene() -> None:
        broker = first
        async with connect_async(endpoint) as mesh, Load(mesh, "probe.echo", number) as load:
            for _ in range(10 if SOAK else 2):
                await load.more(300)
                await asyncio.to_thread(broker.kill)
                broker = await asyncio.to_thread(same_port, process, endpoint)
                await load.more(300)
        assert load.failures == []

    first, (endpoint,) = support.start_broker(process)
    workers(process, endpoint, count=2)
    in_loop(scene())


def test_what_failed_unsent_is_never_executed(process: support.Start, tmp_path: Path) -> None:
    async def scene() -> None:
        broker = first
        async with connect_async(endpoint) as mesh, Load(mesh, "probe.once", str) as load:
            for _ in range(10 if SOAK else 2):
                await load.more(200)
                await asyncio.to_thread(broker.kill)
                broker = await asyncio.to_thread(same_port, process, endpoint)
                await load.more(200)
        executed = Counter(log.read_text().split())
        assert max(executed.values()) == 1, "a call that is not idempotent was executed twice"
        for argument, outcome in load.outcomes.items():
            if outcome == "done":
                assert executed[argument] == 1
            elif outcome == "unsent":
                assert executed[argument] == 0, "a ghost: executed although reported as unsent"
        assert all(isinstance(error, BrokerLost | WorkerLost) for error in load.failures)

    log = tmp_path / "executed"
    first, (endpoint,) = support.start_broker(process)
    workers(process, endpoint, count=2, PROBE_LOG=str(log))
    in_loop(scene())


@pytest.mark.timeout(120)
def test_replacing_every_worker_loses_no_call(process: support.Start, tmp_path: Path) -> None:
    async def scene() -> None:
        async with connect_async(endpoint) as mesh, Load(mesh, "probe.once", str) as load:
            for _ in range(10 if SOAK else 2):
                for _ in range(2):
                    await load.more(200)
                    old = children.pop(0)
                    old.send_signal(signal.SIGTERM)
                    assert await asyncio.to_thread(old.wait) == 0
                    children.extend(await asyncio.to_thread(start_one))
            await load.more(200)
        assert load.failures == []
        assert Counter(log.read_text().split()) == Counter(load.outcomes.keys())

    def start_one() -> list[support.Child]:
        return workers(process, endpoint, count=1, PROBE_LOG=str(log))

    log = tmp_path / "executed"
    _, (endpoint,) = support.start_broker(process)
    children = start_one() + start_one()
    in_loop(scene())


@pytest.mark.timeout(120)
def test_replacing_two_brokers_in_turn_loses_no_call(
    process: support.Start, tmp_path: Path
) -> None:
    async def scene() -> None:
        async with connect_async(*endpoints) as mesh, Load(mesh, "probe.once", str) as load:
            for _ in range(5 if SOAK else 1):
                for endpoint in endpoints:
                    await load.more(200)
                    brokers[endpoint].send_signal(signal.SIGTERM)
                    assert await asyncio.to_thread(brokers[endpoint].wait, timeout=20.0) == 0
                    brokers[endpoint] = await asyncio.to_thread(same_port, process, endpoint)
                    await everybody_is_at(endpoint)
            await load.more(200)
        assert load.failures == []
        assert Counter(log.read_text().split()) == Counter(load.outcomes.keys())

    async def everybody_is_at(endpoint: str) -> None:
        """An operator too goes on to the next broker when the workers are back at this one."""
        async with connect_async(endpoint) as mesh:
            while len((await status(mesh))["workers"]) < 2:
                pass

    log = tmp_path / "executed"
    brokers = {}
    for _ in range(2):
        broker, (endpoint,) = support.start_broker(process)
        brokers[endpoint] = broker
    endpoints = list(brokers)
    workers(process, *endpoints, count=2, PROBE_LOG=str(log))
    in_loop(scene())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("method", ["block", "burn", "seize"])
def test_a_busy_worker_is_not_taken_for_dead(process: support.Start, method: str) -> None:
    _, (endpoint,) = support.start_broker(process)
    (child,) = workers(process, endpoint, count=1)
    seconds = 5.6  # lost is who is silent for 5 s
    if SOAK:  # or, with work in hand, for 30 s; how long `seize` takes can only be guessed
        seconds = 15.0 if method == "seize" else 40.0
    with connect(endpoint) as mesh:
        answer = mesh.options(timeout=100.0).call(f"probe.{method}", seconds)
        assert answer == child.pid
        counters = mesh.call("mesh.broker.status")["counters"]
    assert not [reason for reason in counters if reason.startswith(("lost:", "redispatched:"))]
