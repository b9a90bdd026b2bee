"""The memory service in one object: `MemoryService` runs it, `MemoryServiceClient` calls it.

with MemoryService(port=8080), MemoryServiceClient("localhost:8080") as client:
    client.store("user_session", {"user_id": 123}, ttl=3600)
"""

from __future__ import annotations

from sage.service.memory.api import MemoryServiceClient
from sage.service.memory.connector import CacheRecord, MemoryServiceConnector
from sage.service.memory.service import MemoryService

__all__ = ["CacheRecord", "MemoryService", "MemoryServiceClient", "MemoryServiceConnector"]
