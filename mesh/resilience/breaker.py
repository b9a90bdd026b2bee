"""A circuit breaker: stops calling what fails, and finds out gently whether it works again.

    closed ──too many failures──> open ──its time is up──> half open ──all probes well──> closed
                                   ^                          │
                                   └──────── a probe failed ──┘  (open for twice as long)

It judges calls, not their reasons: who calls `failure` decides what the service is to blame for.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.resilience.backoff import Random

CLOSED = "closed"
OPEN = "open"
HALF_OPEN = "half-open"

_SLICES = 10


@dataclass(slots=True)
class BreakerSettings:
    """When a breaker opens and closes. Durations in seconds."""

    share: float = 0.5
    least: int = 20
    window: float = 10.0
    open_ttl: float = 5.0
    max_open_ttl: float = 60.0
    probes: int = 3
    probe_ttl: float = 30.0


class Breaker:
    """The breaker of one service.

    Call `allow` before each call, and `success`, `failure` or `abandoned` when it has ended,
    passing what `allow` returned. `open_until` says until when an open breaker stays open.
    """

    __slots__ = (
        "_failures",
        "_generation",
        "_openings",
        "_passed",
        "_past_failures",
        "_past_successes",
        "_probing",
        "_probing_until",
        "_rng",
        "_settings",
        "_slice_ends_at",
        "_successes",
        "open_until",
        "state",
    )

    def __init__(self, settings: BreakerSettings, rng: Random, now: float) -> None:
        self._settings = settings
        self._rng = rng
        self.state = CLOSED
        self.open_until = 0.0
        self._generation = 1
        self._openings = 0
        self._passed = 0
        self._probing = 0
        self._probing_until = 0.0
        self._reset(now)

    @property
    def idle(self) -> bool:
        """Whether it holds nothing worth remembering."""
        return self.state == CLOSED and not self._failures and not self._openings

    def allow(self, now: float) -> int:
        """A ticket for one call, or 0 if it must not be made now."""
        if self.state == CLOSED:
            return self._generation
        if self.state == OPEN:
            if now < self.open_until:
                return 0
            self._turn(HALF_OPEN)
        elif self._probing and now >= self._probing_until:
            # Probes whose end nobody reported must not keep the breaker shut for ever.
            self._turn(HALF_OPEN)
        if self._probing + self._passed >= self._settings.probes:
            return 0
        self._probing += 1
        self._probing_until = now + self._settings.probe_ttl
        return self._generation

    def success(self, ticket: int, now: float) -> None:
        """The call with this ticket was served."""
        if ticket != self._generation:
            return
        if self.state == CLOSED:
            if now >= self._slice_ends_at:
                self._roll(now)
            self._successes += 1
        elif self.state == HALF_OPEN and self._probing:
            self._probing -= 1
            self._passed += 1
            if self._passed >= self._settings.probes:
                self._openings = 0
                self._turn(CLOSED)
                self._reset(now)

    def failure(self, ticket: int, now: float) -> None:
        """The call with this ticket failed, and the service is to blame."""
        if ticket != self._generation:
            return
        if self.state == HALF_OPEN:
            self._open(now)
        elif self.state == CLOSED:
            if now >= self._slice_ends_at:
                self._roll(now)
            self._failures += 1
            total = self._failures + self._successes
            settings = self._settings
            if total >= settings.least and self._failures >= settings.share * total:
                self._open(now)

    def abandoned(self, ticket: int) -> None:
        """The call with this ticket ended without saying anything about the service."""
        if ticket == self._generation and self.state == HALF_OPEN and self._probing:
            self._probing -= 1

    def _open(self, now: float) -> None:
        settings = self._settings
        ttl = min(settings.max_open_ttl, settings.open_ttl * 2.0 ** min(self._openings, 30))
        # A tenth of jitter: clients that were cut off together do not all probe together.
        self.open_until = now + ttl * (0.9 + 0.1 * self._rng.random())
        self._openings += 1
        self._turn(OPEN)

    def _turn(self, state: str) -> None:
        # Tickets of the time before count for nothing: those calls say nothing about now.
        self._generation += 1
        self._passed = self._probing = 0
        self.state = state

    def _reset(self, now: float) -> None:
        self._successes = self._failures = 0
        self._past_successes = [0] * (_SLICES - 1)
        self._past_failures = [0] * (_SLICES - 1)
        self._slice_ends_at = now + self._settings.window / _SLICES

    def _roll(self, now: float) -> None:
        """Forget what is older than the window, slice by slice.

        The lists hold, for each slice of the window, what it added to the two counts.
        """
        width = self._settings.window / _SLICES
        added_successes = self._successes - sum(self._past_successes)
        added_failures = self._failures - sum(self._past_failures)
        self._past_successes.append(added_successes)
        self._past_failures.append(added_failures)
        past = min(_SLICES, 1 + int((now - self._slice_ends_at) / width))
        self._past_successes += [0] * (past - 1)
        self._past_failures += [0] * (past - 1)
        del self._past_successes[: 1 - _SLICES], self._past_failures[: 1 - _SLICES]
        self._successes = sum(self._past_successes)
        self._failures = sum(self._past_failures)
        self._slice_ends_at = max(self._slice_ends_at + past * width, now + width / 2)

    def check(self) -> None:
        """Assert what must always hold; for tests."""
        assert self.state in (CLOSED, OPEN, HALF_OPEN)
        assert min(self._probing, self._passed) >= 0
        assert self._probing + self._passed <= self._settings.probes
        assert self.state == HALF_OPEN or self._probing == self._passed == 0
        assert self._successes >= sum(self._past_successes) >= 0
        assert self._failures >= sum(self._past_failures) >= 0
