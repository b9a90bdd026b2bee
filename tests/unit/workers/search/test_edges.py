"""What nobody should ask, but somebody will: each is refused or answered, and harms no one else."""

from __future__ import annotations

import errno
import gc
import math
import os
import resource
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import ConfigError, InvalidArgument, StoreBusy, StoreFull
from mesh.protocol import payload
from mesh.service.lanes import Job
from mesh.service.requests import Request
from tests.unit.workers.search.driver import Driver, opened
from workers.acts import plan_all
from workers.search import indexing
from workers.search.change import Fresh
from workers.search.derived import IndexDamaged
from workers.search.engine import INDEXES
from workers.search.generation import DerivedIndex
from workers.search.handler import SearchHandler
from workers.search.operations import together
from workers.search.schema import parse
from workers.search.text.index import TextWriter, _damaged

DOCUMENTS: list[dict[str, Any]] = [
    {"id": f"n{number}", "title": f"thing {number}", "at": [float(number), 1.0]}
    for number in range(5)
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Driver]:
    engine = opened(tmp_path / "s")
    found = Driver(engine)
    found.write("create", "c", {"title": "text", "at": {"kind": "vector", "dimension": 2}})
    found.index("c", *DOCUMENTS)
    yield found
    engine.close()


@pytest.mark.parametrize("place", [[-5], [2**62], [2**64 - 1], [1.0], [None], [], 5, [3, 3]])
def test_cursors_of_a_vector_query_that_were_made_up(store: Driver, place: Any) -> None:
    with pytest.raises(InvalidArgument, match="cursor= was not given out"):
        store.ids("c", "thing", vector=[1, 1], cursor=payload.encode(place))


def test_a_cursor_beyond_the_last_document(store: Driver) -> None:
    cursor = payload.encode([2**31 - 1])
    assert store.ids("c", "thing", vector=[1, 1], cursor=cursor) == []
    assert store.ids("c", vector=[1, 1], cursor=cursor) == []


WORDS = " ".join(f"w{number}" for number in range(2000))


@pytest.mark.parametrize("form", ["match", "phrase", "prefix", "fuzzy"])
def test_texts_without_end_are_refused(store: Driver, form: str) -> None:
    for text in ("x" * 100_000, WORDS):
        for given in (text, {"title": text}, {"title": {"text": text}}):
            with pytest.raises(InvalidArgument, match=r"the limit is 8,192|more than 1,024 words"):
                store.ids("c", {form: given})
    half = WORDS[:4000]
    with pytest.raises(InvalidArgument, match=r"query\.bool\.should\[1\].*1,024 words"):
        store.ids("c", {"bool": {"should": [{form: half}, {form: half}]}})


def test_what_many_spellings_take_is_bounded(store: Driver) -> None:
    long = [f"{number:04}{'x' * 90}" for number in range(100)]
    with pytest.raises(InvalidArgument, match="8,192 characters, over all"):
        store.ids("c", {"bool": {"should": [{"fuzzy": {"title": word}} for word in long]}})
    with pytest.raises(InvalidArgument, match="8,192 characters, over all"):
        store.ids("c", {"bool": {"should": [{"prefix": {"title": word}} for word in long]}})
    assert store.ids(
        "c",
        {
            "fuzzy": {"title": "thinj"},
        },
    )


def test_a_text_to_be_resembled_may_be_long(store: Driver) -> None:
    text = "thing " * 100_000
    assert len(store.ids("c", {"like": {"title": text}})) == 5
    assert len(store.read("similar", "c", text=text)["hits"]) == 5
    with pytest.raises(InvalidArgument, match="the limit is"):
        store.ids("c", {"like": {"title": text * 10}})


@pytest.mark.parametrize("number", [Decimal("sNaN"), 10**5000], ids=["sNaN", "huge"])
def test_numbers_that_can_be_neither_compared_nor_shown(store: Driver, number: Any) -> None:
    query = SearchHandler(store.engine).service.methods["query"]
    for arguments in ({"k": number}, {"offset": number}, {"min_score": number}, {"limit": number}):
        request = Request.__new__(Request)
        request.flags, request.target = 0, query
        request.frames = [payload.encode([["c", "thing"], arguments])]
        ((_, (found,)),) = plan_all([Job(request)])
        assert isinstance(found, InvalidArgument), arguments


@pytest.mark.parametrize(
    "wrong", [{"offset": False}, {"offset": 0.0}, {"k": 100.0}, {"min_score": False}]
)
def test_what_only_looks_as_usual_is_refused(store: Driver, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(wrong))):
        store.ids("c", "thing", **wrong)


def test_a_batch_of_which_one_call_fails_is_answered(store: Driver) -> None:
    good = store._verbs.index("c", [{"id": "good", "title": "fine"}])
    bad = store._verbs.index("c", [{"id": "bad", "title": 5}])
    for _ in range(2):  # the second time it is the record of what became of it
        op = together([good.op, bad.op])
        op.call = (1, 1, b"x" * 16)
        (((version, _), error),) = store.engine.execute([op])
        assert version and isinstance(error, InvalidArgument)
    store.engine.refresh("c")
    assert store.ids("c", "fine") == ["good"]


def test_documents_are_found_whatever_field_comes_later(store: Driver) -> None:
    """What was kept only does not fit the kind that another document gives the field."""
    store.index("h", {"id": "a", "title": "hello", "more": {"x": 1}, "odd": [1, "a"]})
    store.index("h", {"id": "b", "title": "hello", "more": "text now"})
    store.write("extend", "h", {"odd": "tags"})
    store.index("h", {"id": "c", "title": "hello", "odd": ["x"]})
    assert set(store.ids("h", "hello")) == {"a", "b", "c"}
    assert store.ids("h", "more:text") == ["b"] and store.ids("h", "odd:x") == ["c"]
    assert store.read("get", "h", "a")["more"] == {"x": 1}
    assert store.engine.indexer.damaged == 0


def test_nothing_remains_of_dropped_collections(store: Driver) -> None:
    for _ in range(3):
        store.write("index", "gone", [{"id": "a", "title": "x" * 1000}])  # nobody waits for it
        store.write("drop", "gone")
    for number in range(1, 5):
        store.engine.indexer.refresh(number)
    fresh = store.engine.indexer._fresh
    assert fresh._octets == 0 and not fresh._changes


@pytest.mark.parametrize("says", ["", "An index writer was killed.. A worker thread encountered"])
@pytest.mark.parametrize("method", ["apply", "commit"])
def test_a_full_disk_is_no_damage(
    store: Driver, monkeypatch: pytest.MonkeyPatch, says: str, method: str
) -> None:
    """What is written is found once there is room; the index is not built anew meanwhile."""
    monkeypatch.setattr(indexing, "RETRY_AFTER", 0.1)
    full = threading.Event()
    full.set()
    write = getattr(TextWriter, method)

    def limited(writer: TextWriter, *args: Any) -> None:
        if full.is_set():
            with _damaged(writer._path):
                raise ValueError(says or f"An IO error occurred: {os.strerror(errno.ENOSPC)}")
        write(writer, *args)

    monkeypatch.setattr(TextWriter, method, limited)
    folder = store.engine.store.path / INDEXES
    before = sorted(folder.iterdir())
    with pytest.raises(StoreFull, match="it is written, but searches do not see it yet") as caught:
        store.index("c", {"id": "late", "title": "late"})
    assert caught.value.maybe_executed and caught.value.retry_after
    assert caught.value.message.count("could not be written") == 1
    store.write("index", "c", [{"id": "later", "title": "late"}])
    assert store.read("get", "c", "later") and len(store.ids("c", "thing")) == 5
    full.clear()
    until = time.monotonic() + 20.0
    while set(store.ids("c", "late")) != {"late", "later"}:
        assert time.monotonic() < until
    assert sorted(folder.iterdir()) == before


def test_a_vector_log_on_a_full_disk(store: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("workers.search.vectors.log.os.fdatasync", full)
        with pytest.raises(StoreFull, match="it is written"):
            store.index("c", {"id": "late", "title": "late", "at": [7.0, 1.0]})
    store.index("c", {"id": "later", "title": "late", "at": [7.0, 1.0]})
    assert set(store.ids("c", vector=[7, 1], limit=2)) == {"late", "later"}


def test_an_index_of_which_a_part_cannot_be_opened_lets_the_others_go(tmp_path: Path) -> None:
    schema = parse({name: {"kind": "vector", "dimension": 2} for name in ("one", "two")})
    DerivedIndex(tmp_path, schema).close()
    (tmp_path / "vectors-1" / "manifest").write_bytes(b"?" * 100)
    for _ in range(2):
        with pytest.raises(IndexDamaged):
            DerivedIndex(tmp_path, schema)
    assert not [one for one in threading.enumerate() if one.name == "vector merger"]


def test_pages_of_what_resembles_a_document_do_not_overlap(store: Driver) -> None:
    store.index("s", *({"id": f"d{number:02}", "title": f"green tea {'and ' * number}"}
                       for number in range(30)))  # fmt: skip
    whole = [hit["id"] for hit in store.read("similar", "s", ["d00"], limit=29)["hits"]]
    assert len(whole) == 29 and "d00" not in whole
    pages = [
        [hit["id"] for hit in store.read("similar", "s", ["d00"], limit=7, offset=at)["hits"]]
        for at in range(0, 30, 7)
    ]
    assert [name for page in pages for name in page] == whole


@pytest.mark.parametrize("metric", ["dot", "cosine", "l2"])
def test_huge_vectors(store: Driver, metric: str) -> None:
    schema = {"title": "text", "v": {"kind": "vector", "dimension": 2, "metric": metric}}
    store.write("create", metric, schema)
    most = 3.4e38
    vectors = [[most, most], [-most, most], [most, -most], [-most, -most], [1.0, 1.0]]
    store.index(metric, *({"id": f"v{number}", "title": "word", "v": vector}
                          for number, vector in enumerate(vectors)))  # fmt: skip
    query = [most, most]
    for fusion in ("scores", "ranks"):
        answer = store.read("query", metric, "word", vector=query, fusion=fusion)
        assert len(answer["hits"]) == 5
        assert all(math.isfinite(hit["score"]) for hit in answer["hits"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.read("similar", metric, ["v0", "v4"], unlike=["v3"], fields=["title"])


def test_an_analyzer_that_is_not_installed(store: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(analyzer: str) -> None:
        raise ConfigError("the analyzer jieba needs the package rjieba: pip install it")

    monkeypatch.setattr("workers.search.verbs.require", missing)
    schema = {"a": {"kind": "text", "analyzer": "jieba"}}
    with pytest.raises(InvalidArgument, match=r"service runs, the analyzer jieba needs .* install"):
        store.write("create", "zh", schema)
    with pytest.raises(InvalidArgument, match=r"service runs, the analyzer jieba needs .* install"):
        store.write("extend", "c", schema)


def test_a_rebuild_that_is_asked_for_while_one_goes_on(
    store: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the earlier one has applied does not count for the later one."""
    commit = DerivedIndex.commit
    asked = threading.Event()

    def once_more(index: DerivedIndex) -> None:
        commit(index)
        if not asked.is_set():
            asked.set()
            store.write("rebuild", "c")

    monkeypatch.setattr(DerivedIndex, "commit", once_more)
    store.write("rebuild", "c")
    assert asked.wait(20.0)
    until = time.monotonic() + 20.0
    while store.read("info", "c")["rebuilding"]:
        assert len(store.ids("c", "thing")) == 5
        assert time.monotonic() < until
    assert len(store.ids("c", "thing")) == 5
    assert not caplog.records, "the index was missing"
    with store.engine.indexer._lock:
        assert len(store.engine.indexer._open) == 1, "the earlier one is still open"


def test_changes_that_are_told_of_late_keep_nobody_busy(
    store: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer has had them indexed before this one came to say that they are there."""
    indexer = store.engine.indexer
    store.write("create", "slow", {"title": "text"}, refresh_every=60.0)
    late: list[Mapping[int, Fresh]] = []
    with monkeypatch.context() as patch:
        patch.setattr(indexer, "note", late.append)
        store.index("slow", *({"id": f"n{at}", "title": "x"} for at in range(indexing.AHEAD)))
    for fresh in late:
        indexer.note(fresh)
    indexer.work()
    assert indexer.work() != 0.0
    assert not indexer._fresh._octets


def test_changes_are_seen_though_the_store_could_not_be_read_for_a_moment(
    store: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexer = store.engine.indexer

    def unreadable(number: int) -> Any:
        raise StoreBusy("there are too many readers", retry_after=0.1)

    with indexer._lock:  # so that nobody else looks
        store.write("index", "c", [{"id": "new", "title": "thing"}])
        indexer._due.clear()
        with monkeypatch.context() as patch, pytest.raises(StoreBusy):
            patch.setattr(indexer, "_look", unreadable)
            indexer.work()
        indexer.work()
    assert "new" in store.ids("c", "thing")


def test_nothing_is_kept_of_what_a_new_index_has_read(store: Driver) -> None:
    store.index("c", {"id": "new", "colour": "red"})
    assert store.ids("c", "colour:red") == ["new"]
    assert not store.engine.indexer._fresh._octets


def test_answers_that_no_message_holds(store: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.protocol.search.MAX_ANSWER", 10_000)
    store.index("big", *({"id": f"n{number}", "title": "x" * 1000} for number in range(20)))
    with pytest.raises(InvalidArgument, match=r"10,000 octets: ask for fewer .* single fields"):
        store.ids("big", limit=20)
    with pytest.raises(InvalidArgument, match="10,000 octets: ask for fewer"):
        store.read("get_many", "big", [f"n{number}" for number in range(20)])
    assert len(store.ids("big", limit=5)) == 5 and len(store.ids("big", source=False)) == 10
    assert len(store.ids("big", source=["id"], limit=20)) == 20


def test_a_field_that_the_index_lacks_still(store: Driver) -> None:
    with store.engine.indexer._lock:  # it is at work on something else
        store.write("index", "c", [{"id": "new", "colour": "red"}])
        with pytest.raises(InvalidArgument, match=r"no field 'colour'[^$]*colour is new"):
            store.ids("c", "colour:red")
    store.engine.refresh("c")
    assert store.ids("c", "colour:red") == ["new"]


def test_a_dropped_collection_takes_no_room(store: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were removed stay on the disk as long as somebody has them open."""
    monkeypatch.setattr("workers.search.readers.LOOK_EVERY", 0.0)
    folder = str(store.engine.store.path / INDEXES)

    def removed_but_open() -> list[str]:
        gc.collect()
        maps = Path("/proc/self/maps").read_text().splitlines()
        return [line for line in maps if folder in line and line.endswith("(deleted)")]

    store.index("gone", {"id": "a", "title": "thing"})
    assert store.ids("gone", "thing") == ["a"]
    store.write("drop", "gone")
    store.engine.indexer.refresh(2)
    assert removed_but_open()
    store.index("c", {"id": "more", "title": "thing"})
    assert len(store.ids("c", "thing")) == 6
    assert not removed_but_open()


def test_searches_see_writes_while_a_dropped_collection_is_cleared_away(
    store: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.search.engine.SLICE", 1)
    store.index("gone", *({"id": f"n{number}", "title": "x"} for number in range(500)))
    store.write("drop", "gone")

    def left() -> int:
        with store.engine.store.view() as at:
            return at.count(store.engine.store.tables["ids"])

    until = time.monotonic() + 20.0
    while left() > 490:  # it has begun
        assert time.monotonic() < until
    store.write("index", "c", [{"id": "late", "title": "late"}])
    while store.ids("c", "late") != ["late"]:
        assert time.monotonic() < until
    assert left() > 6


def test_too_many_open_files_are_no_damage(store: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    marked: list[Path] = []
    monkeypatch.setattr("workers.search.readers.mark_damaged", marked.append)
    store.index("d", {"id": "a", "title": "thing", "size": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        for name in ("c", "d"):
            with pytest.raises(StoreBusy, match="Too many open files"):
                store.ids(name, "thing")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(store.ids("c", "thing")) == 5 and store.ids("d", "thing") == ["a"]
    assert not marked


def test_what_goes_wrong_in_one_group_of_writes_harms_no_other(
    store: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.search.engine.GROUP", 1)  # each write is one
    good = store._verbs.index("c", [{"id": "a", "title": "fine"}]).op
    bad = store._verbs.update("c", [{"id": "n1", "title": "fine"}]).op
    bad.arguments.clear()
    last = store._verbs.index("c", [{"id": "b", "title": "fine"}], refresh="wait").op
    results = store.engine.execute([good, bad, last])
    assert results[0][0] and isinstance(results[1], TypeError) and results[2][0]
    assert set(store.ids("c", "fine")) == {"a", "b"}
