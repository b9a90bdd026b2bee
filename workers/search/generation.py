"""One generation of the index of a collection, open for writing: its words and its vectors."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from workers.search.derived import vector_path
from workers.search.fresh import Portion
from workers.search.schema import Schema
from workers.search.text.index import TextWriter
from workers.search.vectors.index import VectorWriter

STEP: Final = 250
"""Documents in one turn."""


class DerivedIndex:
    """For one thread at a time.

    `reached`: the version up to which all is applied. `unpublished`: octets of the documents that
    are applied and not on disk, since the time `behind_since`.
    """

    def __init__(self, path: Path, schema: Schema, reached: int = 0, many: bool = False) -> None:
        """Open or make it; it has all up to the version `reached`. Raises IndexDamaged.

        `many`: many documents are to come. Then two threads index them, which costs twice as much
        for a few.
        """
        self.reached = reached
        self.many = many
        self.unpublished = 0
        self.behind_since: float | None = None
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._text = TextWriter(path / "text", schema, threads=2 if many else 1)
        self._vectors: dict[str, VectorWriter] = {}
        try:
            for field in schema.vectors:
                place = vector_path(path, schema, field.name)
                self._vectors[field.name] = VectorWriter(place, field)
        except BaseException:
            self.close()
            raise

    def apply(self, portion: Portion, now: float, turn: AbstractContextManager[Any]) -> None:
        """Bring in rows with their checked values, and take others out.

        `turn` is held for a step at a time. Who writes documents holds it, too: threads that took
        the interpreter from each other with every document would lose a third of their time.
        """
        if self.behind_since is None:
            self.behind_since = now
        removed = portion.removed
        gone = set(removed)
        added = [one for one in portion.added if one[0] not in gone] if gone else portion.added
        for begin in range(0, len(added) or 1, STEP):
            with turn:  # it passes over fields that it does not know
                self._text.apply([] if begin else removed, added[begin : begin + STEP])
        for name, writer in self._vectors.items():
            writer.apply(removed, [(row, one[name]) for row, one in added if name in one])
        self.reached = portion.until
        self.unpublished += portion.octets

    def commit(self) -> None:
        """Put on disk what was applied, for readers to see."""
        self._text.commit()
        for writer in self._vectors.values():
            writer.commit()
        self.unpublished, self.behind_since = 0, None

    def close(self) -> None:
        """Give the files back; what was not committed is forgotten."""
        self._text.close()
        for writer in self._vectors.values():
            writer.close()
