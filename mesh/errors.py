"""The one error tree of the mesh.

MeshError
├── ProtocolError           a peer broke the wire protocol; counted by servers
├── ConfigError             a setting or argument is wrong; says which and what is allowed
└── CallError               a call did not produce a result
    ├── ServiceNotFound     nobody offers the service                       retry is safe
    ├── MethodNotFound      the service has no such method
    ├── InvalidArgument     arguments or payload were refused
    ├── Overloaded          refused at once; `retry_after` seconds          retry is safe
    ├── DeadlineExceeded    the time ran out (also a TimeoutError)
    ├── Cancelled           the caller or the broker cancelled it
    ├── WorkerLost          the worker died with the request in hand
    ├── BrokerLost          the broker's connection ended with the request in hand
    ├── CircuitOpen         refused locally by the breaker                  retry is safe, later
    ├── Unauthorized        not allowed
    ├── RemoteError         the handler raised; `kind`, `message`, `remote_traceback`
    └── StoreError          a store failed
        ├── VersionConflict what is stored is not what the caller expected
        ├── QuotaExceeded   a limit of what may be kept is reached          retry is safe, later
        ├── DataCorrupted   what is on disk is not what was written
        ├── StoreFull       the disk or the store's size limit is reached   retry is safe, later
        ├── StoreBusy       no writer at this moment                        retry is safe
        ├── KeyReused       an idempotency key came back with another request
        └── OutcomeUnknown  a repeated request whose outcome is no longer known

Every CallError says whether a retry is safe (`retryable`) and whether the work may have run
(`maybe_executed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

SERVICE_NOT_FOUND = 1
METHOD_NOT_FOUND = 2
INVALID_ARGUMENT = 3
OVERLOADED = 4
DEADLINE_EXCEEDED = 5
CANCELLED = 6
WORKER_LOST = 7
UNAUTHORIZED = 8
REMOTE_ERROR = 9
NOT_STARTED = 10
DRAINING = 11
PROTOCOL = 12
TOO_LARGE = 13
BROKER_LOST = 14
"""Only in requests: why they are made again."""

STORE_ERROR = 64
VERSION_CONFLICT = 65
QUOTA_EXCEEDED = 66
DATA_CORRUPTED = 67
STORE_FULL = 68
STORE_BUSY = 69
KEY_REUSED = 70
OUTCOME_UNKNOWN = 71

MAX_RETRY_AFTER = 86_400.0
MAX_MESSAGE, MAX_KIND, MAX_TRACEBACK = 16_384, 256, 65_536


class MeshError(Exception):
    """Base of everything the mesh raises."""


class ProtocolError(MeshError):
    """A peer sent what the wire protocol does not allow."""


class ConfigError(MeshError):
    """A setting or an argument is wrong; the message says which, and what is allowed.

    `problems` lists what is wrong with a configuration, each with `origin`, `key` and `text`.
    """

    def __init__(self, message: str = "", *, problems: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class CallError(MeshError):
    """A call did not produce a result.

    `retryable`: the same call may be made again without risk of doing the work twice.
    `maybe_executed`: the work may have run, wholly or in part.
    `retry_after`: seconds to wait before trying again, if the refusing side said so.
    """

    code: ClassVar[int] = REMOTE_ERROR
    safe_unless_executed: ClassVar[bool] = False

    def __init__(
        self,
        message: str = "",
        *,
        service: str = "",
        method: str = "",
        request_id: str = "",
        maybe_executed: bool = False,
        idempotent: bool = False,
        retry_after: float | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.service = service
        self.method = method
        self.request_id = request_id
        self.maybe_executed = maybe_executed
        self.idempotent = idempotent
        self.retry_after = retry_after
        self.data = data or {}

    @property
    def retryable(self) -> bool:
        """Whether making the same call again cannot do the work twice."""
        return self.safe_unless_executed and (self.idempotent or not self.maybe_executed)

    def __str__(self) -> str:
        target = f"{self.service}.{self.method}" if self.method else self.service
        parts = [f"{target}: {self.message}" if target else self.message]
        if self.maybe_executed:
            parts.append("(the work may have run)")
        if self.retry_after is not None:
            parts.append(f"(retry after {self.retry_after:.3g} s)")
        return " ".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments: the default of Exception would lose them between processes.
        return _rebuild, (type(self), self.message, self.__dict__)


def _rebuild(cls: type[CallError], message: str, state: dict[str, Any]) -> CallError:
    error = cls(message)
    error.__dict__.update(state)
    return error


class ServiceNotFound(CallError):
    """Nobody offers the service. Is a worker running, and connected to this broker?"""

    code = SERVICE_NOT_FOUND
    safe_unless_executed = True


class MethodNotFound(CallError):
    """The service exists but has no such method."""

    code = METHOD_NOT_FOUND


class InvalidArgument(CallError):
    """The arguments were refused before the work began."""

    code = INVALID_ARGUMENT


class TooLarge(InvalidArgument):
    """The body exceeds the size limit; send it as a stream."""

    code = TOO_LARGE


class Overloaded(CallError):
    """Refused at once, as the work would wait too long; `retry_after` says when to come back."""

    code = OVERLOADED
    safe_unless_executed = True


class DeadlineExceeded(CallError, TimeoutError):
    """The call's time ran out. `maybe_executed` tells whether a worker had it."""

    code = DEADLINE_EXCEEDED


class Cancelled(CallError):
    """The call was cancelled."""

    code = CANCELLED


class WorkerLost(CallError):
    """The worker died or left with the request in hand."""

    code = WORKER_LOST
    safe_unless_executed = True


class BrokerLost(CallError):
    """The connection to the broker ended with the request in hand."""

    safe_unless_executed = True


class CircuitOpen(CallError):
    """Refused locally: recent calls to this service failed too often."""

    safe_unless_executed = True


class Unauthorized(CallError):
    """The caller may not do this."""

    code = UNAUTHORIZED


class RemoteError(CallError):
    """The handler raised. `kind` is the class of its exception, `message` its text."""

    code = REMOTE_ERROR

    def __init__(
        self, message: str = "", *, kind: str = "", remote_traceback: str = "", **fields: Any
    ) -> None:
        super().__init__(message, **fields)
        self.kind = kind
        self.remote_traceback = remote_traceback

    @property
    def retryable(self) -> bool:
        return self.idempotent

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.kind} in {text}" if self.kind else text


class StoreError(CallError):
    """A store failed; the message says how, `maybe_executed` whether the change may be kept."""

    code = STORE_ERROR
    safe_unless_executed = True


class VersionConflict(StoreError):
    """What is stored is not what the caller expected. Read it again, then decide anew."""

    code = VERSION_CONFLICT
    safe_unless_executed = False


class QuotaExceeded(StoreError):
    """A limit of what may be kept is reached; nothing was changed."""

    code = QUOTA_EXCEEDED


class DataCorrupted(StoreError):
    """What is on disk is not what was written there. Restore a backup, or delete the key."""

    code = DATA_CORRUPTED
    safe_unless_executed = False


class StoreFull(StoreError):
    """The disk, or the size limit of the store, is reached; nothing was changed.

    Make room (delete, expire, a larger disk or limit): the store works again by itself.
    """

    code = STORE_FULL


class StoreBusy(StoreError):
    """Nobody can write at this moment: a take-over is under way. Nothing was changed."""

    code = STORE_BUSY


class KeyReused(StoreError):
    """An idempotency key, or a request id, came back with another request than the first time."""

    code = KEY_REUSED
    safe_unless_executed = False


class LockLost(StoreError):
    """A lock is not held, or not any more. What it protects must refuse its token."""

    safe_unless_executed = False


class OutcomeUnknown(StoreError):
    """A repeated request whose outcome is no longer kept. It is not run again: read and decide."""

    code = OUTCOME_UNKNOWN
    safe_unless_executed = False


BY_CODE: dict[int, type[CallError]] = {
    cls.code: cls
    for cls in (
        ServiceNotFound,
        MethodNotFound,
        InvalidArgument,
        Overloaded,
        DeadlineExceeded,
        Cancelled,
        WorkerLost,
        Unauthorized,
        RemoteError,
        TooLarge,
        StoreError,
        VersionConflict,
        QuotaExceeded,
        DataCorrupted,
        StoreFull,
        StoreBusy,
        KeyReused,
        OutcomeUnknown,
    )
}


def from_wire(code: int, fields: dict[str, Any], *, started: bool, **identity: Any) -> CallError:
    """The error that an ERROR message with `code` and error map `fields` stands for.

    `started` is the STARTED flag; `identity` goes to the error (`service`, `method`, `request_id`,
    `idempotent`). An unknown code is a RemoteError. Fields that make no sense are ignored: they
    come from a peer.
    """
    cls = BY_CODE.get(code, RemoteError)
    retry_after = fields.get("retry_after")
    if not isinstance(retry_after, int | float) or not 0 <= retry_after <= MAX_RETRY_AFTER:
        retry_after = None
    data = fields.get("data")
    common: dict[str, Any] = {
        **identity,
        "maybe_executed": started,
        "retry_after": retry_after,
        "data": data if isinstance(data, dict) else None,
    }
    text = _text(fields, "message")
    if issubclass(cls, RemoteError):
        return cls(
            text,
            kind=_text(fields, "kind"),
            remote_traceback=_text(fields, "traceback"),
            **common,
        )
    return cls(text, **common)


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def to_wire(error: BaseException, *, traceback: str = "") -> tuple[int, dict[str, Any]]:
    """The code and error map under which `error`, raised by a handler, travels to the caller.

    Whatever the error is, its texts can be sent: they are clipped to MAX_MESSAGE and MAX_TRACEBACK
    characters. What it carries as `data` may still be what cannot.
    """
    if isinstance(error, CallError) and not isinstance(error, RemoteError):
        fields: dict[str, Any] = {"message": _clipped(_said(error.message), MAX_MESSAGE)}
        if error.retry_after is not None:
            fields["retry_after"] = error.retry_after
        if error.data:
            fields["data"] = error.data
        # A class of the handler's own may have any code; the header has one octet for it.
        code: Any = error.code
        return code if type(code) is int and 0 < code < 256 else REMOTE_ERROR, fields
    kind = error.kind if isinstance(error, RemoteError) else type(error).__name__
    fields = {
        "message": _clipped(_said(error), MAX_MESSAGE),
        "kind": _clipped(_said(kind), MAX_KIND),
    }
    if traceback:
        fields["traceback"] = _clipped(traceback, MAX_TRACEBACK)
    return REMOTE_ERROR, fields


def _said(value: object) -> str:
    """The text of an error, or of a part of it: its `__str__` is the handler's code too."""
    try:
        return str(value)
    except Exception as worse:
        return f"(its text cannot be had: {type(worse).__name__})"


def _clipped(text: str, most: int) -> str:
    """`text` as it can be sent: not too long, and without halves of characters."""
    if len(text) > most:
        text = f"{text[:most]}... ({len(text) - most:,} more characters)"
    return text.encode("utf-8", "backslashreplace").decode()
