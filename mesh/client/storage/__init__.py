"""The storage service for programs: `m.storage` of a client, blocking or asyncio.

m.storage.put("order:17", {"item": "tea"})
m.storage.put_file("backups/monday", "monday.tar")
for change in m.storage.bucket("orders").changes(after=version): ...
"""

from __future__ import annotations

from mesh.client.storage.aio import AsyncObject, AsyncStorage, AsyncStorageBatch
from mesh.client.storage.blocking import Object, Storage, StorageBatch
from mesh.client.storage.requests import BucketInfo, Change, Item, ObjectInfo, Page, Record

__all__ = [
    "AsyncObject",
    "AsyncStorage",
    "AsyncStorageBatch",
    "BucketInfo",
    "Change",
    "Item",
    "Object",
    "ObjectInfo",
    "Page",
    "Record",
    "Storage",
    "StorageBatch",
]
