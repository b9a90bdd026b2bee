"""What the LMDB backend knows of requests that were done before: see `running.Repeats`."""

from __future__ import annotations

from typing import Any

from mesh.errors import KeyReused, OutcomeUnknown
from workers.memory import outcomes
from workers.memory.operations import Op
from workers.store.dedup import MAX_OUTCOME, Dedup
from workers.store.tables import Change

RECENT = 16_384
RECENT_OCTETS = 16 * 1024 * 1024


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

    __slots__ = ("_known", "_octets")

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[bytes, bytes | None]] = {}
        self._octets = 0

    def recall(self, op: Op) -> tuple[Any] | None:
        """The result of an operation that was done.

        Raises:
            KeyReused: its id was that of another.
            OutcomeUnknown: it was too large to be kept.
        """
        assert op.call is not None
        session, sequence, digest = op.call
        known = self._known.get((session, sequence))
        if known is None:
            return None
        if known[0] != digest:
            raise KeyReused(f"request {session:x}-{sequence} was used before, for another call")
        if known[1] is None:
            raise OutcomeUnknown(
                f"request {session:x}-{sequence} was done; its outcome had more than "
                f"{MAX_OUTCOME} octets and was not kept",
                maybe_executed=True,
            )
        return (outcomes.unpack(known[1]),)

    def remember(self, op: Op, result: Any) -> None:
        """It was done."""
        assert op.call is not None
        session, sequence, digest = op.call
        packed = outcomes.pack(result)
        kept = packed if len(packed) <= MAX_OUTCOME else None
        self._forget((session, sequence))
        self._known[session, sequence] = (digest, kept)
        self._octets += len(kept or b"")
        while len(self._known) > RECENT or self._octets > RECENT_OCTETS:
            self._forget(next(iter(self._known)))

    def _forget(self, call: tuple[int, int]) -> None:
        known = self._known.pop(call, None)
        if known is not None:
            self._octets -= len(known[1] or b"")
