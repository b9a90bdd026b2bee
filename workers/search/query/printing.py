"""Queries as text: what `parse` reads, as far as query strings can say it.

Beyond that, in the notation of Lucene: #filter, and (a b c)~2 for two of three.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, time
from typing import Any, Final

from workers.search.query import lexis
from workers.search.query.nodes import (
    All,
    Bool,
    Boost,
    Exists,
    Fuzzy,
    Like,
    Match,
    Node,
    Phrase,
    Prefix,
    Range,
    Terms,
)

_BETWEEN_WORDS: Final = re.compile(r"(?<=\S) (?=\S)")
_SIMPLE: Final = re.compile(r"\w[\w.-]*")


def text_of(node: Node, every: bool = False) -> str:
    """A query as text; with the same `every`, `parse` makes the same node of it.

    Not so for what query strings cannot say: texts of which some demand every word and others do
    not, several fields at once, several whole values of a text field, filters, `at_least` above 1,
    Like.
    """
    return _WRITERS[type(node)](node, every)


def _match(node: Match, every: bool) -> str:
    words = [lexis.escaped(word) for word in _BETWEEN_WORDS.split(node.text)]
    if len(words) == 1:
        return _of(node, words[0])
    if node.every == every:
        text = " ".join(words)
        return _of(node, f"({text})" if node.field or node.fields else text)
    if node.every:
        return _of(node, "(" + " ".join(f"+{word}" for word in words) + ")")
    return _of(node, "(" + " OR ".join(words) + ")")


def _phrase(node: Phrase, every: bool) -> str:
    slop = f"~{node.slop}" if node.slop else ""
    return _of(node, lexis.quoted(node.text) + slop)


def _prefix(node: Prefix, every: bool) -> str:
    return _of(node, lexis.escaped(node.text) + "*")


def _fuzzy(node: Fuzzy, every: bool) -> str:
    distance = "" if node.distance == 1 else str(node.distance)
    return _of(node, f"{lexis.escaped(node.text)}~{distance}")


def _terms(node: Terms, every: bool) -> str:
    if len(node.values) == 1:
        (value,) = node.values
        return f"{node.field}:{'=' if isinstance(value, str) else ''}{_value(value)}"
    values = map(_value, node.values)
    listed = [f'"{one}"' if one.startswith("-") else one for one in values]
    return f"{node.field}:({' '.join(listed)})"


def _range(node: Range, every: bool) -> str:
    low, high = _value(node.low, node.include_low), _value(node.high, not node.include_high)
    if node.high is None:
        return f"{node.field}:{'>=' if node.include_low else '>'}{low}"
    if node.low is None:
        return f"{node.field}:{'<=' if node.include_high else '<'}{high}"
    opening, closing = "[" if node.include_low else "{", "]" if node.include_high else "}"
    return f"{node.field}:{opening}{low} TO {high}{closing}"


def _exists(node: Exists, every: bool) -> str:
    return f"{node.field}:*"


def _all(node: All, every: bool) -> str:
    return "*"


def _bool(node: Bool, every: bool) -> str:
    beside = node.must or node.must_not or node.filters
    if node.should and not beside and node.at_least == 1:
        return " OR ".join(_part(one, every) for one in node.should)
    should = [_part(one, every, first=at == 0) for at, one in enumerate(node.should)]
    if node.should and node.at_least != (0 if node.must or node.filters else 1):
        should = [f"({' '.join(should)})~{node.at_least}"]
    return " ".join(
        [f"+{_part(one, every)}" for one in node.must]
        + [f"#{_part(one, every)}" for one in node.filters]
        + should
        + [f"-{_part(one, every)}" for one in node.must_not]
    )


def _boost(node: Boost, every: bool) -> str:
    text = _part(node.node, every)
    if isinstance(node.node, Boost):
        text = f"({text})"
    return f"{text}^{_number(node.factor)}"


def _like(node: Like, every: bool) -> str:
    return "like(" + " ".join(f"{name}:{lexis.quoted(text)}" for name, text in node.texts) + ")"


def _part(node: Node, every: bool, first: bool = True) -> str:
    """A node as a part of another one; words that are not the first would join those before."""
    text = text_of(node, every)
    bare = isinstance(node, Match) and not node.field and (not first or " " in text)
    return f"({text})" if bare or isinstance(node, Bool) else text


def _of(node: Match | Phrase | Prefix | Fuzzy, text: str) -> str:
    several = (f"{name}^{_number(weight)}" if weight != 1 else name for name, weight in node.fields)
    field = node.field or ",".join(several)
    return f"{field}:{text}" if field else text


def _value(value: Any, whole: bool = False) -> str:
    """A value; a time as its day where it begins with it and `whole` days are meant."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, datetime):
        if whole and value == datetime.combine(value, time(), UTC):
            return value.date().isoformat()
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, str):
        simple = _SIMPLE.fullmatch(value) and value not in lexis.OPERATORS
        return value if simple else lexis.quoted(value)
    return str(value)


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")


_WRITERS: Final[dict[type, Callable[[Any, bool], str]]] = {
    Match: _match, Phrase: _phrase, Prefix: _prefix, Fuzzy: _fuzzy, Terms: _terms, Range: _range,
    Exists: _exists, All: _all, Bool: _bool, Boost: _boost, Like: _like,
}  # fmt: skip
