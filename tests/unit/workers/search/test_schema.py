"""The fields of a collection: how they are declared, inferred, and what documents may bring."""

from __future__ import annotations

import struct
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from mesh.errors import InvalidArgument
from workers.search.schema import (
    EXACT,
    MAX_FIELDS,
    Field,
    Schema,
    as_date,
    checked_value,
    parse,
)

EAST = timezone(timedelta(hours=8))
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_a_declaration_is_shown_as_it_is_read() -> None:
    given = {
        "title": {"kind": "text", "analyzer": "plain", "boost": 2.5, "exact": True},
        "标题": {"kind": "text", "analyzer": "default", "boost": 1.0, "exact": False},
        "status": {"kind": "keyword"},
        "look": {"kind": "vector", "dimension": 3, "metric": "l2"},
    }
    schema = parse(given, dynamic=False)
    assert schema.packed() == given and not schema.dynamic
    assert parse(schema.packed(), dynamic=False) == schema
    assert parse({"title": "text"}).fields == {"title": Field("title", "text")}
    assert [field.name for field in schema.texts] == ["title", "标题"]
    assert [field.name for field in schema.vectors] == ["look"]
    assert [name for name, field in schema.fields.items() if field.whole] == ["title", "status"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("text", "is not a mapping of names to kinds"),
        ({"title": "txt"}, "'title': kind='txt' is none of text, keyword"),
        ({"title": {}}, "kind=None is none of"),
        ({"title": ["text"]}, "is none of"),
        ({"title": {"kind": "text", "stem": 1}}, "unknown option 'stem'; text takes analyzer"),
        ({"n": {"kind": "integer", "boost": 2}}, "unknown option 'boost'; integer takes no"),
        ({"v": "vector"}, "a vector needs its dimension"),
        ({"v": {"kind": "vector", "dimension": 0}}, "dimension=0 is not 1 to 4096"),
        ({"v": {"kind": "vector", "dimension": 4097}}, "not 1 to 4096"),
        ({"v": {"kind": "vector", "dimension": 3.0}}, "dimension=3.0 is not 1 to 4096"),
        ({"v": {"kind": "vector", "dimension": True}}, "dimension=True is not 1 to 4096"),
        ({"v": {"kind": "vector", "dimension": 3, "metric": "hamming"}}, "none of cosine, dot, l2"),
        ({"t": {"kind": "text", "analyzer": "french"}}, "none of default, plain, jieba"),
        ({"t": {"kind": "text", "analyzer": ["plain"]}}, "none of default, plain, jieba"),
        ({"t": {"kind": "text", "exact": 1}}, "exact=1 is none of False, True"),
        ({"t": {"kind": "text", "boost": 0}}, "boost=0 is not a number above 0"),
        ({"t": {"kind": "text", "boost": float("nan")}}, "boost=nan is not a number above 0"),
        ({"t": {"kind": "text", "boost": "2"}}, "boost='2' is not a number above 0"),
        ({f"f{i}": "text" for i in range(MAX_FIELDS + 1)}, "201 fields; a collection has at most"),
        *[({name: "text"}, "cannot name a field") for name in (
            "", "id", "_row", "1st", "two words", "a.b", "a:b", "x" * 65, 5, None)],
    ],
)  # fmt: skip
def test_what_cannot_be_declared(given: Any, said: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        parse(given)
    assert said in raised.value.message


def test_fields_are_added_and_never_change() -> None:
    schema = parse({"title": "text"})
    more = schema.extended({"n": Field("n", "integer"), "title": Field("title", "text")})
    assert list(more.fields) == ["title", "n"] and list(schema.fields) == ["title"]
    with pytest.raises(InvalidArgument, match="a field never changes"):
        schema.extended({"title": Field("title", "text", exact=True)})
    with pytest.raises(InvalidArgument, match="no field 'n'; its fields are: title"):
        schema.field("n")
    with pytest.raises(InvalidArgument, match="its fields are: none yet"):
        Schema().field("n")


def test_fields_are_inferred_from_what_a_document_brings() -> None:
    document = {
        "id": "a", "title": "Tea", "n": 1, "price": 1.5, "sold": True, "made": NOON,
        "day": date(2026, 1, 1), "tags": ["a", "b"], "chapters": ["short", "long " * 60],
        "none": None, "empty": [], "mixed": ["a", 1], "nested": {"a": 1}, "octets": b"x",
    }  # fmt: skip
    found = {name: field.kind for name, field in Schema().inferred(document).items()}
    assert found == {
        "title": "text", "n": "integer", "price": "float", "sold": "boolean", "made": "date",
        "day": "date", "tags": "tags", "chapters": "text",
    }  # fmt: skip
    assert Schema().inferred({"title": "Tea"})["title"].exact
    schema = parse({"title": "keyword"}, dynamic=False)
    assert schema.inferred({"title": "Tea", "id": "a", "none": None}) == {}
    with pytest.raises(InvalidArgument, match="'n' is not declared; the fields are: title"):
        schema.inferred({"n": 1})
    with pytest.raises(InvalidArgument, match="'two words' cannot name a field"):
        Schema().inferred({"two words": 1})


@pytest.mark.parametrize(
    ("kind", "value", "checked"),
    [
        ("text", "Tea", ["Tea"]),
        ("text", ["Tea", ""], ["Tea", ""]),
        ("text", "x" * 10_000, ["x" * 10_000]),
        ("keyword", "x" * EXACT, "x" * EXACT),
        ("tags", "one", ["one"]),
        ("tags", ("a", "b"), ["a", "b"]),
        ("tags", [], []),
        ("integer", 2**63 - 1, 2**63 - 1),
        ("integer", -(2**63), -(2**63)),
        ("float", 5, 5.0),
        ("float", -1.5, -1.5),
        ("boolean", False, False),
        ("date", NOON, NOON),
        ("date", NOON.astimezone(EAST), NOON),
        ("date", NOON.replace(tzinfo=None), NOON),
        ("date", date(2026, 1, 31), NOON.replace(hour=0)),
        ("date", "2026-01-31", NOON.replace(hour=0)),
        ("date", "2026-01-31T20:00:00+08:00", NOON),
        ("date", "2026-01-31T12:00:00Z", NOON),
    ],
)
def test_values_in_their_one_form(kind: str, value: Any, checked: Any) -> None:
    schema = parse({"f": kind})
    found = schema.checked({"f": value, "other": 1, "id": "a"})
    assert found == {"f": checked} and type(found["f"]) is type(checked)
    if kind == "date":
        assert found["f"].tzinfo is UTC
    assert schema.checked({"f": None}) == {}


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("text", 5, "5 is not text or a list of texts"),
        ("text", ["a", None], "is not text or a list of texts"),
        ("text", b"a", "is not text"),
        ("keyword", ["a"], "is not text"),
        ("keyword", "x" * (EXACT + 1), "more than 256 octets"),
        ("keyword", "文" * 86, "more than 256 octets"),
        ("tags", ["ok", "x" * (EXACT + 1)], "a tags is compared as a whole"),
        ("tags", {"a": 1}, "is not a list of texts"),
        ("integer", 2**63, "is not a whole number of 64 bits"),
        ("integer", [10**5000], "too long to show is not a whole number of 64 bits"),
        ("integer", 5.0, "5.0 is not a whole number"),
        ("integer", True, "True is not a whole number"),
        ("integer", "5", "'5' is not a whole number"),
        ("float", float("nan"), "nan is not a finite number"),
        ("float", float("-inf"), "-inf is not a finite number"),
        ("float", 10**400, "is not a finite number"),
        ("float", True, "True is not a finite number"),
        ("float", Decimal("1.5"), "is not a finite number"),
        ("boolean", 1, "1 is not true or false"),
        ("boolean", "true", "'true' is not true or false"),
        ("date", 1_700_000_000, "is not a time or ISO 8601 text"),
        ("date", "tomorrow", "'tomorrow' is not a time"),
        ("date", "2026-02-30", "is not a time"),
        ("date", "9999-12-31T23:59:59-01:00", "is not a time"),
        ("date", datetime(1, 1, 1, tzinfo=EAST), "is not a time"),
    ],
)
def test_what_does_not_fit_its_field(kind: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        parse({"f": kind}).checked({"f": value})
    assert raised.value.message.startswith("field 'f': ") and said in raised.value.message
    assert len(raised.value.message) < 250


def test_vectors_are_octets() -> None:
    field = Field("v", "vector", dimension=3)
    packed = struct.pack("<3f", 1, 0.5, -2)
    for value in ([1, 0.5, -2], (1.0, 0.5, -2.0), packed):
        assert checked_value(field, value) == packed
    zeros = Field("v", "vector", dimension=3, metric="l2")
    assert checked_value(zeros, [0, 0, 0]) == bytes(12)
    assert checked_value(field, [0, 0, 1e-40]) == struct.pack("<3f", 0, 0, 1e-40)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, 2], "a list of 2 is not 3 finite numbers"),
        ([], "a list of 0 is not 3"),
        ("abc", "'abc' is not 3"),
        (b"abc", "3 octets is not 3 finite numbers of 32 bits"),
        (bytes(16), "16 octets is not 3"),
        ([1, 2, "3"], "not 3 finite numbers"),
        ([1, 2, None], "not 3 finite numbers"),
        ([1, 2, 1e39], "not 3 finite numbers of 32 bits"),
        ([1, 2, 10**400], "not 3 finite numbers of 32 bits"),
        ([1, 2, float("nan")], "finite numbers only"),
        ([1, 2, float("inf")], "finite numbers only"),
        (struct.pack("<3f", 1, 2, float("nan")), "finite numbers only"),
        ([0, 0, 0], "no direction to compare by cosine"),
        ([0, -0.0, 1e-60], "no direction to compare by cosine"),
        (bytes(12), "no direction to compare by cosine"),
    ],
)
def test_what_is_no_vector(value: Any, said: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        checked_value(Field("v", "vector", dimension=3), value)
    assert said in raised.value.message


def test_what_is_no_date() -> None:
    for value in (None, 5, "", "soon", b"2026-01-01"):
        assert as_date(value) is None
