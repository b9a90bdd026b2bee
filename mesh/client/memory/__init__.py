"""The memory service for programs: `m.memory` of a client, blocking or asyncio.

m.memory.set("user:1", {"name": "Alice"}, ttl=60)
m.memory.namespace("pages").get_or_set("/", render, ttl=60, stale_ttl=600)
with m.memory.lock("report", ttl=10) as lock: ...
"""

from __future__ import annotations

from mesh.client.memory.aio import AsyncBatch, AsyncLock, AsyncMemory
from mesh.client.memory.blocking import Batch, Lock, Memory
from mesh.client.memory.requests import Change, Entry, LockInfo, Page

__all__ = [
    "AsyncBatch",
    "AsyncLock",
    "AsyncMemory",
    "Batch",
    "Change",
    "Entry",
    "Lock",
    "LockInfo",
    "Memory",
    "Page",
]
