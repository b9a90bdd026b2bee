"""What is asked of a store: a verb of `view.View` or `change.Change` with its arguments.

They are checked already: keys are octets, values packed, times Unix milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workers.acts import CallId

READS = frozenset(("get", "get_many", "exists", "ttl", "scan", "lock_info", "stats"))
# What needs room: refused when nothing can be given up for it.
GROWS = frozenset(("set", "set_many", "increment", "batch"))


class Op:
    """One operation. `call` identifies the request and its content: one outcome for all repeats.

    It is `(incarnation, sequence, digest)`; None for what may be repeated without harm.
    """

    __slots__ = ("arguments", "call", "ns", "verb")

    def __init__(
        self,
        verb: str,
        ns: str,
        arguments: dict[str, Any] | None = None,
        call: CallId | None = None,
    ) -> None:
        self.verb = verb
        self.ns = ns
        self.arguments = {} if arguments is None else arguments
        self.call = call

    def parts(self) -> Sequence[Op]:
        """The operations in it: `many` runs several, each of which succeeds or fails alone."""
        found: Sequence[Op] = self.arguments["ops"] if self.verb == "many" else (self,)
        return found

    def grows(self) -> bool:
        """Whether it needs room."""
        if self.verb != "many":
            return self.verb in GROWS
        return any([op.verb in GROWS for op in self.parts()])

    def reads(self) -> bool:
        """Whether it changes nothing."""
        if self.verb != "many":
            return self.verb in READS
        return all([op.verb in READS for op in self.parts()])

    def octets(self) -> int:
        """How much it may add: an upper bound, for making room before."""
        if self.verb == "set":
            return len(self.arguments["body"]) + 1024
        if self.verb == "many":
            return sum([op.octets() for op in self.parts()])
        if self.verb == "set_many":
            return sum([len(body) + 1024 for _, body in self.arguments["items"]])
        if self.verb == "batch":
            return sum([len(step.get("body", b"")) + 1024 for _, step in self.arguments["steps"]])
        return 1024 if self.verb in GROWS else 0


def verbs_in(ops: Sequence[Op]) -> set[str]:
    """The verbs of some operations, and of those within them."""
    found = {op.verb for op in ops}
    if "many" in found:
        found.update([part.verb for op in ops for part in op.parts()])
    return found
