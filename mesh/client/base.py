"""What the blocking and the asyncio client share: options, packing, unpacking."""

from __future__ import annotations

import math
import os
import random
import socket
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgpack

from mesh.client.calls import Call, ClientSettings
from mesh.client.core import ClientCore
from mesh.context import running
from mesh.discovery.names import addressed
from mesh.errors import ConfigError, InvalidArgument, ProtocolError, RemoteError
from mesh.protocol import payload
from mesh.protocol.messages import (
    BULK,
    HIGH,
    MAX_NAME,
    MORE,
    NORMAL,
    PRIORITIES,
    RAW,
    STREAM,
    SYSTEM,
    Message,
)
from mesh.protocol.payload import decode, encode
from mesh.transport import parse_endpoint

PRIORITY_NAMES: Final = {"system": SYSTEM, "high": HIGH, "normal": NORMAL, "bulk": BULK}
STREAM_MARK: Final = msgpack.ExtType(100, b"\0")
MAX_TIMEOUT = 300.0
MAX_RETRIES = 100
MAX_CREDIT = 65_536
MAX_RESOLVED = 4096
FILE_BLOCK = 64 * 1024

_VALUES = frozenset(
    {str, int, bytes, float, bool, type(None), list, dict, tuple, set, frozenset, bytearray}
)


class Options:
    """How calls are made; None leaves it to the service's declaration or the client's settings.

    Never changed once made.
    """

    __slots__ = ("credit", "idempotent", "metadata", "priority", "retries", "timeout")

    def __init__(
        self,
        timeout: float | None = None,
        retries: int | None = None,
        idempotent: bool | None = None,
        priority: int = NORMAL,
        credit: int | None = None,
        metadata: bytes = b"",
    ) -> None:
        self.timeout = timeout
        self.retries = retries
        self.idempotent = idempotent
        self.priority = priority
        self.credit = credit
        self.metadata = metadata

    def but(self, given: Mapping[str, Any]) -> Options:
        """These options with those `given` in the form that users write.

        Raises:
            ConfigError: one of them is unknown or wrong.
        """
        fields = {name: getattr(self, name) for name in self.__slots__}
        for name, value in given.items():
            check = _CHECKS.get(name)
            if check is None:
                raise ConfigError(f"unknown option {name!r}; there are {', '.join(_CHECKS)}")
            fields[name] = check(value)
        return Options(**fields)


def _timeout(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"timeout={value!r}; give seconds above 0, at most {MAX_TIMEOUT:g}")
    if value > MAX_TIMEOUT:
        raise ConfigError(f"timeout={value!r}; at most {MAX_TIMEOUT:g} seconds are possible")
    return float(value)


def _count(name: str, least: int, most: int) -> Any:
    def check(value: Any) -> int | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ConfigError(f"{name}={value!r}; give a whole number from {least} to {most}")
        return value

    return check


def _idempotent(value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise ConfigError(f"idempotent={value!r}; give True or False, or None if unknown")
    return value


def _priority(value: Any) -> int:
    number = PRIORITY_NAMES.get(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < PRIORITIES:
        raise ConfigError(f"priority={value!r}; give one of {', '.join(PRIORITY_NAMES)}")
    return number


def _metadata(value: Any) -> bytes:
    if value is None:
        return b""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"metadata={value!r}; give a dict with text keys")
    try:
        return payload.encode(dict(value), root="metadata") if value else b""
    except InvalidArgument as error:
        raise ConfigError(error.message) from None


_CHECKS = {
    "timeout": _timeout,
    "retries": _count("retries", 0, MAX_RETRIES),
    "idempotent": _idempotent,
    "priority": _priority,
    "credit": _count("credit", 1, MAX_CREDIT),
    "metadata": _metadata,
}


def new_core(
    endpoints: Sequence[str], settings: ClientSettings, *, seed: int, now: float
) -> ClientCore:
    """A core for this process; `seed` is random and has 128 bits.

    It is to be told of what names among the endpoints stand for.
    """
    return ClientCore(
        addressed(endpoints),
        settings,
        incarnation=(seed & 0xFFFFFFFFFFFFFFFF) or 1,
        rng=random.Random(seed >> 64),
        now=now,
        hello={"name": settings.name, "host": socket.gethostname(), "pid": os.getpid()},
    )


def check_endpoints(endpoints: Sequence[str]) -> tuple[str, ...]:
    """The endpoints in full, each once.

    Raises:
        ConfigError: there is none, or one is wrong.
    """
    if not endpoints:
        raise ConfigError("connect() needs at least one broker, as in connect('tcp://host:8080')")
    return tuple(dict.fromkeys(parse_endpoint(endpoint) for endpoint in endpoints))


# -------------------------------------------------------------------- what is called


def split_target(text: str) -> tuple[bytes, bytes]:
    """Service and method of "service.method"; the service's name may have dots.

    Raises:
        ConfigError: it is not of that form.
    """
    service, dot, method = text.rpartition(".")
    try:
        names = service.encode(), method.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"target {text!r} is no text: {error.reason}") from None
    if not dot or not all(0 < len(name) <= MAX_NAME for name in names):
        raise ConfigError(f"target {text!r}; write 'service.method', as in 'cart.total'")
    if service.startswith(".") or service.endswith("."):
        raise ConfigError(f"target {text!r}: a service's name has no dot at its ends")
    return names


_NO_FACTS: Mapping[str, Any] = {}
# What was resolved lately: programs call the same few methods again and again.
_resolved: dict[str, tuple[bytes, bytes, Mapping[str, Any]]] = {}


def resolve(target: Any) -> tuple[bytes, bytes, Mapping[str, Any]]:
    """Service, method and declared options of what a user passes as the target of a call.

    Raises:
        ConfigError: it is neither "service.method" nor a function declared by a Service.
    """
    if type(target) is str:
        found = _resolved.get(target)
        if found is None:
            if len(_resolved) >= MAX_RESOLVED:
                _resolved.clear()
            found = _resolved[target] = (*split_target(target), _NO_FACTS)
        return found
    try:
        service, method = target.__mesh_service__, target.__mesh_method__
    except AttributeError:
        raise ConfigError(
            f"cannot call {target!r}; give 'service.method' or a function declared by a Service"
        ) from None
    return service.encode(), method.encode(), getattr(target, "__mesh_options__", _NO_FACTS)


def begin(
    core: ClientCore,
    options: Options,
    target: Any,
    frame: bytes,
    now: float,
    flags: int = 0,
) -> Call:
    """Begin the call of `target` with packed arguments, bounded by the deadline of the call around.

    Raises:
        ConfigError, CallError: as `resolve` and `ClientCore.call`.
    """
    service, method, facts = resolve(target)
    timeout = options.timeout
    idempotent = options.idempotent
    if facts:
        if timeout is None:
            timeout = facts.get("timeout")
        if idempotent is None and facts.get("idempotent"):
            idempotent = True
    expires_at = now + (timeout or core.timeout)
    outer = running.get()
    if outer is not None and outer.deadline < expires_at:
        expires_at = outer.deadline
    metadata = options.metadata
    frames = (frame, metadata) if metadata else (frame,)
    return core.call(
        service,
        method,
        frames,
        now,
        expires_at,
        flags,
        options.priority,
        options.retries,
        idempotent,
        options.credit,
    )


def pack(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, Any]:
    """The packed arguments of a call, and the source of the stream among them (None: no stream).

    Raises:
        InvalidArgument: one of them cannot be sent; the message names it.
    """
    source = None
    for index, value in enumerate(args):
        if type(value) not in _VALUES and (found := stream_source(value)) is not None:
            source = _only(source, found)
            args = (*args[:index], STREAM_MARK, *args[index + 1 :])
    if kwargs:
        for name, value in kwargs.items():
            if type(value) not in _VALUES and (found := stream_source(value)) is not None:
                source = _only(source, found)
                kwargs = {**kwargs, name: STREAM_MARK}
    try:
        return encode([args, kwargs] if kwargs else [args]), source
    except InvalidArgument:
        # Once more, to name what is wrong as the caller knows it.
        payload.encode(args, root="args")
        payload.encode(kwargs, root="kwargs")
        raise


def _only(source: Any, found: Any) -> Any:
    if source is not None:
        raise InvalidArgument("two arguments are streams; a call carries one")
    return found


def stream_source(value: Any) -> Any:
    """The iterable behind an argument that is to be sent as a stream; None if it is a value."""
    if getattr(value, "__mesh_stream__", False):
        value = value.source
        return value if isinstance(value, AsyncIterable) else iter(value)
    read = getattr(value, "read", None)
    if callable(read) and isinstance(value, Iterable):
        return iter(lambda: read(FILE_BLOCK), type(read(0))())
    if isinstance(value, Iterator | AsyncIterator):
        return value
    return None


# -------------------------------------------------------------------- what comes back


def result(call: Call) -> Any:
    """The value that an ended call has returned.

    Raises:
        CallError: it has failed.
    """
    if call.error is not None:
        raise call.error
    return value_of(call, call.reply)


def value_of(call: Call, message: Message | None) -> Any:
    """What a FINAL or PARTIAL holds.

    Raises:
        RemoteError: it cannot be read.
    """
    if message is None or not message.frames:
        return None
    frames = message.frames
    if message.flags & RAW:
        raw = [bytes(memoryview(frame)) for frame in frames]
        return raw[0] if len(raw) == 1 else raw
    try:
        return decode(frames[0])
    except ProtocolError as error:
        raise unreadable(call, str(error)) from None


def unreadable(call: Call, text: str) -> RemoteError:
    """The error of an answer that makes no sense."""
    return RemoteError(text, kind="ProtocolError", maybe_executed=True, **call.identity())


def stream_flags(source: Any, *, reading: bool) -> int:
    """The flags of a REQUEST whose answer is a stream (`reading`), or whose argument is one."""
    return (STREAM if reading else 0) | (MORE if source is not None else 0)
