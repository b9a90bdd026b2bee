"""Operations and results as the script in the server takes and gives them."""

from __future__ import annotations

from typing import Any

import msgpack

from mesh.errors import CallError, InvalidArgument, KeyReused, QuotaExceeded, VersionConflict
from mesh.protocol.memory import INT_RANGE
from workers.memory.backend import Op
from workers.memory.records import Entry, Lock

# What an entry takes at the server beside its key and value.
OVERHEAD = 400
# Repeating these changes nothing that the first time did not.
_REPEATABLE = frozenset(("set", "set_many", "delete", "expire", "touch", "invalidate", "clear",
                         "configure", "get", "get_many", "exists", "ttl", "scan", "lock_info",
                         "stats"))  # fmt: skip
_CONDITIONAL = ("only_if", "version", "token")


def keys_of(op: Op) -> list[bytes]:
    arguments = op.arguments
    if "keys" in arguments:
        return list(arguments["keys"])
    key = arguments.get("key", arguments.get("name"))
    return [] if key is None else [key]


def request(op: Op) -> tuple[Any, ...]:
    """An operation for the script."""
    arguments = dict(op.arguments)
    if op.verb == "batch":
        arguments["steps"] = [
            (step[0], _for_script(step[0], dict(step[1])), *step[2:]) for step in arguments["steps"]
        ]
    else:
        arguments = _for_script(op.verb, arguments)
    if op.call is None or _harmless(op):
        return op.verb, arguments
    session, sequence, digest = op.call
    return op.verb, arguments, f"{session:x}-{sequence}-{len(digest)}{digest[16:].hex()}", digest


def _harmless(op: Op) -> bool:
    conditional = any(op.arguments.get(name) not in (None, "") for name in _CONDITIONAL)
    return op.verb in _REPEATABLE and not conditional


def _for_script(verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if verb == "set":
        body = arguments.pop("body")
        arguments["field"], arguments["value"] = _fields(body)
        tags = tuple(arguments.get("tags", ()))
        arguments["tags"] = tags
        arguments.setdefault("expire_at", 0)
        arguments.setdefault("fresh_until", 0)
        arguments["cost"] = OVERHEAD + 2 * len(arguments["key"]) + len(body) + 64 * len(tags)
        if arguments.get("version") is None:
            arguments.pop("version", None)
        if arguments.get("token") is None:
            arguments.pop("token", None)
    elif verb == "increment":
        by = arguments["by"]
        arguments["float"] = isinstance(by, float)
        arguments["by"] = repr(by)
        arguments.setdefault("expire_at", 0)
        arguments["cost"] = OVERHEAD + 2 * len(arguments["key"]) + 16
    elif verb == "expire":
        arguments.setdefault("condition", "")
    elif verb == "delete" and arguments.get("version") is None:
        arguments.pop("version", None)
    elif verb == "configure" and arguments["quota"] is None:
        arguments.pop("quota")
    return arguments


def _fields(body: bytes) -> tuple[str, bytes | str]:
    """The value in the form in which the server can count with it."""
    first = body[0]
    if first <= 0x7F or first >= 0xE0 or 0xCC <= first <= 0xD3:
        number = msgpack.unpackb(body)
        if INT_RANGE[0] <= number <= INT_RANGE[1]:
            return "i", str(number)
    elif first == 0xCB:
        return "d", repr(msgpack.unpackb(body))
    return "b", body


def _entry(fields: Any) -> Entry | None:
    """An entry as the script gives it."""
    if not fields:
        return None
    version, expire_at, fresh_until, tags, integer, number, body = fields
    if integer:
        body = msgpack.packb(int(integer))
    elif number:
        body = msgpack.packb(float(number))
    names = tuple(tag.decode() for tag in msgpack.unpackb(tags, raw=True)) if tags else ()
    return Entry(int(version), int(expire_at), int(fresh_until), names, body)


def checked(op: Op, found: Any) -> Any:
    """A result of the script, or the error that it stands for. Raises CallError."""
    if type(found) is not list or not found or found[0] != b"!":
        return found
    kind, version = found[1].decode(), found[2]
    key = op.arguments.get("key", b"")
    shown = key.decode() if isinstance(key, bytes) else ""
    if kind.startswith("conflict"):
        name = kind.partition(":")[2] or shown
        raise VersionConflict(
            f"key {name!r} has version {version}, not the one given; read it again",
            data={"key": name, "version": version},
        )
    if kind == "quota":
        raise QuotaExceeded(f"namespace {op.ns!r} would exceed its quota; delete something")
    if kind == "reused":
        raise KeyReused("the request's id was used before, for another call")
    if kind == "number":
        raise InvalidArgument(f"key {shown!r} holds no number, and cannot be incremented")
    if kind == "finite":
        raise InvalidArgument(f"key {shown!r}: the sum is not a finite number")
    raise InvalidArgument(f"key {shown!r}: the sum exceeds 64 bits")


def result_of(op: Op, found: Any) -> Any:
    """What the verb promises, or an error, of what the script gave."""
    if isinstance(found, Exception):
        return found
    try:
        return _CONVERT.get(op.verb, lambda result: result)(checked(op, found))
    except CallError as error:
        return error


def step_results(op: Op, found: Any) -> list[Any]:
    return [
        result_of(Op(step[0], op.ns, step[1]), result)
        for step, result in zip(op.arguments["steps"], found, strict=True)
    ]


def _number(found: Any) -> int | float:
    field, text = found
    return int(text) if field == b"i" else float(text)


def _lock_found(found: Any) -> Lock | None:
    return Lock(found[0], found[1], found[2].decode()) if found else None


def _page(found: Any) -> tuple[list[tuple[bytes, Entry | None]], bytes]:
    items, after = found
    return [(key, _entry(fields)) for key, fields in items or ()], after or b""


_CONVERT: dict[str, Any] = {
    "get": _entry,
    "pop": _entry,
    "touch": _entry,
    "get_many": lambda found: [_entry(fields) for fields in found or ()],
    "ttl": lambda found: None if found is False else found,
    "scan": _page,
    "lock_info": _lock_found,
    "increment": _number,
    "reserve": lambda found: (found[0].decode(), _entry(found[1]), found[2]),
}
