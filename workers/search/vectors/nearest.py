"""The search over a state: the candidates of all its parts, compared exactly.

Without a filter each graph gives somewhat more candidates than are wanted, as many more as were
removed. With one there are two ways: compare all rows that it keeps, or ask the graph for so many
candidates that enough of them should be kept. The cheaper one is taken; where the graph does not
give enough (the filter keeps what is far from the query), the first way is.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np

from workers.search.vectors.metrics import BLOCK, Floats, Positions, Rows, among, best, scores
from workers.search.vectors.segment import AS_TEN, Segment
from workers.search.vectors.state import State, without

COMPARED: Final = 20_000
"""Rows that are always compared one by one rather than that more candidates are asked for twice."""
CANDIDATE_COST: Final = 5
"""What a candidate of a graph costs, in rows that are compared one by one."""
WIDEN: Final = 4
SPARE: Final = 4
WIDEST: Final = 16_384
"""Candidates beyond which a graph is of no use."""
_Parts = list[tuple[Rows, Floats]]
Found = tuple[list[int], list[float]]
"""Rows and similarities, best first; of equal ones the lower row first."""


def nearest_each(state: State, metric: str, vectors: Floats, wanted: int) -> list[Found]:
    """What `nearest` finds for each row of `vectors`, in fewer steps where all is in graphs.

    To search for several at once takes a third less for each.
    """
    found = None
    if 0 < wanted <= AS_TEN and not len(state.rows):
        found = _in_graphs(state, metric, vectors, wanted)
    if found is None:
        return [nearest(state, metric, vector, wanted, None, ()) for vector in vectors]
    return found


def _in_graphs(state: State, metric: str, vectors: Floats, wanted: int) -> list[Found] | None:
    """None where the graphs alone do not tell."""
    parts: _Parts = []
    for segment, gone in state.segments:
        if len(gone) or segment.count <= wanted:
            return None
        at = segment.nearest_each(vectors, wanted)
        if at is None:
            return None
        # Half the time of indexing by an array.
        parts.append((segment.rows.take(at), segment.matrix.take(at, axis=0)))
    if not parts:
        return None
    rows, matrix = parts[0]
    if len(parts) > 1:
        rows = np.concatenate([rows for rows, _ in parts], axis=1)
        matrix = np.concatenate([matrix for _, matrix in parts], axis=1)
    values = scores(metric, matrix, vectors)
    found: list[Found] = []
    for ascending, one in zip((-values).tolist(), rows.tolist(), strict=True):
        pairs = sorted(zip(ascending, one, strict=True))[:wanted]
        found.append(([row for _, row in pairs], [-value for value, _ in pairs]))
    return found


def nearest(
    state: State,
    metric: str,
    vector: Floats,
    wanted: int,
    allowed: Rows | None,
    exclude: Collection[int],
) -> Found:
    """The nearest `wanted` rows of those that `allowed` and `exclude` leave."""
    if not wanted:
        return [], []
    more = wanted + len(exclude)
    parts: _Parts = []
    for segment, gone in state.segments:
        at = _of_segment(segment, gone, metric, vector, more, allowed)
        parts.append((segment.rows[at], segment.matrix[at]))
    if len(state.rows):
        parts.append(_of_fresh(state, metric, vector, more, allowed))
    if len(parts) == 1:
        rows, matrix = parts[0]
    elif parts:
        rows = np.concatenate([rows for rows, _ in parts])
        matrix = np.concatenate([matrix for _, matrix in parts])
    else:
        return [], []
    if exclude:
        kept = ~np.isin(rows, np.fromiter(exclude, np.uint64, len(exclude)))
        rows, matrix = rows[kept], matrix[kept]
    values = scores(metric, matrix, vector)
    order = np.lexsort((rows, -values))[:wanted]
    return rows[order].tolist(), values[order].tolist()


def _of_fresh(
    state: State, metric: str, vector: Floats, wanted: int, allowed: Rows | None
) -> tuple[Rows, Floats]:
    rows, matrix = state.rows, state.matrix
    if allowed is not None:
        kept = np.flatnonzero(among(allowed, rows))
        rows, matrix = rows[kept], matrix[kept]
    at = best(metric, matrix, vector, wanted)
    return rows[at], matrix[at]


def _of_segment(
    segment: Segment,
    gone: Positions,
    metric: str,
    vector: Floats,
    wanted: int,
    allowed: Rows | None,
) -> Positions:
    """Positions of candidates."""
    alive = segment.count - len(gone)
    kept = alive if allowed is None else min(alive, len(allowed))
    if kept <= 0:
        return gone[:0]
    asked = wanted * segment.count // kept
    if allowed is not None:
        asked = 2 * asked + SPARE
    elif len(gone):
        asked += SPARE
    most = WIDEST
    if allowed is not None and kept <= COMPARED:
        most = min(most, max(asked, wanted * WIDEN))
        if kept <= CANDIDATE_COST * asked:
            most = 0
    while asked <= most and asked < segment.count:
        found = segment.nearest(vector, asked)
        if len(gone):
            found = found[~among(gone, found)]
        if allowed is not None:
            found = found[among(allowed, segment.rows[found])]
        if len(found) >= wanted:
            return found[: wanted + SPARE]
        asked *= WIDEN
    return _compared(segment, gone, metric, vector, wanted, allowed)


def _compared(
    segment: Segment,
    gone: Positions,
    metric: str,
    vector: Floats,
    wanted: int,
    allowed: Rows | None,
) -> Positions:
    """The nearest of all that count, compared one by one, a block at a time."""
    if allowed is None:
        at = without(segment.count, gone)
    else:
        at = np.sort(segment.positions(allowed))
        at = at[~among(gone, at)]
    picked = [at[:0]]
    for start in range(0, len(at), BLOCK):
        block = at[start : start + BLOCK]
        picked.append(block[best(metric, segment.matrix[block], vector, wanted)])
    found = np.concatenate(picked)
    if len(at) > BLOCK:
        found = found[best(metric, segment.matrix[found], vector, wanted)]
    return found
