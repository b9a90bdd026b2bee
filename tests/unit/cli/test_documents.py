"""Documents in files: what is read of them, and what is said of files that are something else."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from mesh.cli import documents
from mesh.cli.documents import Reading, json_objects, schema_of
from mesh.cli.hits import asked
from mesh.cli.output import Failure

OBJECTS: list[dict[str, Any]] = [{"id": "a", "t": "[,]\n"}, {"id": "b", "n": [1, {"x": "}"}]}, {}]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(map(json.dumps, OBJECTS)),
        "\r\n\r\n".join(json.dumps(one, indent=2) for one in OBJECTS) + "\n",
        json.dumps(OBJECTS),
        " \n" + json.dumps(OBJECTS, indent=1) + "\n",
        "".join(map(json.dumps, OBJECTS)),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2, 7, 64 * 1024])
def test_json_in_every_form(text: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "CHUNK", chunk)
    assert list(json_objects("f", io.StringIO(text))) == OBJECTS


@pytest.mark.parametrize("text", ["", "\n \n", "[]", "[ \n ]"])
def test_no_documents(text: str) -> None:
    assert list(json_objects("f", io.StringIO(text))) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1}\n{"a": }\n', "f, line 2: Expecting value"),
        ('{"a": 1}\n\n{"a": 1', "f, line 3: "),
        ('[\n{"a": 1},\n{"a": 1}', "f, line 3: "),
        ('{"a": 1}\n5\n', "f, line 2: int is no document"),
        ("id,title\n", "f, line 1: "),
    ],
)
@pytest.mark.parametrize("chunk", [3, 64 * 1024])
def test_the_line_of_a_mistake_is_told(
    text: str, said: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "CHUNK", chunk)
    with pytest.raises(Failure, match=said):
        list(json_objects("f", io.StringIO(text)))


def test_a_document_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MOST", 10_000)
    file = io.StringIO('{"a": "' + "x" * 1_000_000)
    with pytest.raises(Failure, match="line 1"):
        list(json_objects("f", file))
    assert file.tell() < 200_000


def test_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "sub/a.md").write_text("# 分布式")
    (tmp_path / "b.jsonl").write_text('{"id": 7, "t": "x"}\n{"t": "y"}\n')
    (tmp_path / "c.csv").write_text(
        '\ufeffid,n,f,flag,tags,v,t\nr,5,0.5,TRUE,"a; b",[1],"x, ""y"""\ns,,,,,,\n', "utf-8"
    )
    (tmp_path / "picture").write_bytes(b"\x89PNG\0\0")
    (tmp_path / ".git/hidden").write_text("no")
    kinds = {"n": "integer", "f": "float", "flag": "boolean", "tags": "tags", "v": "vector"}
    reading = Reading(kinds=kinds)
    found = list(reading.documents([str(tmp_path)]))
    by_content = found[1]["id"]
    assert len(by_content) == 32
    assert found == [
        {"id": "7", "t": "x"},
        {"id": by_content, "t": "y"},
        {"id": "r", "n": 5, "f": 0.5, "flag": True, "tags": ["a", "b"], "v": [1], "t": 'x, "y"'},
        {"id": "s"},
        {"id": str(tmp_path / "sub/a.md"), "text": "# 分布式"},
    ]
    assert reading.passed_over == [str(tmp_path / "picture")]
    assert list(reading.documents([str(tmp_path / "b.jsonl")]))[1]["id"] == by_content


def test_a_field_may_be_the_id(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text('[{"isbn": 5, "t": "x"}, {"t": "y"}]')
    found = Reading(id_field="isbn").documents([str(path)])
    assert next(found) == {"id": "5", "isbn": 5, "t": "x"}
    with pytest.raises(Failure, match="has no 'isbn'"):
        next(found)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("f.csv", b"id,n\na,five\n", "line 2: n='five' is no integer"),
        ("f.csv", b"id,n\na,1,2\n", "line 2: more cells than names"),
        ("f.txt", b"\xff\xfe", "it should be text in UTF-8|invalid start byte"),
        ("absent.json", None, "No such file"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(Failure, match=said):
        list(Reading(kinds={"n": "integer"}).documents([str(tmp_path / name)]))


def test_schemas(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text("title: {kind: text, boost: 2}\nyear: integer\n")
    assert schema_of([str(path), "v=vector,dimension=3,metric=dot", "year=float"]) == {
        "title": {"kind": "text", "boost": 2},
        "year": "float",
        "v": {"kind": "vector", "dimension": 3, "metric": "dot"},
    }
    for wrong, said in (("a=text,boost", "not NAME=VALUE"), ("absent", "No such file")):
        with pytest.raises(Failure, match=said):
            schema_of([wrong])
    path.write_text("- a")
    with pytest.raises(Failure, match="no mapping"):
        schema_of([str(path)])


def test_a_query_in_braces_is_json() -> None:
    assert asked("title:{a TO b}") == "title:{a TO b}"
    assert asked(' {"match": {"t": "x"}}') == {"match": {"t": "x"}}
    with pytest.raises(Failure, match="double quotes"):
        asked("{match}")


@pytest.mark.parametrize(
    "text", ['{"id": "a"}\n{"id": "b", "n": ' + "9" * 5000 + "}", '{}\n{"x": ' + "[" * 100_000]
)
def test_numbers_and_depths_beyond_bounds_name_their_line(text: str) -> None:
    with pytest.raises(Failure, match=r"f, line 2: .*(digits|recursion)"):
        list(json_objects("f", io.StringIO(text)))


def read_from(data: bytes, monkeypatch: pytest.MonkeyPatch, **reading: Any) -> list[dict[str, Any]]:
    """The documents of a standard input in a locale without UTF-8."""
    stdin = io.TextIOWrapper(io.BytesIO(data), "ascii", errors="surrogateescape")
    monkeypatch.setattr("sys.stdin", stdin)
    return list(Reading(**reading).documents(["-"]))


def test_standard_input_is_read_as_files_are(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_from('\ufeff{"id": "a", "t": "缓存"}'.encode(), monkeypatch)
    assert found == [{"id": "a", "t": "缓存"}]
    with pytest.raises(Failure, match=r"standard input: .*can't decode"):
        read_from(b'{"id": "\xff"}', monkeypatch)
    with pytest.raises(Failure, match=r"standard input: field larger"):
        read_from(b"id,t\n1," + b"x" * 200_000, monkeypatch, format="csv")
