"""What the LMDB backend knows of requests that were done before: see `running.Repeats`."""

from __future__ import annotations

from typing import Any

from mesh.errors import KeyReused
from workers.memory import outcomes
from workers.memory.operations import Op
from workers.store.dedup import Dedup
from workers.store.tables import Change

RECENT = 16_384


class Recorded:
    """Records in the same change as the effects; `recent` knows what was relaxed before."""

    __slots__ = ("_change", "_recent", "_records")

    def __init__(self, records: Dedup, change: Change, recent: Recent) -> None:
        self._records = records
        self._change = change
        self._recent = recent

    def recall(self, op: Op) -> tuple[Any] | None:
        """The result of an operation that was done."""
        assert op.call is not None
        known = self._recent.recall(op)
        if known is not None:
            return known
        session, sequence, digest = op.call
        packed = self._records.recall(self._change, session, sequence, digest)
        return None if packed is None else (outcomes.unpack(packed),)

    def remember(self, op: Op, result: Any) -> None:
        """It was done."""
        assert op.call is not None
        session, sequence, digest = op.call
        self._records.remember(self._change, session, sequence, digest, outcomes.pack(result))


class Recent:
    """The memory of this process: a crash loses it, as it loses what is relaxed."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[bytes, Any]] = {}

    def recall(self, op: Op) -> tuple[Any] | None:
        """The result of an operation that was done."""
        assert op.call is not None
        session, sequence, digest = op.call
        known = self._known.get((session, sequence))
        if known is None:
            return None
        if known[0] != digest:
            raise KeyReused(f"request {session:x}-{sequence} was used before, for another call")
        return (known[1],)

    def remember(self, op: Op, result: Any) -> None:
        """It was done."""
        assert op.call is not None
        session, sequence, digest = op.call
        self._known[session, sequence] = (digest, result)
        if len(self._known) > RECENT:
            del self._known[next(iter(self._known))]
