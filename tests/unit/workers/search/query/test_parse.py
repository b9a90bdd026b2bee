"""Query strings: what each form means, and what is said of what cannot be read."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from mesh.errors import InvalidArgument
from tests.unit.workers.search.query.fields import SCHEMA
from workers.search.query.clauses import MAX_CLAUSES, MAX_DEPTH
from workers.search.query.nodes import (
    All,
    Bool,
    Boost,
    Exists,
    Fuzzy,
    Match,
    Node,
    Phrase,
    Prefix,
    Range,
    Terms,
)
from workers.search.query.parse import MAX_LENGTH, parse
from workers.search.schema import Schema

A, B, C = (Match("", word) for word in "abc")


def any_of(*nodes: Node) -> Bool:
    return Bool(should=nodes, at_least=1)


def refusal(text: str, **options: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as raised:
        parse(text, SCHEMA, **options)
    return raised.value


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("", All()),
        (" \t\u3000\n", All()),
        ("*", All()),
        ("cache", Match("", "cache")),
        (" cold   cache ", Match("", "cold cache")),
        ("分布式缓存", Match("", "分布式缓存")),
        ("冷\u3000缓存", Match("", "冷 缓存")),
        ("and or not to", Match("", "and or not to")),
        ('"hot key"', Phrase("", "hot key")),
        ('"hot key"~2', Phrase("", "hot key", 2)),
        (r'"say \"hi\" \\ C:\n"', Phrase("", r'say "hi" \ C:\n')),
        ("cach*", Prefix("", "cach")),
        ("cahce~", Fuzzy("", "cahce")),
        ("cahce~1", Fuzzy("", "cahce")),
        ("cahce~2", Fuzzy("", "cahce", 2)),
        ("a^2.5", Boost(A, 2.5)),
        ("a^1", A),
        ("cach*^2", Boost(Prefix("", "cach"), 2)),
        ('"hot key"~2^.5', Boost(Phrase("", "hot key", 2), 0.5)),
        ("(a b)^3", Boost(Match("", "a b"), 3)),
        ("title:cache", Match("title", "cache")),
        ("title: cache", Match("title", "cache")),
        ("title:(cold cache)", Match("title", "cold cache")),
        ('title:"hot key"', Phrase("title", "hot key")),
        ("title:cach*", Prefix("title", "cach")),
        ("title:*", Exists("title")),
        ("look:*", Exists("look")),
        ("title:http://x.com/a?b=1", Match("title", "http://x.com/a?b=1")),
        ("标题:缓存", Match("标题", "缓存")),
        ("status:open", Terms("status", ("open",))),
        ('status:"in progress"', Terms("status", ("in progress",))),
        ('status:""', Terms("status", ("",))),
        ("status:OR", Terms("status", ("OR",))),
        ("status:in*", Prefix("status", "in")),
        ("tags:(red blue)", Terms("tags", ("red", "blue"))),
        ('tags:(red "light blue" red)', Terms("tags", ("red", "light blue"))),
        ('author:="Jane Doe"', Terms("author", ("Jane Doe",))),
        ("author:Jane", Match("author", "Jane")),
        ("status:=a*^2", Boost(Terms("status", ("a*",)), 2)),
        ("stock:-5", Terms("stock", (-5,))),
        ("price:5", Terms("price", (5.0,))),
        ("sold:True", Terms("sold", (True,))),
        ("price:[1 TO 5.5]", Range("price", 1.0, 5.5)),
        ("price:{1 TO 5}^2", Boost(Range("price", 1.0, 5.0, False, False), 2)),
        ("price:[-1 TO 5e3}", Range("price", -1.0, 5000.0, True, False)),
        ("price:[* TO 5]", Range("price", None, 5.0)),
        ("price:{1 TO *}", Range("price", 1.0, None, False)),
        ("price:[* TO *]", Exists("price")),
        ("stock:>=5", Range("stock", 5)),
        ("stock:> 5", Range("stock", 5, None, False)),
        ("stock:<-5", Range("stock", None, -5, True, False)),
        ("stock:<=5", Range("stock", None, 5)),
        ('author:["A B" TO C}', Range("author", "A B", "C", True, False)),
        ("title:(*)", Exists("title")),
    ],
)
def test_single_forms(text: str, node: Node) -> None:
    assert parse(text, SCHEMA) == node


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("a OR b", any_of(A, B)),
        ("a || b", any_of(A, B)),
        ("a AND b", Bool(must=(A, B))),
        ("a && b", Bool(must=(A, B))),
        ("NOT a", Bool(must_not=(A,))),
        ("-a", Bool(must_not=(A,))),
        ("NOT NOT a", A),
        ("+a", A),
        ("(a)", A),
        ("a AND b OR c", any_of(Bool(must=(A, B)), C)),
        ("a OR b AND NOT c", any_of(A, Bool(must=(B,), must_not=(C,)))),
        ("a OR NOT b", any_of(A, Bool(must_not=(B,)))),
        ("a AND (b OR c)", Bool(must=(A, any_of(B, C)))),
        ("NOT(a)AND(b)", Bool(must=(B,), must_not=(A,))),
        ("+a b -c", Bool(must=(A,), should=(B,), must_not=(C,))),
        ("a -b", Bool(must=(A,), must_not=(B,))),
        ("a b -c", Bool(must=(Match("", "a b"),), must_not=(C,))),
        ('a "b c" -c', Bool(should=(A, Phrase("", "b c")), must_not=(C,), at_least=1)),
        ('a b "b c" a c', any_of(Match("", "a b"), Phrase("", "b c"), Match("", "a c"))),
        ("a b AND c", any_of(A, Bool(must=(B, C)))),
        ("a b OR c", any_of(A, any_of(B, C))),
        ("a(b)c", any_of(A, B, C)),
        ("title:a b", any_of(Match("title", "a"), B)),
        ("title:(a OR b) c", any_of(any_of(Match("title", "a"), Match("title", "b")), C)),
        ("title:(a status:b)", any_of(Match("title", "a"), Terms("status", ("b",)))),
        ("+title:a -tags:b", Bool(must=(Match("title", "a"),), must_not=(Terms("tags", ("b",)),))),
        ('stock:(1 2 -3 "-4")', Bool(
            should=(Terms("stock", (1, 2)), Terms("stock", (-4,))),
            must_not=(Terms("stock", (3,)),), at_least=1)),
    ],
)  # fmt: skip
def test_parts_together(text: str, node: Node) -> None:
    assert parse(text, SCHEMA) == node


def test_every_part_is_wanted_where_that_was_asked_for() -> None:
    a, b, c = (Match("", word, True) for word in "abc")
    assert parse("a b", SCHEMA, every=True) == Match("", "a b", True)
    assert parse('a "b c"', SCHEMA, every=True) == Bool(must=(a, Phrase("", "b c")))
    assert parse("a b OR c", SCHEMA, every=True) == Bool(must=(a, any_of(b, c)))
    assert parse("a -b", SCHEMA, every=True) == Bool(must=(a,), must_not=(b,))
    red, blue = Terms("tags", ("red",)), Terms("tags", ("blue",))
    assert parse("tags:(red blue)", SCHEMA, every=True) == Bool(must=(red, blue))
    assert parse("title:(a b)", SCHEMA, every=True) == Match("title", "a b", True)


def test_words_are_looked_for_in_the_fields_asked_for() -> None:
    assert parse("a b", SCHEMA, fields=["title"]) == Match("title", "a b")
    two = ["title^2", "tags"]
    assert parse("a b", SCHEMA, fields=two) == any_of(
        Boost(Match("title", "a b"), 2), Terms("tags", ("a", "b"))
    )
    assert parse('"a b" author:c *', SCHEMA, fields=two) == any_of(
        any_of(Boost(Phrase("title", "a b"), 2), Terms("tags", ("a b",))),
        Match("author", "c"),
        All(),
    )
    assert parse("a*", SCHEMA, fields=two) == any_of(
        Boost(Prefix("title", "a"), 2), Prefix("tags", "a")
    )
    assert parse("a b", SCHEMA, fields=["tags"], every=True) == Bool(
        must=(Terms("tags", ("a",)), Terms("tags", ("b",)))
    )
    many = (("title", 2.0), ("author", 1.0))
    three = ["title^2", "author", "tags^3"]
    assert parse('a b "c"', SCHEMA, fields=three, every=True) == Bool(
        must=(
            any_of(
                Match("", "a b", True, many),
                Boost(Bool(must=(Terms("tags", ("a",)), Terms("tags", ("b",)))), 3),
            ),
            any_of(Phrase("", "c", 0, many), Boost(Terms("tags", ("c",)), 3)),
        )
    )
    assert parse("a* b~2", SCHEMA, fields=three[:2]) == any_of(
        Prefix("", "a", many), Fuzzy("", "b", 2, many)
    )
    for fields, said in (
        (["titel"], "no field 'titel'"),
        (["price"], "'price' is a float field"),
        (["title^"], "boost '' is not a number"),
        (["title^0"], "above 0"),
    ):
        assert said in refusal("a", fields=fields).message


def test_what_a_chinese_keyboard_gives() -> None:
    phrase = Phrase("标题", "分布式 缓存")
    assert parse("标题：“分布式 缓存”", SCHEMA) == phrase
    assert parse("标题：＂分布式 缓存＂", SCHEMA) == phrase
    assert parse("标题：（缓存 OR 存储）", SCHEMA) == any_of(
        Match("标题", "缓存"), Match("标题", "存储")
    )
    assert parse("price：≥5\u3000stock：＜ 3", SCHEMA) == any_of(
        Range("price", 5.0), Range("stock", None, 3, True, False)
    )
    assert parse("author：＝鲁迅", SCHEMA) == Terms("author", ("鲁迅",))
    assert parse("（a）", SCHEMA) == A
    # Prose is left alone.
    for text in ("错误：文件不存在", "缓存，以及：存储。", "1～3天", "你好！？…", "全部＊"):
        assert parse(text, SCHEMA) == Match("", text)
    assert parse('"他说“好”"', SCHEMA) == Phrase("", "他说“好”")


@pytest.mark.parametrize(
    "text",
    [
        "http://x.com:80/a?b=c&d",
        "at 12:30 or so",
        "std::vector",
        "note: this",
        "note:",
        "C++ c# .net",
        "a - b + c",
        "--verbose",
        "e-mail x-y",
        "what is this? wow!",
        "[1 TO 5]",
        "a[0] {x}",
        "~ ^ ^_^ ^2 ~2",
        "x^y",
        ">=5",
        "a/b & c|d",
        "5%",
        "\\",
        "AND, OR. NOT!",
    ],
)
def test_what_people_type_is_words(text: str) -> None:
    assert parse(text, SCHEMA) == Match("", text)


def test_a_backslash_takes_the_meaning_of_what_follows() -> None:
    for text, found in (
        (r"\AND \OR \NOT", "AND OR NOT"),
        (r"title\:a", "title:a"),
        (r"\-a \+b", "-a +b"),
        (r"a\*b\*", "a*b*"),
        (r"a\~ b\^2", "a~ b^2"),
        (r"\(a\)\"", '(a)"'),
        (r"a\ b", "a b"),
        (r"\\ \\*"[:-1], "\\ \\"),
        (r"dir\sub \server", r"dir\sub \server"),
    ):
        assert parse(text, SCHEMA) == Match("", found), text
    assert parse(r"a\*b*", SCHEMA) == Prefix("", "a*b")
    assert parse(r"status:\>5", SCHEMA) == Terms("status", (">5",))
    assert parse(r"status:[\* TO \]}", SCHEMA) == Range("status", "*", "]", True, False)


def test_times_stand_for_all_of_them() -> None:
    def day(*parts: int) -> datetime:
        return datetime(*parts, tzinfo=UTC)

    for text, node in (
        ("made:2026-01", Range("made", day(2026, 1, 1), day(2026, 2, 1), True, False)),
        ("made:[2026 TO 2026-02-03]", Range("made", day(2026, 1, 1), day(2026, 2, 4), True, False)),
        ("made:{2026 TO 2028}", Range("made", day(2027, 1, 1), day(2028, 1, 1), True, False)),
        ("made:>2026-01-01", Range("made", day(2026, 1, 2))),
        ("made:>=2026-01-01", Range("made", day(2026, 1, 1))),
        ("made:<2026-01-01", Range("made", None, day(2026, 1, 1), True, False)),
        ("made:<=2026-01-01", Range("made", None, day(2026, 1, 2), True, False)),
        ("made:2026-01-01T12:30", Range(
            "made", day(2026, 1, 1, 12, 30), day(2026, 1, 1, 12, 31), True, False)),
        ("made:>2026-01-01T12:30:15.5Z", Range(
            "made", day(2026, 1, 1, 12, 30, 15, 500_000), None, False)),
        ("made:2026-01-01T00:00:00.0+02:00", Terms("made", (day(2025, 12, 31, 22),))),
        ("made:>9999", Bool(must_not=(All(),))),
        ("made:<=9999", Exists("made")),
    ):  # fmt: skip
        assert parse(text, SCHEMA) == node, text
    found = parse("made:>=now-7d", SCHEMA)
    assert isinstance(found, Range)
    assert 6.9 < (datetime.now(UTC) - found.low).total_seconds() / 86_400 < 7.1


@pytest.mark.parametrize(
    ("text", "position", "said"),
    [
        ("a titel:b", 2, "no field 'titel'; the fields are: title, author"),
        ("a titel:b", 2, r"Write titel\: to search"),
        ('titel:"b"', 0, "no field 'titel'"),
        ("localhost:8080", 0, "no field 'localhost'"),
        ("a title:", 2, "title: lacks its value"),
        ("(title:)", 1, "title: lacks its value"),
        ("a (b", 2, "parenthesis is not closed"),
        ("a) b", 1, "parenthesis closes none"),
        ("main()", 4, "nothing is in these parentheses"),
        ('a "b', 2, "quote is not closed"),
        ('a "b\\"', 2, "quote is not closed"),
        ("“b", 0, "quote is not closed"),
        ('""', 0, "nothing is in these quotes"),
        ("AND a", 0, "AND lacks what comes before it"),
        ("a AND", 5, "AND lacks what follows it"),
        ("a OR OR b", 5, "OR lacks what comes before it"),
        ("a NOT", 5, "NOT lacks what follows it"),
        ("(a OR)", 5, "OR lacks what follows it"),
        ("+a OR b", 2, "write +(a OR b)"),
        ("a OR +b", 5, "write +(a OR b)"),
        ("ca*he", 2, "at the end of a word only"),
        ("*cache", 0, "at the end of a word only"),
        ('"hot key"*', 9, "* stands behind a word only"),
        ("a~3", 0, "~3 is no distance"),
        ("a~0.8", 0, "~0.8 is no distance"),
        ('"a b"~1000', 0, "moves from 0 to 100"),
        ("(a b)~2", 7, "behind a word or a phrase only"),
        ("a^0", 2, "above 0, to 1000"),
        ("a^-1", 2, "above 0, to 1000"),
        ("a^1.2.3", 2, "'1.2.3' is not a number"),
        ("(a)^1e9", 4, "above 0, to 1000"),
        ("stock:x", 6, "'x' is not a whole number"),
        ("stock:(1 b)", 9, "'b' is not a whole number"),
        ("stock:1.5", 6, "'1.5' is not a whole number"),
        ("stock:99999999999999999999", 6, "whole number of 64 bits"),
        ("stock:>=x", 8, "'x' is not a whole number"),
        ("stock:>=", 8, "a value follows upon >="),
        ("stock:1*", 6, "'stock' is an integer field, of which there are no beginnings"),
        ("price:nan", 6, "'nan' is not a finite number"),
        ("price:1e999", 6, "inf is not a finite number"),
        ("sold:yes", 5, "'yes' is not true or false"),
        ("sold:>true", 6, "has no order"),
        ("made:yesteryear", 5, "not a time such as 2026-01-31"),
        ("made:2026-13", 5, "not a time"),
        ("price:[1, 5]", 6, "price:[low TO high]"),
        ("price:[1 to 5]", 6, "price:[low TO high]"),
        ("title:>a", 7, "declare the field with exact=True"),
        ("title:=a", 7, "known by its words alone"),
        ("look:a", 5, "searched by vector="),
        ("look:a~", 5, "'look' is a vector field"),
        (f"status:{'x' * 300}", 7, "more than 256 octets"),
        (f"author:={'x' * 300}", 8, "more than 256 octets"),
        ('tags:"a b"~2', 5, "tags holds whole values"),
        ("(" * 50 + "a", MAX_DEPTH, "within more than"),
        ("a -b " * MAX_CLAUSES, 2560, "words and clauses"),
        ("a " * 4000, MAX_CLAUSES * 2, "words and clauses"),
        ("a" * (MAX_LENGTH + 1), MAX_LENGTH, "8,193 characters, the limit is 8,192"),
    ],
)
def test_what_cannot_be_read_is_pointed_at(text: str, position: int, said: str) -> None:
    error = refusal(text)
    assert error.data == {"position": position}
    assert said in error.message and error.message.startswith(f"position {position}: ")


def test_a_caret_stands_under_the_place() -> None:
    *_, line, caret = refusal("标题：a titel:b").message.split("\n")
    assert line == "  标题：a titel:b"
    assert caret == "  " + "  " * 3 + "  " + "^", "each wide character takes two places"
    *_, line, caret = refusal("x " * 60 + "titel:b\n" + "y " * 60).message.split("\n")
    assert line == "  ..." + "x " * 16 + "titel:b " + "y " * 12 + "..."
    assert caret.index("^") == line.index("t")


def test_a_schema_without_fields() -> None:
    assert parse("a", Schema()) == A
    with pytest.raises(InvalidArgument, match="the fields are: none yet"):
        parse("a:b", Schema())


def test_many_parentheses_need_little_of_the_stack() -> None:
    frame = sys._getframe()
    depth = 0
    while frame is not None:
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 9 * MAX_DEPTH)
    try:
        assert parse("(title:" * 16 + "(" * 16 + "a" + ")" * 32, SCHEMA) == Match("title", "a")
    finally:
        sys.setrecursionlimit(limit)
