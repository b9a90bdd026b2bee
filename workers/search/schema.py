"""The fields of a collection: what they hold, how they are searched, and what a document may bring.

A schema is declared as {name: kind} or {name: {"kind": kind, option: value}}:

| kind    | a document brings        | options                                                  |
|---------|--------------------------|----------------------------------------------------------|
| text    | text, or a list of texts | analyzer, boost, exact (also kept whole, up to 256 octets) |
| keyword | text                     |                                                          |
| tags    | a list of texts          |                                                          |
| integer | a whole number, 64 bits  |                                                          |
| float   | a number                 |                                                          |
| date    | a time, or ISO 8601 text |                                                          |
| boolean | true or false            |                                                          |
| vector  | a list of numbers        | dimension, metric (cosine, dot, l2)                      |

A dynamic schema (the default) takes up fields that it does not know by what the first document
brings: text becomes `text` with `exact`, a list of texts `tags`, or `text` if one has more than 256
octets. What fits no kind (mappings, mixed lists) is kept and returned, but not searched.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Final

from mesh.errors import InvalidArgument
from mesh.protocol.checks import shown

TEXT, KEYWORD, TAGS = "text", "keyword", "tags"
INTEGER, FLOAT, DATE, BOOLEAN, VECTOR = "integer", "float", "date", "boolean", "vector"
KINDS: Final = (TEXT, KEYWORD, TAGS, INTEGER, FLOAT, DATE, BOOLEAN, VECTOR)
METRICS: Final = ("cosine", "dot", "l2")
ANALYZERS: Final = ("default", "plain", "jieba")
"""default: English stems without stop words, Chinese by characters; plain: no stems, all words."""

MAX_FIELDS: Final = 200
MAX_DIMENSION: Final = 4096
EXACT: Final = 256
"""Octets up to which a text is also kept whole, and which a keyword may have."""
RESERVED: Final = ("id",)
_NAME: Final = re.compile(r"[^\W\d_][\w-]{0,63}")
_LEAST: Final = 2.0**-150
"""Numbers up to which 32 bits hold 0 for them."""
_INT64: Final = range(-(2**63), 2**63)
_OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    TEXT: ("analyzer", "boost", "exact"),
    VECTOR: ("dimension", "metric"),
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `boost` weighs it in queries that name no field."""

    name: str
    kind: str
    analyzer: str = "default"
    boost: float = 1.0
    exact: bool = False
    dimension: int = 0
    metric: str = "cosine"

    @property
    def whole(self) -> bool:
        """Whether its values can be compared as they are: filters, sorting, facets."""
        return self.kind not in (TEXT, VECTOR) or self.exact

    def packed(self) -> dict[str, Any]:
        """As it is declared."""
        options = _OPTIONS.get(self.kind, ())
        return {"kind": self.kind, **{name: getattr(self, name) for name in options}}


@dataclass(frozen=True, slots=True)
class Schema:
    """The fields of a collection, by name, in the order in which they came."""

    fields: Mapping[str, Field] = field(default_factory=dict)
    dynamic: bool = True

    @property
    def texts(self) -> list[Field]:
        """The fields that are searched where a query names none."""
        return [one for one in self.fields.values() if one.kind == TEXT]

    @property
    def vectors(self) -> list[Field]:
        """The fields that hold vectors."""
        return [one for one in self.fields.values() if one.kind == VECTOR]

    def field(self, name: str) -> Field:
        """The field of that name.

        Raises:
            InvalidArgument: there is none.
        """
        found = self.fields.get(name)
        if found is None:
            known = ", ".join(self.fields) or "none yet"
            raise InvalidArgument(
                f"the collection has no field {shown(name)}; its fields are: {known}"
            )
        return found

    def packed(self) -> dict[str, Any]:
        """As it is kept and shown; `parse` reads it."""
        return {name: one.packed() for name, one in self.fields.items()}

    def extended(self, more: Mapping[str, Field]) -> Schema:
        """With further fields.

        Raises:
            InvalidArgument: one of them is there already and differs, or there are too many.
        """
        for name, one in more.items():
            there = self.fields.get(name)
            if there is not None and there != one:
                raise InvalidArgument(
                    f"field {name!r} is {there.packed()} already; a field never changes: "
                    "give the new one another name, or make a new collection"
                )
        found = {**self.fields, **more}
        if len(found) > MAX_FIELDS:
            raise InvalidArgument(
                f"{len(found)} fields; a collection has at most {MAX_FIELDS}: "
                "declare a schema with dynamic=False, or put the rest into a mapping"
            )
        return Schema(found, self.dynamic)

    def inferred(self, document: Mapping[str, Any]) -> dict[str, Field]:
        """Fields that `document` brings and this schema does not have.

        Raises:
            InvalidArgument: the schema is not dynamic, or a name cannot name a field.
        """
        found: dict[str, Field] = {}
        for name, value in document.items():
            if name in self.fields or value is None or name in RESERVED:
                continue
            kind = _kind_of(value)
            if not self.dynamic:
                known = ", ".join(self.fields)
                raise InvalidArgument(f"field {name!r} is not declared; the fields are: {known}")
            if kind:
                found[name] = Field(_name(name), kind, exact=kind == TEXT)
        return found

    def checked(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The values that are searched, by field, in their one form.

        Texts and tags are lists, dates datetimes in UTC, vectors octets (32-bit floats, little
        endian). Fields that are missing or None are left out.

        Raises:
            InvalidArgument: a value does not fit its field; the message says which and why.
        """
        found: dict[str, Any] = {}
        known = self.fields
        for name, value in document.items():
            one = known.get(name)
            if one is not None and value is not None:
                found[name] = checked_value(one, value)
        return found

    def fitting(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The same of a document that is older than some fields: what does not fit is left out."""
        try:
            return self.checked(document)
        except InvalidArgument:
            found: dict[str, Any] = {}
            for name, value in document.items():
                with suppress(InvalidArgument):
                    found |= self.checked({name: value})
            return found


def parse(given: Any, dynamic: bool = True) -> Schema:
    """A schema as it is declared.

    Raises:
        InvalidArgument: it cannot be; the message says what can.
    """
    if not isinstance(given, Mapping):
        raise InvalidArgument(
            f"schema={shown(given)} is not a mapping of names to kinds, as in {{'title': 'text'}}"
        )
    return Schema({}, dynamic).extended(
        {name: parse_field(name, one) for name, one in given.items()}
    )


def parse_field(name: Any, given: Any) -> Field:
    """One field as it is declared. Raises InvalidArgument."""
    options = dict(given) if isinstance(given, Mapping) else {"kind": given}
    kind = options.pop("kind", None)
    _name(name)
    if kind not in KINDS:
        raise InvalidArgument(f"field {name!r}: kind={shown(kind)} is none of {', '.join(KINDS)}")
    known = _OPTIONS.get(kind, ())
    for option in options:
        if option not in known:
            takes = f"takes {', '.join(known)}" if known else "takes no options"
            raise InvalidArgument(f"field {name!r}: unknown option {shown(option)}; {kind} {takes}")
    if kind == VECTOR and "dimension" not in options:
        raise InvalidArgument(f"field {name!r}: a vector needs its dimension, as in dimension=384")
    _check_options(name, options)
    return Field(name, kind, **options)


def checked_value(one: Field, value: Any) -> Any:
    """`value` in the form in which its field is searched. Raises InvalidArgument."""
    found = _CHECKS[one.kind](one, value)
    if found is None:
        expected = _EXPECTED[one.kind].format(one.dimension)
        given = shown(value) if one.kind != VECTOR else _shape(value)
        raise InvalidArgument(f"field {one.name!r}: {given} is not {expected}")
    return found


def as_date(value: Any) -> datetime | None:
    """A time in UTC, of a datetime, a date or ISO 8601 text; without a zone it is UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        return None
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:  # in UTC it is before the year 1, or after 9999
        return None


def _name(name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in RESERVED:
        raise InvalidArgument(
            f"{shown(name)} cannot name a field: a letter, then up to 63 letters, digits, _ or -, "
            f"and not {RESERVED[0]!r}"
        )
    return name


def _check_options(name: str, options: dict[str, Any]) -> None:
    dimension = options.get("dimension", 1)
    boost = options.get("boost", 1.0)
    whole = isinstance(dimension, int) and not isinstance(dimension, bool)
    if not whole or not 1 <= dimension <= MAX_DIMENSION:
        raise InvalidArgument(
            f"field {name!r}: dimension={shown(dimension)} is not 1 to {MAX_DIMENSION}"
        )
    if isinstance(boost, bool) or not isinstance(boost, int | float) or not 0 < boost <= 1000:
        raise InvalidArgument(
            f"field {name!r}: boost={shown(boost)} is not a number above 0, to 1000"
        )
    choices: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("metric", METRICS), ("analyzer", ANALYZERS), ("exact", (False, True)),
    )  # fmt: skip
    for option, allowed in choices:
        given = options.get(option, allowed[0])
        if given not in allowed or type(given) is not type(allowed[0]):
            raise InvalidArgument(
                f"field {name!r}: {option}={shown(given)} is none of {', '.join(map(str, allowed))}"
            )


def _kind_of(value: Any) -> str:
    for kind, types in ((BOOLEAN, bool), (TEXT, str), (INTEGER, int), (FLOAT, float)):
        if isinstance(value, types):
            return kind
    if isinstance(value, datetime | date):
        return DATE
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        return TAGS if all(map(_is_short, value)) else TEXT
    return ""


def _is_short(text: str) -> bool:
    return len(text.encode(errors="replace")) <= EXACT


def _text(one: Field, value: Any) -> list[str] | None:
    if isinstance(value, str):
        return [value]
    found = value
    if not isinstance(found, list | tuple) or not all(isinstance(part, str) for part in found):
        return None
    return list(found)


def _tags(one: Field, value: Any) -> list[str] | None:
    found = _text(one, value)
    for part in found or ():
        _keyword(one, part)
    return found


def _keyword(one: Field, value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    if not _is_short(value):
        raise InvalidArgument(
            f"field {one.name!r}: {value!r:.60} has more than {EXACT} octets; a {one.kind} is "
            "compared as a whole: make it a text field, or shorten it"
        )
    return value


def _integer(one: Field, value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool) and value in _INT64
    return value if whole else None


def _float(one: Field, value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _date(one: Field, value: Any) -> datetime | None:
    return as_date(value)


def _boolean(one: Field, value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _vector(one: Field, value: Any) -> bytes | None:
    if isinstance(value, bytes):
        value = struct.unpack(f"<{len(value) // 4}f", value) if len(value) % 4 == 0 else ()
    if not isinstance(value, list | tuple) or len(value) != one.dimension:
        return None
    try:
        packed = struct.pack(f"<{one.dimension}f", *value)
    except (struct.error, OverflowError):
        return None
    if not all(map(math.isfinite, value)):
        raise InvalidArgument(f"field {one.name!r}: a vector holds finite numbers only")
    if one.metric == "cosine" and not any(abs(number) > _LEAST for number in value):
        raise InvalidArgument(
            f"field {one.name!r}: a vector of zeros has no direction to compare by cosine; "
            "leave it out, or use metric l2"
        )
    return packed


def _shape(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} octets"
    many = isinstance(value, list | tuple)
    return f"a {type(value).__name__} of {len(value)}" if many else shown(value)


_EXPECTED: Final = {
    TEXT: "text or a list of texts",
    KEYWORD: "text",
    TAGS: "a list of texts",
    INTEGER: "a whole number of 64 bits",
    FLOAT: "a finite number",
    DATE: "a time or ISO 8601 text",
    BOOLEAN: "true or false",
    VECTOR: "{} finite numbers of 32 bits",
}
_CHECKS: Final[dict[str, Any]] = {
    TEXT: _text, KEYWORD: _keyword, TAGS: _tags, INTEGER: _integer, FLOAT: _float, DATE: _date,
    BOOLEAN: _boolean, VECTOR: _vector,
}  # fmt: skip
