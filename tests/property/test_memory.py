"""The memory store against a plain dictionary with a clock, over random verbs."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mesh.errors import InvalidArgument, VersionConflict
from tests.conformance.memory.driver import Clock, Driver
from workers.memory.backends.durable import LmdbBackend
from workers.memory.backends.inmemory import MemoryBackend
from workers.memory.tables import MemoryTables, OverlayTables, SortedKeys

MIB = 1024 * 1024
KEYS = st.sampled_from([b"a", b"ab", b"b:1"])
VALUES = st.sampled_from([0, 1, -5, 2.5, "text", None, b"raw", [1, {"x": 2}]])
PREFIXES = st.sampled_from([b"a", b"ab", b"b:", b"c"])
TAGS = st.sets(st.sampled_from(["red", "blue"])).map(lambda tags: tuple(sorted(tags)))
TTLS = st.sampled_from([0, 50, 400])


@dataclass
class Known:
    """What the model knows of an entry."""

    value: Any
    version: int
    expire_at: int
    fresh_until: int
    tags: tuple[str, ...]


class MemoryMachine(RuleBasedStateMachine):
    """Verbs on the real store and on a dictionary."""

    def make(self) -> Any:
        return MemoryBackend(64 * MIB, clock=self.clock)

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.store = Driver(self.make(), self.clock)
        self.model: dict[bytes, Known] = {}
        self.last_version = 0
        self.locked: dict[bytes, tuple[int, int]] = {}
        self.last_token = 0

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.backend.close()

    # ------------------------------------------------------------ the model

    def known(self, key: bytes, stale: bool = False) -> Known | None:
        found = self.model.get(key)
        if found is None:
            return None
        ends_at = found.expire_at if stale or not found.fresh_until else found.fresh_until
        return None if ends_at and ends_at <= self.clock.now else found

    def at(self, ttl: int) -> int:
        return self.clock.now + ttl if ttl else 0

    def wrote(self, key: bytes, version: int, **facts: Any) -> None:
        assert version > self.last_version
        self.last_version = version
        self.model[key] = Known(version=version, **facts)

    # ------------------------------------------------------------ rules

    @rule(key=KEYS, value=VALUES, ttl=TTLS, stale=TTLS, tags=TAGS, keep=st.booleans())
    def set(
        self, key: bytes, value: Any, ttl: int, stale: int, tags: tuple[str, ...], keep: bool
    ) -> None:
        fresh = self.at(ttl) if ttl and stale else 0
        ends = self.at(ttl + stale) if ttl else 0
        version = self.store.set(
            key, value, expire_at=ends, fresh_until=fresh, tags=tags, keep_ttl=keep
        )
        old = self.known(key, True)
        if keep and old is not None:
            ends, fresh = old.expire_at, old.fresh_until
        self.wrote(key, version, value=value, expire_at=ends, fresh_until=fresh, tags=tags)

    @rule(key=KEYS, value=VALUES)
    def set_stale(self, key: bytes, value: Any) -> None:
        fresh, ends = self.clock.now - 1, self.at(400)
        version = self.store.set(key, value, expire_at=ends, fresh_until=fresh)
        self.wrote(key, version, value=value, expire_at=ends, fresh_until=fresh, tags=())

    @rule(key=KEYS, value=VALUES, only_if=st.sampled_from(["absent", "present"]))
    def set_if(self, key: bytes, value: Any, only_if: str) -> None:
        old = self.known(key, True)
        version = self.store.set(key, value, only_if=only_if)
        assert bool(version) == ((old is None) == (only_if == "absent"))
        if version:
            self.wrote(key, version, value=value, expire_at=0, fresh_until=0, tags=())

    @rule(key=KEYS, value=VALUES, guess=st.integers(-1, 1))
    def compare_and_set(self, key: bytes, value: Any, guess: int) -> None:
        old = self.known(key, True)
        actual = old.version if old else 0
        if guess == 0:
            version = self.store.set(key, value, version=actual)
            self.wrote(key, version, value=value, expire_at=0, fresh_until=0, tags=())
            return
        try:
            self.store.set(key, value, version=max(0, actual) + 1)
        except VersionConflict as error:
            assert error.data["version"] == actual
        else:
            raise AssertionError("another version was taken for the right one")

    @rule(keys=st.lists(KEYS, max_size=4))
    def delete(self, keys: list[bytes]) -> None:
        there = sum(self.known(key) is not None for key in set(keys))
        assert self.store("delete", keys=keys) == there
        for key in keys:
            self.model.pop(key, None)

    @rule(key=KEYS, ttl=TTLS, condition=st.sampled_from(["", "none", "some", "later", "sooner"]))
    def expire(self, key: bytes, ttl: int, condition: str) -> None:
        old = self.known(key, True)
        at = self.at(ttl)
        endless = 1 << 62
        done = (
            old is not None
            and {
                "": True,
                "none": not old.expire_at,
                "some": bool(old.expire_at),
                "later": (at or endless) > (old.expire_at or endless),
                "sooner": (at or endless) < (old.expire_at or endless),
            }[condition]
        )
        assert self.store("expire", key=key, expire_at=at, condition=condition) == done
        if done and old is not None:
            self.model[key] = Known(old.value, self.version(key, at), at, 0, old.tags)

    def version(self, key: bytes, ends_at: int) -> int:
        entry = self.store("get", key=key, stale=True)
        version: int = entry.version
        assert version > self.last_version
        self.last_version = version
        return version

    @rule(key=KEYS, by=st.sampled_from([1, -3, 0.5]), ttl=TTLS, renew=st.booleans())
    def increment(self, key: bytes, by: float, ttl: int, renew: bool) -> None:
        old = self.known(key)
        before = old.value if old else 0
        try:
            total = self.store("increment", key=key, by=by, expire_at=self.at(ttl), renew=renew)
        except InvalidArgument:
            assert isinstance(before, bool) or not isinstance(before, int | float)
            return
        assert total == before + by and type(total) is type(before + by)
        ends_at, fresh = self.at(ttl), 0
        if old is not None and not renew:
            ends_at, fresh = old.expire_at, old.fresh_until
        tags = old.tags if old else ()
        self.model[key] = Known(total, self.version(key, ends_at), ends_at, fresh, tags)

    @rule(key=KEYS)
    def pop(self, key: bytes) -> None:
        old = self.known(key)
        entry = self.store("pop", key=key)
        assert (entry and msgpack.unpackb(entry.body)) == (old.value if old else None)
        self.model.pop(key, None)

    @rule(prefix=PREFIXES)
    def invalidate_prefix(self, prefix: bytes) -> None:
        gone = [key for key in self.model if key.startswith(prefix)]
        alive = sum(self.known(key) is not None for key in gone)
        assert self.store("invalidate", prefix=prefix) == alive
        for key in gone:
            del self.model[key]

    @rule(tag=st.sampled_from(["red", "blue"]))
    def invalidate_tag(self, tag: str) -> None:
        gone = [key for key, known in self.model.items() if tag in known.tags]
        alive = sum(self.known(key) is not None for key in gone)
        assert self.store("invalidate", tag=tag) == alive
        for key in gone:
            del self.model[key]

    @rule()
    def clear(self) -> None:
        self.store("clear")
        self.model.clear()

    @rule(first=KEYS, second=KEYS, good=st.booleans())
    def batch(self, first: bytes, second: bytes, good: bool) -> None:
        old = self.known(first, True)
        version = old.version if old else 0
        conditions = [(first, version if good else version + 1)]
        steps = [
            ("set", {"key": first, "body": b"\x07"}),
            ("increment", {"key": first, "by": 3}),
            ("delete", {"keys": [second]}),
        ]
        with contextlib.suppress(VersionConflict):
            results = self.store("batch", conditions=conditions, steps=steps)
            assert good and results[1] == 10
            self.model.pop(first, None)
            self.last_version = max(self.last_version, results[0])
            self.model.pop(second, None)
            if first != second:
                self.model[first] = Known(10, self.version(first, 0), 0, 0, ())
            return
        assert not good

    @rule(name=KEYS, ttl=st.sampled_from([50, 400]))
    def lock(self, name: bytes, ttl: int) -> None:
        _, ends_at = self.locked.get(name, (0, 0))
        found = self.store("lock", name=name, owner="", expire_at=self.at(ttl))
        if ends_at > self.clock.now:
            assert found == 0
        else:
            assert found > self.last_token
            self.last_token = found
            self.last_version = max(self.last_version, found)
            self.locked[name] = (found, self.at(ttl))

    @rule(name=KEYS)
    def unlock(self, name: bytes) -> None:
        token, ends_at = self.locked.pop(name, (0, 0))
        held = ends_at > self.clock.now
        assert self.store("unlock", name=name, token=token) == held

    @rule(ms=st.sampled_from([49, 50, 400]))
    def wait(self, ms: int) -> None:
        self.clock.advance(ms)

    @rule()
    def tick(self) -> None:
        self.store.backend.tick()

    # ------------------------------------------------------------ what always holds

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "store"):
            return
        fresh = sorted(key for key in self.model if self.known(key))
        assert self.store.keys(limit=2) == fresh
        for key in fresh:
            known, entry = self.model[key], self.store("get", key=key)
            assert msgpack.unpackb(entry.body) == known.value
            assert (entry.version, entry.expire_at) == (known.version, known.expire_at)
            assert (entry.fresh_until, entry.tags) == (known.fresh_until, known.tags)


class LmdbMachine(MemoryMachine):
    """The same over LMDB, where the writer may end at any time and another take over."""

    def make(self) -> Any:
        self.directory = Path(tempfile.mkdtemp(prefix="memory-"))
        return self.open()

    def open(self) -> LmdbBackend:
        backend = LmdbBackend(self.directory, 64 * MIB, clock=self.clock)
        gained = threading.Event()
        backend.stand(lambda epoch: gained.set(), lambda error: None)
        assert gained.wait(10)
        return backend

    @rule()
    def hand_over(self) -> None:
        self.store.backend.close()
        self.store.backend = self.open()

    @rule(relaxed=st.booleans())
    def relax(self, relaxed: bool) -> None:
        self.store("configure", relaxed=relaxed, quota=None)
        if relaxed:
            self.store.relax()
        else:
            self.store.tighten()

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)


TestMemory = MemoryMachine.TestCase
TestLmdb = LmdbMachine.TestCase
_SOAK = settings().max_examples > 100
TestLmdb.settings = settings(max_examples=1000 if _SOAK else 30, stateful_step_count=60)
TestMemory.settings = settings(max_examples=2000 if _SOAK else 120, stateful_step_count=60)


class TablesMachine(RuleBasedStateMachine):
    """An overlay that is poured out from time to time is a sorted dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.base = MemoryTables()
        self.over = OverlayTables(self.base)
        self.model: dict[bytes, bytes] = {}

    @rule(key=st.binary(min_size=1, max_size=3), value=st.binary(max_size=3))
    def put(self, key: bytes, value: bytes) -> None:
        self.over.put(0, key, value)
        self.model[key] = value

    @rule(key=st.binary(min_size=1, max_size=3))
    def delete(self, key: bytes) -> None:
        self.over.delete(0, key)
        self.model.pop(key, None)

    @rule()
    def pour(self) -> None:
        self.over.pour(self.base)
        self.over.clear()
        assert not self.over

    @rule(start=st.binary(max_size=3))
    def walk(self, start: bytes) -> None:
        wanted = sorted((k, v) for k, v in self.model.items() if k >= start)
        assert list(self.over.walk(0, start)) == wanted
        for key, value in wanted:
            assert self.over.get(0, key) == value


TestTables = TablesMachine.TestCase
TestTables.settings = settings(max_examples=2000 if _SOAK else 50)


def test_sorted_keys_over_many_buckets() -> None:
    keys = SortedKeys()
    numbers = [(number * 7919) % 5003 for number in range(5003)]
    for number in numbers:
        keys.add(b"%05d" % number)
    assert list(keys.walk(b"02000")) == [b"%05d" % number for number in range(2000, 5003)]
    for number in numbers[:4000]:
        keys.discard(b"%05d" % number)
    assert list(keys.walk(b"")) == sorted(b"%05d" % number for number in numbers[4000:])
