"""The search service in a directory: documents in LMDB, and the indexes that are derived from them.

One process writes, every process reads. What lives in the writer's memory alone: the values of
documents on their way to the indexes (after a take-over they are read from the store), and the
indexes that are open for writing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import lmdb

from mesh.errors import CallError, DataCorrupted, MeshError, StoreError
from workers.acts import pack, portions, unpack
from workers.search.asked import Answer
from workers.search.change import SLICE, Change, Fresh
from workers.search.indexing import Indexer
from workers.search.legs import alike
from workers.search.operations import Op
from workers.search.readers import Readers
from workers.search.records import TABLES
from workers.search.searching import Searcher
from workers.search.view import Definitions, Moment
from workers.store import Change as StoreChange
from workers.store import Job, Store, dedup
from workers.store.dedup import Dedup

MAX_SIZE: Final = 1024**4
"""Octets of documents; the file takes what its content needs, and the disk sets the limit."""
GROUP: Final = 16 * 1024 * 1024
"""Octets of documents in one transaction; its pages wait in memory until the commit."""
INDEXES: Final = "indexes"
TICK_EVERY: Final = 1.0
RELEASES: Final = frozenset(("delete", "delete_rows", "drop"))
SEARCHES: Final = frozenset(("query", "similar", "count", "rows", "suggest"))

log = logging.getLogger("workers.search")


class SearchEngine:
    """The store in a directory. `clock` gives Unix time in milliseconds."""

    def __init__(
        self,
        path: Path,
        *,
        max_size: int = MAX_SIZE,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._clock = clock
        self._store = Store.open(
            path, service="search", tables={**TABLES, **dedup.TABLES}, max_size=max_size
        )
        self._tables = {name: self._store.tables[name] for name in TABLES}
        self._definitions = Definitions()
        directory = self._store.path / INDEXES
        directory.mkdir(mode=0o700, exist_ok=True)
        self._readers = Readers(directory)
        self._searcher = Searcher(self._readers, self._moment)
        # The rest belongs to the process that writes.
        self._writing = threading.RLock()
        self._turn = threading.Lock()
        """For who writes documents, and who applies them to an index: see `DerivedIndex.apply`."""
        self._dedup: Dedup | None = None
        self._indexer = Indexer(
            self._store, self._tables, Definitions(), directory, self._commit, time.monotonic,
            self._turn,
        )  # fmt: skip
        self._wake = threading.Event()
        self._ending = False
        self._dropped = False
        self._thread: threading.Thread | None = None

    @property
    def store(self) -> Store:
        """The shared store below."""
        return self._store

    @property
    def indexer(self) -> Indexer:
        """What keeps the indexes up to date, while this process writes."""
        return self._indexer

    def identity(self) -> dict[str, Any]:
        """The store's uuid and epoch."""
        return {"uuid": str(self._store.uuid), "epoch": self._store.epoch}

    def stand(self, gained: Callable[[int], None], lost: Callable[[Exception], None]) -> None:
        """Stand for writer; see `Store.elect`."""

        def begin(epoch: int) -> None:
            with self._writing:
                self._dedup = Dedup(self._store.tables)
            self._indexer.begin()
            self._thread = threading.Thread(target=self._work, name="search-index", daemon=True)
            self._thread.start()
            gained(epoch)

        self._store.elect(begin, lost)

    def close(self) -> None:
        """Bring the indexes up to date, hand over, and close the store."""
        self._ending = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._indexer.close()
        self._readers.close()
        self._store.close()

    # ---------------------------------------------------------------- reading

    def read(self, ops: Sequence[Op]) -> list[Any]:
        """Run operations that only read, in any process."""
        known = self._searched_together(ops) if len(ops) > 1 else {}
        return [known[at] if at in known else self._read(op) for at, op in enumerate(ops)]

    def _searched_together(self, ops: Sequence[Op]) -> dict[int, Answer]:
        """Answers to queries for vectors, by their places, as far as some can be searched at once.

        What fails is left: it fails again when it is run alone, with an error of its own.
        """
        groups: dict[Any, list[int]] = {}
        for at, op in enumerate(ops):
            if op.verb == "query" and (kind := alike(op.arguments["query"])) is not None:
                groups.setdefault((op.collection, *kind), []).append(at)
        found: dict[int, Answer] = {}
        for (collection, *_), places in groups.items():
            if len(places) == 1:
                continue
            with suppress(Exception):
                answers = self._searcher.nearest(
                    collection, [ops[at].arguments["query"] for at in places]
                )
                found.update(zip(places, answers, strict=False))
        return found

    def _read(self, op: Op) -> Any:
        try:
            if op.verb in SEARCHES:
                return getattr(self._searcher, op.verb)(op.collection, **op.arguments)
            with self._moment() as view:
                return getattr(view, op.verb)(op.collection, **op.arguments)
        except CallError as error:
            return error
        except lmdb.Error as error:
            return DataCorrupted(f"the store is damaged ({error}); restore a backup")
        except Exception as error:  # is that of this call, not of those that came with it
            return error

    def _moment(self) -> Moment:
        return Moment(self._store.view(), self._tables, self._definitions)

    # ---------------------------------------------------------------- writing

    def execute(self, ops: Sequence[Op]) -> list[Any]:
        """Run operations that write; only in the process that does."""
        results: list[Any] = []
        for group in portions(ops, GROUP):
            results += self._execute(group)
        waited = [{part.collection for part in op.parts() if part.wait} for op in ops]
        unseen: dict[str, Exception] = {}
        for name in set().union(*waited):
            try:
                self.refresh(name)
            except Exception as error:
                unseen[name] = _unseen(error)
        self._wake.set()
        if not unseen:
            return results
        return [
            result if isinstance(result, Exception) or not names & unseen.keys()
            else unseen[min(names & unseen.keys())]
            for result, names in zip(results, waited, strict=True)
        ]  # fmt: skip

    def refresh(self, collection: str) -> None:
        """Have searches see what was written to a collection until now."""
        with self._moment() as view:
            found = view.find(collection)
        if found is not None:
            self._indexer.refresh(found.number)

    def _execute(self, ops: Sequence[Op]) -> list[Any]:
        fresh: dict[int, Fresh] = {}

        def run(change: Change) -> list[Any]:
            nonlocal fresh
            results = [self._run(change, op) for op in ops]
            fresh = change.fresh
            return results

        try:
            releases = all(part.verb in RELEASES for op in ops for part in op.parts())
            results: list[Any] = self._commit(run, releases=releases)
        except Exception as error:  # they are one transaction; other groups are not harmed
            return [error] * len(ops)
        self._indexer.note(fresh)
        return results

    def _commit(self, run: Callable[[Change], Any], *, releases: bool = True) -> Any:
        """The result of `run` in a transaction, once it is on disk.

        Raises:
            StoreError: it was not committed.
        """
        definitions = Definitions()  # what a transaction has seen may not come to be

        def within(at: StoreChange) -> Any:
            with self._turn:
                change = Change(at, self._tables, definitions, self._clock())
                result = run(change)
                change.close()
            return result

        with self._writing:
            (outcome,) = self._store.execute([Job(within, releases=releases)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _run(self, change: Change, op: Op) -> Any:
        """The result of one operation, or of its first run; a CallError in its place."""
        records = self._dedup
        if op.call is None or records is None:
            return _run_parts(change, op)
        results: list[Any] = []

        def run(_: StoreChange) -> bytes:
            results.append(_run_parts(change, op))
            if isinstance(results[0], CallError):
                raise results[0]  # a request that failed is not remembered
            return pack(results[0])

        session, sequence, content = op.call
        try:
            packed = records.once(
                change.at, run, session=session, sequence=sequence, content=content
            )
        except CallError as error:
            return error
        return results[0] if results else unpack(packed)

    # ---------------------------------------------------------------- from time to time

    def _work(self) -> None:
        """Keep the indexes up to date, and clear up, while this process writes."""
        while not self._ending and self._store.writing:
            wait: float | None = TICK_EVERY
            try:
                wait = self._indexer.work()
                if self._clear():
                    wait = 0.0
            except MeshError as error:
                if self._store.writing:
                    log.warning("indexes are not up to date, it is tried again: %s", error)
                wait = TICK_EVERY
            except Exception:
                if self._store.writing:
                    log.exception("the indexes could not be brought up to date; it is tried again")
                wait = TICK_EVERY
            self._wake.wait(TICK_EVERY if wait is None else min(wait, TICK_EVERY))
            self._wake.clear()

    def _clear(self) -> bool:
        """Clear up a slice; whether there is more, for which searches need not wait."""
        job = None if self._dedup is None else self._dedup.housekeeping()
        if job is not None:
            with self._store.view() as at:
                self._dropped = at.count(self._tables["dropped"]) > 0
            with self._writing:
                self._store.execute([job])
        if self._dropped:
            self._dropped = self._commit(lambda change: change.clear_dropped(SLICE))
        return self._dropped


def _unseen(error: Exception) -> Exception:
    """Of those who wait until searches see what they wrote, which is done."""
    if not isinstance(error, StoreError):
        return error
    # A new one: the traceback of this one holds on to what is to be opened anew.
    return type(error)(
        f"it is written, but searches do not see it yet: {error.message}",
        retry_after=error.retry_after,
        maybe_executed=True,
    )


def _run_parts(change: Change, op: Op) -> Any:
    if op.verb != "many":
        return _changed(change, op)
    return [_changed(change, part) for part in op.parts()]


def _changed(change: Change, op: Op) -> Any:
    try:
        return getattr(change, op.verb)(op.collection, **op.arguments)
    except CallError as error:
        return error
