"""Lanes with an executor of their own: everything that has arrived is run together.

A store runs what was drained as one transaction and answers after the commit:

    def execute(jobs):
        with store.transaction():
            for job in jobs:
                job.run()
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from mesh import errors
from mesh.protocol import payload
from mesh.protocol.messages import BATCH, MAX_BODY, RAW
from mesh.service.invoke import (
    FAIL,
    FINISH,
    Outcome,
    arguments,
    batch_calls,
    batch_outcome,
    failure,
    outcome,
    run,
)
from mesh.service.requests import Request, packed_array

MAX_PACKED = 65_535


class Packed:
    """A result that is MessagePack already, and sent as it is."""

    __slots__ = ("body",)

    def __init__(self, body: bytes) -> None:
        self.body = body


class Job:
    """A request that waits in a lane. It is answered with what `run`, `finish` or `fail` left."""

    __slots__ = ("outcome", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.outcome: Outcome | None = None

    @property
    def method(self) -> str:
        """The name of the method that is called."""
        return self.request.method

    def calls(self) -> list[tuple[list[Any], dict[str, Any]]]:
        """Positional and keyword arguments of every call: one, or those of a batch.

        Raises:
            InvalidArgument: the body does not hold calls.
        """
        if not self.request.flags & BATCH:
            return [arguments(self.request)]
        calls = []
        for call in batch_calls(self.request):
            if isinstance(call, errors.CallError):
                raise call
            calls.append(call)
        return calls

    def run(self) -> None:
        """Call the declared handler with the arguments, and keep its outcome. Never raises."""
        self.outcome = run(self.request)

    def finish(self, results: Sequence[Any]) -> None:
        """Answer with `results`, one for each of `calls()`; an exception fails its call alone.

        Any of them may be `Packed`.
        """
        if self.request.flags & BATCH:
            self.outcome = _batch_outcome(self.request, results)
        elif isinstance(results[0], Exception):
            self.fail(results[0])
        else:
            self.outcome = _outcome(self.request, results[0])

    def fail(self, error: Exception) -> None:
        """Answer with `error`."""
        self.outcome = failure(self.request, error)


def _outcome(request: Request, result: Any) -> Outcome:
    if type(result) is not Packed:
        return outcome(request, result)
    if request.flags & RAW or len(result.body) > MAX_BODY:
        return outcome(request, payload.decode(result.body))
    return (FINISH, request, [result.body], 0)


def _batch_outcome(request: Request, results: Sequence[Any]) -> Outcome:
    if len(results) <= MAX_PACKED and all([type(result) is Packed for result in results]):
        body = packed_array([b"\x92\x00" + result.body for result in results])  # [0, result]
        if len(body) <= MAX_BODY:
            return (FINISH, request, [body], BATCH)
    return batch_outcome(request, [_item(result) for result in results])


def _item(result: Any) -> tuple[int, Any]:
    if isinstance(result, Exception):
        return errors.to_wire(result)
    return 0, payload.decode(result.body) if type(result) is Packed else result


Execute: TypeAlias = Callable[[list[Job]], None]


def execute_all(execute: Execute, requests: Sequence[Request]) -> list[Outcome]:
    """Run `requests` together; the outcome of each, in order.

    If `execute` raises, none of them can be taken for done.
    """
    now = time.monotonic()
    outcomes: list[Outcome] = []
    jobs: list[Job] = []
    for request in requests:
        code = request.refusal(now)
        if code:
            outcomes.append((FAIL, request, (code, {"message": "it came too late"}), False))
        else:
            jobs.append(Job(request))
    if not jobs:
        return outcomes
    broken: BaseException = RuntimeError("the lane's executor left the job without an outcome")
    try:
        execute(jobs)
    except BaseException as error:
        broken = error
        for job in jobs:
            job.outcome = None
    for job in jobs:
        outcomes.append(job.outcome or failure(job.request, broken))
    return outcomes
