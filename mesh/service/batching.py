"""Many calls, one execution: what `@service.batch` handlers are given.

`Collector` gathers requests until there are enough or the first has waited long enough; a `Group`
is one execution. Pure: time comes in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from mesh import errors
from mesh.context import Call
from mesh.errors import CallError, InvalidArgument
from mesh.protocol.messages import BATCH
from mesh.service.declare import Method
from mesh.service.invoke import (
    FAIL,
    Arguments,
    ItemOutcome,
    Outcome,
    arguments,
    batch_calls,
    batch_outcome,
    failure,
    item_failure,
    outcome,
)
from mesh.service.requests import Request


class Collector:
    """Gathers the requests of one batch method."""

    __slots__ = ("_flush_at", "_max_size", "_max_wait", "_requests", "method")

    def __init__(self, method: Method) -> None:
        self.method = method
        self._max_size, self._max_wait = method.batch or (1, 0.0)
        self._requests: list[Request] = []
        self._flush_at = math.inf

    @property
    def flush_at(self) -> float:
        """When what has been gathered must be run; infinite if nothing has."""
        return self._flush_at

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request, now: float) -> list[Request] | None:
        """Keep `request`; if that completes a group, the group."""
        if not self._requests:
            self._flush_at = now + self._max_wait
        self._requests.append(request)
        if len(self._requests) >= self._max_size or request.flags & BATCH:
            return self.take()
        return None

    def take(self) -> list[Request]:
        """What has been gathered."""
        requests, self._requests = self._requests, []
        self._flush_at = math.inf
        return requests


class Group:
    """Requests that one or a few executions of a batch handler serve.

    `outcomes` grows; when the executions are over it has one for each request. A client's own batch
    of calls takes part with all of them.
    """

    __slots__ = ("_results", "_spans", "call", "method", "outcomes", "values")

    def __init__(self, method: Method, requests: Sequence[Request], now: float) -> None:
        self.method = method
        self.outcomes: list[Outcome] = []
        self.values: list[Any] = []
        self._results: list[ItemOutcome] = []
        self._spans: list[tuple[Request, list[CallError | None]]] = []
        for request in requests:
            code = request.refusal(now)
            if code:
                fields = {"message": "it ended before its batch began"}
                self.outcomes.append((FAIL, request, (code, fields), False))
                continue
            try:
                self._add(request)
            except InvalidArgument as error:
                self.outcomes.append(failure(request, error))
        deadline = max((request.deadline for request, _ in self._spans), default=math.inf)
        self.call = Call(method, deadline)

    def _add(self, request: Request) -> None:
        calls: list[Arguments | CallError]
        calls = batch_calls(request) if request.flags & BATCH else [arguments(request)]
        refused: list[CallError | None] = []
        for call in calls:
            try:
                if isinstance(call, CallError):
                    raise call
                self.values.append(_only_argument(call))
                refused.append(None)
            except CallError as error:
                if not request.flags & BATCH:
                    raise
                refused.append(error)
        self._spans.append((request, refused))

    def portions(self) -> Iterator[list[Any]]:
        """The lists of arguments to execute; `took` or `raised` must follow each."""
        size = self.method.batch[0] if self.method.batch else 1
        for first in range(0, len(self.values), size):
            yield self.values[first : first + size]

    def took(self, portion: list[Any], results: Any) -> None:
        """The handler returned `results` for `portion`."""
        if not isinstance(results, list | tuple) or len(results) != len(portion):
            what = f"{len(results)} results" if isinstance(results, list | tuple) else "no list"
            self.raised(portion, ValueError(f"returned {what} for {len(portion)} calls"))
            return
        for result in results:
            if isinstance(result, BaseException):
                self._results.append(item_failure(self.method, result, None))
            else:
                self._results.append((0, result))

    def raised(self, portion: list[Any], error: BaseException) -> None:
        """The handler raised `error` for `portion`."""
        self._results += [item_failure(self.method, error, None)] * len(portion)

    def close(self) -> list[Outcome]:
        """The outcome of every request, once all portions are through."""
        results = iter(self._results)
        for request, refused in self._spans:
            if request.flags & BATCH:
                mixed = [next(results) if e is None else errors.to_wire(e) for e in refused]
                self.outcomes.append(batch_outcome(request, mixed))
                continue
            code, value = next(results)
            if code:
                self.outcomes.append((FAIL, request, (code, value), True))
            else:
                self.outcomes.append(outcome(request, value))
        return self.outcomes


def _only_argument(call: Arguments) -> Any:
    args, kwargs = call
    if len(args) + len(kwargs) != 1:
        raise InvalidArgument(
            f"it takes exactly one argument, and was given {len(args) + len(kwargs)}"
        )
    return args[0] if args else next(iter(kwargs.values()))
