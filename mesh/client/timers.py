"""Points in time at which calls are due."""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush

from mesh.client.calls import ENDED, Call

_FEW = 500


class Timers:
    """When to look at which call. A call that has ended is passed over.

    Ended calls are left where they are until they make up half of all; the owner reports each with
    `ended`.
    """

    __slots__ = ("_dead", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Call]] = []
        self._dead = 0

    def add(self, at: float, call: Call) -> None:
        """Look at `call` at time `at`."""
        heappush(self._heap, (at, call.sequence, call))

    def due(self, now: float) -> list[Call]:
        """The calls whose time has come; they are forgotten here."""
        heap = self._heap
        if not heap or heap[0][0] > now:
            return []
        found = []
        while heap and heap[0][0] <= now:
            call = heappop(heap)[2]
            if call.state != ENDED:
                found.append(call)
            elif self._dead:
                self._dead -= 1
        return found

    def next_at(self) -> float:
        """When the first is due; infinite if none is."""
        heap = self._heap
        while heap and heap[0][2].state == ENDED:
            heappop(heap)
            if self._dead:
                self._dead -= 1
        return heap[0][0] if heap else math.inf

    def ended(self) -> None:
        """A call that may be in here has ended."""
        self._dead += 1
        if self._dead > _FEW and self._dead > len(self._heap) >> 1:
            self._heap = [entry for entry in self._heap if entry[2].state != ENDED]
            heapify(self._heap)
            self._dead = 0

    def __len__(self) -> int:
        return len(self._heap)
