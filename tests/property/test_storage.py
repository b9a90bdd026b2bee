"""The storage engine against a plain dictionary with a clock, over random verbs."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mesh.errors import VersionConflict
from mesh.protocol.storage import PART
from tests.conformance.storage.driver import Clock, Driver, opened_lmdb

SOAK = bool(os.environ.get("SAGE_SOAK"))
KEYS = st.sampled_from(["a", "ab", "b:1", "b:\xff", "ü"])
BUCKETS = st.sampled_from(["one", "two", "brief"])  # the last one has a ttl
VALUES = st.sampled_from([0, -5, 2.5, "text", None, b"raw", [1, {"x": 2}], "x" * 5000])
CONTENTS = st.sampled_from([b"", b"small", b"x" * 3000, b"large" * (PART // 4)])
BRIEF_TTL = 10.0


@dataclass
class Known:
    """What the model knows of a key; `content` is its digest, of an object."""

    version: int
    expire_at: float
    value: Any = None
    content: bytes | None = None


class StorageMachine(RuleBasedStateMachine):
    """Verbs on the real store and on a dictionary."""

    @initialize()
    def begin(self) -> None:
        self.path = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.reopen()
        self.store.configure(ttl=BRIEF_TTL, bucket="brief")
        self.model: dict[str, dict[str, Known]] = {"one": {}, "two": {}, "brief": {}}
        self.followed: dict[str, dict[str, int]] = {"one": {}, "two": {}, "brief": {}}
        self.reached = dict.fromkeys(self.model, 0)
        self.last_version = 0

    def reopen(self) -> None:
        self.store = Driver(opened_lmdb(self.path / "s", self.clock), self.clock)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.engine.close()
            shutil.rmtree(self.path)

    # ------------------------------------------------------------ the model

    def known(self, bucket: str, key: str) -> Known | None:
        found = self.model[bucket].get(key)
        if found is None or (found.expire_at and found.expire_at <= self.clock.now):
            return None
        return found

    def live(self, bucket: str) -> dict[str, Known]:
        keys = sorted(self.model[bucket], key=str.encode)
        return {key: found for key in keys if (found := self.known(bucket, key))}

    def wrote(self, bucket: str, key: str, version: int, **what: Any) -> None:
        assert version > self.last_version
        self.last_version = version
        ends_at = self.clock.now + BRIEF_TTL * 1000 if bucket == "brief" else 0
        self.model[bucket][key] = Known(version, ends_at, **what)

    def version(self, bucket: str, key: str) -> int:
        found = self.known(bucket, key)
        return found.version if found else 0

    # ------------------------------------------------------------ rules

    @rule(
        bucket=BUCKETS, key=KEYS, value=VALUES, only_if=st.sampled_from(["", "absent", "present"])
    )
    def put(self, bucket: str, key: str, value: Any, only_if: str) -> None:
        there = self.known(bucket, key) is not None
        version = self.store.put(key, value, bucket=bucket, only_if=only_if)
        if only_if and there != (only_if == "present"):
            assert version is None
        else:
            self.wrote(bucket, key, version, value=value)

    @rule(bucket=BUCKETS, key=KEYS, value=VALUES, right=st.booleans())
    def compare_and_set(self, bucket: str, key: str, value: Any, right: bool) -> None:
        wanted = self.version(bucket, key) + (0 if right else 1)
        if right:
            version = self.store.put(key, value, bucket=bucket, version=wanted)
            self.wrote(bucket, key, version, value=value)
        else:
            with pytest.raises(VersionConflict) as raised:
                self.store.put(key, value, bucket=bucket, version=wanted)
            assert raised.value.data["version"] == self.version(bucket, key)

    @rule(bucket=BUCKETS, values=st.dictionaries(KEYS, VALUES, min_size=1))
    def put_many(self, bucket: str, values: dict[str, Any]) -> None:
        for key, version in self.store.put_many(values, bucket=bucket).items():
            self.wrote(bucket, key, version, value=values[key])

    @rule(bucket=BUCKETS, key=KEYS, content=CONTENTS)
    def put_object(self, bucket: str, key: str, content: bytes) -> None:
        put = self.store.put_small if len(content) <= PART else self.store.put_large
        version = put(key, content, bucket=bucket)
        self.wrote(bucket, key, version, content=hashlib.sha256(content).digest())

    @rule(bucket=BUCKETS, keys=st.sets(KEYS, min_size=1))
    def delete(self, bucket: str, keys: set[str]) -> None:
        there = sum(self.known(bucket, key) is not None for key in keys)
        assert self.store.delete(sorted(keys), bucket=bucket) == there
        for key in keys:
            self.model[bucket].pop(key, None)

    @rule(bucket=BUCKETS, key=KEYS, other=KEYS, value=VALUES, right=st.booleans())
    def batch(self, bucket: str, key: str, other: str, value: Any, right: bool) -> None:
        steps = [["delete", [[other]], {}], ["put", [key, value], {}]]
        conditions = {other: self.version(bucket, other) + (0 if right else 7)}
        there = self.known(bucket, other) is not None
        if not right:
            with pytest.raises(VersionConflict):
                self.store.batch(steps, conditions=conditions, bucket=bucket)
            return
        deleted, version = self.store.batch(steps, conditions=conditions, bucket=bucket)
        assert deleted == there
        self.model[bucket].pop(other, None)
        self.wrote(bucket, key, version, value=value)

    @rule(bucket=BUCKETS, key=KEYS, to_bucket=BUCKETS, to=KEYS)
    def copy(self, bucket: str, key: str, to_bucket: str, to: str) -> None:
        found = self.known(bucket, key)
        version = self.store.copy(key, to, bucket=bucket, to_bucket=to_bucket)
        if found is None:
            assert version == 0
        elif version > self.last_version:
            self.wrote(to_bucket, to, version, value=found.value, content=found.content)
        else:  # it holds that content already
            held = self.known(to_bucket, to)
            assert held is not None and held.content == found.content and held.version == version

    @rule(bucket=st.sampled_from(["one", "two"]))
    def drop(self, bucket: str) -> None:
        count = self.store.drop(bucket=bucket)
        assert count >= len(self.live(bucket))
        self.model[bucket] = {}
        self.followed[bucket], self.reached[bucket] = {}, 0

    @rule(seconds=st.sampled_from([1.0, 9.0, 61.0]))
    def time_goes_on(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.store.tick()

    @rule()
    def restart(self) -> None:
        self.store.engine.close()
        self.reopen()

    @rule(bucket=BUCKETS, limit=st.integers(1, 4))
    def follow(self, bucket: str, limit: int) -> None:
        """Whoever applies the changes, however late, has what is there."""
        state = self.followed[bucket]
        while True:
            page = self.store.changes_page(self.reached[bucket], bucket=bucket, limit=limit)
            for version, kind, key in page["items"]:
                assert version > self.reached[bucket]
                state.pop(key, None)
                if kind in ("put", "object"):
                    state[key] = version
            if page["version"] == self.reached[bucket]:
                break
            self.reached[bucket] = page["version"]
        live = {key: found.version for key, found in self.live(bucket).items()}
        assert {key: version for key, version in state.items() if self.known(bucket, key)} == live

    # ------------------------------------------------------------ what always holds

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        for bucket in self.model if hasattr(self, "store") else ():
            live = self.live(bucket)
            assert self.store.scan_page(bucket=bucket)["items"] == list(live)
            assert self.store.scan_page(bucket=bucket, reverse=True)["items"] == list(live)[::-1]
            for item in self.store.list_page(bucket=bucket)["items"]:
                found = live[item["key"]]
                assert item["version"] == found.version
                if found.content is None:
                    assert self.store.get(item["key"], bucket=bucket) == found.value
                else:
                    assert item["sha256"] == found.content
                    content = self.store.content(item["key"], bucket=bucket)
                    assert hashlib.sha256(content).digest() == found.content


StorageMachine.TestCase.settings = settings(
    max_examples=1000 if SOAK else 30, stateful_step_count=30, deadline=None
)
TestStorage = StorageMachine.TestCase
