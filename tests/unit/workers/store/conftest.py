"""A store in a directory of its own, and one whose writer this process is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workers.store import INDEX, PLAIN, Store
from workers.store.dedup import TABLES

ITEMS = {"items": PLAIN, "tags": INDEX, **TABLES}
MIB = 1024 * 1024


def gain(store: Store) -> Store:
    """Wait until this process writes `store`."""
    gained = threading.Event()
    lost: list[Exception] = []
    store.elect(lambda _: gained.set(), lost.append)
    assert gained.wait(10), lost
    return store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def opened(path: Path) -> Iterator[Callable[..., Store]]:
    """A function that opens the store as its writer; what it opened is closed after the test."""
    stores: list[Store] = []

    def open_it(where: Path = path, *, map_size: int = MIB, max_size: int = 64 * MIB) -> Store:
        store = Store.open(
            where, service="test", tables=ITEMS, map_size=map_size, max_size=max_size
        )
        stores.append(store)
        return gain(store)

    yield open_it
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Callable[..., Store]) -> Store:
    return opened()
