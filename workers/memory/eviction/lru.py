"""Least recently used: what was neither read nor written for the longest time goes first."""

from __future__ import annotations

from collections import OrderedDict


class Lru:
    """The policy `allkeys-lru`; exact, where Redis samples."""

    overhead = 280
    __slots__ = ("capacity", "entries")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.entries: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.entries)

    def insert(self, key: bytes, size: int, expire_at: int = 0) -> None:
        """An entry was written: it is the youngest."""
        self.entries[key] = None
        self.entries.move_to_end(key)

    def adopt(self, key: bytes, size: int, expire_at: int = 0) -> None:
        """An entry from an earlier life: older than all that was used in this one."""
        if key not in self.entries:
            self.entries[key] = None
            self.entries.move_to_end(key, last=False)

    def hit(self, key: bytes) -> None:
        """An entry was read: it is the youngest."""
        if key in self.entries:
            self.entries.move_to_end(key)

    def remove(self, key: bytes) -> None:
        """An entry is gone for another reason."""
        self.entries.pop(key, None)

    def victim(self) -> bytes | None:
        """Give up the oldest entry."""
        return self.entries.popitem(last=False)[0] if self.entries else None

    def check(self) -> None:
        """Assert all invariants: there is one order, and nothing beside it."""
