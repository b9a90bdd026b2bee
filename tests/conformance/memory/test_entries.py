"""Entries: what is written can be read, under the conditions that were given."""

from __future__ import annotations

import pytest

from mesh.errors import InvalidArgument, VersionConflict
from tests.conformance.memory.driver import Driver

SOON = 250


def test_what_was_set_is_read(store: Driver) -> None:
    assert store.get(b"k") is None
    version = store.set(b"k", {"name": "Alice", "raw": b"\x00\xff"})
    entry = store("get", key=b"k")
    assert entry.version == version > 0
    assert (entry.expire_at, entry.tags) == (0, ())
    assert store.get(b"k") == {"name": "Alice", "raw": b"\x00\xff"}


@pytest.mark.parametrize(
    "value",
    [
        None, False, 0, -1, 2**63 - 1, -(2**63), 2**64 - 1, 0.0, -0.5, 1e300, 0.1, "", "文字", b"",
        b"\0" * 10, [], [1, [2.5]], {}, {"a": None}, "x" * 70_000, b"y" * 1_000_000,
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_values_come_back_as_they_were(store: Driver, value: object) -> None:
    store.set(b"k", value)
    found = store.get(b"k")
    assert found == value
    assert type(found) is type(value)


def test_versions_grow_with_each_change_even_over_a_deletion(store: Driver) -> None:
    versions = [store.set(b"k", 1), store.set(b"k", 1)]
    store("delete", keys=[b"k"])
    versions.append(store.set(b"k", 1))
    store("expire", key=b"k", expire_at=store.at(60_000))
    versions.append(store("get", key=b"k").version)
    store("increment", key=b"k", by=1)
    versions.append(store("get", key=b"k").version)
    assert versions == sorted(set(versions))


def test_only_if_absent_and_present(store: Driver) -> None:
    assert store.set(b"k", 1, only_if="present") == 0
    assert store.get(b"k") is None
    assert store.set(b"k", 1, only_if="absent") > 0
    assert store.set(b"k", 2, only_if="absent") == 0
    assert store.get(b"k") == 1
    assert store.set(b"k", 3, only_if="present") > 0
    assert store.get(b"k") == 3


def test_compare_and_set(store: Driver) -> None:
    first = store.set(b"k", 1, version=0)
    with pytest.raises(VersionConflict) as caught:
        store.set(b"k", 2, version=0)
    assert caught.value.data["version"] == first
    second = store.set(b"k", 2, version=first)
    with pytest.raises(VersionConflict) as caught:
        store.set(b"k", 3, version=first)
    assert caught.value.data["version"] == second
    assert store.get(b"k") == 2
    with pytest.raises(VersionConflict) as caught:
        store.set(b"absent", 3, version=first)
    assert caught.value.data["version"] == 0


def test_delete_with_a_version(store: Driver) -> None:
    version = store.set(b"k", 1)
    with pytest.raises(VersionConflict):
        store("delete", keys=[b"k"], version=version + 1)
    assert store("delete", keys=[b"k"], version=version) == 1
    assert store.get(b"k") is None


def test_many(store: Driver) -> None:
    versions = store("set_many", items=[(b"a", b"\x01"), (b"b", b"\x02")])
    entries = store("get_many", keys=[b"b", b"nothing", b"a"])
    assert [entry and entry.body for entry in entries] == [b"\x02", None, b"\x01"]
    assert [entries[2].version, entries[0].version] == versions
    assert store("exists", keys=[b"a", b"b", b"c", b"a"]) == 3
    assert store("delete", keys=[b"a", b"c"]) == 1
    assert store("exists", keys=[b"a", b"b"]) == 1


def test_pop(store: Driver) -> None:
    store.set(b"k", "once")
    assert store("pop", key=b"k").body == b"\xa4once"
    assert store("pop", key=b"k") is None


def test_namespaces_are_apart(store: Driver) -> None:
    store.set(b"k", 1, ns="a")
    store.set(b"k", 2, ns="b")
    assert (store.get(b"k", ns="a"), store.get(b"k", ns="b"), store.get(b"k")) == (1, 2, None)
    store("delete", ns="a", keys=[b"k"])
    assert store.get(b"k", ns="b") == 2


# ---------------------------------------------------------------- time


def test_expiry(store: Driver) -> None:
    store.set(b"k", 1, expire_at=store.at(SOON))
    assert store.get(b"k") == 1
    assert 0 < store("ttl", key=b"k") <= SOON
    store.clock.advance(SOON + 50)
    assert store.get(b"k") is None
    assert store("exists", keys=[b"k"]) == 0
    assert store("ttl", key=b"k") is None
    assert store.keys() == []
    assert store.set(b"k", 2, only_if="present") == 0
    assert store.set(b"k", 2, version=0) > 0
    assert store("ttl", key=b"k") == -1


def test_a_time_that_has_passed(store: Driver) -> None:
    store.set(b"k", 1)
    store.set(b"k", 2, expire_at=store.at(-1000))
    assert store.get(b"k") is None
    store.set(b"k", 1)
    assert store("expire", key=b"k", expire_at=store.at(-1000))
    assert store.get(b"k") is None


def test_set_drops_the_expiry_unless_told_to_keep_it(store: Driver) -> None:
    store.set(b"k", 1, expire_at=store.at(60_000))
    store.set(b"k", 2, keep_ttl=True)
    assert 50_000 < store("ttl", key=b"k") <= 60_000
    store.set(b"k", 3)
    assert store("ttl", key=b"k") == -1
    store.set(b"new", 1, keep_ttl=True)
    assert store("ttl", key=b"new") == -1


def test_expire_and_persist(store: Driver) -> None:
    assert store("expire", key=b"k", expire_at=store.at(1000)) is False
    store.set(b"k", 1, tags=("t",))
    assert store("expire", key=b"k", expire_at=store.at(60_000)) is True
    assert 50_000 < store("ttl", key=b"k") <= 60_000
    assert store("expire", key=b"k", expire_at=0) is True
    assert store("ttl", key=b"k") == -1
    assert store.get(b"k") == 1
    assert store("get", key=b"k").tags == ("t",)


@pytest.mark.parametrize(
    ("before", "after", "condition", "allowed"),
    [
        (0, 9000, "none", True),
        (5000, 9000, "none", False),
        (0, 9000, "some", False),
        (5000, 9000, "some", True),
        (5000, 9000, "later", True),
        (9000, 5000, "later", False),
        (0, 9000, "later", False),
        (5000, 0, "later", True),
        (9000, 5000, "sooner", True),
        (5000, 9000, "sooner", False),
        (0, 9000, "sooner", True),
        (5000, 0, "sooner", False),
    ],
)
def test_conditions_of_expire(
    store: Driver, before: int, after: int, condition: str, allowed: bool
) -> None:
    store.set(b"k", 1, expire_at=store.at(before) if before else 0)
    at = store.at(after) if after else 0
    assert store("expire", key=b"k", expire_at=at, condition=condition) is allowed
    left = store("ttl", key=b"k")
    wanted = after if allowed else before
    assert left == -1 if not wanted else wanted - 1000 < left <= wanted


def test_touch_slides_the_expiry(store: Driver) -> None:
    store.set(b"k", "session", expire_at=store.at(SOON))
    assert store("touch", key=b"k", expire_at=store.at(60_000)).body == b"\xa7session"
    store.clock.advance(SOON + 50)
    assert store.get(b"k") == "session"
    assert store("touch", key=b"absent", expire_at=store.at(1000)) is None


def test_what_is_stale_is_for_those_who_ask(store: Driver) -> None:
    store.set(b"k", 1, fresh_until=store.at(SOON), expire_at=store.at(60_000))
    assert store.get(b"k") == 1
    assert 0 < store("ttl", key=b"k") <= SOON
    store.clock.advance(SOON + 50)
    assert store.get(b"k") is None
    assert store.get(b"k", stale=True) == 1
    assert store("exists", keys=[b"k"]) == 0


# ---------------------------------------------------------------- numbers


def test_increment(store: Driver) -> None:
    assert store("increment", key=b"n", by=5) == 5
    assert store("increment", key=b"n", by=-7) == -2
    assert store.get(b"n") == -2
    assert store("increment", key=b"n", by=0.5) == -1.5
    assert store.get(b"n") == -1.5
    assert type(store("increment", key=b"n", by=2)) is float


def test_increment_is_exact_at_the_edges(store: Driver) -> None:
    store.set(b"n", 2**53)
    assert store("increment", key=b"n", by=1) == 2**53 + 1
    store.set(b"n", 2**63 - 2)
    assert store("increment", key=b"n", by=1) == 2**63 - 1
    with pytest.raises(InvalidArgument, match="64 bits"):
        store("increment", key=b"n", by=1)
    assert store.get(b"n") == 2**63 - 1


@pytest.mark.parametrize("value", ["text", None, True, [1], b"1"])
def test_only_numbers_can_be_incremented(store: Driver, value: object) -> None:
    store.set(b"k", value)
    with pytest.raises(InvalidArgument, match="'k'"):
        store("increment", key=b"k", by=1)
    assert store.get(b"k") == value


def test_increment_with_an_expiry(store: Driver) -> None:
    store("increment", key=b"n", by=1, expire_at=store.at(60_000))
    store("increment", key=b"n", by=1, expire_at=store.at(3_600_000))
    assert store("ttl", key=b"n") <= 60_000
    store("increment", key=b"n", by=1, expire_at=store.at(3_600_000), renew=True)
    assert store("ttl", key=b"n") > 60_000
    assert store.get(b"n") == 3


def test_a_number_is_fresh_as_long_as_it_was_to_be(store: Driver) -> None:
    store.set(b"n", 1, expire_at=store.at(60_000), fresh_until=store.at(SOON))
    assert store("increment", key=b"n", by=1) == 2
    store.clock.advance(SOON + 50)
    assert (store.get(b"n"), store.get(b"n", stale=True)) == (None, 2)


def test_increment_begins_anew_after_its_expiry(store: Driver) -> None:
    store("increment", key=b"n", by=7, expire_at=store.at(SOON))
    store.clock.advance(SOON + 50)
    assert store("increment", key=b"n", by=1) == 1
    assert store("ttl", key=b"n") == -1
