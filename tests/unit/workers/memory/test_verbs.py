"""From arguments to operations, and from results to answers."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from mesh.errors import InvalidArgument
from workers.memory.records import Entry, Lock
from workers.memory.verbs import Verbs

NOW = 1_800_000_000_000


@pytest.fixture
def verbs() -> Verbs:
    return Verbs(lambda: NOW)


def entry(value: Any, **more: Any) -> Entry:
    facts = {"expire_at": 0, "fresh_until": 0, "tags": (), **more}
    return Entry(version=5, body=msgpack.packb(value), **facts)


def test_set(verbs: Verbs) -> None:
    act = verbs.set("k", [1], ns="n", ttl=2, stale=0.5, tags=["b", "a"], only_if="absent")
    assert (act.op.verb, act.op.ns) == ("set", "n")
    assert act.op.arguments == {
        "key": b"k",
        "body": b"\x91\x01",
        "only_if": "absent",
        "expire_at": NOW + 2500,
        "fresh_until": NOW + 2000,
        "tags": ("a", "b"),
    }
    assert (act.answer(7), act.answer(0)) == (7, None)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"ttl": 1, "expire_at": 1.8e9}, "ttl together with expire_at"),
        ({"ttl": 1, "keep_ttl": True}, "keep_ttl together with"),
        ({"stale": 1}, "give a ttl"),
        ({"only_if": "maybe"}, "'absent', 'present'"),
        ({"packed": True}, "packed=True wants MessagePack"),
        ({"ns": ""}, "ns=''"),
    ],
)
def test_what_set_refuses(verbs: Verbs, arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        verbs.set("k", 1, **arguments)


def test_packed_values(verbs: Verbs) -> None:
    assert verbs.set("k", b"\x91\x01", packed=True).op.arguments["body"] == b"\x91\x01"
    with pytest.raises(InvalidArgument, match="was said to be packed"):
        verbs.set("k", b"\x91", packed=True)
    assert verbs.get("k", packed=True).answer(entry([1])) == b"\x91\x01"
    assert verbs.get("k").answer(entry([1])) == [1]
    assert verbs.get("k", packed=True).answer(None) is None


def test_what_cannot_be_sent_is_named(verbs: Verbs) -> None:
    with pytest.raises(InvalidArgument, match=r"items\['k'\]\[0\]"):
        verbs.set_many({"k": [object()]})


def test_answers(verbs: Verbs) -> None:
    assert verbs.get_many(["a", "b"]).answer([None, entry(2)]) == {"b": 2}
    assert verbs.get_many(["a"]).answer([entry(None)]) == {"a": None}
    facts = verbs.entry("k").answer(
        entry(1, expire_at=NOW + 1500, fresh_until=NOW - 1, tags=("t",))
    )
    assert facts == {"value": 1, "version": 5, "ttl": 1.5, "fresh": False, "tags": ["t"]}
    assert verbs.entry("k").answer(None) is None
    assert [verbs.ttl("k").answer(ms) for ms in (None, -1, 1500)] == [None, -1, 1.5]
    assert verbs.set_many({"a": 1, "b": 2}).answer([3, 4]) == {"a": 3, "b": 4}
    page = ([(b"a", entry(1)), (b"b", entry(2))], b"b")
    assert verbs.scan_page(values=True).answer(page) == {
        "items": [["a", 1], ["b", 2]],
        "cursor": b"b",
    }
    assert verbs.scan_page().answer(page)["items"] == ["a", "b"]
    held = verbs.lock_info("l").answer(Lock(9, NOW + 500, "me"))
    assert held == {"token": 9, "owner": "me", "ttl": 0.5}
    assert verbs.reserve("k").answer(("stale", entry(1), 8)) == {
        "state": "stale",
        "value": 1,
        "token": 8,
    }
    assert verbs.reserve("k").answer(("wait", None, 0)) == {"state": "wait"}
    assert (verbs.lock("l", 1).answer(3), verbs.lock("l", 1).answer(0)) == (3, None)


def test_batch(verbs: Verbs) -> None:
    act = verbs.batch(
        [["set", ["a", 1], {"ttl": 1}], ["get", ["a"]], ["delete", [["b"]]]], conditions={"c": 4}
    )
    assert act.op.arguments["conditions"] == [(b"c", 4)]
    assert [verb for verb, _ in act.op.arguments["steps"]] == ["set", "get", "delete"]
    assert act.answer([6, entry(1), 0]) == [6, 1, 0]


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        ("set", "steps is not a list"),
        ([[]], r"steps\[0\] is not"),
        ([["clear"]], r"'clear' cannot be part"),
        ([["set", "k"]], r"steps\[0\] is not"),
        ([["get", ["k"]], ["set", ["k"]]], r"steps\[1\]: .*missing"),
        ([["get", ["k"], {"nonsense": 1}]], "nonsense"),
        ([["get", ["k"]]] * 1001, "up to 1000"),
    ],
)
def test_what_batch_refuses(verbs: Verbs, steps: Any, complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        verbs.batch(steps)


@pytest.mark.parametrize("by", [True, "1", None, float("nan"), 2**63])
def test_what_increment_refuses(verbs: Verbs, by: Any) -> None:
    with pytest.raises(InvalidArgument, match="by="):
        verbs.increment("k", by)


def test_one_of_two(verbs: Verbs) -> None:
    for call in (
        lambda: verbs.expire("k"),
        lambda: verbs.expire("k", 1, at=1.8e9),
        lambda: verbs.invalidate(),
        lambda: verbs.invalidate(prefix="a", tag="b"),
    ):
        with pytest.raises(InvalidArgument, match="one of them"):
            call()
    assert verbs.expire("k", at=1_800_000_001).op.arguments["expire_at"] == NOW + 1000
    with pytest.raises(InvalidArgument, match="prefix is empty"):
        verbs.invalidate(prefix="")
