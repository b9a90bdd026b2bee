"""What lies in the tables of the storage service, as octets.

    buckets   b"n" name -> Bucket; b"#" number -> name
    entries   slot -> Entry                    slot: number of the bucket (4 octets), key
    changes   number, version -> kind, key     the last change of each key, and deletions for a day
                                               (a put that was replaced may stay for a while)
    blobs     id (16 octets) -> Blob           the content of objects; copies share it
    bodies    id -> the content itself, of small objects
    digests   id, page (4 octets) -> digests of 256 parts, of objects that are files
    due       index: moment -> what is to be done then
    meta      b"totals" -> Totals

All numbers are big-endian, so that keys are in order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from workers.store import INDEX, PLAIN

TABLES: Final = {
    "buckets": PLAIN,
    "entries": PLAIN,
    "changes": PLAIN,
    "blobs": PLAIN,
    "bodies": PLAIN,
    "digests": PLAIN,
    "due": INDEX,
    "meta": PLAIN,
}

NAME: Final = b"n"
NUMBER: Final = b"#"
TOTALS: Final = b"totals"

RECORD: Final = 0
OBJECT: Final = 1
DELETED: Final = 2
EXPIRED: Final = 3
KINDS: Final = ("put", "object", "deleted", "expired")
"""What a change did, by the first octet of its row."""

U32: Final = struct.Struct(">I")
ROW: Final = struct.Struct(">IQ")
_ENTRY: Final = struct.Struct(">BQQQ")
_BUCKET: Final = struct.Struct(">I6Q")
_BLOB: Final = struct.Struct(">IQ?")
_TOTALS: Final = struct.Struct(">QI")

HEAD: Final = _ENTRY.size
"""Octets of an entry before its body."""


class Entry:
    """What a key holds. Times are Unix milliseconds; `expire_at` 0 is never."""

    __slots__ = ("body", "expire_at", "kind", "modified_at", "version")

    def __init__(
        self, kind: int, version: int, modified_at: int, expire_at: int, body: bytes
    ) -> None:
        self.kind = kind
        self.version = version
        self.modified_at = modified_at
        self.expire_at = expire_at
        self.body = body


def pack_entry(kind: int, version: int, modified_at: int, expire_at: int, body: bytes) -> bytes:
    """The record of an entry."""
    return _ENTRY.pack(kind, version, modified_at, expire_at) + body


def read_head(record: bytes | memoryview) -> Entry:
    """An entry from its record, without its body."""
    kind, version, modified_at, expire_at = _ENTRY.unpack_from(record)
    return Entry(kind, version, modified_at, expire_at, b"")


def read_entry(record: bytes) -> Entry:
    """An entry from its record."""
    kind, version, modified_at, expire_at = _ENTRY.unpack_from(record)
    return Entry(kind, version, modified_at, expire_at, record[HEAD:])


@dataclass(slots=True)
class Content:
    """The body of an entry that is an object."""

    blob: bytes
    size: int
    sha256: bytes
    content_type: str
    metadata: dict[str, str] = field(default_factory=dict)

    def pack(self) -> bytes:
        """The body."""
        packed: bytes = msgpack.packb(
            (self.blob, self.size, self.sha256, self.content_type, self.metadata)
        )
        return packed


def read_content(body: bytes) -> Content:
    """The content of an object from the body of its entry."""
    return Content(*msgpack.unpackb(body))


@dataclass(slots=True)
class Blob:
    """Content that `refs` entries share. `whole`: it lies in the table of bodies, not in a file."""

    refs: int
    size: int
    whole: bool

    def pack(self) -> bytes:
        """The record."""
        return _BLOB.pack(self.refs, self.size, self.whole)


def read_blob(record: bytes) -> Blob:
    """A blob from its record."""
    return Blob(*_BLOB.unpack(record))


class Bucket:
    """A bucket. `ttl`: milliseconds that entries live unless they say otherwise, 0 for ever.

    `trimmed`: changes up to that version are not all known any more.
    """

    __slots__ = (
        "changed", "created_at", "entries", "name", "number", "octets", "quota", "stem", "trimmed",
        "ttl",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        number: int,
        quota: int = 0,
        ttl: int = 0,
        entries: int = 0,
        octets: int = 0,
        trimmed: int = 0,
        created_at: int = 0,
    ) -> None:
        self.name = name
        self.number = number
        self.stem = U32.pack(number)
        """What the slots of its keys begin with."""
        self.quota = quota
        self.ttl = ttl
        self.entries = entries
        self.octets = octets
        self.trimmed = trimmed
        self.created_at = created_at
        self.changed = False

    def pack(self) -> bytes:
        """The record."""
        return _BUCKET.pack(
            self.number, self.quota, self.ttl, self.entries, self.octets, self.trimmed,
            self.created_at,
        )  # fmt: skip


def read_bucket(name: str, record: bytes) -> Bucket:
    """A bucket from its record."""
    return Bucket(name, *_BUCKET.unpack(record))


class Totals:
    """Of the whole store: the last version given, the last number of a bucket."""

    __slots__ = ("buckets", "version")

    def __init__(self, version: int = 0, buckets: int = 0) -> None:
        self.version = version
        self.buckets = buckets

    def pack(self) -> bytes:
        """The record."""
        return _TOTALS.pack(self.version, self.buckets)


def read_totals(record: bytes | None) -> Totals:
    """The totals from their record, if there is one."""
    return Totals() if record is None else Totals(*_TOTALS.unpack(record))


def cost(slot: bytes, entry: Entry) -> int:
    """The octets that an entry counts for: its key, its record, the content of an object."""
    octets = len(slot) + HEAD + len(entry.body)
    return octets + read_content(entry.body).size if entry.kind == OBJECT else octets


def facts(key: str, entry: Entry) -> dict[str, Any]:
    """What is known of an object, for its readers."""
    content = read_content(entry.body)
    return {
        "key": key,
        "version": entry.version,
        "modified_at": entry.modified_at / 1000,
        "expire_at": entry.expire_at / 1000 or None,
        "size": content.size,
        "sha256": content.sha256,
        "content_type": content.content_type,
        "metadata": content.metadata,
        "blob": content.blob,
    }
