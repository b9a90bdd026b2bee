"""The search service as programs use it: real processes, both clients, and processes that die."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mesh import connect, connect_async
from mesh.client.search import Search, boolean, date, floating, integer, keyword, tags, text, vector
from mesh.errors import InvalidArgument, ServiceNotFound
from tests import support
from tests.integration.embedder import vectors
from tests.integration.memory_mesh import MemoryMesh, until

SCHEMA = {
    "title": text(boost=2.0, exact=True),
    "body": text(),
    "author": keyword(),
    "about": tags(),
    "year": integer(),
    "price": floating(),
    "printed": date(),
    "lent": boolean(),
    "v": vector(3),
}
BOOKS: list[dict[str, Any]] = [
    {
        "id": "a", "title": "Caching pages", "body": "A cache of pages near the reader 缓存",
        "author": "ada", "about": ["cache", "web"], "year": 1997, "price": 9.5,
        "printed": datetime(1997, 5, 1, tzinfo=UTC), "lent": False, "v": [1.0, 0.0, 0.0],
    },
    {
        "id": "b", "title": "Hashing", "body": "Consistent hashing moves few keys",
        "author": "bob", "about": ["cache"], "year": 2003, "lent": True, "v": [0.9, 0.1, 0.0],
    },
    {
        "id": "c", "title": "分布式系统", "body": "分布式缓存与一致性哈希",
        "author": "ada", "about": ["theory"], "year": 2011, "v": [0.0, 1.0, 0.0],
    },
    {"id": "d", "title": "Clocks", "body": "No clock is right", "author": "eve", "year": 2020},
]  # fmt: skip


@pytest.fixture
def mesh(process: support.Start, tmp_path: Path) -> MemoryMesh:
    return MemoryMesh(process, tmp_path / "s", processes=2, service="search")


@pytest.fixture
def search(mesh: MemoryMesh) -> Iterator[Search]:
    with connect(mesh.endpoint, timeout=20.0) as m:
        assert m.search.create("books", SCHEMA)
        m.search.index("books", BOOKS, refresh="wait")
        yield m.search


def ids(found: Any) -> list[str]:
    return [hit.id for hit in found]


def test_every_verb(search: Search) -> None:
    assert not search.create("books", SCHEMA), "it is there already"
    assert ids(search.query("books", "cache pages")) == ["a"]
    assert ids(search.query("books", "分布式 cache", sort="-year")) == ["c", "a"]
    assert ids(search.query("books", "author:ada", filter="year:[2000 TO *]")) == ["c"]
    assert ids(search.query("books", {"match": {"body": "hashing keys"}}, operator="and")) == ["b"]
    found = search.query(
        "books", "缓存 OR cache", sort=["title"], facets={"by": "author"}, highlight="body",
        source=["title"], explain=True, limit=1,
    )  # fmt: skip
    assert found.total == 2 and len(found) == 1 and found.facets["by"]
    (hit,) = found
    assert hit.source == {"id": hit.id, "title": "Caching pages"} and hit.explain is not None
    assert "<em>cache</em>" in hit.highlight["body"][0] and hit.sort == ["Caching pages"]
    again = search.query("books", "缓存 OR cache", sort=["title"], cursor=found.cursor)
    assert ids(again) == ["c"] and not again.cursor
    assert search.count("books") == 4 and search.count("books", "cache", filter="lent:false") == 1
    assert search.suggest("books", "body", "hash") == [("hashing", 1)]

    nearest = search.query("books", vector=[1, 0, 0], limit=2)
    assert ids(nearest) == ["a", "b"] and nearest[0].vector is not None
    assert ids(search.query("books", vector=[1, 0, 0], filter="author:bob")) == ["b"]
    both = search.query("books", "hashing", vector=[1, 0, 0], limit=2)
    assert ids(both)[0] == "b" and both[0].text is not None and both[0].vector is not None
    assert "a" not in ids(search.similar("books", "a"))
    assert ids(search.similar("books", "a", weights={"text": 0}, limit=1)) == ["b"]

    written = search.update("books", {"id": "d", "year": 2021, "author": None}, refresh="wait")
    assert written.ids == ["d"]
    assert search.get("books", "d") == {
        "id": "d", "title": "Clocks", "body": "No clock is right", "year": 2021,
    }  # fmt: skip
    assert ids(search.query("books", "year:2021")) == ["d"]
    with pytest.raises(InvalidArgument, match="no document 'z'"):
        search.update("books", [{"id": "z", "year": 1}])
    assert search.update("books", [{"id": "z", "year": 1}], upsert=True).ids == ["z"]
    assert sorted(search.get_many("books", ["a", "z", "nothing"])) == ["a", "z"]
    assert search.delete("books", "z", "nothing") == 1 and search.get("books", "z") is None

    written = search.index("books", [{"id": "a"}, {"title": "New"}], only_if="absent")
    assert len(written.ids) == 1 and written.ids != ["a"]
    assert search.delete_by_query("books", "title:new", refresh="wait") == 1
    assert search.count("books") == 4

    search.extend("books", {"isbn": "keyword"})
    until(lambda: (info := search.info("books")) and info.rebuilding is None)
    search.update("books", [{"id": "a", "isbn": "0-1"}], refresh="wait")
    assert ids(search.query("books", 'isbn:"0-1"')) == ["a"]
    search.rebuild("books")
    assert ids(search.query("books", "clock")) == ["d"], "while an index is built"
    assert [one.name for one in search.collections()] == ["books"]
    assert [one["id"] for one in search.scan("books")] == ["a", "b", "c", "d"]
    assert search.drop("books") and not search.drop("books")
    assert search.info("books") is None


def test_mistakes_are_told(search: Search) -> None:
    with pytest.raises(InvalidArgument, match="no collection 'nothing'"):
        search.query("nothing", "x")
    with pytest.raises(InvalidArgument) as caught:
        search.query("books", 'title:"open')
    assert "position" in caught.value.data
    with pytest.raises(InvalidArgument, match="no field 'colour'"):
        search.query("books", sort="colour")
    with pytest.raises(InvalidArgument, match=r"document 'e'.*'year'") as refused:
        search.index("books", [{"id": "e", "year": "soon"}])
    assert refused.value.data["id"] == "e"
    with pytest.raises(InvalidArgument, match="exists with other fields"):
        search.create("books", {"title": "keyword"})
    with pytest.raises(InvalidArgument, match="8 octets is not 3 finite numbers"):
        search.query("books", vector=[1, 2])


def test_vectors_are_made_on_the_way(
    search: Search, process: support.Start, mesh: MemoryMesh
) -> None:
    """By a function, or by a method of the mesh."""
    written = search.index("books", [{"id": "e", "title": "Eee"}], embed=vectors, refresh="wait")
    assert written.ids == ["e"]
    found = search.query("books", embed=vectors, embed_text="Eee", limit=1)
    assert ids(found) == ["e"] and found[0].vector is not None
    assert found[0].vector.score == pytest.approx(1.0)
    search.update("books", [{"id": "e", "body": "x" * 500}], embed=vectors, refresh="wait")
    found = search.query("books", embed=vectors, embed_text="y" * 504, limit=1)
    assert ids(found) == ["e"], "title, a line and body together"
    with pytest.raises(InvalidArgument, match="8 octets is not 3 finite numbers"):
        search.index("books", {"title": "x"}, embed=lambda texts: [[1.0, 2.0] for _ in texts])

    where = ("tests.integration.embedder:embedder", "--broker", mesh.endpoint)
    support.start_service(process, *where)
    loaded = search.load(
        "books", ({"id": f"e{n}", "title": "x" * n} for n in range(1, 9)), batch=3,
        embed="embedder.vectors", refresh="wait",
    )  # fmt: skip
    assert loaded.written == 8
    found = search.query("books", embed="embedder.vectors", embed_text="xxxxx", limit=1)
    assert ids(found) == ["e5"]
    assert ids(search.similar("books", text="xxxxx", embed="embedder.vectors", limit=1)) == ["e5"]


def test_a_load_goes_on_while_processes_are_killed(search: Search, mesh: MemoryMesh) -> None:
    """Nothing is lost, nothing is there twice, and searches see all of it."""
    told: list[int] = []
    killed: list[int] = []

    def progress(done: int, of: int | None) -> None:
        assert of == 4000
        told.append(done)
        if len(told) in (3, 12):
            threading.Thread(target=lambda: killed.append(mesh.kill_writer())).start()

    documents = [{"id": f"k{n}", "n": n, "t": f"word{n % 10} 文字"} for n in range(4000)]
    loaded = search.load("killed", documents, batch=200, progress=progress, refresh="wait")
    assert loaded.written == 4000 and told[-1] == 4000 and len(killed) == 2
    assert search.count("killed") == 4000 and search.count("killed", "word3") == 400
    assert {one["id"] for one in search.scan("killed")} == {one["id"] for one in documents}
    until(mesh.complete)
    mesh.kill_broker()
    assert search.count("killed", "文字") == 4000


def test_all_documents(search: Search, mesh: MemoryMesh) -> None:
    """Page by page of those that match, and as a stream of all, which survives its reader."""
    documents = [{"id": f"{n:05}", "n": n, "t": "common" if n % 2 else "rare"} for n in range(3000)]
    search.load("numbers", documents, refresh="wait")
    odd = [f"{n:05}" for n in range(1, 3000, 2)]
    assert ids(search.hits("numbers", "common", sort="n", page=640)) == odd
    assert sorted(ids(search.hits("numbers", "common", page=640, source=False))) == odd
    assert ids(search.hits("numbers", "absent")) == []
    with pytest.raises(InvalidArgument, match="page=0 is not"):
        next(search.hits("numbers", page=0))
    search.load("numbers", [{"id": "x", "extra": "a field that is new"}], refresh="wait")
    assert ids(search.query("numbers", "extra:new")) == ["x"]
    search.delete("numbers", "x")
    seen: list[str] = []
    for document in search.scan("numbers"):
        seen.append(document["id"])
        if len(seen) == 500:
            until(mesh.complete)
            mesh.kill_writer()
    assert seen == [f"{n:05}" for n in range(3000)]


def test_the_asyncio_client(mesh: MemoryMesh) -> None:
    async def embed(texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0)
        return vectors(texts)

    async def documents() -> Any:
        for n in range(1, 600):
            yield {"id": f"a{n}", "title": "x" * (n % 50 + 1), "n": n}

    async def run() -> None:
        async with connect_async(mesh.endpoint, timeout=20.0) as m:
            s = m.search
            assert await s.create("books", {"title": text(), "v": vector(3)})
            told: list[int] = []
            loaded = await s.load(
                "books", documents(), batch=100, embed=embed, refresh="wait",
                progress=lambda done, of: told.append(done),
            )  # fmt: skip
            assert loaded.written == 599 and told[-1] == 599
            more = await s.load("books", [{"id": "b", "title": "cache"}], embed=vectors)
            assert more.written == 1
            await s.index(
                "books", {"id": "c", "title": "分布式 cache"}, embed=embed, refresh="wait"
            )
            assert ids(await s.query("books", "分布式 cache", limit=1)) == ["c"]
            near = await s.query("books", embed=embed, embed_text="x" * 30, limit=1)
            assert near[0].source["title"] == "x" * 30
            assert ids([hit async for hit in s.hits("books", "cache", page=1)]) == ["b", "c"]
            assert len([one async for one in s.scan("books")]) == 601
            found = await s.get("books", "b")
            assert found is not None and found == {"id": "b", "title": "cache"}, "without vectors"
            with pytest.raises(InvalidArgument, match=r"document 'x'.*document 1 of the load"):
                await s.load("books", [{"id": "w"}, {"id": "x", "title": 5}])

    asyncio.run(run())


def test_without_the_service_the_error_says_how_to_start_it(process: support.Start) -> None:
    _, (endpoint,) = support.start_broker(process, "--set", "broker.grace=100ms")
    with connect(endpoint, timeout=5.0) as m:
        with pytest.raises(ServiceNotFound, match="python -m workers search"):
            m.search.get("a", "b")
        with pytest.raises(ServiceNotFound, match="python -m workers search"):
            m.options(timeout=1.0).search.load("a", [{"id": "b"}])
