"""The LMDB backend of the memory service: what a restart keeps, what it takes of the machine."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from mesh.errors import (
    DataCorrupted,
    InvalidArgument,
    KeyReused,
    OutcomeUnknown,
    StoreBusy,
    StoreFull,
)
from tests import support
from tests.conformance.memory.driver import Clock
from tests.integration.memory_mesh import anonymous
from workers.memory import hits
from workers.memory.backend import Op
from workers.memory.backends.durable import LmdbBackend
from workers.memory.running import Tally
from workers.store import Job, lock_holder

MB = 1000 * 1000
NS = "default"
Open = Callable[..., LmdbBackend]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens the store of the test; `writes=False` leaves it a reader."""
    found: list[LmdbBackend] = []

    def make(size: int = 64 * MB, *, writes: bool = True, **more: Any) -> LmdbBackend:
        backend = LmdbBackend(tmp_path / "store", size, **more)
        found.append(backend)
        if writes:
            gained = threading.Event()
            backend.stand(lambda epoch: gained.set(), lambda error: None)
            assert gained.wait(10)
        return backend

    yield make
    for backend in reversed(found):
        backend.close()


def put(key: str, size: int = 100, **more: Any) -> Op:
    body = msgpack.packb(random.randbytes(size))
    return Op("set", NS, {"key": key.encode(), "body": body, **more})


def get(key: str) -> Op:
    return Op("get", NS, {"key": key.encode()})


def one(backend: LmdbBackend, op: Op) -> Any:
    (result,) = backend.execute([op])
    if isinstance(result, Exception):
        raise result
    return result


# ---------------------------------------------------------------- size


@pytest.mark.parametrize("size", [100, 3000, 100_000])
def test_a_store_stays_within_its_size(opened: Open, size: int) -> None:
    """More than fits is written: file and policy stay near the limit, space is used again."""
    capacity = 16 * MB
    backend = opened(capacity)
    total = capacity if size == 100 else 5 * capacity
    written = 0
    while written < total:
        ops = [put(f"k{random.getrandbits(60)}", size) for _ in range(max(1, 200_000 // size))]
        assert all(isinstance(version, int) for version in backend.execute(ops))
        written += len(ops) * (size + 150)
    stats = one(backend, Op("stats", ""))
    assert stats["evicted"] > stats["entries"] > 0
    memory = backend.cache.policy.overhead * stats["entries"]
    # Pages that were freed are used again two commits later.
    assert backend.store.size + memory < capacity * 1.1 + 12 * MB
    assert stats["octets"] > capacity * 0.2


def test_what_is_used_stays(opened: Open) -> None:
    backend = opened(8 * MB)
    for number in range(200):
        backend.execute([put(f"hot{number}")])
    for turn in range(150):
        backend.read([get(f"hot{number}") for number in range(200)])
        backend.execute([put(f"cold{turn}-{number}", 1000) for number in range(200)])
    found = backend.read([get(f"hot{number}") for number in range(200)])
    assert sum(entry is not None for entry in found) > 190
    assert one(backend, Op("stats", ""))["evicted"] > 1000


def test_hits_of_other_processes_count(opened: Open, process: support.Start) -> None:
    backend = opened(8 * MB)
    backend.execute([put(f"hot{number}") for number in range(100)])
    reader = f"""
import sys
from pathlib import Path
from workers.memory.backend import Op
from workers.memory.backends.durable import LmdbBackend
backend = LmdbBackend(Path({str(backend.store.path)!r}), 8_000_000)
ops = [Op("get", "default", {{"key": b"hot%d" % n}}) for n in range(100)]
for turn in range(20):
    assert all(backend.read(ops))
print("read", flush=True)
sys.stdin.read()
"""
    process(sys.executable, "-c", reader).expect("^read$")
    backend.tick()
    policy: Any = backend.cache.policy
    assert sum(entry & 3 for entry in policy.small.values()) >= 100
    assert one(backend, Op("stats", NS))["namespaces"][NS]["hits"] >= 500


def test_nobody_listens_to_hits(tmp_path: Path) -> None:
    sender = hits.Sender(tmp_path)
    sender.send(Tally())
    assert sender.lost == 1
    receiver = hits.Receiver(tmp_path / ("long" * 30))
    other = hits.Sender(tmp_path / ("long" * 30))
    tally = Tally()
    tally.slots = [b"slot"]
    other.send(tally)
    other._socket.sendto(b"nonsense", hits.address(tmp_path / ("long" * 30)))
    assert [found.slots for found in receiver.take()] == [[b"slot"]]
    for end in (sender, other, receiver):
        end.close()
    os.unlink(hits.address(tmp_path / ("long" * 30)))


def test_noeviction_refuses_and_recovers(opened: Open) -> None:
    backend = opened(5 * MB, eviction="noeviction")
    number = 0
    with pytest.raises(StoreFull, match="cache_size"):
        while True:
            one(backend, put(f"k{number}", 10_000))
            number += 1
    assert number > 100
    keys = [f"k{n}".encode() for n in range(number)]
    assert one(backend, Op("delete", NS, {"keys": keys[:50]})) == 50
    assert one(backend, put("again", 10_000)) > 0
    assert backend.read([get("k60")])[0] is not None


def test_volatile_ttl_gives_up_what_ends_soonest(opened: Open) -> None:
    clock = Clock()
    backend = opened(5 * MB, eviction="volatile-ttl", clock=clock)
    one(backend, put("for ever", 10_000))
    for number in range(1000):
        one(backend, put(f"k{number}", 10_000, expire_at=clock.now + 10_000_000 - number))
    found = backend.read([get("for ever"), get("k0"), get("k900")])
    assert [entry is not None for entry in found] == [True, True, False]


# ---------------------------------------------------------------- restarts


@pytest.mark.parametrize("eviction", ["s3-fifo", "allkeys-lru", "volatile-ttl"])
def test_what_does_not_fit_costs_nobody_anything(opened: Open, eviction: str) -> None:
    clock = Clock()
    backend = opened(8 * MB, eviction=eviction, clock=clock)
    ends = {"expire_at": clock.now + 60_000}
    for turn in range(20):
        backend.execute([put(f"k{turn}-{number}", **ends) for number in range(100)])
    (refused,) = backend.execute([put("large", 9 * MB, **ends)])
    assert isinstance(refused, StoreFull) and "cache_size" in refused.message
    assert one(backend, Op("stats", ""))["entries"] == 2000
    many = [put(f"burst{number}", 100_000, **ends) for number in range(200)]
    assert all(isinstance(version, int) for version in backend.execute(many))
    assert one(backend, put("after", **ends)) > 0
    batch = Op("many", "", {"ops": [put(f"many{number}", 90_000, **ends) for number in range(200)]})
    assert all(isinstance(version, int) for version in one(backend, batch))


@pytest.mark.parametrize("eviction", ["s3-fifo", "allkeys-lru", "volatile-ttl"])
def test_what_was_given_up_in_vain_can_be_given_up_again(opened: Open, eviction: str) -> None:
    """A commit that fails has evicted nothing: the policy knows all entries as before."""
    clock = Clock()
    backend = opened(5 * MB, eviction=eviction, clock=clock)
    ends = {"expire_at": clock.now + 60_000}
    while not one(backend, Op("stats", ""))["evicted"]:
        backend.execute([put(f"k{random.getrandbits(60)}", 1000, **ends) for _ in range(100)])
    known = len(backend.cache.policy)
    assert known == one(backend, Op("stats", ""))["entries"]

    def failing(jobs: Any) -> Any:
        def run(change: Any) -> None:
            jobs[0].run(change)
            raise StoreFull("no room")

        return execute([Job(run)])

    execute = backend.store.execute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend.store, "execute", failing)
        (refused,) = backend.execute([put("more", 1_000_000, **ends)])
    assert isinstance(refused, StoreFull)
    assert len(backend.cache.policy) == known == one(backend, Op("stats", ""))["entries"]
    assert one(backend, put("more", 1_000_000, **ends)) > 0


def test_a_relaxed_write_makes_room_after_a_take_over(opened: Open) -> None:
    """Before the policy knows the entries of the earlier life, whoever wrote last."""
    backend = opened(5 * MB)
    one(backend, Op("configure", "fast", {"relaxed": True, "quota": None}))
    for turn in range(60):
        backend.execute([put(f"k{turn}-{number}", 1000) for number in range(100)])
    for first in (True, False):
        backend.close()
        backend = opened(5 * MB)
        if not first:
            one(backend, Op("configure", "fast", {"relaxed": True, "quota": None}))
        for turn in range(12):
            ops = [put(f"{first}{turn}-{number}", 1000) for number in range(100)]
            for op in ops:
                op.ns = "fast"
            assert all(isinstance(version, int) for version in backend.execute(ops))


def test_a_new_writer_evicts_what_the_old_one_wrote(opened: Open) -> None:
    first = opened(8 * MB)
    while one(first, Op("stats", ""))["entries"] < 1500:
        first.execute([put(f"old{random.getrandbits(60)}", 1000) for _ in range(200)])
    before = one(first, Op("stats", ""))["entries"]
    first.close()
    second = opened(8 * MB)
    for _ in range(50):
        results = second.execute([put(f"new{random.getrandbits(60)}", 1000) for _ in range(200)])
        assert all(isinstance(version, int) for version in results)
    stats = one(second, Op("stats", ""))
    assert stats["entries"] < 2 * before
    assert stats["octets"] <= second.cache.limit + MB
    while second.tick():
        pass
    assert len(second.cache.policy) == stats["entries"]


def test_a_reader_does_not_write(opened: Open) -> None:
    backend = opened(writes=False)
    (result,) = backend.execute([put("k")])
    assert isinstance(result, StoreBusy)
    assert result.retryable
    assert backend.tick() is False


def test_a_repeated_request_has_the_first_outcome(opened: Open) -> None:
    first = opened()
    op = Op("increment", NS, {"key": b"n", "by": 1}, (7, 1, b"a" * 16))
    assert one(first, op) == one(first, op) == 1
    steps = [Op("increment", NS, {"key": b"n", "by": by}) for by in (1, 2**63)]
    many = Op("many", "", {"ops": steps})
    many.call = (7, 2, b"b" * 16)
    sums, error = one(first, many)
    assert sums == 2
    assert isinstance(error, InvalidArgument)
    popped = Op("pop", NS, {"key": b"n"}, (7, 3, b"c" * 16))
    assert one(first, popped).body == b"\x02"
    first.close()
    second = opened()
    assert one(second, op) == 1
    again = one(second, many)
    assert again[0] == 2 and isinstance(again[1], InvalidArgument)
    assert one(second, popped).body == b"\x02"
    with pytest.raises(KeyReused):
        one(second, Op("increment", NS, {"key": b"n", "by": 5}, (7, 1, b"x" * 16)))


# ---------------------------------------------------------------- relaxed


RELAXED = """
import sys, threading
from pathlib import Path
from workers.memory.backend import Op
from workers.memory.backends.durable import LmdbBackend
backend = LmdbBackend(Path(sys.argv[1]), 64_000_000)
gained = threading.Event()
backend.stand(lambda epoch: gained.set(), print)
gained.wait()
backend.execute([Op("configure", "default", {"relaxed": True, "quota": None})])
for number in range(1, 100_000_000):
    (found,) = backend.execute([Op("increment", "default", {"key": b"n", "by": 1})])
    (other,) = backend.execute([Op("increment", "default", {"key": b"m", "by": 1})])
    assert found == other == number
    if number % 1000 == 0:
        backend.tick()
        print("at", number, backend.now(), flush=True)
"""


def test_what_a_crash_takes_of_a_relaxed_namespace(
    opened: Open, process: support.Start, tmp_path: Path
) -> None:
    """At most the last second, in order: both counters are those of one moment."""
    child = process(sys.executable, "-c", RELAXED, str(tmp_path / "store"))
    told = child.expect_all(r"^at (\d+) (\d+)$", 40, timeout=40)
    while int(told[-1][2]) - int(told[0][2]) < 2500:
        told = child.expect_all(r"^at (\d+) (\d+)$", len(told) + 10, timeout=40)
    child.send_signal(signal.SIGKILL)
    child.wait()
    told = [match for match in map(_told, child.output().splitlines()) if match]
    backend = opened()
    n, m = (one(backend, Op("get", NS, {"key": key})) for key in (b"n", b"m"))
    first, second = msgpack.unpackb(n.body), msgpack.unpackb(m.body)
    assert first - second in (0, 1)
    last, ended_at = told[-1]
    safe = max(number for number, at in told if at < ended_at - 1100)
    assert safe <= first <= last + 1000


def _told(line: str) -> tuple[int, int] | None:
    words = line.split()
    return (int(words[1]), int(words[2])) if words[:1] == ["at"] and len(words) == 3 else None


def test_relaxed_writes_go_to_disk_with_the_next_durable_one(opened: Open) -> None:
    clock = Clock()
    backend = opened(clock=clock)
    one(backend, Op("configure", "fast", {"relaxed": True, "quota": None}))
    reader = {"key": b"k"}
    one(backend, Op("set", "fast", {"key": b"k", "body": b"\x01"}))
    before = backend.store.counters["commits"]
    refused = backend.read([Op("get", "fast", reader)])[0]
    assert isinstance(refused, InvalidArgument) and refused.data == {"lane": "writer"}
    assert one(backend, Op("get", "fast", reader)).body == b"\x01"
    assert backend.store.counters["commits"] == before
    one(backend, put("durable"))
    backend.close()
    assert one(opened(), Op("get", "fast", reader)).body == b"\x01"


def test_relaxed_writes_are_on_disk_after_a_second(opened: Open) -> None:
    """Whatever becomes of the wall clock."""
    clock, passing = Clock(), [1000.0]
    backend = opened(clock=clock, monotonic=lambda: passing[0])
    one(backend, Op("configure", "fast", {"relaxed": True, "quota": None}))
    one(backend, Op("set", "fast", {"key": b"k", "body": b"\x01"}))
    before = backend.store.counters["commits"]
    passing[0] += 0.9
    backend.tick()
    assert backend.store.counters["commits"] == before
    clock.advance(-3_600_000)
    passing[0] += 0.1
    backend.tick()
    assert backend.store.counters["commits"] > before


@pytest.mark.parametrize("durable_first", [True, False])
def test_a_repeat_in_a_relaxed_namespace(opened: Open, durable_first: bool) -> None:
    """It is known whatever came together with it, the first time and the second."""
    backend = opened()
    one(backend, Op("configure", "fast", {"relaxed": True, "quota": None}))
    for turn in range(2):
        adding = Op("increment", "fast", {"key": b"n", "by": 1}, (7, turn, b"d" * 16))
        several = Op("many", "", {"ops": [Op("increment", "fast", {"key": b"m", "by": 1})]})
        several.call = (7, 50 + turn, b"m" * 16)
        for durable in (durable_first, not durable_first):
            together = [put("k")] if durable else []
            results = backend.execute([adding, several, *together])
            assert results[:2] == [turn + 1, [turn + 1]]
    one(backend, Op("configure", "fast", {"relaxed": False, "quota": None}))
    assert one(backend, Op("get", "fast", {"key": b"n"})).body == b"\x02"
    before = backend.store.counters["commits"]
    one(backend, Op("increment", "fast", {"key": b"n", "by": 1}))
    assert backend.store.counters["commits"] > before


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_what_is_known_of_relaxed_repeats_is_bounded(opened: Open) -> None:
    backend = opened()
    one(backend, Op("configure", "fast", {"relaxed": True, "quota": None}))
    body = b"\xc5\xc3\x50" + bytes(50_000)
    many = [Op("set", "fast", {"key": b"k%d" % number, "body": body}) for number in range(400)]
    backend.execute(many)
    before = anonymous(os.getpid())
    for number in range(2000):
        key = {"key": b"k%d" % (number % 400)}
        touch = Op("touch", "fast", {**key, "expire_at": 0}, (7, number, b"d" * 16))
        get = Op("get", "fast", {**key, "stale": False}, (8, number, b"d" * 16))
        more = [put("durable")] if number % 500 == 0 else []
        assert backend.execute([touch, get, *more])[0].body == body
    assert backend.execute([touch])[0].body == body
    assert anonymous(os.getpid()) - before < 50 * MB
    large = b"\xc6\0\1\0\0" + bytes(65536)
    one(backend, Op("set", "fast", {"key": b"large", "body": large}))
    pop = Op("pop", "fast", {"key": b"large"}, (9, 1, b"d" * 16))
    assert one(backend, pop).body == large
    with pytest.raises(OutcomeUnknown):
        one(backend, pop)


def test_versions_that_a_crash_took_are_never_given_again(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a comparison could hold for a value that nobody has seen."""
    backend = opened()
    one(backend, Op("configure", "fast", {"relaxed": True, "quota": None}))
    reserve = Op("reserve", "fast", {"key": b"k", "expire_at": backend.now() + 60_000})
    for _ in range(1000):
        lost = one(backend, Op("set", "fast", {"key": b"n", "body": b"\x01"}))
    _, _, token = one(backend, reserve)
    monkeypatch.setattr(backend, "_flush", lambda: None)
    backend.close()
    backend = opened()
    assert one(backend, Op("get", "fast", {"key": b"n"})) is None
    version = one(backend, Op("set", "fast", {"key": b"n", "body": b"\x02"}))
    assert version > token > lost
    assert one(backend, reserve)[2] > version


def test_an_idle_store_leaves_the_disk_alone(opened: Open) -> None:
    clock = Clock()
    backend = opened(clock=clock)
    one(backend, put("k"))
    for _ in range(3):
        backend.tick()
    before = backend.store.counters["commits"]
    for _ in range(20):
        clock.advance(60_000)
        backend.tick()
    assert backend.store.counters["commits"] - before <= 1
    assert lock_holder(backend.store.path) == os.getpid()


# ---------------------------------------------------------------- damage


def test_what_is_damaged_is_named_and_can_be_removed(opened: Open) -> None:
    clock = Clock()
    backend = opened(clock=clock)
    for number in range(6):
        one(backend, put(f"k{number}", expire_at=clock.now + 1000 * number, tags=("t",)))
    damage(backend, *(f"k{number}" for number in range(1, 5)))
    (found,) = backend.read([get("k2")])
    assert isinstance(found, DataCorrupted) and "k2" in found.message
    assert isinstance(backend.execute([put("k2")])[0], DataCorrupted)
    assert one(backend, Op("delete", NS, {"keys": [b"k2"]})) == 1
    assert one(backend, put("k2")) > 0
    clock.advance(1500)
    assert one(backend, put("another")) > 0, "what has expired is cleared along with it"
    assert one(backend, Op("invalidate", NS, {"tag": "t"})) >= 1
    assert one(backend, Op("invalidate", NS, {"tag": "t"})) == 0
    page, _ = backend.read([Op("scan", NS, SCAN)])[0]
    assert [key for key, _ in page] == [b"another", b"k2"]


@pytest.mark.parametrize("how", [{}, {"prefix": b"k"}, {"tag": "t"}])
def test_what_is_damaged_holds_up_nobody(opened: Open, how: dict[str, Any]) -> None:
    """Neither a new writer, nor clearing up; nor does its index end what is written instead."""
    clock = Clock()
    backend = opened(clock=clock)
    for number in range(6):
        one(backend, put(f"k{number}", expire_at=clock.now + 1000 * number, tags=("t",)))
    damage(backend, "k2", "k5")
    backend.close()
    backend = opened(clock=clock)
    assert backend.tick() is True and len(backend.cache.policy) == 5
    assert one(backend, Op("delete", NS, {"keys": [b"k2"]})) == 1
    assert one(backend, put("k2")) > 0
    clock.advance(3500)
    while backend.tick():
        pass
    assert backend.read([get("k2")])[0] is not None
    assert one(backend, Op("stats", ""))["expired"] == 2
    assert one(backend, Op("invalidate" if how else "clear", NS, how)) >= 1
    while backend.tick():
        pass
    page, _ = backend.read([Op("scan", NS, SCAN)])[0]
    assert [key for key, _ in page] == ([b"k2"] if "tag" in how else [])
    assert one(backend, Op("stats", ""))["sweeping"] == 0


SCAN = {"prefix": b"", "after": b"", "limit": 100, "values": False}


def damage(backend: LmdbBackend, *keys: str) -> None:
    """Write what is no record over some entries, below the store's own checksums."""
    table = backend.store.tables["entries"]

    def job(change: Any) -> None:
        for key in keys:
            slot = b"\0\0\0\1" + key.encode()
            change.raw.put(slot, b"x" * 60, db=table.handle)

    assert backend.store.execute([Job(job)]) == [None]


def test_relaxed_writes_are_refused_when_they_cannot_be_written(opened: Open) -> None:
    backend = opened()
    one(backend, Op("configure", NS, {"relaxed": True, "quota": None}))
    failing = StoreFull("no room")
    backend.store.execute = lambda jobs: [failing] * len(jobs)  # type: ignore[method-assign]
    results = [backend.execute([put(f"k{number}", 1_000_000)])[0] for number in range(40)]
    kept = [result for result in results if isinstance(result, int)]
    assert 10 < len(kept) < 20
    assert results[-1] is failing
    del backend.store.execute  # there is room again
    assert one(backend, put("k40")) > 0
    while backend.tick():
        pass
    assert one(backend, Op("exists", NS, {"keys": [b"k0", b"k40"]})) == 2
