"""Several changes as one: the steps of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from mesh.client.memory import calls
from mesh.client.memory.requests import Request
from mesh.protocol import memory as limits

P = ParamSpec("P")
S = TypeVar("S", bound="Steps")

COMMON = ("ns", "packed")  # a batch has them for all of its steps


def _step(build: Callable[Concatenate[str, P], Request[Any]]) -> Callable[Concatenate[S, P], S]:
    """The verb as a step of a batch."""

    @wraps(build)
    def add(self: S, /, *args: P.args, **kwargs: P.kwargs) -> S:
        request = build(self._ns, *args, **kwargs)
        named = {key: value for key, value in request.kwargs.items() if key not in COMMON}
        self._steps.append([request.verb, [*request.args], named])
        self._reads.append(request.read)
        return self

    return add


class Steps:
    """Steps that are done together, all or none, in their order. Methods return the same object."""

    def __init__(self, ns: str) -> None:
        self._ns = ns
        self._steps: list[list[Any]] = []
        self._reads: list[Callable[[Any], Any]] = []
        self._conditions: dict[str, int] = {}

    set = _step(calls.set)
    delete = _step(calls.delete)
    expire = _step(calls.expire)
    increment = _step(calls.increment)
    get = _step(calls.get)
    exists = _step(calls.exists)

    def require(self, key: str, version: int) -> Self:
        """Do nothing at all unless `key` has `version` (0: does not exist)."""
        limits.check_key(key)
        self._conditions[key] = limits.check_version(version)
        return self

    def __len__(self) -> int:
        return len(self._steps)

    def _request(self) -> Request[list[Any]]:
        reads = self._reads[:]

        def read(answers: Sequence[Any]) -> list[Any]:
            return [one(answer) for one, answer in zip(reads, answers, strict=True)]

        kwargs: dict[str, Any] = {"ns": self._ns, "packed": True}
        if self._conditions:
            kwargs["conditions"] = dict(self._conditions)
        return Request("batch", (self._steps[:],), kwargs, read)
