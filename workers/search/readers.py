"""The derived indexes of a store as one process reads them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesh.errors import StoreBusy
from workers.search.derived import IndexDamaged
from workers.search.indexing import index_path, vector_path
from workers.search.records import Collection, Index, State
from workers.search.schema import Schema
from workers.search.text.index import TextReader
from workers.search.vectors.index import VectorReader

MOST: Final = 200
"""Indexes that are kept open."""


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
                self._open.pop(collection.number, None)
                raise StoreBusy(
                    f"the index of collection {collection.name!r} cannot be read ({error}); it is "
                    "built anew from the documents when the writer finds that, or at rebuild()",
                    retry_after=0.2,
                ) from None

    def forget(self, number: int) -> None:
        """Open the index of that collection anew next time."""
        with self._lock:
            self._open.pop(number, None)

    def close(self) -> None:
        """Forget all."""
        with self._lock:
            self._open.clear()

    def _current(self, collection: Collection, state: State) -> OpenIndex:
        found = self._open.get(collection.number)
        if found is None or found.index != collection.index:
            found = self._open_anew(collection, state)
            while len(self._open) >= MOST:
                self._open.pop(next(iter(self._open)))
            self._open[collection.number] = found
        elif found.applied < state.applied:
            found.refresh(state.applied)
        return found

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
