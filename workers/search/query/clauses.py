"""What both ways of writing queries share: values put into nodes, nodes put together.

Errors are InvalidArgument without a word of the place, which the caller adds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from mesh.errors import InvalidArgument
from mesh.protocol.checks import shown
from workers.search.query.dates import FORMS, Span, span_of
from workers.search.query.nodes import All, Bool, Boost, Exists, Node, Range, Terms, Weighed
from workers.search.schema import (
    BOOLEAN,
    DATE,
    EXACT,
    FLOAT,
    INTEGER,
    KEYWORD,
    TAGS,
    TEXT,
    VECTOR,
    Field,
    Schema,
    checked_value,
)

MAX_DEPTH: Final = 32
MAX_CLAUSES: Final = 1024
"""Parts of a query, each word of a text of query strings counted."""
MAX_LIKE: Final = 20_000
"""Characters of texts to be resembled that are looked at."""
MAX_SLOP: Final = 100
MAX_BOOST: Final = 1000.0
MAX_VALUES: Final = 10_000
"""Values of which a field may have one."""
NOTHING: Final = Bool(must_not=(All(),))

_WHOLE_NUMBER: Final = re.compile(r"[+-]?\d{1,30}", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_TRUTHS: Final = {"true": True, "false": False}


class Target(NamedTuple):
    """A field that is searched, and how much it counts; "": any of `fields`, or any text field."""

    name: str
    factor: float = 1.0
    fields: Weighed = ()


Targets = tuple[Target, ...]


def combined(
    must: Sequence[Node] = (),
    should: Sequence[Node] = (),
    must_not: Sequence[Node] = (),
    filters: Sequence[Node] = (),
    at_least: int | None = None,
) -> Node:
    """Nodes put together, in the simplest form. `at_least` None: 1, if nothing else is demanded."""
    if at_least is None:
        at_least = 1 if should and not must and not filters else 0
    if should and at_least == len(should):
        must, should, at_least = [*must, *should], (), 0
    if not (should or must_not or filters):
        if not must:
            return All()
        if len(must) == 1:
            return must[0]
    return Bool(tuple(must), tuple(should), tuple(must_not), tuple(filters), at_least)


def boosted(node: Node, factor: float) -> Node:
    """`node` with its score multiplied."""
    return node if factor == 1.0 else Boost(node, factor)


def check_boost(factor: Any) -> float:
    """`factor`, if scores can be multiplied by it. Raises InvalidArgument."""
    number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not number or not 0 < factor <= MAX_BOOST:
        raise InvalidArgument(f"boost {shown(factor)} is not a number above 0, to {MAX_BOOST:.0f}")
    return float(factor)


def targets_of(fields: Sequence[str], schema: Schema) -> Targets:
    """What is searched where a query names no field; names may bring a boost, as in "title^2".

    Raises:
        InvalidArgument: there is no such field, or it has no words.
    """
    if not fields:
        return (Target(""),)
    found: list[Target] = []
    for given in fields:
        name, mark, factor = given.partition("^")
        kind = schema.field(name).kind
        if kind not in (TEXT, KEYWORD, TAGS):
            raise InvalidArgument(
                f"fields: {name!r} is {a(kind)} field; words are looked for in text, keyword and "
                "tags fields"
            )
        number = float(factor) if _NUMBER.fullmatch(factor) else factor
        found.append(Target(name, check_boost(number) if mark else 1.0))
    texts = tuple((one.name, one.factor) for one in found if schema.fields[one.name].kind == TEXT)
    if len(texts) < 2:
        return tuple(found)
    others = [one for one in found if schema.fields[one.name].kind != TEXT]
    return (Target("", 1.0, texts), *others)


def a(kind: str) -> str:
    """The kind of a field with its article."""
    return f"an {kind}" if kind == INTEGER else f"a {kind}"


def is_text(target: Target, schema: Schema) -> bool:
    """Whether a target holds words."""
    return not target.name or schema.fields[target.name].kind == TEXT


def check_spelt(target: Target, schema: Schema) -> None:
    """Refuse a target whose words or values have no beginnings and spellings.

    Raises InvalidArgument.
    """
    kind = schema.fields[target.name].kind if target.name else TEXT
    if kind not in (TEXT, KEYWORD, TAGS):
        raise InvalidArgument(
            f"{target.name!r} is {a(kind)} field, of which there are no beginnings and misspellings"
        )


def meant(field: Field, text: str) -> Any:
    """The value that a text means in a field; texts and times stay texts.

    Raises InvalidArgument.
    """
    if field.kind == INTEGER and _WHOLE_NUMBER.fullmatch(text):
        return int(text)
    if field.kind == FLOAT and _NUMBER.fullmatch(text):
        return float(text)
    if field.kind == BOOLEAN:
        return _TRUTHS.get(text.lower(), text)
    return text


def equals(field: Field, value: Any) -> Node:
    """Documents whose field has that value; a time stands for its whole span.

    Raises InvalidArgument.
    """
    found = _single(field, value)
    if isinstance(found, Span):
        if found.moment:
            return Terms(field.name, (found.start,))
        return Range(field.name, found.start, found.end, True, found.end is None)
    return Terms(field.name, (found,))


def one_of(field: Field, values: Sequence[Any]) -> Node:
    """Documents whose field has one of those values. Raises InvalidArgument."""
    if len(values) > MAX_VALUES:
        raise InvalidArgument(f"{len(values):,} values, the limit is {MAX_VALUES:,}")
    return any_of([equals(field, value) for value in values])


def any_of(nodes: Sequence[Node]) -> Node:
    """Documents for which one of `nodes` holds; values of one field become one node."""
    if not nodes:
        return NOTHING
    terms = [node for node in nodes if isinstance(node, Terms)]
    if len(terms) == len(nodes) and len({node.field for node in terms}) == 1:
        values = dict.fromkeys(value for node in terms for value in node.values)
        return Terms(terms[0].field, tuple(values))
    return combined(should=nodes)


def between(
    field: Field, low: Any, high: Any, include_low: bool = True, include_high: bool = True
) -> Node:
    """Documents whose field lies between two values, None for no bound.

    Raises InvalidArgument.
    """
    if field.kind in (BOOLEAN, VECTOR):
        raise InvalidArgument(f"field {field.name!r} is {a(field.kind)} field, which has no order")
    first = None if low is None else _single(field, low)
    last = None if high is None else _single(field, high)
    if isinstance(first, Span):
        if include_low or first.moment:
            first = first.start
        else:  # after all of it
            first, include_low = first.end, True
            if first is None:
                return NOTHING
    if isinstance(last, Span):
        if include_high and not last.moment:  # with all of it
            last, include_high = last.end, False
        else:
            last = last.start
    if first is None and last is None:
        return Exists(field.name)
    return Range(
        field.name, first, last, first is None or include_low, last is None or include_high
    )


def spread(targets: Targets, of: Callable[[Target], Node]) -> Node:
    """A node for each field that is searched, as one."""
    nodes = [boosted(of(target), target.factor) for target in targets]
    return nodes[0] if len(nodes) == 1 else combined(should=nodes)


def _single(field: Field, value: Any) -> Any:
    """A value as documents have it, or a span of times."""
    if field.kind == TEXT and not field.exact:
        raise InvalidArgument(
            f"field {field.name!r} is a text field, known by its words alone: match them, or "
            "declare the field with exact=True to compare it as a whole"
        )
    if field.kind == VECTOR:
        raise InvalidArgument(
            f"field {field.name!r} is a vector field: it is searched by vector=, not by values"
        )
    if field.kind in (TEXT, TAGS):
        if not isinstance(value, str):
            raise InvalidArgument(f"field {field.name!r}: {shown(value)} is not text")
        if len(value.encode(errors="replace")) > EXACT:
            raise InvalidArgument(
                f"field {field.name!r}: {shown(value)} has more than {EXACT} octets, and no value "
                "that is compared as a whole has"
            )
        return value
    if field.kind == DATE and isinstance(value, str):
        found = span_of(value)
        if found is None:
            raise InvalidArgument(
                f"field {field.name!r}: {shown(value)} is not a time such as {FORMS}"
            )
        return found
    checked = checked_value(field, value)
    return Span(checked, checked) if isinstance(checked, datetime) else checked
