"""What the search service accepts at its edges, and how the rest is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from mesh.errors import InvalidArgument
from mesh.protocol import search as limits


@pytest.mark.parametrize("name", ["", "n" * 65, "文" * 22, 5, None, "a/b", "a\\b", "line\nbreak"])
def test_what_is_no_collection(name: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"^collection="):
        limits.check_collection(name)


def test_what_is_a_collection() -> None:
    for name in ("docs", "文" * 21, "a.b-c d"):
        assert limits.check_collection(name) == name


def test_documents() -> None:
    given = {"id": "é", "title": "t", "n": None}
    assert limits.check_documents([given]) == [("é", "é".encode(), {"title": "t", "n": None})]
    assert given["id"] == "é", "what was given is left as it was"
    for wrong, said in (
        ("text", "not a list of documents"),
        ([{"title": "t"}], r'documents\[0\] has no "id"'),
        ([{"id": 5}], r"documents\[0\]: id=5 is int"),
        ([{"id": ""}], r"documents\[0\]: id is empty"),
        ([{"id": "a", 5: "t"}], "5 is no name of a field"),
        (["text"], "not a mapping of fields to values"),
        ([{"id": "a"}] * 1001, "1001 documents in one call"),
    ):
        with pytest.raises(InvalidArgument, match=said):
            limits.check_documents(wrong)


def test_many_ids() -> None:
    assert limits.check_ids(("a", "b")) == [b"a", b"b"]
    with pytest.raises(InvalidArgument, match=r"unlike\[1\] is empty"):
        limits.check_ids(["a", ""], "unlike")
    with pytest.raises(InvalidArgument, match="101 ids in one call, the limit is 100"):
        limits.check_ids(["a"] * 101, most=100)


ACCEPTED: list[tuple[Callable[[Any], Any], Any, Any]] = [
    (limits.check_limit, 0, 0),
    (limits.check_limit, 1000, 1000),
    (limits.check_offset, 10_000, 10_000),
    (limits.check_cursor, b"", b""),
    (limits.check_refresh, "wait", "wait"),
    (limits.check_refresh_every, 1, 1.0),
    (limits.check_only_if, "", ""),
    (limits.check_query, None, None),
    (limits.check_query, {"match": {}}, {"match": {}}),
    (limits.check_filter, None, None),
    (limits.check_filter, ("a:1", {"a": 1}), ["a:1", {"a": 1}]),
    (limits.check_sort, [["a", "asc"], ("b", "desc")], [("a", "asc"), ("b", "desc")]),
    (limits.check_weights, None, {"text": 1.0, "vector": 0.6}),
    (limits.check_weights, {"text": 0}, {"text": 0.0, "vector": 0.6}),
    (limits.check_source, ["a"], ["a"]),
    (limits.check_source, False, False),
    (limits.check_vector, b"\0" * 8, b"\0" * 8),
    (limits.check_vector, (1, 0.5), [1, 0.5]),
    (limits.check_vector, None, None),
    (limits.check_highlight, [], {}),
    (limits.check_highlight, None, {}),
    (limits.check_highlight, {"fields": []}, {}),
    (
        lambda given: limits.check_highlight(given)["fields"], {"fields": ["a", "b", "a"]},
        ["a", "b"],
    ),
    (limits.check_facets, {"by": "author"}, {"by": {"kind": "terms", "field": "author"}}),
    (limits.check_facets, {"n": {"kind": "stats", "field": "n"}},
     {"n": {"kind": "stats", "field": "n"}}),
]  # fmt: skip


@pytest.mark.parametrize(("check", "given", "found"), ACCEPTED)
def test_what_is_accepted(check: Callable[[Any], Any], given: Any, found: Any) -> None:
    assert check(given) == found


REFUSED: list[tuple[Callable[[Any], Any], Any, str]] = [
    (limits.check_limit, 1001, "0 to 1,000"),
    (limits.check_limit, True, "whole number"),
    (limits.check_limit, -1, "whole number"),
    (limits.check_offset, 10_001, "go on from the cursor"),
    (limits.check_offset, "5", "whole number"),
    (limits.check_nearest, 0, "1 to 10,000"),
    (limits.check_cursor, "text", "not given out"),
    (limits.check_cursor, bytes(8 * 1024 + 1), "not given out"),
    (limits.check_refresh, "now", "'interval', 'wait'"),
    (limits.check_refresh, [], "'interval', 'wait'"),
    (limits.check_refresh_every, 0.01, "0.05 to 60 seconds"),
    (limits.check_refresh_every, math.nan, "0.05 to 60 seconds"),
    (limits.check_only_if, "never", "'absent', 'present'"),
    (limits.check_operator, "xor", "'or', 'and'"),
    (limits.check_query, 5, "neither text nor a mapping"),
    (limits.check_query, "q" * (64 * 1024 + 1), "more than 65,536 octets"),
    (limits.check_query, "\ud800", "surrogate"),
    (limits.check_filter, ["a", 5], r"filter\[1\]=5 is neither"),
    (limits.check_sort, "title", "not a list"),
    (limits.check_sort, ["title"], r'sort\[0\]=.* "asc" or "desc"'),
    (limits.check_sort, [["title", "up"]], r"sort\[0\]='up'"),
    (limits.check_sort, [[5, "asc"]], r"sort\[0\]=5"),
    (limits.check_sort, [["a", "asc"]] * 9, "up to 8 pairs"),
    (limits.check_weights, {"words": 1}, "not a mapping as"),
    (limits.check_weights, {"text": -1}, "not a number from 0"),
    (limits.check_weights, {"text": math.inf}, "not a number from 0"),
    (limits.check_weights, {"text": 0, "vector": 0}, "weights of 0 only"),
    (limits.check_min_score, 10**400, "finite number"),
    (limits.check_source, "title", "True, False or a list"),
    (limits.check_source, [5], r"source\[0\]=5"),
    (limits.check_fields, "title", "not a list"),
    (limits.check_vector, b"abc", "3 octets"),
    (limits.check_vector, [], "1 to 4096 numbers"),
    (limits.check_vector, [1, "2"], "'2' is not a finite number"),
    (limits.check_vector, [math.nan], "nan is not a finite number"),
    (limits.check_highlight, {"colour": 1}, "neither a list of fields"),
    (limits.check_highlight, {"fields": ["a"], "size": 5}, "highlight: size=5"),
    (limits.check_highlight, {"fields": ["a"], "escape": 1}, "True or False"),
    (limits.check_highlight, 5, "neither a list of fields"),
    (limits.check_facets, ["author"], "not a mapping"),
    (limits.check_facets, {"by": 5}, "facets: by=5"),
    (limits.check_facets, {"by": {"kind": "pie", "field": "a"}}, "facets: by: kind='pie'"),
    (limits.check_facets, {"by": {"kind": "terms"}}, "facets: by: field=None"),
    (limits.check_facets, {str(n): "f" for n in range(65)}, "up to 64"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "given", "said"), REFUSED)
def test_what_is_refused(check: Callable[[Any], Any], given: Any, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        check(given)
