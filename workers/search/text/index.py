"""The text index of a collection: one writer, and readers in any process.

It is a directory of tantivy. Documents are known by their rows; what they hold is not kept.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

import numpy as np
import tantivy

from mesh.errors import InvalidArgument, StoreBusy
from workers.search.derived import IndexDamaged, undamaged
from workers.search.query.nodes import Node
from workers.search.schema import TAGS, Field, Schema
from workers.search.text import completing, facets, files
from workers.search.text.columns import (
    ROW,
    adders,
    build,
    document,
    kept,
    register,
    shown,
    whole_of,
)
from workers.search.text.compile import Compiler, constant
from workers.search.text.facets import FacetSpec
from workers.search.text.paging import DESCENDING, After, Key, Pages

HEAP: Final = 64 * 1024 * 1024
"""Octets of documents that a writer gathers before it writes them out."""
LOOK_EVERY: Final = 0.25
"""Seconds after which a search looks whether segments were merged: each costs some 3 us a query."""


class Sort(NamedTuple):
    """The order of results: fields, each with whether the greatest comes first."""

    keys: tuple[tuple[str, bool], ...]


class Position(NamedTuple):
    """Where a page ended: the values of its last hit (its score, without a sort), and its row.

    `seen` is how many hits there were up to it; it saves searching for the place.
    """

    values: tuple[Any, ...]
    row: int
    seen: int = 0


@dataclass(slots=True)
class Found:
    """A page. `values` are those of the sort, for each hit; `total` is 0 if it was not asked for.

    Without a sort `values` is empty. With one, the scores are 0. `first` is how many hits there
    were before the page, as far as is known.
    """

    rows: list[int]
    scores: list[float]
    total: int
    values: list[tuple[Any, ...]]
    first: int = 0

    def position(self, at: int) -> Position:
        """Where a page begins that follows upon the hit `at` of this one."""
        values = self.values[at] if self.values else (self.scores[at],)
        return Position(values, self.rows[at], self.first + at + 1)


class TextWriter:
    """Applies changes and commits them. For one thread at a time."""

    def __init__(self, path: Path, schema: Schema, *, threads: int = 1) -> None:
        """Open the index, or make it. Each thread makes parts of its own.

        Raises:
            IndexDamaged: it cannot be used, or was made for other fields.
            StoreBusy: another writer has it open.
            ConfigError: an analyzer needs a package that is missing.
        """
        native = build(schema)
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.verify(path)
        with _damaged(path):
            index = tantivy.Index(native, str(path))
            register(index, schema)
            index.config_reader("manual")
            self._highest = _highest(index.searcher())
        try:
            self._writer = index.writer(HEAP, threads)
        except ValueError as error:
            if "LockBusy" not in str(error):
                raise undamaged(path, error) or IndexDamaged(f"{path.name}: {error}") from error
            raise StoreBusy(f"the index {path.name} has another writer", retry_after=1.0) from None
        self._path = path
        self._native = native
        self._add = adders(schema)
        self._changed = False

    def apply(self, removed: Sequence[int], added: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Bring in rows with their checked values, and take others out, from the next commit on.

        What was applied already may be applied again. A row that is in both is out.
        """
        writer, add = self._writer, self._add
        gone = set(removed)
        brought = [(row, values) for row, values in added if row not in gone]
        # Rows that may be there already: those that are not above all that ever were.
        doubtful = [*removed, *(row for row, _ in brought if row <= self._highest)]
        with _damaged(self._path):
            if doubtful:
                # By a query: a term of an unsigned field deletes nothing (tantivy 0.27).
                writer.delete_documents_by_query(
                    tantivy.Query.term_set_query(self._native, ROW, doubtful)
                )
            for row, values in brought:
                writer.add_document(document(row, values, add))
                self._highest = max(self._highest, row)
        self._changed = self._changed or bool(removed) or bool(added)

    def commit(self) -> None:
        """Put on disk what was applied; readers see it after their next refresh."""
        if self._changed:
            with _damaged(self._path):
                self._writer.commit()
            self._changed = False

    def close(self) -> None:
        """Let another writer in, once nothing is being written. What was not committed is lost."""
        with suppress(ValueError):  # a writer that has failed
            if self._changed:
                self._writer.rollback()
            self._writer.wait_merging_threads()
        del self._writer


class TextReader:
    """Reads the index as of its last refresh. Threads may search at once."""

    def __init__(self, path: Path, schema: Schema) -> None:
        """Open an index that a writer has made. Raises IndexDamaged."""
        self._path = path
        self._schema = schema
        self._look_at = time.monotonic() + LOOK_EVERY
        self._refreshing = threading.Lock()
        self._state = files.state(path)
        with _damaged(path):
            self._index = tantivy.Index.open(str(path))
            register(self._index, schema)
            self._index.config_reader("manual")
            self._searcher = self._index.searcher()
        self._native = self._index.schema

    @property
    def segments(self) -> int:
        """Parts that a search goes through."""
        return int(self._searcher.num_segments)

    def refresh(self) -> None:
        """See what has been committed up to now."""
        with self._refreshing, _damaged(self._path):  # whoever comes later sees no less
            self._state = files.state(self._path)
            self._index.reload()
            self._searcher = self._index.searcher()

    def search(
        self,
        node: Node,
        *,
        limit: int,
        offset: int = 0,
        sort: Sort | None = None,
        after: Position | None = None,
        total: bool = True,
    ) -> Found:
        """A page of what `node` finds: by score, the best first, or as `sort` says, then by row.

        Equals by score have one order until the next refresh.

        Raises:
            InvalidArgument: the query does not fit the fields, or `after` does not fit the sort.
        """
        self._follow_merges()
        query = self._query(node)
        keys, fields = self._keys(sort)
        searcher = self._searcher
        limit = min(limit, max(1, searcher.num_docs))  # tantivy makes room for all of them
        place = None
        if after is not None:
            place = _place(after, fields if sort else None, searcher.num_docs)
        pages = Pages(searcher, self._native)
        with _damaged(self._path):
            if limit < 1:
                return Found([], [], self._count(searcher, query) if total else 0, [])
            if sort is None and not constant(node):
                hits, first, many = pages.by_score(query, offset, limit, place, total)
                rows, scores = [row for _, row in hits], [score for score, _ in hits]
                return Found(rows, scores, many, [], first)
            many = self._count(searcher, query) if total else 0
            found = pages.by_fields(query, keys, offset, limit, place)
            rows = [row for _, row in found]
            first = offset + (place.seen if place else 0)
            if sort is None:
                scores = self._same_score(searcher, query, len(rows))
                return Found(rows, scores, many, [], first)
            values = [tuple(map(shown, fields, one)) for one, _ in found]
            return Found(rows, [0.0] * len(rows), many, values, first)

    def rows(self, node: Node, most: int) -> Any:
        """The rows of all that `node` finds, ascending (numpy, uint64); None if more than `most`.

        Raises InvalidArgument as `search` does.
        """
        query = self._query(node)
        searcher = self._searcher
        with _damaged(self._path):
            many = self._count(searcher, query)
            if many > most or not many:
                return None if many > most else np.empty(0, np.uint64)
            hits = searcher.search(query, many, False, ROW, 0, tantivy.Order.Asc).hits
            return np.fromiter((row for row, _ in hits), np.uint64, len(hits))

    def facets(self, node: Node, wanted: Mapping[str, FacetSpec]) -> dict[str, Any]:
        """What the values of fields are in all that `node` finds; see `FacetSpec` for the forms.

        Raises InvalidArgument as `search` does, and if a facet has too many buckets.
        """
        query = self._query(node)
        searcher = self._searcher

        def aggregate(asked: dict[str, Any]) -> Any:
            try:
                return searcher.aggregate(query, asked)
            except ValueError as error:
                if "Aborting aggregation" not in str(error):
                    raise
                raise InvalidArgument(
                    f"the facets count too much ({error}): ask for fewer at a time, or coarser ones"
                ) from None

        with _damaged(self._path):
            return facets.count(aggregate, wanted)

    def suggest(
        self, field: str, prefix: str, limit: int, node: Node | None = None
    ) -> list[tuple[str, int]]:
        """Words, or whole values, that begin with `prefix`, with how many documents have them.

        The most frequent first. `node`: among what it finds. Raises InvalidArgument.
        """
        query = None if node is None else self._query(node)
        one = self._schema.field(field)
        searcher = self._searcher
        with _damaged(self._path):
            return completing.completions(searcher, one, prefix, limit, query)

    def explain(self, node: Node, row: int) -> dict[str, Any] | None:
        """How the score of a row comes about; None if `node` does not find it."""
        query = self._query(node)
        searcher = self._searcher
        with _damaged(self._path):
            found = tantivy.Query.boolean_query([
                (tantivy.Occur.Must, query),
                (tantivy.Occur.Must, tantivy.Query.term_query(self._native, ROW, row, "basic")),
            ])  # fmt: skip
            hits = searcher.search(found, 1, False).hits
            if not hits:
                return None
            told: dict[str, Any] = json.loads(query.explain(searcher, hits[0][1]).to_json())
            return _told(told)

    def close(self) -> None:
        """Let go of the files."""
        del self._searcher, self._index

    def _follow_merges(self) -> None:
        """See what was merged since the last refresh, but nothing that was committed since."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY
        state = files.state(self._path, self._state)
        if state != self._state and state.commit == self._state.commit:
            self.refresh()

    def _query(self, node: Node) -> Any:
        searcher = self._searcher
        compiler = Compiler(
            self._schema, self._native, searcher.doc_freq, lambda: int(searcher.num_docs)
        )
        return compiler.query(node)

    def _keys(self, sort: Sort | None) -> tuple[list[Key], list[Field]]:
        fields = [self._schema.field(name) for name, _ in sort.keys] if sort else []
        for one in fields:
            if one.kind == TAGS:
                raise InvalidArgument(f"field {one.name!r} has several values: no order by tags")
        keys = [
            (whole_of(one), descending)
            for one, (_, descending) in zip(fields, sort.keys if sort else (), strict=True)
        ]
        return keys, fields

    def _count(self, searcher: Any, query: Any) -> int:
        return int(searcher.search(query, 1).count)

    def _same_score(self, searcher: Any, query: Any, count: int) -> list[float]:
        return [searcher.search(query, 1, False).hits[0][0]] * count if count else []


class _Damages:
    """The block of `_damaged`."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        path = self._path
        if isinstance(error, ValueError | OSError):
            raise undamaged(path, error) or IndexDamaged(f"{path.name}: {error}") from error
        # Raised by tantivy where it did not expect what it read.
        if type(error).__name__ == "PanicException":
            raise IndexDamaged(f"{path.name}: {error}") from error


def _damaged(path: Path) -> _Damages:
    """Errors of tantivy are damages, unless the system refused: what it is asked was checked."""
    return _Damages(path)


def _highest(searcher: Any) -> int:
    hits = searcher.search(tantivy.Query.all_query(), 1, False, ROW, 0, DESCENDING).hits
    return int(hits[0][0]) if hits else -1


def _place(after: Position, fields: Sequence[Field] | None, documents: int) -> After:
    """Where a page begins, if that can be so: a place may come from a cursor that was made up."""
    values = after.values
    score = fields is None and len(values) == 1 and isinstance(values[0], float)
    if not score and (fields is None or len(values) != len(fields)):
        raise InvalidArgument("the cursor is of a query with another sort")
    if after.row not in range(2**63):
        raise InvalidArgument("the cursor is of no query: there is no such row")
    if fields is not None:
        values = tuple(
            None if value is None else kept(field, value)
            for field, value in zip(fields, values, strict=True)
        )
    return After(values, after.row, after.seen if 0 <= after.seen <= documents else 0)


def _told(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "value": given["value"],
        "description": given["description"],
        "details": [_told(one) for one in given.get("details") or ()],
    }
