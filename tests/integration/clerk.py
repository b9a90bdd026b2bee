"""The service under test for the clients: values, errors, and streams in both directions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from mesh import Service, Stream, current

clerk = Service("test.clerk")
state: dict[str, Any] = {"cancelled": 0, "closed": 0, "failed": ""}


@clerk.rpc(idempotent=True)
async def echo(value: Any) -> Any:
    return value


@clerk.rpc
def add(left: int, right: int = 1) -> int:
    return left + right


@clerk.rpc
def fail(text: str) -> None:
    raise ValueError(text)


@clerk.rpc
async def nap(seconds: float) -> float:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        state["cancelled"] += 1
        raise
    return seconds


@clerk.rpc(idempotent=True)
async def seen(name: str) -> Any:
    return state[name]


@clerk.rpc
async def context() -> dict[str, Any]:
    call = current()
    return {"left": call.time_left(), "metadata": call.metadata, "id": call.request_id}


@clerk.rpc
async def count(limit: int) -> AsyncIterator[int]:
    try:
        for number in range(limit):
            yield number
    finally:
        state["closed"] += 1


@clerk.rpc
def letters(text: str, pause: float = 0.0) -> Iterator[str]:
    for letter in text:
        time.sleep(pause)
        yield letter


@clerk.rpc
async def broken(limit: int) -> AsyncIterator[int]:
    for number in range(limit):
        yield number
    raise LookupError("no more")


@clerk.rpc
async def total(numbers: Stream[int]) -> int:
    result = 0
    try:
        async for number in numbers:
            result += number
    except Exception as error:
        state["failed"] = f"{type(error).__name__}: {error}"
        raise
    return result


@clerk.rpc
def length(name: str, data: Stream[bytes]) -> int:
    return len(name) + sum(map(len, data))


@clerk.rpc
async def double(numbers: Stream[int]) -> AsyncIterator[int]:
    async for number in numbers:
        yield 2 * number


@clerk.rpc
async def first(numbers: Stream[int], limit: int) -> int:
    result = 0
    async for number in numbers:
        result += number
        limit -= 1
        if not limit:
            break
    return result
