"""The service under test: it writes down what it executes, and can be slow in several ways."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

from mesh import Service

probe = Service("probe", version="1")


@probe.rpc(idempotent=True)
async def echo(value: int) -> int:
    return value


@probe.rpc
async def once(value: str) -> str:
    """Not idempotent: each execution leaves a line in the file that PROBE_LOG names."""
    with open(os.environ["PROBE_LOG"], "a") as log:
        log.write(value + "\n")
    return value


@probe.rpc(idempotent=True)
async def pause(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


@probe.rpc
async def hold(seconds: float) -> int:
    """As `pause`, but not idempotent."""
    await asyncio.sleep(seconds)
    return os.getpid()


@probe.rpc
def block(seconds: float) -> int:
    """A plain handler that blocks its thread."""
    time.sleep(seconds)
    return os.getpid()


@probe.rpc
def burn(seconds: float) -> int:
    """Uses the processor in Python code."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        pass
    return os.getpid()


@probe.rpc
def seize(seconds: float) -> int:
    """Holds the interpreter lock in one call into C."""
    sample = 2_000_000
    begun_at = time.perf_counter()
    sum(range(sample))
    rate = sample / (time.perf_counter() - begun_at)
    sum(range(int(rate * seconds)))
    return os.getpid()


@probe.rpc
def who() -> int:
    return os.getpid()


@probe.rpc
async def count(limit: int) -> AsyncIterator[int]:
    for number in range(limit):
        yield number
