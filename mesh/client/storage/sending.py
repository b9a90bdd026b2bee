"""How an object is written: in one call, or part by part, as a plan."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mesh.client.storage import calls
from mesh.client.storage.local import LocalUpload
from mesh.client.storage.outgoing import Outgoing, Part
from mesh.client.storage.plans import (
    WINDOW,
    Begin,
    Do,
    Plan,
    Progress,
    Take,
    answered,
    patiently,
    safe_request,
)
from mesh.client.storage.sums import AHEAD
from mesh.client.verbs import Patience, Request
from mesh.errors import MethodNotFound
from mesh.protocol import storage as limits
from mesh.protocol.storage import PART


@dataclass(slots=True)
class Sending:
    """An object to be written: where, what else is known of it, and how far it is."""

    bucket: str
    key: str
    source: Outgoing
    kwargs: dict[str, Any]
    patience: Patience
    progress: Progress | None = None
    upload: bytes = b""
    resume: bool = False
    begun: bool = False
    done: int = 0
    waiting: deque[tuple[Any, Request[Any], int]] = field(default_factory=deque)


def prepare(
    bucket: str,
    key: str,
    source: Outgoing,
    patience: Patience,
    *,
    content_type: str,
    metadata: dict[str, str] | None,
    ttl: float | None,
    only_if: str,
    version: int | None,
    progress: Progress | None,
    upload: bytes = b"",
) -> Sending:
    """An object to be written, checked. `upload`: its name, if it may have been begun before."""
    kwargs = calls.conditions(bucket, ttl, only_if, version)
    if limits.check_content_type(content_type):
        kwargs["content_type"] = content_type
    if limits.check_metadata(metadata):
        kwargs["metadata"] = dict(metadata or {})
    name = upload or os.urandom(16)
    return Sending(
        bucket, calls.key_of(key), source, kwargs, patience, progress, name, bool(upload)
    )


def send(to: Sending) -> Plan[int | None]:
    """Write an object; its version, None if `only_if` prevented it."""
    parts: deque[Part] = deque()
    yield from _take(to, parts, 1)
    if parts and len(parts[0].data) == PART:
        yield from _take(to, parts, 2)
    if len(parts) < 2:
        data = parts[0].data if parts else b""
        version = yield from patiently(to.patience, _put_object(to, data))
        _tell(to, len(data))
        return version  # type: ignore[no-any-return]
    file, there = yield from _begin(to, parts)
    digests = []
    try:
        while parts:
            part = parts.popleft()
            digests.append(part.digest)
            if file is not None:
                try:
                    yield Do(partial(file.write, part.number, part.data))
                except OSError:  # the service can tell better what is wrong, if it is
                    file.close()
                    file = None
            if file is not None or there[part.number * 8 : part.number * 8 + 8] == part.digest:
                _tell(to, len(part.data))
            else:
                yield from _put_part(to, part)
            yield from _take(to, parts, 1)
        if file is not None:
            yield Do(file.flush)
    finally:
        if file is not None:
            file.close()
    while to.waiting:
        yield from _settle(to)
    if len(digests) > limits.PARTS_AT_A_TIME:
        # What the writer does not know of them it reads now, a portion at a time.
        yield from _there(to)
    version = yield from patiently(to.patience, _finish(to, b"".join(digests)))
    to.begun = False
    return version  # type: ignore[no-any-return]


def _take(to: Sending, parts: deque[Part], count: int) -> Plan[None]:
    """Have `count` parts taken from the source, or as many as are left."""
    while len(parts) < count:
        part = yield Take(to.source)
        if part is None:
            return
        parts.append(part)


def _begin(to: Sending, parts: deque[Part]) -> Plan[tuple[LocalUpload | None, bytes]]:
    """Begin an upload: its file, if that lies on this machine; the digests of what is there."""
    request = safe_request("share_upload", (to.upload,))
    ticket = yield Begin(request)
    to.begun = True
    yield from _take(to, parts, AHEAD)  # there is time for that
    try:
        path = yield from answered(to.patience, ticket, request)
    except MethodNotFound:
        path = ""  # the service is older than this client
    if path:
        return LocalUpload.open(path, to.upload), b""
    if not to.resume:
        return None, b""
    return None, (yield from _there(to))


def _there(to: Sending) -> Plan[bytes]:
    """The digests of the parts that have arrived, as the service knows them."""
    found = b""
    while True:
        request = safe_request("upload_parts", (to.upload, len(found) // 8))
        some: bytes = yield from patiently(to.patience, request)
        found += some
        if len(some) < 8 * limits.PARTS_AT_A_TIME:
            return found


def _put_part(to: Sending, part: Part) -> Plan[None]:
    """Send a part; waits for the oldest one if many are on their way."""
    request = safe_request("put_part", (to.upload, part.number, part.data, part.digest))
    to.waiting.append(((yield Begin(request)), request, len(part.data)))
    if len(to.waiting) >= WINDOW:
        yield from _settle(to)


def give_up(to: Sending) -> Request[Any] | None:
    """What to ask for when sending has failed for good; None if there is nothing to clear away."""
    if not to.begun or to.resume:
        return None
    return Request("discard_upload", (to.upload,), {}, bool, True, 5.0)


def _settle(to: Sending) -> Plan[None]:
    """Wait for the answer to the oldest part."""
    ticket, request, size = to.waiting.popleft()
    yield from answered(to.patience, ticket, request)
    _tell(to, size)


def _tell(to: Sending, size: int) -> None:
    to.done += size
    if to.progress is not None:
        to.progress(to.done, to.source.total)


def _put_object(to: Sending, data: bytes | memoryview) -> Request[Any]:
    kwargs = {**to.kwargs, "sha256": to.source.sha256}
    return Request("put_object", (to.key, data), kwargs, lambda answer: answer)


def _finish(to: Sending, digests: bytes) -> Request[Any]:
    kwargs = {**to.kwargs, "sha256": to.source.sha256}
    # Flushing what the disk has not taken yet may take its time.
    return Request(
        "finish_upload", (to.key, to.upload, to.source.size, digests), kwargs,
        lambda answer: answer, timeout=300.0,
    )  # fmt: skip
