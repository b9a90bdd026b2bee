"""Changes of the text index: applied twice, by a writer that dies, to files that are damaged."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import StoreBusy
from tests.support import Child
from workers.search.derived import IndexDamaged
from workers.search.query.nodes import All, Match, Prefix
from workers.search.schema import parse
from workers.search.text import index
from workers.search.text.index import TextReader, TextWriter

SCHEMA = parse({"title": {"kind": "text", "exact": True}, "size": "integer"})
WRITER = """
import sys, time
from pathlib import Path
from workers.search.schema import parse
from workers.search.text.index import TextWriter
schema = parse({"title": {"kind": "text", "exact": True}, "size": "integer"})
writer = TextWriter(Path(sys.argv[1]), schema)
writer.apply([1], [(2, {"title": ["second words"]})])
writer.commit()
writer.apply([2], [(3, {"title": ["third words"]})])
print("ready", flush=True)
time.sleep(60)
"""


def rows(reader: TextReader, word: str = "words") -> list[int]:
    return sorted(reader.search(Match("title", word), limit=100).rows)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    writer = TextWriter(path, SCHEMA)
    writer.apply([], [(1, {"title": ["first words"], "size": 1})])
    writer.commit()
    writer.close()
    return path


def test_what_was_applied_may_be_applied_again(path: Path) -> None:
    change = ([1], [(2, {"title": ["second words"]}), (3, {"title": ["third words"]})])
    for _ in range(3):
        writer = TextWriter(path, SCHEMA)
        writer.apply(*change)
        writer.apply(*change)
        writer.commit()
        writer.close()
    reader = TextReader(path, SCHEMA)
    assert rows(reader) == [2, 3]
    assert reader.suggest("title", "fir", 10) == []
    reader.close()


def test_a_row_that_came_and_went_is_gone(path: Path) -> None:
    writer = TextWriter(path, SCHEMA)
    writer.apply([2], [(2, {"title": ["second words"]}), (3, {"title": ["third words"]})])
    writer.apply([3], [])
    writer.commit()
    writer.close()
    reader = TextReader(path, SCHEMA)
    assert rows(reader) == [1]
    reader.close()


def test_a_row_goes_that_came_since_the_last_commit(path: Path) -> None:
    writer = TextWriter(path, SCHEMA)
    writer.apply([], [(2, {"title": ["second words"]}), (3, {"title": ["third words"]})])
    writer.apply([2], [(4, {"title": ["fourth words"]})])
    writer.apply([4], [])
    writer.commit()
    writer.close()
    reader = TextReader(path, SCHEMA)
    assert rows(reader) == [1, 3]
    reader.close()


def test_merges_have_ended_when_a_writer_is_closed(path: Path) -> None:
    writer = TextWriter(path, SCHEMA)
    for row in range(2, 34):
        writer.apply([], [(row, {"title": [f"words {row}"]})])
        writer.commit()
    writer.apply([], [(34, {"title": ["never committed"]})])
    writer.close()
    assert len(segments(path)) < 16


def segments(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((path / "meta.json").read_bytes())["segments"]
    return found


def test_a_reader_sees_commits_after_a_refresh(path: Path) -> None:
    writer, reader = TextWriter(path, SCHEMA), TextReader(path, SCHEMA)
    writer.apply([1], [(2, {"title": ["second words"]})])
    assert rows(reader) == [1]
    writer.commit()
    assert rows(reader) == [1]
    reader.refresh()
    assert rows(reader) == [2]
    reader.close()
    writer.close()


def test_what_was_not_committed_is_dropped(path: Path) -> None:
    writer = TextWriter(path, SCHEMA)
    writer.apply([1], [(2, {"title": ["second words"]})])
    writer.close()
    reader = TextReader(path, SCHEMA)
    assert rows(reader) == [1]
    reader.close()


def test_old_files_are_cleared_away(path: Path) -> None:
    writer = TextWriter(path, SCHEMA)
    for row in range(2, 42):
        writer.apply([row - 1], [(row, {"title": ["words"]})])
        writer.commit()
    writer.close()
    assert len({one.stem for one in path.iterdir()}) < 20
    reader = TextReader(path, SCHEMA)
    assert rows(reader) == [41]
    reader.close()


def test_a_writer_that_dies_leaves_what_it_committed(
    path: Path, process: Callable[..., Child]
) -> None:
    reader = TextReader(path, SCHEMA)
    child = process(sys.executable, "-c", WRITER, str(path))
    child.expect("ready")
    with pytest.raises(StoreBusy, match="another writer"):
        TextWriter(path, SCHEMA)
    reader.refresh()
    assert rows(reader) == [2]
    child.kill()
    writer = TextWriter(path, SCHEMA)
    writer.apply([2], [(3, {"title": ["third words"]})])
    writer.commit()
    reader.refresh()
    assert rows(reader) == [3]
    writer.close()
    reader.close()


@pytest.mark.parametrize("how", ["gone", "empty", "half", "flipped"])
@pytest.mark.parametrize("suffix", [".idx", ".term", ".pos", ".fast", ".fieldnorm", "meta.json"])
def test_damages_are_noticed(path: Path, suffix: str, how: str) -> None:
    file = next(one for one in path.iterdir() if one.name.endswith(suffix))
    octets = bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
    elif how == "flipped":
        if suffix == "meta.json":
            octets = bytearray(octets.replace(b"segment", b"segmant"))
        octets[len(octets) // 3] ^= 1
        file.write_bytes(octets)
    else:
        file.write_bytes(octets[: len(octets) // 2] if how == "half" else b"")
    with pytest.raises(IndexDamaged):
        TextWriter(path, SCHEMA)


def test_other_fields_need_another_index(path: Path) -> None:
    with pytest.raises(IndexDamaged, match="schema"):
        TextWriter(path, parse({"title": {"kind": "text", "exact": True}, "size": "float"}))


def test_a_reader_needs_an_index(tmp_path: Path) -> None:
    with pytest.raises(IndexDamaged):
        TextReader(tmp_path / "text", SCHEMA)


def test_files_that_vanish_under_a_reader(path: Path) -> None:
    reader = TextReader(path, SCHEMA)
    shutil.rmtree(path)
    with pytest.raises(IndexDamaged):
        reader.refresh()
    assert rows(reader) == [1]
    reader.close()


def test_names_of_fields_may_be_of_any_script(tmp_path: Path) -> None:
    schema = parse({"标题": {"kind": "text", "exact": True}, "étage-2": "integer"})
    writer = TextWriter(tmp_path / "text", schema)
    writer.apply([], [(1, {"标题": ["分布式"], "étage-2": 4})])
    writer.commit()
    writer.close()
    reader = TextReader(tmp_path / "text", schema)
    assert reader.search(Prefix("标题", "分布"), limit=1).rows == [1]
    assert reader.search(All(), limit=1).total == 1
    reader.close()


def test_of_two_refreshes_at_once_the_later_one_counts(path: Path) -> None:
    reader = TextReader(path, SCHEMA)
    native = reader._index
    held, go_on = threading.Event(), threading.Event()

    class Slow:
        """Its first searcher is given out late."""

        def reload(self) -> None:
            native.reload()

        def searcher(self) -> Any:
            found = native.searcher()
            if not held.is_set():
                held.set()
                assert go_on.wait(20.0)
            return found

    reader._index = Slow()
    first, second = (threading.Thread(target=reader.refresh) for _ in range(2))
    first.start()
    assert held.wait(20.0)
    writer = TextWriter(path, SCHEMA)
    writer.apply([], [(2, {"title": ["second words"]})])
    writer.commit()
    writer.close()
    second.start()
    second.join(0.2)
    go_on.set()
    first.join(20.0)
    second.join(20.0)
    assert rows(reader) == [1, 2]


def test_merged_segments_are_followed_and_commits_are_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "LOOK_EVERY", 0.0)
    writer = TextWriter(path, SCHEMA)
    merged = 8  # segments of one size, which tantivy makes one of
    for row in range(merged):
        writer.apply([], [(row, {"title": ["some words"]})])
        writer.commit()
    reader = TextReader(path, SCHEMA)
    end_at = time.monotonic() + 20.0
    while reader.segments > 1 and time.monotonic() < end_at:
        assert rows(reader) == list(range(merged))
    assert reader.segments == 1
    writer.apply([], [(merged, {"title": ["more words"]})])
    writer.commit()
    assert rows(reader) == list(range(merged))
    reader.refresh()
    assert rows(reader) == list(range(merged + 1))
    writer.close()
