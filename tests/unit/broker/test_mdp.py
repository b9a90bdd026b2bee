"""Section 10: clients and workers of MDP, as their codec presents them to the router."""

from __future__ import annotations

import pytest

from broker.state import CALL_OVERHEAD
from mesh import errors
from mesh.protocol import payload
from mesh.protocol.mdp import CLIENT, FORMS, LEGACY02, MDP01, MDP02, WORKER
from mesh.protocol.messages import (
    CANCEL,
    CHUNK,
    CREDIT,
    ERROR,
    FINAL,
    GOODBYE,
    HEARTBEAT,
    IDEMPOTENT,
    MORE,
    NORMAL,
    PARTIAL,
    RAW,
    REQUEST,
    STREAM,
    Message,
)
from tests.unit.broker.driver import Mesh, Out, bodies, brief, failure, only, request, requests

DIALECTS = [MDP01, MDP02, LEGACY02]
ALL = pytest.mark.parametrize("dialect", DIALECTS)


def reply(mesh: Mesh, peer: bytes, tag: int, *frames: bytes) -> Out:
    return mesh.say(peer, Message(FINAL, RAW, tag=tag, frames=list(frames)))


def part(mesh: Mesh, peer: bytes, tag: int, *frames: bytes) -> Out:
    return mesh.say(peer, Message(PARTIAL, RAW, tag=tag, credit=1, frames=list(frames)))


# -------------------------------------------------------------------- clients


@ALL
def test_a_request_of_an_mdp_client(mesh: Mesh, dialect: int) -> None:
    mesh.join(b"w1")
    assert mesh.ask_mdp(b"c1", dialect, b"echo", b"a", b"b") == [
        (
            b"w1",
            Message(
                REQUEST,
                IDEMPOTENT | RAW | STREAM,
                NORMAL,
                tag=1,
                timeout=30.0,
                credit=0xFFFFFFFF,
                service=b"echo",
                frames=[b"a", b"b"],
            ),
        )
    ]
    out = reply(mesh, b"w1", 1, b"x", b"y")
    assert only(out, b"c1", FINAL).service == b"echo"
    frames = FORMS[dialect, CLIENT].encode(out[0][1])
    assert frames is not None and frames[-2:] == [b"x", b"y"]
    mesh.assert_idle()


@ALL
def test_several_requests_of_one_client(mesh: Mesh, dialect: int) -> None:
    mesh.join(b"w1", window=2)
    mesh.ask_mdp(b"c1", dialect)
    mesh.ask_mdp(b"c1", dialect)
    assert bodies(reply(mesh, b"w1", 2, b"two")) == [[b"two"]]
    assert bodies(reply(mesh, b"w1", 1, b"one")) == [[b"one"]]


def test_no_body_at_all(mesh: Mesh) -> None:
    mesh.join(b"w1")
    assert bodies(mesh.ask_mdp(b"c1", MDP01)) == [[]]
    assert bodies(reply(mesh, b"w1", 1)) == [[]]


@pytest.mark.parametrize("dialect", [MDP02, LEGACY02])
def test_partials_reach_a_client_that_knows_them(mesh: Mesh, dialect: int) -> None:
    mesh.join_mdp(b"w1", MDP02)
    mesh.ask_mdp(b"c1", dialect)
    out = part(mesh, b"w1", 1, b"a", b"b") + part(mesh, b"w1", 1, b"c")
    out += reply(mesh, b"w1", 1, b"d")
    assert brief(out) == [(b"c1", "PARTIAL"), (b"c1", "PARTIAL"), (b"c1", "FINAL")]
    assert bodies(out) == [[b"a", b"b"], [b"c"], [b"d"]]
    assert {message.service for _, message in out} == {b"echo"}


def test_partials_are_kept_for_a_client_of_01(mesh: Mesh) -> None:
    mesh.join_mdp(b"w1", MDP02)
    mesh.ask_mdp(b"c1", MDP01, b"echo", b"body")
    assert part(mesh, b"w1", 1, b"a", b"b") == []
    assert part(mesh, b"w1", 1, b"c") == []
    assert mesh.router.held_bytes == 7 + CALL_OVERHEAD
    out = reply(mesh, b"w1", 1, b"d")
    assert brief(out) == [(b"c1", "FINAL")]
    assert bodies(out) == [[b"a", b"b", b"c", b"d"]]
    mesh.assert_idle()


def test_a_native_stream_for_a_client_of_01(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.ask_mdp(b"c1", MDP01)
    mesh.partial(b"w1", 1, 1, b"a")
    out = mesh.final(b"w1", 1, b"b")
    assert bodies(out) == [[b"a", b"b"]]
    assert FORMS[MDP01, CLIENT].encode(out[0][1]) == [b"", b"MDPC01", b"echo", b"a", b"b"]


@pytest.mark.parametrize("limits", [{"max_body": 10}, {"max_held_bytes": 10 + CALL_OVERHEAD}])
def test_what_is_kept_for_a_client_of_01_is_bounded(limits: dict[str, int]) -> None:
    mesh = Mesh(**limits)
    mesh.join_mdp(b"w1", MDP02)
    mesh.ask_mdp(b"c1", MDP01)
    assert part(mesh, b"w1", 1, b"x" * 10) == []
    out = part(mesh, b"w1", 1, b"y")
    assert brief(out) == [(b"c1", "ERROR"), (b"w1", "CANCEL")]
    assert FORMS[MDP01, CLIENT].encode(out[0][1]) is None
    assert part(mesh, b"w1", 1, b"z") == []
    assert reply(mesh, b"w1", 1) == []
    mesh.assert_idle()


def test_what_was_kept_of_a_lost_worker_is_thrown_away(mesh: Mesh) -> None:
    mesh.join_mdp(b"w1", MDP02)
    mesh.ask_mdp(b"c1", MDP01)
    part(mesh, b"w1", 1, b"half")
    mesh.join_mdp(b"w2", MDP02)
    out = mesh.lost(b"w1")
    assert brief(out) == [(b"w2", "REQUEST")]
    assert mesh.router.held_bytes == CALL_OVERHEAD
    assert bodies(reply(mesh, b"w2", 2, b"whole")) == [[b"whole"]]
    mesh.assert_idle()


def test_not_started_after_a_kept_part_is_not_believed(mesh: Mesh) -> None:
    mesh.join(b"w1")
    mesh.join(b"w2")
    mesh.ask_mdp(b"c1", MDP01)
    mesh.partial(b"w1", 1)
    assert brief(mesh.error(b"w1", 1, errors.NOT_STARTED)) == [(b"c1", "ERROR")]
    mesh.assert_idle()


def test_a_request_is_given_on_until_a_partial_was_forwarded(mesh: Mesh) -> None:
    mesh.join_mdp(b"w1", MDP02)
    mesh.ask_mdp(b"c1", MDP02)
    mesh.join_mdp(b"w2", MDP02)
    assert brief(mesh.lost(b"w1")) == [(b"w2", "REQUEST")]
    part(mesh, b"w2", 2, b"a")
    mesh.join_mdp(b"w3", MDP02)
    assert brief(mesh.lost(b"w2")) == [(b"c1", "ERROR")]
    mesh.assert_idle()


def test_a_request_waits_for_a_service_beyond_the_grace(mesh: Mesh) -> None:
    mesh.beating.add(b"w1")
    mesh.ask_mdp(b"c1", MDP01)
    assert mesh.wait(29.0) == []
    assert len(mesh.join(b"w1")) == 1
    assert brief(mesh.wait(1.1)) == [(b"c1", "ERROR"), (b"w1", "CANCEL")]


def test_a_request_for_which_no_service_came_ends(mesh: Mesh) -> None:
    mesh.ask_mdp(b"c1", MDP01)
    assert failure(mesh.wait(30.1), b"c1")[0] == errors.DEADLINE_EXCEEDED
    mesh.assert_idle()


def test_an_idle_mdp_client_is_forgotten(mesh: Mesh) -> None:
    mesh.ask_mdp(b"c1", MDP01)
    mesh.wait(31.0)
    assert b"c1" in mesh.router.clients
    mesh.wait(600.0)
    assert b"c1" not in mesh.router.clients


def test_dialect_and_numbers_cannot_be_mixed_to_confuse_the_broker(mesh: Mesh) -> None:
    """A native peer can state what only the codec of MDP should: no call may be lost by it."""
    mesh.join(b"w1", window=9)
    mesh.ask_mdp(b"c1", MDP01)
    assert mesh.ask(b"c1", 2) == []
    assert brief(mesh.ask_mdp(b"c1", MDP01)) == [(b"w1", "REQUEST")]
    mesh.lost(b"c1")
    mesh.final(b"w1", 1)
    mesh.final(b"w1", 2)
    mesh.assert_idle()


# -------------------------------------------------------------------- names


def test_a_dotted_name_is_a_method_where_no_such_service_is(mesh: Mesh) -> None:
    mesh.join(b"w1", b"cart")
    message = only(mesh.ask_mdp(b"c1", MDP01, b"cart.total"), b"w1", REQUEST)
    assert (message.service, message.method) == (b"cart", b"total")
    assert reply(mesh, b"w1", 1)[0][1].service == b"cart.total"


def test_parts_of_a_dotted_name_carry_that_name(mesh: Mesh) -> None:
    mesh.join(b"w1", b"cart")
    mesh.ask_mdp(b"c1", MDP02, b"cart.total")
    assert mesh.partial(b"w1", 1)[0][1].service == b"cart.total"


def test_a_dotted_service_that_exists_is_preferred(mesh: Mesh) -> None:
    mesh.join(b"w1", b"cart")
    mesh.join(b"w2", b"cart.total")
    message = only(mesh.ask_mdp(b"c1", MDP01, b"cart.total"), b"w2", REQUEST)
    assert (message.service, message.method) == (b"cart.total", b"")
    assert reply(mesh, b"w2", 1)[0][1].service == b"cart.total"


def test_a_dotted_name_is_served_by_whoever_comes(mesh: Mesh) -> None:
    mesh.ask_mdp(b"c1", MDP01, b"cart.total")
    mesh.ask(b"c2", 1, service=b"cart.total")
    out = mesh.join(b"w1", b"cart", window=3, methods={"total": {}})
    assert [(p, m.service, m.method) for p, m in out] == [(b"w1", b"cart", b"total")]
    assert brief(mesh.ask_mdp(b"c1", MDP01, b"cart.total")) == [(b"w1", "REQUEST")]
    out = mesh.join(b"w2", b"cart.total")
    assert requests(out) == [(b"w2", 1)]
    mesh.ask_mdp(b"c1", MDP01, b"shop.")
    assert mesh.join(b"w3", b"shop") == []


def test_a_native_request_for_a_dotted_name_means_that_service(mesh: Mesh) -> None:
    mesh.join(b"w1", b"cart")
    assert mesh.ask(b"c1", 1, service=b"cart.total") == []


def test_all_mdp_traffic_goes_to_the_writer_lane(mesh: Mesh) -> None:
    methods = {"get": {"lane": ""}, "put": {"lane": "writer"}}
    mesh.join(b"reader", b"store", methods=methods)
    mesh.join(b"writer", b"store", lanes={"writer": 2}, methods=methods)
    assert mesh.ask_mdp(b"c1", MDP01, b"store")[0][0] == b"writer"
    assert mesh.ask_mdp(b"c1", MDP01, b"store.get")[0][0] == b"writer"
    assert requests(mesh.ask(b"c2", 1, b"get", service=b"store")) == [(b"reader", 1)]


def test_mdp_requests_that_waited_go_to_the_writer_lane(mesh: Mesh) -> None:
    mesh.ask_mdp(b"c1", MDP01, b"store")
    out = mesh.join(b"w1", b"store", lanes={"": 1, "writer": 1})
    assert brief(out) == [(b"w1", "REQUEST")]
    assert mesh.router.workers[b"w1"].seats[b"writer"].in_flight == 1


# -------------------------------------------------------------------- workers


@ALL
def test_a_worker_of_mdp_gets_one_request_and_is_not_welcomed(mesh: Mesh, dialect: int) -> None:
    assert mesh.join_mdp(b"w1", dialect) == []
    out = mesh.ask(b"c1", 1, frames=[b"body", b"meta"])
    frames = FORMS[dialect, WORKER].encode(out[0][1])
    assert frames is not None
    assert frames[-4:] == [b"\x02", (1).to_bytes(8, "big"), b"", b"body"]
    assert mesh.ask(b"c1", 2) == []
    out = reply(mesh, b"w1", 1, b"x")
    assert brief(out) == [(b"c1", "FINAL"), (b"w1", "REQUEST")]
    assert out[0][1].sequence == 1


@ALL
def test_an_unsolicited_reply_is_answered_with_disconnect(mesh: Mesh, dialect: int) -> None:
    mesh.join_mdp(b"w1", dialect)
    out = reply(mesh, b"w1", 0, b"x")
    assert brief(out) == [(b"w1", "GOODBYE")]
    assert FORMS[dialect, WORKER].encode(out[0][1]) is not None
    assert reply(mesh, b"w1", 0, b"x") == []


def test_a_reply_to_another_workers_request_is_answered_with_disconnect(mesh: Mesh) -> None:
    mesh.join_mdp(b"w1", MDP01)
    mesh.join_mdp(b"w2", MDP01)
    mesh.ask(b"c1", 1)
    assert brief(reply(mesh, b"w2", 1)) == [(b"w2", "GOODBYE")]
    assert brief(reply(mesh, b"w1", 1)) == [(b"c1", "FINAL")]


def test_a_second_reply_is_answered_with_disconnect(mesh: Mesh) -> None:
    mesh.join_mdp(b"w1", MDP01)
    mesh.ask(b"c1", 1)
    reply(mesh, b"w1", 1)
    assert brief(reply(mesh, b"w1", 1)) == [(b"w1", "GOODBYE")]


def test_a_second_ready_is_answered_with_disconnect(mesh: Mesh) -> None:
    mesh.join_mdp(b"w1", MDP01)
    mesh.ask(b"c1", 1, flags=IDEMPOTENT)
    mesh.join_mdp(b"w2", MDP01)
    out = mesh.join_mdp(b"w1", MDP01)
    assert brief(out) == [(b"w1", "GOODBYE"), (b"w2", "REQUEST")]


@ALL
def test_a_heartbeat_before_ready_is_answered_with_disconnect(mesh: Mesh, dialect: int) -> None:
    assert brief(mesh.say(b"w1", Message(HEARTBEAT))) == [(b"w1", "GOODBYE")]
    assert mesh.join_mdp(b"w1", dialect) == []
    assert mesh.router.workers == {}


def test_disconnect_gives_the_request_to_another(mesh: Mesh) -> None:
    mesh.join_mdp(b"w1", MDP01)
    mesh.ask_mdp(b"c1", MDP01)
    mesh.join_mdp(b"w2", MDP01)
    assert brief(mesh.say(b"w1", Message(GOODBYE))) == [(b"w2", "REQUEST")]


def test_an_idle_worker_is_lost_after_four_intervals(mesh: Mesh) -> None:
    mesh.join_mdp(b"w1", MDP01)
    assert mesh.wait(9.9) == []
    assert requests(mesh.ask(b"c1", 1, flags=IDEMPOTENT)) == [(b"w1", 1)]
    reply(mesh, b"w1", 1)
    assert mesh.wait(9.9) == []
    assert brief(mesh.wait(0.3)) == [(b"w1", "GOODBYE")]


def test_a_busy_worker_may_be_silent_for_long(mesh: Mesh) -> None:
    mesh.join_mdp(b"w1", MDP01)
    mesh.ask(b"c1", 1, timeout=300.0)
    assert mesh.wait(299.0) == []
    assert brief(mesh.wait(600.0)) == [(b"c1", "ERROR"), (b"w1", "CANCEL")]
    assert b"w1" in mesh.router.workers
    assert brief(mesh.wait(2.0)) == [(b"w1", "GOODBYE")]


def test_parts_that_a_native_client_did_not_ask_for_end_the_call_only(mesh: Mesh) -> None:
    """A worker of MDP cannot know what the client takes."""
    mesh.join_mdp(b"w1", MDP02)
    mesh.ask(b"c1", 1)
    assert failure(part(mesh, b"w1", 1, b"a"), b"c1")[0] == errors.PROTOCOL
    assert part(mesh, b"w1", 1, b"b") == []
    assert reply(mesh, b"w1", 1) == []
    assert requests(mesh.ask(b"c1", 2)) == [(b"w1", 2)]


def test_undelivered_parts_end_the_call_of_an_mdp_client(mesh: Mesh) -> None:
    mesh.join_mdp(b"w1", MDP02)
    mesh.ask_mdp(b"c1", MDP02)
    out = part(mesh, b"w1", 1, b"a")
    assert brief(mesh.undelivered(*out[0])) == [(b"w1", "CANCEL"), (b"c1", "ERROR")]


# -------------------------------------------------------------------- what a dialect cannot say


def test_a_stream_to_a_worker_of_mdp_is_refused(mesh: Mesh) -> None:
    mesh.join_mdp(b"w1", MDP02)
    out = mesh.ask(b"c1", 1, flags=MORE)
    assert FORMS[MDP02, WORKER].encode(out[0][1]) is None
    mesh.ask(b"c2", 1)
    mesh.router.inexpressible(*out[0])
    out = mesh.out()
    assert brief(out) == [(b"c1", "ERROR"), (b"w1", "REQUEST")]
    assert (out[0][1].code, out[0][1].flags) == (errors.INVALID_ARGUMENT, 0)


def test_a_stream_to_a_worker_of_mdp_that_nobody_waits_for(mesh: Mesh) -> None:
    mesh.join_mdp(b"w1", MDP02)
    out = mesh.ask(b"c1", 1, flags=MORE)
    mesh.cancel(b"c1", 1)
    mesh.router.inexpressible(*out[0])
    assert mesh.out() == []
    assert mesh.router.workers[b"w1"].seats[b""].in_flight == 0
    mesh.assert_idle()


def test_a_stream_to_a_worker_of_mdp_that_left_and_came_back(mesh: Mesh) -> None:
    mesh.join_mdp(b"w1", MDP02)
    out = mesh.ask(b"c1", 1, flags=MORE)
    mesh.say(b"w1", Message(GOODBYE))
    mesh.router.inexpressible(*out[0])
    mesh.join_mdp(b"w1", MDP02)
    mesh.router.inexpressible(*out[0])
    assert mesh.out() == []


@pytest.mark.parametrize("command", [CREDIT, CANCEL, CHUNK])
def test_what_else_cannot_be_said_is_counted(mesh: Mesh, command: int) -> None:
    mesh.join_mdp(b"w1", MDP02)
    mesh.ask(b"c1", 1)
    mesh.router.inexpressible(b"w1", Message(command, tag=1))
    mesh.router.inexpressible(b"c9", Message(command, tag=1))
    assert mesh.out() == []
    assert mesh.counted("dropped:inexpressible") == 2
    assert mesh.counted("mdp:unanswered") == 0


@ALL
def test_a_failure_that_mdp_cannot_tell_is_no_drop(mesh: Mesh, dialect: int) -> None:
    mesh.ask_mdp(b"c1", dialect)
    mesh.wait(30.1)
    mesh.ask_mdp(b"c1", dialect)
    mesh.router.farewell()
    for peer, message in [*mesh.out(), (b"c1", Message(ERROR, code=errors.WORKER_LOST))]:
        assert FORMS[dialect, CLIENT].encode(message) is None
        mesh.router.inexpressible(peer, message)
    assert mesh.counted("mdp:unanswered") == 2
    assert mesh.counted("dropped:inexpressible") == 0


# -------------------------------------------------------------------- MMI


def mmi(mesh: Mesh, name: bytes, *body: bytes) -> list[bytes]:
    message = only(mesh.ask_mdp(b"mmi", MDP01, name, *body), b"mmi", FINAL)
    assert message.service == name
    return [bytes(frame) for frame in message.frames]


def native_mmi(mesh: Mesh, method: bytes, frames: list[bytes]) -> list[bytes]:
    message = only(
        mesh.say(b"nat", request(1, method, service=b"mmi", frames=frames)), b"nat", FINAL
    )
    assert message.sequence == 1 and message.incarnation == 77
    return [bytes(frame) for frame in message.frames]


def test_mmi_service(mesh: Mesh) -> None:
    assert mmi(mesh, b"mmi.service", b"echo") == [b"404"]
    mesh.join(b"w1")
    assert mmi(mesh, b"mmi.service", b"echo") == [b"200"]
    assert mmi(mesh, b"mmi.service", b"other") == [b"404"]
    assert mmi(mesh, b"mmi.service") == [b"404"]
    mesh.lost(b"w1")
    assert mmi(mesh, b"mmi.service", b"echo") == [b"404"]


def test_mmi_services_and_workers(mesh: Mesh) -> None:
    assert mmi(mesh, b"mmi.services") == []
    mesh.join(b"w1", b"a")
    mesh.join(b"w2", b"b")
    mesh.join(b"w3", b"b")
    mesh.ask(b"c1", 1, service=b"nobody")
    assert mmi(mesh, b"mmi.services") == [b"a", b"b"]
    assert mesh.router.accepted == 1
    assert mmi(mesh, b"mmi.workers", b"b") == [b"2"]
    assert mmi(mesh, b"mmi.workers", b"z") == [b"0"]
    assert mmi(mesh, b"mmi.workers") == [b"0"]


@pytest.mark.parametrize("name", [b"mmi.", b"mmi.x", b"mmi.service.x", b"mmi"])
def test_other_mmi_is_not_implemented(mesh: Mesh, name: bytes) -> None:
    assert mmi(mesh, name, b"echo") == [b"501"]


def test_native_mmi(mesh: Mesh) -> None:
    mesh.join(b"w1")
    assert native_mmi(mesh, b"service", [payload.encode([["echo"]])]) == [b"200"]
    assert native_mmi(mesh, b"workers", [payload.encode([["echo"]])]) == [b"1"]


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", payload.encode(7), payload.encode({}), payload.encode([]), payload.encode([7]),
     payload.encode([[7]]), payload.encode([[["echo"]]]), payload.encode({0: {0: []}})],
)  # fmt: skip
def test_native_mmi_about_nothing(mesh: Mesh, body: bytes) -> None:
    mesh.join(b"w1")
    assert native_mmi(mesh, b"service", [body]) == [b"404"]
