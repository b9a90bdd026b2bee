"""`MemoryServiceConnector`: a cache around one step of a stream of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from mesh.protocol import payload
from sage.service.memory.api import MemoryServiceClient


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """An item on its way: `hit` says that `value`, what was computed of it before, is there."""

    item: Any
    key: str
    value: Any = None
    hit: bool = False

    def filled(self, value: Any) -> CacheRecord:
        """The same item with what was computed of it now."""
        return replace(self, value=value)


class MemoryServiceConnector:
    """`cache_lookup` before an expensive step, and `cache_store` after it.

    The step gets a CacheRecord. It passes on those with `hit`, and for the others returns
    `record.filled(result)`:

        record if record.hit else record.filled(work(record.item))

    Args:
        address: HOST:PORT of the memory service.
        ttl: seconds that results are good for; without it, for ever.
        key: what tells one item from another; the default is a digest of all of it.
        namespace: where results are kept. Give each kind of step one of its own.
    """

    def __init__(
        self,
        *address: str,
        ttl: float | None = None,
        key: Callable[[Any], str] | None = None,
        namespace: str = "stream-cache",
    ) -> None:
        self.client = MemoryServiceClient(*address, namespace=namespace)
        self._ttl = ttl
        self._key = key or digest

    def cache_lookup(self, item: Any) -> CacheRecord:
        """The item, with what was computed of it before, if that is known."""
        key = self._key(item)
        entry = self.client.entry(key)
        if entry is None:
            return CacheRecord(item, key)
        return CacheRecord(item, key, entry.value, True)

    def cache_store(self, record: CacheRecord) -> Any:
        """Keep what was computed, if it is new; the value."""
        if not record.hit:
            self.client.store(record.key, record.value, ttl=self._ttl)
        return record.value

    def close(self) -> None:
        """End the connection."""
        self.client.close()


def digest(item: Any) -> str:
    """A key that is the same for equal items, in every process.

    Raises:
        InvalidArgument: the item holds something that cannot be sent.
    """
    return blake2b(payload.encode(item, root="item"), digest_size=16).hexdigest()
