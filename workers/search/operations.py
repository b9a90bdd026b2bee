"""What the search service does with its store: operations, checked and packed already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from workers.acts import CallId


@dataclass(slots=True)
class Op:
    """A verb of `view.View`, `change.Change` or `searching.Searcher`, with its arguments.

    `call` identifies the request and its content: one outcome for all repeats. `wait`: answered
    once searches see what it did.
    """

    verb: str
    collection: str
    arguments: dict[str, Any] = field(default_factory=dict)
    call: CallId | None = None
    wait: bool = False

    def parts(self) -> Sequence[Op]:
        """The operations in it: `many` runs several, each of which succeeds or fails alone."""
        found: Sequence[Op] = self.arguments["ops"] if self.verb == "many" else (self,)
        return found

    def octets(self) -> int:
        """How much it brings."""
        return sum([
            len(one.body) for part in self.parts() for one in part.arguments.get("documents", ())
        ])  # fmt: skip


def together(ops: list[Op]) -> Op:
    """Some operations as one request."""
    return Op("many", "", {"ops": ops})


class Given:
    """A document as it came. `values`: its fields; `body`: its id and fields, packed."""

    __slots__ = ("body", "id", "key", "values")

    def __init__(self, id: str, key: bytes, values: dict[str, Any], body: bytes) -> None:
        self.id = id
        self.key = key
        self.values = values
        self.body = body
