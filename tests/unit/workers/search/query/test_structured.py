"""Queries as mappings, filters, and what is said of those that mean nothing."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from mesh.errors import InvalidArgument
from tests.unit.workers.search.query.fields import SCHEMA
from workers.search.query.clauses import MAX_DEPTH, MAX_VALUES, NOTHING
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
from workers.search.query.structured import filter_of, query_of

OPEN, RED = Terms("status", ("open",)), Terms("tags", ("red",))
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "node"),
    [
        ({"match": {"title": "cold cache"}}, Match("title", "cold cache")),
        ({"match": "cold cache"}, Match("", "cold cache")),
        (
            {"match": {"title": {"text": "a b", "operator": "and", "boost": 2}}},
            Boost(Match("title", "a b", True), 2),
        ),
        ({"match": {"status": "open"}}, OPEN),
        ({"match": {"stock": 5}}, Terms("stock", (5,))),
        ({"phrase": {"title": "hot key"}}, Phrase("title", "hot key")),
        ({"phrase": {"title": {"text": "hot key", "slop": 2}}}, Phrase("title", "hot key", 2)),
        ({"phrase": {"tags": "red"}}, RED),
        ({"prefix": {"title": "cach"}}, Prefix("title", "cach")),
        ({"prefix": {"status": {"text": "o", "boost": 3}}}, Boost(Prefix("status", "o"), 3)),
        ({"prefix": "cach"}, Prefix("", "cach")),
        ({"fuzzy": {"title": "cahce"}}, Fuzzy("title", "cahce")),
        ({"fuzzy": {"title": {"text": "cahce", "distance": 2}}}, Fuzzy("title", "cahce", 2)),
        ({"term": {"status": "open"}}, OPEN),
        ({"term": {"author": {"value": "Jane Doe", "boost": 2.5}}},
         Boost(Terms("author", ("Jane Doe",)), 2.5)),
        ({"term": {"price": 5}}, Terms("price", (5.0,))),
        ({"term": {"sold": False}}, Terms("sold", (False,))),
        ({"term": {"made": NEW_YEAR}}, Terms("made", (NEW_YEAR,))),
        ({"term": {"made": "2026"}},
         Range("made", NEW_YEAR, datetime(2027, 1, 1, tzinfo=UTC), True, False)),
        ({"term": {"range": 1}}, Terms("range", (1,))),
        ({"terms": {"tags": ["red", "blue", "red"]}}, Terms("tags", ("red", "blue"))),
        ({"terms": {"tags": {"values": ["red"], "boost": 2}}}, Boost(RED, 2)),
        ({"terms": {"tags": []}}, NOTHING),
        ({"range": {"price": {"gte": 5, "lt": 9}}}, Range("price", 5.0, 9.0, True, False)),
        ({"range": {"price": {"gt": 5, "lt": None}}}, Range("price", 5.0, None, False)),
        ({"range": {"stock": {"lte": 5, "boost": 2}}}, Boost(Range("stock", None, 5), 2)),
        ({"range": {"made": {"lt": date(2026, 1, 1)}}}, Range("made", None, NEW_YEAR, True, False)),
        ({"range": {"made": {"gt": "2025"}}}, Range("made", NEW_YEAR)),
        ({"range": {"author": {"gte": "K"}}}, Range("author", "K")),
        ({"exists": "title"}, Exists("title")),
        ({"exists": {"field": "look"}}, Exists("look")),
        ({"all": {}}, All()),
        ({"all": {"boost": 2}}, Boost(All(), 2)),
        ({"boost": {"query": {"all": {}}, "factor": 2}}, Boost(All(), 2)),
        ({"like": {"title": "a", "author": "b"}}, Like((("title", "a"), ("author", "b")))),
        ({"like": "a"}, Like((("title", "a"), ("author", "a"), ("标题", "a")))),
        ({"query": "title:a -b"}, Bool(must=(Match("title", "a"),), must_not=(Match("", "b"),))),
        ({"query": {"text": "a b", "operator": "and", "fields": ["title^2"]}},
         Boost(Match("title", "a b", True), 2)),
        ({"bool": {}}, All()),
        ({"bool": {"must": {"match": "a"}}}, Match("", "a")),
        ({"bool": {"must": ["a", "status:open"]}}, Bool(must=(Match("", "a"), OPEN))),
        ({"bool": {"filter": {"status": "open"}}}, Bool(filters=(OPEN,))),
        ({"bool": {"should": ["a", "b"]}},
         Bool(should=(Match("", "a"), Match("", "b")), at_least=1)),
        ({"bool": {"should": ["a", "b"], "minimum_should": 2}},
         Bool(must=(Match("", "a"), Match("", "b")))),
        ({"bool": {"should": ["a", "b"], "minimum_should": 0}},
         Bool(should=(Match("", "a"), Match("", "b")))),
        ({"bool": {"must": "a", "should": "b", "must_not": ["c"], "filter": None, "boost": 2}},
         Boost(Bool((Match("", "a"),), (Match("", "b"),), (Match("", "c"),)), 2)),
    ],
)  # fmt: skip
def test_forms(given: Any, node: Node) -> None:
    assert query_of(given, SCHEMA) == node


def test_a_query_may_be_a_string_or_nothing() -> None:
    assert query_of(None, SCHEMA) == All()
    assert query_of("a b", SCHEMA, every=True) == Match("", "a b", True)
    assert query_of("a", SCHEMA, fields=["title"]) == Match("title", "a")
    many = (("title", 1.0), ("author", 2.0))
    assert query_of({"phrase": "a"}, SCHEMA, fields=["title", "author^2"]) == Phrase(
        "", "a", fields=many
    )
    assert query_of({"like": "a"}, SCHEMA, fields=["title", "author^2"]) == Like(
        (("title", "a"), ("author", "a"))
    )
    given = {"bool": {"must": ["a b", {"match": "c"}, {"match": {"author": "d"}}]}}
    assert query_of(given, SCHEMA, fields=["title"], every=True) == Bool(
        must=(Match("title", "a b", True), Match("title", "c", True), Match("author", "d", True))
    )


@pytest.mark.parametrize(
    ("given", "node"),
    [
        (None, All()),
        ([], All()),
        ("price:<5", Range("price", None, 5.0, True, False)),
        ({"term": {"status": "open"}}, OPEN),
        ({"status": "open"}, OPEN),
        ({"status": ["open", "new"]}, Terms("status", ("open", "new"))),
        ({"status": []}, NOTHING),
        ({"status": "open", "tags": ["red"]}, Bool(must=(OPEN, RED))),
        ({"price": {"gte": 5, "lt": 9}}, Range("price", 5.0, 9.0, True, False)),
        ({"author": "Jane Doe"}, Terms("author", ("Jane Doe",))),
        ([{"status": "open"}, "tags:red"], Bool(must=(OPEN, RED))),
        ({"bool": {"must_not": {"status": "open"}}}, Bool(must_not=(OPEN,))),
        ({"bool": {"should": [{"status": "open"}, {"tags": "red"}]}},
         Bool(should=(OPEN, RED), at_least=1)),
    ],
)  # fmt: skip
def test_filters(given: Any, node: Node) -> None:
    assert filter_of(given, SCHEMA) == node


@pytest.mark.parametrize(
    ("given", "path", "said"),
    [
        (5, "", "neither a query string nor a mapping"),
        ([], "", "neither a query string nor a mapping"),
        ({}, "", "an empty mapping; the forms are: match"),
        ({"mach": {"title": "a"}}, "", "'mach' is neither a form of query (match, phrase"),
        ({5: "a"}, "", "5 is neither a form"),
        ({"match": "a", "term": {"status": "open"}}, "", "'match' is a form of query"),
        ({"status": "open"}, "", "'status' is a field; say how it is searched"),
        ({"match": {}}, ".match", "it takes one field"),
        ({"match": {"title": "a", "author": "b"}}, ".match", "it takes one field"),
        ({"match": {"titel": "a"}}, ".match", "no field 'titel'; its fields are: title"),
        ({"match": {5: "a"}}, ".match", "5 is no name of a field"),
        ({"match": {"title": 5}}, ".match", "5 is no text to look for"),
        ({"match": {"title": " "}}, ".match", "' ' is no text to look for"),
        ({"match": {"title": {"txt": "a"}}}, ".match.title", "unknown option 'txt'; it takes text"),
        ({"match": {"title": {"operator": "and"}}}, ".match", "None is no text"),
        ({"match": {"title": {"text": "a", "operator": "xor"}}}, ".match", "none of or, and"),
        ({"match": {"title": {"text": "a", "boost": 0}}}, ".match", "above 0, to 1000"),
        ({"match": {"title": {"text": "a", "boost": True}}}, ".match", "True is not a number"),
        ({"match": {"stock": "5"}}, ".match", "'5' is not a whole number"),
        ({"phrase": {"title": {"text": "a", "slop": -1}}}, ".phrase", "from 0 to 100"),
        ({"prefix": {"stock": "5"}}, ".prefix", "'stock' is an integer field"),
        ({"fuzzy": {"title": {"text": "a", "distance": 3}}}, ".fuzzy", "3 is not 1 or 2"),
        ({"fuzzy": {"title": {"text": "a", "distance": 1.0}}}, ".fuzzy", "1.0 is not 1 or 2"),
        ({"term": {"title": "a"}}, ".term", "declare the field with exact=True"),
        ({"term": {"status": ["open"]}}, ".term", "['open'] is not text"),
        ({"term": {"tags": ["open"]}}, ".term", "['open'] is not text"),
        ({"term": {"stock": True}}, ".term", "True is not a whole number"),
        ({"term": {"price": 10**400}}, ".term", "is not a finite number"),
        ({"term": {"stock": 10**9999}}, ".term", "too long to show is not a whole number"),
        ({"term": {"made": "soon"}}, ".term", "'soon' is not a time such as"),
        ({"term": {"look": [1, 2]}}, ".term", "searched by vector="),
        ({"terms": {"tags": "red"}}, ".terms", "'red' is not a list of values"),
        ({"terms": {"stock": [1] * (MAX_VALUES + 1)}}, ".terms", "10,001 values, the limit"),
        ({"range": {"price": 5}}, ".range", "5 is no mapping of gt, gte, lt, lte"),
        ({"range": {"price": {}}}, ".range.price", "no bound is given"),
        ({"range": {"price": {"from": 5}}}, ".range.price", "unknown bound 'from'"),
        ({"range": {"price": {"gt": 5, "gte": 6}}}, ".range.price", "two bounds of one side"),
        ({"range": {"price": {"gt": "5"}}}, ".range.price", "'5' is not a finite number"),
        ({"range": {"sold": {"gt": False}}}, ".range.sold", "has no order"),
        ({"exists": "titel"}, ".exists", "no field 'titel'"),
        ({"exists": ["title"]}, ".exists", "['title'] is no name of a field"),
        ({"all": 5}, ".all", "5 is no mapping"),
        ({"like": {"status": "a"}}, ".like", "'status' is no text field"),
        ({"like": {"title": ""}}, ".like.title", "'' is no text to look for"),
        ({"like": {}}, ".like", "takes a text, or a mapping"),
        ({"bool": {"most": []}}, ".bool", "unknown option 'most'; it takes must, should"),
        ({"bool": {"should": ["a"], "minimum_should": 2}}, ".bool", "from 0 to 1"),
        ({"bool": {"should": ["a"], "minimum_should": "1"}}, ".bool", "from 0 to 1"),
        ({"bool": {"must": ["a", {"range": {"price": {"gte": "x"}}}]}},
         ".bool.must[1].range.price", "'x' is not a finite number"),
        ({"bool": {"filter": [{"colour": "red"}]}}, ".bool.filter[0]",
         "'colour' is neither a form of query"),
        ({"bool": {"filter": {"status": None}}}, ".bool.filter.status", '"must_not": "status:*"'),
        ({"bool": {"filter": {"range": 5, "status": "open"}}}, ".bool.filter",
         "'range' is a form of query"),
        ({"bool": {"must": "a (b"}}, ".bool.must", "position 2: this parenthesis is not closed"),
        ({"boost": {"query": "a"}}, ".boost", 'takes {"query"'),
        ({"boost": {"query": "a", "factor": "2"}}, ".boost", "'2' is not a number"),
        ({"query": {"text": "a", "fields": "title"}}, ".query", "not a list of names"),
        ({"query": {"text": "a", "fields": ["titel"]}}, ".query", "no field 'titel'"),
        ({"query": 5}, ".query", "it takes text, operator, fields, boost"),
        ({"query": {"text": None}}, ".query", "None is no query string"),
    ],
)  # fmt: skip
def test_errors_name_the_path(given: Any, path: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        query_of(given, SCHEMA)
    assert raised.value.data["path"] == "query" + path
    assert raised.value.message.startswith(f"query{path}: ") and said in raised.value.message


def test_errors_in_strings_keep_their_position() -> None:
    with pytest.raises(InvalidArgument) as raised:
        filter_of(["a", "a b)"], SCHEMA)
    assert raised.value.data == {"path": "filter[1]", "position": 3}
    assert raised.value.message.endswith("\n  a b)\n     ^")


def test_queries_are_bounded() -> None:
    given: dict[str, Any] = {"all": {}}
    for _ in range(MAX_DEPTH - 1):
        given = {"bool": {"must": given}}
    assert query_of(given, SCHEMA) == All()
    with pytest.raises(InvalidArgument, match="within more than 32 others"):
        query_of({"bool": {"must": given}}, SCHEMA)
    with pytest.raises(InvalidArgument, match="more than 1,024 words and clauses"):
        query_of({"bool": {"must": [{"all": {}}] * 1100}}, SCHEMA)
    with pytest.raises(InvalidArgument, match="more than 1,024 words and clauses"):
        query_of({"bool": {"must": ["a " * 500] * 3}}, SCHEMA)
