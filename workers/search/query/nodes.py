"""What a query means, whichever way it was written: a tree of these nodes.

`parse` reads query strings into it, `structured` reads mappings; `workers/search/text` runs it.
Values are in the one form that the schema gives them (dates in UTC, whole numbers, text). A field
"" of Match, Phrase, Prefix or Fuzzy stands for any of `fields`, each with its weight; none: of all
text fields, with their boosts. A document counts by its best one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

Weighed: TypeAlias = tuple[tuple[str, float], ...]
"""Fields with their weights."""


@dataclass(frozen=True, slots=True)
class Match:
    """Texts with words of `text`, as the field's analyzer finds them; with all, if `every`.

    Of several fields one may have one of the words, and another one another.
    """

    field: str
    text: str
    every: bool = False
    fields: Weighed = ()


@dataclass(frozen=True, slots=True)
class Phrase:
    """Texts that hold the words one after the other, with up to `slop` moves between them."""

    field: str
    text: str
    slop: int = 0
    fields: Weighed = ()


@dataclass(frozen=True, slots=True)
class Prefix:
    """Texts with a word that begins with `text`; whole values, where the field has no words."""

    field: str
    text: str
    fields: Weighed = ()


@dataclass(frozen=True, slots=True)
class Fuzzy:
    """Texts with a word that is up to `distance` (1 or 2) edits away from `text`."""

    field: str
    text: str
    distance: int = 1
    fields: Weighed = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """Documents whose field has one of `values`, as a whole."""

    field: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """Documents whose field lies between two values; None: without a bound."""

    field: str
    low: Any = None
    high: Any = None
    include_low: bool = True
    include_high: bool = True


@dataclass(frozen=True, slots=True)
class Exists:
    """Documents that have the field."""

    field: str


@dataclass(frozen=True, slots=True)
class All:
    """Every document, with score 1."""


@dataclass(frozen=True, slots=True)
class Bool:
    """Documents for which every `must` and `filters` holds, none of `must_not`, and of `should` at
    least `at_least`. The score is the sum of those of `must` and `should`.

    With `must_not` alone these are all other documents; with `at_least` 0, `should` adds to scores
    only.
    """

    must: tuple[Node, ...] = ()
    should: tuple[Node, ...] = ()
    must_not: tuple[Node, ...] = ()
    filters: tuple[Node, ...] = ()
    at_least: int = 0


@dataclass(frozen=True, slots=True)
class Boost:
    """`node` with its score multiplied."""

    node: Node
    factor: float


@dataclass(frozen=True, slots=True)
class Like:
    """Texts with the most telling words of some given ones: (field, text) pairs."""

    texts: tuple[tuple[str, str], ...]


Node: TypeAlias = (
    Match | Phrase | Prefix | Fuzzy | Terms | Range | Exists | All | Bool | Boost | Like
)
