"""The interface of a store: a list of operations goes in, a list of results comes out.

An operation is a verb of `view.View` or `change.Change` with its arguments, checked already: keys
are octets, values packed, times milliseconds. One contract holds for every engine, tested by
`tests/conformance/storage`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from workers.acts import CallId

RELEASES = frozenset(("delete", "drop", "configure"))
"""Verbs that need next to no room: done even when the store is full."""
GROUP = 16 * 1024 * 1024
"""Octets of values in one transaction; its pages wait in memory until the commit."""

Watch: TypeAlias = Callable[[set[str]], None]


class Op:
    """One operation.

    `call` identifies the request and its content: one outcome for all repeats. `once` is an
    idempotency key of the caller's own with the digest of what is asked for, and counts alone.
    """

    __slots__ = ("arguments", "bucket", "call", "once", "verb")

    def __init__(
        self,
        verb: str,
        bucket: str,
        arguments: dict[str, Any] | None = None,
        call: CallId | None = None,
        once: tuple[bytes, bytes] | None = None,
    ) -> None:
        self.verb = verb
        self.bucket = bucket
        self.arguments = {} if arguments is None else arguments
        self.call = call
        self.once = once

    def parts(self) -> Sequence[Op]:
        """The operations in it: `many` runs several, each of which succeeds or fails alone."""
        found: Sequence[Op] = self.arguments["ops"] if self.verb == "many" else (self,)
        return found

    def octets(self) -> int:
        """About how much it adds."""
        given = self.arguments
        if self.verb == "put":
            return len(given["body"])
        if self.verb == "many":
            return sum([part.octets() for part in given["ops"]])
        if self.verb == "put_many":
            return sum([len(body) for _, body in given["items"]])
        if self.verb == "batch":
            return sum([len(step.get("body", b"")) for _, step in given["steps"]])
        return len(given.get("data") or b"")


def together(ops: list[Op]) -> Op:
    """Some operations as one request."""
    return Op("many", "", {"ops": ops})


class Engine(Protocol):
    """A store. `read` and `execute` give one result or exception for each operation, in order."""

    def read(self, ops: Sequence[Op]) -> list[Any]:
        """Run operations that only read, as of one moment that is not before the call."""

    def execute(self, ops: Sequence[Op]) -> list[Any]:
        """Run any operations, in order; on return they are on disk."""

    def write_part(self, upload: bytes, number: int, data: bytes, digest: bytes) -> None:
        """Keep a part of an upload. It need not be on disk."""

    def share_upload(self, upload: bytes) -> str:
        """Begin an upload that a client on this machine may write itself; the path of its file.

        Empty if it has begun before, or cannot be written so.
        """

    def upload_parts(self, upload: bytes, start: int = 0) -> list[bytes]:
        """The digests of the next parts of an upload; of one that has not come, that of zeros."""

    def finish_upload(self, op: Op, size: int, digests: bytes) -> Any:
        """Put the parts of an upload on disk, then run `op` (`put_object`); its result."""

    def discard_upload(self, upload: bytes) -> bool:
        """Forget an upload. Whether there was one."""

    def read_part(self, blob: bytes, number: int, start: int, end: int) -> bytes | None:
        """Octets `start` to `end` of a part of an object; None if it is gone."""

    def identity(self) -> dict[str, Any]:
        """`uuid` and `epoch` of the store, for brokers to tell it from another; {} if unknown."""

    def stand(self, gained: Callable[[int], None], lost: Callable[[Exception], None]) -> None:
        """Call `gained`, now or later and on any thread, when this process may `execute`.

        It is given the epoch of that right. `lost` is called if it no longer may, although nobody
        asked it to stop.
        """

    def watch(self, report: Watch) -> None:
        """Have `report` called, on any thread, with the buckets in which something has changed."""

    def tick(self) -> bool:
        """What has to be done from time to time; False: all done."""

    def close(self) -> None:
        """Give everything back."""
