"""Results as octets, so that the outcome of a request can lie beside its effects."""

from __future__ import annotations

from typing import Any

import msgpack

from mesh import errors
from mesh.errors import CallError
from mesh.protocol import payload
from workers.memory.records import Entry, Lock, read_entry, read_lock

_ENTRY, _LOCK, _ERROR = 1, 2, 3


def pack(result: Any) -> bytes:
    """A result of a verb, or a list of them with errors among them."""
    if type(result) is int:
        return payload.encode(result)
    packed: bytes = msgpack.packb(result, default=_extend, strict_types=False)
    return packed


def unpack(data: bytes) -> Any:
    """What was packed; tuples come back as lists."""
    return msgpack.unpackb(data, ext_hook=_restore, strict_map_key=False)


def _extend(value: Any) -> Any:
    if isinstance(value, Entry):
        return msgpack.ExtType(_ENTRY, value.pack())
    if isinstance(value, Lock):
        return msgpack.ExtType(_LOCK, value.pack())
    if isinstance(value, CallError):
        return msgpack.ExtType(_ERROR, msgpack.packb(errors.to_wire(value)))
    raise TypeError(f"{type(value).__name__} is no result")


def _restore(code: int, data: bytes) -> Any:
    if code == _ENTRY:
        return read_entry(b"", data)
    if code == _LOCK:
        return read_lock(data)
    number, fields = msgpack.unpackb(data)
    return errors.from_wire(number, fields, started=False)
