"""The service that is measured: `python -m mesh.service bench.service:bench`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from mesh import Service

VALUE = bytes(range(100))

bench = Service("bench", version="1.0.0")


@bench.rpc
async def echo(body: bytes) -> bytes:
    return body


@bench.rpc(inline=True)
def echo_inline(body: bytes) -> bytes:
    return body


@bench.rpc(inline=True)
def get(key: str) -> bytes:
    """What a store answers, without a store."""
    return VALUE


@bench.rpc(inline=True)
def set(key: str, value: bytes) -> int:
    """What a store takes, without a store."""
    return 1


@bench.rpc
def echo_threaded(body: bytes) -> bytes:
    return body


@bench.rpc(idempotent=True)
async def brief(body: bytes) -> bytes:
    """Takes a millisecond, so that some are in hand at any moment."""
    await asyncio.sleep(0.001)
    return body


@bench.rpc
async def hang() -> None:
    """In hand until it is cancelled or the worker dies."""
    await asyncio.Event().wait()


@bench.rpc
async def items(count: int, size: int) -> AsyncIterator[bytes]:
    body = bytes(size)
    for _ in range(count):
        yield body


@bench.rpc
def items_threaded(count: int, size: int) -> Iterator[bytes]:
    body = bytes(size)
    for _ in range(count):
        yield body
