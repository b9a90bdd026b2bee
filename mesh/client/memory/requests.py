"""One request to the memory service, and the records that its answers are read into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mesh.client import verbs
from mesh.client.verbs import explain
from mesh.errors import CallError, InvalidArgument

T = TypeVar("T")

SERVICE = "memory"
HOW_TO_START = (
    "start it with `python -m workers memory --broker ENDPOINT --data DIR`, "
    "or sage.service.memory.MemoryService(...).start()"
)


class Request(verbs.Request[T]):
    """One call of the memory service."""

    __slots__ = ()

    def at_writer(self) -> Request[T]:
        """The same, asked where a relaxed namespace is known."""
        return Request("at_writer", (self.verb, [*self.args], self.kwargs), {}, self.read, True)


@dataclass(slots=True, frozen=True)
class Entry:
    """A value and what is known of it.

    `ttl`: seconds left, infinite if it never expires. `fresh` is False once only `stale` seconds
    are left. `version` grows with each change of the key.
    """

    value: Any
    version: int
    ttl: float
    fresh: bool
    tags: tuple[str, ...]


@dataclass(slots=True, frozen=True)
class Page(Generic[T]):
    """Some of what a scan finds; an empty `cursor` says that this was the last page."""

    items: list[T]
    cursor: bytes


@dataclass(slots=True, frozen=True)
class LockInfo:
    """Who holds a lock: its fencing token, what the holder calls itself, seconds left."""

    token: int
    owner: str
    ttl: float


@dataclass(slots=True, frozen=True)
class Change:
    """Something that happened to a key; see `watch`."""

    kind: str
    key: str
    version: int
    missed: int = 0


@dataclass(slots=True, frozen=True)
class Reservation:
    """What `reserve` found. `has_value`: there is a value that may be used, old or new.

    `token` is above 0 for the one who is to compute it.
    """

    has_value: bool
    value: Any
    token: int


def instead(request: Request[T], error: CallError) -> Request[T]:
    """What to ask instead, since `request` was refused with `error`.

    Raises:
        CallError: nothing: this is why.
    """
    if isinstance(error, InvalidArgument) and error.data.get("lane") == "writer":
        return request.at_writer()
    explain(error, SERVICE, HOW_TO_START)
