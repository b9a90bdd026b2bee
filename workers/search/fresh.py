"""What was written, on its way to the indexes: what was just written, or else from the store."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from workers.search.change import Fresh
from workers.search.view import View

SLICE: Final = 2000
"""Documents that are applied at a time."""
SLICE_OCTETS: Final = 4 * 1024 * 1024
"""The same in octets, of those that are read from the store."""

MOST: Final = 64 * 1024 * 1024
"""Octets of memory for values of documents; those of the others are read from the store again."""
EACH: Final = 600
"""What a document takes there beside its octets: for a small one that is most of it."""


@dataclass(slots=True)
class Portion:
    """What happened to a collection up to the version `until`: rows added and removed."""

    until: int
    octets: int = 0
    added: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)


class FreshValues:
    """Changes by collection, and in which collections something has changed. Any thread."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._changes: dict[int, dict[int, Fresh]] = {}
        """By collection, by the version that they follow upon."""
        self._octets = 0
        self._touched: set[int] = set()

    def add(self, fresh: Mapping[int, Fresh]) -> None:
        """A change of these collections is on disk."""
        with self._lock:
            for number, change in fresh.items():
                self._touched.add(number)
                octets = self._octets + _held(change)
                if change.until > change.after and octets <= self._most:
                    self._changes.setdefault(number, {})[change.after] = change
                    self._octets = octets

    def touched(self) -> set[int]:
        """Where something has changed since this was asked last."""
        with self._lock:
            found, self._touched = self._touched, set()
            return found

    def waiting(self, number: int) -> int:
        """How many documents of a collection are here."""
        with self._lock:
            return sum([len(change.added) for change in self._changes.get(number, {}).values()])

    def take(self, number: int, after: int, documents: int) -> Portion | None:
        """Give away what follows upon the version `after` without a gap, about so many documents.

        None if that is not here: the store has it. What came before `after` is forgotten.
        """
        with self._lock:
            changes = self._changes.get(number)
            if changes is None:
                return None
            self._pass(number, after)
            found = Portion(after)
            while len(found.added) < documents:
                change = changes.get(found.until)
                if change is None:
                    break
                self._remove(number, change)
                found.until = change.until
                found.octets += change.octets
                found.added += change.added
                found.removed += change.removed
            return found if found.until > after else None

    def passed(self, number: int, version: int) -> None:
        """The index of a collection has all up to `version`: forget what came before."""
        with self._lock:
            self._pass(number, version)

    def forget(self, number: int) -> None:
        """A collection was dropped."""
        with self._lock:
            for change in list(self._changes.get(number, {}).values()):
                self._remove(number, change)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._changes.clear()
            self._touched.clear()
            self._octets = 0

    def _pass(self, number: int, version: int) -> None:
        changes = self._changes.get(number, {})
        for past in [one for one in changes.values() if one.after < version]:
            self._remove(number, past)

    def _remove(self, number: int, change: Fresh) -> None:
        changes = self._changes[number]
        del changes[change.after]
        self._octets -= _held(change)
        if not changes:
            del self._changes[number]


def _held(change: Fresh) -> int:
    return change.octets + EACH * len(change.added)


def stored(view: View, number: int, after: int) -> tuple[Portion, list[tuple[int, bytes | None]]]:
    """What follows upon the version `after` in the store, and the records of the rows added.

    None for a damaged record. `added` is to be filled in.
    """
    portion = Portion(view.state(number).version)
    rows: list[tuple[int, bytes | None]] = []
    for row, record in view.documents_after(number, after):
        if len(rows) >= SLICE or portion.octets > SLICE_OCTETS:
            portion.until = rows[-1][0]
            break
        rows.append((row, record))
        portion.octets += 0 if record is None else len(record)
    for version, row in view.removed_after(number, after):
        if version > portion.until:
            break
        portion.removed.append(row)
    return portion, rows
