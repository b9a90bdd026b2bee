"""How long to wait before the next try."""

from __future__ import annotations

from typing import Protocol

BASE = 0.05
CAP = 2.0
FACTOR = 2.0


class Random(Protocol):
    """The part of `random.Random` that the policies use."""

    def random(self) -> float:
        """A number from 0.0 up to, but not including, 1.0."""


def backoff(
    attempt: int, rng: Random, *, base: float = BASE, cap: float = CAP, factor: float = FACTOR
) -> float:
    """Seconds before retry number `attempt`, counted from 0.

    Full jitter, anything between nothing and `base` x `factor`^attempt (at most `cap`): many
    clients that failed together do not come back together. `factor` is at most 100.
    """
    return rng.random() * min(cap, base * factor ** min(attempt, 60))
