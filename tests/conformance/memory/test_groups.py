"""More than one key: scans, tags, prefixes, namespaces, batches."""

from __future__ import annotations

import pytest

from mesh.errors import InvalidArgument, QuotaExceeded, VersionConflict
from tests.conformance.memory.driver import Driver


def test_scan_by_pages(store: Driver) -> None:
    names = [b"user:%03d" % number for number in range(25)] + [b"zebra", b"user"]
    for name in names:
        store.set(name, 1)
    for limit in (1, 7, 100):
        found = store.keys(b"user:", limit=limit)
        assert sorted(found) == names[:25]
        if store.can.ordered_scan:
            assert found == names[:25]
    assert sorted(store.keys()) == sorted(names)
    assert store.keys(b"nothing") == []


def test_scan_with_values(store: Driver) -> None:
    store.set(b"a", [1])
    ((key, entry),), after = store("scan", prefix=b"", after=b"", limit=10, values=True)
    assert (key, entry.body, after) == (b"a", b"\x91\x01", b"")


def test_scan_sees_what_stays_once_while_others_change(store: Driver) -> None:
    for number in range(60):
        store.set(b"k%02d" % number, 1)
    stay = {b"k%02d" % number for number in range(0, 60, 2)}
    seen: list[bytes] = []
    after = b""
    for turn in range(60):
        page, after = store("scan", prefix=b"k", after=after, limit=5, values=False)
        seen += [key for key, _ in page]
        if not after:
            break
        store("delete", keys=[b"k%02d" % (2 * turn + 1)])
        store.set(b"new%02d" % turn, 1)
    assert sorted(key for key in seen if key in stay) == sorted(stay)


def test_invalidate_by_tag(store: Driver) -> None:
    store.set(b"a", 1, tags=("red", "round"))
    store.set(b"b", 1, tags=("red",))
    store.set(b"c", 1, tags=("blue",))
    store.set(b"d", 1)
    store.set(b"b", 2)  # has no tag any more
    assert store("invalidate", tag="red") == 1
    assert sorted(store.keys()) == [b"b", b"c", b"d"]
    assert store("invalidate", tag="red") == 0
    store.set(b"a", 3, tags=("red",))
    assert store("invalidate", tag="round") == 0
    assert store.get(b"a") == 3


def test_a_tag_belongs_to_its_namespace(store: Driver) -> None:
    store.set(b"a", 1, ns="one", tags=("t",))
    store.set(b"a", 1, ns="two", tags=("t",))
    assert store("invalidate", ns="one", tag="t") == 1
    assert store.get(b"a", ns="two") == 1


def test_invalidate_by_prefix(store: Driver) -> None:
    for key in (b"user:1", b"user:2", b"user", b"visit:1"):
        store.set(key, 1)
    assert store("invalidate", prefix=b"user:") == 2
    assert sorted(store.keys()) == [b"user", b"visit:1"]


@pytest.mark.parametrize("how", [{"tag": "t"}, {"prefix": b"k"}])
def test_large_invalidations_are_complete_at_once(store: Driver, how: dict[str, object]) -> None:
    for begin in range(0, 2500, 500):
        items = [(b"k%05d" % number, b"\x01") for number in range(begin, begin + 500)]
        store("set_many", items=items, tags=("t",))
    store.set(b"other", 1)
    store("invalidate", **how)
    assert store.keys() == [b"other"]
    assert store.get(b"k00000") is store.get(b"k02499") is None
    store.set(b"k02499", "new", tags=("t",))
    store.set(b"k02500", "new", tags=("t",))
    while store.backend.tick():
        pass
    assert store.get(b"k02499") == store.get(b"k02500") == "new"
    assert store("stats")["namespaces"]["default"]["entries"] == 3


def test_clear_a_namespace(store: Driver) -> None:
    for number in range(1200):
        store.set(b"k%d" % number, 1, ns="gone", tags=("t",), expire_at=store.at(900_000))
    store.set(b"k1", 1, ns="kept")
    token = store("lock", ns="gone", name=b"l", owner="", expire_at=store.at(900_000))
    assert store("clear", ns="gone") == 1200
    assert store.keys(ns="gone") == []
    assert store("invalidate", ns="gone", tag="t") == 0
    store.set(b"k1", 2, ns="gone")
    while store.backend.tick():
        pass
    assert (store.get(b"k1", ns="gone"), store.get(b"k1", ns="kept")) == (2, 1)
    assert store("stats", ns="gone")["namespaces"]["gone"]["entries"] == 1
    assert store("unlock", ns="gone", name=b"l", token=token)
    assert store("clear", ns="never") == 0


# ---------------------------------------------------------------- batches


# Kept together on a cluster by what stands in braces.
A, B = b"{one}a", b"{one}b"


def steps(*given: tuple[str, dict[str, object]]) -> dict[str, object]:
    return {"steps": list(given)}


def test_a_batch_does_everything_in_order(store: Driver) -> None:
    version = store.set(A, 1)
    results = store(
        "batch",
        conditions=[(A, version), (B, 0)],
        **steps(
            ("set", {"key": B, "body": b"\x02"}),
            ("increment", {"key": B, "by": 5}),
            ("delete", {"keys": [A, b"{one}nothing"]}),
            ("get", {"key": B}),
        ),
    )
    assert results[1:3] == [7, 1]
    assert results[3].body == b"\x07"
    assert (store.get(A), store.get(B)) == (None, 7)


def test_a_batch_whose_condition_fails_does_nothing(store: Driver) -> None:
    version = store.set(A, 1)
    with pytest.raises(VersionConflict) as caught:
        store(
            "batch",
            conditions=[(B, 0), (A, version - 1)],
            **steps(("set", {"key": B, "body": b"\x02"}), ("delete", {"keys": [A]})),
        )
    assert caught.value.data == {"key": A.decode(), "version": version}
    assert (store.get(A), store.get(B)) == (1, None)


def test_a_batch_with_a_step_that_fails_does_nothing(store: Driver) -> None:
    with pytest.raises(InvalidArgument, match="b'"):
        store(
            "batch",
            conditions=[],
            **steps(
                ("set", {"key": A, "body": b"\x01"}),
                ("set", {"key": B, "body": b"\xa1x"}),
                ("increment", {"key": B, "by": 1}),
            ),
        )
    assert store.keys() == []


def test_a_batch_that_fails_in_the_midst_does_nothing(store: Driver) -> None:
    """What keeps a step from being done is known only when those before it were."""
    version = store.set(A, "text")
    before = store("stats")["namespaces"]["default"]
    with pytest.raises(InvalidArgument, match=r"\{one\}a"):
        store(
            "batch",
            conditions=[],
            **steps(
                ("set", {"key": B, "body": b"\x01", "tags": ("t",), "expire_at": store.at(9000)}),
                ("set", {"key": A, "body": b"\x01", "only_if": "absent"}),
                ("increment", {"key": A, "by": 1}),
            ),
        )
    assert (store.get(A), store.get(B), store.keys()) == ("text", None, [A])
    assert store("get", key=A).version == version
    assert store("invalidate", tag="t") == 0
    after = store("stats")["namespaces"]["default"]
    assert [after[name] for name in ("entries", "octets")] == [
        before[name] for name in ("entries", "octets")
    ]
    assert store.set(B, 1) > version


def test_the_numbers_of_a_batch_follow_its_steps(store: Driver) -> None:
    store.set(A, 5, expire_at=store.at(60_000), fresh_until=store.at(50_000))
    results = store(
        "batch",
        conditions=[],
        **steps(
            ("set", {"key": A, "body": b"\x64", "only_if": "absent"}),
            ("increment", {"key": A, "by": 1}),
            ("set", {"key": B, "body": b"\x01"}),
            ("expire", {"key": B, "expire_at": store.at(30_000)}),
            ("increment", {"key": B, "by": 1.5}),
            ("set", {"key": B, "body": b"\x07", "keep_ttl": True}),
            ("increment", {"key": B, "by": 1}),
        ),
    )
    assert (results[0], results[1], results[4], results[6]) == (0, 6, 2.5, 8)
    assert (store.get(A), store.get(B)) == (6, 8)
    assert 40_000 < store("ttl", key=A) <= 50_000
    assert 20_000 < store("ttl", key=B) <= 30_000


def test_a_batch_at_the_quota_is_done_whole_or_not_at_all(store: Driver) -> None:
    a, b = b"{one}" + b"a" * 400, b"{one}b"
    refused = done = 0
    for size in range(0, 2000, 75):
        store.set(a, 1)
        store.set(b, "x" * 600)
        octets = store("stats")["namespaces"]["default"]["octets"]
        store("delete", keys=[b])
        partitions = 1 if store.can.atomic_namespace else 16
        store("configure", relaxed=None, quota=(octets + 450) * partitions)
        try:
            store(
                "batch",
                conditions=[],
                **steps(
                    ("set", {"key": b, "body": b"\xda" + size.to_bytes(2, "big") + b"x" * size}),
                    ("expire", {"key": a, "expire_at": store.at(60_000)}),
                ),
            )
            done += 1
            assert store("exists", keys=[a, b]) == 2 and store("ttl", key=a) > 0
        except QuotaExceeded:
            refused += 1
            assert store("exists", keys=[b]) == 0 and store("ttl", key=a) == -1
        store("configure", relaxed=None, quota=0)
        store("expire", key=a, expire_at=0)
    assert refused and done


def test_what_is_written_again_needs_no_more_room(store: Driver) -> None:
    items = [(b"{one}%d" % number, b"\x01") for number in range(10)]
    store("set_many", items=items)
    octets = store("stats")["namespaces"]["default"]["octets"]
    partitions = 1 if store.can.atomic_namespace else 16
    store("configure", relaxed=None, quota=(octets + 10) * partitions)
    assert len(store("set_many", items=items)) == 10
    with pytest.raises(QuotaExceeded):
        store("set_many", items=[*items, (b"{one}more", b"\x01")])
    assert store("exists", keys=[b"{one}more"]) == 0


def test_a_batch_over_partitions_is_refused(store: Driver) -> None:
    if store.can.atomic_namespace:
        pytest.skip("all keys of a namespace lie together here")
    many = [("set", {"key": b"k%d" % number, "body": b"\x01"}) for number in range(40)]
    with pytest.raises(InvalidArgument, match="in braces"):
        store("batch", conditions=[], **steps(*many))
    assert store.keys() == []


# ---------------------------------------------------------------- figures


def test_stats(store: Driver) -> None:
    store.set(b"a", 1)
    store.set(b"b", "x" * 1000)
    store.get(b"a")
    store.get(b"nothing")
    store("delete", keys=[b"a"])
    stats = store("stats")["namespaces"]["default"]
    assert stats["entries"] == 1
    assert stats["octets"] > 1000
    assert (stats["hits"], stats["misses"]) == (1, 1)
    assert (stats["written"], stats["deleted"]) == (2, 1)
