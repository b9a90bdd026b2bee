"""The verbs that read, over any ordered tables. Pure: tables and the time come in.

A key in the tables is the number of its namespace (4 octets) and the key; `slot` below.

**Sweeps.** Emptying a namespace, a prefix or a tag takes effect at once however much it holds: a
sweep names what is void, and readers skip it until the writer has cleared it in slices.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgpack

from mesh.errors import DataCorrupted
from mesh.protocol.memory import MAX_PAGE_OCTETS
from workers.memory.records import Entry, Lock, Space, read_entry, read_lock, read_space
from workers.memory.tables import ENTRIES, EXPIRY, LOCKS, META, SPACES, SWEEPS, Tables

NAME, NUMBER = b"n", b"#"
TOTALS = b"totals"
LOCK, FILL = b"L", b"F"
# Lanes of a sweep: which entries are void.
OF_SPACE, OF_PREFIX, OF_TAG = range(3)

MAX_KNOWN = 1000

_U32 = struct.Struct(">I")
_pack_number = _U32.pack
_TOTALS = struct.Struct(">QQQI")


@dataclass(slots=True)
class Sweep:
    """Entries under `within` (a slot's beginning) up to `version` are void. `at`: cleared so far.

    For a tag, `within` is the beginning of its index and `tag` its name.
    """

    number: int
    kind: int
    within: bytes
    version: int
    tag: str = ""
    at: bytes = b""

    def pack(self) -> bytes:
        """The record."""
        fields = (self.kind, self.within, self.version, self.tag, self.at)
        packed: bytes = msgpack.packb(fields)
        return packed


class Totals:
    """Of the whole store: the last version given, entries, octets, the last namespace number."""

    __slots__ = ("entries", "octets", "spaces", "version")

    def __init__(
        self, version: int = 0, entries: int = 0, octets: int = 0, spaces: int = 0
    ) -> None:
        self.version = version
        self.entries = entries
        self.octets = octets
        self.spaces = spaces

    def pack(self) -> bytes:
        """The record."""
        return _TOTALS.pack(self.version, self.entries, self.octets, self.spaces)


def slot_of(space: Space, key: bytes) -> bytes:
    """Where `key` of a namespace lies in the tables."""
    number: bytes = _pack_number(space.number)
    return number + key


def tag_slot(number: int, tag: str) -> bytes:
    """The beginning of a tag's index. Two tags may share one: the entry has the tags themselves."""
    return _U32.pack(number) + blake2b(tag.encode(), digest_size=8).digest()


def number_of(slot: bytes) -> int:
    """The number of the namespace that a slot lies in."""
    found: int = _U32.unpack_from(slot)[0]
    return found


class View:
    """The tables as they are at one moment, at `now` (Unix time in ms). Short-lived.

    `earlier` is another view of the same moment, whose findings are used again.
    """

    def __init__(self, tables: Tables, now: int, earlier: View | None = None) -> None:
        self.tables = tables
        self.now = now
        # Names that do not exist are among them: not too many.
        if earlier is not None and len(earlier._spaces) > MAX_KNOWN:
            earlier = None
        self._spaces: dict[str, Space | None] = {} if earlier is None else earlier._spaces
        self._sweeps: list[Sweep] | None = None if earlier is None else earlier._sweeps

    # ---------------------------------------------------------------- verbs

    def get(self, ns: str, key: bytes, stale: bool = False) -> Entry | None:
        """The entry; one that is past its freshness only for `stale` readers."""
        space = self.space(ns)
        return None if space is None else self._live(slot_of(space, key), stale)

    def get_many(self, ns: str, keys: Sequence[bytes], stale: bool = False) -> list[Entry | None]:
        """The entries, in the order of the keys."""
        return [self.get(ns, key, stale) for key in keys]

    def exists(self, ns: str, keys: Sequence[bytes]) -> int:
        """How many of the keys exist; one that is named twice counts twice."""
        return sum(self.get(ns, key) is not None for key in keys)

    def ttl(self, ns: str, key: bytes) -> int | None:
        """Milliseconds until the key is gone, -1 for never; None if it does not exist."""
        entry = self.get(ns, key)
        if entry is None:
            return None
        ends_at = entry.ends_at(False)
        return ends_at - self.now if ends_at else -1

    def scan(
        self, ns: str, prefix: bytes, after: bytes, limit: int, values: bool
    ) -> tuple[list[tuple[bytes, Entry | None]], bytes]:
        """A page of up to `limit` keys above `after`, in order, with their entries if wanted.

        The second part is where the next page begins, empty at the end. What is written meanwhile
        may or may not be seen; what stays is seen once.
        """
        space = self.space(ns)
        page: list[tuple[bytes, Entry | None]] = []
        if space is None:
            return page, b""
        within = slot_of(space, prefix)
        start = max(within, slot_of(space, after) + b"\0" if after else b"")
        octets = 0
        last = b""
        for looked, (slot, record) in enumerate(self.tables.walk(ENTRIES, start)):
            if not slot.startswith(within):
                return page, b""
            if len(page) >= limit or octets > MAX_PAGE_OCTETS or looked >= 10 * limit + 1000:
                return page, last
            last = slot[4:]
            entry = read_entry(last, record)
            if self._alive(slot, entry, False):
                page.append((last, entry if values else None))
                octets += len(last) + (len(entry.body) if values else 0)
        return page, b""

    def lock_info(self, ns: str, name: bytes) -> Lock | None:
        """Who holds a lock, if anybody does."""
        return self._lock(ns, LOCK, name)

    def spaces(self) -> list[Space]:
        """All namespaces."""
        return [
            read_space(key[1:].decode(), record) for key, record in self._starting(SPACES, NAME)
        ]

    def stats(self, ns: str = "") -> dict[str, Any]:
        """Entries and octets of the store, and of each namespace, or of the one called `ns`."""
        totals = self.totals()
        return {
            "entries": totals.entries,
            "octets": totals.octets,
            "sweeping": len(self.sweeps()),
            "namespaces": {
                space.name: {
                    "entries": space.entries,
                    "octets": space.octets,
                    "quota": space.quota,
                    "durability": "relaxed" if space.relaxed else "always",
                }
                for space in self.spaces()
                if ns in ("", space.name)
            },
        }

    def untidy(self) -> bool:
        """Whether something has expired or is void and was not cleared yet."""
        if self.sweeps():
            return True
        first = next(iter(self.tables.keys(EXPIRY, b"")), None)
        return first is not None and int.from_bytes(first[:8], "big") <= self.now

    # ---------------------------------------------------------------- records

    def space(self, ns: str) -> Space | None:
        """The namespace called `ns`, if anything was ever written to it."""
        try:
            return self._spaces[ns]
        except KeyError:
            record = self.tables.get(SPACES, NAME + ns.encode())
            found = self._spaces[ns] = None if record is None else read_space(ns, record)
            return found

    def space_at(self, slot: bytes) -> Space | None:
        """The namespace that `slot` lies in; None if it has been emptied since."""
        name = self.tables.get(SPACES, NUMBER + slot[:4])
        return None if name is None else self.space(name.decode())

    def totals(self) -> Totals:
        """Of the whole store."""
        record = self.tables.get(META, TOTALS)
        return Totals() if record is None else Totals(*_TOTALS.unpack(record))

    def sweeps(self) -> list[Sweep]:
        """What is being cleared."""
        if self._sweeps is None:
            self._sweeps = [
                Sweep(_U32.unpack(number)[0], *msgpack.unpackb(record))
                for number, record in self.tables.walk(SWEEPS, b"")
            ]
        return self._sweeps

    def _live(self, slot: bytes, stale: bool) -> Entry | None:
        entry = self._entry(slot)
        return entry if entry is not None and self._alive(slot, entry, stale) else None

    def _entry(self, slot: bytes) -> Entry | None:
        """What lies at `slot`, dead or alive."""
        try:
            record = self.tables.get(ENTRIES, slot)
            return None if record is None else read_entry(slot[4:], record)
        except DataCorrupted as error:
            space = self.space_at(slot)
            raise DataCorrupted(
                f"key {slot[4:].decode(errors='replace')!r} of namespace "
                f"{space.name if space else '?'!r} is damaged; delete it, or restore a backup",
                data={"key": slot[4:].decode(errors="replace")},
            ) from error

    def _alive(self, slot: bytes, entry: Entry, stale: bool) -> bool:
        """Whether readers get the entry at `slot`."""
        ends_at = entry.expire_at if stale or not entry.fresh_until else entry.fresh_until
        if ends_at and ends_at <= self.now:
            return False
        return not self.sweeps() or not self._swept(slot, entry)

    def _swept(self, slot: bytes, entry: Entry) -> bool:
        return any(
            entry.version <= sweep.version
            and (
                sweep.tag in entry.tags and sweep.within[:4] == slot[:4]
                if sweep.kind == OF_TAG
                else slot.startswith(sweep.within)
            )
            for sweep in self.sweeps()
        )

    def _lock(self, ns: str, kind: bytes, name: bytes) -> Lock | None:
        space = self.space(ns)
        if space is None:
            return None
        record = self.tables.get(LOCKS, slot_of(space, kind + name))
        if record is None:
            return None
        lock = read_lock(record)
        return lock if lock.expire_at > self.now else None

    def _starting(self, table: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key, record in self.tables.walk(table, prefix):
            if not key.startswith(prefix):
                return
            yield key, record
