"""Whatever is asked, the answer is a query or InvalidArgument; what is printed reads the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from workers.search.query.clauses import combined
from workers.search.query.nodes import (
    All,
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
from workers.search.query.printing import text_of
from workers.search.query.structured import filter_of, query_of
from workers.search.schema import EXACT
from workers.search.schema import parse as schema_of

KINDS: dict[str, Any] = {
    "title": "text", "author": {"kind": "text", "exact": True}, "标题": "text",
    "status": "keyword", "tags": "tags", "stock": "integer", "price": "float", "made": "date",
    "sold": "boolean", "look": {"kind": "vector", "dimension": 2},
}  # fmt: skip
SCHEMA = schema_of(KINDS)
FIELDS = st.sampled_from([*KINDS, "titel", ""])

# ---------------------------------------------------------------- anything at all

PIECES = [
    *KINDS, *(f"{name}:" for name in KINDS), "AND", "OR", "NOT", "&&", "||", "TO", "a", "B", "缓存",
    "12:30", "http://x/y", "::", " ", "  ", "\u3000", "\n",
    "(", ")", "（", "）", "[", "]", "{", "}",
    '"', "“", "”", "＂", "：",
    "*", "~", "~2", "~9", "^", "^2", "^1e9", "+", "-", "--", "\\", "\\\\",
    "[1 TO 5]", "{* TO 2026}", ">", ">=", "<", "≤", "=", "1", "-5", "1.5", "2026-01-31", "now-1d",
    "true", "*", "?", "#", "\0", "\ud83d\ude00", "é",
]  # fmt: skip
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=15).map(" ".join),
    st.text(max_size=60),
)


@given(text=TEXTS, every=st.booleans(), fields=st.lists(FIELDS, max_size=2))
@example(text="\\", every=False, fields=[])
@example(text="(" * 8192, every=False, fields=[])
@example(text="“" * 8192, every=False, fields=[])
@example(text='"\\' * 4096, every=False, fields=[])
@example(text="a\\" * 4095 + "b*", every=False, fields=[])
@example(text="^~*" * 2730, every=False, fields=[])
@example(text="NOT " * 2048, every=True, fields=[])
def test_any_text_is_a_query_or_refused(text: str, every: bool, fields: list[str]) -> None:
    try:
        node = parse(text, SCHEMA, fields=fields, every=every)
    except InvalidArgument as error:
        position = error.data.get("position")
        if position is None:
            assert set(fields) & {"", "titel", "stock", "price", "made", "sold", "look"}
        else:
            assert 0 <= position <= len(text)
            assert error.message.startswith(f"position {position}: ")
            assert error.message.endswith("^") and len(error.message) < 600
    else:
        printed = text_of(node, every)
        if len(fields) < 2 and len(printed) <= MAX_LENGTH:
            assert parse(printed, SCHEMA, every=every) == node


NAMES = st.sampled_from(
    ["match", "phrase", "prefix", "fuzzy", "term", "terms", "range", "exists", "all", "bool",
     "boost", "like", "query", "must", "should", "must_not", "filter", "minimum_should", "text",
     "value", "values", "operator", "slop", "distance", "factor", "fields", "field", "gt", "gte",
     "lt", *KINDS]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.datetimes(), st.dates(), st.binary(),
    st.sampled_from(["and", "or", "title:a", "a b", "2026-01", "now", 10**400, ["title"]]), TEXTS,
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


@given(
    query=st.dictionaries(NAMES, ANYTHING, max_size=2) | ANYTHING,
    every=st.booleans(),
    filtering=st.booleans(),
)
def test_any_mapping_is_a_query_or_refused(query: Any, every: bool, filtering: bool) -> None:
    what = "filter" if filtering else "query"
    try:
        node = filter_of(query, SCHEMA) if filtering else query_of(query, SCHEMA, every=every)
    except InvalidArgument as error:
        assert error.data["path"].startswith(what)
        assert error.message.startswith(f"{error.data['path']}: ")
    else:
        assert text_of(node), "whatever there is can be shown"
        hash(node)


# ---------------------------------------------------------------- there and back

WORDS = st.text(min_size=1, max_size=12) | st.sampled_from(
    [
        "a",
        "b c",
        "AND",
        "a OR b",
        "-x",
        "+",
        "x*",
        "a:b",
        "a  b",
        " a",
        'say "hi"',
        "(x)",
        "缓存：冷",
    ]
)
VALUES = WORDS.filter(lambda text: len(text.encode()) <= EXACT)
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(
    lambda at: at.replace(tzinfo=UTC)
) | st.dates().map(lambda day: datetime(day.year, day.month, day.day, tzinfo=UTC))
ORDERED = {
    "status": VALUES, "author": VALUES, "made": MOMENTS,
    "stock": st.integers(-(2**63), 2**63 - 1),
    "price": st.floats(allow_nan=False, allow_infinity=False),
}  # fmt: skip
TARGETS = st.sampled_from(["", "title", "标题"])
FACTORS = st.floats(1e-6, 1000).filter(lambda factor: factor != 1)


@st.composite
def terms(draw: st.DrawFn, every: bool) -> Terms:
    name = draw(st.sampled_from([*ORDERED, "sold"]))
    single = every or name in ("author", "made", "sold")  # each alone, where all of them are wanted
    one = ORDERED.get(name, st.booleans())
    many = st.lists(one, min_size=1, max_size=1 if single else 3, unique=True)
    return Terms(name, tuple(draw(many)))


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    name = draw(st.sampled_from([*ORDERED]))
    bound = st.none() | ORDERED[name]
    low, high = draw(st.tuples(bound, bound).filter(lambda pair: pair != (None, None)))
    return Range(
        name, low, high, low is None or draw(st.booleans()), high is None or draw(st.booleans())
    )


@st.composite
def together(draw: st.DrawFn, inner: st.SearchStrategy[Node], every: bool) -> Node:
    """What signs and operators can say."""
    some = st.lists(inner, max_size=3)
    if draw(st.booleans()):
        return combined(should=draw(some), at_least=1)
    must, should, must_not = draw(some), draw(some), draw(some)
    return combined(must, [] if every else should, must_not)


def queries(every: bool) -> st.SearchStrategy[Node]:
    """What query strings can say."""
    visible = WORDS.filter(lambda text: bool(text.strip()))
    leaves = st.one_of(
        st.builds(Match, TARGETS, WORDS, st.just(every)),
        st.builds(Phrase, TARGETS, visible, st.integers(0, 100)),
        st.builds(Prefix, TARGETS | st.just("status"), WORDS),
        st.builds(Fuzzy, TARGETS | st.just("tags"), WORDS, st.integers(1, 2)),
        terms(every),
        ranges(),
        st.builds(Exists, st.sampled_from([*KINDS])),
        st.just(All()),
    )
    return st.recursive(
        leaves,
        lambda inner: together(inner, every) | st.builds(Boost, inner, FACTORS),
        max_leaves=8,
    )


@given(data=st.data(), every=st.booleans())
def test_what_is_printed_reads_the_same(data: st.DataObject, every: bool) -> None:
    node = data.draw(queries(every))
    text = text_of(node, every)
    assert parse(text, SCHEMA, every=every) == node, text
