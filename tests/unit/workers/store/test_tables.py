"""Views and changes: keys, ranges, index tables, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.errors import DataCorrupted, InvalidArgument
from workers.store import Change, Job, Store


def do(store: Store, run: Any) -> Any:
    (outcome,) = store.execute([Job(run)])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def fill(store: Store, *keys: bytes) -> None:
    items = store.tables["items"]

    def run(change: Change) -> None:
        for key in keys:
            change.put(items, key, b"=" + key)

    do(store, run)


def keys_of(store: Store, **options: Any) -> list[bytes]:
    with store.view() as view:
        found = list(view.items(store.tables["items"], **options))
    assert all(value == b"=" + key for key, value in found)
    return [key for key, _ in found]


def test_a_value_is_found_by_its_key(store: Store) -> None:
    items = store.tables["items"]
    fill(store, b"a", b"b")
    with store.view() as view:
        assert view.get(items, b"a") == b"=a"
        assert view.get(items, b"c") is None
        assert view.has(items, b"b") and not view.has(items, b"c")
        assert view.count(items) == 2
        assert view.size(items) == 4096
    assert do(store, lambda change: change.delete(items, b"a")) is True
    assert do(store, lambda change: change.delete(items, b"a")) is False
    assert keys_of(store) == [b"b"]


RANGES = [
    ({}, [b"a", b"a1", b"a2", b"b", b"\xff", b"\xff\xff"]),
    ({"prefix": b"a"}, [b"a", b"a1", b"a2"]),
    ({"prefix": b"a", "start": b"a1"}, [b"a1", b"a2"]),
    ({"prefix": b"a", "start": b"0"}, [b"a", b"a1", b"a2"]),
    ({"prefix": b"a", "start": b"b"}, []),
    ({"prefix": b"c"}, []),
    ({"start": b"a11"}, [b"a2", b"b", b"\xff", b"\xff\xff"]),
    ({"reverse": True}, [b"\xff\xff", b"\xff", b"b", b"a2", b"a1", b"a"]),
    ({"reverse": True, "prefix": b"a"}, [b"a2", b"a1", b"a"]),
    ({"reverse": True, "prefix": b"a", "start": b"a1"}, [b"a1", b"a"]),
    ({"reverse": True, "prefix": b"a", "start": b"a11"}, [b"a1", b"a"]),
    ({"reverse": True, "prefix": b"a", "start": b"z"}, [b"a2", b"a1", b"a"]),
    ({"reverse": True, "prefix": b"b", "start": b"a"}, []),
    ({"reverse": True, "prefix": b"\xff"}, [b"\xff\xff", b"\xff"]),
    ({"reverse": True, "start": b"\xff\xff\xff"}, [b"\xff\xff", b"\xff", b"b", b"a2", b"a1", b"a"]),
]


@pytest.mark.parametrize(("options", "expected"), RANGES)
def test_ranges(store: Store, options: dict[str, Any], expected: list[bytes]) -> None:
    fill(store, b"b", b"a2", b"\xff\xff", b"a", b"\xff", b"a1")
    assert keys_of(store, **options) == expected


@pytest.mark.parametrize("reverse", [False, True])
def test_an_empty_table_has_no_items(store: Store, reverse: bool) -> None:
    assert keys_of(store, reverse=reverse) == []
    assert keys_of(store, reverse=reverse, prefix=b"a", start=b"ab") == []


def test_an_index_holds_several_values_a_key(store: Store) -> None:
    tags = store.tables["tags"]

    def run(change: Change) -> None:
        for value in (b"2", b"1", b"1", b"3"):
            change.put(tags, b"t", value)
        change.put(tags, b"u", b"9")

    do(store, run)
    with store.view() as view:
        assert list(view.items(tags)) == [(b"t", b"1"), (b"t", b"2"), (b"t", b"3"), (b"u", b"9")]
        backwards = list(view.items(tags, reverse=True, start=b"t"))
        assert backwards == [(b"t", b"3"), (b"t", b"2"), (b"t", b"1")]
        assert view.get(tags, b"t") == b"1"
        assert view.has(tags, b"t", b"2") and not view.has(tags, b"t", b"4")
    assert do(store, lambda change: change.delete(tags, b"t", b"2")) is True
    assert do(store, lambda change: change.delete(tags, b"t", b"2")) is False
    with store.view() as view:
        assert view.count(tags) == 3


@pytest.mark.parametrize("key", [b"", b"x" * 512])
def test_a_key_of_a_wrong_length_is_refused(store: Store, key: bytes) -> None:
    items = store.tables["items"]
    with pytest.raises(InvalidArgument, match=f"has {len(key)}"):
        do(store, lambda change: change.put(items, key, b"v"))


def test_asking_for_a_key_of_a_wrong_length(store: Store) -> None:
    with store.view() as view:
        assert view.get(store.tables["items"], b"x" * 512) is None
        with pytest.raises(InvalidArgument, match="has 0"):
            view.get(store.tables["items"], b"")


def test_a_value_that_was_tampered_with_is_never_returned(store: Store) -> None:
    items = store.tables["items"]
    fill(store, b"a", b"b", b"c")
    do(store, lambda change: change.raw.put(b"b", b"no checksum", db=items.handle))
    with store.view() as view:
        assert view.get(items, b"a") == b"=a"
        with pytest.raises(DataCorrupted, match="'b'"):
            view.get(items, b"b")
        with pytest.raises(DataCorrupted, match="'b'"):
            list(view.items(items))
