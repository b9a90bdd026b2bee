"""The verbs that write. Each checks everything before its first write: one that raises has changed
nothing, and needs no transaction of its own. `close` must follow the last one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mesh.errors import DataCorrupted, InvalidArgument, QuotaExceeded, VersionConflict
from workers.storage.records import (
    DELETED,
    EXPIRED,
    HEAD,
    KINDS,
    NAME,
    NUMBER,
    OBJECT,
    RECORD,
    ROW,
    TOTALS,
    U32,
    Blob,
    Bucket,
    Content,
    Entry,
    cost,
    pack_entry,
    read_content,
    read_entry,
    read_head,
)
from workers.storage.view import DIGEST, DIGESTS, Tables, View
from workers.store.expiry import ExpiryIndex
from workers.store.tables import Change as StoreChange

GRACE: Final = 60_000
"""Milliseconds for which content outlives its object, for those who are reading it."""
KEEP_DELETED: Final = 24 * 3600 * 1000
"""Milliseconds for which deletions are told to those who follow the changes."""
SLICE: Final = 500
UNLINKED_PER_ENTRY: Final = 8 * 1024 * 1024
"""Octets of a file that are unlinked in about the time that an entry takes."""
_VERSION: Final = struct.Struct(">Q")
_MARKS: Final = tuple(bytes((kind,)) for kind in range(len(KINDS)))
OF_ENTRY, OF_BLOB, OF_ROW, OF_BUCKET = b"e", b"g", b"t", b"b"


class Change(View):
    """All verbs that write."""

    def __init__(
        self,
        at: StoreChange,
        tables: Tables,
        now: int,
        has_file: Callable[[bytes], bool] | None = None,
    ) -> None:
        """`has_file`: whether there is a file of that name. `now`: Unix time in milliseconds."""
        super().__init__(at, tables, now)
        self._has_file = has_file
        self.into = at
        """The same as `at`, which here is a change."""
        self.touched: set[str] = set()
        """Buckets in which something has changed."""
        self.replaced: list[bytes] = []
        """Rows of the log that say nothing any more: see `clear_log`."""
        self._rows = tables["changes"]
        self._due = ExpiryIndex(tables["due"])
        self._totals = self.totals()
        self._steps: Mapping[str, Callable[..., Any]] = {"put": self.put, "delete": self.delete}

    # ---------------------------------------------------------------- records

    def put(
        self,
        bucket: str,
        key: bytes,
        body: bytes,
        *,
        ttl: int = 0,
        only_if: str = "",
        version: int | None = None,
    ) -> int:
        """Write a record; its version, or 0 if `only_if` ("absent", "present") kept it from that.

        `version` is what the key must have (0: not exist). `ttl`: milliseconds.

        Raises:
            VersionConflict: it has another version; `data` says which.
            QuotaExceeded: the bucket has no room for it.
            InvalidArgument: a ttl, in a bucket that has none.
        """
        found = self._bucket(bucket)
        return self._write(found, key, RECORD, body, ttl, only_if, version)

    def put_many(
        self, bucket: str, items: Sequence[tuple[bytes, bytes]], ttl: int = 0
    ) -> list[int]:
        """Write some records, all or none; their versions."""
        found = self._bucket(bucket)
        grown = sum([4 + len(key) + HEAD + len(body) for key, body in items])
        self._check_room(found, grown)
        self._lifetime(found, ttl)
        return [self._write(found, key, RECORD, body, ttl, "", None, True) for key, body in items]

    def delete(self, bucket: str, keys: Sequence[bytes], version: int | None = None) -> int:
        """Remove records and objects; how many there were. With `version`, only if they have it.

        Raises:
            VersionConflict: one of them has another version; nothing was removed.
        """
        found = self.bucket(bucket)
        if found is None:
            return 0
        if version is not None:
            for key in keys:
                self._compare(found, key, version)
        return sum([self._remove(found, key, DELETED) for key in keys])

    def batch(
        self,
        bucket: str,
        conditions: Sequence[tuple[bytes, int]],
        steps: Sequence[tuple[str, dict[str, Any]]],
    ) -> list[Any]:
        """Do all `steps`, or nothing: each of `conditions` is a key and the version it must have.

        Raises:
            VersionConflict: a condition does not hold.
            QuotaExceeded: the bucket has no room for what they write.
        """
        found = self._bucket(bucket)
        for key, version in conditions:
            self._compare(found, key, version)
        grown = 0
        for verb, given in steps:
            if verb == "put":
                grown += 4 + len(given["key"]) + HEAD + len(given["body"])
                self._lifetime(found, given.get("ttl", 0))
        self._check_room(found, grown)
        return [self._steps[verb](bucket, **given) for verb, given in steps]

    # ---------------------------------------------------------------- objects

    def put_object(
        self,
        bucket: str,
        key: bytes,
        content: Content,
        *,
        data: bytes | None = None,
        digests: bytes = b"",
        ttl: int = 0,
        only_if: str = "",
        version: int | None = None,
    ) -> int:
        """Make `key` an object; its version, or 0 if `only_if` kept it from that.

        Its content is `data`, or in the file of that name, whose parts have `digests`.

        Raises:
            VersionConflict: the key has another version.
            QuotaExceeded: the bucket has no room for it.
        """
        found = self._bucket(bucket)
        there = self.blob(content.blob)
        if there is not None:
            entry = self._live(found, key)
            if entry is not None and _blob_of(entry) == content.blob:
                return entry.version  # it was done, and is asked for once more
            raise InvalidArgument(
                "this upload has become an object already; begin a new one", data={"finished": True}
            )
        if digests and self._has_file is not None and not self._has_file(content.blob):
            raise InvalidArgument("this upload was given up meanwhile; begin a new one")
        written = self._write(found, key, OBJECT, content.pack(), ttl, only_if, version)
        if not written:
            return 0
        blob = Blob(1, content.size, data is not None)
        self.into.put(self.tables["blobs"], content.blob, blob.pack())
        if data:
            self.into.put(self.tables["bodies"], content.blob, data)
        row = DIGEST * DIGESTS
        for page, begin in enumerate(range(0, len(digests), row)):
            name = content.blob + U32.pack(page)
            self.into.put(self.tables["digests"], name, digests[begin : begin + row])
        return written

    def copy(
        self,
        bucket: str,
        key: bytes,
        *,
        to_bucket: str,
        to_key: bytes,
        ttl: int = 0,
        only_if: str = "",
        version: int | None = None,
    ) -> int | None:
        """Give another key what `key` holds; its version, 0 as for `put`, None if there is none.

        Objects share their content.
        """
        entry = self.get(bucket, key)
        if entry is None:
            return None
        target = self._bucket(to_bucket)
        name = _blob_of(entry)
        if name is not None and (held := self.get(to_bucket, to_key)) and _blob_of(held) == name:
            self._compare_given(target, to_key, held, version)
            return 0 if only_if == "absent" else held.version
        written = self._write(target, to_key, entry.kind, entry.body, ttl, only_if, version)
        if written and name is not None and (blob := self.blob(name)):
            blob.refs += 1
            self.into.put(self.tables["blobs"], name, blob.pack())
        return written

    # ---------------------------------------------------------------- buckets

    def configure(self, bucket: str, quota: int | None, ttl: int | None) -> None:
        """Set how a bucket is kept. `ttl` (ms) holds for what is written from now on; 0: none."""
        found = self._bucket(bucket)
        found.quota = found.quota if quota is None else quota
        found.ttl = found.ttl if ttl is None else ttl
        found.changed = True

    def drop(self, bucket: str) -> int:
        """Remove a bucket with all that is in it; how many entries. It is cleared away later."""
        found = self.bucket(bucket)
        if found is None:
            return 0
        buckets = self.tables["buckets"]
        self.into.delete(buckets, NAME + bucket.encode())
        self.into.delete(buckets, NUMBER + U32.pack(found.number))
        self._due.add(self.into, self.now, OF_BUCKET + U32.pack(found.number))
        self._totals.version += 1  # those who follow it must not take the next one for it
        self.known[bucket] = None
        self.touched.add(bucket)
        return found.entries

    # ---------------------------------------------------------------- what time takes

    def tidy(self, limit: int, unlink: Callable[[bytes], object], hurry: bool = False) -> int:
        """Clear up to about `limit` of what is due; how many. `unlink` removes a blob's file.

        With `hurry` content goes at once, without regard for those who are reading it.
        """
        until = self.now + GRACE if hurry else self.now
        done = 0
        for at_ms, name in self._due.due(self.at, until, limit):
            if done >= limit:
                break
            kind, what = name[:1], name[1:]
            if at_ms > self.now and kind != OF_BLOB:
                continue
            done += 1
            self._due.remove(self.into, at_ms, name)
            if kind == OF_ENTRY:
                self._expire(what)
            elif kind == OF_BLOB:
                done += self._clear_blob(what, unlink)
            elif kind == OF_ROW:
                self._trim(what)
            elif not self._clear_bucket(what):
                self._due.add(self.into, at_ms, name)
        return done

    def clear_log(self, rows: Sequence[bytes]) -> None:
        """Delete what has been `replaced`, by this change or by others before.

        Not at once: rows of the same age lie side by side, and thousands of them share the pages
        that each alone would have to be written for.
        """
        for row in sorted(rows):
            self.into.delete(self._rows, row)

    def close(self) -> None:
        """Write what the verbs have counted."""
        self.into.put(self.tables["meta"], TOTALS, self._totals.pack())
        for bucket in self.known.values():
            if bucket is not None and bucket.changed:
                self.into.put(self.tables["buckets"], NAME + bucket.name.encode(), bucket.pack())

    def _expire(self, slot: bytes) -> None:
        bucket = self.bucket_at(slot)
        try:
            record = self.at.get(self._entries, slot)
        except DataCorrupted:
            return  # damage is never deleted silently
        if bucket is not None and record is not None:
            entry = read_entry(record)
            if entry.expire_at and entry.expire_at <= self.now:
                self._remove(bucket, slot[4:], EXPIRED)

    def _clear_blob(self, name: bytes, unlink: Callable[[bytes], object]) -> int:
        """Remove content that nothing names; how many entries that is worth in time."""
        blob = self.blob(name)
        if blob is None or blob.refs:
            return 0
        if blob.whole:
            self.into.delete(self.tables["bodies"], name)
        else:
            # Before the commit: what a crash leaves is done once more, and no file is forgotten.
            unlink(name)
            for row, _ in list(self.at.items(self.tables["digests"], prefix=name)):
                self.into.delete(self.tables["digests"], row)
        self.into.delete(self.tables["blobs"], name)
        return blob.size // UNLINKED_PER_ENTRY

    def _trim(self, row: bytes) -> None:
        number, version = ROW.unpack(row)
        self.into.delete(self._rows, row)
        bucket = self.bucket_at(U32.pack(number))
        if bucket is not None and version > bucket.trimmed:
            bucket.trimmed = version
            bucket.changed = True

    def _clear_bucket(self, stem: bytes) -> bool:
        """Remove some of what a dropped bucket held; whether that was all."""
        cleared = 0
        for table in (self._entries, self._rows):
            keys: list[tuple[bytes, bytes]] = []
            start = stem
            while cleared + len(keys) < SLICE:
                try:
                    for key, record in self.at.items(table, prefix=stem, start=start):
                        if cleared + len(keys) >= SLICE:
                            break
                        keys.append((key, record))
                    break
                except DataCorrupted as error:
                    if error.__cause__ is not None:
                        raise
                    keys.append((error.data["key"], b""))
                    start = error.data["key"] + b"\0"
            for key, record in keys:
                self.into.delete(table, key)
                if table is self._entries and record:
                    self._forget(key, read_entry(record))
            cleared += len(keys)
        return cleared < SLICE

    # ---------------------------------------------------------------- writing

    def _write(
        self,
        bucket: Bucket,
        key: bytes,
        kind: int,
        body: bytes,
        ttl: int,
        only_if: str,
        version: int | None,
        roomy: bool = False,
    ) -> int:
        expire_at = self._lifetime(bucket, ttl) if ttl or bucket.ttl else 0
        slot = bucket.stem + key
        before, old_cost = self._entry(slot)
        if only_if or version is not None:
            live = before if before is not None and not self._expired(before) else None
            self._compare_given(bucket, key, live, version)
            if only_if and (live is None) != (only_if == "absent"):
                return 0
        written = self._totals.version + 1
        record = pack_entry(kind, written, self.now, expire_at, body)
        new_cost = len(slot) + len(record)
        if kind == OBJECT:
            new_cost += read_content(body).size
        if bucket.quota and not roomy:
            self._check_room(bucket, new_cost - old_cost)
        self._totals.version = written
        self.into.put(self._entries, slot, record)
        if before is not None:
            self._forget(slot, before)
        elif not old_cost:
            bucket.entries += 1
        if expire_at:
            self._due.add(self.into, expire_at, OF_ENTRY + slot)
        self.into.put(self._rows, bucket.stem + _VERSION.pack(written), _MARKS[kind] + key)
        bucket.octets += new_cost - old_cost
        bucket.changed = True
        self.touched.add(bucket.name)
        return written

    def _remove(self, bucket: Bucket, key: bytes, kind: int) -> int:
        """Remove a key, dead or alive or damaged; 1 if it was alive."""
        slot = bucket.stem + key
        before, old_cost = self._entry(slot)
        if not old_cost:
            return 0
        self.into.delete(self._entries, slot)
        if before is not None:
            self._forget(slot, before)
        self._totals.version += 1
        row = bucket.stem + _VERSION.pack(self._totals.version)
        self.into.put(self._rows, row, bytes((kind,)) + key)
        self._due.add(self.into, self.now + KEEP_DELETED, OF_ROW + row)
        bucket.entries -= 1
        bucket.octets -= old_cost
        bucket.changed = True
        self.touched.add(bucket.name)
        return int(before is None or not self._expired(before))

    def _forget(self, slot: bytes, entry: Entry) -> None:
        """Take back what an entry had beside its record."""
        self.replaced.append(slot[:4] + _VERSION.pack(entry.version))
        if entry.expire_at:
            self._due.remove(self.into, entry.expire_at, OF_ENTRY + slot)
        if entry.kind != OBJECT:
            return
        name = read_content(entry.body).blob
        blob = self.blob(name)
        if blob is not None:
            blob.refs -= 1
            self.into.put(self.tables["blobs"], name, blob.pack())
            if not blob.refs:
                self._due.add(self.into, self.now + GRACE, OF_BLOB + name)

    def _entry(self, slot: bytes) -> tuple[Entry | None, int]:
        """What lies at `slot`, dead or alive, and its cost; of what is damaged only that.

        A record comes without its body, and unverified: all that is done with it here is to
        replace it, and to take back the row of the log that its version names.
        """
        found = self.at.glance(self._entries, slot)
        if found is None:
            return None, 0
        entry = read_head(found)
        if entry.kind == RECORD and not entry.expire_at:
            return entry, len(slot) + len(found)
        try:
            record = self.at.get(self._entries, slot)
        except DataCorrupted as error:
            if error.__cause__ is not None:
                raise  # not this record is damaged, but the way to it
            return None, len(slot) + len(found)
        assert record is not None
        entry = read_entry(record)
        return entry, cost(slot, entry)

    def _expired(self, entry: Entry) -> bool:
        return bool(entry.expire_at) and entry.expire_at <= self.now

    def _lifetime(self, bucket: Bucket, ttl: int) -> int:
        """When something expires that is written now; 0 for never."""
        if ttl and not bucket.ttl:
            raise InvalidArgument(
                f"bucket {bucket.name!r} keeps things for ever; "
                "give it a ttl first: bucket(...).configure(ttl=...)"
            )
        return self.now + (ttl or bucket.ttl) if bucket.ttl else 0

    def _bucket(self, name: str) -> Bucket:
        """The bucket called `name`, which comes into being if it is not there."""
        found = self.bucket(name)
        if found is None:
            self._totals.buckets += 1
            found = Bucket(
                name, self._totals.buckets, trimmed=self._totals.version, created_at=self.now
            )
            found.changed = True
            self.known[name] = found
            number = NUMBER + U32.pack(found.number)
            self.into.put(self.tables["buckets"], number, name.encode())
            # At once: a verb that fails after this leaves an empty bucket, not half of one.
            self.into.put(self.tables["buckets"], NAME + name.encode(), found.pack())
        return found

    def _check_room(self, bucket: Bucket, grown: int) -> None:
        if bucket.quota and grown > 0 and bucket.octets + grown > bucket.quota:
            raise QuotaExceeded(
                f"bucket {bucket.name!r} would exceed its {bucket.quota:,} octets; delete "
                "something, or raise its quota"
            )

    def _compare(self, bucket: Bucket, key: bytes, version: int) -> None:
        self._compare_given(bucket, key, self._live(bucket, key), version)

    def _compare_given(
        self, bucket: Bucket, key: bytes, entry: Entry | None, version: int | None
    ) -> None:
        found = entry.version if entry is not None else 0
        if version is not None and version != found:
            raise VersionConflict(
                f"key {key.decode()!r} of bucket {bucket.name!r} has version {found}, "
                f"not {version}; read it again",
                data={"key": key.decode(), "version": found},
            )


def _blob_of(entry: Entry) -> bytes | None:
    return read_content(entry.body).blob if entry.kind == OBJECT else None
