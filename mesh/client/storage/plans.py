"""Plans of transfers: what to do next, without doing it.

A plan is a generator. It yields a step and is sent the step's outcome, or thrown its error; what it
returns is the result. The blocking and the asyncio client follow the same plans.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from mesh.client.verbs import RESUMED, Patience, Request
from mesh.errors import StoreBusy

if TYPE_CHECKING:
    from mesh.client.storage.outgoing import Outgoing

T = TypeVar("T")


WINDOW = 4
"""Parts on their way at a time."""

Progress: TypeAlias = Callable[[int, int | None], object]
"""Called with octets done, and in all if that is known."""


@dataclass(slots=True)
class Begin:
    """Send a request; the outcome is a ticket for its answer."""

    request: Request[Any]


@dataclass(slots=True)
class Await:
    """Wait for the answer to a ticket; the outcome is what it was read as."""

    ticket: Any


@dataclass(slots=True)
class Take:
    """Take the next part from the source; the outcome is a Part, None at the end."""

    source: Outgoing


@dataclass(slots=True)
class Do:
    """Call something that may take its time."""

    call: Callable[[], object]


@dataclass(slots=True)
class Give:
    """Hand octets to the reader."""

    data: bytes


@dataclass(slots=True)
class Pause:
    """Wait for some seconds."""

    seconds: float


Plan: TypeAlias = Generator[Request[Any] | Begin | Await | Take | Do | Give | Pause, Any, T]


def safe_request(verb: str, args: tuple[Any, ...]) -> Request[Any]:
    """A call that may be made twice, whose answer is taken as it is."""
    return Request(verb, args, {}, lambda answer: answer, True)


def patiently(patience: Patience, asked: Request[T]) -> Plan[T]:
    """The answer to a request that is made again while that makes sense."""
    while True:
        try:
            answer: T = yield asked
        except RESUMED as error:
            changed = error.maybe_executed and not isinstance(error, StoreBusy)
            if changed and not asked.safe:
                raise
            yield Pause(patience.pause(error))
        else:
            patience.worked()
            return answer


def answered(patience: Patience, ticket: Any, asked: Request[Any]) -> Plan[Any]:
    """The answer to a request that has begun, and is made again as often as that makes sense."""
    while True:
        try:
            answer = yield Await(ticket)
        except RESUMED as error:
            yield Pause(patience.pause(error))
            ticket = yield Begin(asked)
        else:
            patience.worked()
            return answer
