"""What the memory client sends, and what it refuses before it sends anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from mesh import connect
from mesh.client.memory import Entry, Memory, calls
from mesh.client.memory.requests import Request, instead
from mesh.client.memory.steps import Steps
from mesh.errors import CallError, InvalidArgument, ServiceNotFound, WorkerLost
from mesh.protocol import payload

PACKED = {"packed": True}


def test_only_what_was_given_is_sent() -> None:
    plain = calls.set("default", "k", [1])
    assert (plain.verb, plain.args, plain.kwargs) == ("set", ("k", b"\x91\x01"), PACKED)
    request = calls.set("ns", "k", 1, ttl=5, stale=1, tags=("b", "a"), only_if="absent")
    assert request.kwargs == {
        "ns": "ns", "ttl": 5, "stale": 1, "tags": ["a", "b"], "only_if": "absent", "packed": True,
    }  # fmt: skip
    assert calls.scan_page("default", "p", cursor=b"c").kwargs == {
        "cursor": b"c", "limit": 500, "packed": True,
    }  # fmt: skip


def test_a_text_is_one_key_or_tag_and_not_its_letters() -> None:
    assert calls.get_many("default", "key").args == (["key"],)
    assert calls.set("default", "k", 1, tags="tag").kwargs["tags"] == ["tag"]


@pytest.mark.parametrize(
    ("request_", "safe"),
    [
        (calls.get("n", "k"), True),
        (calls.entry("n", "k"), True),
        (calls.get_many("n", ["k"]), True),
        (calls.scan_page("n"), True),
        (calls.exists("n", "k"), True),
        (calls.ttl("n", "k"), True),
        (calls.stats("n"), True),
        (calls.invalidate("n", tag="t"), True),
        (calls.clear("n"), True),
        (calls.wait("n", "k", 1.0), True),
        (calls.set("n", "k", 1), None),
        (calls.increment("n", "k"), None),
        (calls.reserve("n", "k", 1.0), None),
        (calls.take_lock("n", "k", 1.0, ""), None),
        (calls.get_and_delete("n", "k"), None),
    ],
    ids=lambda value: value.verb if isinstance(value, Request) else str(value),
)
def test_what_may_run_twice_is_marked(request_: Request[Any], safe: bool | None) -> None:
    """What changes something is as safe as the service's store makes it, which declares that."""
    assert request_.safe is safe


def test_answers_are_read() -> None:
    assert calls.get("n", "k", 5).read(None) == 5
    assert calls.get("n", "k", 5).read(payload.encode(None)) is None
    assert calls.ttl("n", "k").read(-1) == math.inf
    assert calls.ttl("n", "k").read(None) is None
    assert calls.take_lock("n", "k", 1, "").read(None) == 0
    found = {"value": b"\x01", "version": 7, "ttl": -1, "fresh": True, "tags": ["t"]}
    assert calls.entry("n", "k").read(found) == Entry(1, 7, math.inf, True, ("t",))
    page = calls.scan_page("n", values=True).read({"items": [["k", b"\x01"]], "cursor": b"c"})
    assert (page.items, page.cursor) == ([("k", 1)], b"c")


def test_a_relaxed_namespace_is_asked_at_the_writer() -> None:
    request = calls.get("fast", "k", stale=True)
    error = InvalidArgument("relaxed", data={"lane": "writer"})
    found = instead(request, error)
    assert (found.verb, found.kwargs, found.safe) == ("at_writer", {}, True)
    assert found.args == ("get", ["k"], {"ns": "fast", "stale": True, "packed": True})
    for other in (InvalidArgument("no"), WorkerLost("gone")):
        with pytest.raises(CallError) as caught:
            instead(request, other)
        assert caught.value is other


def test_a_missing_service_says_how_to_start_one() -> None:
    with pytest.raises(ServiceNotFound, match=r"python -m workers memory .* --data DIR"):
        instead(calls.get("n", "k"), ServiceNotFound("no such service"))


def test_steps() -> None:
    steps = Steps("n").set("a", 1, ttl=5).get("a", "default").require("b", 0)
    request = steps._request()
    assert request.args == ([["set", ["a", b"\x01"], {"ttl": 5}], ["get", ["a"], {}]],)
    assert request.kwargs == {"ns": "n", "packed": True, "conditions": {"b": 0}}
    assert request.read([3, None]) == [3, "default"]
    steps.delete("a", "b")
    assert (len(steps), len(request.args[0])) == (3, 2), "what was made must not change any more"


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (lambda m: m.set("k", 1, ttl=0), "ttl=0 is not a number of seconds above 0"),
        (lambda m: m.set("k", 1, ttl=60, stale=-1), "stale=-1 is not"),
        (lambda m: m.expire("k", math.nan), "ttl=nan"),
        (lambda m: m.set("", 1), "key is empty"),
        (lambda m: m.get("k" * 481), "481 octets, the limit is 480"),
        (lambda m: m.get(b"k"), "keys are text"),
        (lambda m: m.get_many(["k"] * 1001), "1001 keys in one call, the limit is 1000"),
        (lambda m: m.set("k", object()), "value cannot be sent"),
        (lambda m: m.set("k", bytes(16 << 20)), "keep it in the storage service"),
        (lambda m: m.set_many({"a": {"b": object()}}), r"items\['a'\]\['b'\] cannot be sent"),
        (lambda m: m.set("k", 1, tags=["t", 5]), "tag=5"),
        (lambda m: m.compare_and_set("k", 1, -1), "version=-1"),
        (lambda m: m.namespace("a{b}"), "braces"),
        (lambda m: m.invalidate(), "prefix or tag"),
        (lambda m: m.scan_page(limit=5000), "limit=5000"),
        (lambda m: m.lock("l", ttl=-1).acquire(), "ttl=-1"),
        (lambda m: m.get_or_set("k", dict, lease=0), "lease=0"),
        (lambda m: m.get_or_set("k", dict, ttl=0), "ttl=0"),
        (lambda m: next(m.watch("k" * 481)), "481 octets"),
        (lambda m: m.batch().set("k", 1, ttl=-1), "ttl=-1"),
        (lambda m: m.set_many([("k", 1)]), "is not a mapping of keys to values"),
        (lambda m: m.set_many({"": 1}), "key is empty"),
        (lambda m: m.set_many({"a": 1, "b": object()}), r"items\['b'\] cannot be sent"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_refused_before_it_is_sent(
    use: Callable[[Memory], Any], text: str
) -> None:
    with connect("tcp://127.0.0.1:9", timeout=0.5) as m:  # nobody listens there
        with pytest.raises(InvalidArgument, match=text):
            use(m.memory)
        assert not any(m.counters.values())
