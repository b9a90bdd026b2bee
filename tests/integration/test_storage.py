"""The storage service as it runs: broker, worker processes, blocking and asyncio clients."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh import connect, connect_async
from mesh.client.storage.local import LocalUpload
from mesh.client.sync import Mesh
from mesh.errors import InvalidArgument, KeyReused, ServiceNotFound, StoreBusy, VersionConflict
from mesh.protocol.storage import PART
from tests import support
from tests.integration.memory_mesh import MemoryMesh


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryMesh]:
    """Three processes over one store."""
    children: list[support.Child] = []

    def start(*command: str, **options: Any) -> support.Child:
        children.append(support.Child(command, **options))
        return children[-1]

    try:
        data = tmp_path_factory.mktemp("storage") / "s"
        yield MemoryMesh(start, data, processes=3, service="storage")
    finally:
        for child in reversed(children):
            child.stop()


@pytest.fixture
def m(mesh: MemoryMesh) -> Iterator[Mesh]:
    """A blocking client."""
    with connect(mesh.endpoint) as client:
        yield client


def test_records(m: Mesh) -> None:
    s = m.storage.bucket("records")
    version = s.put("a", {"x": 1})
    assert s.get("a") == {"x": 1} and s.get("b") is None and s.get("b", 7) == 7
    entry = s.entry("a")
    assert entry is not None and (entry.value, entry.version) == ({"x": 1}, version)
    assert s.put("a", 2, only_if="absent") is None
    with pytest.raises(VersionConflict) as raised:
        s.put("a", 2, version=version + 1)
    assert raised.value.data["version"] == version
    with pytest.raises(InvalidArgument, match="items is list"):
        s.put_many([("a", 1)])  # type: ignore[arg-type]
    assert list(s.put_many({"b": 1, "c": 2})) == ["b", "c"]
    assert s.get_many(["a", "b", "z"]) == {"a": {"x": 1}, "b": 1}
    assert s.batch().put("d", 4).delete("b", "z").require("a", version).run()[1] == 1
    assert s.copy("d", "e") and s.exists("d", "e") == 2
    with pytest.raises(InvalidArgument, match="there is no key 'zz'"):
        s.copy("zz", "e")
    assert s.delete("e") == 1
    info = s.info()
    assert info is not None and (info.name, info.entries) == ("records", 3)
    assert "records" in [bucket.name for bucket in s.buckets()]


def test_keys_in_order(m: Mesh) -> None:
    s = m.storage.bucket("keys")
    s.put_many({f"k{number:04}": number for number in range(1000)})
    s.put_many({f"k{number:04}": number for number in range(1000, 1500)})
    s.put_object("object", b"12345")
    wanted = [f"k{number:04}" for number in range(1500)]
    assert list(s.keys("k")) == wanted
    assert list(s.keys("k", reverse=True)) == wanted[::-1]
    assert list(s.items("k", start="k0003", end="k0005")) == [("k0003", 3), ("k0004", 4)]
    assert [item.size for item in s.listing("k14")] == [3] * 100
    (pair,) = s.items("object")
    assert pair[1].size == 5
    assert s.keys_page("k", limit=2).items == wanted[:2]
    assert s.drop() == 1501


def test_changes(m: Mesh, mesh: MemoryMesh) -> None:
    s = m.storage.bucket("changes")
    s.put("a", 1)
    s.delete("a")
    reached = s.put("b", 1)
    seen: list[tuple[str, str]] = []
    told = threading.Event()

    def follow() -> None:
        with connect(mesh.endpoint) as other:
            for change in other.storage.bucket("changes").changes():
                seen.append((change.kind, change.key))
                told.set()
                if change.key == "end":
                    return

    thread = threading.Thread(target=follow)
    thread.start()
    assert told.wait(10)
    s.put_object("o", b"x")
    s.put("end", 1)
    thread.join(10)
    assert not thread.is_alive()
    told_now = [entry for entry in seen if entry[0] != "now"]
    assert told_now == [("deleted", "a"), ("put", "b"), ("object", "o"), ("put", "end")]
    assert seen[2] == ("now", "")
    later = list(s.changes(reached, follow=False))
    assert [change.kind for change in later] == ["object", "put", "now"]
    assert later[-1].version == later[-2].version
    assert [change.key for change in s.changes(prefix="b", follow=False)] == ["b", ""]


@pytest.mark.parametrize("size", [0, 10, PART, PART + 1, 5 * PART + 17])
@pytest.mark.parametrize("way", ["written", "sent", "sent after all"])
def test_objects(
    m: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, size: int
) -> None:
    if way == "sent":  # as from another machine
        monkeypatch.setattr(LocalUpload, "open", lambda path, upload: None)
    elif way == "sent after all":
        write = LocalUpload.write

        def fail(file: LocalUpload, number: int, data: bytes) -> None:
            if number == 1:
                raise OSError(errno.EIO, "the disk is broken")
            write(file, number, data)

        monkeypatch.setattr(LocalUpload, "write", fail)
    s = m.storage.bucket("objects")
    data = os.urandom(size)
    told: list[tuple[int, int | None]] = []
    version = s.put_object(
        "o", data, content_type="x/y", metadata={"a": "b"},
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    info = s.object_info("o")
    assert info is not None
    assert (info.size, info.version, info.content_type) == (size, version, "x/y")
    assert (info.sha256, info.metadata) == (hashlib.sha256(data).hexdigest(), {"a": "b"})
    assert told[-1] == (size, size) and told == sorted(told)
    found = s.get_object("o")
    assert found is not None and found.info == info and found.read() == data
    for start, end in ((0, 1), (size // 2, None), (PART - 1, PART + 1), (size, None), (1, size)):
        if end is None or start <= end:
            part = s.get_object("o", start, end)
            assert part is not None and part.read() == data[start:end]
    path = tmp_path / "in"
    path.write_bytes(data)
    stored = s.put_file("file", path)
    if size > PART:
        assert s.put_file("file", path) == stored  # it is there already
    got = s.get_file("file", tmp_path / "out")
    assert got is not None and got.size == size and (tmp_path / "out").read_bytes() == data
    s.delete("file")
    assert s.put_file("file", path) != stored
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    with pytest.raises(IsADirectoryError):
        s.get_file("o", tmp_path)
    assert s.get_object("nothing") is None and s.get_file("nothing", tmp_path / "x") is None
    assert s.copy("o", "p") and s.delete("o", "p", "file") == 3


def test_objects_from_pieces(m: Mesh) -> None:
    s = m.storage.bucket("objects")
    pieces = [os.urandom(random.randrange(300_000)) for _ in range(20)]
    s.put_object("pieces", iter(pieces))
    found = s.get_object("pieces")
    assert found is not None and found.read() == b"".join(pieces)

    def broken() -> Iterator[bytes]:
        yield b"x" * (3 * PART)
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        s.put_object("pieces", broken())
    found = s.get_object("pieces")
    assert found is not None and found.info.size == sum(map(len, pieces))
    s.put_object("pieces", memoryview(b"every second")[::2])
    found = s.get_object("pieces")
    assert found is not None and found.read() == b"eeyscn"
    for wrong in ("a path", 5, [1, 2]):
        with pytest.raises(InvalidArgument):
            s.put_object("pieces", wrong)  # type: ignore[arg-type]


def test_two_who_store_the_same_file(m: Mesh, mesh: MemoryMesh, tmp_path: Path) -> None:
    """While one writes the file of the upload itself, the other one has to wait."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(6 * PART))
    told: list[int] = []

    def meddle(done: int, total: int | None) -> None:
        told.append(done)
        if len(told) == 3:
            with connect(mesh.endpoint, timeout=0.3) as other, pytest.raises(StoreBusy):
                other.storage.bucket("same").put_file("o", path)

    s = m.storage.bucket("same")
    version = s.put_file("o", path, progress=meddle)
    assert told[-1] == 6 * PART and s.put_file("o", path) == version
    found = s.get_object("o")
    assert found is not None and found.read() == path.read_bytes()


def test_an_object_that_is_replaced_can_be_read_to_its_end(m: Mesh) -> None:
    s = m.storage.bucket("objects")
    data = os.urandom(12 * PART)
    s.put_object("o", data)
    found = s.get_object("o")
    assert found is not None
    with found:
        first = next(found)
        s.put_object("o", b"other")
        assert first + found.read() == data
    half = s.get_object("o", 0, 2)
    assert half is not None
    with half:
        pass  # leaving early gives up the rest
    assert s.delete("o") == 1


def test_idempotency_keys(m: Mesh) -> None:
    s = m.storage.bucket("once")
    version = s.put("order", {"item": "tea"}, idempotency_key="order-17")
    assert s.put("order", {"item": "tea"}, idempotency_key="order-17") == version
    with pytest.raises(KeyReused):
        s.put("order", {"item": "milk"}, idempotency_key="order-17")
    batch = s.batch().put("a", 1).put("b", 2)
    assert batch.run(idempotency_key="b") == batch.run(idempotency_key="b")


def test_ttl_and_quota(m: Mesh) -> None:
    s = m.storage.bucket("brief")
    with pytest.raises(InvalidArgument, match="keeps things for ever"):
        s.put("a", 1, ttl=1)
    s.configure(ttl=3600, quota="1MB")
    s.put("a", 1)
    s.put("b", 1, ttl=0.05)
    info = s.info()
    assert info is not None and (info.ttl, info.quota) == (3600.0, 1_000_000)
    assert next(change.key for change in s.changes() if change.kind == "expired") == "b"
    assert s.exists("a", "b") == 1


def test_asyncio(mesh: MemoryMesh, tmp_path: Path) -> None:
    data = os.urandom(3 * PART + 5)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 700_000):
            yield data[at : at + 700_000]

    async def run() -> None:
        async with connect_async(mesh.endpoint) as client:
            s = client.storage.bucket("async")
            versions = await asyncio.gather(*(s.put(f"k{number}", number) for number in range(50)))
            assert len(set(versions)) == 50
            assert [key async for key in s.keys("k")] == sorted(f"k{n}" for n in range(50))
            assert [pair async for pair in s.items("k4", end="k41")] == [("k4", 4), ("k40", 40)]
            assert await s.put_object("o", pieces())
            found = await s.get_object("o", 5)
            assert found is not None and await found.read() == data[5:]
            path = tmp_path / "f"
            path.write_bytes(data)
            assert await s.put_file("f", path)
            assert await s.get_file("f", tmp_path / "g")
            assert (tmp_path / "g").read_bytes() == data
            assert await s.batch().put("x", 1).delete("o").run()
            kinds = [change.kind async for change in s.changes(follow=False)]
            assert kinds[-2:] == ["put", "now"] or kinds[-2:] == ["deleted", "now"]
            assert [item.key async for item in s.listing("f")] == ["f"]
            with pytest.raises(VersionConflict):
                await s.put("x", 2, version=1)

    asyncio.run(run())


def test_every_process_knows_what_a_dictionary_knows(m: Mesh) -> None:
    """What was acknowledged is seen by the next read, whichever process answers it."""
    s = m.storage.bucket("model")
    rng = random.Random(5)
    model: dict[str, tuple[int, Any]] = {}
    objects: dict[str, tuple[int, bytes]] = {}
    for turn in range(300):
        key = f"k{rng.randrange(20)}"
        version = model[key][0] if key in model else 0
        match rng.choice(("put", "put", "delete", "absent", "compare", "many", "batch", "object")):
            case "put":
                model[key] = (s.put(key, turn), turn)
            case "delete":
                assert s.delete(key) == (model.pop(key, None) is not None)
            case "absent":
                written = s.put(key, turn, only_if="absent")
                assert (written is None) == (key in model)
                if written is not None:
                    model[key] = (written, turn)
            case "compare":
                wanted = version + rng.randrange(2)
                try:
                    model[key] = (s.put(key, turn, version=wanted), turn)
                    assert wanted == version
                except VersionConflict as error:
                    assert wanted != version and error.data["version"] == version
            case "many":
                items = {f"k{rng.randrange(20)}": rng.random() for _ in range(5)}
                for name, written in s.put_many(items).items():
                    model[name] = (written, items[name])
            case "batch":
                other = f"k{rng.randrange(20)}"
                steps = s.batch().delete(other).put(key, turn).require(key, version)
                deleted, written = steps.run()
                assert deleted == (model.pop(other, None) is not None)
                model[key] = (written, turn)
            case "object":
                data = rng.randbytes(rng.choice((0, 100, PART + 1)))
                written = s.put_object(f"o{key}", data)
                assert written is not None
                objects[f"o{key}"] = (written, data)
        entry = s.entry(key)
        assert (entry and (entry.version, entry.value)) == model.get(key)
        if turn % 10 == 0:
            known = {name: version for name, (version, _) in (model | objects).items()}
            assert {item.key: item.version for item in s.listing()} == known
            assert list(s.keys(reverse=True)) == sorted(known, reverse=True)
            for name in [*objects][:1]:
                found = s.get_object(name)
                assert found is not None and found.read() == objects[name][1]
    assert dict(s.items("k")) == {name: value for name, (_, value) in model.items()}
    info = s.info()
    assert info is not None and info.entries == len(model) + len(objects)


def test_without_the_service_the_error_says_how_to_start_it(process: support.Start) -> None:
    _, (endpoint,) = support.start_broker(process, "--set", "broker.grace=100ms")
    with connect(endpoint, timeout=5.0) as m:
        with pytest.raises(ServiceNotFound, match="python -m workers storage"):
            m.storage.get("a")
        with pytest.raises(ServiceNotFound, match="python -m workers storage"):
            m.options(timeout=1.0).storage.put_object("a", b"x" * (PART + 1))
