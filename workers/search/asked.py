"""What a query asks for, and what it is answered with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from mesh.errors import InvalidArgument
from mesh.protocol.search import WEIGHTS
from workers.search.query.nodes import All, Bool, Node
from workers.search.query.structured import filter_of, query_of
from workers.search.schema import VECTOR, Field, Schema, checked_value

EVERYTHING: Final = All()
SAFE: Final = 1e-30
"""The square of the length of a vector that is surely not one of zeros."""


@dataclass(slots=True)
class Query:
    """What is asked for; checked as far as no schema is needed. See `verbs.Verbs.query`."""

    query: str | Mapping[str, Any] | None = None
    vector: Any = None
    vector_field: str = ""
    fields: Sequence[str] = ()
    every: bool = False
    filter: Any = None
    limit: int = 10
    offset: int = 0
    cursor: bytes = b""
    sort: Sequence[tuple[str, str]] = ()
    facets: Mapping[str, Any] = field(default_factory=dict)
    highlight: Mapping[str, Any] | None = None
    source: bool | Sequence[str] = True
    explain: bool = False
    weights: Mapping[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    min_score: float = 0.0
    total: bool = True
    depth: int = 100
    fusion: str = "scores"


@dataclass(slots=True)
class Similar:
    """What other documents are to resemble: some that there are, a text, or both."""

    keys: Sequence[bytes]
    unlike: Sequence[bytes]
    text: str
    fields: Sequence[str]


@dataclass(slots=True)
class Answer:
    """What a query found. `hits`: packed, see `hits.packed_hit`."""

    hits: list[bytes]
    total: int | None
    cursor: bytes
    facets: dict[str, Any]
    refreshed: int
    took: float


def text_node(query: Query, schema: Schema) -> Node:
    """What the query asks of the texts. Raises InvalidArgument."""
    if query.query is None:
        return EVERYTHING
    return query_of(query.query, schema, fields=query.fields, every=query.every)


def filtered(node: Node, query: Query, schema: Schema) -> Node:
    """`node` for the documents that the filter keeps. Raises InvalidArgument."""
    if query.filter is None:
        return node
    return Bool(must=(node,), filters=(filter_of(query.filter, schema),))


def vector_field(query: Query, schema: Schema) -> Field:
    """The field whose vectors are compared.

    Raises:
        InvalidArgument: none is named and there is not exactly one, or it holds no vectors.
    """
    if query.vector_field:
        found = schema.field(query.vector_field)
        if found.kind != VECTOR:
            raise InvalidArgument(f"vector_field={found.name!r} is a {found.kind} field")
        return found
    known = schema.vectors
    if len(known) != 1:
        names = ", ".join(one.name for one in known) or "none"
        raise InvalidArgument(f"vector_field= must say which vector field; there are: {names}")
    return known[0]


def vector_of(query: Query, schema: Schema) -> bytes:
    """The vector of the query as octets. Raises InvalidArgument."""
    return vectors_of([query], schema)[0]


def vectors_of(queries: Sequence[Query], schema: Schema) -> list[bytes]:
    """The vectors of queries for the same field, as octets. Raises InvalidArgument."""
    field = vector_field(queries[0], schema)
    given = [query.vector for query in queries]
    size = 4 * field.dimension
    if all([isinstance(one, bytes) and len(one) == size for one in given]):
        numbers = np.frombuffer(b"".join(given), "<f4").reshape(len(given), -1).astype(np.float64)
        squares = np.einsum("ij,ij->i", numbers, numbers).tolist()
        if all([SAFE < square < math.inf for square in squares]):
            return given  # most are so, and no number needs to be looked at
    return [checked_value(field, one) for one in given]
