"""Keeping a store within its size: the budget, the eviction policy, what readers tell of hits."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mesh.errors import ConfigError
from mesh.protocol.memory import MAX_VALUE
from workers.memory.change import Change
from workers.memory.eviction import make_policy

MIN_CAPACITY = 4 * 1024 * 1024


class Cache:
    """The budget of a store, in octets of memory and disk together, and who goes when it is spent.

    The policy lives in the writer's memory. After a take-over it is filled again from the store,
    slice by slice: entries of an earlier life are taken for used more than once (S3-FIFO), or for
    older than anything used since (LRU), in the order of their keys. Until it is complete there is
    always something to evict, so a take-over waits for nothing.
    """

    def __init__(self, policy: str, capacity: int) -> None:
        if capacity < MIN_CAPACITY:
            raise ConfigError(
                f"cache_size of {capacity:,} octets is less than {MIN_CAPACITY:,}; "
                "give it at least 4MiB"
            )
        self.capacity = capacity
        self.limit = capacity
        self.policy = make_policy(policy, capacity)
        self.evicted = 0
        self.refill: Callable[[], bool] = lambda: False
        """Gives the policy more of the entries it does not know yet; False when there are none."""
        self._victims: list[bytes] = []

    def observe(self, counted: int, entries: int, disk: int) -> None:
        """Compare what was counted with what the disk and the policy really take.

        Counting is an estimate: how full LMDB's pages are depends on sizes and order. The limit
        for what is counted is lowered by as much as the estimate is too low.
        """
        real = disk + self.policy.overhead * entries
        if counted > MIN_CAPACITY // 4:
            self.limit = int(self.capacity * min(1.0, counted / real))
            self.policy.capacity = self.limit

    def make_room(self, change: Change, octets: int) -> bool:
        """Evict until `octets` more fit; False if nothing is left to give up."""
        self._victims.clear()
        totals = change.totals()
        while totals.octets + octets > self.limit:
            slot = self.policy.victim()
            if slot is None and self.refill():
                continue
            if slot is None:
                # What one batch may add is not lost over an estimate that is on the safe side.
                return bool(totals.octets + min(octets, MAX_VALUE) <= self.limit)
            self._victims.append(slot)
            if change.evict(slot):
                self.evicted += 1
        return True

    def settle(self, effects: Iterable[tuple[bytes, int, int]]) -> None:
        """What was written is kept: tell the policy."""
        self._victims.clear()
        policy = self.policy
        for slot, cost, expire_at in effects:
            if cost:
                policy.insert(slot, cost, expire_at)
            else:
                policy.remove(slot)

    def undo(self) -> None:
        """Nothing of it was kept: what was given up is still there."""
        for slot in self._victims:
            self.policy.insert(slot, 1024, 0)
        self._victims.clear()

    def hits(self, slots: Iterable[bytes]) -> None:
        """Entries were read."""
        hit = self.policy.hit
        for slot in slots:
            hit(slot)
