"""The beginning of a connection, octet by octet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.transport.handshake import GREETING, Handshake


def shake(data: bytes, *cuts: int, others: tuple[bytes, ...] = (b"ROUTER",)) -> Handshake:
    shaking = Handshake(b"DEALER", others)
    for begin, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
        shaking.receive(data[begin:end])
    return shaking


HELLO = Handshake(b"ROUTER", (b"DEALER",)).hello


@given(st.lists(st.integers(0, len(HELLO)), max_size=5).map(sorted), st.binary(max_size=20))
def test_it_is_read_in_whatever_pieces_it_comes(cuts: list[int], rest: bytes) -> None:
    shaking = shake(HELLO + rest, *cuts)
    assert (shaking.done, shaking.failed, shaking.rest) == (True, "", rest)


def test_nothing_is_decided_before_all_has_come() -> None:
    shaking = shake(HELLO[:-1])
    assert not shaking.done and not shaking.failed


def test_a_command_may_have_a_long_size() -> None:
    command = HELLO[66:]
    shaking = shake(GREETING + b"\x06" + len(command).to_bytes(8, "big") + command)
    assert shaking.done


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "does not speak ZMTP"),
        (b"\xff" + bytes(8) + b"\x7e", "does not speak ZMTP"),
        (b"\xff" + bytes(8) + b"\x7f\x01", "does not speak ZMTP"),
        (GREETING.replace(b"NULL", b"CURV"), "another security mechanism"),
        (GREETING + b"\x00\x05\x05READ", "does not speak ZMTP"),
        (GREETING + b"\x06" + (1 << 40).to_bytes(8, "big"), "does not speak ZMTP"),
        (GREETING + b"\x04\x06\x05HELLO", "does not speak ZMTP"),
        (GREETING + b"\x04\x0c\x05ERROR\x05nope!", "refused: nope!"),
        (GREETING + b"\x04\x08\x05READY\x0bS", "does not speak ZMTP"),
        (GREETING + b"\x04\x06\x05READY", "is a nothing"),
        (Handshake(b"PUB", ()).hello, "is a PUB"),
    ],
)
def test_what_is_refused(data: bytes, reason: str) -> None:
    shaking = shake(data)
    assert reason in shaking.failed and not shaking.done


@given(st.binary(max_size=200), st.booleans())
def test_any_octets_end_in_a_decision_or_wait_for_more(data: bytes, greeted: bool) -> None:
    shaking = shake((GREETING if greeted else b"") + data)
    assert not (shaking.done and shaking.failed)
