"""The verbs that read. A view is one moment of the store; the time comes in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from mesh.errors import DataCorrupted, InvalidArgument
from mesh.protocol.storage import MAX_PAGE_OCTETS, PART
from workers.storage.records import (
    DELETED,
    KINDS,
    NAME,
    NUMBER,
    OBJECT,
    ROW,
    TOTALS,
    U32,
    Blob,
    Bucket,
    Entry,
    Totals,
    read_blob,
    read_bucket,
    read_content,
    read_entry,
    read_head,
    read_totals,
)
from workers.store.tables import Table
from workers.store.tables import View as StoreView

Tables = dict[str, Table]

DIGEST = 8
DIGESTS: Final = 256
"""Digests of parts in one row."""
MAX_KNOWN: Final = 1000


class View:
    """One moment of the store, at `now` (Unix time in ms). Short-lived.

    `known` are buckets that another view of the same moment has found.
    """

    def __init__(
        self, at: StoreView, tables: Tables, now: int, known: dict[str, Bucket | None] | None = None
    ) -> None:
        self.at = at
        self.tables = tables
        self.now = now
        self._entries = tables["entries"]
        # Names that do not exist are among them: not too many.
        self.known = known if known is not None and len(known) <= MAX_KNOWN else {}

    # ---------------------------------------------------------------- verbs

    def get(self, bucket: str, key: bytes) -> Entry | None:
        """The entry of a key."""
        found = self.bucket(bucket)
        return None if found is None else self._live(found, key)

    def get_many(self, bucket: str, keys: Sequence[bytes]) -> list[Entry | None]:
        """The entries, in the order of the keys."""
        return [self.get(bucket, key) for key in keys]

    def exists(self, bucket: str, keys: Sequence[bytes]) -> int:
        """How many of the keys exist; one that is named twice counts twice."""
        return sum(self.get(bucket, key) is not None for key in keys)

    def scan(
        self,
        bucket: str,
        *,
        prefix: bytes = b"",
        start: bytes = b"",
        end: bytes = b"",
        reverse: bool = False,
        after: bytes = b"",
        limit: int = 100,
        values: bool = False,
    ) -> tuple[list[tuple[bytes, Entry]], bytes]:
        """A page of up to `limit` entries with `start` <= key < `end`, in the order of the keys.

        `after` is the key where the page before ended. The second part is where this one did,
        empty if nothing is left. Without `values` the entries have no bodies but those of objects.
        """
        found = self.bucket(bucket)
        page: list[tuple[bytes, Entry]] = []
        if found is None:
            return page, b""
        stem = found.stem
        low, high = (stem + part if part else b"" for part in (start, end))
        first = stem + after if after else (high if reverse else low)
        octets = looked = 0
        last = b""
        for slot, record in self._walk(bucket, stem + prefix, first, reverse):
            key = slot[4:]
            if (after and key == after) or (reverse and high and slot >= high):
                continue
            if (low and slot < low) if reverse else (high and slot >= high):
                return page, b""
            if len(page) >= limit or octets > MAX_PAGE_OCTETS or looked >= 10 * limit + 1000:
                return page, last
            last = key
            looked += 1
            entry = read_entry(record)
            if entry.expire_at and entry.expire_at <= self.now:
                continue
            octets += len(key)
            if values or entry.kind == OBJECT:
                octets += len(entry.body)
            else:
                entry.body = b""
            page.append((key, entry))
        return page, b""

    def changes(
        self, bucket: str, after: int, limit: int, prefix: bytes = b""
    ) -> tuple[list[tuple[int, str, bytes]], int]:
        """Up to `limit` changes after a version, as (version, kind, key), and how far they reach.

        Of each key only its last change is known, deletions for a day. After 0 comes all that is
        there.

        Raises:
            InvalidArgument: deletions since `after` are forgotten, the bucket was dropped, or
                nothing has that version yet.
        """
        found = self.bucket(bucket)
        if found is None and not after:
            return [], 0
        if after > (newest := self.totals().version):
            raise InvalidArgument(
                f"version {after} is none of this store, whose last one is {newest}: it was "
                "restored from a backup, or is another one; begin anew, after 0"
            )
        if found is None or 0 < after < found.trimmed:
            gone = "it was dropped" if found is None else f"up to {found.trimmed} not all are kept"
            raise InvalidArgument(
                f"changes of bucket {bucket!r} after version {after} are not known ({gone}): begin "
                "anew, after 0",
            )
        rows: list[tuple[int, str, bytes]] = []
        reached = after
        stem = found.stem
        first = ROW.pack(found.number, after + 1)
        for looked, (row, change) in enumerate(
            self.at.items(self.tables["changes"], prefix=stem, start=first)
        ):
            if len(rows) >= limit or looked >= 10 * limit:
                return rows, reached
            reached = ROW.unpack(row)[1]
            key = change[1:]
            if key.startswith(prefix) and (
                change[0] >= DELETED or self._stands(stem, key, reached)
            ):
                rows.append((reached, KINDS[change[0]], key))
        return rows, max(reached, self.totals().version)

    def replaced_rows(self, start: bytes, limit: int, until: int) -> tuple[list[bytes], bytes]:
        """Rows of the log up to version `until` that say nothing any more, from `start` on.

        It looks at no more than `limit` rows. The second part is where to go on; empty at the end.
        """
        found: list[bytes] = []
        for looked, (row, change) in enumerate(self.at.items(self.tables["changes"], start=start)):
            if looked >= limit:
                return found, row
            number, version = ROW.unpack(row)
            if version > until:
                return found, U32.pack(number + 1)
            if change[0] < DELETED and not self._stands(row[:4], change[1:], version):
                found.append(row)
        return found, b""

    def _stands(self, stem: bytes, key: bytes, version: int) -> bool:
        """Whether what was put as `version` has not been replaced or removed since."""
        found = self.at.glance(self._entries, stem + key)
        return found is not None and read_head(found).version == version

    def info(self, bucket: str) -> dict[str, Any] | None:
        """Quota, ttl, entries, octets and so on of a bucket; None if nothing was ever written."""
        found = self.bucket(bucket)
        if found is None:
            return None
        return {
            "name": found.name,
            "quota": found.quota,
            "ttl": found.ttl / 1000,
            "entries": found.entries,
            "octets": found.octets,
            "trimmed": found.trimmed,
            "created_at": found.created_at / 1000,
            "version": self.totals().version,
        }

    def buckets(self, bucket: str = "") -> list[dict[str, Any]]:
        """`info` of all buckets, by name."""
        names = [key[1:].decode() for key, _ in self.at.items(self.tables["buckets"], prefix=NAME)]
        return [facts for name in names if (facts := self.info(name))]

    def object(
        self, bucket: str, key: bytes, version: int = 0
    ) -> tuple[Entry, bytes | None] | None:
        """An object's entry, and its content if that is small enough to be one part.

        With `version`, only if it has that.

        Raises:
            InvalidArgument: the key holds a record.
        """
        entry = self.get(bucket, key)
        if entry is None or (version and entry.version != version):
            return None
        if entry.kind != OBJECT:
            raise InvalidArgument(f"key {key.decode()!r} holds a record: read it with get()")
        content = read_content(entry.body)
        if content.size > PART:
            return entry, None
        return entry, self._body(bucket, key, content.blob, content.size)

    def part(self, blob: bytes, number: int) -> tuple[int, bytes] | None:
        """The size of a blob that is a file, and the digest of a part; None if it is gone."""
        found = self.blob(blob)
        if found is None or found.whole:
            return None
        row = self.at.get(self.tables["digests"], blob + U32.pack(number // DIGESTS))
        at = number % DIGESTS * DIGEST
        if row is None or len(row) < at + DIGEST:
            return None
        return found.size, row[at : at + DIGEST]

    # ---------------------------------------------------------------- records

    def bucket(self, name: str) -> Bucket | None:
        """The bucket called `name`, if anything was ever written to it."""
        try:
            return self.known[name]
        except KeyError:
            record = self.at.get(self.tables["buckets"], NAME + name.encode())
            found = self.known[name] = None if record is None else read_bucket(name, record)
            return found

    def bucket_at(self, slot: bytes) -> Bucket | None:
        """The bucket that `slot` lies in; None if it was dropped."""
        name = self.at.get(self.tables["buckets"], NUMBER + slot[:4])
        return None if name is None else self.bucket(name.decode())

    def totals(self) -> Totals:
        """Of the whole store."""
        return read_totals(self.at.get(self.tables["meta"], TOTALS))

    def blob(self, name: bytes) -> Blob | None:
        """What is known of the content of objects."""
        record = self.at.get(self.tables["blobs"], name)
        return None if record is None else read_blob(record)

    def _live(self, bucket: Bucket, key: bytes) -> Entry | None:
        try:
            record = self.at.get(self._entries, bucket.stem + key)
        except DataCorrupted as error:
            raise damaged(bucket.name, key) from error
        if record is None:
            return None
        entry = read_entry(record)
        return None if entry.expire_at and entry.expire_at <= self.now else entry

    def _walk(
        self, bucket: str, prefix: bytes, start: bytes, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        try:
            yield from self.at.items(self._entries, prefix=prefix, start=start, reverse=reverse)
        except DataCorrupted as error:
            if error.__cause__ is not None:
                raise  # not a record is damaged, but the way to it
            raise damaged(bucket, error.data["key"][4:]) from error

    def _body(self, bucket: str, key: bytes, blob: bytes, size: int) -> bytes:
        try:
            found = self.at.get(self.tables["bodies"], blob) if size else b""
        except DataCorrupted as error:
            raise damaged(bucket, key) from error
        if found is None or len(found) != size:
            raise damaged(bucket, key)
        return found


def damaged(bucket: str, key: bytes) -> DataCorrupted:
    """The error of an entry that is not what was written."""
    shown = key.decode(errors="replace")
    return DataCorrupted(
        f"key {shown!r} of bucket {bucket!r} is damaged; restore a backup, or write or delete it",
        data={"bucket": bucket, "key": shown},
    )
