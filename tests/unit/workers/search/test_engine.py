"""The engine: documents on disk, indexes that follow them, and what becomes of both in trouble."""

from __future__ import annotations

import os
import shutil
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import InvalidArgument, StoreBusy
from tests import support
from tests.unit.workers.search.driver import Driver, opened
from workers.search import indexing
from workers.search.engine import INDEXES
from workers.search.verbs import Verbs

TEA = {"id": "tea", "title": "Green tea from Hangzhou 杭州绿茶", "price": 7, "tags": ["drink"]}
CUP = {"id": "cup", "title": "A cup for tea", "price": 12, "tags": ["ware"]}
INK = {"id": "ink", "title": "Black ink", "price": 3, "tags": ["ware", "office"]}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Driver]:
    engine = opened(tmp_path / "s")
    yield Driver(engine)
    engine.close()


def test_documents_are_found_by_words_values_and_ids(store: Driver) -> None:
    assert store.index("shop", TEA, CUP, INK)["ids"] == ["tea", "cup", "ink"]
    assert set(store.ids("shop", "tea")) == {"tea", "cup"}
    assert store.ids("shop", "绿茶") == ["tea"]
    assert store.ids("shop", "tea", filter="price:>=10") == ["cup"]
    assert store.ids("shop", sort=[["price", "asc"]]) == ["ink", "tea", "cup"]
    assert store.read("get", "shop", "tea") == TEA
    assert store.read("get", "shop", "gone") is None
    answer = store.read("query", "shop", "ink", source=["price"])
    assert answer["total"] == 1 and answer["hits"][0]["source"] == {"id": "ink", "price": 3}
    assert store.read("count", "shop", "tags:ware") == 2


def test_a_new_version_takes_the_place_of_the_old_one(store: Driver) -> None:
    store.index("shop", TEA, CUP)
    store.index("shop", {**CUP, "title": "A mug"})
    assert store.ids("shop", "tea") == ["tea"] and store.ids("shop", "mug") == ["cup"]
    store.write("update", "shop", [{"id": "cup", "price": 1, "tags": None}], refresh="wait")
    assert store.read("get", "shop", "cup") == {"id": "cup", "title": "A mug", "price": 1}
    assert store.ids("shop", "price:1") == ["cup"]
    assert store.delete("shop", "tea", "never") == 1
    assert store.ids("shop") == ["cup"]
    info = store.read("info", "shop")
    assert info["documents"] == 1 and info["version"] == info["refreshed"]


def test_conditions_and_wrong_documents(store: Driver) -> None:
    store.index("shop", TEA)
    assert store.index("shop", TEA, INK, only_if="absent")["ids"] == ["ink"]
    assert store.index("shop", TEA, CUP, only_if="present")["ids"] == ["tea"]
    with pytest.raises(InvalidArgument, match=r"document 'cup'.*'price'.*whole number"):
        store.index("shop", INK, {**CUP, "price": "dear"})
    assert store.read("get", "shop", "cup") is None
    with pytest.raises(InvalidArgument, match="no document 'cup' to update"):
        store.write("update", "shop", [{"id": "cup", "price": 1}])
    with pytest.raises(InvalidArgument, match="no collection 'none'"):
        store.ids("none", "tea")
    with pytest.raises(InvalidArgument, match="no field 'colour'"):
        store.ids("shop", "colour:red")


def test_a_repeated_request_is_done_once(store: Driver) -> None:
    act = store._verbs.index("shop", [TEA])
    first = store.again(act, 1)
    store.index("shop", {**TEA, "price": 8})
    assert store.again(act, 1) == first
    assert store.read("get", "shop", "tea")["price"] == 8


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    engine = opened(tmp_path / "s")
    Driver(engine).index("shop", TEA, CUP)
    Driver(engine).write("index", "shop", [INK])  # nobody waits for the index
    engine.close()
    engine = opened(tmp_path / "s")
    store = Driver(engine)
    engine.refresh("shop")
    assert set(store.ids("shop")) == {"tea", "cup", "ink"}
    engine.close()


@pytest.mark.parametrize("harm", ["missing", "emptied", "scribbled"])
def test_an_index_that_cannot_be_used_is_built_anew(tmp_path: Path, harm: str) -> None:
    engine = opened(tmp_path / "s")
    Driver(engine).index("shop", TEA, CUP, INK)
    engine.close()
    folder = tmp_path / "s" / INDEXES
    if harm == "missing":
        shutil.rmtree(folder)
    for path in folder.rglob("*") if harm != "missing" else ():
        if path.is_file() and harm == "emptied":
            path.write_bytes(b"")
        elif path.is_file():
            path.write_bytes(os.urandom(path.stat().st_size))
    engine = opened(tmp_path / "s")
    store = Driver(engine)
    until = time.monotonic() + 20.0
    while True:
        try:
            found = set(store.ids("shop", "tea"))
        except StoreBusy:
            found = set()
        if found == {"tea", "cup"}:
            break
        assert time.monotonic() < until
        engine.refresh("shop")
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 1
    engine.close()


def test_new_fields_are_searched_once_the_index_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "SMALL", 0)
    monkeypatch.setattr(indexing, "SLICE", 7)
    engine = opened(tmp_path / "s")
    store = Driver(engine)
    store.index("shop", *({"id": f"n{number}", "title": f"thing {number}"} for number in range(50)))
    store.index("shop", {"id": "new", "title": "thing new", "colour": "red"})
    until = time.monotonic() + 20.0
    while store.read("info", "shop")["rebuilding"]:
        assert store.read("query", "shop", "thing")["total"] == 51
        assert time.monotonic() < until
    assert store.ids("shop", "colour:red") == ["new"]
    assert store.read("query", "shop", "thing")["total"] == 51
    engine.close()


def test_a_collection_can_be_dropped_and_made_again(store: Driver, tmp_path: Path) -> None:
    schema = {"title": "text", "price": "integer"}
    assert store.write("create", "shop", schema, dynamic=False) == {"created": True}
    assert store.write("create", "shop", schema, dynamic=False) == {"created": False}
    with pytest.raises(InvalidArgument, match="exists with other fields"):
        store.write("create", "shop", {"title": "keyword"}, dynamic=False)
    with pytest.raises(InvalidArgument, match="'tags' is not declared"):
        store.index("shop", TEA)
    store.index("shop", {"id": "tea", "title": "tea", "price": 1})
    assert store.write("drop", "shop") is True and store.write("drop", "shop") is False
    assert store.read("info", "shop") is None
    store.index("shop", CUP)
    assert store.ids("shop") == ["cup"]
    assert [one["name"] for one in store.read("collections")] == ["shop"]


def test_vectors_and_both_together(store: Driver) -> None:
    store.write("create", "near", {"title": "text", "at": {"kind": "vector", "dimension": 2}})
    store.index(
        "near",
        {"id": "east", "title": "morning sun", "at": [1.0, 0.0]},
        {"id": "north", "title": "cold wind", "at": [0.0, 1.0]},
        {"id": "west", "title": "evening sun", "at": [-1.0, 0.1]},
        {"id": "none", "title": "no place"},
    )
    assert store.ids("near", vector=[0.9, 0.1], limit=2) == ["east", "north"]
    assert store.ids("near", vector=[0.9, 0.1], filter="title:sun") == ["east", "west"]
    answer = store.read("query", "near", "sun", vector=[0.9, 0.1])
    first = answer["hits"][0]
    assert (
        first["id"] == "east" and first["text"]["rank"] in (1, 2) and first["vector"]["rank"] == 1
    )
    assert store.read("get", "near", "east") == {"id": "east", "title": "morning sun"}
    chosen = store.read("query", "near", "wind", source=["at"])["hits"][0]["source"]
    assert chosen == {"id": "north", "at": [0.0, 1.0]}
    similar = store.read("similar", "near", ["east"], limit=1)
    assert [hit["id"] for hit in similar["hits"]] == ["west"]
    store.delete("near", "east")
    assert store.ids("near", vector=[0.9, 0.1], limit=1) == ["north"]


def test_searches_for_vectors_that_arrive_together_are_answered_as_alone(store: Driver) -> None:
    store.write("create", "near", {"title": "text", "at": {"kind": "vector", "dimension": 2}})
    points = [{"id": f"d{n}", "title": "sun", "at": [n, 20.0]} for n in range(40)]
    store.index("near", *points)
    asked: list[dict[str, Any]] = [
        {"vector": struct.pack("<2f", 1.0, 1.0)},
        {"vector": struct.pack("<2f", 3.0, 1.0), "source": False},
        {"vector": struct.pack("<2f", 1.0, 3.0), "min_score": 0.97},
        {"vector": struct.pack("<2f", 1.0, 2.0), "limit": 3, "offset": 7, "highlight": ["title"]},
        {"vector": struct.pack("<2f", 5.0, 2.0), "limit": 7, "offset": 3, "source": ["title"]},
        {"vector": struct.pack("<2f", 2.0, 1.0), "filter": "title:sun", "limit": 2},
        {"vector": struct.pack("<2f", 2.0, 1.0), "query": "sun"},
        {"vector": [2.0, 1.0]},
        {"vector": b"123456789012"},
        {"vector": b"123456789abc"},
        {"vector": b"\xff" * 8},
        {"vector": bytes(8)},
        {"vector": struct.pack("<2f", 1.0, 1.0), "vector_field": "title"},
        {"vector": struct.pack("<2f", 2.0, 1.0), "vector_field": "title"},
    ]
    verbs = Verbs()
    for some in (asked[:5], asked[5:], asked):
        acts = [verbs.query("near", **arguments) for arguments in some]
        together = store.engine.read([act.op for act in acts])
        for act, found in zip(acts, together, strict=True):
            (alone,) = store.engine.read([act.op])
            if isinstance(alone, Exception):
                assert type(alone) is type(found) and str(alone) == str(found)
            else:
                assert act.answer(found) | {"took": 0} == act.answer(alone) | {"took": 0}
    missing = [verbs.query("none", vector=bytes(8)).op for _ in range(2)]
    assert [type(found) for found in store.engine.read(missing)] == [InvalidArgument] * 2


def test_pages_come_to_an_end_without_gaps(store: Driver) -> None:
    documents = [{"id": f"{number:03}", "title": "same words", "n": number % 7}
                 for number in range(45)]  # fmt: skip
    store.index("shop", *documents)
    for options in ({}, {"sort": [["n", "desc"]]}):
        seen: list[str] = []
        cursor = b""
        while True:
            page = store.read("query", "shop", "words", limit=10, cursor=cursor, **options)
            seen += [hit["id"] for hit in page["hits"]]
            cursor = page["cursor"]
            if not cursor:
                break
        assert len(seen) == 45 == len(set(seen))
    page = store.read("scan_page", "shop", limit=40)
    rest = store.read("scan_page", "shop", limit=40, cursor=page["cursor"])
    assert [one["id"] for one in page["documents"] + rest["documents"]] == [
        one["id"] for one in documents
    ]
    assert rest["cursor"] == b""


def test_a_reader_in_another_process_sees_what_was_published(
    tmp_path: Path, process: support.Start
) -> None:
    code = """
import sys
from pathlib import Path
from mesh.errors import StoreBusy
from tests.unit.workers.search.driver import Driver
from workers.search.engine import SearchEngine
reader = Driver(SearchEngine(Path(sys.argv[1])))
print(*reader.ids("shop", "tea"), flush=True)
while len(found := reader.ids("shop", "tea")) == 1:
    pass
print(*sorted(found))
try:
    reader.index("shop", {"id": "ink", "title": "Black ink"})
except StoreBusy:
    print("refused")
"""
    engine = opened(tmp_path / "s")
    writer = Driver(engine)
    writer.index("shop", TEA)
    reader = process(sys.executable, "-c", code, str(tmp_path / "s"))
    reader.expect("^tea$")
    writer.index("shop", CUP)
    reader.expect("^cup tea$")
    reader.expect("^refused$")
    assert reader.wait() == 0
    engine.close()
