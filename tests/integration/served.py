"""The service of test_service: handlers that are slow, stubborn or endless on purpose."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator

from mesh import Service, Stream

served = Service("served", version="3", threads=8)
ended = threading.Event()


@served.rpc
def pid() -> int:
    return os.getpid()


@served.rpc
async def echo(value: int) -> int:
    await asyncio.sleep(0.002)
    return value


@served.rpc
def plain(value: int) -> int:
    time.sleep(0.002)
    return value


@served.rpc(inline=True, idempotent=True)
def inline(value: int) -> int:
    return value


@served.rpc
def block(seconds: float) -> float:
    """Holds a thread."""
    time.sleep(seconds)
    return seconds


@served.rpc
async def hog(seconds: float) -> float:
    """Holds the event loop, and a processor."""
    end_at = time.monotonic() + seconds
    while time.monotonic() < end_at:
        pass
    return seconds


@served.rpc
async def endless() -> AsyncIterator[int]:
    ended.clear()
    value = 0
    try:
        while True:
            yield value
            value += 1
    finally:
        ended.set()


@served.rpc
def endless_plain() -> Iterator[int]:
    ended.clear()
    value = 0
    try:
        while True:
            yield value
            value += 1
    finally:
        ended.set()


@served.rpc
def was_ended(timeout: float) -> bool:
    return ended.wait(timeout)


@served.rpc
async def breaks() -> AsyncIterator[int]:
    yield 1
    yield 2
    raise ValueError("after two")


@served.rpc
async def total(chunks: Stream[bytes]) -> int:
    return sum([len(chunk) async for chunk in chunks])


@served.rpc
def total_plain(chunks: Stream[bytes]) -> int:
    return sum(len(chunk) for chunk in chunks)


@served.rpc
def crash() -> None:
    os._exit(9)
