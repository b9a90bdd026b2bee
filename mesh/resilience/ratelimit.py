"""A limit on how often something may happen."""

from __future__ import annotations

import math


class TokenBucket:
    """`rate` tokens a second, at most `burst` saved up; it starts full."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        if rate <= 0.0 or burst <= 0.0:
            raise ValueError("rate and burst must be above zero")
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float, tokens: float = 1.0) -> bool:
        """Take `tokens` if there are as many; False, and nothing taken, otherwise."""
        self._refill(now)
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True

    def wait(self, now: float, tokens: float = 1.0) -> float:
        """Seconds until `take` would succeed; infinite if `tokens` is more than a full bucket."""
        self._refill(now)
        if tokens > self.burst:
            return math.inf
        return max(0.0, (tokens - self._tokens) / self.rate)

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
            self._at = now
