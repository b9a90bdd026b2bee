"""From the arguments of a call to an operation of the engine, and from its result to the answer.

Each method checks what it was given and returns an `Act`; nothing is run here. The methods are the
service's own: `handler` offers them under their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mesh.errors import ConfigError, InvalidArgument, ProtocolError
from mesh.protocol import payload
from mesh.protocol import search as limits
from workers.acts import Act, same
from workers.search.asked import Answer, Query, Similar
from workers.search.hits import packed_answer
from workers.search.operations import Given, Op
from workers.search.records import Document
from workers.search.schema import Schema, parse
from workers.search.text.analysis import require


class Verbs:
    """The methods."""

    # ---------------------------------------------------------------- reading

    def get(self, collection: str, id: str) -> Act[Op]:
        """A document; None if there is none with that id."""
        op = Op("get", limits.check_collection(collection), {"key": limits.check_id(id)})
        return Act(op, _fields, _packed)

    def get_many(self, collection: str, ids: list[str]) -> Act[Op]:
        """Those of the documents that there are, by id."""
        keys = limits.check_ids(ids)
        op = Op("get_many", limits.check_collection(collection), {"keys": keys})

        def answer(found: Sequence[Document | None]) -> dict[str, Any]:
            return {one.id: _fields(one) for one in found if one is not None}

        return Act(op, answer)

    def query(
        self,
        collection: str,
        query: str | Mapping[str, Any] | None = None,
        *,
        vector: Any = None,
        vector_field: str = "",
        fields: Sequence[str] = (),
        operator: str = "or",
        filter: Any = None,
        limit: int = 10,
        offset: int = 0,
        cursor: bytes = b"",
        sort: Sequence[Any] = (),
        facets: Mapping[str, Any] | None = None,
        highlight: Any = None,
        source: Any = True,
        explain: bool = False,
        weights: Mapping[str, float] | None = None,
        min_score: float = 0.0,
        total: bool = True,
        k: int = 100,
        fusion: str = "scores",
    ) -> Act[Op]:
        """The documents that fit best, and what was counted on the way."""
        asked = Query(
            limits.check_query(query),
            fields=fields if fields == () else limits.check_fields(fields),
            every=limits.check_operator(operator) == "and",
            filter=limits.check_filter(filter),
            limit=limits.check_limit(limit),
            source=source if source is True else limits.check_source(source),
            explain=bool(explain),
            total=bool(total),
        )
        # Most queries say little: what is not said need not be looked at.
        if vector is not None:
            asked.vector = limits.check_vector(vector)
        if vector_field != "":
            asked.vector_field = limits.check_field(vector_field, "vector_field")
        if k != asked.depth or type(k) is not int:
            asked.depth = limits.check_nearest(k)
        if offset != 0 or type(offset) is not int:
            asked.offset = limits.check_offset(offset)
        if cursor != b"":
            asked.cursor = limits.check_cursor(cursor)
        if sort != ():
            asked.sort = limits.check_sort(sort)
        if facets is not None:
            asked.facets = limits.check_facets(facets)
        if highlight is not None:
            asked.highlight = limits.check_highlight(highlight) or None
        if weights is not None:
            asked.weights = limits.check_weights(weights)
        if fusion != asked.fusion:
            asked.fusion = limits.check_choice("fusion", fusion, limits.FUSIONS)
        if min_score != 0.0 or type(min_score) is not float:
            asked.min_score = limits.check_min_score(min_score)
        op = Op("query", limits.check_collection(collection), {"query": asked})
        return Act(op, _answered, _answer_packed)

    def similar(
        self,
        collection: str,
        ids: Sequence[str] = (),
        *,
        text: str = "",
        fields: Sequence[str] = (),
        vector_field: str = "",
        vector: Any = None,
        unlike: Sequence[str] = (),
        filter: Any = None,
        limit: int = 10,
        offset: int = 0,
        source: Any = True,
        weights: Mapping[str, float] | None = None,
        min_score: float = 0.0,
        k: int = 100,
        fusion: str = "scores",
    ) -> Act[Op]:
        """The documents that resemble some others, or a text; those others are left out."""
        given = Similar(
            limits.check_ids(ids, "ids", limits.MAX_LIKE),
            limits.check_ids(unlike, "unlike", limits.MAX_LIKE),
            limits.check_text(text),
            limits.check_fields(fields),
        )
        if not given.keys and not given.text and vector is None:
            raise InvalidArgument("similar() wants ids, a text or a vector to compare by")
        asked = Query(
            vector=limits.check_vector(vector),
            vector_field=limits.check_field(vector_field, "vector_field"),
            filter=limits.check_filter(filter),
            limit=limits.check_limit(limit),
            offset=limits.check_offset(offset),
            source=limits.check_source(source),
            weights=limits.check_weights(weights),
            min_score=limits.check_min_score(min_score),
            depth=limits.check_nearest(k),
            fusion=limits.check_choice("fusion", fusion, limits.FUSIONS),
        )
        arguments = {"given": given, "query": asked}
        op = Op("similar", limits.check_collection(collection), arguments)
        return Act(op, _answered, _answer_packed)

    def count(
        self,
        collection: str,
        query: str | Mapping[str, Any] | None = None,
        *,
        fields: Sequence[str] = (),
        operator: str = "or",
        filter: Any = None,
    ) -> Act[Op]:
        """How many documents a query finds."""
        arguments = {"query": _plain(query, fields, operator, filter)}
        return Act(Op("count", limits.check_collection(collection), arguments), same)

    def suggest(
        self, collection: str, field: str, prefix: str, *, limit: int = 10, filter: Any = None
    ) -> Act[Op]:
        """How a text that begins with `prefix` may go on: pairs of text and count."""
        arguments = {
            "name": limits.check_field(field),
            "prefix": limits.check_text(prefix, limits.MAX_SUGGESTED, "prefix"),
            "limit": limits.check_limit(limit),
            "filters": limits.check_filter(filter),
        }
        op = Op("suggest", limits.check_collection(collection), arguments)
        return Act(op, lambda found: [list(pair) for pair in found])

    def scan_page(self, collection: str, *, cursor: bytes = b"", limit: int = 100) -> Act[Op]:
        """A page of all documents in the order of their ids, and where the next one begins."""
        arguments = {"after": limits.check_cursor(cursor), "limit": limits.check_limit(limit) or 1}

        def answer(page: tuple[list[tuple[bytes, Document]], bytes]) -> dict[str, Any]:
            found, after = page
            return {"documents": [_fields(document) for _, document in found], "cursor": after}

        return Act(Op("scan", limits.check_collection(collection), arguments), answer)

    def info(self, collection: str) -> Act[Op]:
        """What is known of a collection; None if there is none."""
        return Act(Op("info", limits.check_collection(collection)), same)

    def collections(self) -> Act[Op]:
        """What is known of every collection."""
        return Act(Op("collections", ""), same)

    # ---------------------------------------------------------------- writing

    def create(
        self,
        collection: str,
        schema: Mapping[str, Any] | None = None,
        *,
        dynamic: bool = True,
        refresh_every: float = limits.REFRESH_EVERY,
    ) -> Act[Op]:
        """Make a collection; whether it was not there already."""
        arguments = {
            "schema": _declared({} if schema is None else schema, bool(dynamic)),
            "refresh_every": limits.check_refresh_every(refresh_every),
        }
        op = Op("create", limits.check_collection(collection), arguments)
        return Act(op, lambda created: {"created": created})

    def extend(self, collection: str, schema: Mapping[str, Any]) -> Act[Op]:
        """Add fields to a collection."""
        op = Op("extend", limits.check_collection(collection), {"schema": _declared(schema)})
        return Act(op, same)

    def drop(self, collection: str) -> Act[Op]:
        """Remove a collection with all that is in it; whether there was one."""
        return Act(Op("drop", limits.check_collection(collection)), same)

    def rebuild(self, collection: str) -> Act[Op]:
        """Begin to build the index anew from the documents."""
        return Act(Op("rebuild", limits.check_collection(collection)), same)

    def index(
        self,
        collection: str,
        documents: list[Any],
        *,
        only_if: str = "",
        refresh: str = "interval",
        packed: bool = False,
    ) -> Act[Op]:
        """Write documents, in the place of those that have their ids; all or none.

        With `packed` each is MessagePack.
        """
        given = _given(documents, packed)
        arguments = {"documents": given, "only_if": limits.check_only_if(only_if)}
        op = Op("index", limits.check_collection(collection), arguments)
        op.wait = limits.check_refresh(refresh) == "wait"
        return Act(op, _written(given))

    def update(
        self,
        collection: str,
        documents: list[Any],
        *,
        upsert: bool = False,
        refresh: str = "interval",
        packed: bool = False,
    ) -> Act[Op]:
        """Replace single fields of documents, all or none; None removes one."""
        given = _given(documents, packed)
        op = Op("update", limits.check_collection(collection),
                {"documents": given, "upsert": bool(upsert)})  # fmt: skip
        op.wait = limits.check_refresh(refresh) == "wait"
        return Act(op, _written(given))

    def delete(self, collection: str, ids: list[str], *, refresh: str = "interval") -> Act[Op]:
        """Remove documents; how many there were."""
        op = Op("delete", limits.check_collection(collection), {"keys": limits.check_ids(ids)})
        op.wait = limits.check_refresh(refresh) == "wait"
        return Act(op, same)

    # ---------------------------------------------------------------- for the handler

    def found_rows(
        self,
        collection: str,
        query: str | Mapping[str, Any] | None,
        fields: Sequence[str],
        operator: str,
        filter: Any,
    ) -> Op:
        """What finds the rows of a query."""
        arguments = {"query": _plain(query, fields, operator, filter)}
        return Op("rows", limits.check_collection(collection), arguments)


def _declared(given: Any, dynamic: bool = True) -> Schema:
    """A schema as it is declared, of which everything is installed. Raises InvalidArgument."""
    found = parse(given, dynamic)
    try:
        for field in found.texts:
            require(field.analyzer)
    except ConfigError as error:
        raise InvalidArgument(f"where the search service runs, {error}") from None
    return found


def _plain(query: Any, fields: Sequence[str], operator: str, filters: Any) -> Query:
    return Query(
        query=limits.check_query(query),
        fields=limits.check_fields(fields),
        every=limits.check_operator(operator) == "and",
        filter=limits.check_filter(filters),
    )


def _given(documents: Any, packed: bool) -> list[Given]:
    """Documents as the store takes them."""
    bodies: list[bytes] = []
    if packed and isinstance(documents, list | tuple):
        bodies = [*documents]
        documents = [_unpacked(body, index) for index, body in enumerate(bodies)]
    checked = limits.check_documents(documents)
    if not bodies:
        bodies = [
            payload.encode({"id": name, **values}, root=f"documents[{index}]")
            for index, (name, _, values) in enumerate(checked)
        ]
    found: list[Given] = []
    octets = 0
    for (name, key, values), body in zip(checked, bodies, strict=True):
        octets += len(body)
        found.append(Given(name, key, values, body))
    if octets > limits.MAX_BATCH:
        raise InvalidArgument(
            f"documents of {octets:,} octets in one call, the limit is {limits.MAX_BATCH:,}: "
            "make several, or use load()"
        )
    return found


def _unpacked(body: Any, index: int) -> Any:
    if not isinstance(body, bytes):
        raise InvalidArgument(f"documents[{index}] is not MessagePack, as packed=True says")
    try:
        return payload.decode(body)
    except ProtocolError as error:
        raise InvalidArgument(f"documents[{index}] cannot be read: {error}") from None


def _written(given: list[Given]) -> Callable[[Any], dict[str, Any]]:
    def answer(result: tuple[int, list[int] | None]) -> dict[str, Any]:
        version, done = result
        names = [one.id for one in given]
        return {
            "ids": names if done is None else [names[index] for index in done],
            "version": version,
        }

    return answer


def _fields(document: Document | None) -> dict[str, Any] | None:
    if document is None:
        return None
    values: dict[str, Any] = payload.decode(document.body)
    return values


def _packed(document: Document | None) -> bytes:
    return b"\xc0" if document is None else document.body


def _answered(answer: Answer) -> Any:
    return payload.decode(_answer_packed(answer))


def _answer_packed(answer: Answer) -> bytes:
    return packed_answer(
        answer.hits,
        {
            "total": answer.total,
            "cursor": answer.cursor,
            "facets": answer.facets,
            "refreshed": answer.refreshed,
            "took": answer.took,
        },
    )
