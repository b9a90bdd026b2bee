"""What the memory service accepts at its edges, and how the rest is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mesh.errors import InvalidArgument
from mesh.protocol import memory as limits


def test_the_longest_key_is_one() -> None:
    assert limits.check_key("é" * 240) == "é".encode() * 240
    with pytest.raises(InvalidArgument, match="482 octets, the limit is 480"):
        limits.check_key("é" * 241)


@pytest.mark.parametrize("key", ["", b"octets", None, 5, ["k"], "\ud800"])
def test_what_is_no_key(key: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"^key"):
        limits.check_key(key)


@pytest.mark.parametrize("name", ["", "n" * 65, 5, None, "a{b", "line\nbreak"])
def test_what_is_no_namespace(name: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"^ns="):
        limits.check_namespace(name)


def test_many() -> None:
    assert limits.check_keys(("a", "b")) == [b"a", b"b"]
    with pytest.raises(InvalidArgument, match=r"keys\[1\] is empty"):
        limits.check_keys(["a", ""])
    with pytest.raises(InvalidArgument, match="1001 keys in one call"):
        limits.check_keys(["k"] * 1001)
    with pytest.raises(InvalidArgument, match="not a list"):
        limits.check_keys("abc")
    with pytest.raises(InvalidArgument, match="not a mapping"):
        limits.check_items([("a", 1)])


def test_tags() -> None:
    assert limits.check_tags(["b", "a", "b"]) == ("a", "b")
    for wrong in ("text", [""], [5], ["t" * 129], [str(number) for number in range(17)]):
        with pytest.raises(InvalidArgument, match="tag"):
            limits.check_tags(wrong)


def test_values_have_a_limit() -> None:
    assert limits.check_body(b"x")
    with pytest.raises(InvalidArgument, match="16,777,217 octets, the limit is 16,777,216"):
        limits.check_body(bytes(limits.MAX_VALUE + 1))


@pytest.mark.parametrize("ttl", [0, -1, "5", None, True, math.nan, math.inf, 1e12])
def test_what_is_no_duration(ttl: Any) -> None:
    with pytest.raises(InvalidArgument, match="ttl="):
        limits.duration_ms("ttl", ttl)


def test_times_are_rounded_up() -> None:
    assert limits.duration_ms("ttl", 0.0001) == 1
    assert limits.moment_ms("at", 1_800_000_000.0005, 1_800_000_000_000) == 1_800_000_000_001
    with pytest.raises(InvalidArgument, match="Unix time in seconds"):
        limits.moment_ms("at", 1_800_000_000_000, 1_800_000_000_000)


@pytest.mark.parametrize("version", [-1, 2**63, True, 1.0, "1", None])
def test_what_is_no_version(version: Any) -> None:
    with pytest.raises(InvalidArgument, match="version="):
        limits.check_version(version)


def test_other_choices() -> None:
    assert limits.check_limit(1000) == 1000
    for wrong in (0, 1001, True, "5"):
        with pytest.raises(InvalidArgument, match="limit="):
            limits.check_limit(wrong)
    with pytest.raises(InvalidArgument, match="'a', 'b'"):
        limits.check_choice("x", "c", ("a", "b"))
    with pytest.raises(InvalidArgument, match="owner"):
        limits.check_owner("o" * 129)
    assert limits.check_prefix("") == b""


def test_what_is_shown_is_short() -> None:
    with pytest.raises(InvalidArgument) as caught:
        limits.check_key("k" * 100_000)
    assert len(str(caught.value)) < 250
