"""The writer's side of the derived indexes: what was written to the store is applied to them.

`note` says what was written. `refresh` brings the index of a collection up to date, puts it on disk
and publishes how far it is; `work` does that for all whose time has come. It applies before that
what has come in large numbers, so that little is left to do when the time comes, and builds a slice
of an index that is to take the place of another one. Nothing here is lost by a crash: what is not
known to be applied is applied again.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from mesh.errors import CallError, StoreBusy
from mesh.protocol import payload
from workers.search.change import Change, Fresh
from workers.search.derived import DAMAGED, IndexDamaged, index_path, undamaged
from workers.search.fresh import SLICE, FreshValues, Portion, stored
from workers.search.generation import DerivedIndex
from workers.search.records import Collection, Index, State, fields_of, read_document
from workers.search.schema import Schema
from workers.search.view import Definitions, Tables, View
from workers.store import Store

AHEAD: Final = 500
"""Documents of a collection that are applied before its time has come."""
UNPUBLISHED: Final = 64 * 1024 * 1024
"""Octets of documents that are applied until the index is put on disk: a crash costs that much."""
PUBLISH_EVERY: Final = 2.0
"""Seconds for which an index that is behind is not put on disk."""
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
        turn: AbstractContextManager[Any],
    ) -> None:
        self._store = store
        self._tables = tables
        self._definitions = definitions
        self._directory = directory
        self._commit = commit
        self._clock = clock
        self._turn = turn
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

    def note(self, fresh: Mapping[int, Fresh]) -> None:
        """These collections have changed. Never waits for an index."""
        self._fresh.add(fresh)

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

    def work(self) -> float | None:
        """Do what is due, a portion of it; seconds until there is more to do, None: nothing."""
        with self._lock:
            self._mark()
            now = self._clock()
            for number in [number for number, at in self._due.items() if at <= now]:
                self.refresh(number)
            for number in list(self._building):
                self._build(number)
            ahead = [number for number in self._due if self._go_ahead(number)]
            self._heal()
            self._clear(now)
            if self._building or ahead:
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
        changed = self._fresh.touched() - self._due.keys()
        self._due |= dict.fromkeys(changed, now)  # unless more is known: looking may fail
        for number in changed:
            found, _ = self._look(number)
            if found is not None:
                self._due[number] = now + found.refresh_every

    # ---------------------------------------------------------------- one index

    def _refresh(self, number: int) -> None:
        found, state = self._look(number)
        if found is None:
            self._forget(number)
            return
        if found.building is not None:
            self._building.add(number)
            if state.entries <= SMALL:
                while self._build(number):
                    pass
                return
        try:
            while self._advance(found, found.index, state.version):
                pass
            self._publish(found, found.index)
        except IndexDamaged as error:
            self._replace(found, error)
        self.refreshes += 1

    def _go_ahead(self, number: int) -> bool:
        """Apply a portion to an index that is not due yet, if there is much; whether there was."""
        if self._fresh.waiting(number) < AHEAD:
            return False
        found, state = self._look(number)
        if found is None or found.building is not None:
            return False
        try:
            self._advance(found, found.index, state.version)
        except IndexDamaged as error:
            self._replace(found, error)
        return True

    def _advance(
        self, found: Collection, index: Index, until: int, *, building: bool = False
    ) -> bool:
        """Apply a portion of what is new to `index`; whether more is left up to `until`."""
        reached = self._reached(found, index, building)
        if reached >= until:
            if not building:  # what is told of late was in the store already
                self._fresh.passed(found.number, reached)
            return False
        portion = None if building else self._fresh.take(found.number, reached, SLICE)
        if portion is None:
            portion = self._stored(found, index, reached)
        now = self._clock()
        with self._writes(found.number):
            derived = self._derived(found, index, reached, building)
            derived.apply(portion, now, self._turn)
        behind = 0.0 if derived.behind_since is None else now - derived.behind_since
        if behind >= PUBLISH_EVERY or derived.unpublished >= UNPUBLISHED:
            self._publish(found, index, building=building)
        return derived.reached < until

    def _publish(self, found: Collection, index: Index, *, building: bool = False) -> None:
        """Put on disk what was applied to `index`, and say how far it is."""
        number = found.number
        derived = self._open.get((number, index.generation))
        if derived is None or derived.reached <= self._published(number, building):
            return
        reached = derived.reached
        with self._writes(number):
            derived.commit()
        built = index if building else None  # by now another one may be wanted
        self._commit(lambda change: change.applied(number, reached, built))
        if not building:
            self._uncleared[number] = self._clock() + CLEAR_AFTER

    @contextmanager
    def _writes(self, number: int) -> Iterator[None]:
        """Something is written to an index: after an error it is opened anew."""
        try:
            yield
        except Exception as error:
            self._drop_open(number)  # nobody knows what it holds
            if isinstance(error, OSError):
                raise (undamaged(self._directory, error) or error) from None
            raise

    def _stored(self, found: Collection, index: Index, after: int) -> Portion:
        """What follows upon the version `after`, from the store."""
        schema = found.indexed(index)
        with self._store.view() as at:
            portion, rows = stored(self._view(at), found.number, after)
        gone = set(portion.removed)
        for row, record in rows:
            values = None if row in gone else self._values(schema, row, record)
            if values is not None:
                portion.added.append((row, values))
        return portion

    def _values(self, schema: Schema, row: int, record: bytes | None) -> dict[str, Any] | None:
        try:
            if record is not None:
                return schema.fitting(fields_of(read_document(record), payload.decode))
            log.error("document %d is damaged: searches do not find it", row)
        except (CallError, ValueError) as error:
            log.error("document %d cannot be indexed: %s", row, error)
        self.damaged += 1
        return None

    def _reached(self, found: Collection, index: Index, building: bool) -> int:
        """The version up to which `index` has all, if not on disk."""
        derived = self._open.get((found.number, index.generation))
        return self._published(found.number, building) if derived is None else derived.reached

    def _published(self, number: int, building: bool) -> int:
        _, state = self._look(number)
        return state.built if building else state.applied

    def _derived(
        self, found: Collection, index: Index, reached: int, building: bool
    ) -> DerivedIndex:
        """An index, opened if it is not."""
        key = (found.number, index.generation)
        derived = self._open.get(key)
        if derived is None:
            while len(self._open) >= MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            path = index_path(self._directory, found.number, index)
            if reached and not path.is_dir():
                raise IndexDamaged(f"{path.name} is missing")
            # For a load two threads are no quicker, and leave twice as many parts to be searched.
            derived = self._open[key] = DerivedIndex(path, found.indexed(index), reached, building)
        return derived

    # ---------------------------------------------------------------- building

    def _build(self, number: int) -> bool:
        """Build a slice of the new index of a collection; whether there is more."""
        found, state = self._look(number)
        building = None if found is None else found.building
        if found is None or building is None:
            self._building.discard(number)
            return False
        try:
            if self._advance(found, building, state.version, building=True):
                return True
            self._publish(found, building, building=True)
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
            self._due.pop(number, None)
            self._fresh.passed(number, self._published(number, building=False))
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
                derived = self._open.get((number, found.index.generation))
                if derived is not None and derived.many and derived.behind_since is None:
                    self._drop_open(number)

    def _sweep(self) -> None:
        """Close and remove the indexes that no collection has any more."""
        wanted, paths = set(), set()
        for number in self._numbers():
            found, _ = self._look(number)
            for index in () if found is None else (found.index, found.building):
                if index is not None:
                    wanted.add((number, index.generation))
                    paths.add(index_path(self._directory, number, index))
        for key in self._open.keys() - wanted:
            self._open.pop(key).close()
        for path in self._directory.iterdir() if self._directory.is_dir() else ():
            if path not in paths:
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

    def _look(self, number: int) -> tuple[Collection | None, State]:
        """A collection and how it stands."""
        with self._store.view() as at:
            view = self._view(at)
            return view.numbered(number), view.state(number)

    def _view(self, at: Any) -> View:
        return View(at, self._tables, self._definitions)


def _clear_removed(number: int, change: Change) -> None:
    change.clear_removed(number, change.state(number).applied)
