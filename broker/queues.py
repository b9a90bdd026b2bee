"""Data structures of the router: each operation costs the same however much they hold.

`FairQueue` orders waiting calls, `CreditPool` orders workers by free credit, `ExpiryWheel` finds
calls whose time is up.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator

from broker.state import Call, Client, Seat
from mesh.protocol.messages import PRIORITIES


class FairQueue:
    """Calls by priority; within a priority round robin among clients; within a client in order.

    Every SHARE-th call that would go before others of a lower class lets one of those go instead:
    the one that has waited longest of those whose turn it is. So no class starves.
    """

    __slots__ = ("_classes", "_lengths", "_passed", "length")
    SHARE = 16

    def __init__(self) -> None:
        self._classes: list[OrderedDict[Client, OrderedDict[Call, None]]] = [
            OrderedDict() for _ in range(PRIORITIES)
        ]
        self._lengths = [0] * PRIORITIES
        self._passed = 0
        self.length = 0

    def push(self, call: Call) -> None:
        clients = self._classes[call.priority]
        mine = clients.get(call.client)
        if mine is None:
            mine = clients[call.client] = OrderedDict()
        mine[call] = None
        self._lengths[call.priority] += 1
        self.length += 1

    def push_front(self, call: Call) -> None:
        """Put back a call that had its turn: first of its client, and its client first."""
        self.push(call)
        clients = self._classes[call.priority]
        clients[call.client].move_to_end(call, last=False)
        clients.move_to_end(call.client, last=False)

    def pop(self) -> Call:
        """The next call. The queue must not be empty."""
        if not self.length:
            raise IndexError("pop from an empty queue")
        priority = self._turn()
        clients = self._classes[priority]
        client, mine = next(iter(clients.items()))
        call, _ = mine.popitem(last=False)
        if mine:
            clients.move_to_end(client)
        else:
            del clients[client]
        self._lengths[priority] -= 1
        self.length -= 1
        return call

    def _turn(self) -> int:
        """Which class is next. The queue must not be empty."""
        lengths = self._lengths
        top = 0
        while not lengths[top]:
            top += 1
        if lengths[top] == self.length:
            return top
        self._passed += 1
        if self._passed < self.SHARE:
            return top
        self._passed = 0
        found, since = top, float("inf")
        for priority in range(top + 1, PRIORITIES):
            if lengths[priority]:
                first = next(iter(next(iter(self._classes[priority].values()))))
                if first.queued_at < since:
                    found, since = priority, first.queued_at
        return found

    def ahead(self, priority: int) -> int:
        """How many calls wait that are not of a lower class than `priority`."""
        return sum(self._lengths[: priority + 1])

    def remove(self, call: Call) -> None:
        clients = self._classes[call.priority]
        mine = clients[call.client]
        del mine[call]
        if not mine:
            del clients[call.client]
        self._lengths[call.priority] -= 1
        self.length -= 1

    def __iter__(self) -> Iterator[Call]:
        for clients in self._classes:
            for mine in clients.values():
                yield from mine

    def oldest_at(self) -> float | None:
        """When the call that has waited longest was queued: the first of some client."""
        firsts = (next(iter(mine)) for clients in self._classes for mine in clients.values())
        return min((call.queued_at for call in firsts), default=None)


class CreditPool:
    """Seats with free credit; `take` gives the one with the most, the longest waiting among equals.

    Seats stand in one bucket per amount of free credit. Taking a request lowers a seat by one
    bucket, so the highest occupied bucket moves by at most one per operation.
    """

    __slots__ = ("_buckets", "_top", "size")

    def __init__(self) -> None:
        # The last seat of each bucket, None where it is empty. The seats of one form a ring.
        self._buckets: list[Seat | None] = [None]
        self._top = 0
        self.size = 0

    def put(self, seat: Seat) -> None:
        """Hold `seat` at its present free credit; one without credit is left out."""
        free = max(0, seat.window - seat.in_flight)
        if seat.bucket == (free or -1):
            return
        if seat.bucket >= 0:
            self._unlink(seat)
        if free:
            while free >= len(self._buckets):
                self._buckets.append(None)
            self._link(seat, free)
        if free > self._top:
            self._top = free
        else:
            self._settle()

    def discard(self, seat: Seat) -> None:
        if seat.bucket >= 0:
            self._unlink(seat)
            self._settle()

    def take(self) -> Seat | None:
        """The seat with the most free credit, counted one request fuller; None if there is none."""
        top = self._top
        last = self._buckets[top]
        if last is None:
            return None
        seat = last.after
        assert seat is not None
        self._unlink(seat)
        seat.in_flight += 1
        if top > 1:
            self._link(seat, top - 1)
        self._settle()
        return seat

    def _link(self, seat: Seat, bucket: int) -> None:
        """Let `seat` be the last of `bucket`."""
        last = self._buckets[bucket]
        if last is None:
            seat.before = seat.after = seat
        else:
            first = last.after
            assert first is not None
            seat.before, seat.after = last, first
            last.after = first.before = seat
        self._buckets[bucket] = seat
        seat.bucket = bucket
        self.size += 1

    def _unlink(self, seat: Seat) -> None:
        before, after = seat.before, seat.after
        assert before is not None
        assert after is not None
        if before is seat:
            self._buckets[seat.bucket] = None
        else:
            before.after, after.before = after, before
            if self._buckets[seat.bucket] is seat:
                self._buckets[seat.bucket] = before
        seat.before = seat.after = None
        seat.bucket = -1
        self.size -= 1

    def _settle(self) -> None:
        """Lower the top to an occupied bucket. Amortized: only `put` raises it."""
        top = self._top
        buckets = self._buckets
        while top and buckets[top] is None:
            top -= 1
        self._top = top

    def __iter__(self) -> Iterator[Seat]:
        for last in self._buckets:
            seat = last.after if last is not None else None
            while seat is not None:
                yield seat
                seat = seat.after if seat is not last else None


class ExpiryWheel:
    """Calls by the time at which to look at them again, in slots of `1 / RESOLUTION` seconds.

    Adding and removing cost the same at any size, and a removed call leaves nothing behind. A call
    is due at most one slot late and never early; those of one slot in the order of their adding.
    """

    __slots__ = ("_order", "_slots")
    RESOLUTION = 100

    def __init__(self) -> None:
        self._slots: dict[int, dict[Call, None]] = {}
        self._order: list[int] = []

    def add(self, call: Call, due_at: float) -> None:
        number = int(due_at * 100) + 1
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = {}
            heapq.heappush(self._order, number)
        slot[call] = None
        call.wheel_slot = number

    def discard(self, call: Call) -> None:
        number = call.wheel_slot
        if number >= 0:
            slot = self._slots[number]
            slot.pop(call, None)
            if not slot:
                slot.clear()  # or it would keep the room of all that were in it until it is due
            call.wheel_slot = -1

    def due(self, now: float) -> list[Call]:
        """Take out the calls whose time has come."""
        found: list[Call] = []
        while self.next_at() <= now:  # in one expression with what `next_at` promises
            number = heapq.heappop(self._order)
            for call in self._slots.pop(number):
                call.wheel_slot = -1
                found.append(call)
        return found

    def next_at(self) -> float:
        """When `due` should be called next; infinity if nothing is held. May be early."""
        return self._order[0] / self.RESOLUTION if self._order else float("inf")

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))
