"""Reciprocal rank fusion: one ranking of several, by ranks alone.

A row counts 1 / (k + rank) in each leg that has it, times the weight of the leg (G. Cormack,
C. Clarke, S. Buettcher: Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
Methods, SIGIR 2009). Scores of different kinds are never compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

K: Final = 60
"""The constant of the paper: the larger, the less the first ranks stand out."""


def fuse(
    legs: Mapping[str, Sequence[int]], weights: Mapping[str, float], k: int = K
) -> list[tuple[int, float, dict[str, int]]]:
    """Rows with their scores, best first, then by row, and the rank that each had in each leg.

    `legs`: rows by the name of the leg, best first. `weights`: 1 where none is given.
    """
    scores: dict[int, float] = {}
    ranks: dict[int, dict[str, int]] = {}
    for leg, rows in legs.items():
        weight = weights.get(leg, 1.0)
        for rank, row in enumerate(rows, 1):
            scores[row] = scores.get(row, 0.0) + weight / (k + rank)
            ranks.setdefault(row, {})[leg] = rank
    best = sorted(scores, key=lambda row: (-scores[row], row))
    return [(row, scores[row], ranks[row]) for row in best]
