"""How an object is read, or a range of it: part by part, verified, as a plan."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from mesh.client.storage import calls
from mesh.client.storage.plans import (
    WINDOW,
    Begin,
    Give,
    Plan,
    Progress,
    answered,
    patiently,
    safe_request,
)
from mesh.client.storage.requests import SERVICE, ObjectInfo, object_info
from mesh.client.storage.sums import Sum
from mesh.client.verbs import Patience, Request
from mesh.errors import CallError, DataCorrupted, InvalidArgument, VersionConflict
from mesh.protocol import storage as limits
from mesh.protocol.storage import PART


@dataclass(slots=True)
class Receiving:
    """An object that is being read, or a range of it, and how far that is."""

    bucket: str
    key: str
    start: int
    end: int | None
    patience: Patience
    progress: Progress | None = None
    info: ObjectInfo | None = None
    blob: bytes = b""
    data: bytes | None = None
    done: int = 0


def prepare(
    bucket: str, key: str, start: int, end: int | None, patience: Patience,
    progress: Progress | None = None,
) -> Receiving:  # fmt: skip
    """A range of an object, checked."""
    most = limits.MAX_PARTS * PART
    limits.check_number("start", start, most)
    if end is not None and limits.check_number("end", end, most) < start:
        raise InvalidArgument(f"end={end} is before start={start}")
    return Receiving(bucket, calls.key_of(key), start, end, patience, progress)


def find(of: Receiving) -> Plan[bool]:
    """Learn what there is to know of the object; whether there is one."""
    kwargs = {} if of.bucket == limits.DEFAULT_BUCKET else {"bucket": of.bucket}
    request: Request[Any] = Request("object", (of.key,), kwargs, lambda answer: answer, True)
    found = yield from patiently(of.patience, request)
    if found is None:
        return False
    of.info, of.blob, of.data = object_info(found), found["blob"], found["data"]
    return True


def receive(of: Receiving) -> Plan[None]:
    """Give the octets of an object that was found, part by part, verified.

    Raises:
        DataCorrupted: they are not what was written.
        VersionConflict: the object was replaced or deleted meanwhile, and its content is gone.
    """
    assert of.info is not None
    size = of.info.size
    end = size if of.end is None else min(of.end, size)
    start = min(of.start, end)
    whole = (start, end) == (0, size)
    summed = Sum()
    total = end - start

    def took(data: bytes) -> Give:
        if whole:
            summed.update(data)
        of.done += len(data)
        if of.progress is not None:
            of.progress(of.done, total)
        return Give(data)

    if of.data is not None:
        if total:
            yield took(of.data[start:end])
    else:
        waiting: deque[tuple[Any, Request[Any]]] = deque()
        numbers = iter(range(start // PART, -(-end // PART) if total else 0))
        for number in numbers:
            request = _part(of, number, start, end)
            waiting.append(((yield Begin(request)), request))
            if len(waiting) >= WINDOW:
                yield took((yield from _arrived(of, waiting)))
        while waiting:
            yield took((yield from _arrived(of, waiting)))
    if whole and summed.digest().hex() != of.info.sha256:
        raise DataCorrupted(
            f"object {of.key!r} of bucket {of.bucket!r} is not what was written; restore a backup",
            service=SERVICE,
            data={"key": of.key, "bucket": of.bucket},
        )


def _part(of: Receiving, number: int, start: int, end: int) -> Request[Any]:
    low, high = max(0, start - number * PART), min(PART, end - number * PART)
    args = (of.blob, number) if (low, high) == (0, PART) else (of.blob, number, low, high)
    return safe_request("get_part", args)


def _arrived(of: Receiving, waiting: deque[tuple[Any, Request[Any]]]) -> Plan[bytes]:
    ticket, request = waiting.popleft()
    try:
        data = yield from answered(of.patience, ticket, request)
    except DataCorrupted as error:
        raise _naming(of, error) from None
    if data is None:
        raise VersionConflict(
            f"object {of.key!r} of bucket {of.bucket!r} was replaced or deleted while it was read; "
            "read it anew",
            service=SERVICE,
            data={"key": of.key, "bucket": of.bucket},
        )
    return data  # type: ignore[no-any-return]


def _naming(of: Receiving, error: CallError) -> CallError:
    """`error`, about the object instead of its blob."""
    error.message = f"object {of.key!r} of bucket {of.bucket!r}: {error.message}"
    error.data = {**error.data, "key": of.key, "bucket": of.bucket}
    error.args = (error.message,)
    return error
