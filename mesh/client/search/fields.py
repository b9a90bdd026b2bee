"""The fields of a collection, as `create` and `extend` take them: {name: text(), ...}."""

from __future__ import annotations

from typing import Any, Literal

Analyzer = Literal["default", "plain", "jieba"]
Metric = Literal["cosine", "dot", "l2"]


def text(
    *, analyzer: Analyzer = "default", boost: float = 1.0, exact: bool = False
) -> dict[str, Any]:
    """Text, or a list of texts, whose words are searched.

    Args:
        analyzer: "default": English stems, Chinese by characters; "plain": words as they are;
            "jieba": Chinese by words.
        boost: how much it counts in queries that name no field.
        exact: also kept whole, up to 256 octets: for filters, sorting and facets.
    """
    return {"kind": "text", "analyzer": analyzer, "boost": boost, "exact": exact}


def keyword() -> dict[str, Any]:
    """Text that is compared as a whole."""
    return {"kind": "keyword"}


def tags() -> dict[str, Any]:
    """A list of texts, each compared as a whole."""
    return {"kind": "tags"}


def integer() -> dict[str, Any]:
    """A whole number of 64 bits."""
    return {"kind": "integer"}


def floating() -> dict[str, Any]:
    """A number."""
    return {"kind": "float"}


def date() -> dict[str, Any]:
    """A time, or ISO 8601 text."""
    return {"kind": "date"}


def boolean() -> dict[str, Any]:
    """True or false."""
    return {"kind": "boolean"}


def vector(dimension: int, *, metric: Metric = "cosine") -> dict[str, Any]:
    """As many numbers; documents are found by how near theirs are."""
    return {"kind": "vector", "dimension": dimension, "metric": metric}
