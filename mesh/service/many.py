"""A client's batch of calls to an async handler, on which several runners may work at once."""

from __future__ import annotations

import asyncio
from typing import Any

from mesh.errors import CallError
from mesh.service.invoke import (
    Arguments,
    ItemOutcome,
    Outcome,
    batch_calls,
    batch_outcome,
    failure,
)
from mesh.service.requests import Request

BATCH_CONCURRENCY = 256


class Turn:
    """A runner's part in a client's batch, or at a group. `handle` is set if it suspends."""

    __slots__ = ("cancel_code", "handle", "many")

    def __init__(self, many: Many | None) -> None:
        self.many = many
        self.handle: asyncio.Task[Any] | None = None
        self.cancel_code = 0


class Many:
    """The calls of one batch, their results, and the turns of those who work on it."""

    __slots__ = ("calls", "done", "error", "following", "request", "results", "turns")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.calls: list[Arguments | CallError] = batch_calls(request)
        self.results: list[ItemOutcome] = [(0, None)] * len(self.calls)
        self.following = 0
        self.turns: set[Turn] = set()
        self.done = False
        self.error: BaseException | None = None

    @property
    def begun(self) -> bool:
        """Whether every call has been begun."""
        return self.following >= len(self.calls)

    def cancel(self) -> None:
        """Cancel every call that has begun; the others never will."""
        self.following = len(self.calls)
        for turn in self.turns:
            if turn.handle is not None:
                turn.handle.cancel()

    def outcome(self) -> Outcome:
        """Every call has ended: their outcomes, or the error of the whole."""
        if self.error is not None:
            return failure(self.request, self.error)
        return batch_outcome(self.request, self.results)
