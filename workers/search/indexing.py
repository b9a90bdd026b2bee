"""The writer's side of the derived indexes: what was written to the store is applied to them.

`note` says what was written. `refresh` brings the index of a collection up to date, puts it on disk
and publishes how far it is; `work` does that for all whose time has come, and builds a slice of an
index that is to take the place of another one. Nothing here is lost by a crash: what is not known
to be applied is applied again.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from mesh.errors import CallError, StoreBusy
from mesh.protocol import payload
from workers.search.change import Change, Fresh
from workers.search.derived import DAMAGED, IndexDamaged, index_path, undamaged, vector_path
from workers.search.fresh import FreshValues
from workers.search.records import Collection, Index, fields_of, read_document
from workers.search.schema import Schema
from workers.search.text.index import TextWriter
from workers.search.vectors.index import VectorWriter
from workers.search.view import Definitions, Tables, View
from workers.store import Store

SLICE: Final = 2000
"""Documents that are applied at a time."""
SLICE_OCTETS: Final = 16 * 1024 * 1024
SMALL: Final = 10_000
"""Documents up to which an index is built at once, by whoever waits for it."""
MOST_OPEN: Final = 16
"""Indexes that are kept open for writing: each has threads and buffers of its own."""
CLEAR_AFTER: Final = 5.0
"""Seconds after the last refresh until the rows that it removed are cleared away."""
RETRY_AFTER: Final = 1.0
"""Seconds until what failed (a full disk) is tried again."""

Commit = Callable[[Callable[[Change], Any]], Any]
"""Runs a function in a transaction of the store; its result once it is on disk."""

log = logging.getLogger("workers.search")


class DerivedIndex:
    """The index of one generation, open for writing."""

    def __init__(self, path: Path, schema: Schema) -> None:
        """Open or make it. Raises IndexDamaged."""
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fields = schema.fields
        self._text = TextWriter(path / "text", schema)
        self._vectors: dict[str, VectorWriter] = {}
        try:
            for field in schema.vectors:
                place = vector_path(path, schema, field.name)
                self._vectors[field.name] = VectorWriter(place, field)
        except BaseException:
            self.close()
            raise

    def apply(self, removed: list[int], added: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Bring in rows with their checked values, and take others out."""
        texts: list[tuple[int, dict[str, Any]]] = []
        vectors: dict[str, list[tuple[int, bytes]]] = {name: [] for name in self._vectors}
        known = self._fields
        for row, values in added:
            plain: dict[str, Any] = {}
            for name, value in values.items():
                if name in vectors:
                    vectors[name].append((row, value))
                elif name in known:
                    plain[name] = value
            texts.append((row, plain))
        self._text.apply(removed, texts)
        for name, writer in self._vectors.items():
            writer.apply(removed, vectors[name])

    def commit(self) -> None:
        """Put on disk what was applied, for readers to see."""
        self._text.commit()
        for writer in self._vectors.values():
            writer.commit()

    def close(self) -> None:
        """Give the files back; what was not committed is forgotten."""
        self._text.close()
        for writer in self._vectors.values():
            writer.close()


class Indexer:
    """All indexes of a store, in the process that writes. `clock`: seconds, monotonic."""

    def __init__(
        self,
        store: Store,
        tables: Tables,
        definitions: Definitions,
        directory: Path,
        commit: Commit,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._tables = tables
        self._definitions = definitions
        self._directory = directory
        self._commit = commit
        self._clock = clock
        self._lock = threading.RLock()
        self._open: dict[tuple[int, int], DerivedIndex] = {}
        self._fresh = FreshValues()
        self._due: dict[int, float] = {}
        self._uncleared: dict[int, float] = {}
        self._building: set[int] = set()
        self.refreshes = 0
        self.damaged = 0

    def begin(self) -> None:
        """The term of this writer begins: look at every collection."""
        with self._lock:
            self._close_all()
            now = self._clock()
            for number in self._numbers():
                self._due[number] = now
            self._sweep()

    def note(self, fresh: Iterable[Fresh], touched: Iterable[int]) -> None:
        """Documents were written, and something has changed in the collections `touched`.

        Never waits for an index.
        """
        self._fresh.add(fresh, touched)

    def refresh(self, number: int) -> None:
        """Have searches see all that was written to a collection until now.

        Fields that are new to a large collection are seen later, when its index is built.
        """
        with self._lock:
            self._due.pop(number, None)
            try:
                self._refresh(number)
            except Exception:
                self._due[number] = self._clock() + RETRY_AFTER
                raise

    def _refresh(self, number: int) -> None:
        found, entries = self._look(number)
        if found is None:
            self._forget(number)
            return
        if found.building is not None:
            self._building.add(number)
            if entries <= SMALL:
                while self._build(number):
                    pass
                return
        try:
            while self._step(found, found.index, building=False):
                pass
        except IndexDamaged as error:
            self._replace(found, error)
        self.refreshes += 1

    def work(self) -> float | None:
        """Do what is due, a portion of it; seconds until there is more to do, None: nothing."""
        with self._lock:
            self._mark()
            now = self._clock()
            for number in [number for number, at in self._due.items() if at <= now]:
                self.refresh(number)
            for number in list(self._building):
                self._build(number)
            self._heal()
            self._clear(now)
            if self._building:
                return 0.0
            times = (*self._due.values(), *self._uncleared.values())
            return max(0.0, min(times) - self._clock()) if times else None

    def close(self) -> None:
        """Give all files back."""
        with self._lock:
            self._close_all()

    def _mark(self) -> None:
        """Say when those collections are due in which something has changed."""
        now = self._clock()
        for number in self._fresh.touched():
            if number not in self._due:
                found, _ = self._look(number)
                self._due[number] = now + (0.0 if found is None else found.refresh_every)

    # ---------------------------------------------------------------- one index

    def _step(self, found: Collection, index: Index, *, building: bool) -> bool:
        """Apply a slice of what is new to `index` and publish it; whether there is more."""
        number = found.number
        with self._store.view() as at:
            view = self._view(at)
            state = view.state(number)
            applied = state.built if building else state.applied
            if applied >= state.version:
                return False
            rows, reached = self._rows(view, number, applied, state.version)
            removed = [
                row for version, row in view.removed_after(number, applied) if version <= reached
            ]
        gone = set(removed)
        schema = found.indexed(index)
        fresh = {} if building else self._fresh.take(number, reached)
        added: list[tuple[int, Mapping[str, Any]]] = []
        for row, record in rows:
            if row not in gone:
                values = fresh.get(row) or self._values(schema, row, record)
                if values is not None:
                    added.append((row, values))
        try:
            derived = self._derived(found, index, applied)
            derived.apply(removed, added)
            derived.commit()
        except Exception as error:
            self._drop_open(number)  # nobody knows what it holds: it is opened anew
            if isinstance(error, OSError):
                raise (undamaged(self._directory, error) or error) from None
            raise
        built = index if building else None  # by now another one may be wanted
        self._commit(lambda change: change.applied(number, reached, built))
        if not building:
            self._uncleared[number] = self._clock() + CLEAR_AFTER
        return reached < state.version

    def _rows(
        self, view: View, number: int, applied: int, version: int
    ) -> tuple[list[tuple[int, bytes | None]], int]:
        """The next rows to be applied, and the version that they reach."""
        rows: list[tuple[int, bytes | None]] = []
        octets = 0
        for row, record in view.documents_after(number, applied):
            if len(rows) >= SLICE or octets > SLICE_OCTETS:
                return rows, rows[-1][0]
            rows.append((row, record))
            octets += 0 if record is None else len(record)
        return rows, version

    def _values(self, schema: Schema, row: int, record: bytes | None) -> dict[str, Any] | None:
        try:
            if record is not None:
                return schema.fitting(fields_of(read_document(record), payload.decode))
            log.error("document %d is damaged: searches do not find it", row)
        except (CallError, ValueError) as error:
            log.error("document %d cannot be indexed: %s", row, error)
        self.damaged += 1
        return None

    def _derived(self, found: Collection, index: Index, applied: int) -> DerivedIndex:
        key = (found.number, index.generation)
        derived = self._open.get(key)
        if derived is None:
            while len(self._open) >= MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            path = index_path(self._directory, found.number, index)
            if applied and not path.is_dir():
                raise IndexDamaged(f"{path.name} is missing")
            derived = self._open[key] = DerivedIndex(path, found.indexed(index))
        return derived

    # ---------------------------------------------------------------- building

    def _build(self, number: int) -> bool:
        """Build a slice of the new index of a collection; whether there is more."""
        found, _ = self._look(number)
        building = None if found is None else found.building
        if found is None or building is None:
            self._building.discard(number)
            return False
        try:
            if self._step(found, building, building=True):
                return True
            self._switch(found, building)
        except IndexDamaged as error:
            self._replace(found, error)
            raise StoreBusy(
                f"a new index of collection {found.name!r} is damaged: it is begun once more",
                retry_after=RETRY_AFTER,
            ) from error
        return number in self._building

    def _switch(self, found: Collection, building: Index) -> None:
        number = found.number

        def switch(change: Change) -> bool:
            state = change.state(number)
            if state.built < state.version:
                return False  # something was written meanwhile
            return change.switch(number, building, state.built)

        if self._commit(switch):
            self._building.discard(number)
            old = self._open.pop((number, found.index.generation), None)
            if old is not None:
                old.close()
            self._due.pop(number, None)
            self._uncleared[number] = self._clock() + CLEAR_AFTER
            self._sweep()

    def _replace(self, found: Collection, error: IndexDamaged) -> None:
        """Have an index built in the place of one that cannot be used."""
        log.error(
            "the index of collection %r cannot be used (%s): it is built anew from its documents",
            found.name, error,
        )  # fmt: skip

        def begin(change: Change) -> None:
            current = change.find(found.name)
            if current is not None and current.number == found.number:
                change.begin_building(current)

        self._drop_open(found.number)
        self._commit(begin)
        self._building.add(found.number)

    def _heal(self) -> None:
        """Replace those indexes that a reader, of any process, could not use."""
        for mark in list(self._directory.glob(f"*{DAMAGED}")):
            mark.unlink(missing_ok=True)
            name = mark.name.removesuffix(DAMAGED)
            found, _ = self._look(int(name.partition("-")[0]))
            if found is not None:
                current = index_path(self._directory, found.number, found.index)
                if current.name == name and found.building is None:
                    self._replace(found, IndexDamaged("a reader could not use it"))

    # ---------------------------------------------------------------- what is left behind

    def _clear(self, now: float) -> None:
        for number in [number for number, at in self._uncleared.items() if at <= now]:
            del self._uncleared[number]
            found, _ = self._look(number)
            if found is not None and found.building is None:
                self._commit(partial(_clear_removed, number))

    def _sweep(self) -> None:
        """Remove the folders of indexes that no collection has any more."""
        wanted = set()
        for number in self._numbers():
            found, _ = self._look(number)
            for index in () if found is None else (found.index, found.building):
                if index is not None:
                    wanted.add(index_path(self._directory, number, index))
        for path in self._directory.iterdir() if self._directory.is_dir() else ():
            if path not in wanted:
                shutil.rmtree(path, ignore_errors=True)

    def _forget(self, number: int) -> None:
        """A collection was dropped."""
        self._drop_open(number)
        self._fresh.forget(number)
        self._building.discard(number)
        self._uncleared.pop(number, None)
        self._sweep()

    def _drop_open(self, number: int) -> None:
        for key in [key for key in self._open if key[0] == number]:
            self._open.pop(key).close()

    def _close_all(self) -> None:
        for derived in self._open.values():
            derived.close()
        self._open.clear()
        self._fresh.clear()
        self._due.clear()
        self._building.clear()
        self._uncleared.clear()

    def _numbers(self) -> list[int]:
        with self._store.view() as at:
            view = self._view(at)
            found = [view.find(name) for name in view.names()]
        return [one.number for one in found if one is not None]

    def _look(self, number: int) -> tuple[Collection | None, int]:
        """A collection and how many documents it has."""
        with self._store.view() as at:
            view = self._view(at)
            return view.numbered(number), view.state(number).entries

    def _view(self, at: Any) -> View:
        return View(at, self._tables, self._definitions)


def _clear_removed(number: int, change: Change) -> None:
    change.clear_removed(number, change.state(number).applied)
