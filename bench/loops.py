"""The loops that a user's program would run, the same for every peer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from bench.harness import Figures, latency_figures


async def in_flight(
    call: Callable[[], Awaitable[object]], windows: list[int], seconds: float
) -> Figures:
    """Replies per second with as many tasks, each of which calls again once it has its reply."""
    figures: Figures = {}
    await _closed_loop(call, windows[0], min(0.3, seconds))
    for window in windows:
        figures[str(window)] = await _closed_loop(call, window, seconds)
    return figures


async def _closed_loop(call: Callable[[], Awaitable[object]], window: int, seconds: float) -> float:
    done = 0
    begun = time.perf_counter()
    end_at = begun + seconds

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end_at:
            await call()
            done += 1

    await asyncio.gather(*(caller() for _ in range(window)))
    return done / (time.perf_counter() - begun)


async def one_at_a_time(call: Callable[[], Awaitable[object]], count: int) -> Figures:
    """Latency percentiles of single calls, awaited."""
    seconds: list[float] = []
    for turn in range(count + count // 10):
        begun = time.perf_counter()
        await call()
        if turn >= count // 10:
            seconds.append(time.perf_counter() - begun)
    return latency_figures(seconds)


def one_at_a_time_blocking(call: Callable[[], object], count: int) -> Figures:
    """Latency percentiles of single calls, blocking."""
    seconds: list[float] = []
    for turn in range(count + count // 10):
        begun = time.perf_counter()
        call()
        if turn >= count // 10:
            seconds.append(time.perf_counter() - begun)
    return latency_figures(seconds)
