"""One ranking of several: by scores, or by ranks alone (reciprocal rank fusion).

**By scores.** Scores of different kinds are made comparable by the spread of each leg: how many
standard deviations a hit stands above the floor of its leg. A leg that is full has the score of its
last hit as floor; one that found fewer has 0, and what it did not find counts as 0, too, so that
the only document with a word stands far out. Where words and vectors are not equally good, the
worse leg costs half as much as it does by ranks, since its doubtful hits lie close together.

**By ranks.** A row counts 1 / (k + rank) in each leg that has it (G. Cormack, C. Clarke,
S. Buettcher: Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods,
SIGIR 2009).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

K: Final = 60
"""The constant of the paper: the larger, the less the first ranks stand out."""
HUGE: Final = 1e100
"""Beyond what 32-bit floats can say."""


class Leg(NamedTuple):
    """Rows, best first, and their scores."""

    rows: Sequence[int]
    scores: Sequence[float]


def by_scores(
    legs: Mapping[str, Leg], weights: Mapping[str, float], depth: int
) -> list[tuple[int, float]]:
    """Rows with their scores, best first; of equal ones the one that leads a leg, then by row.

    Of each leg the first `depth` hits set the scale: that more are given changes nothing in the
    order of those. Legs with a weight of 0 are left out.
    """
    found: dict[int, float] = {}
    for name, leg in legs.items():
        weight = weights[name]
        if not weight or not leg.rows:
            continue
        scores = [min(max(score, -HUGE), HUGE) for score in leg.scores]  # of huge vectors: infinite
        floor, unit = _scale(scores[:depth], depth)
        for row, score in zip(leg.rows, scores, strict=True):
            found[row] = found.get(row, 0.0) + weight * max(0.0, score - floor) / unit
    return _sorted(found, legs)


def by_ranks(
    legs: Mapping[str, Leg], weights: Mapping[str, float], k: int = K
) -> list[tuple[int, float]]:
    """Rows with their scores, ordered as by scores. Legs with a weight of 0 are left out."""
    found: dict[int, float] = {}
    for name, leg in legs.items():
        weight = weights[name]
        if weight:
            for rank, row in enumerate(leg.rows, 1):
                found[row] = found.get(row, 0.0) + weight / (k + rank)
    return _sorted(found, legs)


def _scale(scores: Sequence[float], depth: int) -> tuple[float, float]:
    """The floor of a leg, and its standard deviation."""
    least = scores[-1]
    missing = depth - len(scores)
    floor = least if not missing else min(0.0, least)
    mean = (math.fsum(scores) + missing * floor) / depth
    squares = math.fsum((score - mean) ** 2 for score in scores)
    deviation = math.sqrt((squares + missing * (floor - mean) ** 2) / depth)
    return floor, deviation or 1.0


def _sorted(scores: Mapping[int, float], legs: Mapping[str, Leg]) -> list[tuple[int, float]]:
    first: dict[int, int] = {}
    for leg in legs.values():
        for rank, row in enumerate(leg.rows):
            first[row] = min(rank, first.get(row, rank))
    return sorted(scores.items(), key=lambda one: (-one[1], first[one[0]], one[0]))
