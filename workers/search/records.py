"""What lies in the tables of the search service, as octets.

    collections  b"n" name -> Collection; b"#" number -> name
    states       number -> State
    ids          number, id -> row
    documents    number, row -> Document
    removed      number, version -> the row that a change removed
    dropped      number -> nothing               what is still to be cleared away
    meta         b"totals" -> version, collections

Every change of the store has a version. A document that is written gets the version of that change
as its row, and never changes: an update writes a new row and removes the old one. So an index that
has applied everything up to a version is brought up to date by the rows above it and by what was
removed since, in any order, and as often as one likes. All numbers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgpack

from workers.search.schema import Schema, parse
from workers.store import PLAIN

TABLES: Final = {
    "collections": PLAIN,
    "states": PLAIN,
    "ids": PLAIN,
    "documents": PLAIN,
    "removed": PLAIN,
    "dropped": PLAIN,
    "meta": PLAIN,
}

NAME: Final = b"n"
NUMBER: Final = b"#"
TOTALS: Final = b"totals"

U32: Final = struct.Struct(">I")
U64: Final = struct.Struct(">Q")
ROW: Final = struct.Struct(">IQ")
_STATE: Final = struct.Struct(">6Q")
_TOTALS: Final = struct.Struct(">QI")
HEAD: Final = struct.Struct(">HI")
"""Of a document: octets of its id, and of its body, which follow."""


@dataclass(frozen=True, slots=True)
class Index:
    """One derived index of a collection: of its first `fields` fields. Never changed: replaced."""

    generation: int
    fields: int


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection is. Fields are only ever added, at the end.

    `refresh_every`: seconds after which a change is seen by searches, at the latest. `building`: an
    index that is going to take the place of `index`.
    """

    name: str
    number: int
    schema: Schema
    refresh_every: float
    created_at: int
    index: Index
    building: Index | None = None

    def indexed(self, index: Index) -> Schema:
        """The fields that `index` knows."""
        if index.fields == len(self.schema.fields):
            return self.schema
        known = list(self.schema.fields.items())[: index.fields]
        return Schema(dict(known), self.schema.dynamic)

    def pack(self) -> bytes:
        """The record."""
        building = self.building
        packed: bytes = msgpack.packb(
            (
                self.number, self.schema.packed(), self.schema.dynamic, self.refresh_every,
                self.created_at, (self.index.generation, self.index.fields),
                None if building is None else (building.generation, building.fields),
            )
        )  # fmt: skip
        return packed


def read_collection(name: str, record: bytes) -> Collection:
    """A collection from its record."""
    number, fields, dynamic, refresh_every, created_at, index, building = msgpack.unpackb(record)
    return Collection(
        name, number, parse(fields, dynamic), refresh_every, created_at, Index(*index),
        None if building is None else Index(*building),
    )  # fmt: skip


@dataclass(slots=True)
class State:
    """How a collection stands. `octets`: of the documents that there are, as they are kept.

    `version`: of its last change. `applied`: up to which its index is on disk and searched;
    `built`: the same of the one that is being built. `cleared`: up to which the removed rows are
    gone.
    """

    entries: int = 0
    octets: int = 0
    version: int = 0
    applied: int = 0
    built: int = 0
    cleared: int = 0

    def pack(self) -> bytes:
        """The record."""
        return _STATE.pack(
            self.entries, self.octets, self.version, self.applied, self.built, self.cleared
        )


def read_state(record: bytes | None) -> State:
    """A state from its record, if there is one."""
    return State() if record is None else State(*_STATE.unpack(record))


@dataclass(slots=True)
class Totals:
    """Of the whole store: the last version given, the last number of a collection."""

    version: int = 0
    collections: int = 0

    def pack(self) -> bytes:
        """The record."""
        return _TOTALS.pack(self.version, self.collections)


def read_totals(record: bytes | None) -> Totals:
    """The totals from their record, if there is one."""
    return Totals() if record is None else Totals(*_TOTALS.unpack(record))


def row_keys(number: int, rows: Sequence[int]) -> list[bytes]:
    """The keys of the documents in `rows` of the collection with that number."""
    stem = U32.pack(number)
    packed = struct.pack(f">{len(rows)}Q", *rows)
    return [stem + packed[at : at + 8] for at in range(0, len(packed), 8)]


@dataclass(slots=True)
class Document:
    """A document as it is kept. `body`: MessagePack of its id and fields, without vectors."""

    id: str
    body: bytes
    vectors: Mapping[str, bytes]

    def pack(self) -> bytes:
        """The record."""
        return pack_document(self.id.encode(), self.body, self.vectors)


def pack_document(key: bytes, body: bytes, vectors: Mapping[str, bytes] | None = None) -> bytes:
    """The record of a document whose id is `key`, in octets."""
    head = HEAD.pack(len(key), len(body)) + key + body
    return head + msgpack.packb(vectors) if vectors else head


def read_document(record: bytes) -> Document:
    """A document from its record."""
    name_size, body_size = HEAD.unpack_from(record)
    begin = HEAD.size + name_size
    end = begin + body_size
    vectors = msgpack.unpackb(record[end:]) if len(record) > end else {}
    return Document(record[HEAD.size : begin].decode(), record[begin:end], vectors)


def fields_of(document: Document, decode: Any) -> dict[str, Any]:
    """All fields of a document, vectors included. `decode` reads the body."""
    found: dict[str, Any] = decode(document.body)
    found.update(document.vectors)
    return found


def with_index(collection: Collection, index: Index, building: Index | None) -> Collection:
    """The collection with other indexes."""
    return replace(collection, index=index, building=building)
