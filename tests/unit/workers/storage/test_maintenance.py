"""Copies of a storage directory, and what a verification finds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from mesh.errors import ConfigError, DataCorrupted
from mesh.protocol.storage import PART
from tests.conformance.storage.driver import Clock, Driver, opened_lmdb
from workers.storage import maintenance
from workers.storage.__main__ import main

LARGE = os.urandom(2 * PART + 5)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A store with a little of everything."""
    path = tmp_path / "s"
    clock = Clock()
    engine = opened_lmdb(path, clock)
    store = Driver(engine, clock)
    store.put_many({f"k{number}": {"n": number} for number in range(50)})
    store.put_small("small", b"content" * 9)
    store.put_large("large", LARGE)
    store.put_large("gone", LARGE + b"x")
    store.copy("large", "copy", to_bucket="other")
    store.delete(["k7", "gone"])
    store.put_small("again", b"")
    engine.close()
    return path


def contents(path: Path) -> tuple[Any, Any, Any]:
    """What a store holds."""
    clock = Clock()
    engine = opened_lmdb(path, clock)
    store = Driver(engine, clock)
    try:
        keys = store.scan_page(limit=500)["items"]
        return keys, store.content("large"), store.content("copy", bucket="other")
    finally:
        engine.close()


def test_verification_of_what_is_right(data: Path) -> None:
    report = maintenance.verify(data)
    assert report.damage == []
    assert (report.entries, report.objects) == (53, 3)


def test_backup_and_restore(data: Path, tmp_path: Path) -> None:
    before = contents(data)
    assert maintenance.copy(data, tmp_path / "b").damage == []
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["data.mdb", "objects"]
    assert len(list((tmp_path / "b" / "objects").iterdir())) == 1  # of nobody is not copied
    assert not list(data.glob("backup-*"))
    with pytest.raises(ConfigError, match="exists"):
        maintenance.copy(data, tmp_path / "b")
    maintenance.restore(tmp_path / "b", tmp_path / "r")
    assert contents(tmp_path / "r") == before
    with pytest.raises(ConfigError, match="exists"):
        maintenance.restore(tmp_path / "b", data)
    (data / "data.mdb").unlink()
    maintenance.restore(tmp_path / "b", data, replace=True)
    assert contents(data) == before and (tmp_path / "s.replaced-1").exists()
    for path in (tmp_path / "r").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_damage_prevents_a_backup_and_a_restore(data: Path, tmp_path: Path) -> None:
    maintenance.copy(data, tmp_path / "b")
    for folder in (data, tmp_path / "b"):
        (path, *_) = sorted((folder / "objects").iterdir(), key=lambda file: file.stat().st_size)
        with path.open("r+b") as file:
            file.seek(PART + 3)
            file.write(bytes((LARGE[PART + 3] ^ 16,)))
    with pytest.raises(DataCorrupted, match="part 1"):
        maintenance.copy(data, tmp_path / "b2")
    with pytest.raises(DataCorrupted, match="part 1"):
        maintenance.restore(tmp_path / "b", tmp_path / "r")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "s"]


def edit(path: Path, act: Callable[[Any, Any], None], table: str) -> None:
    """Change a table behind the store's back."""
    env = lmdb.open(str(path), max_dbs=64, lib_version=0)
    handle = env.open_db(table.encode())
    with env.begin(write=True) as txn:
        act(txn, handle)
    env.close()


def delete_first(txn: Any, handle: Any) -> None:
    with txn.cursor(handle) as cursor:
        assert cursor.first() and cursor.delete()


def change_a_bit(txn: Any, handle: Any) -> None:
    with txn.cursor(handle) as cursor:
        assert cursor.first()
        key, value = bytes(cursor.key()), bytearray(cursor.value())
        value[-1] ^= 4
        txn.put(key, bytes(value), db=handle)


@pytest.mark.parametrize(
    ("table", "act", "told"),
    [
        ("entries", delete_first, r"key 'again' of bucket 'default' is missing"),
        ("entries", change_a_bit, r"table 'entries' fails its checksum"),
        ("changes", delete_first, r"is not in the log"),
        ("buckets", change_a_bit, r"fails its checksum"),
        ("blobs", delete_first, r"content .* is missing|references are counted"),
        ("bodies", delete_first, r"content [0-9a-f]+ is missing"),
        ("digests", delete_first, r"digests of content"),
    ],
)
def test_what_is_found(data: Path, table: str, act: Callable[[Any, Any], None], told: str) -> None:
    import re

    if table == "blobs" or table == "digests":  # the first may be that of an object that has gone
        clock = Clock()
        engine = opened_lmdb(data, clock)
        clock.advance(61)
        engine.tick()
        engine.close()
    edit(data, act, table)
    damage = maintenance.verify(data).damage
    assert any(re.search(told, line) for line in damage), damage


def test_a_file_that_is_missing_or_too_long(data: Path) -> None:
    (path, *_) = sorted((data / "objects").iterdir(), key=lambda file: file.stat().st_size)
    with path.open("ab") as file:
        file.write(b"x")
    assert any("too long" in line for line in maintenance.verify(data).damage)
    path.unlink()
    assert any("cannot be read" in line for line in maintenance.verify(data).damage)


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(data)]) == 0
    assert "53 keys" in capsys.readouterr().out
    assert main(["--json", "backup", str(data), str(tmp_path / "b")]) == 0
    assert main(["restore", str(tmp_path / "b"), str(tmp_path / "r")]) == 0
    assert main(["compact", str(tmp_path / "r")]) == 0
    assert "octets before" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "r" / "objects")
    assert main(["verify", str(tmp_path / "r")]) == 1
    assert "DAMAGED" in capsys.readouterr().out
    assert main(["compact", str(tmp_path / "nothing")]) == 1
    assert "there is no store" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "nothing")]) == 1
    assert "there is no store" in capsys.readouterr().err
