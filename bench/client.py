"""Clients of the mesh as users write them: `python -m bench.client ROLE ENDPOINT [options]`.

Prints one JSON line of figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from pathlib import Path

from bench import loops
from bench.harness import Figures
from mesh import connect, connect_async

BATCH = 100


async def throughput(options: argparse.Namespace) -> Figures:
    """One asyncio client with many calls in flight."""
    body = os.urandom(32)
    target = f"bench.{options.method}"
    async with connect_async(options.endpoint) as mesh:
        return await loops.in_flight(
            lambda: mesh.call(target, body), options.windows, options.seconds
        )


def latency(options: argparse.Namespace) -> Figures:
    """One blocking client, one call at a time."""
    body = os.urandom(32)
    target = f"bench.{options.method}"
    with connect(options.endpoint) as mesh:
        return loops.one_at_a_time_blocking(lambda: mesh.call(target, body), options.count)


async def latency_async(options: argparse.Namespace) -> Figures:
    """One asyncio client, one call at a time."""
    body = os.urandom(32)
    target = f"bench.{options.method}"
    async with connect_async(options.endpoint) as mesh:
        return await loops.one_at_a_time(lambda: mesh.call(target, body), options.count)


async def batches(options: argparse.Namespace) -> Figures:
    """Items per second in batches of 100, by batches in flight."""
    arguments = [(os.urandom(32),) for _ in range(BATCH)]
    target = f"bench.{options.method}"
    async with connect_async(options.endpoint) as mesh:
        rates = await loops.in_flight(
            lambda: mesh.batch(target, arguments), options.windows, options.seconds
        )
    return {window: rate * BATCH for window, rate in rates.items()}


async def stream(options: argparse.Namespace) -> Figures:
    """Items per second that an asyncio reader takes from one stream."""
    async with connect_async(options.endpoint) as mesh:
        begun = time.perf_counter()
        taken = 0
        async for _ in mesh.stream("bench.items", options.count, 32):
            taken += 1
        rate = taken / (time.perf_counter() - begun)
    return {"asyncio": _complete(rate, taken, options)}


def stream_blocking(options: argparse.Namespace) -> Figures:
    """Items per second that a blocking reader takes from one stream."""
    with connect(options.endpoint) as mesh:
        begun = time.perf_counter()
        taken = sum(1 for _ in mesh.stream("bench.items", options.count, 32))
        rate = taken / (time.perf_counter() - begun)
    return {"blocking": _complete(rate, taken, options)}


def _complete(rate: float, taken: int, options: argparse.Namespace) -> float:
    if taken != options.count:
        raise RuntimeError(f"{taken} of {options.count} items arrived")
    return rate


def _anonymous_memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("RssAnon is not known here")


async def slow_reader(options: argparse.Namespace) -> Figures:
    """Growth of this process while it takes 500 items of 256 octets every 10 ms."""
    async with connect_async(options.endpoint) as mesh:
        before = highest = _anonymous_memory()
        taken = 0
        async for _ in mesh.stream("bench.items", options.count, 256):
            taken += 1
            if taken % 500 == 0:
                await asyncio.sleep(0.01)
            if taken % 10_000 == 0:
                highest = max(highest, _anonymous_memory())
    return {"client": _complete((highest - before) / 1e6, taken, options)}


BLOCKING = {"latency": latency, "stream-blocking": stream_blocking}
ASYNC = {
    "throughput": throughput,
    "latency-async": latency_async,
    "batches": batches,
    "stream": stream,
    "slow-reader": slow_reader,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=sorted({**BLOCKING, **ASYNC}))
    parser.add_argument("endpoint")
    parser.add_argument("--method", default="echo")
    parser.add_argument("--windows", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    if arguments.role in BLOCKING:
        result = BLOCKING[arguments.role](arguments)
    elif arguments.uvloop:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(ASYNC[arguments.role](arguments))
    else:
        result = asyncio.run(ASYNC[arguments.role](arguments))
    print(json.dumps(result), flush=True)
