"""What takes several calls, or vectors that are made here, as plans: what to do, without doing it.

A plan is a generator. It yields a step and is sent the step's outcome, or thrown its error; what it
returns is the result. The blocking and the asyncio client follow the same plans.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from mesh.client.search import calls
from mesh.client.search.embedding import Document, Embed, Embedding, Vector, choose
from mesh.client.search.requests import Hits, Written
from mesh.client.verbs import Request
from mesh.errors import InvalidArgument

T = TypeVar("T")


@dataclass(slots=True)
class Compute:
    """Make vectors of texts; the outcome is as many, packed."""

    texts: list[str]
    by: Embed


Plan: TypeAlias = Generator[Request[Any] | Compute, Any, T]


def index(
    collection: str,
    documents: calls.Documents,
    *,
    only_if: calls.Absence = "",
    refresh: calls.Refresh = "interval",
    embed: Embed | None = None,
    embed_field: str = "",
    embed_from: str | Sequence[str] = (),
) -> Plan[Written]:
    """Write up to 1,000 documents, all or none; what has their id is replaced.

    A document is a mapping of fields to values. Its "id" is text of up to 480 octets, made here if
    it has none. A collection that does not exist is made. What this returns for is on disk.

    Args:
        only_if: "absent", "present": documents for which that does not hold are left out.
        refresh: "wait": return once searches see the documents; else that takes `refresh_every`.
        embed: makes the vectors of documents that have none: a function of a list of texts, or
            "service.method".
        embed_field: where the vectors go to; the only field of vectors, if there is one.
        embed_from: which fields they are made of; all text fields.

    Raises:
        InvalidArgument: a document does not fit; `data["id"]` says which. Nothing was written.
    """
    if embed is not None:
        documents = found = calls.documents_of(documents)
        how = yield from embedding(collection, embed, embed_field, embed_from)
        yield from embedded(how, found)
    written: Written = yield calls.index(collection, documents, only_if=only_if, refresh=refresh)
    return written


def update(
    collection: str,
    documents: calls.Documents,
    *,
    upsert: bool = False,
    refresh: calls.Refresh = "interval",
    embed: Embed | None = None,
    embed_field: str = "",
    embed_from: str | Sequence[str] = (),
) -> Plan[Written]:
    """Replace single fields of up to 1,000 documents, all or none; None removes a field.

    With `embed`, documents that bring a field of which vectors are made get a new one; what else it
    is made of is read first.

    Args:
        upsert: write documents that do not exist.
        refresh: as for `index`; also the rest.

    Raises:
        InvalidArgument: a document does not exist, or does not fit; nothing was written.
    """
    if embed is not None:
        changes = calls.changes_of(documents)
        how = yield from embedding(collection, embed, embed_field, embed_from)
        yield from _embedded_anew(collection, how, changes)
        documents = changes
    written: Written = yield calls.update(collection, documents, upsert=upsert, refresh=refresh)
    return written


def query(
    collection: str,
    query: calls.Query | None = None,
    *,
    vector: Vector | None = None,
    vector_field: str = "",
    fields: str | Sequence[str] = (),
    operator: calls.Operator = "or",
    filter: calls.Filter | None = None,
    limit: int = 10,
    offset: int = 0,
    cursor: bytes = b"",
    sort: calls.Sort = (),
    facets: Mapping[str, Any] | None = None,
    highlight: str | Sequence[str] | Mapping[str, Any] = (),
    source: bool | Sequence[str] = True,
    explain: bool = False,
    weights: Mapping[str, float] | None = None,
    min_score: float = 0.0,
    total: bool = True,
    k: int = 100,
    fusion: calls.Fusion = "scores",
    embed: Embed | None = None,
    embed_text: str = "",
) -> Plan[Hits]:
    """Look for documents by words, by a vector, or by both; the best come first.

    m.search.query("docs", 'title:cache AND "consistent hashing"', filter="year:[2020 TO *]")

    Args:
        query: words and operators, or a mapping as {"match": {"title": "cache"}}; None for all.
        vector: documents whose vector is near this one.
        vector_field: which of their vectors; needed if they have several.
        fields: those that are searched where the query names none; all text fields.
        operator: "and": all words of the query must be there.
        filter: a query that must hold, and does not count; or {field: value}; or a list of those.
        limit: hits, up to 1,000; `offset`: hits passed over, up to 10,000; `cursor`: of the page
            before, to go on from there however far that is.
        sort: fields to order by, as in "-published" or [("year", "desc"), ("title", "asc")].
        facets: what is counted over all that match, as in {"by": {"kind": "terms", "field":
            "author"}}, or {"by": "author"}.
        highlight: fields of which fragments are shown, or a mapping with fields, size, count,
            before, after, escape.
        source: whether hits bring their documents, or which fields of them.
        explain: how each score comes about.
        weights: how much words and vectors count; {"text": 1.0, "vector": 0.6}.
        min_score: hits below are left out.
        total: whether all that match are counted.
        k: of how many of the nearest vectors, beside as many of the best by words.
        fusion: "scores": hits by words and by vector are compared by how far they stand out;
            "ranks": by their ranks alone.
        embed: makes the vector of the query, or of `embed_text`: a function of a list of texts, or
            "service.method".

    Raises:
        InvalidArgument: the query makes no sense; `data["position"]` says where.
    """
    if embed is not None and vector is None:
        vector = yield from _vector_of(embed, embed_text or query)
    found: Hits = yield calls.query(
        collection, query, vector=vector, vector_field=vector_field, fields=fields,
        operator=operator, filter=filter, limit=limit, offset=offset, cursor=cursor, sort=sort,
        facets=facets, highlight=highlight, source=source, explain=explain, weights=weights,
        min_score=min_score, total=total, k=k, fusion=fusion,
    )  # fmt: skip
    return found


def similar(
    collection: str,
    ids: str | Iterable[str] = (),
    *,
    text: str = "",
    vector: Vector | None = None,
    fields: str | Sequence[str] = (),
    vector_field: str = "",
    unlike: str | Iterable[str] = (),
    filter: calls.Filter | None = None,
    limit: int = 10,
    offset: int = 0,
    source: bool | Sequence[str] = True,
    weights: Mapping[str, float] | None = None,
    min_score: float = 0.0,
    k: int = 100,
    fusion: calls.Fusion = "scores",
    embed: Embed | None = None,
) -> Plan[Hits]:
    """Documents that are like some others, or like a text: by telling words and by vectors.

    Those that are given are left out. Vectors are compared with the mean of theirs, less that of
    `unlike`.

    Args:
        ids: of documents; `text`: what to compare with beside or instead of them.
        unlike: of documents that are the opposite of what is wanted.
        embed: makes the vector of `text`; as for `query`, also the rest.
    """
    if embed is not None and vector is None:
        vector = yield from _vector_of(embed, text)
    found: Hits = yield calls.similar(
        collection, ids, text=text, vector=vector, fields=fields, vector_field=vector_field,
        unlike=unlike, filter=filter, limit=limit, offset=offset, source=source, weights=weights,
        min_score=min_score, k=k, fusion=fusion,
    )  # fmt: skip
    return found


# -------------------------------------------------------------------- vectors


def embedding(
    collection: str, by: Embed, field: str, fields: str | Sequence[str]
) -> Generator[Request[Any], Any, Embedding]:
    """How documents of the collection get their vectors."""
    found = yield calls.info(collection)
    return choose(collection, found, by, field, calls.names(fields, "embed_from"))


def embedded(how: Embedding, documents: Sequence[Document]) -> Generator[Compute, Any, None]:
    """Give those documents a vector that have text and none."""
    lacking = how.lacking(documents)
    if lacking:
        vectors = yield Compute([how.text(one) for one in lacking], how.by)
        for one, vector in zip(lacking, vectors, strict=True):
            one[how.field] = vector


def _embedded_anew(collection: str, how: Embedding, documents: Sequence[Document]) -> Plan[None]:
    touched = [
        one for one in documents if how.field not in one and any(name in one for name in how.fields)
    ]
    partial = [one["id"] for one in touched if not all(name in one for name in how.fields)]
    there = (yield calls.get_many(collection, partial)) if partial else {}
    merged = [{**there.get(one["id"], {}), **one, how.field: None} for one in touched]
    yield from embedded(how, merged)
    for one, whole in zip(touched, merged, strict=True):
        one[how.field] = whole[how.field]


def _vector_of(by: Embed, text: Any) -> Generator[Compute, Any, bytes]:
    if not isinstance(text, str) or not text.strip():
        raise InvalidArgument("embed: there is no text to make a vector of; say it with embed_text")
    found: list[bytes] = yield Compute([text], by)
    return found[0]
