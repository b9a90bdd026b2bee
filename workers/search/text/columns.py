"""How the fields of a collection lie in tantivy: one or several columns each.

| kind              | columns                                                                   |
|-------------------|---------------------------------------------------------------------------|
| text              | NAME: words with positions; NAME:words: whole words; NAME:pairs: Chinese  |
|                   | characters two by two; NAME:exact, if it is kept whole (a single text)    |
| keyword, tags     | NAME: whole values                                                        |
| integer, date     | NAME: 64 bits; dates as microseconds since 1970                           |
| float, boolean    | NAME                                                                      |

`_row` has the number of the document's version; `_has` names the text fields that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import tantivy

from mesh.errors import InvalidArgument
from mesh.protocol.checks import shown as told
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
from workers.search.text import analysis, stems

ROW: Final = "_row"
HAS: Final = "_has"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FIRST: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
WHOLE: Final = (KEYWORD, TAGS, TEXT)
"""Kinds whose whole values are texts."""


def words_of(name: str) -> str:
    """The column of the whole words of a text field."""
    return f"{name}:words"


def pairs_of(name: str) -> str:
    """The column of the pairs of characters of a text field."""
    return f"{name}:pairs"


def whole_of(field: Field) -> str:
    """The column of the whole values of a field.

    Raises:
        InvalidArgument: it has none.
    """
    if not field.whole:
        hint = "declare it with exact=True" if field.kind == TEXT else "it is searched by likeness"
        raise InvalidArgument(
            f"field {field.name!r} ({field.kind}) is not kept whole, so it can not be compared, "
            f"sorted or counted: {hint}"
        )
    return f"{field.name}:exact" if field.kind == TEXT else field.name


def build(schema: Schema) -> Any:
    """The schema of tantivy.

    Raises:
        ConfigError: an analyzer needs a package that is missing.
    """
    builder = tantivy.SchemaBuilder()
    # Signed: tantivy's deletion by term does not find unsigned numbers that come from Python.
    builder.add_integer_field(ROW, indexed=True, fast=True)
    builder.add_text_field(HAS, tokenizer_name="raw", index_option="basic")
    for name, field in schema.fields.items():
        if field.kind == TEXT:
            analysis.require(field.analyzer)
            builder.add_text_field(name, tokenizer_name=analysis.column(field.analyzer))
            builder.add_text_field(
                words_of(name),
                tokenizer_name=analysis.words_column(field.analyzer),
                index_option="freq" if field.analyzer == "jieba" else "basic",
            )
            builder.add_text_field(
                pairs_of(name), tokenizer_name=analysis.pairs_column(), index_option="freq"
            )
        if field.kind in WHOLE and field.whole:
            builder.add_text_field(
                whole_of(field), fast=True, tokenizer_name="raw", index_option="basic"
            )
        elif field.kind in (INTEGER, DATE):
            builder.add_integer_field(name, indexed=True, fast=True)
        elif field.kind == FLOAT:
            builder.add_float_field(name, indexed=True, fast=True)
        elif field.kind == BOOLEAN:
            builder.add_boolean_field(name, indexed=True, fast=True)
    return builder.build()


def register(index: Any, schema: Schema) -> None:
    """Tell the index its analyzers: it does not keep them."""
    for analyzer in _analyzers(schema):
        for name, native in analysis.native(analyzer).items():
            index.register_tokenizer(name, native)


Adder = Callable[[Any, Any], None]


def adders(schema: Schema) -> dict[str, Adder]:
    """How a checked value of each field is put into a document of tantivy."""
    # What remembers words is shared by fields: one may have 100,000 of them.
    columns = {analyzer: analysis.indexed(analyzer) for analyzer in _analyzers(schema)}
    return {
        name: _add_text(field, columns[field.analyzer])
        if field.kind == TEXT
        else _ADDERS[field.kind](field)
        for name, field in schema.fields.items()
        if field.kind != VECTOR
    }


def _analyzers(schema: Schema) -> set[str]:
    return {field.analyzer for field in schema.texts}


def document(row: int, values: Mapping[str, Any], add: Mapping[str, Adder]) -> Any:
    """A document of tantivy, of the checked values of one."""
    made = tantivy.Document()
    made.add_integer(ROW, row)
    for name, value in values.items():
        put = add.get(name)
        if put is not None:
            put(made, value)
    return made


def _add_text(field: Field, columns: Callable[[str], stems.Columns]) -> Adder:
    name, analyzer = field.name, field.analyzer
    exact = whole_of(field) if field.exact else ""
    whole_words, two = words_of(name), pairs_of(name)
    normal = analysis.normal
    pairs = (lambda text: ()) if analyzer == "jieba" else analysis.pairs

    def add(made: Any, texts: list[str]) -> None:
        for text in texts:
            plain = normal(text)
            stems, words = columns(plain)
            made.add_text(name, stems)
            made.add_text(whole_words, words)
            for run in pairs(plain):
                made.add_text(two, run)
        if texts:
            made.add_text(HAS, name)
        if exact and len(texts) == 1 and kept_whole(texts[0]):
            made.add_text(exact, texts[0])

    return add


def kept_whole(text: str) -> bool:
    """Whether a text is short enough."""
    if len(text) > EXACT:
        return False
    return text.isascii() or len(text.encode(errors="replace")) <= EXACT


def _add_tags(field: Field) -> Adder:
    name = field.name

    def add(made: Any, values: list[str]) -> None:
        for value in dict.fromkeys(values):
            made.add_text(name, value)

    return add


def _adder(method: str, change: Callable[[Any], Any] | None = None) -> Callable[[Field], Adder]:
    def of(field: Field) -> Adder:
        name = field.name
        put = getattr(tantivy.Document, method)
        if change is None:
            return lambda made, value: put(made, name, value)
        return lambda made, value: put(made, name, change(value))

    return of


def microseconds(at: datetime) -> int:
    """Since 1970."""
    return (at - _EPOCH) // _MICROSECOND


def date_of(number: float) -> datetime:
    """The time of so many microseconds since 1970; floats are rounded, maybe beyond the last."""
    return _EPOCH + timedelta(microseconds=min(max(int(number), _FIRST), _LAST))


_ADDERS: Final[dict[str, Callable[[Field], Adder]]] = {
    TAGS: _add_tags,
    KEYWORD: _adder("add_text"),
    INTEGER: _adder("add_integer"),
    DATE: _adder("add_integer", microseconds),
    # 0.0 and -0.0 are one number, but not one term.
    FLOAT: _adder("add_float", lambda value: value + 0.0),
    BOOLEAN: _adder("add_boolean"),
}


def kept(field: Field, value: Any) -> Any:
    """A value as its column has it. Raises InvalidArgument."""
    if field.kind in WHOLE:
        if not isinstance(value, str):
            raise InvalidArgument(f"field {field.name!r}: {told(value)} is not text")
        return value
    found = checked_value(field, value)
    if field.kind == DATE:
        return microseconds(found)
    return found + 0.0 if field.kind == FLOAT else found


def shown(field: Field, value: Any) -> Any:
    """A value of a column as the field has it."""
    if value is None:
        return None
    if field.kind == DATE:
        return date_of(value)
    if field.kind == BOOLEAN:
        return bool(value)
    return int(value) if field.kind == INTEGER else value


def spoken(field: Field, text: str) -> Any:
    """The value that a text means in a field that is no text.

    Raises:
        InvalidArgument: it means none.
    """
    try:
        if field.kind == INTEGER:
            return int(text)
        if field.kind == FLOAT:
            return float(text)
    except ValueError:
        raise InvalidArgument(f"field {field.name!r}: {text!r:.60} is not a number") from None
    if field.kind == BOOLEAN and text.lower() in ("true", "false"):
        return text.lower() == "true"
    return text
