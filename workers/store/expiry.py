"""What is due when: an index table that is walked from its front, a bounded slice at a time."""

from __future__ import annotations

from typing import Final

from workers.store.tables import Change, Table, View

_LAST: Final = 2**64 - 1


class ExpiryIndex:
    """Names by the moment at which they are due, in whole milliseconds of any one clock.

    It knows what is due and nothing else: whoever moves a name's moment removes the old entry, and
    whoever finds one that is due asks the record whether it still is.
    """

    def __init__(self, table: Table) -> None:
        """Use `table`, which must be an index table."""
        self._table = table

    def add(self, change: Change, at_ms: int, name: bytes) -> None:
        """`name` (1 to 511 octets) is due at `at_ms`."""
        change.put(self._table, _key(at_ms), name)

    def remove(self, change: Change, at_ms: int, name: bytes) -> bool:
        """Take the entry back. Whether it was there."""
        return change.delete(self._table, _key(at_ms), name)

    def due(self, view: View, now_ms: int, limit: int) -> list[tuple[int, bytes]]:
        """At most `limit` entries that are due at `now_ms`, as (moment, name), the oldest first."""
        found: list[tuple[int, bytes]] = []
        if limit > 0:
            for key, name in view.items(self._table):
                at_ms = int.from_bytes(key, "big")
                if at_ms > now_ms:
                    break
                found.append((at_ms, name))
                if len(found) == limit:
                    break
        return found

    def next_ms(self, view: View) -> int | None:
        """When the first entry is due; None if there is none."""
        for key, _ in view.items(self._table):
            return int.from_bytes(key, "big")
        return None


def _key(at_ms: int) -> bytes:
    return min(max(at_ms, 0), _LAST).to_bytes(8, "big")
