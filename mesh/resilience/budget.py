"""Retries as a share of the calls, so that a service in trouble is not buried under them."""

from __future__ import annotations


class RetryBudget:
    """Allows `ratio` retries for each call, and `rate` a second besides.

    At most `cap` saved retries are kept, so that an hour of peace does not pay for a storm.
    """

    __slots__ = ("_at", "_saved", "cap", "rate", "ratio")

    def __init__(
        self, now: float, *, ratio: float = 0.1, rate: float = 1.0, cap: float = 100.0
    ) -> None:
        self.ratio = ratio
        self.rate = rate
        self.cap = cap
        self._saved = min(cap, 10.0 * rate)
        self._at = now

    def called(self, count: int = 1) -> None:
        """Note `count` calls that are not retries."""
        saved = self._saved + self.ratio * count
        self._saved = saved if saved < self.cap else self.cap

    def available(self, now: float) -> float:
        """How many retries could be made now."""
        if now > self._at:
            self._saved = min(self.cap, self._saved + (now - self._at) * self.rate)
            self._at = now
        return self._saved

    def take(self, now: float) -> bool:
        """Spend one retry; False if there is none left."""
        if self.available(now) < 1.0:
            return False
        self._saved -= 1.0
        return True
