"""Many documents into a collection, as a plan: in batches, several on their way, each done once.

What is held at a time is bounded by the number of documents of a batch and their octets. A batch
that fails for want of a service is written again; documents have their ids before, so that this
changes nothing. Two documents of one id are never on their way at the same time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mesh.client.search import calls, plans
from mesh.client.search.embedding import Document, Embed
from mesh.client.search.plans import Compute
from mesh.client.search.requests import SERVICE, Loaded, Written
from mesh.client.verbs import Patience, Request
from mesh.errors import CallError, DeadlineExceeded, InvalidArgument
from mesh.protocol import search as limits

BATCH = 500
IN_FLIGHT = 4
MOST_OCTETS = 4 * 1024 * 1024
"""Of the documents of one batch."""
BUILT_EVERY = 0.05

Progress: TypeAlias = Callable[[int, int | None], object]
"""Called with documents done, and in all if that is known."""
OnError: TypeAlias = Callable[[Any, InvalidArgument], object]
"""Called with a document that cannot be written, and why."""


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
    """Take the next batch from the source; the outcome is a Batch, None at the end."""

    source: Incoming


@dataclass(slots=True)
class Pause:
    """Wait for some seconds."""

    seconds: float


Plan: TypeAlias = Generator[Request[Any] | Compute | Begin | Await | Take | Pause, Any, Any]


@dataclass(slots=True)
class Batch:
    """Documents that are written together, each packed, and with its number in the source."""

    documents: list[Document] = field(default_factory=list)
    packed: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    octets: int = 0

    @property
    def ids(self) -> set[str]:
        """Of the documents."""
        return {one["id"] for one in self.documents}

    def remove(self, name: Any) -> Document | None:
        """Take a document out, by its id."""
        for index, one in enumerate(self.documents):
            if one["id"] == name:
                del self.documents[index], self.packed[index], self.numbers[index]
                return one
        return None


class Incoming:
    """Documents as they come: checked and put into batches.

    `documents` brings them; without it `push` and `end` do.
    """

    def __init__(
        self,
        documents: Iterator[Any] | None,
        total: int | None,
        *,
        batch: int = BATCH,
        on_error: OnError | None = None,
    ) -> None:
        self.total = total
        self.failed = 0
        self._documents = documents
        self._most = limits.check_whole("batch", batch, 1, limits.MAX_MANY)
        self._on_error = on_error
        self._number = 0
        self._batch = Batch()
        self._ended = False

    @property
    def lacking(self) -> bool:
        """Whether more must be pushed before the next batch can be taken."""
        batch = self._batch
        full = len(batch.packed) >= self._most or batch.octets >= MOST_OCTETS
        return not full and not self._ended

    def push(self, given: Any) -> None:
        """One more document. Raises InvalidArgument, unless that is told to `on_error`."""
        number = self._number
        self._number += 1
        try:
            document, packed = _checked(given, number)
        except InvalidArgument as error:
            if self._on_error is None:
                raise
            self.failed += 1
            self._on_error(given, error)
            return
        batch = self._batch
        batch.documents.append(document)
        batch.packed.append(packed)
        batch.numbers.append(number)
        batch.octets += len(packed)

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True

    def take(self) -> Batch | None:
        """The next batch, None at the end."""
        while self.lacking and self._documents is not None:
            try:
                self.push(next(self._documents))
            except StopIteration:
                self.end()
        batch, self._batch = self._batch, Batch()
        return batch if batch.documents else None


def _checked(given: Any, number: int) -> tuple[Document, bytes]:
    try:
        document = calls.document(given)
    except InvalidArgument:  # once more, to say which
        document = calls.document(given, f"document {number}")
    packed = calls.pack(document)
    if len(packed) > limits.MAX_DOCUMENT:
        raise InvalidArgument(
            f"document {number} ({document['id']!r}) packs to {len(packed):,} octets, the limit is "
            f"{limits.MAX_DOCUMENT:,}: index its parts as documents",
            data={"id": document["id"], "number": number},
        )
    return document, packed


@dataclass(slots=True)
class Loading:
    """A load: what is wanted, and how far it is."""

    collection: str
    source: Incoming
    patience: Patience
    embed: Embed | None
    embed_field: str
    embed_from: Any
    only_if: calls.Absence
    refresh: calls.Refresh
    in_flight: int
    progress: Progress | None
    on_error: OnError | None
    written: int = 0
    skipped: int = 0
    failed: int = 0
    version: int = 0
    flights: deque[tuple[Batch, Request[Written], Any]] = field(default_factory=deque)


def loading(
    collection: str,
    source: Incoming,
    patience: Patience,
    *,
    embed: Embed | None,
    embed_field: str,
    embed_from: Any,
    only_if: calls.Absence,
    refresh: calls.Refresh,
    in_flight: int,
    progress: Progress | None,
    on_error: OnError | None,
) -> Loading:
    """A load, checked. Raises InvalidArgument."""
    limits.check_collection(collection)
    limits.check_only_if(only_if)
    limits.check_refresh(refresh)
    return Loading(
        collection, source, patience, embed, embed_field, embed_from, only_if, refresh,
        limits.check_whole("in_flight", in_flight, 1, 64), progress, on_error,
    )  # fmt: skip


def load(of: Loading) -> Plan:
    """Write all documents; a Loaded."""
    how = None
    if of.embed is not None:
        how = yield from plans.embedding(of.collection, of.embed, of.embed_field, of.embed_from)
    held: Batch | None = None
    while (batch := (yield Take(of.source))) is not None:
        if how is not None:
            yield from plans.embedded(how, batch.documents)
            batch.packed = [*map(calls.pack, batch.documents)]
        if held is not None:
            yield from _send(of, held)
        held = batch
    if held is not None:  # the last one may wait for all before it to be searched, too
        yield from _settle(of, 0)
        yield from _send(of, held, of.refresh)
        yield from _settle(of, 0)
        if of.refresh == "wait":
            yield from _built(of)
    return Loaded(of.written, of.skipped, of.failed + of.source.failed, of.version)


def _send(of: Loading, batch: Batch, refresh: calls.Refresh = "interval") -> Plan:
    ids = batch.ids
    while any(ids & other.ids for other, _, _ in of.flights):
        yield from _settle(of, len(of.flights) - 1)
    yield from _settle(of, of.in_flight - 1)
    request = _request(of, batch, refresh)
    of.flights.append((batch, request, (yield from _begin(request))))


def _begin(request: Request[Written]) -> Plan:
    """A ticket for the answer; an error, if it was refused at once."""
    try:
        return (yield Begin(request))
    except CallError as error:
        return error


def _request(of: Loading, batch: Batch, refresh: str) -> Request[Written]:
    return calls.indexed(of.collection, batch.packed[:], only_if=of.only_if, refresh=refresh)


def _settle(of: Loading, left: int) -> Plan:
    """Wait until no more than `left` batches are on their way."""
    while len(of.flights) > left:
        batch, request, ticket = of.flights.popleft()
        yield from _settled(of, batch, request, ticket)


def _settled(of: Loading, batch: Batch, request: Request[Written], ticket: Any) -> Plan:
    while True:
        try:
            if isinstance(ticket, CallError):
                raise ticket
            written = yield Await(ticket)
            break
        except InvalidArgument as error:
            if not _left_out(of, batch, error):
                raise
            if not batch.documents:
                return
            request = _request(of, batch, request.kwargs.get("refresh", "interval"))
        except CallError as error:
            yield Pause(of.patience.pause(error))
        ticket = yield from _begin(request)
    of.patience.worked()
    of.written += len(written.ids)
    of.skipped += len(batch.documents) - len(written.ids)
    of.version = max(of.version, written.version)
    if of.progress is not None:
        of.progress(of.written + of.skipped + of.failed + of.source.failed, of.source.total)


def _built(of: Loading) -> Plan:
    """Wait until an index that is built anew, for fields that came with the load, has all of it.

    Raises:
        DeadlineExceeded: it has not moved for as long as a call may take.
    """
    clock = of.patience.clock
    reached, moved_at = -1, clock()
    while (found := (yield calls.info(of.collection))) is not None and found.rebuilding:
        if found.rebuilding["applied"] != reached:
            reached, moved_at = found.rebuilding["applied"], clock()
        elif clock() - moved_at > of.patience.patience:
            raise DeadlineExceeded(
                f"all is written, but the index of {of.collection!r} stays at {reached} of "
                f"{found.rebuilding['of']}; see info() and the log of the service",
                service=SERVICE,
                method="load",
            )
        yield Pause(BUILT_EVERY)


def _left_out(of: Loading, batch: Batch, error: InvalidArgument) -> bool:
    """Whether the load goes on without the document that the error is about."""
    name = error.data.get("id")
    numbers: Mapping[Any, int] = {
        one["id"]: number for one, number in zip(batch.documents, batch.numbers, strict=True)
    }
    if name not in numbers:
        return False
    error.data["number"] = numbers[name]
    if of.on_error is None:
        error.message += (
            f" (document {numbers[name]} of the load; {of.written} were written before)"
        )
        error.args = (error.message,)
        return False
    document = batch.remove(name)
    of.failed += 1
    of.on_error(document, error)
    return True
