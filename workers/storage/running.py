"""Running operations over one change of the store, each at most once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mesh.errors import CallError
from workers.acts import pack, unpack
from workers.storage.change import Change
from workers.storage.operations import Op
from workers.storage.view import View
from workers.store.dedup import Dedup


def outcome(view: View, op: Op) -> Any:
    """The result of one operation, a CallError in its place."""
    try:
        return getattr(view, op.verb)(op.bucket, **op.arguments)
    except CallError as error:
        return error


def read_all(view: View, ops: Sequence[Op]) -> list[Any]:
    """The results of operations that only read."""
    return [outcome(view, op) for op in ops]


def run_all(change: Change, ops: Sequence[Op], records: Dedup | None) -> list[Any]:
    """The results of `ops`, in order; of those that were done before, what came of them then."""
    return [_once(change, op, records) for op in ops]


def _once(change: Change, op: Op, records: Dedup | None) -> Any:
    if records is None or (op.once is None and op.call is None):
        return _run(change, op, records)
    try:
        if op.once is not None:
            key, content = op.once
            known = records.recall_key(change.into, key, content)
        else:
            assert op.call is not None
            session, sequence, content = op.call
            known = records.recall(change.into, session, sequence, content)
    except CallError as error:
        return error
    if known is not None:
        return unpack(known)
    result = _run(change, op, records)
    if isinstance(result, CallError):
        return result  # a request that failed is not remembered
    if op.once is not None:
        records.remember_key(change.into, key, content, pack(result))
    else:
        records.remember(change.into, session, sequence, content, pack(result))
    return result


def _run(change: Change, op: Op, records: Dedup | None) -> Any:
    if op.verb != "many":
        return outcome(change, op)
    return [
        _once(change, part, records) if part.once else outcome(change, part) for part in op.parts()
    ]
