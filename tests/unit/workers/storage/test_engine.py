"""The engine over LMDB and files: what is on disk, what is damaged, what is full."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from mesh.client.storage.local import LocalUpload
from mesh.errors import DataCorrupted, InvalidArgument, StoreBusy, StoreFull, VersionConflict
from mesh.protocol.storage import PART, part_digest
from tests import support
from tests.conformance.storage.driver import Clock, Driver, opened_lmdb
from workers.storage import files
from workers.storage.engine import LmdbEngine
from workers.storage.maintenance import verify
from workers.store import Job

MIB = 1024 * 1024


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_everything_is_there_after_reopening(tmp_path: Path, clock: Clock) -> None:
    data = os.urandom(2 * PART + 1)
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    store.put("a", 1)
    store.put_large("o", data)
    store.put_small("small", b"x")
    version = store.again(store.op("put", "b", 1), 1)
    engine.close()
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    assert store.get("a") == 1 and store.content("o") == data and store.content("small") == b"x"
    assert store.again(store.op("put", "b", 1), 1) == version
    assert store.put("c", 1) == version + 1
    engine.close()


def test_a_reader_sees_commits_and_writes_nothing(
    tmp_path: Path, clock: Clock, process: support.Start
) -> None:
    code = """
import signal, sys
from pathlib import Path
from mesh.protocol.storage import PART
from tests import support
from tests.conformance.storage.driver import Clock, Driver, opened_lmdb
clock = Clock()
store = Driver(opened_lmdb(Path(sys.argv[1]), clock), clock)
store.put("a", 1)
store.put_large("o", b"x" * (PART + 1))
print("written", flush=True)
signal.pause()
"""
    process(sys.executable, "-c", code, str(tmp_path / "s")).expect("^written$")
    engine = LmdbEngine(tmp_path / "s", clock=clock)
    store = Driver(engine, clock)
    assert store.get("a") == 1 and store.content("o") == b"x" * (PART + 1)
    with pytest.raises(StoreBusy):
        store.put("b", 1)
    assert engine.tick() is False
    engine.close()


def rows_of_the_log(engine: LmdbEngine) -> int:
    with engine.store.view() as view:
        return view.count(engine.store.tables["changes"])


def changed(store: Driver) -> list[list[Any]]:
    found: list[list[Any]] = store.changes_page()["items"]
    return found


def test_what_was_replaced_leaves_the_log_when_all_is_quiet(tmp_path: Path, clock: Clock) -> None:
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    versions = [store.put(key, 1) for key in ("a", "b", "a", "a")]
    store.delete(["b"])
    last = [[versions[3], "put", "a"], [versions[3] + 1, "deleted", "b"]]
    assert changed(store) == last
    assert rows_of_the_log(engine) == 5
    engine.tick()  # it was written to meanwhile
    assert rows_of_the_log(engine) == 5
    engine.tick()
    assert rows_of_the_log(engine) == 2 and changed(store) == last
    store.put("a", 2)
    engine.close()
    engine = opened_lmdb(tmp_path / "s", clock)
    assert rows_of_the_log(engine) == 2
    engine.close()


def test_what_a_crash_leaves_in_the_log_is_found(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.storage.engine.LOOKED", 2)
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    for key in ("a", "b", "a", "b", "a"):
        store.put(key, 1)
    engine._replaced.clear()  # as a crash does
    engine.close()
    assert not verify(tmp_path / "s").damage
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    assert rows_of_the_log(engine) == 5 and len(changed(store)) == 2
    for _ in range(5):
        engine.tick()
    assert rows_of_the_log(engine) == 2 and len(changed(store)) == 2
    engine.close()


def damage(path: Path, needle: bytes) -> None:
    """Change one bit of where `needle` lies in a file."""
    with path.open("r+b") as file:
        content = file.read()
        at = content.index(needle)
        while at >= 0:
            file.seek(at + 1)
            file.write(bytes((content[at + 1] ^ 1,)))
            at = content.find(needle, at + 1)


def test_damage_is_told_by_key_and_never_returned(tmp_path: Path, clock: Clock) -> None:
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    store.put("good", 1)
    store.put("bad", "needle" * 5)
    store.put_small("small", b"haystack" * 9)
    data = os.urandom(2 * PART)
    store.put_large("large", data)
    engine.close()
    damage(tmp_path / "s" / "data.mdb", b"needleneedle")
    damage(tmp_path / "s" / "data.mdb", b"haystackhaystack")
    (path,) = (tmp_path / "s" / "objects").iterdir()
    damage(path, data[PART + 5 : PART + 25])
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    for read in (lambda: store.get("bad"), store.scan_page, lambda: store.content("small")):
        with pytest.raises(DataCorrupted) as raised:
            read()
        assert raised.value.data["key"] in ("bad", "small")
        assert raised.value.data["bucket"] == "default"
    blob = store.object("large")["blob"]
    assert engine.read_part(blob, 0, 0, PART) == data[:PART]
    with pytest.raises(DataCorrupted, match="part 1"):
        engine.read_part(blob, 1, 0, PART)
    assert store.get("good") == 1
    store.put("bad", "again")  # whoever has the value can repair it
    assert store.delete(["small"]) == 1
    assert store.scan_page()["items"] == ["bad", "good", "large"]
    path.unlink()
    store.tick()  # it is open no longer
    with pytest.raises(DataCorrupted, match="cannot be read"):
        engine.read_part(blob, 1, 0, PART)
    engine.close()


def test_a_full_store_goes_on_when_there_is_room(tmp_path: Path, clock: Clock) -> None:
    engine = opened_lmdb(tmp_path / "s", clock, max_size=4 * MIB)
    store = Driver(engine, clock)
    written = []
    with pytest.raises(StoreFull):
        for number in range(100):
            store.put_small(f"o{number}", os.urandom(100_000))
            written.append(f"o{number}")
    assert len(written) > 10
    store.delete(written[:-1])
    store.tick()  # in a hurry, since it was full: nobody is waited for
    assert store.put_small("again", os.urandom(100_000))
    assert store.content(written[-1]) is not None
    engine.close()


def test_a_full_disk_refuses_parts_and_nothing_else(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    disk = os.statvfs(tmp_path)
    monkeypatch.setattr(files, "DISK_RESERVE", disk.f_bavail * disk.f_frsize)
    with pytest.raises(StoreFull, match="disk is full"):
        store.send(b"x" * (PART + 1))
    assert store.put("a", 1)
    monkeypatch.undo()
    assert store.put_large("o", b"x" * (PART + 1))
    engine.close()


def test_what_uploads_leave_is_swept(tmp_path: Path, clock: Clock) -> None:
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    data = os.urandom(PART + 1)
    name, _ = store.send(data)
    kept, digests = store.send(data)
    store.finish("o", data, kept, digests)
    uploads, objects = tmp_path / "s" / "uploads", tmp_path / "s" / "objects"
    assert [path.name for path in uploads.iterdir()] == [name.hex()]
    engine.close()
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    # As a crash leaves them: linked and named, but not unlinked; and linked, but never named.
    os.link(objects / kept.hex(), uploads / kept.hex())
    orphan = os.urandom(16).hex()
    (uploads / orphan).write_bytes(b"x")
    os.link(uploads / orphan, objects / orphan)
    in_use, _ = store.send(data)
    old = 1_000_000_000
    for path in uploads.iterdir():
        os.utime(path, (old, old))
    assert engine._files.sweep(old + 25 * 3600, lambda blob: blob == kept) == 2
    assert [path.name for path in uploads.iterdir()] == [in_use.hex()]
    assert [path.name for path in objects.iterdir()] == [kept.hex()]
    assert store.content("o") == data
    with pytest.raises(InvalidArgument, match="no such upload"):
        engine._files.finish(name, len(data), digests)
    engine.close()


def test_a_finished_object_is_never_changed(tmp_path: Path, clock: Clock) -> None:
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    data, other = os.urandom(PART + 1), os.urandom(PART + 1)
    name, digests = store.send(data)
    engine._files.finish(name, len(data), digests)  # and before the transaction the writer dies
    with pytest.raises(InvalidArgument) as raised:
        store.send(other, name)
    assert raised.value.data == {"finished": True}
    with pytest.raises(InvalidArgument):
        store.finish("o", other, name, digests[::-1])
    assert store.finish("o", data, name, digests) and store.content("o") == data
    engine.close()


def test_an_upload_that_its_client_writes_itself(tmp_path: Path, clock: Clock) -> None:
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    data = os.urandom(2 * PART + 1)
    parts = [data[at : at + PART] for at in range(0, len(data), PART)]
    digests = b"".join(map(part_digest, parts))
    name = os.urandom(16)
    file = LocalUpload.open(engine.share_upload(name), name)
    assert file is not None
    assert engine.share_upload(name) == ""  # it has begun
    for number in (2, 0):
        file.write(number, parts[number])
    # As long as its writer is there, nobody else writes, and nobody makes an object of it.
    with pytest.raises(StoreBusy):
        engine.write_part(name, 1, parts[1], digests[8:16])
    with pytest.raises(StoreBusy):
        store.finish("o", data, name, digests)
    file.close()
    with pytest.raises(InvalidArgument) as raised:
        store.finish("o", data, name, digests)
    assert raised.value.data == {"part": 1}
    zeros = part_digest(bytes(PART))
    assert engine.upload_parts(name) == [digests[:8], zeros, digests[16:]]
    assert engine.upload_parts(name, 2) == [digests[16:]] and engine.upload_parts(name, 3) == []
    engine.write_part(name, 1, parts[1], digests[8:16])
    assert store.finish("o", data, name, digests) and store.content("o") == data
    engine.close()
    off = LmdbEngine(tmp_path / "s", clock=clock, local_uploads=False)
    assert off.share_upload(os.urandom(16)) == ""
    off.close()


def test_what_was_refused_leaves_nothing(tmp_path: Path, clock: Clock) -> None:
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    data = os.urandom(PART + 1)
    store.put_small("o", b"x")
    name, digests = store.send(data)
    with pytest.raises(VersionConflict):
        store.finish("o", data, name, digests, version=7)
    assert engine.discard_upload(name)
    assert [*(tmp_path / "s" / "objects").iterdir(), *(tmp_path / "s" / "uploads").iterdir()] == []
    name, digests = store.send(data)
    assert store.finish("o", data, name, digests, only_if="absent") is None
    assert [*(tmp_path / "s" / "objects").iterdir(), *(tmp_path / "s" / "uploads").iterdir()] == []
    name, digests = store.send(data)
    assert store.finish("p", data, name, digests)
    assert not engine.discard_upload(name)  # it is an object now, and stays
    assert store.content("p") == data
    engine.close()


def test_what_was_given_up_cannot_be_named(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    data = os.urandom(PART + 1)
    name, digests = store.send(data)
    finish = engine._files.finish

    def finish_and_give_up(*args: Any) -> None:
        finish(*args)
        engine.discard_upload(name)  # while the transaction is on its way to the writer

    monkeypatch.setattr(engine._files, "finish", finish_and_give_up)
    with pytest.raises(InvalidArgument, match="given up"):
        store.finish("o", data, name, digests)
    assert store.object("o") is None
    engine.close()


def test_a_large_object_is_on_disk_before_anything_names_it(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    objects = tmp_path / "s" / "objects"
    data = os.urandom(PART + 1)
    name, digests = store.send(data)
    done: list[object] = []
    link, fsync, execute = os.link, os.fsync, engine.store.execute

    def note_link(source: Path, target: Path) -> None:
        link(source, target)
        done.append("linked")

    def note_fsync(file: int) -> None:
        fsync(file)
        done.append(os.fstat(file).st_ino)

    def note_execute(jobs: list[Job]) -> list[object]:
        done.append("executed")
        return execute(jobs)

    monkeypatch.setattr(os, "link", note_link)
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(engine.store, "execute", note_execute)
    engine._files.finish(name, len(data), digests)
    flushed = [(objects / name.hex()).stat().st_ino, objects.stat().st_ino]
    assert done == ["linked", *flushed]
    # And once more: who did that may have been killed before it was on disk.
    done.clear()
    assert store.finish("o", data, name, digests)
    assert done == [*flushed, "executed"]
    engine.close()


def test_what_cannot_be_flushed_is_given_up(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second flush may succeed although the first one has lost something."""
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    data = os.urandom(PART + 1)
    name, digests = store.send(data)

    def fail(file: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="broken"):
            store.finish("o", data, name, digests)
    with pytest.raises(InvalidArgument, match="no such upload"):
        store.finish("o", data, name, digests)
    assert store.put_large("o", data) and store.content("o") == data
    engine.close()


def test_files_are_for_their_owner_alone(tmp_path: Path, clock: Clock) -> None:
    engine = opened_lmdb(tmp_path / "s", clock)
    store = Driver(engine, clock)
    store.put_large("o", b"x" * (PART + 1))
    store.send(b"y" * (PART + 1))
    for path in (tmp_path / "s", *(tmp_path / "s").rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    engine.close()
