"""Which entry has to go when the cache is full: pure policies, sized in octets."""

from __future__ import annotations

from workers.memory.eviction.policy import POLICIES, Policy, make_policy

__all__ = ["POLICIES", "Policy", "make_policy"]
