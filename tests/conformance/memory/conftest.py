"""One store of each kind for each test, empty."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.memory import valkey
from tests.conformance.memory.driver import Clock, Driver, RealClock
from workers.memory.backends.durable import LmdbBackend
from workers.memory.backends.inmemory import MemoryBackend
from workers.memory.backends.redis import RedisBackend

MIB = 1024 * 1024
KINDS = ("memory", "lmdb", "lmdb-relaxed", "valkey", "valkey-cluster")


def opened_lmdb(path: Path, clock: Clock) -> LmdbBackend:
    """A store in `path` that writes."""
    backend = LmdbBackend(path, 64 * MIB, clock=clock)
    gained = threading.Event()
    backend.stand(lambda epoch: gained.set(), lambda error: None)
    assert gained.wait(10)
    return backend


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Valkey server."""
    child, port = valkey.start_server(tmp_path_factory.mktemp("valkey"))
    yield f"redis://127.0.0.1:{port}/0"
    child.stop()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Valkey cluster of three."""
    children, port = valkey.start_cluster(tmp_path_factory.mktemp("cluster"))
    yield f"redis+cluster://127.0.0.1:{port}"
    for child in children:
        child.stop()


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    """A store with nothing in it."""
    kind: str = request.param
    clock: Any = Clock()
    if kind == "memory":
        backend: Any = MemoryBackend(64 * MIB, clock=clock)
    elif kind.startswith("lmdb"):
        backend = opened_lmdb(tmp_path / "store", clock)
    else:
        url = request.getfixturevalue("server" if kind == "valkey" else "cluster")
        backend = RedisBackend(url)
        backend.erase()
        clock = RealClock()
    driver = Driver(backend, clock)
    if kind == "lmdb-relaxed":
        driver.relax()
    yield driver
    backend.close()
