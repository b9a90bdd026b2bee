"""Processes of the search service are killed: what is kept, what is found, how long it is away."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from mesh import connect
from mesh.client.search import Search
from mesh.errors import CallError
from tests import support
from tests.integration.memory_mesh import SEED, SOAK, Client, MemoryMesh, Recorder, until
from tests.integration.search_worker import POINTS

KILLS: Final = 50 if SOAK else 2
PASSES: Final = 10 if SOAK else 1
SCHEMA: Final = {"title": "text", "mark": "keyword", "turn": "integer", "look": {
    "kind": "vector", "dimension": 2, "metric": "l2"}}  # fmt: skip
COLLECTION: Final = "docs"


@pytest.fixture
def mesh(process: support.Start, tmp_path: Path) -> MemoryMesh:
    """Three processes over one store."""
    print(f"SAGE_SEED={SEED}")
    return MemoryMesh(process, tmp_path / "s", processes=3, service="search")


class Books:
    """What clients were told of their documents: id -> turn of the last write, None if deleted."""

    def __init__(self) -> None:
        self.known: dict[str, int | None] = {}
        self.unknown: dict[str, set[int | None]] = {}
        """What else may be, after writes whose outcome nobody was told."""
        self.writes = 0

    def work(self, client: Client) -> None:
        """One write of documents that nobody else writes; a part of a bulk load."""
        s, rng = client.mesh.search, client.rng
        client.turns += 1
        turn = client.turns
        mine = [name for name in list(self.known) if name.startswith(f"{client.number}-")]
        kind = rng.choice(("index", "index", "index", "again", "update", "delete"))
        if kind == "index" or len(mine) < 10:
            kind = "index"
            names = [f"{client.number}-{turn}-{at}" for at in range(rng.choice((1, 20, 200)))]
        else:
            names = rng.sample(mine, rng.randrange(1, 10))
            if kind == "update":
                names = [name for name in names if self.known[name] is not None]
        outcome = None if kind == "delete" else turn
        refresh = rng.choice(("interval", "interval", "wait"))
        try:
            if kind == "delete":
                s.delete(COLLECTION, *names, refresh=refresh)
            elif kind == "update":
                s.update(COLLECTION, [told(name, turn) for name in names], refresh=refresh)
            else:
                s.index(COLLECTION, [told(name, turn) for name in names], refresh=refresh)
        except CallError as error:
            if not error.retryable and not error.maybe_executed:
                if kind == "update" and any(name in self.unknown for name in names):
                    return  # one of them was not written at all, or is deleted
                raise
            for name in names:
                before = self.unknown.setdefault(name, {self.known.get(name)})
                before.add(outcome)
            return
        for name in names:
            self.known[name] = outcome
            self.unknown.pop(name, None)
        self.writes += 1

    def check(self, endpoint: str) -> None:
        """What was acknowledged is there and is found, once; what was deleted is not."""
        with connect(endpoint, timeout=60.0) as m:
            s = m.search
            settle(s)
            kept = {one["id"]: one for one in s.scan(COLLECTION)}
            found = [hit.id for hit in s.hits(COLLECTION, page=1000, source=False)]
            assert len(found) == len(set(found)), "a document is found twice"
            assert set(found) == kept.keys(), "what is kept and what is found differ"
            for name in kept.keys() | self.known.keys() | self.unknown.keys():
                there = kept[name]["turn"] if name in kept else None
                assert there in self.unknown.get(name, {self.known.get(name)}), name
            marks: dict[str, set[str]] = {}
            for name, one in kept.items():
                expected = told(name, one["turn"])
                del expected["look"]  # vectors are told where they are asked for
                assert one == expected
                marks.setdefault(one["mark"], set()).add(name)
            for mark in random.Random(SEED).sample(sorted(marks), min(len(marks), 30)):
                names = {hit.id for hit in s.hits(COLLECTION, f"mark:={mark}", source=False)}
                assert names == marks[mark], "an index has other values than the documents"
            near = [hit.id for hit in s.query(COLLECTION, vector=[0.0, 0.0], limit=1000)]
            assert len(near) == len(set(near)) == min(len(kept), 1000)
            assert set(near) <= kept.keys()


def told(name: str, turn: int) -> dict[str, Any]:
    """A document that says which turn of its client wrote it."""
    client = name.partition("-")[0]
    return {
        "id": name, "title": f"word{turn % 7} of {client}", "mark": f"{client}.{turn}",
        "turn": turn, "look": [float(turn), float(len(name))],
    }  # fmt: skip


def settle(s: Search) -> None:
    """Wait until searches see all that was written."""

    def seen() -> bool:
        info = s.info(COLLECTION)
        return info is not None and info.refreshed == info.version and not info.rebuilding

    until(seen)


@pytest.mark.timeout(1200 if SOAK else 60)
def test_nothing_acknowledged_is_lost_found_twice_or_comes_back(mesh: MemoryMesh) -> None:
    books = Books()
    rng = random.Random(SEED)
    with connect(mesh.endpoint, timeout=30.0) as m:
        m.search.create(COLLECTION, SCHEMA)
    with Recorder(mesh.endpoint).running(2, books.work):
        for number in range(KILLS):
            threading.Event().wait(rng.uniform(0.1, 1.0))
            mesh.kill_writer()
            if number % 5 == 4:
                mesh.kill_reader(rng)
            until(mesh.complete)
    books.check(mesh.endpoint)
    assert books.writes > 10


@pytest.mark.timeout(1200 if SOAK else 60)
@pytest.mark.parametrize("point", POINTS if SOAK else [""])
def test_killed_at_a_named_point(process: support.Start, tmp_path: Path, point: str) -> None:
    _, (endpoint,) = support.start_broker(process)
    books = Books()
    rng = random.Random(SEED)
    point = point or rng.choice([*POINTS])  # here: both processes of pytest collect the same
    command = (sys.executable, "-m", "tests.integration.search_worker", str(tmp_path / "s"))

    def serve(passes: int) -> support.Child:
        return process(*command, endpoint, point, str(passes))

    child = serve(1000)
    child.expect(r"^serving search pid=\d+$", timeout=20)
    with connect(endpoint, timeout=30.0) as m:
        m.search.create(COLLECTION, SCHEMA)
    child.stop()
    child = serve(rng.randrange(10))
    with Recorder(endpoint).running(2, books.work):
        for _ in range(PASSES):
            assert child.wait(timeout=30) == -9
            child = serve(rng.randrange(10))
        child.stop()
        process(sys.executable, "-m", "workers", "search", "--broker", endpoint,
                "--data", str(tmp_path / "s"))  # fmt: skip
    books.check(endpoint)
    assert books.writes


@contextmanager
def asking(endpoint: str, wrong: Callable[[int], bool], count: list[float]) -> Any:
    """While the block runs, documents are counted again and again; `count` gets the times taken."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            with connect(endpoint, timeout=30.0) as m:
                while not stop.is_set():
                    began = time.monotonic()
                    total = m.search.count(COLLECTION, "thing")
                    count.append(time.monotonic() - began)
                    assert not wrong(total), total
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


@pytest.mark.timeout(300 if SOAK else 60)
def test_queries_go_on_during_a_rebuild_and_a_take_over(mesh: MemoryMesh) -> None:
    many = 60_000 if SOAK else 12_000  # more than an index that is built at once
    took: list[float] = []
    with connect(mesh.endpoint, timeout=30.0) as m:
        s = m.search
        s.load(COLLECTION, ({"id": str(at), "title": f"thing {at}"} for at in range(many)))
        settle(s)
        with asking(mesh.endpoint, lambda total: total != many, took):
            s.rebuild(COLLECTION)
            before = len(took)
            mesh.kill_writer()
            settle(s)
            until(lambda: len(took) > before + 2)  # none of them failed, or waited for long
            mesh.kill_writer()
            s.rebuild(COLLECTION)
            settle(s)
        assert m.search.count(COLLECTION, f"{many - 1}") == 1
    assert max(took) < 10.0


@pytest.mark.timeout(300 if SOAK else 60)
def test_no_query_fails_while_one_of_two_processes_is_killed(
    process: support.Start, tmp_path: Path
) -> None:
    mesh = MemoryMesh(process, tmp_path / "s", processes=2, service="search")
    stop = threading.Event()
    answered: list[int] = []
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            with connect(mesh.endpoint, timeout=30.0) as m:
                while not stop.is_set():
                    found = m.search.query(
                        COLLECTION, "word1", vector=[1.0, 1.0], filter="turn:>=100",
                        highlight="title", facets={"turns": {"kind": "stats", "field": "turn"}},
                    )  # fmt: skip
                    answered.append(len(found))
                    assert len(found) == 10 and found.facets["turns"]["count"] == found.total
        except BaseException as error:
            failures.append(error)

    with connect(mesh.endpoint, timeout=30.0) as m:
        m.search.create(COLLECTION, SCHEMA)
        m.search.load(COLLECTION, (told(f"1-{at}", at) for at in range(1000)), refresh="wait")
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for turn in range(20 if SOAK else 3):
            m.search.index(COLLECTION, told("1-1", 1 + 7 * turn))
            before = len(answered)
            mesh.kill_writer()
            until(
                lambda before=before: (len(answered) > before + 5 and mesh.complete()) or failures
            )
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_every_process_sees_a_write_in_time(mesh: MemoryMesh) -> None:
    with connect(mesh.endpoint, timeout=30.0) as m:
        s = m.search
        s.create(COLLECTION, {"title": "text"}, refresh_every=0.2)
        for turn in range(20):
            s.index(COLLECTION, {"id": "one", "title": f"word{turn}"}, refresh="wait")
            # Each is asked of another process.
            assert [s.count(COLLECTION, f"word{turn}") for _ in range(4)] == [1] * 4
            assert s.count(COLLECTION, f"word{turn - 1}") == 0
        s.index(COLLECTION, {"id": "two", "title": "late"})
        written_at = time.monotonic()
        until(lambda: [s.count(COLLECTION, "late") for _ in range(4)] == [1] * 4)
        assert time.monotonic() - written_at < 0.2 + 3.0, "with patience for a busy machine"
