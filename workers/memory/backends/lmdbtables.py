"""Tables of the shared store, as the verbs of the memory service want them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from workers.memory.tables import EXPIRY, TABLES, TAGS
from workers.store import INDEX, PLAIN
from workers.store.tables import Table, View

NAMES = {name: INDEX if number in (EXPIRY, TAGS) else PLAIN for number, name in enumerate(TABLES)}
# An index table wants a value, though the keys say everything.
_MARK = b"1"


class LmdbTables:
    """A view or change of the store; ends with it."""

    __slots__ = ("_at", "_handles")

    def __init__(self, at: View, handles: Sequence[Table]) -> None:
        self._at: Any = at
        self._handles = list(handles)

    def get(self, table: int, key: bytes) -> bytes | None:
        """The value of `key`."""
        found: bytes | None = self._at.get(self._handles[table], key)
        return found

    def put(self, table: int, key: bytes, value: bytes) -> None:
        """Set the value of `key`."""
        self._at.put(self._handles[table], key, value or _MARK)

    def delete(self, table: int, key: bytes) -> None:
        """Remove `key`."""
        self._at.delete(self._handles[table], key)

    def keys(self, table: int, start: bytes) -> Iterator[bytes]:
        """Keys from `start` on."""
        found: Iterator[bytes] = self._at.keys(self._handles[table], start=start)
        return found

    def walk(self, table: int, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values from `start` on."""
        found: Iterator[tuple[bytes, bytes]] = self._at.items(self._handles[table], start=start)
        return found
