"""What takes several calls of the memory service, step by step, without making any of them.

A plan is a generator. It yields what is to be done next and is sent the result, or has the error
thrown into it; what it returns is the outcome. Both clients follow the same plans.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from mesh.client.memory import calls
from mesh.client.memory.requests import SERVICE, Change, Request
from mesh.client.verbs import RESUMED, Patience
from mesh.errors import (
    CallError,
    DeadlineExceeded,
    LockLost,
    Overloaded,
)

T = TypeVar("T")

# How long one wait for somebody else lasts: what wakes it may have happened just before it began.
SLICE = 1.0
# After how much of its time a lock is extended, and after how much more if that has failed.
RENEW_AT = 1 / 3
RENEW_AGAIN_AT = 1 / 10

Clock = Callable[[], float]

log = logging.getLogger("mesh.client.memory")


@dataclass(slots=True)
class Compute:
    """Have the user's function compute a value."""

    make: Callable[[], Any]


@dataclass(slots=True)
class Later:
    """Follow a plan in the background, whatever becomes of it."""

    plan: Plan[Any]


@dataclass(slots=True)
class Pause:
    """Do nothing for some seconds."""

    seconds: float


Step = Request[Any] | Compute | Later | Pause
Plan = Generator[Step, Any, T]


@dataclass(slots=True)
class Wanted:
    """A value that is computed if nobody has it: its key, and how it is made and kept."""

    ns: str
    key: str
    make: Callable[[], Any]
    times: Mapping[str, float]
    tags: Sequence[str]
    lease: float


def get_or_set(wanted: Wanted, clock: Clock, timeout: float) -> Plan[Any]:
    """The value of a key; if nobody has it, one of all who ask computes it.

    Raises:
        DeadlineExceeded: others computed it for `timeout` seconds.
    """
    ends_at = clock() + timeout
    while True:
        found = yield calls.reserve(wanted.ns, wanted.key, wanted.lease)
        if found.has_value:
            if found.token:
                yield Later(_refresh(wanted, found.token))
            return found.value
        if found.token:
            return (yield from _compute(wanted, found.token))
        left = ends_at - clock()
        if left <= 0:
            raise DeadlineExceeded(
                f"others have computed {wanted.key!r} for {timeout:g} s, and had not finished",
                service=SERVICE,
                method="get_or_set",
            )
        yield from _wait(wanted.ns, wanted.key, min(left, SLICE))


def _compute(wanted: Wanted, token: int) -> Plan[Any]:
    try:
        value = yield Compute(wanted.make)
        yield calls.fill(wanted.ns, wanted.key, value, token, wanted.times, wanted.tags)
    except BaseException:
        with suppress(CallError):  # else it ends by itself, after `lease` seconds
            yield calls.release(wanted.ns, wanted.key, token)
        raise
    return value


def _refresh(wanted: Wanted, token: int) -> Plan[None]:
    try:
        yield from _compute(wanted, token)
    except Exception:
        log.warning("could not compute %r anew; the old value stays", wanted.key, exc_info=True)


def _wait(ns: str, key: str, seconds: float, lock: bool = False) -> Plan[None]:
    """Until something may have changed."""
    try:
        yield calls.wait(ns, key, seconds, lock=lock)
    except Overloaded:
        yield Pause(min(0.1, seconds))
    except RESUMED:
        yield Pause(min(0.01, seconds))


# -------------------------------------------------------------------- locks


@dataclass(slots=True)
class Lease:
    """A lock as its holder knows it. Times are those of the client's clock."""

    ns: str
    name: str
    ttl: float
    owner: str
    token: int = 0
    ends_at: float = 0.0
    lost: bool = False

    def another(self) -> Lease:
        """The same lock, to be taken once more."""
        return Lease(self.ns, self.name, self.ttl, self.owner)

    def held(self, now: float) -> bool:
        """Whether it is held at `now`, as far as can be known without asking."""
        return bool(self.token) and not self.lost and now < self.ends_at

    def check(self, now: float) -> None:
        """Raises LockLost unless it is held at `now`."""
        if not self.held(now):
            raise lost(self)


def acquire(lease: Lease, clock: Clock, wait: float) -> Plan[bool]:
    """Take a lock, within `wait` seconds; whether it was possible."""
    ends_at = clock() + wait
    while True:
        begun = clock()
        token = yield calls.take_lock(lease.ns, lease.name, lease.ttl, lease.owner)
        if token:
            lease.token, lease.ends_at, lease.lost = token, begun + lease.ttl, False
            return True
        left = ends_at - clock()
        if left <= 0:
            return False
        yield from _wait(lease.ns, lease.name, min(left, SLICE), lock=True)


def extend(lease: Lease, clock: Clock, ttl: float) -> Plan[bool]:
    """Hold a lock for `ttl` seconds from now; False if it was lost."""
    begun = clock()
    timeout = max(0.05, min(30.0, lease.ends_at - begun))
    if not (yield calls.extend_lock(lease.ns, lease.name, lease.token, ttl, timeout)):
        lease.lost = True
        return False
    lease.ends_at = begun + ttl
    return True


def keep(lease: Lease, clock: Clock) -> Plan[None]:
    """Extend a lock for ever, until it is lost. A failure is tried again while there is time."""
    while not lease.lost:
        yield Pause(lease.ttl * RENEW_AT)
        while not lease.lost:
            try:
                yield from extend(lease, clock, lease.ttl)
                break
            except CallError as error:
                log.warning("lock %r could not be extended: %s", lease.name, error)
            if clock() >= lease.ends_at:
                lease.lost = True
            else:
                yield Pause(lease.ttl * RENEW_AGAIN_AT)


def lost(lease: Lease) -> LockLost:
    """The error of a lock that is not held."""
    why = "it ended, and may be somebody else's now" if lease.token else "it is not held"
    return LockLost(
        f"lock {lease.name!r}: {why}",
        service=SERVICE,
        method="lock",
        data={"token": lease.token},
    )


def not_acquired(lease: Lease, wait: float) -> DeadlineExceeded:
    """The error of a lock that could not be taken in time."""
    return DeadlineExceeded(
        f"lock {lease.name!r} was held by others for {wait:g} s",
        service=SERVICE,
        method="lock",
    )


# -------------------------------------------------------------------- watching


class Resumption(Patience):
    """Decides whether a stream of changes that has ended is begun again, and when."""

    __slots__ = ()

    def change(self, event: dict[str, Any]) -> Change:
        """An event of the stream, as the user sees it."""
        self.worked()
        return Change(event["kind"], event["key"], event["version"], event.get("count", 0))
