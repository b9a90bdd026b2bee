"""Records: what every engine must do."""

from __future__ import annotations

import pytest

from mesh.errors import InvalidArgument, KeyReused, QuotaExceeded, VersionConflict
from tests.conformance.storage.driver import Driver


def test_what_is_put_is_there(store: Driver) -> None:
    assert store.get("a") is None and store.entry("a") is None and store.info() is None
    version = store.put("a", {"x": [1, None]})
    assert store.get("a") == {"x": [1, None]}
    assert store.entry("a") == {
        "value": {"x": [1, None]},
        "version": version,
        "modified_at": store.clock.now / 1000,
        "expire_at": None,
    }
    assert store.put("a", b"raw") > version and store.get("a") == b"raw"
    assert store.get("a", bucket="other") is None
    assert store.exists(["a", "b", "a"]) == 2


def test_only_if_and_versions(store: Driver) -> None:
    assert store.put("a", 1, only_if="present") is None
    first = store.put("a", 1, only_if="absent")
    assert store.put("a", 2, only_if="absent") is None
    second = store.put("a", 2, version=first)
    with pytest.raises(VersionConflict) as raised:
        store.put("a", 3, version=first)
    assert raised.value.data == {"key": "a", "version": second}
    with pytest.raises(VersionConflict):
        store.put("a", 3, version=0)
    assert store.put("b", 1, version=0)
    with pytest.raises(VersionConflict):
        store.delete(["b", "a"], version=first)
    assert store.get_many(["a", "b", "c"]) == {"a": 2, "b": 1}
    assert store.delete(["a"], version=second) == 1
    assert store.delete(["a"]) == 0
    assert store.put("a", 4, version=0) > second


def test_many_at_once_are_all_or_none(store: Driver) -> None:
    versions = store.put_many({"a": 1, "b": 2})
    assert versions["a"] < versions["b"]
    store.configure(quota=store.info()["octets"] + 60)
    with pytest.raises(QuotaExceeded):
        store.put_many({"c": 1, "d": "x" * 50})
    assert store.get_many(["a", "b", "c", "d"]) == {"a": 1, "b": 2}
    with pytest.raises(QuotaExceeded):
        store.batch([["delete", [["a"]], {}], ["put", ["d", "x" * 100], {}]])
    assert store.exists(["a"]) == 1
    store.configure(quota=0)
    assert store.batch(
        [["put", ["c", 3], {}], ["delete", [["a", "b", "z"]], {}]], conditions={"a": versions["a"]}
    ) == [versions["b"] + 1, 2]
    with pytest.raises(VersionConflict):
        store.batch([["put", ["c", 4], {}]], conditions={"a": versions["a"]})
    assert store.get_many(["a", "b", "c"]) == {"c": 3}


def test_one_that_fails_leaves_the_others(store: Driver) -> None:
    first, second, third = store.execute(
        store.op("put", "a", 1), store.op("put", "a", 2, version=99), store.op("put", "b", 3)
    )
    assert (first, third) == (1, 2) and isinstance(second, VersionConflict)
    first, second = store.many(store.op("put", "a", 5), store.op("put", "a", 6, version=99))
    assert first == 3 and isinstance(second, VersionConflict)
    assert store.get("a") == 5


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, ["a", "b1", "b2", "b3", "c\xff", "ü"]),
        ({"prefix": "b"}, ["b1", "b2", "b3"]),
        ({"start": "b2"}, ["b2", "b3", "c\xff", "ü"]),
        ({"end": "b2"}, ["a", "b1"]),
        ({"start": "b1", "end": "b3"}, ["b1", "b2"]),
        ({"prefix": "b", "start": "b2", "end": "z"}, ["b2", "b3"]),
        ({"prefix": "b", "start": "c"}, []),
        ({"prefix": "c", "end": "b"}, []),
        ({"start": "b15", "end": "b25"}, ["b2"]),
        ({"prefix": "zz"}, []),
    ],
)
def test_scans(store: Driver, given: dict[str, str], wanted: list[str], reverse: bool) -> None:
    for bucket in ("default", "before", "after"):
        store.put_many({k: k for k in ("ü", "a", "b3", "b1", "c\xff", "b2")}, bucket=bucket)
    for limit in (1, 2, 100):
        found: list[str] = []
        cursor = b""
        while True:
            page = store.scan_page(reverse=reverse, limit=limit, cursor=cursor, **given)
            found += page["items"]
            cursor = page["cursor"]
            if not cursor:
                break
        assert found == (wanted[::-1] if reverse else wanted), limit
    page = store.scan_page(values=True, **given)
    assert page["items"] == [[key, key] for key in wanted]


def test_pages_are_bounded_by_octets(store: Driver) -> None:
    for number in range(4):
        store.put(f"k{number}", b"x" * 500_000)
    page = store.scan_page(values=True)
    assert 0 < len(page["items"]) < 4 and page["cursor"]
    assert len(store.scan_page()["items"]) == 4


def test_expiry(store: Driver) -> None:
    with pytest.raises(InvalidArgument, match="keeps things for ever"):
        store.put("a", 1, ttl=5)
    store.configure(ttl=10)
    store.put_many({"a": 1, "b": 1})
    store.put("b", 2, ttl=60)
    assert store.entry("a")["expire_at"] == store.clock.now / 1000 + 10
    store.clock.advance(10)
    assert store.get_many(["a", "b"]) == {"b": 2}
    assert store.scan_page()["items"] == ["b"]
    assert store.put("a", 3, only_if="present") is None
    store.tick()
    assert store.info()["entries"] == 1
    assert store.put("a", 3, version=0)
    store.clock.advance(60)
    store.tick()
    assert store.info()["entries"] == 0 and store.info()["octets"] == 0
    store.configure(ttl=0)
    store.put("c", 1)
    store.clock.advance(10**6)
    assert store.get("c") == 1


def test_quota_and_counters(store: Driver) -> None:
    store.configure(quota=200)
    store.put("a", "x" * 50)
    octets = store.info()["octets"]
    assert octets == 4 + 1 + 25 + 52
    with pytest.raises(QuotaExceeded, match="200 octets"):
        store.put("b", "x" * 100)
    store.put("a", "x" * 100)
    store.put("a", "y")
    assert store.info()["octets"] < octets
    store.delete(["a"])
    assert (store.info()["octets"], store.info()["entries"]) == (0, 0)


def test_dropping_a_bucket(store: Driver) -> None:
    store.put_many({f"k{number}": number for number in range(1000)}, bucket="big")
    store.put("a", 1)
    assert store.drop(bucket="big") == 1000 and store.drop(bucket="nothing") == 0
    assert store.info(bucket="big") is None and store.scan_page(bucket="big")["items"] == []
    store.put("k1", "new", bucket="big")
    store.tick()
    assert store.info(bucket="big")["entries"] == 1 and store.get("k1", bucket="big") == "new"
    assert [bucket["name"] for bucket in store.buckets()] == ["big", "default"]


def test_changes(store: Driver) -> None:
    store.put("a", 1)
    store.put("b", 1)
    reached = store.put("a", 2)
    page = store.changes_page()
    assert page == {"items": [[2, "put", "b"], [3, "put", "a"]], "version": 3}
    store.delete(["b"])
    store.put_small("o", b"data")
    store.put("other", 1, bucket="other")
    page = store.changes_page(reached)
    assert page == {"items": [[4, "deleted", "b"], [5, "object", "o"]], "version": 6}
    assert store.changes_page(page["version"]) == {"items": [], "version": 6}
    assert store.changes_page(prefix="o")["items"] == [[5, "object", "o"]]
    first = store.changes_page(limit=1)
    assert first["items"] == [[3, "put", "a"]] and first["version"] == 3


def test_deletions_are_told_for_a_day(store: Driver) -> None:
    begun = store.put("a", 1)
    store.put("b", 1)
    store.delete(["b"])
    store.clock.advance(25 * 3600)
    store.tick()
    with pytest.raises(InvalidArgument, match="not all are kept"):
        store.changes_page(begun)
    assert store.changes_page()["items"] == [[1, "put", "a"]]
    assert store.changes_page(3)["items"] == []
    with pytest.raises(InvalidArgument, match="whose last one is 3"):
        store.changes_page(4)  # as of a store that was restored from a backup


def test_a_bucket_that_was_dropped_is_another_one(store: Driver) -> None:
    begun = store.put("a", 1)
    store.drop(bucket="default")
    with pytest.raises(InvalidArgument, match="it was dropped"):
        store.changes_page(begun)
    assert store.changes_page()["items"] == []
    store.put("b", 1)
    with pytest.raises(InvalidArgument, match="begin anew"):
        store.changes_page(begun)
    assert [item[2] for item in store.changes_page()["items"]] == ["b"]


def test_repeats_are_done_once(store: Driver) -> None:
    version = store.again(store.op("put", "a", 1), 1)
    store.put("a", 2)
    assert store.again(store.op("put", "a", 1), 1) == version
    assert store.get("a") == 2
    with pytest.raises(KeyReused):
        store.again(store.op("put", "a", 1), 1, b"d" * 16)


def test_idempotency_keys(store: Driver) -> None:
    version = store.put("a", {"b": 1, "a": 2}, idempotency_key="order 17")
    assert store.put("a", {"b": 1, "a": 2}, idempotency_key="order 17") == version
    with pytest.raises(KeyReused):
        store.put("a", 1, idempotency_key="order 17")
    with pytest.raises(KeyReused):
        store.delete(["a"], idempotency_key="order 17")
    with pytest.raises(VersionConflict):
        store.put("b", 1, version=9, idempotency_key="fails")
    assert store.put("b", 1, idempotency_key="fails")  # what failed is not remembered
    results = store.many(
        store.op("put", "c", 1, idempotency_key="in a batch"), store.op("put", "d", 1)
    )
    again = store.many(
        store.op("put", "c", 1, idempotency_key="in a batch"), store.op("put", "d", 2)
    )
    assert again[0] == results[0] and again[1] > results[1]


def test_what_is_refused(store: Driver) -> None:
    store.put_small("object", b"x")
    for wrong in (
        lambda: store.put("", 1),
        lambda: store.put("k" * 481, 1),
        lambda: store.put("a", object()),
        lambda: store.put("a", b"x" * (1024 * 1024 + 1)),
        lambda: store.put("a", 1, only_if="never"),
        lambda: store.put("a", 1, only_if="absent", version=1),
        lambda: store.put("a", 1, bucket="a/b"),
        lambda: store.put("a", 1, idempotency_key="x" * 256),
        lambda: store.batch([["get", ["a"], {}]]),
        lambda: store.batch([["put", ["a", 1], {"only_if": "absent"}]]),
        lambda: store.batch([["put", ["a"], {}]]),
        lambda: store.scan_page(cursor="k"),
        lambda: store.get("object"),
        lambda: store.object("a", version=-1),
    ):
        with pytest.raises(InvalidArgument):
            wrong()
    assert store.info()["entries"] == 1
