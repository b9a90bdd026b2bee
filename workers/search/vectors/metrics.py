"""How near two vectors are. Higher is nearer, whatever the metric.

cosine  the cosine; vectors are brought to length 1 when they come in, so that it is the dot product
dot     the dot product
l2      minus the square of the Euclidean distance
"""

from __future__ import annotations

import sys
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Rows: TypeAlias = npt.NDArray[np.uint64]
Positions: TypeAlias = npt.NDArray[np.uint32]
Floats: TypeAlias = npt.NDArray[np.float32]

GRAPH_METRICS: Final = {"cosine": "ip", "dot": "ip", "l2": "l2sq"}
"""The name that usearch has for what orders the (prepared) vectors alike."""
BLOCK: Final = 8192
"""Vectors that are compared at a time."""


def prepared(metric: str, vectors: Floats) -> Floats:
    """A vector or a matrix in the form in which it is kept and compared."""
    if metric != "cosine":
        return vectors
    wide = vectors.astype(np.float64)
    lengths = np.sqrt(np.einsum("...i,...i->...", wide, wide))
    wide /= np.maximum(lengths, sys.float_info.min)[..., None]
    found: Floats = wide.astype(np.float32)
    return found


def scores(metric: str, matrix: Floats, vector: Floats) -> Floats:
    """The similarity of each row: the same for a vector whatever stands beside it.

    Of several vectors at once, if there is a matrix for each of them.
    """
    if metric == "cosine":  # of numbers up to 1
        short: Floats = np.einsum("...ij,...j->...i", matrix, vector)
        return short
    with np.errstate(over="ignore", invalid="ignore"):
        if metric == "l2":
            matrix = matrix - vector[..., None, :]
            found: Floats = -np.einsum("...ij,...ij->...i", matrix, matrix)
        else:
            found = np.einsum("...ij,...j->...i", matrix, vector)
    if not np.isfinite(found).all():  # of huge numbers
        found = np.nan_to_num(found, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    return found


def best(metric: str, matrix: Floats, vector: Floats, wanted: int) -> npt.NDArray[np.intp]:
    """Where the nearest `wanted` rows stand, unordered. A few more, as this is inexact."""
    if metric == "l2":
        found = scores(metric, matrix, vector)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            found = matrix @ vector  # many times as fast as `scores`; the last bit varies
        if not np.isfinite(found).all():
            found = scores(metric, matrix, vector)
    return highest(found, wanted + 8)


def compared(metric: str, matrix: Floats, vectors: Floats) -> Floats:
    """What orders the rows of `matrix` by their similarity to each of `vectors`, quickly."""
    with np.errstate(over="ignore", invalid="ignore"):
        if metric == "l2":
            middle = vectors.mean(axis=0)  # far from zero, the squares would swallow the distances
            matrix, vectors = matrix - middle, vectors - middle
            found: Floats = 2 * (vectors @ matrix.T) - np.einsum("ij,ij->i", matrix, matrix)
        else:
            found = vectors @ matrix.T
    return found


def highest(values: npt.NDArray[Any], wanted: int) -> npt.NDArray[np.intp]:
    """Where the highest `wanted` values stand, unordered."""
    if len(values) <= wanted:
        return np.arange(len(values))
    return np.argpartition(values, len(values) - wanted)[len(values) - wanted :]


def among(sorted_values: npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which of `values` stand in `sorted_values`."""
    if not len(sorted_values):
        return np.zeros(len(values), dtype=bool)
    at = np.searchsorted(sorted_values, values)
    at[at == len(sorted_values)] = 0
    found: npt.NDArray[np.bool_] = sorted_values[at] == values
    return found
