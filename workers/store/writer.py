"""Group commit: many jobs, one transaction, one flush, and only then their outcomes.

A job gets a `Change` and returns its outcome. It may be run several times (the map had to grow, or
another job of its group had to be taken back), so it changes nothing but the store; what it wants
to change in memory waits in `change.after_commit`. A job that raises is undone alone: nothing needs
undoing if it raised before it wrote, which is the habit to have. If it had written, its group is
run once more with a nested transaction around each job, which costs 2 us a job.

What goes wrong with the whole group is bisected until the job that cannot be done stands alone.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import lmdb

from mesh.errors import StoreBusy, StoreError, StoreFull
from mesh.monitoring.histogram import Histogram
from workers.store import format
from workers.store.engine import RESERVE, Engine
from workers.store.progress import ProgressFile
from workers.store.tables import Change

GROUP_BYTES: Final = 64 * 1024 * 1024
"""A transaction is committed once it has written this much; pages wait in memory until then."""
# LMDB writes 64 pages at a time; with less room than a few such writes the disk counts as full.
ONE_WRITE: Final = 1024 * 1024
_NO_ROOM: Final = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)))


@dataclass(slots=True)
class Job:
    """Something to be done in the writer's transaction."""

    run: Callable[[Change], Any]
    releases: bool = False
    """It deletes and adds next to nothing: done even when the store is full."""


class _RaisedAfterWriting(Exception):
    """A job of the group must be undone alone."""


class Writer:
    """The one writer of a store, while its process holds the lock. One thread at a time."""

    def __init__(
        self,
        engine: Engine,
        own: Any,
        progress: ProgressFile,
        *,
        epoch: int,
        max_size: int,
        lost: Callable[[StoreError], None],
    ) -> None:
        """Write to `engine` in the term `epoch`. `own`: the handle of the table `store`.

        `max_size`: octets that the file may reach. `lost`: told, once, that this is the writer no
        more and why; it must not call back.
        """
        self._engine = engine
        self._own = own
        self._progress = progress
        self._epoch = epoch
        self._max_size = max_size
        self._lost = lost
        self._ended: StoreError | None = None
        self.counters: Counter[str] = Counter()
        """What happened how often: `commits`, `jobs`, `failed`, `grown`, `full`, `reruns`, ..."""
        self.flushes = Histogram()
        """How long commits took."""

    def execute(self, jobs: Sequence[Job]) -> list[Any]:
        """Run `jobs` in order, together. Their outcomes, once they are durable.

        An exception in the place of an outcome means that this job left no trace, unless it says
        `maybe_executed`. Nothing is raised but what is no Exception.
        """
        outcomes: list[Any] = []
        self._progress.begin()
        try:
            while len(outcomes) < len(jobs):
                outcomes += self._group(jobs[len(outcomes) :] if outcomes else jobs)
        finally:
            self._progress.end()
        counters = self.counters
        counters["jobs"] += len(jobs)
        counters["failed"] += sum(isinstance(outcome, Exception) for outcome in outcomes)
        return outcomes

    def end(self, error: StoreError) -> None:
        """Refuse all further jobs with `error`."""
        self._ended = self._ended or error

    def _group(self, jobs: Sequence[Job]) -> list[Any]:
        """Outcomes of the first of `jobs`, at least one and maybe all."""
        try:
            return self._settle(jobs)
        except StoreBusy as error:
            return [error] * len(jobs)

    def _settle(self, jobs: Sequence[Job], squeezed: bool = False) -> list[Any]:
        """Outcomes of the first of `jobs`. `squeezed`: the map is as large as it may ever be."""
        nested = False
        while True:
            if self._ended is not None:
                return [self._ended] * len(jobs)
            last = self._engine.last_transaction
            try:
                return self._attempt(jobs, nested)
            except _RaisedAfterWriting:
                self.counters["reruns"] += 1
                nested = True
            except lmdb.MapFullError:
                if squeezed:
                    return self._halve(jobs, self._size_reached())
                if not self._grow():
                    return self._squeeze(jobs)
            except (lmdb.Error, OSError) as error:
                committed = self._engine.last_transaction != last
                if self._no_room(error) and not committed:
                    return self._halve(jobs, self._disk_full(error))
                return self._fail(jobs, error, committed)

    def _attempt(self, jobs: Sequence[Job], nested: bool) -> list[Any]:
        """One transaction. Raises whatever makes the whole of it void."""
        outcomes: list[Any] = []
        raw = self._engine.begin_write()
        try:
            self._fence(raw)
            change = Change(raw)
            for job in jobs:
                if nested:
                    outcomes.append(self._run_nested(raw, change, job))
                else:
                    before = change.changes
                    callbacks = len(change.callbacks)
                    try:
                        outcomes.append(job.run(change))
                    except lmdb.BadTxnError:
                        raise _RaisedAfterWriting from None  # damage that one job met stops all
                    except lmdb.Error:
                        raise
                    except Exception as error:
                        if change.changes != before:
                            raise _RaisedAfterWriting from None
                        del change.callbacks[callbacks:]
                        outcomes.append(error)
                if change.written >= GROUP_BYTES:
                    break
        except BaseException:
            raw.abort()
            raise
        begun = monotonic()
        try:
            raw.commit()
        except lmdb.BadTxnError:
            if nested:
                raise
            raise _RaisedAfterWriting from None
        self.flushes.observe(monotonic() - begun)
        self.counters["commits"] += 1
        for function in change.callbacks:
            function()
        return outcomes

    def _run_nested(self, raw: Any, change: Change, job: Job) -> Any:
        child = self._engine.env.begin(write=True, parent=raw, buffers=True)
        callbacks = len(change.callbacks)
        change.adopt(child)
        try:
            outcome = job.run(change)
            child.commit()
            return outcome
        except Exception as error:
            child.abort()
            if isinstance(error, lmdb.Error) and not isinstance(error, lmdb.BadTxnError):
                raise
            del change.callbacks[callbacks:]
            return error
        finally:
            change.adopt(raw)

    def _fence(self, raw: Any) -> None:
        """Make sure, inside of the transaction, that nobody else has become the writer.

        LMDB lets one transaction write at a time and a new writer raises the epoch in its first
        one: whoever still reads its own epoch here will commit before any successor begins.
        """
        if format.epoch(raw, self._own) != self._epoch:
            reason = "another process has become the writer"
        elif not self._engine.in_place():
            reason = "its file was moved or deleted while it was open"
        else:
            return
        error = StoreBusy(f"this process no longer writes the store: {reason}", retry_after=0.1)
        self._give_up(error, "fenced")
        raise error

    # ------------------------------------------------------------ no room

    def _grow(self) -> bool:
        """Double the map, if the limit allows. Whether it is larger now."""
        size = self._engine.map_size
        if size >= self._max_size:
            return False
        self._clear_readers()
        self._engine.grow(min(size * 2, self._max_size))
        self.counters["grown"] += 1
        return True

    def _squeeze(self, jobs: Sequence[Job]) -> list[Any]:
        """The size limit is reached: find the jobs that fit, and let those pass that release."""
        self._clear_readers()
        if len(jobs) > 1 or not jobs[0].releases:
            return self._halve(jobs, self._size_reached())
        self._engine.grow(self._engine.map_size + RESERVE)
        try:
            return self._settle(jobs, squeezed=True)
        finally:
            with suppress(StoreBusy):  # then the next one to be squeezed takes it back
                self._engine.grow(self._max_size)

    def _halve(self, jobs: Sequence[Job], error: StoreError) -> list[Any]:
        """Do one half after the other; a job that fails alone fails with `error`."""
        if len(jobs) == 1:
            self.counters["full"] += 1
            return [error]
        middle = len(jobs) // 2
        outcomes: list[Any] = []
        for half in (jobs[:middle], jobs[middle:]):
            done = 0
            while done < len(half):
                found = self._group(half[done:])
                done += len(found)
                outcomes += found
        return outcomes

    def _no_room(self, error: BaseException) -> bool:
        """Whether the disk, or the quota on it, is full. LMDB's errors carry the reason as text.

        Of a write that only part of was taken it says EIO, before it has touched what counts; so
        that is believed only of a disk that has room left.
        """
        if isinstance(error, lmdb.DiskError) or any(text in str(error) for text in _NO_ROOM):
            return True
        if os.strerror(errno.EIO) not in str(error):
            return False
        disk = os.statvfs(self._engine.path)
        return disk.f_bavail * disk.f_frsize < ONE_WRITE

    def _size_reached(self) -> StoreFull:
        return StoreFull(
            f"the store has reached its size limit of {self._max_size} octets;"
            " delete something, or raise the limit",
            retry_after=1.0,
        )

    def _disk_full(self, error: BaseException) -> StoreFull:
        return StoreFull(
            f"the disk under {self._engine.path} is full ({error}); make room: nothing is lost",
            retry_after=1.0,
        )

    def _clear_readers(self) -> None:
        """Pages that died with their readers cannot be used again until their slots are cleared."""
        self.counters["readers_cleared"] += self._engine.env.reader_check()

    # ------------------------------------------------------------ the end

    def _fail(self, jobs: Sequence[Job], cause: BaseException, committed: bool) -> list[Any]:
        """The disk has failed under the store: trust neither it nor this process's view of it."""
        error = StoreError(
            f"writing to {self._engine.path} failed ({cause}); this process no longer writes it:"
            " check the disk, then start it anew",
            maybe_executed=committed,
        )
        self._give_up(error, "broken")
        return [error] * len(jobs)

    def _give_up(self, error: StoreError, counter: str) -> None:
        if self._ended is None:
            self._ended = error
            self.counters[counter] += 1
            self._lost(error)
