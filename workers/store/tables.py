"""Tables, and the transactions in which they are read and written.

A `View` is one moment of the whole store, for reading. A `Change` is a view that also writes; it is
handed to jobs by the writer and by nobody else. Both belong to the thread that got them and end
with the block or the job. Values are verified on every read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import lmdb

from mesh.errors import DataCorrupted, InvalidArgument, StoreError
from workers.store.checksum import OVERHEAD, printable, seal, unseal

MAX_KEY: Final = 511
"""Octets of a key, and of a value in an index table."""


_WRITERS_BUSINESS: Final = (
    lmdb.BadTxnError,
    lmdb.DiskError,
    lmdb.MapFullError,
    lmdb.PanicError,
    lmdb.TxnFullError,
)


class Table:
    """One named table. `index` tables hold several short values a key, sorted, not checksummed."""

    __slots__ = ("handle", "index", "name")

    def __init__(self, name: str, index: bool, handle: Any) -> None:
        self.name = name
        self.index = index
        self.handle = handle


class View:
    """One moment of the store. Never keep one across an await or a reply: it pins disk pages."""

    __slots__ = ("_get", "raw")

    def __init__(self, raw: Any) -> None:
        self.adopt(raw)

    def adopt(self, raw: Any) -> None:
        """Look through another transaction from now on. For the writer."""
        self.raw = raw
        """The transaction of LMDB itself (`buffers=True`), for what is not offered here."""
        self._get = raw.get

    def get(self, table: Table, key: bytes) -> bytes | None:
        """The value of `key`; None if there is none. In an index table the first of its values.

        Raises:
            DataCorrupted: the value is not what was written.
            InvalidArgument: `key` is empty.
        """
        try:
            found = self._get(key, None, table.handle)
        except lmdb.Error as error:
            raise translated(error, table, key) from error
        if found is None:
            return None
        return bytes(found) if table.index else unseal(key, found, table.name)

    def glance(self, table: Table, key: bytes) -> memoryview | None:
        """The value of `key` in a plain table as it lies there, unverified; None if there is none.

        For what a wrong answer does no harm to: its head, its length. It ends with the next write.
        """
        try:
            found = self._get(key, None, table.handle)
        except lmdb.Error as error:
            raise translated(error, table, key) from error
        return None if found is None else found[OVERHEAD:]

    def items(
        self, table: Table, *, prefix: bytes = b"", start: bytes = b"", reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Keys that begin with `prefix`, with their values, in order of the keys.

        `start` is the key to begin at (included; with `reverse` the highest one wanted). In an
        index table a key comes once for each of its values. A `Change` must not write to the table
        while it is walked: collect first.

        Raises:
            DataCorrupted: a value is not what was written. The walk cannot go on after it.
        """
        try:
            with self.raw.cursor(table.handle) as cursor:
                if reverse:
                    placed = _seek_last(cursor, prefix, start, table.index)
                    step = cursor.iterprev
                else:
                    first = max(prefix, start)
                    placed = cursor.set_range(first) if first else cursor.first()
                    step = cursor.iternext
                if not placed:
                    return
                for found, value in step():
                    key = bytes(found)
                    if not key.startswith(prefix):
                        return
                    yield key, bytes(value) if table.index else unseal(key, value, table.name)
        except lmdb.Error as error:
            raise translated(error, table, start or prefix) from error

    def keys(self, table: Table, *, start: bytes = b"") -> Iterator[bytes]:
        """Keys from `start` on, in order: what a damaged value does not end. As `items`."""
        try:
            with self.raw.cursor(table.handle) as cursor:
                if cursor.set_range(start) if start else cursor.first():
                    yield from map(bytes, cursor.iternext(values=False))
        except lmdb.Error as error:
            raise translated(error, table, start) from error

    def has(self, table: Table, key: bytes, value: bytes | None = None) -> bool:
        """Whether `key` is there; in an index table with `value`, whether that pair is."""
        try:
            if value is None:
                return self._get(key, None, table.handle) is not None
            with self.raw.cursor(table.handle) as cursor:
                return bool(cursor.set_key_dup(key, value))
        except lmdb.Error as error:
            raise translated(error, table, key) from error

    def count(self, table: Table) -> int:
        """Number of entries; in an index table of pairs. Costs a microsecond at any size."""
        return int(self.raw.stat(table.handle)["entries"])

    def size(self, table: Table) -> int:
        """Octets on disk that the table takes, in whole pages. Costs a microsecond at any size."""
        stat = self.raw.stat(table.handle)
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return int(pages * stat["psize"])


class Change(View):
    """A view that also writes. What it did is kept if and when the writer's transaction commits."""

    __slots__ = ("_delete", "_put", "callbacks", "changes", "written")

    def __init__(self, raw: Any) -> None:
        self.changes = 0
        """Puts and deletes made."""
        self.written = 0
        """Octets of keys and values put."""
        self.callbacks: list[Callable[[], object]] = []
        """What `after_commit` was given."""
        super().__init__(raw)

    def adopt(self, raw: Any) -> None:
        """Write through another transaction from now on. For the writer."""
        View.adopt(self, raw)
        self._put, self._delete = raw.put, raw.delete

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Store `value` under `key`; in an index table, add it to those that are there.

        Raises:
            InvalidArgument: the key is empty or longer than MAX_KEY, or so is an index value.
        """
        self.changes += 1
        self.written += len(key) + len(value)
        try:
            self._put(
                key, value if table.index else seal(key, value), True, True, False, table.handle
            )
        except lmdb.Error as error:
            raise translated(error, table, key) from error

    def delete(self, table: Table, key: bytes, value: bytes = b"") -> bool:
        """Delete `key`, or with `value` that one pair of an index table. Whether it was there."""
        self.changes += 1
        try:
            return bool(self._delete(key, value, table.handle))
        except lmdb.Error as error:
            raise translated(error, table, key) from error

    def after_commit(self, function: Callable[[], object]) -> None:
        """Call `function` once this is on disk, in order; never if it is not.

        The place for whatever a job changes in memory, since a job may be run more than once.
        """
        self.callbacks.append(function)


def translated(error: Any, table: Table, key: bytes) -> Exception:
    """What an error of LMDB means to the caller; the writer's own business is left as it is."""
    if isinstance(error, lmdb.BadValsizeError):
        return InvalidArgument(
            f"a key has 1 to {MAX_KEY} octets, and so has a value of an index table;"
            f" the key {printable(key)} of table {table.name!r} has {len(key)}"
        )
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.InvalidError):
        return DataCorrupted(
            f"table {table.name!r} is damaged near key {printable(key)} ({error});"
            " stop the service and restore a backup",
            data={"table": table.name, "key": key},
        )
    if isinstance(error, _WRITERS_BUSINESS):
        return error
    return StoreError(f"table {table.name!r}: {error}")


def _seek_last(cursor: Any, prefix: bytes, start: bytes, index: bool) -> bool:
    """Place `cursor` at the last entry of the last key that is wanted, or say that there is none.

    The last key wanted begins with `prefix` and, if `start` is given, is at most `start`.
    """
    if start.startswith(prefix) and start:
        if cursor.set_range(start):
            if bytes(cursor.key()) != start:
                return bool(cursor.prev())
            return not index or bool(cursor.last_dup())
        return bool(cursor.last())
    if start and start < prefix:
        return False
    stem = prefix.rstrip(b"\xff")
    if stem and cursor.set_range(stem[:-1] + bytes([stem[-1] + 1])):
        return bool(cursor.prev())
    return bool(cursor.last())
