"""Bodies: what travels, what is refused with which words, and what a peer cannot do to us."""

from __future__ import annotations

import datetime as dt
import decimal
import struct
import uuid
from typing import Any

import pytest

from mesh.errors import InvalidArgument, ProtocolError
from mesh.protocol import payload

EAST = dt.timezone(dt.timedelta(hours=8))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(1 << 63),
        (1 << 64) - 1,
        1 << 64,
        -(1 << 63) - 1,
        10**3000,
        0.1,
        float("inf"),
        "分布式 cache",
        b"\x00\xff",
        [],
        [[], {}, [[]]],
        {"a": {"b": [1, 2.5, None]}},
        {1: "int key", b"k": "bytes key", None: "none key", (1, (2,)): "tuple key"},
        {frozenset({1}): "set key"},
        {dt.date(2026, 11, 23): 1},
        dt.datetime(2026, 11, 23, 1, 2, 3, 456789),
        dt.datetime(1, 1, 1),
        dt.datetime(2026, 11, 23, 1, 2, 3, 456789, dt.UTC),
        dt.datetime(1, 1, 2, tzinfo=dt.UTC),
        dt.datetime(9999, 12, 31, 23, 59, 59, 999999, dt.UTC),
        dt.date(2026, 2, 28),
        set(),
        {1, "two", b"three"},
        {(1, 2), (3, (4, 5))},
        {frozenset({1}), frozenset()},
        {(frozenset({(1,)}), "x")},
        {dt.date(2026, 2, 28), uuid.UUID(int=7)},
        decimal.Decimal("1.10"),
        decimal.Decimal("-Infinity"),
        decimal.Decimal("1E+999999"),
        uuid.UUID(int=(1 << 128) - 1),
    ],
)
def test_values_come_back_as_they_went(value: Any) -> None:
    back = payload.decode(payload.encode(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ((1, 2), [1, 2]),
        ({"t": (1,)}, {"t": [1]}),
        (frozenset({1}), {1}),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
        (
            dt.datetime(2026, 11, 23, 9, 0, tzinfo=EAST),
            dt.datetime(2026, 11, 23, 1, 0, tzinfo=dt.UTC),
        ),
    ],
)
def test_values_that_come_back_as_their_nearest_kin(value: Any, back: Any) -> None:
    found = payload.decode(payload.encode(value))
    assert found == back
    assert type(found) is type(back)


def test_the_difference_between_decimals_survives() -> None:
    assert str(payload.decode(payload.encode(decimal.Decimal("1.10")))) == "1.10"


class Unknown:
    pass


class Hollow(dict[str, int]):
    """What packs a dict asks for its items."""

    def items(self) -> Any:
        raise KeyError("nothing in here")


class Unnamed:
    """What says why something cannot be packed asks for its name."""

    def __repr__(self) -> str:
        raise RuntimeError("no name")


def looped() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def nested_sets(depth: int) -> frozenset[Any]:
    value: frozenset[Any] = frozenset()
    for _ in range(depth - 1):
        value = frozenset({value})
    return value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Unknown(), "value cannot be sent: Unknown is not one of"),
        ([1, {"user": {"photo": Unknown()}}], "value[1]['user']['photo'] cannot be sent: Unknown"),
        ({"a": {Unknown()}}, "an element of value['a'] cannot be sent"),
        ({Unknown(): 1}, "a key of value cannot be sent"),
        (["ok", "\ud800"], "value[1] cannot be sent"),
        (dt.timedelta(1), "timedelta is not one of"),
        (looped(), "deeper than 128 levels or refers to itself"),
        (nested_sets(payload.MAX_SET_DEPTH + 1), "sets are nested deeper than 16"),
        (nested_sets(5000), "deeper than 128 levels"),
        (Hollow(a=1), "value cannot be sent: 'nothing in here'"),
        ({("key", 1): Unknown(), Unnamed(): Unknown()}, "cannot be sent: "),
    ],
)
def test_what_cannot_be_sent_is_named(value: Any, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        payload.encode(value)
    assert words in str(caught.value)


def test_the_path_begins_where_the_caller_says() -> None:
    with pytest.raises(InvalidArgument, match=r"^args\[0\] cannot be sent"):
        payload.encode([Unknown()], root="args")


def test_foreign_types_get_advice() -> None:
    ndarray = type("ndarray", (), {})
    with pytest.raises(InvalidArgument, match="tolist"):
        payload.encode([ndarray()])


def test_the_size_limit_counts_the_whole_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "MAX_BODY", 1000)
    assert len(payload.encode(b"x" * 997)) == 1000
    with pytest.raises(InvalidArgument, match="1,001 octets; the limit is 1,000"):
        payload.encode(b"x" * 998)


def ext(code: int, data: bytes) -> bytes:
    return b"\xc9" + struct.pack("!Ib", len(data), code) + data


def sets_within_sets(depth: int) -> bytes:
    data = ext(payload.EXT_SET, b"\x90")
    for _ in range(depth - 1):
        data = ext(payload.EXT_SET, b"\x91" + data)
    return data


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("nothing", b""),
        ("two values", b"\x01\x01"),
        ("cut short", b"\x92\x01"),
        ("a reserved octet", b"\xc1"),
        ("text that is not UTF-8", b"\xa1\xff"),
        ("an array longer than the message", b"\xdd\x00\x7f\xff\xff"),
        ("many such arrays", b"\xdd\x00\x00\x10\x00" * 1000),
        ("a map longer than the message", b"\xdf\xff\xff\xff\xff"),
        ("binary longer than the message", b"\xc6\xff\xff\xff\xff"),
        ("too deep", b"\x91" * 100_000 + b"\xc0"),
        ("a map as a key", b"\x81\x80\x01"),
        ("a map in a set", ext(payload.EXT_SET, b"\x91\x80")),
        ("a set that is a number", ext(payload.EXT_SET, b"\x01")),
        ("a set of nothing", ext(payload.EXT_SET, b"")),
        ("sets too deep", sets_within_sets(payload.MAX_SET_DEPTH + 1)),
        ("sets so deep that they could overflow the stack", sets_within_sets(5000)),
        ("an unknown extension", ext(99, b"x")),
        ("a negative extension", ext(-128, b"x")),
        ("a timestamp of a wrong size", ext(-1, b"x")),
        ("a timestamp beyond the calendar", ext(-1, b"\x00" * 4 + b"\x7f" + b"\xff" * 7)),
        ("a date that is none", ext(payload.EXT_DATE, b"2026-02-30")),
        ("a date that is binary", ext(payload.EXT_DATE, b"\xff\xfe")),
        ("a date-time that is none", ext(payload.EXT_NAIVE_DATETIME, b"soon")),
        ("a decimal that is none", ext(payload.EXT_DECIMAL, b"one")),
        ("a UUID of 15 octets", ext(payload.EXT_UUID, b"x" * 15)),
        ("a number that is none", ext(payload.EXT_BIG_INT, b"0xzz")),
        ("a number without digits", ext(payload.EXT_BIG_INT, b"")),
    ],
)
def test_what_is_no_payload_is_refused(why: str, data: bytes) -> None:
    with pytest.raises(ProtocolError):
        payload.decode(data)


def test_claimed_lengths_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "MAX_ITEMS", 10)
    assert payload.decode(payload.encode([0] * 10)) == [0] * 10
    with pytest.raises(ProtocolError):
        payload.decode(payload.encode([0] * 11))
    with pytest.raises(ProtocolError):
        payload.decode(payload.encode(dict.fromkeys(range(11))))


def test_sets_may_be_nested_to_the_limit() -> None:
    depth = payload.MAX_SET_DEPTH
    assert payload.decode(payload.encode(nested_sets(depth))) == nested_sets(depth)
    assert payload.decode(sets_within_sets(depth)) == nested_sets(depth)


def test_any_buffer_can_be_decoded() -> None:
    assert payload.decode(memoryview(payload.encode({"a": [1]}))) == {"a": [1]}


@pytest.mark.parametrize("value", [1, [1], {1: 2}, {"a": 1, b"b": 2}, {("a",): 1}])
def test_a_map_of_fields_has_text_keys(value: Any) -> None:
    with pytest.raises(ProtocolError, match="text keys"):
        payload.decode_map(payload.encode(value))


def test_no_fields_at_all_are_an_empty_map() -> None:
    assert payload.decode_map(b"") == {}
    assert payload.decode_map(payload.encode({"a": 1})) == {"a": 1}
