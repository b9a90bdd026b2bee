"""The derived indexes of a store as one process reads them."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesh.errors import StoreBusy
from workers.search.derived import IndexDamaged, index_path, mark_damaged, vector_path
from workers.search.records import Collection, Index, State
from workers.search.schema import Schema
from workers.search.text.index import TextReader
from workers.search.vectors.index import VectorReader

MOST: Final = 200
"""Indexes that are kept open."""
LOOK_EVERY: Final = 10.0
"""Seconds between two looks for open indexes that are gone: their files take room until then."""


@dataclass(slots=True)
class OpenIndex:
    """An index that is open for reading, as it was when `applied` was published."""

    index: Index
    schema: Schema
    applied: int
    text: TextReader
    vectors: dict[str, VectorReader]

    def refresh(self, applied: int) -> None:
        """See everything up to `applied`."""
        self.text.refresh()
        for reader in self.vectors.values():
            reader.refresh()
        self.applied = applied


class Readers:
    """All indexes of a store. Any thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._open: dict[int, OpenIndex] = {}
        self._look_at = 0.0

    def of(self, collection: Collection, state: State) -> OpenIndex | None:
        """The index of a collection, as far as it was published; None if nothing ever was.

        Raises:
            StoreBusy: it cannot be read at this moment: it is being replaced, or is damaged.
        """
        found = self._open.get(collection.number)
        if found is not None and found.index == collection.index and found.applied >= state.applied:
            return found
        if not state.applied:
            return None
        with self._lock:
            try:
                return self._current(collection, state)
            except (IndexDamaged, OSError) as error:
                raise self._unusable(collection, error) from None

    def damaged(self, collection: Collection, error: IndexDamaged) -> StoreBusy:
        """What to raise when an index turns out to be damaged while it is read."""
        with self._lock:
            return self._unusable(collection, error)

    def close(self) -> None:
        """Forget all."""
        with self._lock:
            self._open.clear()

    def _current(self, collection: Collection, state: State) -> OpenIndex:
        self._let_go()
        found = self._open.get(collection.number)
        if found is None or found.index != collection.index:
            found = self._open_anew(collection, state)
            while len(self._open) >= MOST:
                self._open.pop(next(iter(self._open)))
            self._open[collection.number] = found
        elif found.applied < state.applied:
            found.refresh(state.applied)
        return found

    def _let_go(self) -> None:
        """Close indexes that were removed: their collections were dropped, or have others."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY
        for number, one in list(self._open.items()):
            if not index_path(self._directory, number, one.index).is_dir():
                del self._open[number]

    def _unusable(self, collection: Collection, error: Exception) -> StoreBusy:
        self._open.pop(collection.number, None)
        if isinstance(error, IndexDamaged):
            mark_damaged(index_path(self._directory, collection.number, collection.index))
        return StoreBusy(
            f"the index of collection {collection.name!r} cannot be read ({error}); the writer "
            "builds it anew from the documents",
            retry_after=0.5,
        )

    def _open_anew(self, collection: Collection, state: State) -> OpenIndex:
        schema = collection.indexed(collection.index)
        path = index_path(self._directory, collection.number, collection.index)
        if not path.is_dir():
            raise IndexDamaged(f"{path.name} is missing")
        vectors = {
            field.name: VectorReader(vector_path(path, schema, field.name), field)
            for field in schema.vectors
        }
        text = TextReader(path / "text", schema)
        return OpenIndex(collection.index, schema, state.applied, text, vectors)
