"""Points in time at which calls are due."""

from __future__ import annotations

import math
from collections import deque
from heapq import heapify, heappop, heappush

from mesh.client.calls import ENDED, Call

_FEW = 500


class Timers:
    """When to look at which call. A call that has ended is passed over.

    Most calls have the same time to live, so they come in the order in which they are due: those
    wait in a queue, and only what comes out of order in a heap. Ended calls are left where they
    are until they make up half of all; the owner reports each with `ended`.
    """

    __slots__ = ("_dead", "_heap", "_last_at", "_queue")

    def __init__(self) -> None:
        self._queue: deque[tuple[float, int, Call]] = deque()
        self._heap: list[tuple[float, int, Call]] = []
        self._last_at = -math.inf
        self._dead = 0

    def add(self, at: float, call: Call) -> None:
        """Look at `call` at time `at`."""
        if at >= self._last_at or not self._queue:
            self._last_at = at
            self._queue.append((at, call.sequence, call))
        else:
            heappush(self._heap, (at, call.sequence, call))

    def due(self, now: float) -> list[Call]:
        """The calls whose time has come; they are forgotten here."""
        found = []
        while self.next_at() <= now:
            found.append(self._take())
        return found

    def next_at(self) -> float:
        """When the first is due; infinite if none is."""
        queue, heap = self._queue, self._heap
        while queue and queue[0][2].state == ENDED:
            queue.popleft()
            self._forget()
        while heap and heap[0][2].state == ENDED:
            heappop(heap)
            self._forget()
        first = queue[0][0] if queue else math.inf
        return heap[0][0] if heap and heap[0][0] < first else first

    def ended(self) -> None:
        """A call that may be in here has ended."""
        self._dead += 1
        if self._dead > _FEW and self._dead > len(self) >> 1:
            self._queue = deque([entry for entry in self._queue if entry[2].state != ENDED])
            self._heap = [entry for entry in self._heap if entry[2].state != ENDED]
            heapify(self._heap)
            self._dead = 0

    def _take(self) -> Call:
        """The first of all, which has not ended."""
        queue, heap = self._queue, self._heap
        if not queue or (heap and heap[0] < queue[0]):
            return heappop(heap)[2]
        return queue.popleft()[2]

    def _forget(self) -> None:
        if self._dead:
            self._dead -= 1

    def __len__(self) -> int:
        return len(self._queue) + len(self._heap)
