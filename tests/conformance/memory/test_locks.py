"""Locks with fencing tokens, and reservations for computing a value once."""

from __future__ import annotations

from tests.conformance.memory.driver import Driver

SOON = 250


def lock(store: Driver, ms: int = 60_000, **arguments: object) -> int:
    token: int = store("lock", name=b"l", owner="me", expire_at=store.at(ms), **arguments)
    return token


def test_one_holder_at_a_time(store: Driver) -> None:
    token = lock(store)
    assert token > 0
    assert lock(store) == 0
    assert lock(store, ns="other") > 0
    held = store("lock_info", name=b"l")
    assert (held.token, held.owner) == (token, "me")
    assert store("unlock", name=b"l", token=token + 1) is False
    assert store("unlock", name=b"l", token=token) is True
    assert store("unlock", name=b"l", token=token) is False
    assert store("lock_info", name=b"l") is None
    assert lock(store) > token


def test_a_lock_ends_with_its_time(store: Driver) -> None:
    first = lock(store, SOON)
    store.clock.advance(SOON + 50)
    assert store("lock_info", name=b"l") is None
    assert store("extend", name=b"l", token=first, expire_at=store.at(60_000)) is False
    second = lock(store)
    assert second > first
    assert store("unlock", name=b"l", token=first) is False
    assert store("lock_info", name=b"l").token == second


def test_a_lock_can_be_held_longer(store: Driver) -> None:
    token = lock(store, SOON)
    assert store("extend", name=b"l", token=token, expire_at=store.at(60_000)) is True
    store.clock.advance(SOON + 50)
    store.backend.tick()
    assert store("lock_info", name=b"l").token == token


def test_locks_are_no_entries(store: Driver) -> None:
    lock(store)
    assert store.keys() == []
    store.set(b"l", 1)
    assert store("delete", keys=[b"l"]) == 1
    assert store("lock_info", name=b"l") is not None


# ---------------------------------------------------------------- reservations


def reserve(store: Driver, ms: int = 60_000) -> tuple[str, object, int]:
    state, entry, token = store("reserve", key=b"k", expire_at=store.at(ms))
    return state, entry and entry.body, token


def test_one_computes_and_the_others_wait(store: Driver) -> None:
    state, body, token = reserve(store)
    assert (state, body) == ("lead", None)
    assert reserve(store) == ("wait", None, 0)
    assert store.set(b"k", 7, token=token, expire_at=store.at(60_000)) > 0
    assert reserve(store) == ("hit", b"\x07", 0)
    assert store.set(b"k", 8, token=token) == 0


def test_a_reservation_given_back_or_out_of_time(store: Driver) -> None:
    _, _, first = reserve(store)
    assert store("release", key=b"k", token=first) is True
    state, _, second = reserve(store, SOON)
    assert (state, second > first) == ("lead", True)
    store.clock.advance(SOON + 50)
    assert store.set(b"k", 1, token=second) == 0
    assert store("release", key=b"k", token=second) is False
    assert reserve(store)[0] == "lead"


def test_what_is_stale_is_used_while_one_computes_it_anew(store: Driver) -> None:
    store.set(b"k", 1, fresh_until=store.at(SOON), expire_at=store.at(60_000))
    assert reserve(store) == ("hit", b"\x01", 0)
    store.clock.advance(SOON + 50)
    state, body, token = reserve(store)
    assert (state, body, token > 0) == ("stale", b"\x01", True)
    assert reserve(store) == ("stale", b"\x01", 0)
    store.set(b"k", 2, token=token)
    assert reserve(store) == ("hit", b"\x02", 0)


def test_nothing_outdated_is_kept(store: Driver) -> None:
    for change in (
        lambda: store("delete", keys=[b"k"]),
        lambda: store("invalidate", prefix=b""),
        lambda: store("invalidate", tag="any"),
        lambda: store("clear"),
        lambda: store.set(b"k", "newer"),
    ):
        store.set(b"k", 0)
        store("delete", keys=[b"k"])
        token = reserve(store)[2]
        assert token
        change()
        before = store.get(b"k")
        assert store.set(b"k", "outdated", token=token) == 0
        assert store.get(b"k") == before
