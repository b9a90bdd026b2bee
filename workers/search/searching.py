"""Running queries: the documents of the hits, and what else is told of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from mesh.errors import InvalidArgument, StoreBusy
from mesh.protocol import payload
from mesh.protocol.search import MAX_ROWS, check_answer
from workers.search.asked import (
    EVERYTHING,
    Answer,
    Query,
    Similar,
    filtered,
    text_node,
    vector_of,
    vectors_of,
)
from workers.search.derived import IndexDamaged
from workers.search.hits import NOTHING, joined, packed_hit
from workers.search.legs import Ranked, text_leg, vector_legs, vectors_alone
from workers.search.query.nodes import Node
from workers.search.query.structured import filter_of
from workers.search.readers import OpenIndex, Readers
from workers.search.records import Collection, Document, read_document, row_keys
from workers.search.resembling import numbers, resembling, rows_of
from workers.search.schema import KEYWORD, TAGS, TEXT, Schema
from workers.search.text import facets
from workers.search.text.facets import FacetSpec
from workers.search.text.highlight import highlight
from workers.search.view import Moment, View

T = TypeVar("T")

ATTEMPTS: Final = 3


class _Gone(Exception):
    """The document of a hit is not there: the index is of an earlier or later moment."""


class Searcher:
    """Runs queries over the indexes of `readers`, each at a moment of its own."""

    def __init__(self, readers: Readers, moment: Callable[[], Moment]) -> None:
        self._readers = readers
        self._moment = moment

    def query(self, collection: str, query: Query) -> Answer:
        """Run a query as of the last refresh."""
        began = time.perf_counter()

        def run(view: View, found: Collection, index: OpenIndex) -> Answer:
            node = None
            vector = None if query.vector is None else vector_of(query, index.schema)
            if query.query is not None or vector is None:
                node = text_node(query, index.schema)
            return _run(view, found, index, query, node, vector, (), began)

        return self._with_index(collection, run, lambda schema: _nothing(query, schema, began))

    def nearest(self, collection: str, queries: Sequence[Query]) -> list[Answer]:
        """The answers to queries for nothing but vectors that are `alike`, searched for at once.

        None if nothing has been indexed yet. What is wrong with one of them is raised for all.
        """
        began = time.perf_counter()

        def run(view: View, found: Collection, index: OpenIndex) -> list[Answer]:
            ranked = vectors_alone(index, queries, vectors_of(queries, index.schema))
            hits = [
                _hits(view, found, index, query, one, None)
                for query, one in zip(queries, ranked, strict=True)
            ]
            took = time.perf_counter() - began
            return [
                Answer(packed, one.total, one.cursor, {}, index.applied, took)
                for packed, one in zip(hits, ranked, strict=True)
            ]

        return self._with_index(collection, run, lambda schema: [])

    def similar(self, collection: str, given: Similar, query: Query) -> Answer:
        """Documents that resemble others, which are left out."""
        began = time.perf_counter()

        def run(view: View, found: Collection, index: OpenIndex) -> Answer:
            rows = rows_of(view, found, given.keys)
            against = rows_of(view, found, given.unlike)
            node, vector = resembling(view, found, index.schema, given, query, rows, against)
            if query.vector is not None:
                vector = vector_of(query, index.schema)
            if node is None and vector is None:
                raise InvalidArgument(
                    "nothing to compare by: the documents have neither texts nor a vector in the "
                    "fields asked for"
                )
            return _run(view, found, index, query, node, vector, {*rows, *against}, began)

        return self._with_index(collection, run, lambda schema: _nothing(query, schema, began))

    def count(self, collection: str, query: Query) -> int:
        """How many documents a query finds."""

        def run(view: View, found: Collection, index: OpenIndex) -> int:
            return index.text.search(_asked(query, index.schema), limit=0).total

        return self._with_index(collection, run, lambda schema: 0)

    def rows(self, collection: str, query: Query) -> list[int]:
        """The rows of all documents that a query finds."""

        def run(view: View, found: Collection, index: OpenIndex) -> list[int]:
            rows = index.text.rows(_asked(query, index.schema), MAX_ROWS)
            if rows is None:
                raise InvalidArgument(f"more than {MAX_ROWS:,} documents: narrow the query")
            return [int(row) for row in rows]

        return self._with_index(collection, run, lambda schema: [])

    def suggest(
        self, collection: str, name: str, prefix: str, limit: int, filters: Any
    ) -> list[tuple[str, int]]:
        """How a text that begins with `prefix` may go on, the most frequent first."""

        def run(view: View, found: Collection, index: OpenIndex) -> list[tuple[str, int]]:
            index.schema.field(name)
            node = None if filters is None else filter_of(filters, index.schema)
            return index.text.suggest(name, prefix, limit, node)

        return self._with_index(collection, run, lambda schema: [])

    def _with_index(
        self,
        collection: str,
        run: Callable[[View, Collection, OpenIndex], T],
        nothing: Callable[[Schema], T],
    ) -> T:
        """What `run` returns, or `nothing` if nothing has been indexed yet.

        Raises:
            InvalidArgument: there is no such collection.
            StoreBusy: its index cannot be read at this moment.
        """
        for _ in range(ATTEMPTS):
            with self._moment() as view:
                found = view.existing(collection)
                index = self._readers.of(found, view.state(found.number))
                if index is None:
                    return nothing(found.schema)
                try:
                    return run(view, found, index)
                except _Gone:
                    continue
                except IndexDamaged as error:
                    raise self._readers.damaged(found, error) from None
                except InvalidArgument as error:
                    raise _explained(error, index.schema, found.schema) from None
        raise StoreBusy(
            f"the index of collection {collection!r} and its documents do not agree, "
            "time after time; rebuild() it if that remains",
            retry_after=0.2,
        )


def _explained(error: InvalidArgument, indexed: Schema, declared: Schema) -> InvalidArgument:
    """The error, if it is about a field that the index lacks still with a word of that."""
    for name in [*declared.fields][len(indexed.fields) :]:
        if repr(name) in error.message:
            error.message += f"\n({name} is new: it is searched once the index has it)"
            error.args = (error.message,)
    return error


def _run(
    view: View,
    found: Collection,
    index: OpenIndex,
    query: Query,
    node: Node | None,
    vector: bytes | None,
    without: Sequence[int] | set[int],
    began: float,
) -> Answer:
    schema = index.schema
    if vector is not None:
        ranked = vector_legs(index, query, node, vector, without)
    else:
        ranked = text_leg(index, query, filtered(node or EVERYTHING, query, schema), without)
    hits = _hits(view, found, index, query, ranked, node)
    counts: dict[str, Any] = {}
    if query.facets:
        counts = index.text.facets(
            filtered(node or EVERYTHING, query, schema), _facets(query, schema)
        )
    took = time.perf_counter() - began
    return Answer(hits, ranked.total, ranked.cursor, counts, index.applied, took)


def _hits(
    view: View,
    found: Collection,
    index: OpenIndex,
    query: Query,
    ranked: Ranked,
    node: Node | None,
) -> list[bytes]:
    hits: list[bytes] = []
    whole = query.source is True
    more = query.highlight is not None or query.explain or bool(query.source) is not whole
    told = ranked.told
    octets = 0
    keys = row_keys(found.number, ranked.rows)
    for at, row in enumerate(ranked.rows):
        record = view.record_at(found, keys[at])
        if record is None:
            raise _Gone
        one = told[at] if told else NOTHING
        if more:
            one = joined(one, _more(read_document(record), row, index, query, node))
        hits.append(packed_hit(record, row, ranked.scores[at], one, whole))
        if query.source:
            octets += len(hits[-1])
            check_answer(octets, "ask for fewer at a time (limit, page), or for single fields")
    return hits


def _more(
    document: Document, row: int, index: OpenIndex, query: Query, node: Node | None
) -> dict[str, Any]:
    """What is told of a hit only if it was asked for."""
    found: dict[str, Any] = {}
    if query.highlight is not None and node is not None:
        found["highlight"] = _highlighted(document, node, index.schema, query.highlight)
    if query.explain and node is not None:
        found["explain"] = index.text.explain(node, row)
    if query.source and query.source is not True:
        found["source"] = _selected(document, query.source)
    return found


def _asked(query: Query, schema: Schema) -> Node:
    """All that a query without a vector demands. Raises InvalidArgument."""
    return filtered(text_node(query, schema), query, schema)


def _facets(query: Query, schema: Schema) -> dict[str, FacetSpec]:
    """What is to be counted. Raises InvalidArgument."""
    return {name: FacetSpec.parse(name, one, schema) for name, one in query.facets.items()}


def _nothing(query: Query, schema: Schema, began: float) -> Answer:
    """The answer where nothing has been indexed; what is wrong with the query is said all the same.

    Raises InvalidArgument.
    """
    _asked(query, schema)
    counts = facets.nothing(_facets(query, schema))
    total = 0 if query.total else None
    return Answer([], total, b"", counts, 0, time.perf_counter() - began)


def _selected(document: Document, names: Sequence[str]) -> dict[str, Any]:
    """The document with its id and those fields alone; vectors as lists of numbers."""
    values = payload.decode(document.body)
    for name, vector in document.vectors.items():
        values[name] = numbers(vector).tolist()
    return {name: values[name] for name in ("id", *names) if name in values}


def _highlighted(
    document: Document, node: Node, schema: Schema, wanted: Mapping[str, Any]
) -> dict[str, list[str]]:
    values = payload.decode(document.body)
    options = {name: value for name, value in wanted.items() if name != "fields"}
    found: dict[str, list[str]] = {}
    for name in wanted["fields"]:
        value = values.get(name)
        if value is not None and schema.field(name).kind in (TEXT, KEYWORD, TAGS):
            texts = [value] if isinstance(value, str) else list(value)
            fragments = highlight(node, schema, name, texts, **options)
            if fragments:
                found[name] = fragments
    return found
