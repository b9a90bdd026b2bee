"""Several changes as one: the steps of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from mesh.client.storage import calls
from mesh.client.verbs import Request
from mesh.protocol import storage as limits

COMMON = ("bucket", "packed")  # a batch has them for all of its steps


class Steps:
    """Steps that are done together, all or none, in their order. Methods return the same object."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket
        self._steps: list[list[Any]] = []
        self._conditions: dict[str, int] = {}

    def put(self, key: str, value: Any, *, ttl: float | None = None) -> Self:
        """Write a record."""
        return self._add(calls.put(self._bucket, key, value, ttl=ttl))

    def delete(self, *keys: str) -> Self:
        """Remove records and objects."""
        return self._add(calls.delete(self._bucket, *keys))

    def require(self, key: str, version: int) -> Self:
        """Do nothing at all unless `key` has `version` (0: does not exist)."""
        self._conditions[calls.key_of(key)] = limits.check_version(version)
        return self

    def __len__(self) -> int:
        return len(self._steps)

    def _add(self, request: Request[Any]) -> Self:
        named = {name: value for name, value in request.kwargs.items() if name not in COMMON}
        self._steps.append([request.verb, [*request.args], named])
        return self

    def _request(self, idempotency_key: str) -> Request[list[int]]:
        kwargs = calls.conditions(self._bucket, None, "", None, idempotency_key)
        kwargs["packed"] = True
        if self._conditions:
            kwargs["conditions"] = dict(self._conditions)

        def read(answers: Sequence[int]) -> list[int]:
            return list(answers)

        return Request("batch", (self._steps[:],), kwargs, read)
