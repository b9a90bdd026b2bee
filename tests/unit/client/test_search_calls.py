"""What the search client sends, and what it refuses before it sends anything."""

from __future__ import annotations

import struct
from array import array
from typing import Any

import pytest

from mesh.client.search import calls, integer, keyword, text, vector
from mesh.client.search.embedding import choose, packed, packed_all
from mesh.client.search.plans import Compute, index, query, update
from mesh.client.search.requests import CollectionInfo, Leg, collection_info, hits
from mesh.client.verbs import Request
from mesh.errors import InvalidArgument
from mesh.protocol import payload


def test_only_what_was_given_is_sent() -> None:
    plain = calls.query("docs", "分布式 cache")
    assert (plain.verb, plain.args, plain.kwargs) == ("query", ("docs", "分布式 cache"), {})
    empty = calls.query("docs", "x", sort=[], fields=[], filter="", facets={}, min_score=0)
    assert empty.kwargs == {}
    request = calls.query(
        "docs", vector=[1, 0.5], filter="a:1", limit=0, offset=5, cursor=b"c", sort="-year",
        facets={"by": "author"}, highlight="title", source=False, weights={"text": 0.5},
        min_score=1, total=False, k=7, operator="and", fields="title", explain=True,
        fusion="ranks",
    )  # fmt: skip
    assert request.args == ("docs", None)
    highlight = request.kwargs.pop("highlight")
    assert highlight["fields"] == ["title"]
    assert request.kwargs == {
        "vector": struct.pack("<2f", 1, 0.5), "filter": "a:1", "limit": 0, "offset": 5,
        "cursor": b"c", "sort": [["year", "desc"]], "source": False, "min_score": 1.0,
        "facets": {"by": {"kind": "terms", "field": "author"}}, "total": False, "k": 7,
        "weights": {"text": 0.5, "vector": 0.6}, "operator": "and", "fields": ["title"],
        "explain": True, "fusion": "ranks",
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [{"offset": False}, {"offset": 0.0}, {"cursor": None}, {"cursor": bytearray()}, {"sort": None},
     {"min_score": False}, {"limit": 10.0}, {"k": 100.0}, {"vector_field": None}, {"source": 1},
     {"operator": ""}, {"fusion": None}],
)  # fmt: skip
def test_what_only_looks_like_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(wrong))):
        calls.query("docs", "x", **wrong)


def test_an_order_is_written_in_several_ways() -> None:
    assert calls.sorting(("-year", "title")) == [["year", "desc"], ["title", "asc"]]
    assert calls.sorting([("year", "desc"), ["title", "asc"]]) == [
        ["year", "desc"], ["title", "asc"],
    ]  # fmt: skip
    with pytest.raises(InvalidArgument, match=r"sort\[0\]"):
        calls.sorting([("year", "downwards")])


def sent(request: Request[Any]) -> list[dict[str, Any]]:
    assert request.kwargs["packed"] is True
    return [payload.decode(body) for body in request.args[1]]


def test_documents_get_ids_once() -> None:
    (one,) = sent(calls.index("docs", {"title": "t"}))
    assert one["title"] == "t" and len(one["id"]) == 32
    first, second = sent(calls.index("docs", iter([{"id": "a"}, {"id": None, "x": 1}])))
    assert first == {"id": "a"} and second["id"]
    given = {"title": "t"}
    calls.index("docs", [given])
    assert given == {"title": "t"}, "what was given is left as it was"


def test_arrays_are_sent_as_octets() -> None:
    (one,) = sent(calls.index("docs", [{"id": "a", "v": array("f", [1.0, -2.0])}]))
    assert one["v"] == struct.pack("<2f", 1, -2)
    assert packed(array("d", [0.5])) == packed([0.5]) == struct.pack("<f", 0.5)
    assert packed_all([[1], b"\0\0\0\0"], 2) == [struct.pack("<f", 1), b"\0\0\0\0"]
    for wrong in (5, "text", [[1]], ["a"], [10**400]):
        with pytest.raises(InvalidArgument, match="is not a list of numbers"):
            packed(wrong)
    with pytest.raises(InvalidArgument, match="1 vectors for 2 texts"):
        packed_all([[1]], 2)
    with pytest.raises(InvalidArgument, match="not a list of vectors"):
        packed_all(None, 1)


def test_what_is_refused_here() -> None:
    for wrong, said in (
        (lambda: calls.index("docs", "text"), "not a list of documents"),
        (lambda: calls.index("docs", 5), "not a list of documents"),
        (lambda: calls.index("docs", [{}] * 1001), "use load"),
        (lambda: calls.index("", [{}]), "collection="),
        (lambda: calls.index("docs", [{"f": print}]), "document '.*'"),
        (lambda: calls.update("docs", [{"title": "t"}]), r"documents\[0\]: an update names"),
        (lambda: calls.update("docs", [{"id": "a"}, "x"]), r"documents\[1\]"),
        (lambda: calls.delete_by_query("docs", ""), "drop"),
        (lambda: calls.similar("docs"), "ids, a text or a vector"),
        (lambda: calls.query("docs", 5), "neither text nor a mapping"),
        (lambda: calls.suggest("docs", "f", "p" * 257), "prefix"),
        (lambda: calls.create("docs", refresh_every=0), "refresh_every"),
        (lambda: calls.get("docs", ""), "id is empty"),
    ):
        with pytest.raises(InvalidArgument, match=said):
            wrong()


def test_what_may_run_twice_is_marked() -> None:
    reads = (calls.get("c", "i"), calls.query("c"), calls.count("c"), calls.info("c"),
             calls.collections(), calls.similar("c", "i"), calls.suggest("c", "f", ""))  # fmt: skip
    assert all(request.safe for request in reads)
    writes = (calls.index("c", []), calls.drop("c"), calls.create("c"), calls.delete("c", "i"))
    assert {request.safe for request in writes} == {None}


HIT = {
    "id": "a",
    "score": 1.5,
    "version": 3,
    "source": {"id": "a"},
    "text": {"score": 2.0, "rank": 1},
}


def test_answers_are_read() -> None:
    found = hits(
        {"hits": [HIT], "total": None, "cursor": b"c", "facets": {}, "took": 0.1, "refreshed": 7}
    )
    assert len(found) == 1 and found[0].id == "a" and [hit.id for hit in found] == ["a"]
    assert found[0].text == Leg(2.0, 1) and found[0].vector is None
    assert found[0].highlight == {} and found.total == -1 and found.cursor == b"c"


def info(**fields: Any) -> CollectionInfo:
    schema = {name: {"kind": kind} for name, kind in fields.items()}
    return collection_info({
        "name": "docs", "documents": 0, "octets": 0, "version": 0, "refreshed": 0,
        "refresh_every": 0.2, "dynamic": True, "schema": schema, "rebuilding": None,
        "created_at": 0.0, "more": 1,
    })  # fmt: skip


def test_where_vectors_go() -> None:
    known = info(title="text", body="text", n="integer", v="vector")
    how = choose("docs", known, "e.m", "", ())
    assert (how.field, how.fields) == ("v", ("title", "body"))
    assert how.text({"title": "a", "body": ["b", "c"], "n": 5}) == "a\nb\nc"
    assert how.lacking([{"title": " "}, {"title": "a", "v": [1]}, {"n": 1}]) == []
    for collection, field, fields, said in (
        (None, "", (), "has none"),
        (info(v="vector", w="vector"), "", ("t",), "has 2: v, w"),
        (known, "title", (), "no field of vectors"),
        (info(v="vector"), "", (), "no text fields yet"),
    ):
        with pytest.raises(InvalidArgument, match=said):
            choose("docs", collection, "e.m", field, fields)


def test_vectors_are_made_of_what_lacks_them() -> None:
    documents = [{"id": "a", "t": "x"}, {"id": "b"}, {"id": "c", "t": "y", "v": [1.0]}]
    plan = index("docs", documents, embed="e.m")
    assert next(plan).verb == "info"
    step = plan.send(info(t="text", v="vector"))
    assert step == Compute(["x"], "e.m")
    request = plan.send([b"\0\0\0\0"])
    assert isinstance(request, Request)
    assert sent(request) == [
        {"id": "a", "t": "x", "v": b"\0\0\0\0"}, {"id": "b"}, {"id": "c", "t": "y", "v": [1.0]},
    ]  # fmt: skip


def test_an_update_reads_what_else_its_vector_is_made_of() -> None:
    documents = [{"id": "a", "t": "new"}, {"id": "b", "n": 1}, {"id": "c", "t": "x", "u": "y"}]
    plan = update("docs", documents, embed="e.m", embed_from=["t", "u"])
    next(plan)
    step = plan.send(info(t="text", u="text", v="vector"))
    assert isinstance(step, Request) and (step.verb, step.args) == ("get_many", ("docs", ["a"]))
    step = plan.send({"a": {"id": "a", "t": "old", "u": "there", "v": b"old "}})
    assert step == Compute(["new\nthere", "x\ny"], "e.m")
    request = plan.send([b"1   ", b"2   "])
    assert isinstance(request, Request)
    assert [one.get("v") for one in sent(request)] == [b"1   ", None, b"2   "]
    assert "v" not in sent(request)[1]


def test_a_query_is_embedded_as_it_is_or_as_said() -> None:
    plan = query("docs", "words", embed="e.m")
    assert next(plan) == Compute(["words"], "e.m")
    request = plan.send([b"vect"])
    assert isinstance(request, Request) and request.kwargs == {"vector": b"vect"}
    assert next(query("docs", {"match": {}}, embed="e.m", embed_text="t")) == Compute(["t"], "e.m")
    with pytest.raises(InvalidArgument, match="no text to make a vector of"):
        next(query("docs", {"match": {}}, embed="e.m"))


def test_fields() -> None:
    assert text(boost=2) == {"kind": "text", "analyzer": "default", "boost": 2, "exact": False}
    assert (keyword(), integer()) == ({"kind": "keyword"}, {"kind": "integer"})
    assert vector(3) == {"kind": "vector", "dimension": 3, "metric": "cosine"}
