"""Queries as text. That `parse` reads the same again is tried in tests/property."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.unit.workers.search.query.fields import SCHEMA
from workers.search.query.nodes import Bool, Boost, Fuzzy, Like, Match, Node, Range, Terms
from workers.search.query.parse import parse
from workers.search.query.printing import text_of

A, B, C = (Match("", word) for word in "abc")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("", "*"),
        ("cold  cache", "cold cache"),
        ("title:(a b)", "title:(a b)"),
        ("a AND b OR NOT c", "(+a +b) OR (-c)"),
        ('+a b "c d"~2 -title:x*', '+a b "c d"~2 -title:x*'),
        ("a(b c)", "a OR (b c)"),
        ("(a b)^2 c^.5", "(a b)^2 OR c^0.5"),
        ("status:open tags:(x y)", "status:=open OR tags:(x y)"),
        ("price:{1 TO 5] stock:<=-5", "price:{1 TO 5] OR stock:<=-5"),
        ("made:2026-01 sold:true", "made:[2026-01-01 TO 2026-02-01} OR sold:true"),
        ("made:>2026-01-31T12:30:15.5Z", "made:>2026-01-31T12:30:15.500000Z"),
        (r"a\:b \AND -\-x", r"+(a\:b \AND) -\-x"),
    ],
)
def test_in_the_simplest_form(given: str, text: str) -> None:
    node = parse(given, SCHEMA)
    assert text_of(node) == text
    assert parse(text, SCHEMA) == node


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (Bool(must=(A,), filters=(Terms("stock", (1,)),)), "+a #stock:1"),
        (Bool(should=(A, B, C), at_least=2), "(a (b) (c))~2"),
        (Match("title", "a b", True), "title:(+a +b)"),
        (Match("", "a b", fields=(("title", 2.0), ("author", 1.0))), "title^2,author:(a b)"),
        (Like((("title", "some text"),)), 'like(title:"some text")'),
        (Terms("author", ("Jane Doe", "x")), 'author:("Jane Doe" x)'),
        (Terms("stock", (-1, 2)), 'stock:("-1" 2)'),
        (Boost(Boost(Fuzzy("", "a", 2), 2.0), 3.0), "(a~2^2)^3"),
        (Range("made", datetime(2026, 1, 1, tzinfo=UTC), None, False),
         "made:>2026-01-01T00:00:00.000000Z"),
    ],
)  # fmt: skip
def test_what_query_strings_cannot_say_is_shown_too(node: Node, text: str) -> None:
    assert text_of(node) == text


def test_where_every_word_is_wanted() -> None:
    node = parse("a b OR title:(c d)", SCHEMA, every=True)
    text = text_of(node, every=True)
    assert text == "+a +(b OR title:(c d))"
    assert parse(text, SCHEMA, every=True) == node
    assert text_of(Match("", "a b"), every=True) == "(a OR b)"
