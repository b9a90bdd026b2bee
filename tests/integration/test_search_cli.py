"""`sage-mesh search`: documents from files, questions, and the care of collections."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from mesh import connect
from mesh.cli.app import app
from tests import support
from tests.integration.memory_mesh import MemoryMesh


def test_from_files_to_answers(process: support.Start, tmp_path: Path) -> None:
    mesh = MemoryMesh(process, tmp_path / "s", processes=2, service="search")

    def cli(*words: str, status: int = 0) -> str:
        done = CliRunner().invoke(app, ["search", words[0], "--broker", mesh.endpoint, *words[1:]])
        assert done.exit_code == status, done.output
        return done.output

    books = tmp_path / "books.jsonl"
    books.write_text(
        '{"id": "a", "title": "Caching pages", "year": 1997, "body": "A cache near the reader"}\n'
        '{"id": "b", "title": "分布式缓存", "year": 2011, "body": "分布式系统的缓存与一致性哈希"}\n'
    )
    table = tmp_path / "more.csv"
    table.write_text("id,title,year\nc,Consistent hashing,1999\nd,Bad,soon\n")
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "clock.txt").write_text("No clock is right \x1b[31m for ever")
    (texts / "picture").write_bytes(b"\0")

    fields = ("--schema", "title=text,boost=2,exact=true", "--schema", "year=integer")
    written = cli("index", "books", str(books), *fields, "--wait")
    assert "books: 2 documents in" in written
    assert "year='soon' is no integer" in cli("index", "books", str(table), status=2)
    table.write_text("id,title,year\nc,Consistent hashing,1999\n")
    out = json.loads(cli("index", "books", str(table), str(texts), "--wait", "--json"))
    assert (out["written"], out["failed"], out["passed_over"]) == (2, 0, 1)
    wrong = tmp_path / "wrong.json"
    wrong.write_text('[{"id": "e", "title": "ok"}, {"id": "f", "year": "soon"}]')
    assert "document 'f'" in cli("index", "books", str(wrong), status=1)
    assert "left out: document 'f'" in cli("index", "books", str(wrong), "-k", "--wait", status=1)

    answered = cli("query", "books", "缓存")
    assert "分布式缓存" in answered and "1 of 1 in" in answered and "Caching" not in answered
    found = json.loads(cli("query", "books", "cache", "--json", "--limit", "1"))
    assert [hit["id"] for hit in found["hits"]] == ["a"]
    assert "<em>cache</em>" in found["hits"][0]["highlight"]["body"][0]
    found = json.loads(cli("query", "books", "--filter", "year:[1990 TO 2000]",
                           "--sort=-year", "--facet", "year", "--json"))  # fmt: skip
    assert [hit["id"] for hit in found["hits"]] == ["c", "a"] and found["facets"]["year"]
    found = json.loads(cli("query", "books", '{"match": {"title": "hashing"}}', "--json"))
    assert [hit["id"] for hit in found["hits"]] == ["c"]
    shown = cli("query", "books", "clock")
    assert "clock" in shown and "\x1b[31m" not in shown
    assert "score" in cli("query", "books", "clock", "--explain")
    assert "^" in cli("query", "books", 'title:"open', status=1), "it points at the place"
    assert "JSON object" in cli("query", "books", "{title", status=2)
    assert "no collection 'nothing'" in cli("query", "nothing", "x", status=1)

    assert cli("count", "books").strip() == "5"
    assert "caching" in cli("suggest", "books", "title", "cach")
    assert json.loads(cli("get", "books", "c", "--json"))["year"] == 1999
    assert "no document" in cli("get", "books", "z", status=1)
    assert "1 deleted" in cli("delete", "books", "c", "z", status=1)
    assert "1 deleted" in cli("delete", "books", "--query", "title:ok", "--wait")
    assert "give IDs" in cli("delete", "books", status=2)

    info = cli("info", "books")
    assert "books: 3 documents" in info and "title" in info and "boost=2" in info
    assert json.loads(cli("collections", "--json"))["documents"] == 3
    assert "rebuilt" in cli("rebuild", "books", "--wait")
    assert "add --yes" in cli("drop", "books", status=2)
    assert "books is gone" in cli("drop", "books", "--yes")
    assert "there is no collection" in cli("info", "books", status=1)
    with connect(mesh.endpoint) as m:
        assert m.search.collections() == []

    check = support.start_mesh(process, "check", "--broker", mesh.endpoint)
    check.wait(timeout=20)
    assert "service search" in check.output() and "0 collections" in check.output()
