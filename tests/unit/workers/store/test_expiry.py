"""What is due when."""

from __future__ import annotations

from typing import Any

from workers.store import Change, Job, Store
from workers.store.expiry import ExpiryIndex


def change(store: Store, run: Any) -> Any:
    (outcome,) = store.execute([Job(run)])
    return outcome


def test_what_is_due_comes_oldest_first_in_slices(store: Store) -> None:
    index = ExpiryIndex(store.tables["tags"])

    def fill(change: Change) -> None:
        for at_ms, name in ((300, b"c"), (100, b"b"), (100, b"a"), (-5, b"old"), (2**70, b"z")):
            index.add(change, at_ms, name)

    change(store, fill)
    with store.view() as view:
        assert index.next_ms(view) == 0
        assert index.due(view, 99, 10) == [(0, b"old")]
        assert index.due(view, 100, 10) == [(0, b"old"), (100, b"a"), (100, b"b")]
        assert index.due(view, 1000, 2) == [(0, b"old"), (100, b"a")]
        assert index.due(view, 1000, 0) == []
        assert index.due(view, 2**64, 10)[-1] == (2**64 - 1, b"z")


def test_an_entry_is_taken_back(store: Store) -> None:
    index = ExpiryIndex(store.tables["tags"])
    change(store, lambda change: index.add(change, 5, b"a"))
    assert change(store, lambda change: index.remove(change, 5, b"b")) is False
    assert change(store, lambda change: index.remove(change, 5, b"a")) is True
    with store.view() as view:
        assert index.next_ms(view) is None
        assert index.due(view, 10, 10) == []
