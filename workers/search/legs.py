"""The legs of a query: the best by words, the nearest by vector, or both, fused."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.errors import InvalidArgument, ProtocolError
from mesh.protocol import payload
from mesh.protocol.search import MAX_ROWS
from workers.search.asked import EVERYTHING, Query, filtered, vector_field
from workers.search.fusion import Leg, by_ranks, by_scores
from workers.search.query.nodes import Node
from workers.search.readers import OpenIndex
from workers.search.text.index import Position, Sort

TEXT_LEG, VECTOR_LEG = "text", "vector"

Facts = dict[str, Any]


@dataclass(slots=True)
class Ranked:
    """Rows with their scores, best first, and what else a hit tells of each."""

    rows: Sequence[int]
    scores: Sequence[float]
    facts: Sequence[Facts]
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
    if not without and not query.min_score:
        picked = list(range(min(query.limit, len(found.rows))))
    else:
        picked = [
            at for at, row in enumerate(found.rows)
            if row not in without and (sort is not None or found.scores[at] >= query.min_score)
        ][begin : begin + query.limit]  # fmt: skip
    cursor = b""
    if picked and len(picked) == query.limit:
        last = picked[-1]
        values = found.values[last] if sort is not None else [found.scores[last]]
        seen = (query.offset if after is None else after.seen) + len(picked)
        cursor = payload.encode([list(values), found.rows[last], seen])
    return Ranked(
        [found.rows[at] for at in picked],
        [found.scores[at] for at in picked],
        [{"sort": list(found.values[at])} if sort is not None else {} for at in picked],
        found.total if query.total else None,
        cursor,
    )


def vector_legs(
    index: OpenIndex, query: Query, node: Node | None, vector: bytes, without: Collection[int]
) -> Ranked:
    """The nearest by vector, alone or fused with the best by words.

    Raises:
        InvalidArgument: an order by fields was asked for, or the filter keeps too much.
    """
    if query.sort:
        raise InvalidArgument("sort= orders by fields, a vector by nearness: give one of them")
    begin = _begin(query)
    wanted = begin + query.limit
    depth = len(without) + (wanted if node is None else max(query.depth, wanted))
    nearest = _nearest(index, query, vector, depth, without)
    total: int | None = None
    if node is None:
        best = list(zip(*nearest, strict=True))
        legs = {VECTOR_LEG: _places(*nearest)}
    else:
        found = index.text.search(
            filtered(node, query, index.schema), limit=depth, total=query.total
        )
        kept = [at for at, row in enumerate(found.rows) if row not in without]
        texts = Leg([found.rows[at] for at in kept], [found.scores[at] for at in kept])
        legs = {TEXT_LEG: _places(*texts), VECTOR_LEG: _places(*nearest)}
        both = {TEXT_LEG: texts, VECTOR_LEG: Leg(*nearest)}
        if query.fusion == "ranks":
            best = by_ranks(both, query.weights)
        else:
            best = by_scores(both, query.weights, query.depth)
        total = found.total if query.total else None
    if query.min_score:
        best = [(row, score) for row, score in best if score >= query.min_score]
    page = best[begin:wanted]
    facts: list[Facts] = [
        {leg: places[row] for leg, places in legs.items() if row in places} for row, _ in page
    ]
    cursor = payload.encode([wanted]) if page and len(page) == query.limit else b""
    return Ranked([row for row, _ in page], [score for _, score in page], facts, total, cursor)


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


def _places(rows: Sequence[int], scores: Sequence[float]) -> dict[int, Facts]:
    """The rank, from 1, and the score of each row in a leg."""
    return {
        row: {"rank": rank, "score": score}
        for rank, (row, score) in enumerate(zip(rows, scores, strict=True), 1)
    }


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
