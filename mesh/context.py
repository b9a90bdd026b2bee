"""What a handler may know about the call it serves: `current()`.

The record lives in a context variable, so it follows the call into tasks that the handler starts.
Calls that the handler makes itself inherit its deadline from here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar, overload

from mesh.errors import MeshError, ProtocolError
from mesh.protocol import payload
from mesh.protocol.messages import Body

T = TypeVar("T")


class Target(Protocol):
    """What is called: a method of a service."""

    @property
    def service(self) -> str: ...

    @property
    def name(self) -> str: ...


class Call:
    """One call as its handler sees it.

    `deadline` is a time on the monotonic clock, infinite if the caller stated none. `cancel_code`
    is 0 while somebody waits for the result, else the code of the error that has taken its place.
    """

    __slots__ = ("cancel_code", "deadline", "incarnation", "metadata_body", "sequence", "target")

    def __init__(
        self,
        target: Target,
        deadline: float = math.inf,
        incarnation: int = 0,
        sequence: int = 0,
        metadata_body: Body = b"",
    ) -> None:
        self.target = target
        self.deadline = deadline
        self.incarnation = incarnation
        self.sequence = sequence
        self.metadata_body = metadata_body
        self.cancel_code = 0

    @property
    def service(self) -> str:
        """The name of the service."""
        return self.target.service

    @property
    def method(self) -> str:
        """The name of the method."""
        return self.target.name

    @property
    def request_id(self) -> str:
        """Names the call; the same over all its retries."""
        return f"{self.incarnation:016x}-{self.sequence}"

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the result any more: cancelled, or out of time."""
        return self.cancel_code != 0 or self.time_left() <= 0.0

    @property
    def metadata(self) -> dict[str, Any]:
        """What the caller sent beside the arguments; empty if nothing, or nothing readable."""
        try:
            return payload.decode_map(self.metadata_body)
        except ProtocolError:
            return {}

    def time_left(self) -> float:
        """Seconds until the deadline: 0.0 when it has passed, infinite when there is none."""
        return max(0.0, self.deadline - clock.get()())


clock: ContextVar[Callable[[], float]] = ContextVar("mesh_clock", default=time.monotonic)
running: ContextVar[Call | None] = ContextVar("mesh_call", default=None)


class _Required:
    pass


_REQUIRED = _Required()


@overload
def current() -> Call: ...
@overload
def current(default: T) -> Call | T: ...
def current(default: Any = _REQUIRED) -> Any:
    """The call that is being served here, or `default` outside of one.

    Raises:
        MeshError: no call is being served here, and no default is given.
    """
    call = running.get()
    if call is not None:
        return call
    if default is _REQUIRED:
        raise MeshError(
            "current() was used outside a call: it works in a handler and in what the handler "
            "calls or starts; use current(None) where there may be no call"
        )
    return default
