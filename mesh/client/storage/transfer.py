"""Objects in and out, as plans: what to do next, without doing it.

A plan is a generator. It yields a step and is sent the step's outcome, or thrown its error; what it
returns is the result. The blocking and the asyncio client follow the same plans.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, TypeAlias, TypeVar

from mesh.client.storage import calls
from mesh.client.storage.local import LocalUpload
from mesh.client.storage.requests import SERVICE, ObjectInfo, object_info
from mesh.client.storage.sums import AHEAD, Sum
from mesh.client.verbs import RESUMED, Patience, Request
from mesh.errors import CallError, DataCorrupted, InvalidArgument, MethodNotFound, VersionConflict
from mesh.protocol import storage as limits
from mesh.protocol.storage import PART, part_digest

T = TypeVar("T")

WINDOW = 4
"""Parts on their way at a time."""

Progress: TypeAlias = Callable[[int, int | None], object]
"""Called with octets done, and in all if that is known."""


@dataclass(slots=True)
class Begin:
    """Send a request; the outcome is a ticket for its answer."""

    request: Request[Any]


@dataclass(slots=True)
class Await:
    """Wait for the answer to a ticket; the outcome is what it was read as."""

    ticket: Any


@dataclass(slots=True)
class Take:
    """Take the next part from the source; the outcome is a Part, None at the end."""

    source: Outgoing


@dataclass(slots=True)
class Do:
    """Call something that may take its time."""

    call: Callable[[], object]


@dataclass(slots=True)
class Give:
    """Hand octets to the reader."""

    data: bytes


@dataclass(slots=True)
class Pause:
    """Wait for some seconds."""

    seconds: float


Plan: TypeAlias = Generator[Request[Any] | Begin | Await | Take | Do | Give | Pause, Any, T]


# -------------------------------------------------------------------- sending


@dataclass(slots=True)
class Part:
    """One part of what is sent."""

    number: int
    data: bytes | memoryview
    digest: bytes


class Outgoing:
    """What is to become an object: cut into parts, and summed up.

    `pieces` are octets of any length; without them `push` and `end` bring those.
    """

    def __init__(self, pieces: Iterator[Any] | None, total: int | None) -> None:
        self.total = total
        self.size = 0
        self._pieces = pieces
        self._sum = Sum()
        self._waiting: deque[memoryview] = deque()
        self._held = 0
        self._ended = False
        self._number = 0

    @property
    def sha256(self) -> bytes:
        """Of everything that was taken."""
        return self._sum.digest()

    @property
    def lacking(self) -> bool:
        """Whether more must be pushed before the next part can be taken."""
        return self._held < PART and not self._ended

    def push(self, piece: Any) -> None:
        """Some more octets."""
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise InvalidArgument(f"an object is made of bytes, not of {type(piece).__name__}")
        view = _octets(piece)
        if len(view):
            # What may change must not do so while it waits.
            self._waiting.append(view if isinstance(piece, bytes) else memoryview(bytes(view)))
            self._held += len(view)

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True

    def take(self) -> Part | None:
        """The next part, None at the end."""
        while self.lacking and self._pieces is not None:
            piece = next(self._pieces, None)
            if piece is None:
                self.end()
            else:
                self.push(piece)
        if not self._held:
            return None
        wanted = min(PART, self._held)
        self._held -= wanted
        cut = []
        while wanted:
            view = self._waiting.popleft()
            if len(view) > wanted:
                self._waiting.appendleft(view[wanted:])
                view = view[:wanted]
            wanted -= len(view)
            cut.append(view)
        data = cut[0] if len(cut) == 1 else b"".join(cut)
        self._sum.update(data)
        self.size += len(data)
        self._number += 1
        return Part(self._number - 1, data, part_digest(data))


def outgoing(source: Any) -> Outgoing:
    """What is to be sent, from bytes, an open binary file, or an iterable of bytes.

    Raises:
        InvalidArgument: it is none of these.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        view = _octets(source)
        return Outgoing(iter(view[at : at + PART] for at in range(0, len(view), PART)), len(view))
    if isinstance(source, str | os.PathLike):
        raise InvalidArgument("a path: use put_file(key, path), or give the content as bytes")
    if hasattr(source, "read"):
        return Outgoing(_read(source), _left(source))
    if isinstance(source, Iterable):
        return Outgoing(iter(source), None)
    raise InvalidArgument(
        f"{type(source).__name__} is no content: give bytes, a binary file or an iterable of bytes"
    )


def _octets(piece: bytes | bytearray | memoryview) -> memoryview:
    view = memoryview(piece)
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def _read(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PART):
        yield piece


def _left(file: Any) -> int | None:
    """Octets that are left to read; None if that cannot be known."""
    try:
        return int(os.fstat(file.fileno()).st_size - file.tell())
    except (OSError, AttributeError, ValueError):
        return None


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


def sending(
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
        version = yield from _patiently(to.patience, _put_object(to, data))
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
    version = yield from _patiently(to.patience, _finish(to, b"".join(digests)))
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
    request = _request("share_upload", (to.upload,))
    ticket = yield Begin(request)
    to.begun = True
    yield from _take(to, parts, AHEAD)  # there is time for that
    try:
        path = yield from _answer(to.patience, ticket, request)
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
        request = _request("upload_parts", (to.upload, len(found) // 8))
        some: bytes = yield from _patiently(to.patience, request)
        found += some
        if len(some) < 8 * limits.PARTS_AT_A_TIME:
            return found


def _put_part(to: Sending, part: Part) -> Plan[None]:
    """Send a part; waits for the oldest one if many are on their way."""
    request = _request("put_part", (to.upload, part.number, part.data, part.digest))
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
    yield from _answer(to.patience, ticket, request)
    _tell(to, size)


def _answer(patience: Patience, ticket: Any, request: Request[Any]) -> Plan[Any]:
    """The answer to a request that has begun, and is made again as often as that makes sense."""
    while True:
        try:
            answer = yield Await(ticket)
        except RESUMED as error:
            yield Pause(patience.pause(error))
            ticket = yield Begin(request)
        else:
            patience.worked()
            return answer


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


def _request(verb: str, args: tuple[Any, ...]) -> Request[Any]:
    return Request(verb, args, {}, lambda answer: answer, True)


def _patiently(patience: Patience, request: Request[T]) -> Plan[T]:
    """The answer to a request that is made again while that makes sense."""
    while True:
        try:
            answer: T = yield request
        except RESUMED as error:
            if error.maybe_executed and not request.safe:
                raise
            yield Pause(patience.pause(error))
        else:
            patience.worked()
            return answer


# -------------------------------------------------------------------- receiving


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


def receiving(
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
    found = yield from _patiently(of.patience, request)
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
    return _request("get_part", args)


def _arrived(of: Receiving, waiting: deque[tuple[Any, Request[Any]]]) -> Plan[bytes]:
    ticket, request = waiting.popleft()
    try:
        data = yield from _answer(of.patience, ticket, request)
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
