"""Copies: taken, verified, restored, and made small."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.errors import ConfigError, DataCorrupted
from tests.unit.workers.store.conftest import ITEMS, MIB
from workers.store import PLAIN, Job, Store, backup
from workers.store.place import DATA


def fill(store: Store, *keys: bytes, size: int = 100) -> None:
    items, tags = store.tables["items"], store.tables["tags"]

    def run(key: bytes) -> Job:
        return Job(lambda change: (change.put(items, key, key * size), change.put(tags, b"t", key)))

    assert all(type(outcome) is tuple for outcome in store.execute([run(key) for key in keys]))


def test_a_backup_is_the_store_of_its_moment(
    store: Store, opened: Callable[..., Store], tmp_path: Path
) -> None:
    fill(store, b"a", b"b")
    copy = tmp_path / "copies" / "one"
    store.backup(copy)
    fill(store, b"late")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o700
    assert [file.name for file in copy.iterdir()] == [DATA]
    assert stat.S_IMODE((copy / DATA).stat().st_mode) == 0o600
    report = backup.verify(copy)
    assert report.entries["items"] == report.entries["tags"] == 2 and not report.damage

    where = tmp_path / "restored"
    name = backup.restore(copy, where)
    restored = opened(where)
    assert restored.uuid == name != store.uuid
    with restored.view() as view:
        assert view.get(restored.tables["items"], b"a") == b"a" * 100
        assert view.get(restored.tables["items"], b"late") is None
    fill(restored, b"goes on")


@pytest.mark.parametrize("limit", [64 * MIB, 2 * MIB])
def test_a_large_copy_is_written_to_though_it_has_no_page_to_spare(
    store: Store, opened: Callable[..., Store], tmp_path: Path, limit: int
) -> None:
    """Beyond its limit it can still be emptied."""
    fill(store, b"a", size=2 * MIB)
    store.backup(tmp_path / "copy")
    backup.restore(tmp_path / "copy", tmp_path / "restored")
    restored = opened(tmp_path / "restored", max_size=limit)
    if limit > 2 * MIB:
        fill(restored, b"b")
    items = restored.tables["items"]
    assert restored.execute([Job(lambda to: to.delete(items, b"a"), releases=True)]) == [True]


def test_a_large_copy_is_opened_by_a_version_with_more_tables(store: Store, tmp_path: Path) -> None:
    fill(store, b"a", size=2 * MIB)
    store.backup(tmp_path / "copy")
    backup.restore(tmp_path / "copy", tmp_path / "restored")
    tables = {**ITEMS, "more": PLAIN}
    with (
        Store.open(tmp_path / "restored", service="test", tables=tables, map_size=MIB) as restored,
        restored.view() as view,
    ):
        assert view.get(restored.tables["more"], b"a") is None


def test_a_copy_replaces_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists"):
        store.backup(tmp_path)
    store.backup(tmp_path / "copy")
    with pytest.raises(ConfigError, match="exists"):
        backup.restore(tmp_path / "copy", tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy", "store"]


def test_a_restored_store_can_take_the_place_of_the_lost_one(
    store: Store, opened: Callable[..., Store], tmp_path: Path
) -> None:
    fill(store, b"a")
    store.backup(tmp_path / "copy")
    name, epoch, path = store.uuid, store.epoch, store.path
    with pytest.raises(ConfigError, match="is open in this process"):
        backup.restore(tmp_path / "copy", path, replace=True)
    assert store.writing
    store.close()
    for turn in (1, 2):
        assert backup.restore(tmp_path / "copy", path, replace=True) == name
        assert (tmp_path / f"store.replaced-{turn}" / DATA).exists()
        again = opened(path)
        assert again.uuid == name
        assert again.epoch > epoch, "a writer or broker that remembers the old one gives way"
        epoch = again.epoch
        again.close()


def damage(path: Path, old: bytes, new: bytes) -> None:
    data = (path / DATA).read_bytes()
    assert old in data
    (path / DATA).write_bytes(data.replace(old, new))


def test_damage_is_found_and_named(store: Store, tmp_path: Path) -> None:
    fill(store, *(b"key-%02d" % n for n in range(50)))
    copy = tmp_path / "copy"
    store.backup(copy)
    for number in (7, 49):
        damage(copy, b"key-%02d" % number * 100, b"KEY-%02d" % number * 100)
    report = backup.verify(copy)
    assert report.entries["items"] == 50
    assert ["key-07" in report.damage[0], "key-49" in report.damage[1]] == [True, True]
    assert len(report.damage) == 2
    with pytest.raises(DataCorrupted, match=r"is damaged: .*key-07"):
        backup.restore(copy, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_a_changed_key_is_found(store: Store, tmp_path: Path) -> None:
    """Its value is right, but not for this key: otherwise the entry would be lost silently."""
    fill(store, b"key-1", b"key-2", size=0)
    store.backup(tmp_path / "copy")
    copy = tmp_path / "copy"
    data = bytearray((copy / DATA).read_bytes())
    place = data.index(b"key-1")
    data[place : place + 5] = b"key-0"
    (copy / DATA).write_bytes(data)
    assert "key-0" in backup.verify(copy).damage[0]


def test_nothing_is_verified_where_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no store in"):
        backup.verify(tmp_path)
    (tmp_path / DATA).write_bytes(bytes(8192))
    with pytest.raises(DataCorrupted):
        backup.verify(tmp_path)


def test_compaction_gives_free_pages_back(store: Store, opened: Callable[..., Store]) -> None:
    path = store.path
    fill(store, *(b"%03d" % n for n in range(500)), size=2000)
    items = store.tables["items"]
    store.execute([Job(lambda change: [change.delete(items, b"%03d" % n) for n in range(490)])])
    with pytest.raises(ConfigError, match="open in this process"):
        backup.compact(path)
    name = store.uuid
    store.close()
    before, after = backup.compact(path)
    assert before > 3_000_000 and after < 300_000
    assert (path / DATA).stat().st_size == after
    again = opened(path)
    assert again.uuid == name
    with again.view() as view:
        assert view.count(again.tables["items"]) == 10
        assert view.get(again.tables["items"], b"499") == b"499" * 2000
    fill(again, b"goes on")


def test_maintenance_leaves_the_store_usable(path: Path) -> None:
    with Store.open(path, service="test", tables=ITEMS):
        pass
    for _ in range(2):
        assert backup.verify(path).damage == []
        backup.compact(path)
    with Store.open(path, service="test", tables=ITEMS):
        pass
