"""What was just written, on its way from the thread that writes to the one that indexes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any, Final

from workers.search.change import Fresh

MOST: Final = 32 * 1024 * 1024
"""Octets of documents whose values are kept; those of the others are read from the store again."""


class FreshValues:
    """Values by row, and the collections in which something has changed. Any thread."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._rows: dict[int, dict[int, tuple[Mapping[str, Any], int]]] = {}
        self._octets = 0
        self._touched: set[int] = set()

    def add(self, fresh: Iterable[Fresh], touched: Iterable[int]) -> None:
        """Documents were written, and something has changed in the collections `touched`."""
        with self._lock:
            self._touched.update(touched)
            for number, row, values, octets in fresh:
                if self._octets + octets > self._most:
                    return
                self._rows.setdefault(number, {})[row] = (values, octets)
                self._octets += octets

    def touched(self) -> set[int]:
        """Where something has changed since this was asked last."""
        with self._lock:
            found, self._touched = self._touched, set()
            return found

    def take(self, number: int, until: int) -> dict[int, Mapping[str, Any]]:
        """Give away the values of a collection's rows up to `until`."""
        with self._lock:
            rows = self._rows.get(number, {})
            found: dict[int, Mapping[str, Any]] = {}
            for row in list(rows):
                if row > until:
                    break  # they came in order
                found[row], octets = rows.pop(row)
                self._octets -= octets
            if not rows:
                self._rows.pop(number, None)
            return found

    def forget(self, number: int) -> None:
        """Give away nothing of a collection any more."""
        with self._lock:
            for _, octets in self._rows.pop(number, {}).values():
                self._octets -= octets

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._rows.clear()
            self._touched.clear()
            self._octets = 0
