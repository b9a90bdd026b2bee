"""Ordered tables of octets, on which the verbs work, and those that live in memory alone.

The verbs see nothing else of a store, so they are the same over LMDB and over dictionaries.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Protocol

ENTRIES, EXPIRY, TAGS, SPACES, SWEEPS, LOCKS, META = range(7)
TABLES = ("entries", "expiry", "tags", "spaces", "sweeps", "locks", "meta")

_BUCKET = 512


class Tables(Protocol):
    """Maps from octets to octets, by number; keys are ordered."""

    def get(self, table: int, key: bytes) -> bytes | None:
        """The value of `key`."""

    def put(self, table: int, key: bytes, value: bytes) -> None:
        """Set the value of `key`."""

    def delete(self, table: int, key: bytes) -> None:
        """Remove `key`; it need not exist."""

    def keys(self, table: int, start: bytes) -> Iterator[bytes]:
        """Keys from `start` on, in order. The table must not be changed meanwhile."""

    def walk(self, table: int, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The same with their values; ends at one that is damaged, with DataCorrupted."""


class SortedKeys:
    """A sorted collection of keys: lists of some hundreds, so that adding moves little."""

    __slots__ = ("_buckets", "_firsts")

    def __init__(self) -> None:
        self._buckets: list[list[bytes]] = []
        self._firsts: list[bytes] = []

    def add(self, key: bytes) -> None:
        """Add a key that is not there yet."""
        if not self._buckets:
            self._buckets.append([key])
            self._firsts.append(key)
            return
        at = self._find(key)
        bucket = self._buckets[at]
        insort(bucket, key)
        self._firsts[at] = bucket[0]
        if len(bucket) > 2 * _BUCKET:
            self._buckets.insert(at + 1, bucket[_BUCKET:])
            self._firsts.insert(at + 1, bucket[_BUCKET])
            del bucket[_BUCKET:]

    def discard(self, key: bytes) -> None:
        """Remove a key that is there."""
        at = self._find(key)
        bucket = self._buckets[at]
        del bucket[bisect_left(bucket, key)]
        if bucket:
            self._firsts[at] = bucket[0]
        else:
            del self._buckets[at], self._firsts[at]

    def walk(self, start: bytes) -> Iterator[bytes]:
        """The keys from `start` on."""
        if not self._buckets:
            return
        at = self._find(start)
        bucket = self._buckets[at]
        yield from bucket[bisect_left(bucket, start) :]
        for later in self._buckets[at + 1 :]:
            yield from later

    def _find(self, key: bytes) -> int:
        """The bucket in which `key` is, or would be."""
        at = bisect_left(self._firsts, key)
        if at == len(self._firsts) or self._firsts[at] != key:
            at -= 1
        return max(0, at)


class MemoryTables:
    """Tables in this process's memory."""

    __slots__ = ("_keys", "_values")

    def __init__(self) -> None:
        self._values: list[dict[bytes, bytes]] = [{} for _ in TABLES]
        self._keys = [SortedKeys() for _ in TABLES]

    def get(self, table: int, key: bytes) -> bytes | None:
        """The value of `key`."""
        return self._values[table].get(key)

    def put(self, table: int, key: bytes, value: bytes) -> None:
        """Set the value of `key`."""
        values = self._values[table]
        if key not in values:
            self._keys[table].add(key)
        values[key] = value

    def delete(self, table: int, key: bytes) -> None:
        """Remove `key`."""
        if self._values[table].pop(key, None) is not None:
            self._keys[table].discard(key)

    def keys(self, table: int, start: bytes) -> Iterator[bytes]:
        """Keys from `start` on."""
        return self._keys[table].walk(start)

    def walk(self, table: int, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values from `start` on."""
        values = self._values[table]
        for key in self._keys[table].walk(start):
            yield key, values[key]


class OverlayTables:
    """Changes that are not in `base` yet, laid over it. `base` may be exchanged at any time."""

    __slots__ = ("_changes", "_keys", "base", "octets")

    def __init__(self, base: Tables) -> None:
        self.base = base
        self.octets = 0
        self._changes: list[dict[bytes, bytes | None]] = [{} for _ in TABLES]
        self._keys = [SortedKeys() for _ in TABLES]

    def __bool__(self) -> bool:
        return any(self._changes)

    def get(self, table: int, key: bytes) -> bytes | None:
        """The value of `key`, changed or not."""
        changes = self._changes[table]
        return changes[key] if key in changes else self.base.get(table, key)

    def put(self, table: int, key: bytes, value: bytes) -> None:
        """Set the value of `key`."""
        self._change(table, key, value)

    def delete(self, table: int, key: bytes) -> None:
        """Remove `key`."""
        self._change(table, key, None)

    def _change(self, table: int, key: bytes, value: bytes | None) -> None:
        changes = self._changes[table]
        if key not in changes:
            self._keys[table].add(key)
        changes[key] = value
        self.octets += len(key) + len(value or b"")

    def keys(self, table: int, start: bytes) -> Iterator[bytes]:
        """Keys from `start` on, changed or not."""
        changes = self._changes[table]
        changed = self._keys[table].walk(start)
        ours = next(changed, None)
        for key in self.base.keys(table, start):
            while ours is not None and ours < key:
                if changes[ours] is not None:
                    yield ours
                ours = next(changed, None)
            if ours == key:
                ours = next(changed, None)
                if changes[key] is None:
                    continue
            yield key
        while ours is not None:
            if changes[ours] is not None:
                yield ours
            ours = next(changed, None)

    def walk(self, table: int, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values from `start` on, changed or not."""
        for key in self.keys(table, start):
            value = self.get(table, key)
            assert value is not None
            yield key, value

    def pour(self, into: Tables) -> None:
        """Make the changes in `into`; they stay here until `clear`."""
        for table, changes in enumerate(self._changes):
            for key, value in changes.items():
                if value is None:
                    into.delete(table, key)
                else:
                    into.put(table, key, value)

    def clear(self) -> None:
        """Forget the changes: they are in `base` now."""
        self.__init__(self.base)  # type: ignore[misc]
