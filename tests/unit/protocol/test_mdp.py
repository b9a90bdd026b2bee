"""The MDP codec against the frames of the RFCs, written out once for each dialect."""

from __future__ import annotations

import pytest

from mesh.errors import ProtocolError
from mesh.protocol import mdp, payload
from mesh.protocol.mdp import CLIENT, FORMS, LEGACY02, MDP01, MDP02, NATIVE, WORKER
from mesh.protocol.messages import (
    CANCEL,
    CAPACITY,
    CHUNK,
    CREDIT,
    DRAIN,
    END,
    ERROR,
    FINAL,
    GOODBYE,
    HEARTBEAT,
    IDEMPOTENT,
    MORE,
    NORMAL,
    PARTIAL,
    RAW,
    READY,
    REQUEST,
    WELCOME,
    Message,
)

TAG = 0x0102030405060708
ADDRESS = bytes.fromhex("0102030405060708")
LARGE = memoryview(bytes(70_000))  # stands for a frame that the transport owns

BODIES = [[], [b""], [b"one"], [b"one", b"", b"three"]]
DIALECTS = [MDP01, MDP02, LEGACY02]

CLIENT_HEADS = {
    # dialect: (REQUEST, PARTIAL, FINAL), each up to the service name or the body
    MDP01: ([b"", b"MDPC01"], None, [b"", b"MDPC01", b"echo"]),
    MDP02: ([b"MDPC02", b"\1"], [b"MDPC02", b"\2", b"echo"], [b"MDPC02", b"\3", b"echo"]),
    LEGACY02: ([b"", b"MDPC02", b"\2"], [b"", b"MDPC02", b"\3"], [b"", b"MDPC02", b"\4"]),
}
WORKER_HEADS = {MDP01: [b"", b"MDPW01"], MDP02: [b"MDPW02"], LEGACY02: [b"", b"MDPW02"]}
REPLIES = [
    (MDP01, b"\3", FINAL, 0),
    (MDP02, b"\3", PARTIAL, 1),
    (MDP02, b"\4", FINAL, 0),
    (LEGACY02, b"\3", PARTIAL, 1),
    (LEGACY02, b"\4", FINAL, 0),
]
SIGNALS = [
    (MDP01, b"\4", HEARTBEAT),
    (MDP01, b"\5", GOODBYE),
    (MDP02, b"\5", HEARTBEAT),
    (MDP02, b"\6", GOODBYE),
    (LEGACY02, b"\5", HEARTBEAT),
    (LEGACY02, b"\6", GOODBYE),
]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([b"", b"MDPC01"], (MDP01, CLIENT)),
        ([b"", b"MDPW01", b"\1", b"echo"], (MDP01, WORKER)),
        ([b"MDPC02", b"\1", b"echo"], (MDP02, CLIENT)),
        ([b"MDPW02"], (MDP02, WORKER)),
        ([b"", b"MDPC02", b"\2", b"echo"], (LEGACY02, CLIENT)),
        ([b"", b"MDPW02", b"\1", b"echo"], (LEGACY02, WORKER)),
        ([b"MDPC01", b"echo"], None),
        ([b"MDPW01", b"\1", b"echo"], None),
        ([b"", b"", b"MDPC01"], None),
        ([b"", b"MDPC03"], None),
        ([b"MDPC02x"], None),
        ([b""], None),
        ([], None),
        ([LARGE], None),
        ([b"", LARGE], None),
    ],
)
def test_the_first_frames_name_the_dialect(
    frames: list[bytes], expected: tuple[int, str] | None
) -> None:
    form = mdp.form_of([b"route", *frames], 1)
    assert (form and (form.dialect, form.role)) == expected
    assert mdp.dialect_of([b"route", *frames], 1) == (expected and expected[0])


def test_a_native_header_is_its_own_dialect() -> None:
    assert mdp.dialect_of([b"\xe5\x01" + bytes(38)]) == NATIVE
    assert mdp.dialect_of([b"", b"\xe5\x01" + bytes(38)]) is None
    assert mdp.dialect_of([b"\xe5\x02" + bytes(38)]) is None
    assert mdp.form_of([b"\xe5\x01" + bytes(38)]) is None


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_request_of_a_client(dialect: int, body: list[bytes]) -> None:
    request_head, _, _ = CLIENT_HEADS[dialect]
    message = FORMS[dialect, CLIENT].decode([b"route", *request_head, b"echo", *body], 1)
    assert message == Message(REQUEST, IDEMPOTENT | RAW, NORMAL, service=b"echo", frames=body)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_replies_to_a_client(dialect: int, body: list[bytes]) -> None:
    _, partial_head, final_head = CLIENT_HEADS[dialect]
    form = FORMS[dialect, CLIENT]
    final = Message(FINAL, RAW, service=b"echo", frames=body)
    assert form.encode(final) == [*final_head, *body]
    partial = Message(PARTIAL, RAW, service=b"echo", frames=body)
    assert form.encode(partial) == (None if partial_head is None else [*partial_head, *body])


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_request_to_a_worker(dialect: int, body: list[bytes]) -> None:
    message = Message(REQUEST, RAW, tag=TAG, service=b"echo", frames=body)
    frames = [*WORKER_HEADS[dialect], b"\2", ADDRESS, b"", *body]
    assert FORMS[dialect, WORKER].encode(message) == frames


@pytest.mark.parametrize("dialect", DIALECTS)
def test_ready_of_a_worker_has_one_lane_of_one(dialect: int) -> None:
    message = FORMS[dialect, WORKER].decode([*WORKER_HEADS[dialect], b"\1", b"echo"])
    assert (message.command, message.service) == (READY, b"echo")
    assert payload.decode_map(message.body) == {"lanes": {"": 1}}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(("dialect", "octet", "command", "items"), REPLIES)
def test_replies_of_a_worker(
    dialect: int, octet: bytes, command: int, items: int, body: list[bytes]
) -> None:
    frames = [*WORKER_HEADS[dialect], octet, ADDRESS, b"", *body]
    message = FORMS[dialect, WORKER].decode([b"route", *frames], 1)
    assert message == Message(command, RAW, tag=TAG, credit=items, frames=body)


@pytest.mark.parametrize("address", [b"", b"x", b"\0\0\0\0\0\0\0", bytes(9), LARGE])
@pytest.mark.parametrize(("dialect", "octet", "command", "items"), REPLIES)
def test_an_address_that_is_no_tag_is_tag_zero(
    dialect: int, octet: bytes, command: int, items: int, address: bytes
) -> None:
    message = FORMS[dialect, WORKER].decode([*WORKER_HEADS[dialect], octet, address, b"", b"x"])
    assert (message.command, message.tag) == (command, 0)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_request_from_a_worker_is_a_reply_that_nobody_waits_for(dialect: int) -> None:
    message = FORMS[dialect, WORKER].decode([*WORKER_HEADS[dialect], b"\2", ADDRESS, b"", b"x"])
    assert (message.command, message.tag) == (FINAL, 0)


@pytest.mark.parametrize(("dialect", "octet", "command"), SIGNALS)
def test_heartbeat_and_disconnect_go_both_ways(dialect: int, octet: bytes, command: int) -> None:
    frames = [*WORKER_HEADS[dialect], octet]
    form = FORMS[dialect, WORKER]
    assert form.decode(frames) == Message(command)
    assert form.encode(Message(command)) == frames


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_mdp_has_no_words_for(dialect: int) -> None:
    for command in (WELCOME, DRAIN, CANCEL, CREDIT, CHUNK, END, READY, CAPACITY, ERROR):
        assert FORMS[dialect, WORKER].encode(Message(command)) is None
        assert FORMS[dialect, CLIENT].encode(Message(command)) is None
    for command in (HEARTBEAT, GOODBYE, REQUEST):
        assert FORMS[dialect, CLIENT].encode(Message(command)) is None
    assert FORMS[dialect, WORKER].encode(Message(REQUEST, MORE, tag=TAG)) is None
    assert FORMS[dialect, WORKER].encode(Message(FINAL, tag=TAG)) is None


def test_native_metadata_does_not_cross_over() -> None:
    frames = [b"payload", b"metadata"]
    native_call = Message(REQUEST, tag=TAG, service=b"echo", frames=frames)
    assert FORMS[MDP02, WORKER].encode(native_call) == [
        b"MDPW02",
        b"\2",
        ADDRESS,
        b"",
        b"payload",
    ]
    native_reply = Message(FINAL, service=b"echo", frames=frames)
    assert FORMS[MDP02, CLIENT].encode(native_reply) == [b"MDPC02", b"\3", b"echo", b"payload"]


def bad_client_messages() -> list[tuple[int, list[object]]]:
    found: list[tuple[int, list[object]]] = [
        (MDP02, [b"MDPC02", b"\2", b"echo"]),
        (MDP02, [b"MDPC02", b"", b"echo"]),
        (MDP02, [b"MDPC02", b"\1\1", b"echo"]),
        (MDP02, [b"MDPC02", LARGE, b"echo"]),
        (LEGACY02, [b"", b"MDPC02", b"\1", b"echo"]),
    ]
    for dialect, (head, _, _) in CLIENT_HEADS.items():
        found += [(dialect, head[:length]) for length in range(len(head) + 1)]
        found += [(dialect, [*head, name, b"body"]) for name in (b"", b"x" * 201, LARGE)]
        found += [(dialect, [*head, b"echo", *[b""] * 5000])]
        found += [(dialect, other) for other in CLIENT_HEADS.values() if other[0] != head]
    return found


@pytest.mark.parametrize(("dialect", "frames"), bad_client_messages())
def test_what_no_client_says_is_refused(dialect: int, frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        FORMS[dialect, CLIENT].decode(frames)


def bad_worker_messages() -> list[tuple[int, list[object]]]:
    found: list[tuple[int, list[object]]] = [(MDP01, [b"", b"MDPW01", b"\6"])]
    for dialect, head in WORKER_HEADS.items():
        found += [(dialect, head[:length]) for length in range(len(head) + 1)]
        found += [(dialect, [*head, octet]) for octet in (b"", b"\0", b"\x07", b"\1\1", LARGE)]
        found += [(dialect, [*head, b"\1", *rest]) for rest in ([], [b""], [LARGE], [b"a", b"b"])]
        found += [(dialect, [*head, b"\1", b"x" * 201])]
        for octet in (b"\2", b"\3"):
            found += [(dialect, [*head, octet, *rest]) for rest in ([], [ADDRESS])]
            found += [(dialect, [*head, octet, ADDRESS, b"no gap", b"body"])]
            found += [(dialect, [*head, octet, ADDRESS, LARGE, b"body"])]
            found += [(dialect, [*head, octet, ADDRESS, b"", *[b""] * 5000])]
    found += [(dialect, [*WORKER_HEADS[dialect], octet, b""]) for dialect, octet, _ in SIGNALS]
    return found


@pytest.mark.parametrize(("dialect", "frames"), bad_worker_messages())
def test_what_no_worker_says_is_refused(dialect: int, frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        FORMS[dialect, WORKER].decode(frames)
