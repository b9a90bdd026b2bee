"""Keeping a store within its size: the budget, the eviction policy, what readers tell of hits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mesh.errors import ConfigError
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
        # Of the operations under way: what was given up, how many effects the policy knows.
        self._victims: list[tuple[bytes, int, int]] = []
        self._told = 0

    def observe(self, counted: int, entries: int, disk: int) -> None:
        """Compare what was counted with what the disk and the policy really take.

        Counting is an estimate: how full LMDB's pages are depends on sizes and order. The limit
        for what is counted is lowered by as much as the estimate is too low.
        """
        real = disk + self.policy.overhead * entries
        if counted > MIN_CAPACITY // 4:
            self.limit = int(self.capacity * min(1.0, counted / real))
            self.policy.capacity = self.limit

    def fits(self, change: Change, octets: int) -> bool:
        """Whether there is room for `octets` more as it is."""
        return bool(change.totals().octets + octets <= self.limit)

    def make_room(self, change: Change, octets: int) -> bool:
        """Evict until `octets` more fit; False if they cannot.

        What would not fit into an empty cache costs nobody anything.
        """
        if octets > self.limit:
            return False
        totals = change.totals()
        while totals.octets + octets > self.limit:
            slot = self.policy.victim()
            if slot is None:
                # What has just been written may have to go again, when nothing else is left.
                if self._tell(change.effects) or self.refill():
                    continue
                return False
            entry = change.evict(slot)
            if entry is not None:
                self._victims.append((slot, entry.cost(slot), entry.expire_at))
                self.evicted += 1
        return True

    def settle(self, effects: Sequence[tuple[bytes, int, int]]) -> None:
        """What was written is kept: tell the policy."""
        self._tell(effects)
        self._told = 0
        self._victims.clear()

    def _tell(self, effects: Sequence[tuple[bytes, int, int]]) -> bool:
        """Tell the policy what it does not know yet of `effects`; whether there was anything."""
        policy, fresh = self.policy, effects[self._told :]
        self._told += len(fresh)
        for slot, cost, expire_at in fresh:
            if cost:
                policy.insert(slot, cost, expire_at)
            else:
                policy.remove(slot)
        return bool(fresh)

    def undo(self) -> None:
        """Nothing of it was kept: what was given up is still there."""
        for slot, cost, expire_at in self._victims:
            self.policy.insert(slot, cost, expire_at)
        self.evicted -= len(self._victims)
        self._told = 0
        self._victims.clear()

    def hits(self, slots: Iterable[bytes]) -> None:
        """Entries were read."""
        hit = self.policy.hit
        for slot in slots:
            hit(slot)
