"""Facets: counts of values, ranges and parts of the calendar in what a query finds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import InvalidArgument
from workers.search.query.nodes import All, Node, Terms
from workers.search.schema import parse
from workers.search.text.facets import FacetSpec
from workers.search.text.index import TextReader, TextWriter

SCHEMA = parse(
    {"kind": "keyword", "tags": "tags", "size": "integer", "price": "float", "at": "date",
     "open": "boolean", "body": "text"}
)  # fmt: skip
DOCUMENTS: list[dict[str, Any]] = [
    {"kind": "a", "tags": ["x", "y", "x"], "size": 1, "price": 0.5, "at": "2023-12-31T23:59:59"},
    {"kind": "a", "tags": ["x"], "size": 5, "price": 1.5, "at": "2024-01-01", "open": True},
    {"kind": "b", "size": 5, "price": -2.5, "at": "2024-02-29T12:00:00.000001"},
    {"kind": "c", "tags": [], "size": -7, "at": "2024-12-30", "open": False},
    {"body": "nothing else"},
]


def day(year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, tzinfo=UTC)


def each(*begins: datetime) -> dict[datetime, int]:
    return dict.fromkeys(begins, 1)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextReader]:
    path = tmp_path_factory.mktemp("search") / "text"
    writer = TextWriter(path, SCHEMA)
    for row, one in enumerate(DOCUMENTS):
        writer.apply([], [(row, SCHEMA.checked(one))])
        writer.commit()
    writer.close()
    reader = TextReader(path, SCHEMA)
    yield reader
    reader.close()


def facet(reader: TextReader, node: Node = All(), **given: Any) -> Any:  # noqa: B008
    return reader.facets(node, {"f": FacetSpec.parse("f", given, SCHEMA)})["f"]


def test_terms(reader: TextReader) -> None:
    found = facet(reader, field="kind", size=2)
    assert found == {"values": [["a", 2], ["b", 1]], "other": 1}
    assert facet(reader, field="tags") == {"values": [["x", 2], ["y", 1]], "other": 0}
    assert facet(reader, field="size")["values"] == [[5, 2], [-7, 1], [1, 1]]
    assert facet(reader, field="open")["values"] == [[False, 1], [True, 1]]
    assert facet(reader, field="at")["values"][0] == [
        datetime(2023, 12, 31, 23, 59, 59, tzinfo=UTC),
        1,
    ]


def test_only_what_the_query_finds(reader: TextReader) -> None:
    only = Terms("kind", ("b", "c"))
    assert facet(reader, only, field="size")["values"] == [[-7, 1], [5, 1]]
    assert facet(reader, Terms("kind", ("none",)), field="at", kind="dates") == {"buckets": []}
    assert facet(reader, Terms("kind", ("none",)), field="size", kind="stats")["min"] is None


def test_ranges_may_overlap(reader: TextReader) -> None:
    given = [[None, 1], [1, 5], [1, 6], [5, None], [None, None], [0.5, 1.5]]
    found = facet(reader, kind="ranges", field="size", ranges=given)
    assert found == {
        "ranges": [[None, 1, 1], [1, 5, 1], [1, 6, 3], [5, None, 2], [None, None, 4], [0.5, 1.5, 1]]
    }
    dates = facet(reader, kind="ranges", field="at", ranges=[["2024-01-01", "2024-12-30"]])
    assert dates == {"ranges": [[day(2024, 1, 1), day(2024, 12, 30), 2]]}


def test_histograms(reader: TextReader) -> None:
    found = facet(reader, kind="histogram", field="size", interval=5)
    assert found == {"buckets": [[-10, 1], [0, 1], [5, 2]]}
    found = facet(reader, kind="histogram", field="price", interval=1, offset=0.5)
    assert found == {"buckets": [[-2.5, 1], [0.5, 1], [1.5, 1]]}


@pytest.mark.parametrize(
    ("interval", "buckets"),
    [
        ("year", {day(2023, 1, 1): 1, day(2024, 1, 1): 3}),
        ("quarter", {day(2023, 10, 1): 1, day(2024, 1, 1): 2, day(2024, 10, 1): 1}),
        ("month", each(day(2023, 12, 1), day(2024, 1, 1), day(2024, 2, 1), day(2024, 12, 1))),
        ("week", each(day(2023, 12, 25), day(2024, 1, 1), day(2024, 2, 26), day(2024, 12, 30))),
        (86_400, each(day(2023, 12, 31), day(2024, 1, 1), day(2024, 2, 29), day(2024, 12, 30))),
    ],
)
def test_dates(reader: TextReader, interval: Any, buckets: dict[datetime, int]) -> None:
    found = facet(reader, kind="dates", field="at", interval=interval)
    assert found == {"buckets": [list(one) for one in buckets.items()]}


def test_stats(reader: TextReader) -> None:
    found = facet(reader, kind="stats", field="size")
    assert found == {"count": 4, "min": -7, "max": 5, "avg": 1.0, "sum": 4}
    found = facet(reader, kind="stats", field="at")
    assert found["max"] == day(2024, 12, 30) and "sum" not in found


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kind": "best", "field": "kind"}, "none of terms"),
        ({"kind": "terms", "field": "none"}, "no field"),
        ({"kind": "terms", "field": "body"}, "exact=True"),
        ({"kind": "terms", "field": "kind", "sise": 3}, "'sise'"),
        ({"kind": "terms", "field": "kind", "size": 0}, "size=0"),
        ({"kind": "terms", "field": "kind", "size": True}, "size=True"),
        ({"kind": "stats", "field": "kind"}, "keyword"),
        ({"kind": "ranges", "field": "size"}, "ranges=None"),
        ({"kind": "ranges", "field": "size", "ranges": [[1]]}, "pairs"),
        ({"kind": "ranges", "field": "size", "ranges": [["a", 1]]}, "'size'"),
        ({"kind": "histogram", "field": "size"}, "interval"),
        ({"kind": "histogram", "field": "size", "interval": float("nan")}, "not a number"),
        ({"kind": "dates", "field": "at", "interval": "hour"}, "day, week"),
        ({"kind": "dates", "field": "size"}, "is for date"),
    ],
)
def test_what_cannot_be_counted_says_why(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        FacetSpec.parse("f", given, SCHEMA)


def test_too_many_buckets(reader: TextReader) -> None:
    with pytest.raises(InvalidArgument, match="longer interval"):
        facet(reader, kind="dates", field="at", interval=1)
    with pytest.raises(InvalidArgument, match="longer interval"):
        facet(reader, kind="histogram", field="size", interval=1e-6)


EXTREME: list[dict[str, Any]] = [
    {"size": 2**63 - 1, "price": 1.7e308, "at": "9999-12-31T23:59:59.999999"},
    {"size": -(2**63), "price": -1.7e308, "at": "0001-01-01"},
    {"size": 3, "price": 3.0, "at": "2024-01-01"},
]


@pytest.fixture(scope="module")
def extreme(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextReader]:
    path = tmp_path_factory.mktemp("search") / "text"
    writer = TextWriter(path, SCHEMA)
    writer.apply([], [(row, SCHEMA.checked(one)) for row, one in enumerate(EXTREME)])
    writer.commit()
    writer.close()
    reader = TextReader(path, SCHEMA)
    yield reader
    reader.close()


def test_values_at_the_ends_of_their_kinds(extreme: TextReader) -> None:
    """Neither crashes in the depth nor an index that is taken for damaged."""
    stats = facet(extreme, kind="stats", field="at")
    assert stats["count"] == 3 and stats["max"].year == 9999 and stats["min"].year == 1
    assert len(facet(extreme, kind="dates", field="at", interval="year")["buckets"]) == 3
    assert len(facet(extreme, kind="dates", field="at", interval=10**12)["buckets"]) == 2
    found = facet(extreme, kind="histogram", field="price", interval=1e308)
    assert sum(count for _, count in found["buckets"]) == 3
    ends = [["0001-01-01", "9999-12-31T23:59:59.999999"]]
    assert facet(extreme, kind="ranges", field="at", ranges=ends)["ranges"][0][2] >= 2
    found = facet(
        extreme, kind="ranges", field="size",
        ranges=[[1e300, None], [None, -1e300], [2**70, 2**71], [None, 3], [3, None]],
    )  # fmt: skip
    assert [count for _, _, count in found["ranges"]] == [0, 0, 0, 1, 2]


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "histogram", "field": "price", "interval": 1e-320},
        {"kind": "histogram", "field": "size", "interval": 1e-300},
        {"kind": "histogram", "field": "price", "interval": 1.0},
        {"kind": "histogram", "field": "price", "interval": 10**5000},
        {"kind": "dates", "field": "at", "interval": 1e308},
        {"kind": "dates", "field": "at", "interval": 1},
        {"kind": "terms", "field": "kind", "size": 10**5000},
    ],
)
def test_intervals_and_numbers_that_cannot_be(extreme: TextReader, given: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"interval|buckets|size"):
        facet(extreme, **given)


def test_more_buckets_than_may_be_are_no_damage(tmp_path: Path) -> None:
    writer = TextWriter(tmp_path, SCHEMA)
    writer.apply([], [(row, {"size": row}) for row in range(2000)])
    writer.commit()
    writer.close()
    reader = TextReader(tmp_path, SCHEMA)
    one = FacetSpec.parse("f", {"kind": "histogram", "field": "size", "interval": 1}, SCHEMA)
    assert len(reader.facets(All(), {"f": one})["f"]["buckets"]) == 2000
    with pytest.raises(InvalidArgument, match="ask for fewer at a time"):
        reader.facets(All(), {f"f{number}": one for number in range(64)})
    reader.close()
