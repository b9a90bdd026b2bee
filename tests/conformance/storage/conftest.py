"""One store of each engine for each test, empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.storage.driver import Clock, Driver, opened_lmdb

ENGINES = ("lmdb",)


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    """A store with nothing in it."""
    clock = Clock()
    engine = opened_lmdb(tmp_path / "store", clock)
    yield Driver(engine, clock)
    engine.close()
