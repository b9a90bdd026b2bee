"""Many calls of one method in one message: how they are packed, and their outcomes read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from mesh import errors
from mesh.client import base
from mesh.client.calls import Call
from mesh.errors import CallError, InvalidArgument
from mesh.protocol import payload
from mesh.protocol.messages import BATCH

MAX_BATCH = 4096


def pack_batch(items: Iterable[Any], limit: int) -> Iterator[tuple[int, bytes]]:
    """The packed bodies of the calls of a batch, each with the number of its calls.

    Raises:
        InvalidArgument: an item cannot be sent.
    """
    rest = iter(items)
    while part := list(islice(rest, limit)):
        yield from _pack_part([[item if type(item) is tuple else (item,)] for item in part])


def _pack_part(calls: list[list[Any]]) -> Iterator[tuple[int, bytes]]:
    try:
        body = payload.encode(calls, root="items")
    except InvalidArgument:
        if len(calls) == 1:
            raise
        half = len(calls) // 2
        yield from _pack_part(calls[:half])
        yield from _pack_part(calls[half:])
    else:
        yield len(calls), body


def outcomes(call: Call, count: int) -> list[Any]:
    """The value or CallError of each of `count` calls of a batch that has ended."""
    if call.error is not None:
        return [call.error] * count
    try:
        found = base.value_of(call, call.reply)
        if (
            not isinstance(found, list)
            or len(found) != count
            or call.reply is None
            or not call.reply.flags & BATCH
        ):
            raise base.unreadable(call, f"the answer to a batch of {count} does not hold {count}")
        return [
            item[1]
            if item[0] == 0
            else errors.from_wire(item[0], item[1], started=True, **call.identity())
            for item in found
        ]
    except CallError as error:
        return [error] * count
    except (LookupError, TypeError, AttributeError):
        return [base.unreadable(call, "an outcome of the batch cannot be read")] * count


def settle(results: list[Any], raise_errors: bool) -> list[Any]:
    """The outcomes of a batch as the caller wants them.

    Raises:
        CallError: the first one, if `raise_errors`.
    """
    if raise_errors:
        for item in results:
            if isinstance(item, CallError):
                raise item
    return results
