"""The legs of a query: the best by words, the nearest by vector, or both, fused."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mesh.errors import InvalidArgument, ProtocolError
from mesh.protocol import payload
from mesh.protocol.search import MAX_ROWS
from workers.search.asked import EVERYTHING, Query, filtered, vector_field
from workers.search.fusion import Leg, by_ranks, by_scores
from workers.search.hits import place, places
from workers.search.query.nodes import Node
from workers.search.readers import OpenIndex
from workers.search.text.index import Position, Sort

TEXT_LEG, VECTOR_LEG = "text", "vector"
_NAMES: Final = {TEXT_LEG: b"\xa4text", VECTOR_LEG: b"\xa6vector"}


@dataclass(slots=True)
class Ranked:
    """Rows with their scores, best first. `told`: what else a hit tells of each, packed; or ()."""

    rows: Sequence[int]
    scores: Sequence[float]
    told: Sequence[bytes]
    total: int | None
    cursor: bytes = b""


def text_leg(index: OpenIndex, query: Query, node: Node, without: Collection[int]) -> Ranked:
    """The page that is asked for, by score or in the order asked for."""
    sort = None
    if query.sort:
        sort = Sort(tuple((name, order == "desc") for name, order in query.sort))
    after = _position(query.cursor)
    # What is left out may stand before the page: then it is counted off from the beginning.
    begin = query.offset if without else 0
    found = index.text.search(
        node, limit=begin + query.limit + len(without), offset=query.offset - begin, sort=sort,
        after=after, total=query.total,
    )  # fmt: skip
    rows, scores, values = found.rows, found.scores, found.values
    if without or query.min_score:
        picked = [
            at for at, row in enumerate(rows)
            if row not in without and (sort is not None or scores[at] >= query.min_score)
        ][begin : begin + query.limit]  # fmt: skip
        rows, scores = [rows[at] for at in picked], [scores[at] for at in picked]
        values = [values[at] for at in picked] if sort is not None else []
    cursor = b""
    if rows and len(rows) == query.limit:
        last = values[-1] if sort is not None else (scores[-1],)
        seen = (query.offset if after is None else after.seen) + len(rows)
        cursor = payload.encode([last, rows[-1], seen])
    told = [b"\x81\xa4sort" + payload.encode(one) for one in values]
    return Ranked(rows, scores, told, found.total if query.total else None, cursor)


def vector_legs(
    index: OpenIndex, query: Query, node: Node | None, vector: bytes, without: Collection[int]
) -> Ranked:
    """The nearest by vector, alone or fused with the best by words.

    Raises:
        InvalidArgument: an order by fields was asked for, or the filter keeps too much.
    """
    if query.sort:
        raise InvalidArgument("sort= orders by fields, a vector by nearness: give one of them")
    wanted = _begin(query) + query.limit
    depth = len(without) + (wanted if node is None else max(query.depth, wanted))
    nearest = Leg(*_nearest(index, query, vector, depth, without))
    if node is None:
        return _page(query, nearest.rows, nearest.scores, {VECTOR_LEG: nearest}, None)
    found = index.text.search(filtered(node, query, index.schema), limit=depth, total=query.total)
    kept = [at for at, row in enumerate(found.rows) if row not in without]
    texts = Leg([found.rows[at] for at in kept], [found.scores[at] for at in kept])
    legs = {TEXT_LEG: texts, VECTOR_LEG: nearest}
    if query.fusion == "ranks":
        best = by_ranks(legs, query.weights)
    else:
        best = by_scores(legs, query.weights, query.depth)
    total = found.total if query.total else None
    return _page(query, [row for row, _ in best], [score for _, score in best], legs, total)


def alike(query: Query) -> tuple[Any, ...] | None:
    """What queries have in common that `vectors_alone` takes; None if it does not take this one."""
    if (
        type(query.vector) is not bytes
        or query.query is not None
        or query.filter is not None
        or query.sort
        or query.cursor
        or query.facets
    ):
        return None
    return query.vector_field, query.offset + query.limit, len(query.vector)


def vectors_alone(
    index: OpenIndex, queries: Sequence[Query], vectors: Sequence[bytes]
) -> list[Ranked]:
    """What `vector_legs` finds for queries that are `alike` and ask for nothing but nearness."""
    first = queries[0]
    reader = index.vectors[vector_field(first, index.schema).name]
    found = reader.search_each(vectors, first.offset + first.limit)
    return [
        _page(query, rows, scores, {VECTOR_LEG: Leg(rows, scores)}, None)
        for query, (rows, scores) in zip(queries, found, strict=True)
    ]


def _page(
    query: Query,
    rows: Sequence[int],
    scores: Sequence[float],
    legs: Mapping[str, Leg],
    total: int | None,
) -> Ranked:
    begin = _begin(query)
    end = begin + query.limit
    if query.min_score:  # scores fall
        end = min(end, sum([score >= query.min_score for score in scores]))
    page = rows[begin:end]
    cursor = payload.encode([begin + query.limit]) if page and len(page) == query.limit else b""
    scores = scores[begin:end]
    told = _places(legs, page) if len(legs) > 1 else places(_NAMES[VECTOR_LEG], scores, begin)
    return Ranked(page, scores, told, total, cursor)


def _nearest(
    index: OpenIndex, query: Query, vector: bytes, depth: int, without: Collection[int]
) -> tuple[list[int], list[float]]:
    allowed = None
    if query.filter is not None:
        allowed = index.text.rows(filtered(EVERYTHING, query, index.schema), MAX_ROWS)
        if allowed is None:
            raise InvalidArgument(f"the filter keeps more than {MAX_ROWS:,} documents: narrow it")
    name = vector_field(query, index.schema).name
    return index.vectors[name].search(vector, depth, allowed, without)


def _places(legs: Mapping[str, Leg], page: Sequence[int]) -> list[bytes]:
    """Where each row of a page stands in each leg that has it, packed."""
    places = [
        (_NAMES[name], leg.scores, {row: at for at, row in enumerate(leg.rows)})
        for name, leg in legs.items()
    ]
    told: list[bytes] = []
    for row in page:
        found = [
            name + place(at[row] + 1, scores[at[row]]) for name, scores, at in places if row in at
        ]
        told.append(bytes((0x80 | len(found),)) + b"".join(found))
    return told


def _position(cursor: bytes) -> Position | None:
    if not cursor:
        return None
    found = _read(cursor)
    if len(found) != 3 or not isinstance(found[0], list):
        raise _foreign()
    values, row, seen = found
    if not isinstance(row, int) or not isinstance(seen, int) or seen < 0:
        raise _foreign()
    return Position(tuple(values), row, seen)


def _begin(query: Query) -> int:
    if not query.cursor:
        return query.offset
    found = _read(query.cursor)
    if len(found) != 1 or not isinstance(found[0], int) or found[0] not in range(2**31):
        raise _foreign()
    return found[0]


def _read(cursor: bytes) -> list[Any]:
    try:
        found = payload.decode(cursor)
    except ProtocolError:
        found = None
    if not isinstance(found, list):
        raise _foreign()
    return found


def _foreign() -> InvalidArgument:
    return InvalidArgument("cursor= was not given out by a query of this kind; begin without one")
