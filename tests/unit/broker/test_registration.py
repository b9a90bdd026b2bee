"""Section 6 of the protocol: who may register, what is answered, and who is turned away."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mesh import errors
from mesh.protocol import payload
from mesh.protocol.mdp import NATIVE
from mesh.protocol.messages import (
    CAPACITY,
    CHUNK,
    DRAIN,
    END,
    ERROR,
    FINAL,
    GOODBYE,
    HEARTBEAT,
    HELLO,
    PARTIAL,
    READY,
    REQUEST,
    WELCOME,
    Message,
)
from tests.unit.broker.driver import Mesh, brief, only, requests

EXPELLED = Message(GOODBYE, code=errors.PROTOCOL)


def test_hello_is_welcomed(mesh: Mesh) -> None:
    out = mesh.hello(b"c1", name="shop", host="h", pid=7)
    assert out[0][0] == b"c1"
    assert payload.decode_map(only(out, b"c1", WELCOME).body) == {
        "capabilities": 0,
        "heartbeat": 0.5,
        "broker": "broker-1",
        "max_body": 64 * 1024 * 1024,
        "brokers": 0,
    }
    client = mesh.router.clients[b"c1"]
    assert (client.name, client.host, client.pid) == ("shop", "h", 7)


def test_ready_is_welcomed(mesh: Mesh) -> None:
    out = mesh.ready(
        b"w1", b"echo", {"lanes": {"": 2}, "instance": "i", "version": "1.0", "pid": 3}
    )
    assert payload.decode_map(only(out, b"w1", WELCOME).body)["broker"] == "broker-1"
    worker = mesh.router.workers[b"w1"]
    assert (worker.instance, worker.version, worker.pid) == ("i", "1.0", 3)
    assert worker.seats[b""].window == 2


@pytest.mark.parametrize(
    ("proposed", "agreed"),
    [
        (2.0, 2.0),
        (2, 2.0),
        (0.1, 0.5),
        (1e9, 10.0),
        (math.inf, 10.0),
        (math.nan, 0.5),
        (-1, 0.5),
        ("fast", 0.5),
        (True, 0.5),
        pytest.param(10**400, 10.0, id="huge"),
    ],
)
def test_heartbeat_is_the_slower_proposal(mesh: Mesh, proposed: Any, agreed: float) -> None:
    hello = mesh.hello(b"c1", heartbeat=proposed)
    assert payload.decode_map(hello[0][1].body)["heartbeat"] == agreed
    ready = mesh.ready(b"w1", b"echo", {"lanes": {"": 1}, "heartbeat": proposed})
    assert payload.decode_map(ready[0][1].body)["heartbeat"] == agreed
    assert mesh.router.workers[b"w1"].heartbeat == agreed


def test_a_broker_never_beats_faster_than_ten_times_a_second() -> None:
    mesh = Mesh(heartbeat=0.01)
    assert payload.decode_map(mesh.hello(b"c1")[0][1].body)["heartbeat"] == 0.1


@pytest.mark.parametrize(
    "fields",
    [
        {"lanes": {}},
        {"lanes": []},
        {"lanes": {"": 0}},
        {"lanes": {"": -1}},
        {"lanes": {"": True}},
        {"lanes": {"": 1.5}},
        {"lanes": {"": "many"}},
        {"lanes": {7: 1}},
        {"lanes": {"x" * 201: 1}},
        {"lanes": {f"lane{i}": 1 for i in range(65)}},
        {"methods": []},
        {"methods": {"m": 1}},
        {"methods": {3: {}}},
        {"methods": {"m": {"lane": 1}}},
        {"methods": {"m": {"lane": "x" * 201}}},
        {"methods": {"m" * 201: {}}},
        {"methods": {f"m{i}": {} for i in range(4097)}},
    ],
)
def test_a_bad_ready_is_refused_and_its_sender_ignored(mesh: Mesh, fields: dict[str, Any]) -> None:
    assert mesh.ready(b"w1", b"echo", fields) == [(b"w1", EXPELLED)]
    assert mesh.router.workers == {}
    assert mesh.ready(b"w1", b"echo", {"lanes": {"": 1}}) == []
    assert mesh.counted("refused:bad_ready") == 1
    assert mesh.counted("dropped:expelled") == 1


@pytest.mark.parametrize(
    "body", [b"\xc1", b"\x93\x01", payload.encode([1]), payload.encode({1: 2})]
)
def test_a_ready_that_is_no_map_is_refused(mesh: Mesh, body: bytes) -> None:
    message = Message(READY, service=b"echo", frames=[body])
    assert mesh.say(b"w1", message) == [(b"w1", EXPELLED)]


@pytest.mark.parametrize(
    "name",
    [b"", b"mmi", b"mmi.x", b"mesh", b"mesh.broker", b".a", b"a.", b"\xff", b"x" * 201],
)
def test_reserved_and_malformed_names_are_refused(mesh: Mesh, name: bytes) -> None:
    assert mesh.ready(b"w1", name, {"lanes": {"": 1}}) == [(b"w1", EXPELLED)]
    assert mesh.router.services == {}


def test_an_empty_ready_has_one_lane_of_one(mesh: Mesh) -> None:
    only(mesh.say(b"w1", Message(READY, service=b"echo")), b"w1", WELCOME)
    assert mesh.router.workers[b"w1"].seats[b""].window == 1


def test_ready_twice_is_expelled(mesh: Mesh) -> None:
    mesh.join(b"w1")
    assert mesh.join(b"w1", b"other") == [(b"w1", EXPELLED)]
    assert mesh.router.workers == {}
    assert mesh.say(b"w1", Message(HEARTBEAT)) == []


def test_an_expelled_peer_may_return_over_a_new_connection(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.join(b"w1")
    mesh.lost(b"w1")
    assert brief(mesh.ready(b"w1", b"echo", {"lanes": {"": 1}})) == [(b"w1", "WELCOME")]


def test_the_list_of_expelled_peers_is_bounded(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.membership.EXPELLED_KEPT", 3)
    for number in range(10):
        mesh.ready(b"w%d" % number, b"mmi", {})
    assert list(mesh.router.expelled) == [b"w7", b"w8", b"w9"]


@pytest.mark.parametrize("command", [HEARTBEAT, FINAL, PARTIAL, ERROR, CAPACITY, WELCOME])
def test_a_worker_command_before_ready_is_turned_away(mesh: Mesh, command: int) -> None:
    assert mesh.say(b"w1", Message(command, tag=1)) == [(b"w1", EXPELLED)]
    assert mesh.join(b"w1") == []
    assert mesh.router.workers == {}


@pytest.mark.parametrize("command", [DRAIN, GOODBYE, CHUNK, END])
def test_a_strangers_word_without_consequence_is_counted(mesh: Mesh, command: int) -> None:
    assert mesh.say(b"x", Message(command, sequence=5)) == []
    assert mesh.counted("dropped:unknown_peer") == 1


@pytest.mark.parametrize("command", [FINAL, PARTIAL, ERROR, CAPACITY, WELCOME])
def test_a_client_that_speaks_as_a_worker_is_ignored_but_kept(mesh: Mesh, command: int) -> None:
    mesh.hello(b"c1")
    assert mesh.say(b"c1", Message(command, tag=1)) == []
    assert b"c1" in mesh.router.clients
    assert mesh.counted("dropped:unexpected_command") == 1


@pytest.mark.parametrize("command", [HELLO, WELCOME, REQUEST])
def test_a_worker_that_speaks_as_a_client_is_expelled(mesh: Mesh, command: int) -> None:
    mesh.join(b"w1")
    message = Message(command, sequence=1, service=b"echo", method=b"m")
    assert mesh.say(b"w1", message) == [(b"w1", EXPELLED)]
    assert mesh.router.workers == {}


def test_a_client_that_becomes_a_worker_loses_its_calls(mesh: Mesh) -> None:
    mesh.ask(b"c1", 1)
    mesh.join(b"c1", b"other")
    assert mesh.router.clients == {}
    assert mesh.counted("cancelled:client_lost") == 1
    mesh.assert_idle()


def test_a_bad_hello_is_dropped(mesh: Mesh) -> None:
    assert mesh.say(b"c1", Message(HELLO, frames=[b"\xc1"])) == []
    assert mesh.counted("dropped:bad_hello") == 1


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(10**5000, id="huge"),
        {"a": [1]},
        b"\xff",
        None,
        1.5,
        pytest.param("x" * 100_000, id="long"),
    ],
)
def test_odd_facts_about_a_peer_do_no_harm(mesh: Mesh, value: Any) -> None:
    keys = ("name", "host", "pid", "instance", "version", "mdp", "capabilities", "heartbeat")
    assert brief(mesh.hello(b"c1", **dict.fromkeys(keys, value))) == [(b"c1", "WELCOME")]
    out = mesh.ready(b"w1", b"echo", {"lanes": {"": 1}, **dict.fromkeys(keys, value)})
    assert brief(out) == [(b"w1", "WELCOME")]
    worker = mesh.router.workers[b"w1"]
    assert len(worker.instance) <= 200 and len(worker.host) <= 200 and worker.pid == 0
    assert worker.dialect == NATIVE


def test_lanes_that_nobody_serves_any_more_are_forgotten(mesh: Mesh) -> None:
    for number in range(20):
        mesh.join(b"w%d" % number, lanes={"": 1, f"lane{number}": 1})
        if number:
            mesh.lost(b"w%d" % (number - 1))
    mesh.beating.add(b"w19")
    mesh.wait(1.0)
    assert mesh.router.services[b"echo"].lanes.keys() == {b"", b"lane19"}


def test_a_lane_in_which_calls_wait_is_kept(mesh: Mesh) -> None:
    methods = {"put": {"lane": "writer"}}
    mesh.beating |= {b"w1", b"w2"}
    mesh.join(b"w1", lanes={"": 1}, methods=methods)
    assert mesh.ask(b"c1", 1, b"put") == []
    mesh.wait(1.0)
    assert requests(mesh.join(b"w2", lanes={"": 1, "writer": 1}, methods=methods)) == [(b"w2", 1)]


def test_deeply_nested_facts_do_no_harm(mesh: Mesh) -> None:
    body = b"\x81\xa4name" + b"\x91" * 900 + b"\xc0"
    assert brief(mesh.say(b"c1", Message(HELLO, frames=[body]))) == [(b"c1", "WELCOME")]
    nest = b"\xc0"
    for _ in range(2000):
        nest = b"\xc9" + len(nest).to_bytes(4, "big") + b"\x03" + nest
    body = b"\x81\xa4name" + nest
    assert mesh.say(b"c2", Message(HELLO, frames=[body])) == []


def test_heartbeat_of_a_client_is_answered(mesh: Mesh) -> None:
    mesh.hello(b"c1")
    assert mesh.say(b"c1", Message(HEARTBEAT)) == [(b"c1", Message(HEARTBEAT))]


def test_heartbeat_of_a_worker_is_not_answered(mesh: Mesh) -> None:
    mesh.join(b"w1")
    assert mesh.say(b"w1", Message(HEARTBEAT, credit=1, sequence=2)) == []


def test_a_huge_window_is_cut(mesh: Mesh) -> None:
    mesh.join(b"w1", window=10**30)
    assert mesh.router.workers[b"w1"].seats[b""].window == 10_000
    mesh.capacity(b"w1", b"", 0xFFFFFFFF)
    assert mesh.router.workers[b"w1"].seats[b""].window == 10_000


def lane_of(mesh: Mesh, method: bytes) -> bytes | None:
    found = mesh.router.services[b"echo"].methods.get(method)
    return found.lane if found is not None else None


def test_the_methods_of_a_service_are_those_of_its_present_workers(mesh: Mesh) -> None:
    mesh.join(b"old", methods={"get": {}, "put": {"lane": "slow"}, "gone": {"idempotent": True}})
    mesh.join(b"new", methods={"get": {}, "put": {"lane": "writer"}})
    assert (lane_of(mesh, b"put"), lane_of(mesh, b"gone")) == (b"writer", b"")
    mesh.lost(b"old")
    assert (lane_of(mesh, b"put"), lane_of(mesh, b"gone")) == (b"writer", None)
    mesh.join(b"older", methods={"put": {"lane": "slow"}})
    assert lane_of(mesh, b"put") == b"slow"
    mesh.say(b"older", Message(GOODBYE))
    assert (lane_of(mesh, b"put"), lane_of(mesh, b"get")) == (b"writer", b"")
    mesh.lost(b"new")
    assert mesh.router.services[b"echo"].methods == {}


def test_a_method_that_was_idempotent_in_a_version_that_left_is_not(mesh: Mesh) -> None:
    mesh.join(b"old", methods={"m": {"idempotent": True}})
    mesh.join(b"w1", methods={"m": {}})
    mesh.join(b"w2", methods={"m": {}})
    mesh.lost(b"old")
    out = mesh.ask(b"c1", 1)
    assert brief(mesh.lost(out[0][0])) == [(b"c1", "ERROR")]


def test_thousands_of_workers_share_what_they_declare_alike(mesh: Mesh) -> None:
    for number in range(100):
        mesh.join(b"w%d" % number, methods={"get": {}, "put": {"lane": "writer"}})
    held = mesh.router.services[b"echo"].declarations[b"put"].values()
    assert len(held) == 100 and len({id(method) for method in held}) == 1
