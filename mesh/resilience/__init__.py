"""Policies for a world that fails: when to try again, how often, and when to stop asking.

All of it is pure: the time is passed in, and so is chance.
"""

from __future__ import annotations

from mesh.resilience.backoff import Random, backoff
from mesh.resilience.breaker import CLOSED, HALF_OPEN, OPEN, Breaker, BreakerSettings
from mesh.resilience.budget import RetryBudget
from mesh.resilience.ratelimit import TokenBucket

__all__ = [
    "CLOSED",
    "HALF_OPEN",
    "OPEN",
    "Breaker",
    "BreakerSettings",
    "Random",
    "RetryBudget",
    "TokenBucket",
    "backoff",
]
