"""Policies that never give up what was not meant to go: `volatile-ttl` and `noeviction`."""

from __future__ import annotations

import heapq


class VolatileTtl:
    """What expires soonest goes first; entries without an expiry stay, even if nothing fits."""

    overhead = 320
    __slots__ = ("capacity", "entries", "heap")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.entries: dict[bytes, int] = {}
        # May hold what is no longer so; `entries` decides.
        self.heap: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self.entries)

    def insert(self, key: bytes, size: int, expire_at: int) -> None:
        """An entry was written."""
        if not expire_at:
            self.entries.pop(key, None)
        elif self.entries.get(key) != expire_at:
            self.entries[key] = expire_at
            heapq.heappush(self.heap, (expire_at, key))
            if len(self.heap) > 2 * len(self.entries) + 64:
                self.heap = [(at, known) for known, at in self.entries.items()]
                heapq.heapify(self.heap)

    def adopt(self, key: bytes, size: int, expire_at: int) -> None:
        """An entry from an earlier life."""
        if key not in self.entries:
            self.insert(key, size, expire_at)

    def hit(self, key: bytes) -> None:
        """Reading changes nothing."""

    def remove(self, key: bytes) -> None:
        """An entry is gone for another reason."""
        self.entries.pop(key, None)

    def victim(self) -> bytes | None:
        """Give up the entry that would expire next."""
        while self.heap:
            expire_at, key = heapq.heappop(self.heap)
            if self.entries.get(key) == expire_at:
                del self.entries[key]
                return key
        return None

    def check(self) -> None:
        """Assert all invariants."""
        assert {(at, key) for key, at in self.entries.items()} <= set(self.heap)


class NoEviction:
    """Nothing is given up: a write that does not fit is refused."""

    overhead = 0
    __slots__ = ("capacity",)

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    def __len__(self) -> int:
        return 0

    def insert(self, key: bytes, size: int, expire_at: int = 0) -> None:
        """Nothing to remember."""

    def adopt(self, key: bytes, size: int, expire_at: int = 0) -> None:
        """Nothing to remember."""

    def hit(self, key: bytes) -> None:
        """Nothing to remember."""

    def remove(self, key: bytes) -> None:
        """Nothing to forget."""

    def victim(self) -> bytes | None:
        """None."""
        return None

    def check(self) -> None:
        """Assert all invariants: there is no state."""
