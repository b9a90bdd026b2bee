"""What lies in the store: entries, namespaces, locks, and how each is laid out.

An entry's record is `flags, version, expire_at` (1 + 8 + 8 octets, big-endian), then `fresh_until`
(8) if it may be served stale, then its tags (length in 2 octets, MessagePack) if it has any, then
the value's own MessagePack. Times are Unix milliseconds, 0 for never.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgpack

from mesh.errors import DataCorrupted

_HEAD = struct.Struct(">BQQ")
_TIME = struct.Struct(">Q")
_LENGTH = struct.Struct(">H")
_SPACE = struct.Struct(">IBQQQ")
_LOCK = struct.Struct(">QQ")

# Bound once: looking a method up costs as much as the packing.
_pack_head, _read_head = _HEAD.pack, _HEAD.unpack_from

_FRESH = 1
_TAGGED = 2

# What an entry costs beside the octets of its key and record: its place in LMDB's pages, which are
# two thirds full on average, and in the queues of the eviction policy.
ENTRY_OVERHEAD = 320
INDEX_OVERHEAD = 48
_ENTRY_COST = ENTRY_OVERHEAD + _HEAD.size


class Entry:
    """A value with what is known about it. `body` is MessagePack. Times in ms, 0 for never."""

    __slots__ = ("body", "expire_at", "fresh_until", "tags", "version")

    def __init__(
        self, version: int, expire_at: int, fresh_until: int, tags: tuple[str, ...], body: bytes
    ) -> None:
        self.version = version
        self.expire_at = expire_at
        self.fresh_until = fresh_until
        self.tags = tags
        self.body = body

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and (self.pack(), self.tags) == (other.pack(), other.tags)

    def ends_at(self, stale: bool) -> int:
        """When a reader no longer gets it: `stale` readers take it until it expires."""
        return self.expire_at if stale or not self.fresh_until else self.fresh_until

    def pack(self) -> bytes:
        """The record."""
        flags = (_FRESH if self.fresh_until else 0) | (_TAGGED if self.tags else 0)
        head: bytes = _pack_head(flags, self.version, self.expire_at)
        if not flags:
            return head + self.body
        if self.fresh_until:
            head += _TIME.pack(self.fresh_until)
        if self.tags:
            tags = msgpack.packb(self.tags)
            head += _LENGTH.pack(len(tags)) + tags
        return head + self.body

    def cost(self, key: bytes) -> int:
        """Octets that the entry stands for, in memory and on disk together."""
        cost = _ENTRY_COST
        cost += len(key) + len(self.body)
        if self.expire_at:
            cost += INDEX_OVERHEAD + len(key)
        if self.tags:
            for tag in self.tags:
                cost += INDEX_OVERHEAD + len(key) + len(tag)
        return cost


def new_entry(
    version: int, expire_at: int, fresh_until: int, tags: tuple[str, ...], body: bytes
) -> Entry:
    """`Entry(...)`, for where there are many: compiled, it passes by the call of a class."""
    entry = Entry.__new__(Entry)
    entry.version = version
    entry.expire_at = expire_at
    entry.fresh_until = fresh_until
    entry.tags = tags
    entry.body = body
    return entry


def read_entry(key: bytes, record: bytes) -> Entry:
    """The entry in `record`.

    Raises:
        DataCorrupted: it is none; names the key.
    """
    try:
        flags, version, expire_at = _read_head(record)
        if not flags:
            return new_entry(version, expire_at, 0, (), record[17:])
        at = _HEAD.size
        fresh_until = 0
        tags: tuple[str, ...] = ()
        if flags & _FRESH:
            fresh_until = _TIME.unpack_from(record, at)[0]
            at += _TIME.size
        if flags & _TAGGED:
            length = _LENGTH.unpack_from(record, at)[0]
            at += _LENGTH.size
            tags = tuple(msgpack.unpackb(record[at : at + length]))
            at += length
        return Entry(version, expire_at, fresh_until, tags, record[at:])
    except (struct.error, ValueError, TypeError) as error:
        raise DataCorrupted(f"the record of key {key!r} is damaged: {error}") from None


DAMAGED = Entry(0, 0, 0, (), b"")
"""In the place of one that cannot be read: its size is a guess, its indexes clear themselves."""


class Space:
    """A namespace. Its entries lie under `number`; emptying it gives it another one.

    `relaxed`: writes are acknowledged before they are on disk. `quota` in octets, 0 for none.
    """

    __slots__ = ("changed", "entries", "name", "number", "octets", "quota", "relaxed")

    def __init__(
        self,
        name: str,
        number: int,
        relaxed: bool = False,
        entries: int = 0,
        octets: int = 0,
        quota: int = 0,
    ) -> None:
        self.name = name
        self.number = number
        self.relaxed = relaxed
        self.entries = entries
        self.octets = octets
        self.quota = quota
        self.changed = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and (self.name, self.pack()) == (other.name, other.pack())

    def pack(self) -> bytes:
        """The record."""
        return _SPACE.pack(self.number, self.relaxed, self.entries, self.octets, self.quota)


def read_space(name: str, record: bytes) -> Space:
    """The namespace in `record`. Raises DataCorrupted."""
    try:
        number, relaxed, entries, octets, quota = _SPACE.unpack(record)
    except struct.error as error:
        raise DataCorrupted(f"the record of namespace {name!r} is damaged: {error}") from None
    return Space(name, number, bool(relaxed), entries, octets, quota)


@dataclass(slots=True)
class Lock:
    """A lock or a reservation: the fencing token of its holder, until when, and who that is."""

    token: int
    expire_at: int
    owner: str = ""

    def pack(self) -> bytes:
        """The record."""
        return _LOCK.pack(self.token, self.expire_at) + self.owner.encode()


def read_lock(record: bytes) -> Lock:
    """The lock in `record`. Raises DataCorrupted."""
    try:
        token, expire_at = _LOCK.unpack_from(record)
        return Lock(token, expire_at, record[_LOCK.size :].decode())
    except (struct.error, ValueError) as error:
        raise DataCorrupted(f"the record of a lock is damaged: {error}") from None
