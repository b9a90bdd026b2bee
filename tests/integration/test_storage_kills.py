"""Processes of the storage service, and brokers, are killed: what is kept, what is done twice."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from mesh import connect
from mesh.client.storage.local import LocalUpload
from mesh.errors import CallError
from mesh.protocol.storage import PART
from tests import support
from tests.integration.memory_mesh import SEED, SOAK, Client, MemoryMesh, Recorder, until
from tests.linearizability import UNKNOWN, Conflict, violations

KILLS = 100 if SOAK else 3
POINTS = ("received", "committed", "linked", "named", "unlinked")
PASSES = 20 if SOAK else 1


@pytest.fixture(autouse=True)
def both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large objects are written to the directory by some clients, and sent by others."""
    write = LocalUpload.open
    monkeypatch.setattr(
        LocalUpload,
        "open",
        lambda path, upload: write(path, upload) if upload[0] % 2 else None,
    )


@pytest.fixture
def mesh(process: support.Start, tmp_path: Path) -> MemoryMesh:
    """Three processes over one store."""
    print(f"SAGE_SEED={SEED}")
    return MemoryMesh(process, tmp_path / "s", processes=3, service="storage")


def kill(mesh: MemoryMesh, count: int) -> None:
    """kill -9 at random moments of the writer, of a reader, of all workers, of the broker."""
    rng = random.Random(SEED)
    for number in range(count):
        threading.Event().wait(rng.uniform(0.05, 0.4))
        if number % 4 == 0:
            mesh.kill_writer()
        elif number % 4 == 1:
            mesh.kill_broker()
        elif number % 4 == 2:
            for pid in mesh.workers():
                os.kill(pid, 9)
        else:
            mesh.kill_reader(rng)
        until(mesh.complete)


class Books:
    """What clients were told: key -> version and content of the last write acknowledged."""

    def __init__(self) -> None:
        self.records: dict[str, tuple[int, Any]] = {}
        self.objects: dict[str, tuple[int, str]] = {}
        self.unknown: set[str] = set()

    def work(self, client: Client) -> None:
        """One write of a key that nobody else writes, once; sometimes with an idempotency key."""
        s, rng, turn = client.mesh.storage, client.rng, client.turns
        client.turns += 1
        key = f"{client.number}-{turn}"
        try:
            if turn % 7 == 3:
                data = rng.randbytes(rng.choice((10, 5000, PART + 9, 2 * PART + 5)))
                version = s.put_object(key, data)
                assert version
                self.objects[key] = (version, hashlib.sha256(data).hexdigest())
            elif turn % 7 == 5:
                version = s.put(key, turn, idempotency_key=key)
                # Asked for once more, as by a program that was not sure: the same outcome.
                assert s.put(key, turn, idempotency_key=key) == version
                self.records[key] = (version, turn)
            else:
                self.records[key] = (s.put(key, turn), turn)
        except CallError as error:
            if not error.retryable and not error.maybe_executed:
                raise
            self.unknown.add(key)

    def check(self, endpoint: str) -> None:
        """Every write that was acknowledged is there, was done once, and is whole."""
        with connect(endpoint, timeout=60.0) as m:
            items = {item.key: item for item in m.storage.listing()}
            told = {change.key: change.version for change in m.storage.changes(follow=False)}
            for key, (version, value) in self.records.items():
                assert items[key].version == version == told[key], key
                assert m.storage.get(key) == value
            for key, (version, digest) in self.objects.items():
                assert items[key].version == version == told[key], key
                found = m.storage.get_object(key)
                assert found is not None and found.info.sha256 == digest
                found.read()  # verified
            for key in items.keys() - self.records.keys() - self.objects.keys():
                assert key in self.unknown
                if items[key].object is not None:
                    found = m.storage.get_object(key)
                    assert found is not None
                    found.read()  # whole, or not there at all
            info = m.storage.info()
            assert info is not None and info.entries == len(items)


@pytest.mark.timeout(1200 if SOAK else 60)
def test_nothing_acknowledged_is_lost_and_nothing_is_done_twice(mesh: MemoryMesh) -> None:
    books = Books()
    with Recorder(mesh.endpoint).running(4, books.work):
        kill(mesh, KILLS)
    books.check(mesh.endpoint)
    assert len(books.records) > 20 and books.objects


@pytest.mark.timeout(1200 if SOAK else 60)
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_named_point(process: support.Start, tmp_path: Path, point: str) -> None:
    _, (endpoint,) = support.start_broker(process)
    books = Books()
    rng = random.Random(SEED)
    command = (sys.executable, "-m", "tests.integration.storage_worker", str(tmp_path / "s"))

    def serve(passes: int) -> support.Child:
        child = process(*command, endpoint, point, str(passes))
        child.expect(r"^serving storage pid=\d+$", timeout=20)
        return child

    def work(client: Client) -> None:
        books.work(client)
        if point == "unlinked":  # large objects that are replaced: their files have to go
            s = client.mesh.storage.bucket(f"gone{client.number}")
            try:
                s.put_object("o", os.urandom(PART + 1))
            except CallError as error:
                if not error.retryable and not error.maybe_executed:
                    raise

    child = serve(rng.randrange(10))
    with Recorder(endpoint).running(3, work):
        for _ in range(PASSES):
            assert child.wait(timeout=30) == -9
            child = serve(rng.randrange(10))
        child.stop()
        process(sys.executable, "-m", "workers", "storage", "--broker", endpoint,
                "--data", str(tmp_path / "s"))  # fmt: skip
    books.check(endpoint)
    assert books.records


@pytest.mark.timeout(300 if SOAK else 60)
@pytest.mark.parametrize("way", ["written", "sent"])
def test_an_upload_outlives_its_writer_and_its_client(
    mesh: MemoryMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "sent":
        monkeypatch.setattr(LocalUpload, "open", lambda path, upload: None)
    path = tmp_path / "file"
    path.write_bytes(os.urandom(24 * PART + 5))

    class Enough(Exception):
        pass

    def stop_half_way(done: int, total: int | None) -> None:
        if done > 10 * PART:
            raise Enough

    with connect(mesh.endpoint) as m, pytest.raises(Enough):
        m.storage.put_file("o", path, progress=stop_half_way)
    mesh.kill_writer()
    until(mesh.complete)
    told: list[int] = []

    def kill_half_way(done: int, total: int | None) -> None:
        told.append(done)
        if len(told) == 14:
            mesh.kill_writer()

    with connect(mesh.endpoint) as m:
        assert m.storage.put_file("o", path, progress=kill_half_way)
        assert told[-1] == path.stat().st_size
        reading = m.storage.get_object("o")
        assert reading is not None
        first = next(reading)
        mesh.kill_writer()
        assert first + reading.read() == path.read_bytes()


def test_a_scan_goes_on_elsewhere(mesh: MemoryMesh) -> None:
    """Every key comes once, in order, whoever served it."""
    with connect(mesh.endpoint) as m:
        s = m.storage
        wanted = {f"k{number:05}": "x" * 1000 for number in range(5000)}
        for begin in range(0, 5000, 1000):
            s.put_many(dict(list(wanted.items())[begin : begin + 1000]))
        found: list[tuple[str, str]] = []
        for pair in s.items():
            found.append(pair)
            if len(found) in (500, 3000):
                for pid in mesh.workers():
                    os.kill(pid, 9)
                until(mesh.complete)
        assert found == list(wanted.items())
        backwards: list[str] = []
        for key in s.keys("k", start="k01000", end="k04000", reverse=True):
            backwards.append(key)
            if len(backwards) == 1000:
                for pid in mesh.workers():
                    os.kill(pid, 9)
        assert backwards == sorted(wanted, reverse=True)[1000:4000]


@pytest.mark.timeout(600 if SOAK else 60)
def test_those_who_follow_miss_nothing(mesh: MemoryMesh) -> None:
    """A copy that is kept up by following changes is complete, whoever dies meanwhile."""
    copy: dict[str, int] = {}
    ended = threading.Event()

    def follow() -> None:
        with connect(mesh.endpoint, timeout=60.0) as m:
            for change in m.storage.changes():
                if change.key == "end":
                    break
                copy.pop(change.key, None)
                if change.kind == "put":
                    copy[change.key] = change.version
        ended.set()

    follower = threading.Thread(target=follow)
    follower.start()

    def work(client: Client) -> None:
        s = client.mesh.storage
        try:
            if client.rng.random() < 0.3:
                s.delete(f"k{client.rng.randrange(50)}")
            else:
                s.put(f"k{client.rng.randrange(50)}", 1)
        except CallError as error:
            if not error.retryable and not error.maybe_executed:
                raise

    with Recorder(mesh.endpoint).running(3, work):
        kill(mesh, KILLS)
    with connect(mesh.endpoint, timeout=60.0) as m:
        m.storage.put("end", 1)
        assert ended.wait(30)
        follower.join()
        assert copy == {item.key: item.version for item in m.storage.listing("k")}


@pytest.mark.timeout(1200 if SOAK else 60)
def test_concurrent_histories_are_linearizable(mesh: MemoryMesh) -> None:
    recorder = Recorder(mesh.endpoint, service="storage")
    versions: dict[int, dict[str, int]] = defaultdict(dict)

    def work(client: Client) -> None:
        key = f"{recorder.prefix}:{client.rng.randrange(6)}"
        known = versions[client.number]
        value = (client.number + 1) * 10**9 + client.turns
        client.turns += 1
        match client.rng.choice(("get", "entry", "entry", "put", "cas", "cas", "delete")):
            case "get":
                client.note(key, "get", (), "get", key)
            case "entry":
                client.entry(key)
                known[key] = client._versions.get(key, 0)
            case "put":
                found = client.note(key, "set", (value,), "put", key, value)
                if found is not UNKNOWN:
                    known[key] = found
            case "delete":
                client.note(key, "delete", (), "delete", [key])
            case "cas":
                version = known.get(key, 0)
                found = client.note(
                    key, "compare_and_set", (value, version), "put", key, value, version=version
                )
                if isinstance(found, Conflict):
                    known[key] = found.found
                elif found is not UNKNOWN:
                    known[key] = found

    rng = random.Random(SEED)
    with recorder.running(5, work):
        for turn in range(KILLS):
            recorder.prefix = str(turn)
            threading.Event().wait(rng.uniform(0.05, 0.3))
            mesh.kill_writer()
            until(mesh.complete)
    recorder.read_all()
    assert not violations(recorder.history)
