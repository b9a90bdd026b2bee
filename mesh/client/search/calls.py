"""The verbs of the search service as a client calls them: what goes out, how an answer is read.

Nothing is called here: each function checks its arguments and describes one request. The blocking
and the asyncio client turn these functions into their methods; the result is then that of the
answer.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from mesh.client.search.embedding import Vector, packed
from mesh.client.search.requests import (
    CollectionInfo,
    Hits,
    Written,
    collection_info,
    hits,
    written,
)
from mesh.client.verbs import Request
from mesh.errors import InvalidArgument
from mesh.protocol import payload
from mesh.protocol import search as limits

Absence = Literal["", "absent", "present"]
Refresh = Literal["interval", "wait"]
Operator = Literal["or", "and"]
Fusion = Literal["scores", "ranks"]
Query: TypeAlias = str | Mapping[str, Any]
Filter: TypeAlias = Query | Sequence[Query]
"""All of a list must hold; a mapping may also say {field: value}, {field: [values]}."""
Documents: TypeAlias = Mapping[str, Any] | Iterable[Mapping[str, Any]]
Sort: TypeAlias = str | Sequence[str | Sequence[str]]


_PLAIN = (str, int, float, list, bool)
"""Types that most values have: looking for a method in vain takes longer than all else."""


def _nothing(answer: Any) -> None:
    return None


def _same(answer: Any) -> Any:
    return answer


def _given(**values: Any) -> dict[str, Any]:
    """Keyword arguments without those that say nothing."""
    return {name: value for name, value in values.items() if value}


def names(given: str | Iterable[str], what: str = "fields") -> list[str]:
    """Names of fields; a text is one. Raises InvalidArgument."""
    return limits.check_fields([given] if isinstance(given, str) else list(given), what)


def _ids(given: str | Iterable[str], what: str = "ids", most: int = limits.MAX_MANY) -> list[str]:
    found = [given] if isinstance(given, str) else list(given)
    limits.check_ids(found, what, most)
    return found


def document(given: Mapping[str, Any], what: str = "document") -> dict[str, Any]:
    """A document as it is sent: with an id, which is made here if it has none.

    So a call that is made again is the same call. Raises InvalidArgument.
    """
    found = dict(given) if type(given) is dict or isinstance(given, Mapping) else given
    if isinstance(found, dict) and found.get("id") is None:
        found["id"] = uuid.uuid4().hex
    _, _, fields = limits.check_document(found, what)
    for name, value in fields.items():
        if type(value) not in _PLAIN and hasattr(value, "tolist") and hasattr(value, "tobytes"):
            found[name] = packed(value, f"{what}: {name}")
    return found


def documents_of(given: Documents) -> list[dict[str, Any]]:
    """The documents of one call as they are sent. Raises InvalidArgument."""
    found = [given] if isinstance(given, Mapping) else given
    if isinstance(found, str | bytes) or not isinstance(found, Iterable):
        raise InvalidArgument(f"documents={found!r:.60} is not a list of documents")
    sent = [document(one, f"documents[{index}]") for index, one in enumerate(found)]
    limits.check_count(len(sent))
    return sent


def changes_of(given: Documents) -> list[dict[str, Any]]:
    """The documents of one update as they are sent. Raises InvalidArgument."""
    found = given if isinstance(given, Mapping | str | bytes) else list(given)
    for number, one in enumerate([found] if isinstance(found, Mapping) else found):
        if isinstance(one, Mapping) and one.get("id") is None:
            raise InvalidArgument(f"documents[{number}]: an update names its document by id")
    return documents_of(found)


# -------------------------------------------------------------------- collections


def create(
    collection: str,
    schema: Mapping[str, Any] | None = None,
    *,
    dynamic: bool = True,
    refresh_every: float = limits.REFRESH_EVERY,
) -> Request[bool]:
    """Make a collection; False if there is the same one already.

    Args:
        schema: its fields, as in {"title": text(boost=2), "author": "keyword"}.
        dynamic: whether documents may bring further fields.
        refresh_every: seconds until searches see a change, at the latest.

    Raises:
        InvalidArgument: there is another one of that name.
    """
    kwargs = {"dynamic": bool(dynamic), "refresh_every": limits.check_refresh_every(refresh_every)}
    args = (limits.check_collection(collection), dict(schema or {}))
    return Request("create", args, kwargs, lambda found: bool(found["created"]))


def extend(collection: str, schema: Mapping[str, Any]) -> Request[None]:
    """Declare further fields. The index is built anew while searches go on."""
    args = (limits.check_collection(collection), dict(schema))
    return Request("extend", args, {}, _nothing)


def drop(collection: str) -> Request[bool]:
    """Remove a collection with all that is in it; whether there was one."""
    return Request("drop", (limits.check_collection(collection),), {}, bool)


def rebuild(collection: str) -> Request[None]:
    """Have the index built anew from the documents, while searches go on; `info` tells of it."""
    return Request("rebuild", (limits.check_collection(collection),), {}, _nothing)


def info(collection: str) -> Request[CollectionInfo | None]:
    """What is known of a collection; None if there is none."""

    def read(found: Any) -> CollectionInfo | None:
        return None if found is None else collection_info(found)

    return Request("info", (limits.check_collection(collection),), {}, read, True)


def collections() -> Request[list[CollectionInfo]]:
    """All collections, by name."""
    return Request("collections", (), {}, lambda found: [*map(collection_info, found)], True)


# -------------------------------------------------------------------- writing


def index(
    collection: str,
    documents: Documents,
    *,
    only_if: Absence = "",
    refresh: Refresh = "interval",
) -> Request[Written]:
    """Write up to 1,000 documents, all or none; see `Search.index`."""
    found = documents_of(documents)
    return indexed(collection, [*map(pack, found)], only_if=only_if, refresh=refresh)


def indexed(
    collection: str, packed: list[bytes], *, only_if: str = "", refresh: str = "interval"
) -> Request[Written]:
    """The same of documents that are packed already."""
    kwargs = _given(only_if=limits.check_only_if(only_if), refresh=_refresh(refresh), packed=True)
    return Request("index", (limits.check_collection(collection), packed), kwargs, written)


def pack(document: Mapping[str, Any]) -> bytes:
    """A document as it travels and is kept. Raises InvalidArgument."""
    try:
        return payload.encode(document)
    except InvalidArgument:  # once more, to say which
        return payload.encode(document, root=f"document {document['id']!r}")


def update(
    collection: str,
    documents: Documents,
    *,
    upsert: bool = False,
    refresh: Refresh = "interval",
) -> Request[Written]:
    """Replace single fields of up to 1,000 documents; see `Search.update`."""
    kwargs = _given(upsert=bool(upsert), refresh=_refresh(refresh), packed=True)
    args = (limits.check_collection(collection), [*map(pack, changes_of(documents))])
    return Request("update", args, kwargs, written)


def delete(collection: str, *ids: str, refresh: Refresh = "interval") -> Request[int]:
    """Remove up to 1,000 documents by their ids; how many there were."""
    args = (limits.check_collection(collection), _ids(ids))
    return Request("delete", args, _given(refresh=_refresh(refresh)), _same)


def delete_by_query(
    collection: str,
    query: Query,
    *,
    fields: str | Sequence[str] = (),
    operator: Operator = "or",
    filter: Filter | None = None,
    refresh: Refresh = "interval",
) -> Request[int]:
    """Remove all documents that match, also those just written; how many there were."""
    if not query:
        raise InvalidArgument("delete_by_query wants a query; drop() removes a whole collection")
    args = (limits.check_collection(collection), limits.check_query(query))
    kwargs = _asked(fields, operator, filter) | _given(refresh=_refresh(refresh))
    return Request("delete_by_query", args, kwargs, _same)


def _refresh(refresh: str) -> str:
    return "" if limits.check_refresh(refresh) == "interval" else refresh


# -------------------------------------------------------------------- reading


def get(collection: str, id: str) -> Request[dict[str, Any] | None]:
    """The document with that id as it was written last; None if there is none."""
    limits.check_id(id)
    return Request("get", (limits.check_collection(collection), id), {}, _same, True)


def get_many(collection: str, ids: Iterable[str]) -> Request[dict[str, dict[str, Any]]]:
    """Those of up to 1,000 documents that exist, by id."""
    args = (limits.check_collection(collection), _ids(ids))
    return Request("get_many", args, {}, _same, True)


def query(
    collection: str,
    query: Query | None = None,
    *,
    vector: Vector | None = None,
    vector_field: str = "",
    fields: str | Sequence[str] = (),
    operator: Operator = "or",
    filter: Filter | None = None,
    limit: int = 10,
    offset: int = 0,
    cursor: bytes = b"",
    sort: Sort = (),
    facets: Mapping[str, Any] | None = None,
    highlight: str | Sequence[str] | Mapping[str, Any] = (),
    source: bool | Sequence[str] = True,
    explain: bool = False,
    weights: Mapping[str, float] | None = None,
    min_score: float = 0.0,
    total: bool = True,
    k: int = 100,
    fusion: Fusion = "scores",
) -> Request[Hits]:
    """Look for documents; see `Search.query`."""
    kwargs: dict[str, Any] = {}  # what is as usual is neither checked nor sent: that takes time
    if vector is not None:
        kwargs["vector"] = packed(vector)
    if vector_field != "":
        kwargs["vector_field"] = limits.check_field(vector_field, "vector_field")
    if _differs(offset, 0):
        kwargs["offset"] = limits.check_offset(offset)
    if _differs(cursor, b""):
        kwargs["cursor"] = limits.check_cursor(cursor)
    if _differs(sort, ()) and (order := sorting(sort)):
        kwargs["sort"] = order
    if facets:
        kwargs["facets"] = limits.check_facets(facets)
    if highlight:
        kwargs["highlight"] = limits.check_highlight(
            [highlight] if isinstance(highlight, str) else highlight
        )
    if explain:
        kwargs["explain"] = True
    if weights:
        kwargs["weights"] = limits.check_weights(weights)
    if _differs(min_score, 0.0) and (least := limits.check_min_score(min_score)):
        kwargs["min_score"] = least
    if _differs(fields, ()) and (among := names(fields)):
        kwargs["fields"] = among
    if filter is not None and (held := limits.check_filter(filter)):
        kwargs["filter"] = held
    if operator != "or":
        kwargs["operator"] = limits.check_operator(operator)
    if _differs(limit, 10):
        kwargs["limit"] = limits.check_limit(limit)
    if source is not True:
        kwargs["source"] = limits.check_source(source)
    if not total:
        kwargs["total"] = False
    if _differs(k, 100):
        kwargs["k"] = limits.check_nearest(k)
    if fusion != "scores":
        kwargs["fusion"] = limits.check_choice("fusion", fusion, limits.FUSIONS)
    args = (limits.check_collection(collection), limits.check_query(query))
    return Request("query", args, kwargs, hits, True)


def similar(
    collection: str,
    ids: str | Iterable[str] = (),
    *,
    text: str = "",
    vector: Vector | None = None,
    fields: str | Sequence[str] = (),
    vector_field: str = "",
    unlike: str | Iterable[str] = (),
    filter: Filter | None = None,
    limit: int = 10,
    offset: int = 0,
    source: bool | Sequence[str] = True,
    weights: Mapping[str, float] | None = None,
    min_score: float = 0.0,
    k: int = 100,
    fusion: Fusion = "scores",
) -> Request[Hits]:
    """Documents that are like some others, or like a text; see `Search.similar`."""
    alike = _ids(ids, "ids", limits.MAX_LIKE)
    if not alike and not text and vector is None:
        raise InvalidArgument("similar wants ids, a text or a vector to compare with")
    kwargs = _given(
        text=limits.check_text(text),
        vector=None if vector is None else packed(vector),
        fields=names(fields),
        vector_field=limits.check_field(vector_field, "vector_field"),
        unlike=_ids(unlike, "unlike", limits.MAX_LIKE),
        filter=limits.check_filter(filter),
        offset=limits.check_offset(offset),
        weights=limits.check_weights(weights) if weights else None,
        min_score=limits.check_min_score(min_score),
    )
    kwargs |= _unless(
        limit=(limits.check_limit(limit), 10),
        source=(limits.check_source(source), True),
        k=(limits.check_nearest(k), 100),
        fusion=(limits.check_choice("fusion", fusion, limits.FUSIONS), "scores"),
    )
    args = (limits.check_collection(collection), alike)
    return Request("similar", args, kwargs, hits, True)


def suggest(
    collection: str, field: str, prefix: str, *, limit: int = 10, filter: Filter | None = None
) -> Request[list[tuple[str, int]]]:
    """Words or values of a field that begin with `prefix`, the most frequent first.

    With each comes the number of documents that have it.
    """
    args = (
        limits.check_collection(collection),
        limits.check_field(field),
        limits.check_text(prefix, limits.MAX_SUGGESTED, "prefix"),
    )
    kwargs = _given(filter=limits.check_filter(filter))
    kwargs |= _unless(limit=(limits.check_limit(limit), 10))
    return Request("suggest", args, kwargs, lambda found: [(one[0], one[1]) for one in found], True)


def count(
    collection: str,
    query: Query | None = None,
    *,
    fields: str | Sequence[str] = (),
    operator: Operator = "or",
    filter: Filter | None = None,
) -> Request[int]:
    """How many documents match; all without a query."""
    args = (limits.check_collection(collection), limits.check_query(query))
    return Request("count", args, _asked(fields, operator, filter), _same, True)


def _asked(
    fields: str | Sequence[str], operator: Operator, filter: Filter | None
) -> dict[str, Any]:
    """What goes with every query, checked."""
    found = _given(fields=names(fields), filter=limits.check_filter(filter))
    return found | _unless(operator=(limits.check_operator(operator), "or"))


def sorting(sort: Sort) -> list[list[str]]:
    """Pairs of field and order; "-name" is name, downwards. Raises InvalidArgument."""
    given = [sort] if isinstance(sort, str) else sort
    found: Any = given
    if isinstance(given, list | tuple):
        found = [_order(one) if isinstance(one, str) else one for one in given]
    return [list(pair) for pair in limits.check_sort(found)]


def _order(name: str) -> tuple[str, str]:
    return (name[1:], "desc") if name.startswith("-") else (name, "asc")


def _unless(**given: tuple[Any, Any]) -> dict[str, Any]:
    """Keyword arguments without those that are what the service takes anyway."""
    return {name: value for name, (value, usual) in given.items() if _differs(value, usual)}


def _differs(value: Any, usual: Any) -> bool:
    return bool(value != usual or type(value) is not type(usual))
