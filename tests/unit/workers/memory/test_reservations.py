"""Whoever waits for a lock or a reservation is told when it ends, however it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workers.memory.backends.inmemory import MemoryBackend
from workers.memory.locks import Event
from workers.memory.verbs import Verbs


class Store:
    """A backend on a clock of its own, and what it reports."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.backend = MemoryBackend(10_000_000, "s3-fifo", lambda: self.now)
        self.verbs = Verbs(self.backend.now)
        self.events: list[Event] = []
        self.backend.watch(self.events.extend)
        self.backend.follow({"default"})

    def run(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        act = getattr(self.verbs, verb)(*args, **kwargs)
        (result,) = self.backend.execute([act.op])
        return act.answer(result)

    def pass_by(self, milliseconds: int) -> None:
        self.now += milliseconds
        while self.backend.tick():
            pass

    def told(self) -> list[tuple[bytes, str, int]]:
        found = [(key, kind, token) for _, key, kind, token in self.events]
        self.events.clear()
        return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store()


def test_a_reservation_that_runs_out(store: Store) -> None:
    token = store.run("reserve", "k", 1.0)["token"]
    store.pass_by(900)
    assert store.told() == []
    store.pass_by(200)
    assert store.told() == [(b"k", "released", token)]
    assert store.run("reserve", "k", 1.0)["state"] == "lead"


def test_a_lock_that_runs_out(store: Store) -> None:
    token = store.run("lock", "job", 1.0)
    store.pass_by(1100)
    assert store.told() == [(b"job", "unlocked", token)]


@pytest.mark.parametrize(
    ("verb", "args", "kwargs"),
    [("delete", (["k"],), {}), ("invalidate", (), {"prefix": "k"})],
)
def test_a_reservation_that_a_delete_ends(
    store: Store, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    token = store.run("reserve", "k", 10.0)["token"]
    store.run(verb, *args, **kwargs)
    assert store.told() == [(b"k", "released", token)]


def test_a_reservation_that_ends_with_its_namespace(store: Store) -> None:
    token = store.run("reserve", "k", 60.0)["token"]
    held = store.run("lock", "job", 60.0)
    store.run("clear", ns="default")
    assert store.told() == [(b"k", "released", token), (b"", "cleared", held)]
    assert store.run("release", "k", token) is False
    assert store.run("unlock", "job", held) is True


def test_a_reservation_that_is_filled_tells_of_the_value_only(store: Store) -> None:
    token = store.run("reserve", "k", 10.0)["token"]
    store.run("fill", "k", b"value", token)
    assert [kind for _, kind, _ in store.told()] == ["set"]
    store.pass_by(20_000)
    assert store.told() == []


def test_a_reservation_that_was_taken_anew_is_not_ended_by_the_old_time(store: Store) -> None:
    store.run("reserve", "k", 1.0)
    store.now += 1500
    second = store.run("reserve", "k", 10.0)
    assert second["state"] == "lead"
    store.events.clear()
    store.pass_by(1000)
    assert store.told() == []
    assert store.run("reserve", "k", 1.0)["state"] == "wait"
