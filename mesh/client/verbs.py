"""What the clients of the built-in services share: a request, and when to make one again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from mesh.errors import (
    BrokerLost,
    CallError,
    CircuitOpen,
    DeadlineExceeded,
    MethodNotFound,
    Overloaded,
    ServiceNotFound,
    StoreBusy,
    WorkerLost,
)
from mesh.resilience.backoff import backoff

if TYPE_CHECKING:
    from mesh.client.aio import AsyncCaller
    from mesh.client.sync import Caller

T = TypeVar("T")
CallerT = TypeVar("CallerT", "Caller", "AsyncCaller")

# What ends a stream or a transfer although the service is there, or will be again.
RESUMED = (
    BrokerLost, CircuitOpen, DeadlineExceeded, Overloaded, ServiceNotFound, StoreBusy, WorkerLost,
)  # fmt: skip


@dataclass(slots=True)
class Request(Generic[T]):
    """One call of a service. `safe`: it may run twice; None: as the service declares."""

    verb: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    read: Callable[[Any], T]
    safe: bool | None = None
    timeout: float | None = None


@dataclass(slots=True)
class Patience:
    """Decides whether something that was interrupted is begun again, and when.

    `patience`: seconds without success after which its error is the user's.
    """

    clock: Callable[[], float]
    patience: float
    rng: Random
    failing_since: float | None = None
    failures: int = 0

    def worked(self) -> None:
        """It goes on."""
        self.failing_since, self.failures = None, 0

    def pause(self, error: CallError) -> float:
        """Seconds until the next attempt.

        Raises:
            CallError: `error`, if another would not help.
        """
        now = self.clock()
        if self.failing_since is None:
            self.failing_since = now
        if not isinstance(error, RESUMED) or now - self.failing_since >= self.patience:
            raise error
        self.failures += 1
        return backoff(self.failures - 1, self.rng, cap=1.0)


def caller_for(request: Request[Any], caller: CallerT, safe: CallerT) -> CallerT:
    """Who makes the call: `safe` what may run twice, `caller` the rest, in the time that it has."""
    chosen = safe if request.safe else caller
    return chosen if request.timeout is None else chosen.options(timeout=request.timeout)


def explain(error: CallError, service: str, how_to_start: str) -> NoReturn:
    """Raise `error`; if the service is missing or old, with what to do about it."""
    if isinstance(error, ServiceNotFound):
        error.message = f"no {service} service is running; {how_to_start}"
        error.args = (error.message,)
    elif isinstance(error, MethodNotFound):
        error.message += f": the {service} service is older than this client; update its workers"
        error.args = (error.message,)
    raise error
