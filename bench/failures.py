"""What failures cost a caller: `python -m bench.failures REPETITIONS` prints one JSON line.

Milliseconds, the median and the worst of all repetitions:

notice      from kill -9 of a worker until the caller of a request in its hands is told
extra wait  how much longer than usual the slowest idempotent call around the kill took
resume      from the moment a killed broker is back until a call succeeds again
"""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import sys
import time
from typing import Any

from bench import stacks
from bench.harness import Figures, Stack, free_port
from mesh import connect_async
from mesh.errors import WorkerLost

CALLERS = 8
AWAY = 1.0


async def worker_killed(processes: Stack, endpoint: str, mesh: Any) -> tuple[float, float]:
    """(notice, extra wait) of one kill, in seconds. Two workers, one dies."""
    workers = [stacks.mesh_worker(processes, endpoint) for _ in range(2)]
    waits: list[tuple[float, float]] = []
    stop = False

    async def caller() -> None:
        while not stop:
            begun = time.monotonic()
            await mesh.call("bench.brief", b"x" * 32)
            waits.append((begun, time.monotonic() - begun))

    async def hung() -> float:
        try:
            await mesh.options(timeout=20).call("bench.hang")
        except WorkerLost:
            return time.monotonic()
        raise RuntimeError("a call that hangs came back")

    callers = [asyncio.create_task(caller()) for _ in range(CALLERS)]
    held = [asyncio.create_task(hung()) for _ in range(4)]
    await asyncio.sleep(0.5)
    killed_at = time.monotonic()
    workers[0].process.kill()
    done, pending = await asyncio.wait(held, timeout=15, return_when=asyncio.FIRST_COMPLETED)
    if not done:
        raise RuntimeError("nobody noticed the death of the worker in 15 s")
    notice = min(task.result() for task in done) - killed_at
    await asyncio.sleep(0.5)
    stop = True
    await asyncio.gather(*callers)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    usual = statistics.median(wait for begun, wait in waits if begun < killed_at - 0.1)
    slowest = max(wait for begun, wait in waits if begun + wait > killed_at)
    for worker in workers:
        worker.kill()
    await asyncio.sleep(0.2)
    return notice, slowest - usual


async def broker_killed(processes: Stack, repetitions: int) -> list[float]:
    """Seconds from `listening` until a call succeeds, the broker having been away a while."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    broker, endpoint = stacks.mesh_broker(processes, address)
    stacks.mesh_worker(processes, endpoint)
    resumed: list[float] = []
    async with connect_async(endpoint) as mesh:
        for _ in range(repetitions):
            await mesh.call("bench.brief", b"x")
            broker.kill()
            await asyncio.sleep(AWAY)
            call = asyncio.create_task(mesh.options(timeout=20).call("bench.brief", b"x"))
            broker, _ = await asyncio.to_thread(stacks.mesh_broker, processes, address)
            back_at = time.monotonic()
            await call
            resumed.append(time.monotonic() - back_at)
    return resumed


async def measure(repetitions: int) -> Figures:
    notices: list[float] = []
    extras: list[float] = []
    with Stack() as processes:
        _, endpoint = stacks.mesh_broker(processes)
        async with connect_async(endpoint) as mesh:
            for _ in range(repetitions):
                notice, extra = await worker_killed(processes, endpoint, mesh)
                notices.append(notice)
                extras.append(extra)
        resumed = await broker_killed(processes, repetitions)
    figures: Figures = {}
    for name, seconds in (("notice", notices), ("extra wait", extras), ("resume", resumed)):
        figures[name] = statistics.median(seconds) * 1e3
        figures[f"{name}, worst"] = max(seconds) * 1e3
    return figures


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(json.dumps(asyncio.run(measure(int(sys.argv[1])))), flush=True)
