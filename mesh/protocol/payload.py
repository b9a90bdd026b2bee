"""Bodies: MessagePack with bounds, and extension types for what Python programs pass around.

What cannot be encoded is named by its path (`args[0]["user"].photo`). What a peer sends is bounded
in depth and lengths, and never executed: there is no pickle here.
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import msgpack
from msgpack import unpackb

from mesh.errors import InvalidArgument, ProtocolError
from mesh.protocol.messages import MAX_BODY, Body

EXT_NAIVE_DATETIME = 1
EXT_DATE = 2
EXT_SET = 3
EXT_DECIMAL = 5
EXT_UUID = 6
EXT_BIG_INT = 7

MAX_DEPTH = 128
MAX_SET_DEPTH = 16
MAX_ITEMS = 8 * 1024 * 1024

_SETS_TOO_DEEP = f"sets are nested deeper than {MAX_SET_DEPTH} levels"


def _extend(set_depth: int, value: Any) -> msgpack.ExtType:
    """`value` as an extension type; it lies inside of `set_depth` sets."""
    if isinstance(value, dt.datetime):
        return msgpack.ExtType(EXT_NAIVE_DATETIME, value.isoformat().encode())
    if isinstance(value, dt.date):
        return msgpack.ExtType(EXT_DATE, value.isoformat().encode())
    if isinstance(value, set | frozenset):
        if set_depth == MAX_SET_DEPTH:
            raise ValueError(_SETS_TOO_DEEP)
        inner = partial(_extend, set_depth + 1)
        return msgpack.ExtType(EXT_SET, msgpack.packb(list(value), default=inner, datetime=True))
    if isinstance(value, decimal.Decimal):
        return msgpack.ExtType(EXT_DECIMAL, str(value).encode())
    if isinstance(value, uuid.UUID):
        return msgpack.ExtType(EXT_UUID, value.bytes)
    if isinstance(value, int):
        return msgpack.ExtType(EXT_BIG_INT, format(value, "x").encode())
    raise TypeError(f"{type(value).__name__} cannot be sent")


_default = partial(_extend, 0)


def _restore(set_depth: int, code: int, data: bytes) -> Any:
    """The value of an extension type; it lies inside of `set_depth` sets.

    Each set is a nested run of the unpacker, whose state on the C stack is large: without a bound
    on their depth two thousand octets from a peer would overflow it.
    """
    if code == EXT_NAIVE_DATETIME:
        return dt.datetime.fromisoformat(data.decode())
    if code == EXT_DATE:
        return dt.date.fromisoformat(data.decode())
    if code == EXT_SET:
        if set_depth == MAX_SET_DEPTH:
            raise ProtocolError(_SETS_TOO_DEEP)
        members = _freeze(_unpack_bounded(data, partial(_restore, set_depth + 1)))
        return frozenset(members) if set_depth else set(members)
    if code == EXT_DECIMAL:
        return decimal.Decimal(data.decode())
    if code == EXT_UUID:
        return uuid.UUID(bytes=data)
    if code == EXT_BIG_INT:
        return int(data, 16)
    raise ProtocolError(f"unknown extension type {code}")


_ext_hook = partial(_restore, 0)


def _freeze(value: Any) -> Any:
    """What was a tuple or a frozenset before it was packed as a key or as the member of a set."""
    if isinstance(value, list):
        return tuple(map(_freeze, value))
    if isinstance(value, set):
        return frozenset(value)
    return value


def _frozen_keys(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    return {_freeze(key): value for key, value in pairs}


def _unpack_bounded(data: Body, ext_hook: Callable[[int, bytes], Any], **more: Any) -> Any:
    """As `unpackb`, for what is large or odd: no collection claims more items than are allowed.

    `unpackb` itself bounds every length by the octets there are, which is enough for small bodies:
    what a collection claims is allocated at once.
    """
    most = min(len(data), MAX_ITEMS)
    return msgpack.unpackb(
        data,
        strict_map_key=False,
        timestamp=3,
        ext_hook=ext_hook,
        max_array_len=most,
        max_map_len=most,
        **more,
    )


# A Packer is not to be used by two threads, nor again while it packs; making one costs more than
# most packing does. Taking from and putting back to a list is atomic.
_packers: list[msgpack.Packer] = []


def encode(value: Any, root: str = "value") -> bytes:
    """`value` as MessagePack.

    Raises:
        InvalidArgument: it holds something that cannot be sent, or is too deep or too large; the
            message names the offending path, beginning with `root`.
    """
    try:
        try:
            packer = _packers.pop()
        except IndexError:
            packer = msgpack.Packer(default=_default, datetime=True)
        data: bytes = packer.pack(value)
        _packers.append(packer)  # one that failed is thrown away: it may hold half a value
    except Exception as error:  # msgpack raises many kinds, and the methods of `value` any
        raise InvalidArgument(_complaint(value, root, error)) from None
    if len(data) > MAX_BODY:
        raise InvalidArgument(
            f"{root} packs to {len(data):,} octets; the limit is {MAX_BODY:,}: send it as a stream"
        )
    return data


def decode(data: Body) -> Any:
    """The value that `data` holds. Integers, text, bytes, lists and dicts, and the extension types.

    Tuples and sets that were keys or members of a set come back as tuples and frozensets.

    Raises:
        ProtocolError: `data` is not one MessagePack value within the bounds.
    """
    try:
        try:
            if len(data) > MAX_ITEMS:
                return _unpack_bounded(data, _ext_hook)
            return unpackb(data, strict_map_key=False, timestamp=3, ext_hook=_ext_hook)
        except TypeError:  # an unhashable key, so rare that only then the slow way is taken
            return _unpack_bounded(data, _ext_hook, object_pairs_hook=_frozen_keys)
    except ProtocolError:
        raise
    except Exception as error:  # msgpack raises many kinds, the hooks of the standard library more
        text = str(error) or type(error).__name__
        raise ProtocolError(f"payload is not valid MessagePack: {text}") from None


def map_header(count: int) -> bytes:
    """What a MessagePack map of `count` pairs begins with; up to 65,535."""
    return bytes((0x80 | count,)) if count < 16 else b"\xde" + count.to_bytes(2, "big")


def text_header(octets: int) -> bytes:
    """What MessagePack text of that many octets of UTF-8 begins with; up to 65,535."""
    if octets < 32:
        return bytes((0xA0 | octets,))
    return b"\xd9" + bytes((octets,)) if octets < 256 else b"\xda" + octets.to_bytes(2, "big")


def decode_map(data: Body) -> dict[str, Any]:
    """A map with text keys, as HELLO, READY, WELCOME and errors carry. Empty data is an empty map.

    Raises:
        ProtocolError: it is something else.
    """
    value = decode(data) if len(data) else {}
    if not isinstance(value, dict) or not all(type(key) is str for key in value):
        raise ProtocolError("expected a map with text keys")
    return value


def _complaint(value: Any, root: str, error: Exception) -> str:
    with suppress(Exception):  # it looks at parts of `value`, whose methods may raise anything
        found = _offender(value, root, 0)
        if found is not None:
            return found
    return f"{root} cannot be sent: {error or type(error).__name__}"


def _offender(value: Any, path: str, depth: int) -> str | None:
    """The path of the first part of `value` that cannot be packed, with the reason."""
    if depth > MAX_DEPTH:
        return f"{path[:80]}... is nested deeper than {MAX_DEPTH} levels or refers to itself"
    parts: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        parts = [(f"a key of {path}", key) for key in value]
        parts += [(f"{path}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    elif isinstance(value, set | frozenset):
        parts = [(f"an element of {path}", item) for item in value]
    for part_path, part in parts:
        found = _offender(part, part_path, depth + 1)
        if found is not None:
            return found
    if parts:
        return None
    try:
        msgpack.packb(value, default=_default, datetime=True)
    except Exception as error:
        return f"{path} cannot be sent: {_advice(value, error)}"
    return None


_ADVICE: dict[str, Callable[[Any], str]] = {
    "ndarray": lambda _: "numpy arrays are not packed; send .tolist() or .tobytes()",
    "DataFrame": lambda _: "send .to_dict() or a serialized file",
}


def _advice(value: Any, error: Exception) -> str:
    name = type(value).__name__
    special = _ADVICE.get(name)
    if special is not None:
        return special(value)
    if isinstance(value, str | bytes | int | float):
        return str(error)
    return (
        f"{name} is not one of None, bool, int, float, str, bytes, list, tuple, dict, set, "
        "datetime, date, Decimal, UUID"
    )
