"""The eviction policies: what each gives up, and their hit ratios on a real trace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.harness import Unavailable
from bench.hitratio import CAPACITIES, REFERENCE, hit_ratio, oltp
from mesh.errors import ConfigError
from workers.memory.eviction import POLICIES, make_policy
from workers.memory.eviction.lru import Lru
from workers.memory.eviction.s3fifo import S3Fifo
from workers.memory.eviction.volatile import NoEviction, VolatileTtl


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="'lfu' is not one of s3-fifo, allkeys-lru"):
        make_policy("lfu", 10)


# ---------------------------------------------------------------- S3-FIFO


def test_one_hit_wonders_leave_first() -> None:
    policy = S3Fifo(10)
    for number in range(10):
        policy.insert(b"%d" % number, 1)
    for _ in range(2):
        policy.hit(b"0")
    assert policy.victim() == b"1"
    policy.check()
    assert b"0" in policy.main


def test_one_access_is_not_enough_to_stay() -> None:
    policy = S3Fifo(10)
    policy.insert(b"a", 1)
    policy.insert(b"b", 1)
    policy.hit(b"a")
    assert policy.victim() == b"a"


def test_what_comes_back_soon_enters_the_main_queue() -> None:
    policy = S3Fifo(10)
    policy.insert(b"a", 1)
    assert policy.victim() == b"a"
    policy.insert(b"a", 1)
    assert list(policy.main) == [b"a"]
    assert policy.victim() == b"a"
    policy.insert(b"a", 1)
    assert list(policy.small) == [b"a"], "the main queue leaves no ghosts"


def test_the_main_queue_gives_another_round_for_each_access() -> None:
    policy = S3Fifo(2)
    for key in (b"a", b"b"):
        policy.adopt(key, 1)
    policy.hit(b"a")
    assert policy.victim() == b"b"
    assert policy.victim() == b"a"
    assert policy.victim() is None


def test_ghosts_are_bounded() -> None:
    policy = S3Fifo(100)
    for number in range(10_000):
        policy.insert(b"%d" % number, 1)
        if len(policy) > 100:
            policy.victim()
    policy.check()
    assert len(policy.ghosts) + len(policy.old_ghosts) <= 122


def test_a_write_of_a_known_key_is_an_access_and_takes_its_size() -> None:
    policy = S3Fifo(100)
    policy.insert(b"a", 10)
    policy.insert(b"a", 30)
    assert (policy.small_size, policy.small[b"a"] & 3) == (30, 1)
    policy.remove(b"a")
    assert (len(policy), policy.small_size) == (0, 0)


# ---------------------------------------------------------------- the others


def test_lru() -> None:
    policy = Lru(10)
    for key in (b"a", b"b", b"c"):
        policy.insert(key, 1)
    policy.hit(b"a")
    policy.adopt(b"old", 1)
    policy.adopt(b"a", 1)
    assert [policy.victim() for _ in range(5)] == [b"old", b"b", b"c", b"a", None]


def test_volatile_ttl() -> None:
    policy = VolatileTtl(10)
    policy.insert(b"never", 1, 0)
    policy.insert(b"late", 1, 300)
    policy.insert(b"soon", 1, 100)
    policy.insert(b"moved", 1, 50)
    policy.insert(b"moved", 1, 400)
    policy.insert(b"kept", 1, 10)
    policy.insert(b"kept", 1, 0)
    policy.adopt(b"soon", 1, 1000)
    assert [policy.victim() for _ in range(4)] == [b"soon", b"late", b"moved", None]


def test_volatile_ttl_forgets_what_was_overwritten() -> None:
    policy = VolatileTtl(10)
    for number in range(10_000):
        policy.insert(b"a", 1, number + 1)
    assert len(policy.heap) < 100
    policy.check()


def test_noeviction() -> None:
    policy = NoEviction(10)
    policy.insert(b"a", 1)
    policy.adopt(b"b", 1)
    policy.hit(b"a")
    policy.remove(b"a")
    assert policy.victim() is None
    assert len(policy) == 0


# ---------------------------------------------------------------- all of them

STEP = st.tuples(
    st.sampled_from(["insert", "hit", "remove", "adopt", "victim"]),
    st.sampled_from([b"a", b"b", b"c", b"d", b"e"]),
    st.integers(1, 30),
)


@pytest.mark.parametrize("name", POLICIES)
@given(steps=st.lists(STEP, max_size=80))
def test_who_is_known_is_given_up_once(name: str, steps: list[tuple[str, bytes, int]]) -> None:
    policy = make_policy(name, 40)
    known: set[bytes] = set()
    for verb, key, number in steps:
        if verb == "victim":
            victim = policy.victim()
            assert (victim is None) == (not known)
            known.discard(victim or b"")
        elif verb == "hit":
            policy.hit(key)
        elif verb == "remove":
            policy.remove(key)
            known.discard(key)
        else:
            getattr(policy, verb)(key, number, number)
            if name != "noeviction":
                known.add(key)
        policy.check()
        assert len(policy) == len(known)


@pytest.fixture(scope="module")
def trace() -> list[bytes]:
    """The keys of the OLTP trace."""
    try:
        return list(oltp())
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("place", range(len(CAPACITIES)))
def test_hit_ratios_on_oltp(trace: list[bytes], name: str, place: int) -> None:
    found = hit_ratio(name, trace, CAPACITIES[place])
    assert abs(found - REFERENCE[name][place]) < (1.0 if name == "s3-fifo" else 0.5)
