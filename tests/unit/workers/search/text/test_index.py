"""What the text index finds, in which order, and how it completes and explains."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesh.errors import InvalidArgument
from workers.search.query.nodes import (
    All,
    Bool,
    Boost,
    Fuzzy,
    Like,
    Match,
    Node,
    Phrase,
    Prefix,
    Range,
    Terms,
)
from workers.search.schema import parse
from workers.search.text.index import Position, Sort, TextReader, TextWriter

SCHEMA = parse(
    {
        "title": {"kind": "text", "exact": True, "boost": 3.0},
        "body": "text",
        "kind": "keyword",
        "tags": "tags",
        "size": "integer",
        "at": "date",
        "near": {"kind": "vector", "dimension": 2},
    }
)
DOCUMENTS: dict[int, dict[str, Any]] = {
    1: {"title": "Running foxes", "body": "The fox runs in the wood.", "kind": "note", "size": 3},
    2: {
        "title": "分布式缓存",
        "body": "缓存放在内存里，分佈式系統。",
        "kind": "note",
        "tags": ["zh", "db"],
    },
    3: {"title": "Runner's guide", "body": "How a runner trains.", "kind": "book", "size": 3},
    4: {"title": "A database", "body": "Databases keep data. 数据库 keeps data too.", "size": 1},
    5: {"title": "存储", "body": "内存 storage cache", "at": "2024-05-01", "tags": ["zh"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextReader]:
    path = tmp_path_factory.mktemp("search") / "text"
    writer = TextWriter(path, SCHEMA)
    writer.apply([], [(row, SCHEMA.checked(one)) for row, one in DOCUMENTS.items()])
    writer.commit()
    writer.close()
    reader = TextReader(path, SCHEMA)
    yield reader
    reader.close()


@pytest.mark.parametrize(
    ("node", "rows"),
    [
        (Match("", "running"), [1]),
        (Match("body", "run runner"), [1, 3]),
        (Match("body", "分布式缓存"), [2, 5]),
        (Match("body", "分布式缓存", every=True), []),
        (Match("body", "缓存 分布式", every=True), [2]),
        (Match("body", "the of"), [1]),
        (Match("size", "3"), [1, 3]),
        (Match("at", "2024-05-01"), [5]),
        (Phrase("body", "fox runs"), [1]),
        (Phrase("body", "runs fox"), []),
        (Phrase("body", "fox wood", 3), [1]),
        (Phrase("body", "系统 缓存", 20), [2]),
        (Phrase("body", "数据库 keeps"), [4]),
        (Prefix("title", "run"), [1, 3]),
        (Prefix("title", "runn"), [1, 3]),
        (Prefix("", "data"), [4]),
        (Prefix("body", "分布"), [2]),
        (Fuzzy("title", "databse"), [4]),
        (Fuzzy("title", "dtaabase"), [4]),
        (Terms("title", ("分布式缓存",)), [2]),
        (Terms("tags", ("zh",)), [2, 5]),
        (Range("kind", "c", "zz"), [1, 2]),
        (Bool(should=(Match("title", "guide"), Terms("kind", ("note",)))), [1, 2, 3]),
        (Bool(should=(Match("", "fox"), Match("", "wood"), Match("", "cat")), at_least=2), [1]),
        (Bool(must_not=(Terms("kind", ("note", "book")),)), [4, 5]),
        (Like((("body", "Databases keep data"),)), [4]),
        (Like((("body", "分布式的缓存"),)), [2]),
    ],
)
def test_a_query_finds(reader: TextReader, node: Node, rows: list[int]) -> None:
    assert sorted(reader.search(node, limit=10).rows) == rows


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (Match("none", "x"), "no field 'none'"),
        (Match("size", "many"), "'many' is not a number"),
        (Terms("body", ("x",)), "exact=True"),
        (Terms("near", (1,)), "not kept whole"),
        (Terms("size", ("x",)), "'size'"),
        (Terms("kind", (1,)), "is not text"),
        (Prefix("size", "1"), "integer"),
        (Range("size", "a", None), "'size'"),
        (Range("size", float("nan"), None), "nan"),
        (Range("kind", "x" * 51, None), "too long"),
        (Boost(All(), float("inf")), "boost"),
        (Boost(All(), -1.0), "boost"),
        (Phrase("body", "a b", -1), "slop"),
        (Fuzzy("body", "a", 3), "distance"),
    ],
)
def test_what_cannot_be_asked_says_why(reader: TextReader, node: Node, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        reader.search(node, limit=10)


def test_the_best_field_counts_with_its_boost(reader: TextReader) -> None:
    both = reader.search(Match("", "cache 存"), limit=10)
    alone = reader.search(Match("title", "存"), limit=10)
    assert both.scores[both.rows.index(2)] >= 3 * alone.scores[alone.rows.index(2)] * 0.999
    assert both.scores == sorted(both.scores, reverse=True)


def test_filters_do_not_score(reader: TextReader) -> None:
    plain = reader.search(Match("body", "fox"), limit=1)
    kept = reader.search(
        Bool(must=(Match("body", "fox"),), filters=(Terms("kind", ("note",)),)), limit=1
    )
    assert kept.scores == pytest.approx(plain.scores)
    assert reader.search(Boost(Match("body", "fox"), 2.0), limit=1).scores == pytest.approx(
        [2 * plain.scores[0]]
    )
    assert reader.search(All(), limit=2).scores == [1.0, 1.0]


def test_only_what_is_wanted_is_counted(reader: TextReader) -> None:
    assert reader.search(All(), limit=0).total == 5
    assert reader.search(All(), limit=1, total=False).total == 0
    assert reader.search(Match("", "fox"), limit=0).rows == []


def test_rows_are_an_array(reader: TextReader) -> None:
    found = reader.rows(Terms("kind", ("note",)), 10)
    assert found is not None and found.dtype == np.uint64 and found.tolist() == [1, 2]
    assert reader.rows(All(), 4) is None
    assert reader.rows(Match("", "nothing"), 4).tolist() == []


def test_sorted_by_several_fields_what_lacks_them_last(reader: TextReader) -> None:
    found = reader.search(All(), limit=10, sort=Sort((("size", True), ("title", False))))
    assert found.rows == [3, 1, 4, 2, 5]
    assert found.values[2] == (1, "A database") and found.values[3] == (None, "分布式缓存")


@pytest.mark.parametrize("name", ["tags", "body", "near", "none"])
def test_what_has_no_order(reader: TextReader, name: str) -> None:
    with pytest.raises(InvalidArgument, match=name):
        reader.search(All(), limit=1, sort=Sort(((name, False),)))


@pytest.mark.parametrize("values", [(), (1, 2), ("x",)])
def test_a_place_in_another_order(reader: TextReader, values: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidArgument):
        reader.search(All(), limit=1, sort=Sort((("size", False),)), after=Position(values, 1))


@pytest.mark.parametrize(
    ("field", "prefix", "found"),
    [
        ("title", "run", [("runner", 1), ("running", 1)]),
        ("title", "Run", [("runner", 1), ("running", 1)]),
        ("body", "内", [("内存", 1)]),
        ("title", "分", [("分布式缓存", 1)]),
        ("body", "the wo", [("the wood", 1)]),
        ("kind", "", [("note", 2), ("book", 1)]),
        ("tags", "z", [("zh", 2)]),
        ("title", "zzz", []),
    ],
)
def test_completions(
    reader: TextReader, field: str, prefix: str, found: list[tuple[str, int]]
) -> None:
    suggested = reader.suggest(field, prefix, 10)
    # Equals are in no order.
    assert sorted(suggested) == sorted(found)
    assert [many for _, many in suggested] == sorted((many for _, many in found), reverse=True)


def test_completions_of_what_a_query_finds(reader: TextReader) -> None:
    assert reader.suggest("kind", "", 10, Terms("size", (3,))) == [("book", 1), ("note", 1)]
    assert reader.suggest("kind", "", 1) == [("note", 2)]
    with pytest.raises(InvalidArgument, match="only texts"):
        reader.suggest("size", "1", 10)


def test_a_score_is_explained(reader: TextReader) -> None:
    node = Match("body", "fox")
    told = reader.explain(node, 1)
    assert told is not None
    assert told["value"] == pytest.approx(reader.search(node, limit=1).scores[0])
    assert told["description"] and told["details"]
    assert reader.explain(node, 2) is None and reader.explain(node, 99) is None


@pytest.mark.parametrize(
    "place", [Position(("x",), 1), Position((), 1), Position((1.0,), -1), Position((1.0,), 2**63)]
)
def test_a_place_that_was_made_up(reader: TextReader, place: Position) -> None:
    with pytest.raises(InvalidArgument, match="cursor"):
        reader.search(Match("body", "fox runner"), limit=1, after=place)


def test_a_place_far_beyond(reader: TextReader) -> None:
    place = Position((0.0001,), 1, 10**15)
    assert reader.search(Match("body", "fox runner"), limit=1, after=place).rows == []


def test_pages_of_many_equals(tmp_path: Path) -> None:
    """The same words over and over: the order is that of one long page, from page to page."""
    writer = TextWriter(tmp_path / "text", SCHEMA)
    for begin in range(0, 400, 100):
        writer.apply(
            [], [(row, {"body": ["one two"], "size": row % 3}) for row in range(begin, begin + 100)]
        )
        writer.commit()
    writer.close()
    reader = TextReader(tmp_path / "text", SCHEMA)
    for sort in (None, Sort((("size", False),))):
        whole = reader.search(Match("body", "two"), limit=400, sort=sort)
        assert sorted(whole.rows) == list(range(400))
        rows: list[int] = []
        place = None
        for _ in range(6):
            page = reader.search(Match("body", "two"), limit=70, sort=sort, after=place)
            rows += page.rows
            place = page.position(len(page.rows) - 1)
        assert rows == whole.rows
    reader.close()


def test_large_queries_are_not_kept(reader: TextReader) -> None:
    tracemalloc.start()
    try:
        for number in range(20):
            values = tuple(f"{number}-{value:0100}" for value in range(1000))
            assert reader.search(Terms("tags", values), limit=1).rows == []
        del values
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()
