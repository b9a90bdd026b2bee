"""The native codec against the octets that docs/protocol.md section 1 lays down."""

from __future__ import annotations

import pytest

from mesh.errors import ProtocolError
from mesh.protocol import native
from mesh.protocol.messages import (
    END,
    FINAL,
    HEARTBEAT,
    IDEMPOTENT,
    MAX_NAME,
    NAMES,
    NORMAL,
    RAW,
    REQUEST,
    STREAM,
    Message,
)

# Every field distinct, so that a swapped pair cannot go unnoticed.
FULL = Message(
    REQUEST,
    IDEMPOTENT | STREAM,
    NORMAL,
    9,
    tag=0x0102030405060708,
    timeout=1.5,
    credit=64,
    incarnation=0x1112131415161718,
    sequence=0x2122232425262728,
    service=b"cart",
    method=b"total",
    frames=[b"body"],
)
FULL_HEADER = bytes.fromhex(
    "e5 01 08 09 02 09 04 05"
    "0102030405060708 0016e360 00000040"
    "1112131415161718 2122232425262728"
) + b"carttotal"  # fmt: skip


def header(
    *,
    prefix: bytes = b"\xe5\x01",
    command: int = HEARTBEAT,
    flags: int = 0,
    priority: int = 0,
    code: int = 0,
    service_size: int = 0,
    method_size: int = 0,
    names: bytes = b"",
) -> bytes:
    head = bytes((command, flags, priority, code, service_size, method_size))
    return prefix + head + bytes(32) + names


def test_a_full_header_has_the_documented_octets() -> None:
    assert native.encode(FULL) == [FULL_HEADER, b"body"]


def test_a_full_header_is_read_back() -> None:
    assert native.decode([FULL_HEADER, b"body"]) == FULL


def test_an_empty_command_is_forty_octets() -> None:
    assert native.encode(Message(HEARTBEAT)) == [header()]
    assert len(header()) == 40


@pytest.mark.parametrize("command", NAMES)
def test_every_command_is_understood(command: int) -> None:
    assert native.decode([header(command=command)]).command == command


def test_decoding_starts_after_the_routing_id() -> None:
    assert native.decode([b"\x00route", FULL_HEADER, b"body"], 1) == FULL


def test_unknown_flags_are_passed_on() -> None:
    message = native.decode([header(flags=0xC0)])
    assert message.flags == 0xC0
    assert native.encode(message) == [header(flags=0xC0)]


@pytest.mark.parametrize(
    ("timeout", "octets"),
    [
        (0.0, "00000000"),
        (1e-9, "00000001"),  # zero would mean "none stated"
        (1e-6, "00000001"),
        (4294.967295, "ffffffff"),
        (1e9, "ffffffff"),
        (float("inf"), "ffffffff"),
        (-1.0, "00000000"),
    ],
)
def test_timeouts_are_microseconds_within_bounds(timeout: float, octets: str) -> None:
    [head] = native.encode(Message(REQUEST, timeout=timeout))
    assert isinstance(head, bytes)
    assert head[16:20].hex() == octets


@pytest.mark.parametrize("names", [(1, 1), (MAX_NAME, MAX_NAME), (1, 0)])
def test_names_up_to_the_limit(names: tuple[int, int]) -> None:
    message = Message(REQUEST, service=b"s" * names[0], method=b"m" * names[1])
    assert native.decode(native.encode(message)) == message


@pytest.mark.parametrize(
    ("why", "frames"),
    [
        ("nothing", []),
        ("empty", [b""]),
        ("39 octets", [header()[:39]]),
        ("a surplus octet", [header() + b"x"]),
        ("wrong magic", [header(prefix=b"\xe4\x01")]),
        ("a later version", [header(prefix=b"\xe5\x02")]),
        ("command 0", [header(command=0)]),
        ("the first unknown command", [header(command=END + 1)]),
        ("command 255", [header(command=255)]),
        ("priority 4", [header(priority=4)]),
        ("names missing", [header(service_size=4)]),
        ("names cut short", [header(service_size=4, method_size=2, names=b"abcde")]),
        ("names too long for their sizes", [header(service_size=4, method_size=2, names=b"x" * 7)]),
        ("a method without a service", [header(method_size=2, names=b"ab")]),
        ("service of 201", [header(service_size=201, names=b"x" * 201)]),
        ("method of 201", [header(service_size=1, method_size=201, names=b"x" * 202)]),
        ("a header that the transport kept as a large frame", [memoryview(header())]),
        ("three body frames", [header(command=FINAL), b"", b"", b""]),
        ("RAW without bound", [header(command=FINAL, flags=RAW), *[b""] * (native.MAX_FRAMES + 1)]),
    ],
)
def test_what_is_no_message_is_refused(why: str, frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        native.decode(frames)


def test_raw_takes_many_frames() -> None:
    frames = [b"%d" % number for number in range(native.MAX_FRAMES)]
    message = native.decode([header(command=FINAL, flags=RAW), *frames])
    assert list(message.frames) == frames
