"""A store in LMDB: one process writes, every process reads.

**Durability.** What `execute` has returned for a namespace that is not `relaxed` is on disk. A
write to a relaxed namespace is kept in the writer's memory, over the store, and written with the
next durable commit, or at the latest with the next `tick` a second later. A crash of the writer, or
of the machine, loses those writes of the last second, whole and in order: what is found afterwards
is the state of one moment. Only the writer sees them before, so relaxed namespaces are read there.

**Take-over.** What lives in the writer's memory alone: the eviction policy (filled anew, see
`cache`), counters of `stats` (begin at 0), those who watch (their streams end with an error that
says so). Locks and reservations are in the store.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mesh.errors import (
    DataCorrupted,
    InvalidArgument,
    StoreBusy,
    StoreError,
    StoreFull,
)
from mesh.protocol.memory import MAX_VALUE
from workers.acts import portions
from workers.memory import hits
from workers.memory.backend import READS, Capabilities, Op, Watch
from workers.memory.backends.lmdbtables import NAMES, LmdbTables
from workers.memory.cache import Cache
from workers.memory.operations import verbs_in
from workers.memory.records import DAMAGED, read_entry
from workers.memory.repeats import Recent, Recorded
from workers.memory.running import COUNTED, Ran, Tally, run_changes, run_reads
from workers.memory.statistics import Statistics
from workers.memory.tables import ENTRIES, OverlayTables, Tables
from workers.memory.view import View
from workers.store import Change as StoreChange
from workers.store import Job, Store, dedup
from workers.store.dedup import Dedup

# Octets of values in one transaction; its pages wait in memory until the commit.
GROUP = 2 * MAX_VALUE
RELAXED_TTL = 1.0
# A token that was given once must never be given again, whatever becomes of the lock.
ALWAYS_DURABLE = frozenset(("configure", "lock"))
MAX_OVERLAY = 16 * 1024 * 1024
# More versions than a crash can take: each takes some octets of the overlay.
LOST_VERSIONS = 2**20
ADOPT = 5000
TIDY_MANY = 1000
SEND_EVERY = 0.25
# The socket holds what a reader sends meanwhile.
HEAR_EVERY = 0.01
# How much is written from one look at the pages that are really in use to the next. A commit of
# next to nothing counts as a sixteenth of it.
OBSERVE_AFTER = 256 * 1024


class LmdbBackend:
    """The store. `clock` gives Unix time in milliseconds, `monotonic` seconds that only pass."""

    name = "lmdb"

    def __init__(
        self,
        path: Path,
        cache_size: int,
        eviction: str = "s3-fifo",
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._eviction = eviction
        self._cache_size = cache_size
        self.cache = Cache(eviction, cache_size)
        # Pages are not reused before two more commits: a file is somewhat larger than its content.
        self._store = Store.open(
            path,
            service="memory",
            tables={**NAMES, **dedup.TABLES},
            max_size=cache_size * 3 // 2 + 256 * 1024 * 1024,
        )
        self._handles = [self._store.tables[name] for name in NAMES]
        self.capabilities = Capabilities(
            durable=True, relaxed=True, repeats=True, shared=True, evicts=True
        )
        self._report: Watch = lambda events: None
        self._statistics = Statistics()
        self._sender = hits.Sender(self._store.path)
        self._receiver: hits.Receiver | None = None
        self._tally = Tally(hits.MOST)
        self._sent_at = 0.0
        self._known: tuple[int, View | None] = (-1, None)
        # Everything below belongs to the writer, under this lock.
        self._writing = threading.RLock()
        self._overlay: OverlayTables | None = None
        self._flush_at = 0.0
        self._relaxed: set[str] = set()
        self._above = 0
        self._adopted: bytes | None = None
        self._dedup: Dedup | None = None
        self._committed = False
        self._unobserved = OBSERVE_AFTER
        self._heard_at = 0.0
        self._recent = Recent()
        # Read on the I/O thread, emptied by whoever writes.
        self._tallying = threading.Lock()

    # ---------------------------------------------------------------- who writes

    @property
    def store(self) -> Store:
        """The shared store below."""
        return self._store

    def identity(self) -> dict[str, Any]:
        """The store's uuid and epoch."""
        return {"uuid": str(self._store.uuid), "epoch": self._store.epoch}

    def stand(self, gained: Callable[[int], None], lost: Callable[[Exception], None]) -> None:
        """Stand for writer; see `Store.elect`."""

        def begin(epoch: int) -> None:
            with self._writing:
                self.cache = Cache(self._eviction, self._cache_size)
                self._statistics = Statistics()
                self._receiver = hits.Receiver(self._store.path)
                self._overlay = None
                self._adopted = b""
                self._dedup = Dedup(self._store.tables)
                self._recent = Recent()
                self._learn_relaxed()
                if self._relaxed:
                    with self._reading() as tables:
                        self._above = View(tables, 0).totals().version + LOST_VERSIONS
            gained(epoch)

        self._store.elect(begin, lost)

    def resign(self) -> None:
        """Write what is relaxed, and hand over to another process."""
        with self._writing:
            self._flush()
        self._store.resign()
        with self._writing:
            if self._receiver is not None:
                self._receiver.close()
                self._receiver = None

    def now(self) -> int:
        """Unix time in ms."""
        return self._clock()

    # ---------------------------------------------------------------- reading

    def read(self, ops: Sequence[Op]) -> list[Any]:
        """Run operations that only read, in any process."""
        with self._store.view() as found:
            number = found.raw.id()
            known = self._known[1] if self._known[0] == number else None
            tables = LmdbTables(found, self._handles)
            results, view = run_reads(tables, ops, self._clock(), known)
            self._known = (number, view)
            for index, op in enumerate(ops):
                space = view.space(op.ns)
                if space is not None and space.relaxed:
                    results[index] = InvalidArgument(
                        f"namespace {op.ns!r} is relaxed: only the writer knows its last second; "
                        f"call memory.at_writer({op.verb!r}, ...) instead",
                        data={"lane": "writer"},
                    )
            with self._tallying:
                self._tally.note(view, ops, results)
        now = time.monotonic()
        if len(self._tally.slots) >= hits.MOST or now - self._sent_at > SEND_EVERY:
            self._sent_at = now
            self._sender.send(self._take_tally())
        return results

    def _take_tally(self) -> Tally:
        with self._tallying:
            tally, self._tally = self._tally, Tally(hits.MOST)
            return tally

    # ---------------------------------------------------------------- writing

    def execute(self, ops: Sequence[Op]) -> list[Any]:
        """Run any operations; only in the process that writes."""
        results: list[Any] = []
        with self._writing:
            stats = "stats" in verbs_in(ops)
            self._hear(stats)
            for group in portions(ops, GROUP):
                results += self._execute(group)
            return self._statistics.complete(ops, results, self.cache) if stats else results

    def _execute(self, ops: Sequence[Op]) -> list[Any]:
        if not self._store.writing:
            busy = StoreBusy("this process does not write the store", retry_after=0.05)
            return [busy] * len(ops)
        if not self._durable(ops):
            return self._execute_relaxed(ops)
        outcome = self._commit(ops, TIDY_FEW)
        if isinstance(outcome, Ran):
            return outcome.results
        if isinstance(outcome, StoreFull) and len(ops) > 1:
            return [result for op in ops for result in self._execute([op])]
        return [outcome] * len(ops)

    def _durable(self, ops: Sequence[Op]) -> bool:
        return any(
            op.verb not in READS and (op.verb in ALWAYS_DURABLE or op.ns not in self._relaxed)
            for whole in ops
            for op in whole.parts()
        )

    def _learn_relaxed(self) -> None:
        """Which namespaces are relaxed: nobody else can change it meanwhile."""
        with self._reading() as tables:
            spaces = View(tables, 0).spaces()
        self._relaxed = {space.name for space in spaces if space.relaxed}

    def _execute_relaxed(self, ops: Sequence[Op]) -> list[Any]:
        """Run operations over what is not on disk yet, and leave it there."""
        if self._overlay and self._overlay.octets > MAX_OVERLAY:
            error = self._flush()
            if error is not None:  # a full disk: no more is acknowledged than can be lost
                return [error] * len(ops)
        with self._reading(overlay=True) as tables:
            self.cache.refill = lambda: self._adopt(tables)
            ran = run_changes(tables, ops, self._clock(), self.cache, self._recent, 0, self._above)
            self._note(ran, ops, tables)
        if self._overlay and not self._flush_at:
            self._flush_at = self._monotonic() + RELAXED_TTL
        return ran.results

    def _commit(self, ops: Sequence[Op], tidy: int) -> Ran | Exception:
        """Write what is relaxed, then run `ops`: one transaction. What kept it from that, if so."""
        now = self._clock()
        found: Ran | None = None
        overlay, records = self._overlay, self._dedup

        def run(change: StoreChange) -> None:
            nonlocal found
            tables = LmdbTables(change, self._handles)
            if overlay:
                overlay.pour(tables)
            self.cache.refill = lambda: self._adopt(tables)
            known = None if records is None else Recorded(records, change, self._recent)
            found = run_changes(tables, ops, now, self.cache, known, tidy, self._above)
            self._unobserved += OBSERVE_AFTER // 16 + change.written
            if self._unobserved > min(OBSERVE_AFTER, self._cache_size // 64):
                self._unobserved = 0
                disk = sum([change.size(handle) for handle in self._handles])
                self.cache.observe(found.totals.octets, found.totals.entries, disk)

        releases = not any(op.grows() for op in ops)
        (outcome,) = self._store.execute([Job(run, releases=releases)])
        if isinstance(outcome, Exception) or found is None:
            self.cache.undo()
            return outcome or StoreError("the writer did not run what it was given")
        if overlay:
            overlay.clear()
        self._flush_at = 0.0
        self._committed = True
        if "configure" in verbs_in(ops):
            self._learn_relaxed()
        if self._relaxed:
            self._remember_relaxed(ops, found.results)
        with self._reading() as tables:
            self._note(found, ops, tables)
        return found

    def _remember_relaxed(self, ops: Sequence[Op], results: Sequence[Any]) -> None:
        """A repetition may come alone, and then be kept from the disk and its records."""
        for op, result in zip(ops, results, strict=True):
            relaxed = any([part.ns in self._relaxed for part in op.parts()])
            if not relaxed or op.call is None or op.reads():
                continue
            if not isinstance(result, Exception):
                self._recent.remember(op, result)

    def _flush(self) -> Exception | None:
        """Write what is relaxed."""
        if not self._overlay:
            return None
        outcome = self._commit((), 0)
        return outcome if isinstance(outcome, Exception) else None

    def _note(self, ran: Ran, ops: Sequence[Op], tables: Tables) -> None:
        """What was done is kept: tell the policy, the counters and those who watch."""
        self.cache.settle(ran.effects)
        if not COUNTED.isdisjoint(verbs_in(ops)):
            tally = Tally()
            tally.note(View(tables, 0), ops, ran.results)
            self.cache.hits(tally.slots)
            self._statistics.add_counts(tally.counts)
        self._statistics.add_events(ran.events)
        if ran.events:
            self._report(ran.events)

    # ---------------------------------------------------------------- from time to time

    def tick(self) -> bool:
        """Write what is relaxed, clear what has expired, fill the policy: a portion of each."""
        with self._writing:
            if not self._store.writing:
                return False
            self._hear(True)
            more = self._adopted is not None
            if more:
                with self._reading() as tables:
                    self._adopt(tables)
            self._forget_requests()
            now = self._clock()
            with self._reading() as tables:
                due = View(tables, now).untidy()
            if due:
                outcome = self._commit((), TIDY_MANY)
                return more or (isinstance(outcome, Ran) and outcome.tidied >= TIDY_MANY)
            if self._flush_at and self._flush_at <= self._monotonic():
                self._flush()
            return more

    def _forget_requests(self) -> None:
        # Only after writes: an idle store leaves the disk alone, and nothing is due before time.
        if self._dedup is None or not self._committed:
            return
        job = self._dedup.housekeeping()
        if job is not None:
            self._committed = False
            self._store.execute([job])

    def _hear(self, at_once: bool) -> None:
        """Take in what was read here, and now and then, or `at_once`, by other processes."""
        if self._receiver is None:
            return
        tallies = [self._take_tally()]
        now = time.monotonic()
        if at_once or now - self._heard_at > HEAR_EVERY:
            self._heard_at = now
            tallies += self._receiver.take()
        for tally in tallies:
            self.cache.hits(tally.slots)
            self._statistics.add_counts(tally.counts)

    def _adopt(self, tables: Tables) -> bool:
        """Give the policy a portion of the entries it does not know; whether there were any."""
        if self._adopted is None:
            return False
        count = 0
        for slot in tables.keys(ENTRIES, self._adopted):
            if count == ADOPT:
                self._adopted = slot
                return True
            try:
                entry = read_entry(slot[4:], tables.get(ENTRIES, slot) or b"")
            except DataCorrupted:  # it can be evicted all the same
                entry = DAMAGED
            self.cache.policy.adopt(slot, entry.cost(slot), entry.expire_at)
            count += 1
        self._adopted = None
        return count > 0

    def watch(self, report: Watch) -> None:
        """Have `report` called with what has happened, in the process that writes."""
        self._report = report

    def follow(self, namespaces: set[str]) -> None:
        """All are reported anyway."""

    def close(self) -> None:
        """Hand over, and close the store."""
        self.resign()
        self._sender.close()
        self._store.close()

    def _reading(self, overlay: bool = False) -> _Reading:
        return _Reading(self, overlay)


class _Reading:
    """`with` block of tables for reading; with what is relaxed laid over them."""

    def __init__(self, backend: LmdbBackend, overlay: bool) -> None:
        self._backend = backend
        self._create = overlay
        self._block = backend._store.view()

    def __enter__(self) -> Tables:
        backend = self._backend
        base = LmdbTables(self._block.__enter__(), backend._handles)
        if backend._overlay is None and self._create:
            backend._overlay = OverlayTables(base)
        if backend._overlay is None:
            return base
        backend._overlay.base = base
        return backend._overlay

    def __exit__(self, *error: Any) -> None:
        self._block.__exit__(*error)


TIDY_FEW = 64
