"""S3-FIFO: three queues instead of one order of recency.

Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023. New
keys enter a *small* queue of a tenth of the cache; those that are not asked for again while they
pass it leave quickly, and only their key is remembered (*ghost*). Keys that were asked for, and
keys that come back while they are remembered, enter the *main* queue, in which an entry is given
another round for each access counted, up to three.
"""

from __future__ import annotations

from collections import OrderedDict

SMALL_SHARE = 0.1
# Of the capacity, what each of the two sets of ghosts stands for.
GHOST_SHARE = 0.6
MAX_FREQUENCY = 3
# Accesses in the small queue that earn a place in the main one.
WORTH_KEEPING = 2

# An entry is one int: size << 2 | frequency. Half the memory of a record of two fields.
_FREQUENCY = 3
_SIZE_SHIFT = 2


class S3Fifo:
    """The policy. A key stands in exactly one of `small` and `main`.

    The ghosts are two sets of hashes, the younger of which takes the place of the older when it is
    full: half the memory of a queue, and the same hits within a fifth of a per cent. That two keys
    have one hash costs a hit at worst.
    """

    overhead = 380
    __slots__ = (
        "capacity",
        "ghost_size",
        "ghosts",
        "main",
        "main_size",
        "old_ghosts",
        "small",
        "small_size",
    )  # fmt: skip

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.small: OrderedDict[bytes, int] = OrderedDict()
        self.main: OrderedDict[bytes, int] = OrderedDict()
        self.ghosts: set[int] = set()
        self.old_ghosts: set[int] = set()
        self.small_size = self.main_size = self.ghost_size = 0

    def __len__(self) -> int:
        return len(self.small) + len(self.main)

    def insert(self, key: bytes, size: int, expire_at: int = 0) -> None:
        """An entry was written; a known one is accessed and takes its new size."""
        queue = self.small
        entry = queue.get(key)
        if entry is None:
            queue = self.main
            entry = queue.get(key)
        if entry is not None:
            before: int = entry
            again = size << _SIZE_SHIFT | min(MAX_FREQUENCY, (before & _FREQUENCY) + 1)
            if again != before:  # what is hot and of one size stays as it is
                self._resize(queue, size - (before >> _SIZE_SHIFT))
                queue[key] = again
            return
        number = hash(key)
        if number in self.ghosts or number in self.old_ghosts:
            self.ghosts.discard(number)
            self.old_ghosts.discard(number)
            self.main[key] = size << _SIZE_SHIFT
            self.main_size += size
        else:
            self.small[key] = size << _SIZE_SHIFT
            self.small_size += size

    def adopt(self, key: bytes, size: int, expire_at: int = 0) -> None:
        """An entry from an earlier life, of which nothing else is known: it enters the main queue.

        The small queue would throw out most of what a restarted cache has kept.
        """
        if key not in self.small and key not in self.main:
            self.main[key] = size << _SIZE_SHIFT
            self.main_size += size

    def hit(self, key: bytes) -> None:
        """An entry was read."""
        queue = self.small
        entry = queue.get(key)
        if entry is None:
            queue = self.main
            entry = queue.get(key)
            if entry is None:
                return
        before: int = entry
        if before & _FREQUENCY < MAX_FREQUENCY:
            queue[key] = before + 1

    def remove(self, key: bytes) -> None:
        """An entry is gone for another reason."""
        for queue in (self.small, self.main):
            entry = queue.pop(key, None)
            if entry is not None:
                self._resize(queue, -(entry >> _SIZE_SHIFT))

    def victim(self) -> bytes | None:
        """Give up an entry."""
        while self.small or self.main:
            over = self.main_size > self.capacity * (1.0 - SMALL_SHARE)
            key = self._from_main() if over or not self.small else self._from_small()
            if key is not None:
                return key
        return None

    def _from_small(self) -> bytes | None:
        while self.small:
            key, entry = self.small.popitem(last=False)
            size = entry >> _SIZE_SHIFT
            self.small_size -= size
            if entry & _FREQUENCY < WORTH_KEEPING:
                self._remember(key, size)
                return key
            self.main[key] = size << _SIZE_SHIFT
            self.main_size += size
        return None

    def _from_main(self) -> bytes | None:
        main = self.main
        while main:
            key, entry = main.popitem(last=False)
            if not entry & _FREQUENCY:
                self.main_size -= entry >> _SIZE_SHIFT
                return key
            main[key] = entry - 1
        return None

    def _remember(self, key: bytes, size: int) -> None:
        self.ghosts.add(hash(key))
        self.ghost_size += size
        if self.ghost_size > self.capacity * GHOST_SHARE:
            self.old_ghosts, self.ghosts = self.ghosts, set()
            self.ghost_size = 0

    def _resize(self, queue: OrderedDict[bytes, int], by: int) -> None:
        if queue is self.small:
            self.small_size += by
        else:
            self.main_size += by

    def check(self) -> None:
        """Assert all invariants."""
        assert not self.small.keys() & self.main.keys()
        assert self.small_size == sum(entry >> _SIZE_SHIFT for entry in self.small.values())
        assert self.main_size == sum(entry >> _SIZE_SHIFT for entry in self.main.values())
        assert self.ghost_size <= self.capacity * GHOST_SHARE
