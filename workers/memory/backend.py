"""The interface of a store: a list of operations goes in, a list of results comes out.

Operations are those of `operations`. One contract holds for every backend, tested by
one suite; where an engine cannot keep it, `Capabilities` says so and `docs/memory.md` what then
holds instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from workers.memory.locks import Event
from workers.memory.operations import GROWS as GROWS
from workers.memory.operations import READS as READS
from workers.memory.operations import Op as Op

Watch = Callable[[list[Event]], None]


@dataclass(slots=True, frozen=True)
class Capabilities:
    """What a backend can promise."""

    durable: bool = False
    """Acknowledged means on disk (for namespaces that are not `relaxed`)."""
    relaxed: bool = False
    """A namespace may be acknowledged before it is on disk."""
    repeats: bool = False
    """A repeated request gets the first one's outcome, also from another process."""
    shared: bool = False
    """Several processes may read it."""
    many_writers: bool = False
    """Every process may write: there is no writer lane to hand over."""
    ordered_scan: bool = True
    """`scan` goes in the order of keys."""
    atomic_namespace: bool = True
    """Operations on several keys of a namespace happen at one moment."""
    evicts: bool = False
    """The policy and `cache_size` given here hold; otherwise the engine's own."""
    watches_all: bool = True
    """Expired and evicted entries are reported to those who watch."""


class Backend(Protocol):
    """A store. `read` and `execute` give one result or exception for each operation, in order."""

    name: str
    capabilities: Capabilities

    def read(self, ops: Sequence[Op]) -> list[Any]:
        """Run operations that only read, as of one moment that is not before the call."""

    def execute(self, ops: Sequence[Op]) -> list[Any]:
        """Run any operations, in order; on return they are acknowledged."""

    def now(self) -> int:
        """Unix time in ms by the clock that decides what has expired."""

    def tick(self) -> bool:
        """What has to be done from time to time, on the thread that executes; False: all done."""

    def identity(self) -> dict[str, Any]:
        """`uuid` and `epoch` of the store, for brokers to tell it from another; {} if unknown."""

    def stand(self, gained: Callable[[int], None], lost: Callable[[Exception], None]) -> None:
        """Call `gained`, now or later and on any thread, when this process may `execute`.

        It is given the epoch of that right, which grows with each process that gets it; 0 where
        several may have it.
        `lost` is called if it no longer may, although nobody asked it to stop.
        """

    def watch(self, report: Watch) -> None:
        """Have `report` called, on any thread, with what has happened."""

    def follow(self, namespaces: set[str]) -> None:
        """The namespaces that somebody watches now; others need not be reported."""

    def close(self) -> None:
        """Give everything back."""
