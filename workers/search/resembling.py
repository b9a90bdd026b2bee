"""What resembles some documents: by their most telling words, and by the mean of their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from mesh.errors import InvalidArgument
from mesh.protocol import payload
from workers.search.asked import Query, Similar, vector_field
from workers.search.query.clauses import MAX_LIKE
from workers.search.query.nodes import Like, Node
from workers.search.records import Collection, Document
from workers.search.schema import TEXT, Schema
from workers.search.view import View

AGAINST: Final = 0.5
"""How much of the vectors of what it should not resemble is taken away (Rocchio, 1971)."""


def resembling(
    view: View,
    found: Collection,
    schema: Schema,
    given: Similar,
    query: Query,
    rows: Sequence[int],
    against: Sequence[int],
) -> tuple[Node | None, bytes | None]:
    """The legs of a query for what resembles the documents in `rows`, and not those of `against`.

    Raises:
        InvalidArgument: a field that was named has no texts.
    """
    documents = [view.document(found, row) for row in rows]
    texts = _texts(schema, given, documents)
    vector = None
    if documents and (query.vector_field or len(schema.vectors) == 1):
        name = vector_field(query, schema).name
        vector = _mean(name, documents, [view.document(found, row) for row in against])
    return (Like(tuple(texts)) if texts else None), vector


def numbers(vector: bytes) -> Any:
    """A vector as an array of 32-bit floats."""
    return np.frombuffer(vector, dtype="<f4")


def rows_of(view: View, found: Collection, keys: Sequence[bytes]) -> list[int]:
    """The rows of documents. Raises InvalidArgument if one does not exist."""
    rows: list[int] = []
    for key in keys:
        row = view.row_of(found.number, key)
        if row is None:
            name = key.decode()
            raise InvalidArgument(
                f"collection {found.name!r} has no document {name!r}", data={"id": name}
            )
        rows.append(row)
    return rows


def _texts(schema: Schema, given: Similar, documents: Sequence[Document]) -> list[tuple[str, str]]:
    names = list(given.fields) or [one.name for one in schema.texts]
    for name in given.fields:
        if schema.field(name).kind != TEXT:
            raise InvalidArgument(f"fields: {name!r} is no text field")
    texts = [(name, given.text) for name in names if given.text]
    for document in documents:
        values = payload.decode(document.body)
        for name in names:
            value = values.get(name)
            if value is not None:
                texts += [(name, part) for part in ([value] if isinstance(value, str) else value)]
    return _bounded(texts)


def _bounded(texts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """As much of them as is looked at."""
    found: list[tuple[str, str]] = []
    left = MAX_LIKE
    for name, text in texts:
        if left > 0:
            found.append((name, text[:left]))
            left -= len(text)
    return found


def _mean(name: str, documents: Sequence[Document], against: Sequence[Document]) -> bytes | None:
    liked = [numbers(one.vectors[name]) for one in documents if name in one.vectors]
    unlike = [numbers(one.vectors[name]) for one in against if name in one.vectors]
    if not liked:
        return None
    mean = np.mean(liked, axis=0, dtype=np.float64)
    if unlike:
        mean = mean - AGAINST * np.mean(unlike, axis=0, dtype=np.float64)
    most = float(np.finfo(np.float32).max)
    return np.clip(mean, -most, most).astype("<f4").tobytes() if np.any(mean) else None
