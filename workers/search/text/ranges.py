"""Ranges over the columns of tantivy."""

from __future__ import annotations

import math
from typing import Any, Final

import tantivy

from mesh.errors import InvalidArgument
from workers.search.query.nodes import Range
from workers.search.schema import BOOLEAN, FLOAT, INTEGER, Field
from workers.search.text.columns import WHOLE, kept, whole_of

_INT64: Final = (-(2**63), 2**63 - 1)
_LAST: Final = 0x10FFFF
_SURROGATES: Final = range(0xD800, 0xE000)
_ANY: Final = r"[\x{0}-\x{10FFFF}]"
LONGEST: Final = 50
"""Characters that a bound of a range over texts may have."""


def query(native: Any, field: Field, node: Range) -> Any:
    """The query of tantivy for values between two others, at least one of which is given.

    Raises:
        InvalidArgument: a bound is no value of the field, or too long a text.
    """
    column = whole_of(field)
    if field.kind in WHOLE:
        return _texts(native, column, field, node)
    if field.kind == BOOLEAN:
        return _booleans(native, column, field, node)
    low, high = _end(field, node.low), _end(field, node.high)
    closed = [node.include_low, node.include_high]
    if field.kind == FLOAT:
        kind = tantivy.FieldType.Float
    else:
        kind = tantivy.FieldType.Integer
        if low is not None:
            low, closed[0] = _whole(low, closed[0], up=True)
        if high is not None:
            high, closed[1] = _whole(high, closed[1], up=False)
        if low is not None and high is not None and low > high:
            return tantivy.Query.empty_query()
    return tantivy.Query.range_query(
        native, column, kind, low, high,
        closed[0] or low is None, closed[1] or high is None,
    )  # fmt: skip


def _end(field: Field, value: Any) -> Any:
    """A bound as the column has it; a whole number may be bounded by any number."""
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and field.kind in (INTEGER, FLOAT):
        if math.isnan(value):
            raise InvalidArgument(f"field {field.name!r}: a range has no bound at {value}")
        return float(value) if field.kind == FLOAT and abs(value) < 2**1023 else value
    return kept(field, value)


def _whole(value: float, closed: bool, *, up: bool) -> tuple[int, bool]:
    """The bound as a whole number of 64 bits. `up`: it is the lower one."""
    lowest, highest = _INT64
    if value > highest:
        return highest, not up
    if value < lowest:
        return lowest, up
    if value != int(value):
        return (math.ceil(value) if up else math.floor(value)), True
    return int(value), closed


def _booleans(native: Any, column: str, field: Field, node: Range) -> Any:
    low, high = (None if end is None else kept(field, end) for end in (node.low, node.high))
    found = [
        value for value in (False, True)
        if (low is None or value > low or (value == low and node.include_low))
        and (high is None or value < high or (value == high and node.include_high))
    ]  # fmt: skip
    return tantivy.Query.term_set_query(native, column, found)


def _texts(native: Any, column: str, field: Field, node: Range) -> Any:
    """By regular expressions over the values that there are, in the order of code points."""
    must = tantivy.Occur.Must
    parts: list[tuple[Any, Any]] = []
    for end, closed, pattern in (
        (node.low, node.include_low, _above),
        (node.high, node.include_high, _below),
    ):
        if end is not None:
            text = kept(field, end)
            if len(text) > LONGEST:
                raise _too_long(field, text)
            found = pattern(text, closed)
            if not found:
                return tantivy.Query.empty_query()
            try:
                made = tantivy.Query.regex_query(native, column, found)
            except ValueError:  # it takes the more states, the more octets characters have
                raise _too_long(field, text) from None
            parts.append((must, made))
    return parts[0][1] if len(parts) == 1 else tantivy.Query.boolean_query(parts)


def _too_long(field: Field, text: str) -> InvalidArgument:
    return InvalidArgument(
        f"field {field.name!r}: {text!r:.60} is too long for a bound of a range; "
        f"at most {LONGEST} characters, fewer where they are odd"
    )


def _above(text: str, closed: bool) -> str:
    """What is greater: goes on after `text`, or has a greater character where it first differs.

    That anything may follow is said once: tantivy takes no more than so many states.
    """
    found = "" if closed else _ANY
    for one in reversed(text):
        found = f"{_literal(one)}{_group(found)}"
        if ord(one) < _LAST:
            found += f"|[{_code(_next(ord(one)))}-{_code(_LAST)}]"
    return f"{_group(found)}{_ANY}*"


def _below(text: str, closed: bool) -> str:
    """What is less: ends within `text`, or has a lesser character where it first differs."""
    begins = text if closed else text[:-1]
    parts = [_ends_within(begins)] if text or closed else []
    lesser = ""
    for one in reversed(text):
        found = [f"{_literal(one)}{_group(lesser)}"] if lesser else []
        if ord(one):
            found.append(f"[{_code(0)}-{_code(_before(ord(one)))}]")
        lesser = "|".join(found)
    if lesser:
        parts.append(f"{_group(lesser)}{_ANY}*")
    return "|".join(parts)


def _ends_within(text: str) -> str:
    found = ""
    for one in reversed(text):
        found = f"(?:{_literal(one)}{found})?"
    return found or "(?:)"


def _group(pattern: str) -> str:
    return f"(?:{pattern})" if "|" in pattern else pattern


def _literal(one: str) -> str:
    return one if one.isascii() and one.isalnum() else _code(ord(one))


def _code(number: int) -> str:
    return rf"\x{{{number:X}}}"


def _next(number: int) -> int:
    return number + 1 if number + 1 not in _SURROGATES else _SURROGATES.stop


def _before(number: int) -> int:
    return number - 1 if number - 1 not in _SURROGATES else _SURROGATES.start - 1
