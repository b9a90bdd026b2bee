"""The verbs that write. Each checks everything before its first write: one that raises has changed
nothing, and needs no transaction of its own. `close` must follow the last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mesh.errors import InvalidArgument
from mesh.protocol import payload
from mesh.protocol.search import MAX_COLLECTIONS, MAX_DOCUMENT, REFRESH_EVERY
from workers.search.operations import Given
from workers.search.records import (
    NAME,
    NUMBER,
    ROW,
    TOTALS,
    U32,
    U64,
    Collection,
    Index,
    State,
    Totals,
    fields_of,
    pack_document,
    row_keys,
)
from workers.search.schema import Schema
from workers.search.view import Definitions, Tables, View
from workers.store.tables import Change as StoreChange

SLICE: Final = 1000
"""Entries that are cleared away at a time."""


class Fresh:
    """What one change did to a collection, for its index: from one version of it to the next.

    `added`: rows with their checked values; `removed`: rows, which may be among the added ones.
    """

    __slots__ = ("added", "after", "octets", "removed", "until")

    def __init__(self, after: int) -> None:
        self.after = after
        self.until = after
        self.octets = 0
        self.added: list[tuple[int, Mapping[str, Any]]] = []
        self.removed: list[int] = []


class Change(View):
    """All verbs that write, at `now` (Unix milliseconds)."""

    def __init__(self, at: StoreChange, tables: Tables, definitions: Definitions, now: int) -> None:
        super().__init__(at, tables, definitions)
        self.at: StoreChange = at
        self.now = now
        self.fresh: dict[int, Fresh] = {}
        """What was written, by the number of the collection, for the indexes."""
        self._totals: Totals = self.totals()
        self._states: dict[int, State] = {}
        self._found: dict[str, Collection | None] = {}

    def find(self, name: str) -> Collection | None:
        """The collection of that name, as this change has left it."""
        try:
            return self._found[name]
        except KeyError:
            found = self._found[name] = View.find(self, name)
            return found

    def state(self, number: int) -> State:
        """How a collection stands; what is changed in it is written by `close`."""
        found = self._states.get(number)
        if found is None:
            found = self._states[number] = View.state(self, number)
            self.fresh[number] = Fresh(found.version)
        return found

    # ---------------------------------------------------------------- collections

    def create(self, collection: str, schema: Schema, refresh_every: float) -> bool:
        """Make a collection; False if there is the same one already.

        Raises:
            InvalidArgument: there is another one of that name.
        """
        found = self.find(collection)
        if found is None:
            self._create(collection, schema, refresh_every)
            return True
        declared = {name: found.schema.fields.get(name) for name in schema.fields}
        if declared != schema.fields or found.schema.dynamic != schema.dynamic:
            raise InvalidArgument(
                f"collection {collection!r} exists with other fields: {found.schema.packed()}; "
                "add some with extend(), or drop() it"
            )
        if found.refresh_every != refresh_every:
            self._define(replace(found, refresh_every=refresh_every))
        return False

    def extend(self, collection: str, schema: Schema) -> None:
        """Add fields; searches know them once the index is built anew.

        Raises:
            InvalidArgument: one of them is there and differs.
        """
        found = self.existing(collection)
        self._extend(found, found.schema.extended(schema.fields))

    def drop(self, collection: str) -> bool:
        """Remove a collection; whether there was one. Its documents are cleared away later."""
        found = self.find(collection)
        if found is None:
            return False
        number = U32.pack(found.number)
        self.at.delete(self.tables["collections"], NAME + collection.encode())
        self.at.delete(self.tables["collections"], NUMBER + number)
        self.at.put(self.tables["dropped"], number, b"")
        self._totals.version += 1
        self.state(found.number)
        self._found[collection] = None
        return True

    def rebuild(self, collection: str) -> None:
        """Have the index built anew from the documents. One that is being built begins again."""
        found = self.existing(collection)
        self.begin_building(found)

    # ---------------------------------------------------------------- documents

    def index(
        self, collection: str, documents: Sequence[Given], only_if: str
    ) -> tuple[int, list[int] | None]:
        """Write documents, all or none: the version, and which of them were written (None: all).

        `only_if` ("absent", "present") leaves out those for which it does not hold.

        Raises:
            InvalidArgument: a value does not fit its field; nothing was written.
        """
        found = self.find(collection)
        schema = Schema() if found is None else found.schema
        done: list[int] | None = None
        if only_if:
            done = self._wanted(found, documents, only_if)
            documents = [documents[index] for index in done]
        schema, checked = _checked(schema, documents)
        if found is None:
            found = self._create(collection, schema, REFRESH_EVERY)
        elif len(schema.fields) != len(found.schema.fields):
            found = self._extend(found, schema)
        self._write(found, documents, checked)
        return self.state(found.number).version, done

    def update(
        self, collection: str, documents: Sequence[Given], upsert: bool
    ) -> tuple[int, list[int] | None]:
        """Replace single fields of documents, all or none; None removes one.

        Raises:
            InvalidArgument: a document does not exist, and `upsert` does not allow for that.
        """
        found = self.find(collection)
        pending: dict[bytes, Mapping[str, Any]] = {}
        merged: list[Given] = []
        for one in documents:
            values = pending.get(one.key)
            if values is None:
                values = None if found is None else self._fields(found, one.key)
            if values is None:
                if not upsert:
                    raise InvalidArgument(
                        f"collection {collection!r} has no document {one.id!r} to update; "
                        "index() it, or update with upsert=True",
                        data={"id": one.id},
                    )
                values = {}
            values = {**values, **one.values}
            values = {name: value for name, value in values.items() if value is not None}
            pending[one.key] = values
            body = payload.encode({"id": one.id, **values})
            merged.append(Given(one.id, one.key, values, body))
        return self.index(collection, merged, "")

    def delete(self, collection: str, keys: Sequence[bytes]) -> int:
        """Remove documents; how many there were."""
        found = self.find(collection)
        if found is None:
            return 0
        return sum([self._remove(found, key) for key in keys])

    def delete_rows(self, collection: str, rows: Sequence[int]) -> int:
        """Remove those of the rows that still are documents; how many."""
        found = self.find(collection)
        if found is None:
            return 0
        keys = [key for row in rows if (key := self._key_at(found, row)) is not None]
        return sum([self._remove(found, key) for key in keys])

    # ---------------------------------------------------------------- for the indexes

    def applied(self, number: int, version: int, building: Index | None) -> None:
        """An index has everything up to `version` on disk; removed rows are cleared away.

        `building`: it is that one, which is being built, if it still is.

        What the index had removed before stays until now: a search that began with its state of
        then has had the time to read those rows.
        """
        found = self.numbered(number)
        if found is None:
            return
        state = self.state(number)
        if building is not None:
            if building == found.building:
                state.built = max(state.built, version)
            return
        before, state.applied = state.applied, max(state.applied, version)
        self.clear_removed(number, before)

    def clear_removed(self, number: int, until: int) -> None:
        """Clear away rows that were removed up to the version `until`."""
        state = self.state(number)
        found = self.numbered(number)
        if found is None or found.building is not None or until <= state.cleared:
            return
        rows = [(at, row) for at, row in self.removed_after(number, state.cleared) if at <= until]
        for at, row in rows:
            self.at.delete(self.tables["documents"], ROW.pack(number, row))
            self.at.delete(self.tables["removed"], ROW.pack(number, at))
        state.cleared = until

    def switch(self, number: int, built: Index, version: int) -> bool:
        """The index that was built takes the place of the other one, if it is to."""
        found = self.numbered(number)
        if found is None or found.building != built:
            return False
        self._define(replace(found, index=built, building=None))
        state = self.state(number)
        state.applied, state.built = version, 0
        return True

    def begin_building(self, found: Collection) -> Collection:
        """An index of all fields is to be built, beside the one that serves."""
        newest = found.building or found.index
        building = Index(newest.generation + 1, len(found.schema.fields))
        self.state(found.number).built = 0
        return self._define(replace(found, building=building))

    def clear_dropped(self, limit: int) -> bool:
        """Clear away up to `limit` entries of dropped collections; whether there are more."""
        numbers = [key for key, _ in self.at.items(self.tables["dropped"])]
        left = limit
        for number in numbers:
            for name in ("documents", "ids", "removed"):
                table = self.tables[name]
                keys: list[bytes] = []
                for key, _ in self.at.items(table, prefix=number):
                    if len(keys) >= left:
                        break
                    keys.append(key)
                for key in keys:
                    self.at.delete(table, key)
                left -= len(keys)
                if left <= 0:
                    return True
            self._states.pop(U32.unpack(number)[0], None)
            self.at.delete(self.tables["states"], number)
            self.at.delete(self.tables["dropped"], number)
        return False

    def close(self) -> None:
        """Write what the verbs have counted."""
        self.at.put(self.tables["meta"], TOTALS, self._totals.pack())
        for number, state in self._states.items():
            self.at.put(self.tables["states"], U32.pack(number), state.pack())

    # ---------------------------------------------------------------- writing

    def _create(self, name: str, schema: Schema, refresh_every: float) -> Collection:
        if self._count() >= MAX_COLLECTIONS:
            raise InvalidArgument(
                f"{MAX_COLLECTIONS} collections are the most there may be; drop one, or tell "
                "documents apart by a keyword field"
            )
        self._totals.collections += 1
        number = self._totals.collections
        self.at.put(self.tables["collections"], NUMBER + U32.pack(number), name.encode())
        index = Index(1, len(schema.fields))
        return self._define(Collection(name, number, schema, refresh_every, self.now, index))

    def _count(self) -> int:
        return self.at.count(self.tables["collections"]) // 2

    def _extend(self, found: Collection, schema: Schema) -> Collection:
        if len(schema.fields) == len(found.schema.fields):
            return found
        return self.begin_building(replace(found, schema=schema))

    def _define(self, found: Collection) -> Collection:
        self.at.put(self.tables["collections"], NAME + found.name.encode(), found.pack())
        self.state(found.number)
        self._found[found.name] = found
        return found

    def _wanted(
        self, found: Collection | None, documents: Sequence[Given], only_if: str
    ) -> list[int]:
        there: set[bytes] = set()
        wanted: list[int] = []
        for index, one in enumerate(documents):
            exists = one.key in there or (
                found is not None and self.row_of(found.number, one.key) is not None
            )
            if exists == (only_if == "present"):
                wanted.append(index)
                there.add(one.key)
        return wanted

    def _key_at(self, found: Collection, row: int) -> bytes | None:
        """The id of the document in `row`, if that still is the one with that id."""
        document = self.document_at(found, row)
        key = None if document is None else document.id.encode()
        return key if key is not None and self.row_of(found.number, key) == row else None

    def _fields(self, found: Collection, key: bytes) -> dict[str, Any] | None:
        row = self.row_of(found.number, key)
        if row is None:
            return None
        values = fields_of(self.document(found, row), payload.decode)
        values.pop("id", None)
        return values

    def _write(
        self, found: Collection, documents: Sequence[Given], checked: Sequence[Mapping[str, Any]]
    ) -> None:
        if not documents:
            return
        number, at = found.number, self.at
        state = self.state(number)
        fresh = self.fresh[number]
        ids, slots = self.tables["ids"], self.tables["documents"]
        stem = U32.pack(number)
        vectors = [field.name for field in found.schema.vectors]
        version = self._totals.version
        entries = octets = 0
        keys = row_keys(number, range(version + 1, version + 1 + len(documents)))
        for one, values, slot in zip(documents, checked, keys, strict=True):
            version += 1
            name = stem + one.key
            record = _record(one, values, vectors)
            before = at.get(ids, name)
            at.put(ids, name, slot[4:])
            at.put(slots, slot, record)
            if before is None:
                entries += 1
            else:
                self._forget(state, number, version, before)
            octets += len(record)
            fresh.added.append((version, values))
        fresh.octets += octets
        state.entries += entries
        state.octets += octets
        state.version = fresh.until = self._totals.version = version

    def _remove(self, found: Collection, key: bytes) -> int:
        name = U32.pack(found.number) + key
        before = self.at.get(self.tables["ids"], name)
        if before is None:
            return 0
        self._totals.version += 1
        state = self.state(found.number)
        self.at.delete(self.tables["ids"], name)
        self._forget(state, found.number, self._totals.version, before)
        state.entries -= 1
        state.version = self.fresh[found.number].until = self._totals.version
        return 1

    def _forget(self, state: State, number: int, version: int, before: bytes) -> None:
        """The change `version` removes the row `before`."""
        self.at.put(self.tables["removed"], ROW.pack(number, version), before)
        self.fresh[number].removed.append(U64.unpack(before)[0])
        old = self.at.glance(self.tables["documents"], U32.pack(number) + before)
        state.octets -= 0 if old is None else len(old)


def _record(one: Given, values: Mapping[str, Any], vectors: Sequence[str]) -> bytes:
    """A document as it is kept."""
    own = {name: values[name] for name in vectors if name in values}
    if not own:
        return pack_document(one.key, one.body)
    plain = {name: value for name, value in one.values.items() if name not in own}
    return pack_document(one.key, payload.encode({"id": one.id, **plain}), own)


def _checked(schema: Schema, documents: Sequence[Given]) -> tuple[Schema, list[dict[str, Any]]]:
    """The schema with what the documents bring, and their values as they are searched."""
    checked: list[dict[str, Any]] = []
    for one in documents:
        try:
            if not schema.fields.keys() >= one.values.keys():
                schema = schema.extended(schema.inferred(one.values))
            values = schema.checked(one.values)
        except InvalidArgument as error:
            raise InvalidArgument(
                f"document {one.id!r}: {error.message}", data={**error.data, "id": one.id}
            ) from None
        if len(one.body) > MAX_DOCUMENT:
            raise InvalidArgument(
                f"document {one.id!r} packs to {len(one.body):,} octets, the limit is "
                f"{MAX_DOCUMENT:,}: index its parts as documents",
                data={"id": one.id},
            )
        checked.append(values)
    return schema, checked
