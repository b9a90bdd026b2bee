"""What only a store in Valkey has to prove: repeats, watches, failures of the server."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mesh import connect
from mesh.errors import ConfigError, InvalidArgument, KeyReused, StoreBusy, StoreFull
from tests import support
from tests.conformance.memory import valkey
from tests.conformance.memory.driver import Driver, RealClock
from workers.memory.backend import Op
from workers.memory.backends.redis import RedisBackend
from workers.memory.locks import Event


@pytest.fixture(params=["server", "cluster"])
def open_backend(request: pytest.FixtureRequest) -> Iterator[Callable[[], RedisBackend]]:
    """Opens an empty store, and then the same again."""
    url = request.getfixturevalue(request.param)
    opened: list[RedisBackend] = []

    def make() -> RedisBackend:
        backend = RedisBackend(url)
        if not opened:
            backend.erase()
        opened.append(backend)
        return backend

    yield make
    for backend in opened:
        backend.close()


def one(backend: RedisBackend, op: Op) -> Any:
    (result,) = backend.execute([op])
    if isinstance(result, Exception):
        raise result
    return result


def test_a_repeated_request_has_the_first_outcome(open_backend: Callable[[], Any]) -> None:
    first, second = open_backend(), open_backend()
    op = Op("increment", "n", {"key": b"k", "by": 1}, (7, 1, b"a" * 16))
    assert one(first, op) == one(second, op) == 1
    with pytest.raises(KeyReused):
        one(second, Op("increment", "n", {"key": b"k", "by": 5}, (7, 1, b"x" * 16)))
    many = Op("many", "", {"ops": [Op("increment", "n", {"key": b"k", "by": 1}) for _ in range(3)]})
    many.call = (7, 2, b"b" * 16)
    assert one(first, many) == one(second, many) == [2, 3, 4]
    steps = [("increment", {"key": b"k", "by": 6})]
    batch = Op("batch", "n", {"conditions": [], "steps": steps}, (7, 3, b"c" * 16))
    assert one(first, batch) == one(second, batch) == [10]
    popped = Op("pop", "n", {"key": b"k"}, (7, 4, b"d" * 16))
    assert one(first, popped).body == one(second, popped).body == b"\x0a"
    nothing = Op("unlock", "n", {"name": b"l", "token": 1}, (7, 5, b"e" * 16))
    assert one(first, nothing) is False and one(second, nothing) is False
    popped.call = (7, 6, b"f" * 16)
    assert one(first, popped) is None and one(second, popped) is None


def test_many_processes_write(open_backend: Callable[[], Any]) -> None:
    backends = [open_backend() for _ in range(4)]

    def work(backend: RedisBackend) -> None:
        for _ in range(50):
            one(backend, Op("increment", "n", {"key": b"k", "by": 1}))
            steps = [("increment", {"key": b"b", "by": 1})]
            one(backend, Op("batch", "n", {"conditions": [], "steps": steps}))

    threads = [threading.Thread(target=work, args=(backend,)) for backend in backends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for key in (b"k", b"b"):
        assert one(backends[0], Op("get", "n", {"key": key, "stale": False})).body == b"\xcc\xc8"


def test_watching_from_another_process(open_backend: Callable[[], Any]) -> None:
    watching, writing = open_backend(), open_backend()
    seen: list[Event] = []
    arrived = threading.Event()

    def report(events: list[Event]) -> None:
        seen.extend(events)
        if any(event[2] == "deleted" for event in events):
            arrived.set()

    watching.watch(report)
    watching.follow({"n"})
    one(writing, Op("set", "other", {"key": b"k", "body": b"\x01"}))
    version = one(writing, Op("set", "n", {"key": b"k", "body": b"\x01"}))
    one(writing, Op("delete", "n", {"keys": [b"k"]}))
    assert arrived.wait(5)
    assert seen == [("n", b"k", "set", version), ("n", b"k", "deleted", version)]


def test_who_waits_is_told_from_another_process(open_backend: Callable[[], Any]) -> None:
    """A lock or a reservation may end by itself, with a deletion or an invalidation."""
    watching, writing = open_backend(), open_backend()
    seen: queue.Queue[Event] = queue.Queue()

    def report(events: list[Event]) -> None:
        for event in events:
            seen.put(event)

    watching.watch(report)
    watching.follow({"n"})

    def reserved(ms: int = 60_000) -> int:
        ends_at = writing.now() + ms
        _, _, token = one(writing, Op("reserve", "n", {"key": b"k", "expire_at": ends_at}))
        assert token
        return int(token)

    token = reserved()
    assert one(writing, Op("delete", "n", {"keys": [b"k"]})) == 0
    assert seen.get(timeout=5) == ("n", b"k", "released", token)
    for what in ({"prefix": b"k"}, {"tag": "any"}, {}):
        token = reserved()
        one(writing, Op("invalidate" if what else "clear", "n", what))
        assert seen.get(timeout=5) == ("n", b"k", "released", token)
    token = reserved()
    assert one(writing, Op("invalidate", "n", {"prefix": b"other"})) == 0
    assert one(writing, Op("release", "n", {"key": b"k", "token": token}))
    assert seen.get(timeout=5) == ("n", b"k", "released", token)
    lock = {"name": b"l", "owner": "", "expire_at": writing.now() + 60_000}
    held = one(writing, Op("lock", "n", lock))
    token = reserved(50)
    longer = {"name": b"l", "token": held, "expire_at": writing.now() + 100}
    assert one(writing, Op("extend", "n", longer))
    told: set[Event] = set()
    ends_at = time.monotonic() + 10
    while len(told) < 2 and time.monotonic() < ends_at:
        writing.tick()
        with suppress(queue.Empty):
            told.add(seen.get(timeout=0.05))
    assert told == {("n", b"k", "released", token), ("n", b"l", "unlocked", held)}
    assert one(writing, Op("lock_info", "n", {"name": b"l"})) is None


def test_braces_keep_keys_together(open_backend: Callable[[], Any]) -> None:
    backend = open_backend()
    keys = [b"{cart:1}:%d" % number for number in range(20)]
    steps = [("set", {"key": key, "body": b"\x01"}) for key in keys]
    assert len(one(backend, Op("batch", "n", {"conditions": [], "steps": steps}))) == 20


def test_relaxed_is_refused(open_backend: Callable[[], Any]) -> None:
    with pytest.raises(InvalidArgument, match="appendfsync"):
        one(open_backend(), Op("configure", "n", {"relaxed": True, "quota": None}))


@pytest.mark.parametrize("how", [{"tag": "t"}, {"prefix": b"{k}"}])
def test_an_invalidation_ends_while_others_write(
    open_backend: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    """What is written after it began stays, and does not keep it from what was there before."""
    monkeypatch.setattr("workers.memory.backends.redis.SLICE", 2)
    backend, other = open_backend(), open_backend()

    def write(name: str) -> None:
        for number in range(7):
            key = b"{k}%s%d" % (name.encode(), number)
            one(other, Op("set", "n", {"key": key, "body": b"\x01", "tags": ("t",)}))

    write("old")
    slices = 0
    send = backend._one

    def step(base: str, op: Op) -> Any:
        nonlocal slices
        found = send(base, op)
        slices += not found[1]  # in a cluster it begins later elsewhere
        assert slices < 100
        if slices == 1:
            write("new")
        return found

    monkeypatch.setattr(backend, "_one", step)
    assert one(backend, Op("invalidate", "n", how)) == 7
    page, _ = one(other, Op("scan", "n", {**ALL, "limit": 100}))
    assert sorted(key for key, _ in page) == [b"{k}new%d" % number for number in range(7)]
    assert one(other, Op("invalidate", "n", how)) == 7


def test_a_page_is_not_too_large(open_backend: Callable[[], Any]) -> None:
    backend = open_backend()
    for number in range(5):
        one(
            backend,
            Op("set", "n", {"key": b"{k}%d" % number, "body": b"\xc6\0\x09\0\0" + bytes(0x90000)}),
        )
    pages = []
    after = b""
    while after or not pages:
        page, after = one(backend, Op("scan", "n", {**ALL, "values": True, "after": after}))
        pages.append(page)
    assert [key for page in pages for key, _ in page] == [b"{k}%d" % number for number in range(5)]
    assert max(sum(len(entry.body) for _, entry in page) for page in pages) <= 2 * 1024 * 1024


ALL = {"prefix": b"", "after": b"", "limit": 1000, "values": False}


def test_a_quota(open_backend: Callable[[], Any]) -> None:
    backend = open_backend()
    one(backend, Op("configure", "n", {"relaxed": None, "quota": 16 * 4000}))
    found = backend.execute(
        [Op("set", "n", {"key": b"{one}%d" % number, "body": b"\x01"}) for number in range(200)]
    )
    kinds = [type(result).__name__ for result in found]
    assert kinds.count("QuotaExceeded") > 0 < kinds.count("int")


# ---------------------------------------------------------------- failures


def test_nobody_is_there() -> None:
    with pytest.raises(ConfigError, match=r"no redis server at redis://127\.0\.0\.1"):
        RedisBackend(f"redis://127.0.0.1:{support.free_port()}/0")


def test_no_cluster_is_there() -> None:
    with pytest.raises(ConfigError, match=r"no redis server at redis://127\.0\.0\.1"):
        RedisBackend(f"redis+cluster://127.0.0.1:{support.free_port()}")


def test_a_server_is_no_cluster(server: str) -> None:
    with pytest.raises(ConfigError, match="no redis server"):
        RedisBackend(server.replace("redis://", "redis+cluster://"))


def test_a_server_that_restarts(
    process: support.Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = support.free_port()
    command = (
        valkey.binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path),
        "--appendonly", "yes", "--appendfsync", "always",
    )  # fmt: skip
    first = process(*command)
    first.expect("Ready to accept connections")
    backend = RedisBackend(f"redis://127.0.0.1:{port}/0")
    store = Driver(backend, RealClock())
    store.set(b"k", 1)
    first.kill()
    with pytest.raises(StoreBusy) as caught:
        store.set(b"k", 2)
    assert caught.value.maybe_executed
    for verb, arguments in (
        ("set", {"key": b"k", "body": b"\x01"}),
        ("configure", {"relaxed": None, "quota": 1}),
        ("set_many", {"items": [(b"k", b"\x01")]}),
    ):
        with pytest.raises(StoreBusy):
            store(verb, ns="new", **arguments)
    with pytest.raises(StoreBusy):
        store("stats", ns="")
    monkeypatch.setattr("workers.memory.backends.listening.PATIENCE", 0.2)
    with pytest.raises(StoreBusy, match="tells of no changes"):
        backend.follow({"n"})
    process(*command).expect("Ready to accept connections")
    assert store.get(b"k") == 1
    monkeypatch.undo()
    backend.follow({"n"})
    backend.follow(set())
    assert store.set(b"k", 2) > 0
    backend.close()


def test_a_server_that_is_full(process: support.Start, tmp_path: Path) -> None:
    child, port = valkey.start_server(tmp_path, "--maxmemory", "8mb")
    backend = RedisBackend(f"redis://127.0.0.1:{port}/0")
    store = Driver(backend, RealClock())
    number = 0
    with pytest.raises(StoreFull, match="maxmemory"):
        while True:
            store.set(b"k%d" % number, "x" * 100_000)
            number += 1
    assert store.get(b"k0") == "x" * 100_000
    assert store("delete", keys=[b"k0", b"k1"]) == 2
    backend.close()
    child.stop()


def test_the_service_over_valkey(process: support.Start, server: str) -> None:
    _, (broker,) = support.start_broker(process)
    child = process(
        sys.executable, "-m", "workers", "memory", "--broker", broker, "--backend", "redis",
        "--url", server, "--processes", "2",
    )  # fmt: skip
    child.expect_all(r"^serving memory", 2, timeout=20)
    with connect(broker) as m:
        m.call("memory.clear", ns="default")
        assert m.call("memory.set", "k", [1], ttl=60)
        assert m.call("memory.get", "k") == [1]
        assert m.batch("memory.increment", [("n",)] * 30) == list(range(1, 31))
        for event in m.stream("memory.watch", "w"):
            if event["kind"] == "watching":
                m.call("memory.set", "w", 1)
            elif event["kind"] == "set":
                assert event["key"] == "w"
                break
        assert sorted(m.stream("memory.scan")) == ["k", "n", "w"]
