"""Codecs under arbitrary input: what goes in comes out, and garbage raises ProtocolError only."""

from __future__ import annotations

import datetime as dt
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument, ProtocolError
from mesh.protocol import mdp, native, payload
from mesh.protocol.mdp import CLIENT, FORMS, WORKER
from mesh.protocol.messages import (
    END,
    FINAL,
    MAX_NAME,
    NAMES,
    PARTIAL,
    PRIORITIES,
    RAW,
    REQUEST,
    Message,
)

U8 = st.integers(0, 0xFF)
U32 = st.integers(0, 0xFFFFFFFF)
U64 = st.integers(0, (1 << 64) - 1)
NAME = st.binary(min_size=1, max_size=MAX_NAME)
FRAMES = st.lists(st.binary(max_size=40), max_size=5)


def messages(commands: st.SearchStrategy[int]) -> st.SearchStrategy[Message]:
    names = st.one_of(
        st.just((b"", b"")),
        st.tuples(NAME, st.one_of(st.just(b""), NAME)),
    )

    def build(fixed: dict[str, Any], names: tuple[bytes, bytes], microseconds: int) -> Message:
        if len(fixed["frames"]) > 2:
            fixed["flags"] |= RAW
        return Message(**fixed, service=names[0], method=names[1], timeout=microseconds * 1e-6)

    fixed = st.fixed_dictionaries(
        {
            "command": commands,
            "flags": U8,
            "priority": st.integers(0, PRIORITIES - 1),
            "code": U8,
            "tag": U64,
            "credit": U32,
            "incarnation": U64,
            "sequence": U64,
            "frames": FRAMES,
        }
    )
    return st.builds(build, fixed, names, U32)


@given(messages(st.sampled_from(list(NAMES))))
def test_native_messages_survive_the_wire(message: Message) -> None:
    assert native.decode(native.encode(message)) == message


@given(messages(st.integers(1, END)))
def test_a_relayed_native_message_is_the_same_octets(message: Message) -> None:
    frames = native.encode(message)
    assert native.encode(native.decode(frames)) == frames


@st.composite
def mutated(draw: st.DrawFn) -> list[Any]:
    """A valid message of any dialect to which one or more things have happened."""
    message = draw(messages(st.integers(1, END)))
    tag = message.tag.to_bytes(8, "big")
    valid: list[list[Any]] = [
        native.encode(message),
        [b"", b"MDPC01", message.service, *message.frames],
        [b"MDPC02", b"\1", message.service, *message.frames],
        [b"", b"MDPC02", b"\2", message.service, *message.frames],
    ]
    for head in ([b"", b"MDPW01"], [b"MDPW02"], [b"", b"MDPW02"]):
        octet = bytes((draw(st.integers(0, 8)),))
        valid += [[*head, octet, tag, b"", *message.frames], [*head, octet, message.service]]
    frames = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(1, 4))):
        if not frames:
            break
        index = draw(st.integers(0, len(frames) - 1))
        frame = bytes(frames[index])
        at = draw(st.integers(0, len(frame)))
        change = draw(st.integers(0, 6))
        if change == 0:
            del frames[index]
        elif change == 1:
            frames.insert(index, draw(st.binary(max_size=60)))
        elif change == 2:
            frames[index] = frame[:at]
        elif change == 3:
            frames[index] = frame + draw(st.binary(min_size=1, max_size=300))
        elif change == 4 and frame:
            at = min(at, len(frame) - 1)
            frames[index] = frame[:at] + bytes((draw(U8),)) + frame[at + 1 :]
        elif change == 5:
            frames[index] = memoryview(frame)  # as a large frame would be
        else:
            frames.append(frames[index])
    return frames


def decode_all(frames: list[Any]) -> None:
    dialect = mdp.dialect_of(frames)
    assert dialect is None or dialect in range(4)
    with suppress(ProtocolError):
        again = native.decode(native.encode(native.decode(frames)))
        assert again.command in NAMES
    for form in FORMS.values():
        with suppress(ProtocolError):
            assert form.decode(frames).command in NAMES


@given(mutated())
def test_damaged_messages_raise_nothing_but_protocol_errors(frames: list[Any]) -> None:
    decode_all(frames)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from([b"", b"MDPC01", b"MDPW01", b"MDPC02", b"MDPW02", b"\1", b"\2"]),
            st.binary(min_size=38, max_size=38).map(lambda tail: b"\xe5\x01" + tail),
            st.binary(max_size=60).map(memoryview),
        ),
        max_size=8,
    )
)
def test_garbage_raises_nothing_but_protocol_errors(frames: list[Any]) -> None:
    decode_all(frames)


@pytest.mark.parametrize("dialect", [mdp.MDP01, mdp.MDP02, mdp.LEGACY02])
@given(frames=FRAMES, tag=U64, service=NAME)
def test_bodies_cross_mdp_unchanged(
    dialect: int, frames: list[bytes], tag: int, service: bytes
) -> None:
    client, worker = FORMS[dialect, CLIENT], FORMS[dialect, WORKER]
    assert isinstance(client, mdp.ClientForm)
    assert isinstance(worker, mdp.WorkerForm)
    request = client.decode([*client.request_head, service, *frames])
    request.tag = tag
    given_to_worker = worker.encode(request)
    assert given_to_worker is not None
    address = given_to_worker[len(worker.head) + 1]
    assert given_to_worker[len(worker.head) + 3 :] == frames
    for octet, command in worker.replies.items():
        reply = worker.decode([*worker.head, octet, address, b"", *frames])
        assert (reply.command, reply.tag, list(reply.frames)) == (command, tag, frames)
        reply.service = service
        sent = client.encode(reply)
        if command == FINAL:
            assert sent is not None
            assert sent[len(sent) - len(frames) :] == frames


@given(messages(st.sampled_from([REQUEST, PARTIAL, FINAL])))
def test_encoding_for_mdp_never_fails(message: Message) -> None:
    for form in FORMS.values():
        frames = form.encode(message)
        assert frames is None or all(type(frame) is bytes for frame in frames)


# ------------------------------------------------------------------------------ payloads

DATES = st.one_of(
    st.datetimes(),
    st.datetimes(min_value=dt.datetime(1, 1, 2), max_value=dt.datetime(9999, 12, 30)).map(
        lambda naive: naive.replace(tzinfo=dt.UTC)
    ),
    st.dates(),
)
HASHABLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 200), 1 << 200),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.binary(max_size=20),
    DATES,
    st.decimals(allow_nan=False),
    st.uuids(),
)
MEMBERS = st.recursive(
    HASHABLE,
    lambda inner: st.one_of(
        st.frozensets(inner, max_size=3), st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=5,
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(MEMBERS, inner, max_size=4),
        st.sets(MEMBERS, max_size=4),
    ),
    max_leaves=20,
)


@given(VALUES)
def test_payloads_come_back(value: Any) -> None:
    if isinstance(value, frozenset):
        value = set(value)
    assert payload.decode(payload.encode(value)) == value


@given(st.binary(max_size=200))
@example(b"\xd6\xff\xff\xff\xff\xff")
@example(b"\xc7\x0c\xff" + b"\xff" * 12)
@example(b"\xc7\x01\x05s")
def test_random_octets_are_a_payload_or_a_protocol_error(data: bytes) -> None:
    with suppress(ProtocolError):
        payload.decode(data)


@given(VALUES, st.data())
def test_a_damaged_payload_is_a_payload_or_a_protocol_error(
    value: Any, data: st.DataObject
) -> None:
    octets = bytearray(payload.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(U8)
    cut = data.draw(st.integers(0, len(octets)))
    for damaged in (bytes(octets), bytes(octets[:cut])):
        with suppress(ProtocolError):
            payload.decode_map(damaged)
        with suppress(ProtocolError):
            payload.decode(damaged)


@given(st.recursive(st.builds(object), lambda inner: st.lists(inner, min_size=1, max_size=3)))
def test_whatever_cannot_be_sent_is_an_invalid_argument(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="cannot be sent"):
        payload.encode(value)
