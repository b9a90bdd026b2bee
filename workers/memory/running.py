"""Running operations over tables: what the backends with tables of their own have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from mesh.errors import CallError, StoreFull
from workers.memory.cache import Cache
from workers.memory.change import Change
from workers.memory.locks import Event
from workers.memory.operations import Op
from workers.memory.tables import Tables
from workers.memory.view import Totals, View, slot_of

# Expired and void entries cleared along with each batch; it bounds what a batch waits for.
TIDY = 64


@dataclass(slots=True)
class Counts:
    """What was asked for in one namespace."""

    hits: int = 0
    misses: int = 0


@dataclass(slots=True)
class Ran:
    """What running some operations gave: results or exceptions, and what there is to tell."""

    results: list[Any] = field(default_factory=list)
    effects: list[tuple[bytes, int, int]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    tidied: int = 0
    totals: Totals = field(default_factory=Totals)


class Repeats(Protocol):
    """What is known of requests that were done before."""

    def recall(self, op: Op) -> tuple[Any] | None:
        """The result of an operation that was done, in a tuple; None if it may be done now.

        Raises CallError: neither.
        """

    def remember(self, op: Op, result: Any) -> None:
        """It was done."""


def run_changes(
    tables: Tables,
    ops: Sequence[Op],
    now: int,
    cache: Cache,
    repeats: Repeats | None = None,
    tidy: int = TIDY,
    above: int = 0,
) -> Ran:
    """Run `ops` in order; what `repeats` knows is not done again. Versions are `above` that one."""
    ran = Ran()
    change = Change(tables, now)
    if change.totals().version < above:
        change.totals().version = above
    ran.effects, ran.events = change.effects, change.events
    results = ran.results
    cache.undo()  # what an earlier run of the same operations gave up, which was not kept
    room = None if cache.fits(change, sum([op.octets() for op in ops])) else cache
    for op in ops:
        try:
            results.append(_once(change, op, repeats, room))
        except CallError as error:
            results.append(error)
    ran.tidied = change.tidy(tidy)
    change.close()
    ran.totals = change.totals()
    return ran


def _once(change: Change, op: Op, repeats: Repeats | None, room: Cache | None) -> Any:
    if repeats is None or op.call is None or op.reads():
        return run(change, op, room)
    known = repeats.recall(op)
    if known is not None:
        return known[0]
    result = run(change, op, room)
    repeats.remember(op, result)
    return result


def run(view: View, op: Op, room: Cache | None = None) -> Any:
    """One operation; `room` makes the room that it needs. Raises CallError."""
    if op.verb == "many":
        return [_outcome(view, part, room) for part in op.parts()]
    if room is not None and op.grows():
        needed = op.octets()
        if not room.make_room(cast(Change, view), needed):
            raise StoreFull(
                f"up to {needed:,} octets do not fit into the cache of {room.capacity:,}, and "
                "nothing more may be evicted; delete something, give entries a ttl, or raise "
                "cache_size"
            )
    return getattr(view, op.verb)(op.ns, **op.arguments)


def _outcome(view: View, op: Op, room: Cache | None = None) -> Any:
    try:
        return run(view, op, room)
    except CallError as error:
        return error


def run_reads(
    tables: Tables, ops: Sequence[Op], now: int, earlier: View | None = None
) -> tuple[list[Any], View]:
    """Results or exceptions of operations that only read."""
    view = View(tables, now, earlier)
    return [_outcome(view, op) for op in ops], view


COUNTED = frozenset(("get", "get_many", "touch", "many"))
"""Verbs whose hits and misses a `Tally` may hold."""


class Tally:
    """Hits and misses by namespace, and which entries were hit; emptied by `take`."""

    def __init__(self, most: int = 1024) -> None:
        self.counts: dict[str, Counts] = {}
        self.slots: list[bytes] = []
        self._most = most

    def note(self, view: View, ops: Sequence[Op], results: Sequence[Any]) -> None:
        """Take note of what some operations have found. Beyond its size hits are forgotten."""
        for op, result in zip(ops, results, strict=True):
            if op.verb == "many" and not isinstance(result, Exception):
                self.note(view, op.parts(), result)
            elif op.verb in ("get", "touch"):
                self._note(view, op.ns, op.arguments["key"], result)
            elif op.verb == "get_many" and not isinstance(result, Exception):
                for key, entry in zip(op.arguments["keys"], result, strict=True):
                    self._note(view, op.ns, key, entry)

    def _note(self, view: View, ns: str, key: bytes, entry: Any) -> None:
        if isinstance(entry, Exception):
            return
        counts = self.counts.get(ns)
        if counts is None:
            if view.space(ns) is None:
                return  # nobody may fill memory with names that do not exist
            counts = self.counts[ns] = Counts()
        if entry is None:
            counts.misses += 1
            return
        counts.hits += 1
        space = view.space(ns)
        if space is not None and len(self.slots) < self._most:
            self.slots.append(slot_of(space, key))
