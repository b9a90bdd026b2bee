"""Reading documents and collections. A view is one moment of the store, and short-lived."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Final

from mesh.errors import DataCorrupted, InvalidArgument
from mesh.protocol.search import MAX_PAGE_OCTETS, check_answer
from workers.search.records import (
    NAME,
    NUMBER,
    ROW,
    TOTALS,
    U32,
    U64,
    Collection,
    Document,
    State,
    Totals,
    read_collection,
    read_document,
    read_state,
    read_totals,
)
from workers.store.engine import ReadBlock
from workers.store.tables import Table
from workers.store.tables import View as StoreView

Tables = dict[str, Table]

MAX_KNOWN: Final = 1000


class Definitions:
    """Collections as they were read last, so that a schema is not read anew for each query."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[bytes, Collection]] = {}

    def read(self, name: str, record: bytes) -> Collection:
        """The collection that `record` describes."""
        known = self._known.get(name)
        if known is not None and known[0] == record:
            return known[1]
        found = read_collection(name, record)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[name] = (record, found)
        return found


class View:
    """One moment of the store."""

    def __init__(self, at: StoreView, tables: Tables, definitions: Definitions) -> None:
        self.at = at
        self.tables = tables
        self.definitions = definitions
        self._documents = tables["documents"]

    # ---------------------------------------------------------------- verbs

    def get(self, collection: str, key: bytes) -> Document | None:
        """The document with that id."""
        found = self.existing(collection)
        row = self.row_of(found.number, key)
        return None if row is None else self.document(found, row)

    def get_many(self, collection: str, keys: Sequence[bytes]) -> list[Document | None]:
        """The documents, in the order of the ids."""
        found: list[Document | None] = []
        octets = 0
        for key in keys:
            document = self.get(collection, key)
            octets += 0 if document is None else len(document.body)
            check_answer(octets, "ask for fewer at a time")
            found.append(document)
        return found

    def info(self, collection: str) -> dict[str, Any] | None:
        """What is known of a collection; None if there is none."""
        found = self.find(collection)
        if found is None:
            return None
        state = self.state(found.number)
        rebuilding = None
        if found.building is not None:
            rebuilding = {"applied": state.built, "of": state.version}
        return {
            "name": found.name,
            "schema": found.schema.packed(),
            "dynamic": found.schema.dynamic,
            "refresh_every": found.refresh_every,
            "created_at": found.created_at / 1000,
            "documents": state.entries,
            "octets": state.octets,
            "version": state.version,
            "refreshed": state.applied,
            "fields_searched": found.index.fields,
            "rebuilding": rebuilding,
        }

    def collections(self, collection: str = "") -> list[dict[str, Any]]:
        """`info` of all collections, by name."""
        return [facts for name in self.names() if (facts := self.info(name)) is not None]

    def scan(
        self, collection: str, after: bytes, limit: int
    ) -> tuple[list[tuple[bytes, Document]], bytes]:
        """Up to `limit` documents in the order of their ids, and the id to go on after, or b""."""
        found = self.existing(collection)
        stem = U32.pack(found.number)
        page: list[tuple[bytes, Document]] = []
        octets = 0
        last = after
        for slot, row in self.at.items(self.tables["ids"], prefix=stem, start=stem + after):
            key = slot[4:]
            if key == after:
                continue
            if len(page) >= limit or octets > MAX_PAGE_OCTETS:
                return page, last
            document = self.document(found, U64.unpack(row)[0])
            octets += len(document.body)
            page.append((key, document))
            last = key
        return page, b""

    # ---------------------------------------------------------------- records

    def names(self) -> list[str]:
        """The names of all collections."""
        records = self.at.items(self.tables["collections"], prefix=NAME)
        return [key[1:].decode() for key, _ in records]

    def find(self, name: str) -> Collection | None:
        """The collection of that name, if there is one."""
        record = self.at.get(self.tables["collections"], NAME + name.encode())
        return None if record is None else self.definitions.read(name, record)

    def existing(self, name: str) -> Collection:
        """The collection of that name.

        Raises:
            InvalidArgument: there is none.
        """
        found = self.find(name)
        if found is None:
            raise InvalidArgument(
                f"there is no collection {name!r}: index() makes it with the first document, "
                "create() with a schema",
                data={"collection": name, "missing": True},
            )
        return found

    def numbered(self, number: int) -> Collection | None:
        """The collection with that number, unless it was dropped."""
        name = self.at.get(self.tables["collections"], NUMBER + U32.pack(number))
        return None if name is None else self.find(name.decode())

    def totals(self) -> Totals:
        """Of the whole store."""
        return read_totals(self.at.get(self.tables["meta"], TOTALS))

    def state(self, number: int) -> State:
        """How the collection with that number stands."""
        return read_state(self.at.get(self.tables["states"], U32.pack(number)))

    def row_of(self, number: int, key: bytes) -> int | None:
        """The row of the document with that id."""
        record = self.at.get(self.tables["ids"], U32.pack(number) + key)
        return None if record is None else int(U64.unpack(record)[0])

    def document(self, collection: Collection, row: int) -> Document:
        """The document in `row`, which must be there.

        Raises:
            DataCorrupted: it is not, or is not what was written.
        """
        found = self.document_at(collection, row)
        if found is None:
            raise _damaged(collection, row)
        return found

    def document_at(self, collection: Collection, row: int) -> Document | None:
        """The document in `row`; None if it has gone."""
        record = self.record_at(collection, ROW.pack(collection.number, row))
        return None if record is None else read_document(record)

    def record_at(self, collection: Collection, key: bytes) -> bytes | None:
        """The record with that key (see `row_keys`); None if it has gone. Raises DataCorrupted."""
        try:
            return self.at.get(self._documents, key)
        except DataCorrupted as error:
            raise _damaged(collection, ROW.unpack(key)[1]) from error

    def documents_after(self, number: int, row: int) -> Iterator[tuple[int, bytes | None]]:
        """Rows above `row` with the records in them, in their order; None for a damaged one."""
        stem = U32.pack(number)
        while True:
            try:
                first = ROW.pack(number, row + 1)
                for slot, record in self.at.items(
                    self.tables["documents"], prefix=stem, start=first
                ):
                    row = ROW.unpack(slot)[1]
                    yield row, record
                return
            except DataCorrupted as error:
                if error.__cause__ is not None:
                    raise  # not a record is damaged, but the way to it
                row = ROW.unpack(error.data["key"])[1]
                yield row, None

    def removed_after(self, number: int, version: int) -> Iterator[tuple[int, int]]:
        """Removals of rows above `version`: the version, the row."""
        first = ROW.pack(number, version + 1)
        for slot, row in self.at.items(
            self.tables["removed"], prefix=U32.pack(number), start=first
        ):
            yield ROW.unpack(slot)[1], U64.unpack(row)[0]


class Moment:
    """`with moment as view:` reads one moment of the store."""

    __slots__ = ("_block", "_definitions", "_tables")

    def __init__(self, block: ReadBlock, tables: Tables, definitions: Definitions) -> None:
        self._block = block
        self._tables = tables
        self._definitions = definitions

    def __enter__(self) -> View:
        return View(self._block.__enter__(), self._tables, self._definitions)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._block.__exit__(kind, error, trace)


def _damaged(collection: Collection, row: int) -> DataCorrupted:
    return DataCorrupted(
        f"document {row} of collection {collection.name!r} is damaged; restore a backup, or index "
        "it again",
        data={"collection": collection.name, "row": row},
    )
