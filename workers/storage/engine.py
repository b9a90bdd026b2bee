"""The store in LMDB and files: one process writes, every process reads.

What lives in the writer's memory alone: the digests of parts that were written by it (after a
take-over they are computed anew from the file), and the bells of those who follow changes (their
streams end with a retryable error, and go on from the version they have reached).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import RLock
from typing import Any

import lmdb

from mesh.errors import DataCorrupted, StoreError, StoreFull
from mesh.protocol.storage import PART, part_digest
from workers.acts import portions
from workers.storage.change import GRACE, Change
from workers.storage.files import Files
from workers.storage.operations import GROUP, RELEASES, Op, Watch
from workers.storage.records import ROW, TABLES, Bucket
from workers.storage.running import read_all, run_all
from workers.storage.view import View
from workers.store import Change as StoreChange
from workers.store import Job, Store, dedup
from workers.store.dedup import Dedup
from workers.store.expiry import ExpiryIndex

MAX_SIZE = 1024**4
"""Octets of records; the file takes what its content needs, and the disk sets the limit."""
TIDY = 200
# Rows of the log that wait to be deleted together, and how many are looked through at a time for
# those that a crash has left.
REPLACED = 4096
LOOKED = 2000
SWEEP_EVERY = 3600.0


class LmdbEngine:
    """The store in a directory. `clock` gives Unix time in milliseconds."""

    def __init__(
        self,
        path: Path,
        *,
        max_size: int = MAX_SIZE,
        local_uploads: bool = True,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._clock = clock
        self._local_uploads = local_uploads
        self._store = Store.open(
            path, service="storage", tables={**TABLES, **dedup.TABLES}, max_size=max_size
        )
        try:
            self._files = Files(self._store.path, time.monotonic)
        except BaseException:
            self._store.close()
            raise
        self._tables = {name: self._store.tables[name] for name in TABLES}
        self._report: Watch = lambda buckets: None
        self._known: tuple[int, dict[str, Bucket | None]] = (-1, {})
        # Everything below belongs to the writer, under this lock.
        self._writing = RLock()
        self._dedup: Dedup | None = None
        self._committed = False
        self._hurry = False
        self._replaced: list[bytes] = []
        self._look_from = b""
        self._look_until = 0
        self._written = False
        self._sweep_at = 0.0

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
                self._dedup = Dedup(self._store.tables)
                self._committed = True
                self._sweep_at = 0.0
                self._replaced = []
                with self._store.view() as found:
                    self._look_until = View(found, self._tables, 0).totals().version
                self._look_from = ROW.pack(0, 0)
            gained(epoch)

        self._store.elect(begin, lost)

    def watch(self, report: Watch) -> None:
        """Have `report` called with the buckets that have changed, in the process that writes."""
        self._report = report

    def close(self) -> None:
        """Hand over, and close the store."""
        with self._writing:
            if self._store.writing:
                self._clear_log()
        self._store.close()
        self._files.close()

    # ---------------------------------------------------------------- reading

    def read(self, ops: Sequence[Op]) -> list[Any]:
        """Run operations that only read, in any process."""
        try:
            return self._read(ops)
        except lmdb.Error as error:
            # What met a broken page has ended the moment for all that were read with it.
            if len(ops) > 1:
                return [result for op in ops for result in self.read((op,))]
            return [DataCorrupted(f"the store is damaged ({error}); restore a backup")]

    def _read(self, ops: Sequence[Op]) -> list[Any]:
        with self._store.view() as found:
            number = found.raw.id()
            known = self._known[1] if self._known[0] == number else None
            view = View(found, self._tables, self._clock(), known)
            results = read_all(view, ops)
            self._known = (number, view.known)
            return results

    def read_part(self, blob: bytes, number: int, start: int, end: int) -> bytes | None:
        """Octets of a part, verified as a whole; None if the object is gone."""
        with self._store.view() as at:
            found = View(at, self._tables, self._clock()).part(blob, number)
        if found is None:
            return None
        size, digest = found
        data = self._files.read(blob, number * PART, min(PART, size - number * PART))
        if part_digest(data) != digest:
            raise DataCorrupted(
                f"part {number} of object {blob.hex()} is damaged; restore a backup",
                data={"blob": blob.hex(), "part": number},
            )
        return data if (start, end) == (0, PART) else data[start:end]

    # ---------------------------------------------------------------- uploads

    def write_part(self, upload: bytes, number: int, data: bytes, digest: bytes) -> None:
        """Keep a part of an upload."""
        try:
            self._files.write(upload, number, data, digest)
        except StoreFull:
            self._hurry = True
            raise

    def share_upload(self, upload: bytes) -> str:
        """Begin an upload that its client may write itself; the path of its file, or ""."""
        return self._files.share(upload) if self._local_uploads else ""

    def upload_parts(self, upload: bytes, start: int = 0) -> list[bytes]:
        """The digests of the next parts of an upload; of one that has not come, that of zeros."""
        return self._files.parts(upload, start)

    def finish_upload(self, op: Op, size: int, digests: bytes) -> Any:
        """Put the parts of an upload on disk, then run `op`; its result."""
        name = op.arguments["content"].blob
        self._files.finish(name, size, digests)
        (result,) = self.execute((op,))
        if not isinstance(result, Exception):
            if result:
                self._files.discard(name)
            else:  # `only_if` kept it from becoming an object
                self.discard_upload(name)
        return result

    def discard_upload(self, upload: bytes) -> bool:
        """Forget an upload. Whether there was one."""
        if self._files.has(upload):

            def run(at: StoreChange) -> None:
                # In a transaction: nobody can name it between this look and the removal.
                if View(at, self._tables, self._clock()).blob(upload) is None:
                    self._files.remove(upload)

            (failed,) = self._store.execute([Job(run, releases=True)])
            if failed is not None:
                raise failed
        return self._files.discard(upload)

    # ---------------------------------------------------------------- writing

    def execute(self, ops: Sequence[Op]) -> list[Any]:
        """Run any operations; only in the process that writes."""
        results: list[Any] = []
        with self._writing:
            for group in portions(ops, GROUP):
                results += self._execute(group)
        return results

    def _execute(self, ops: Sequence[Op]) -> list[Any]:
        outcome = self._commit(ops)
        if isinstance(outcome, list):
            return outcome
        if isinstance(outcome, StoreFull):
            self._hurry = True
            if len(ops) > 1:
                return [result for op in ops for result in self._execute([op])]
        return [outcome] * len(ops)

    def _commit(self, ops: Sequence[Op]) -> list[Any] | Exception:
        """Run `ops` in one transaction: their results, or what kept it from being committed."""
        now = self._clock()

        def run(at: StoreChange) -> tuple[list[Any], Change]:
            change = Change(at, self._tables, now, self._files.has)
            results = run_all(change, ops, self._dedup)
            return results, self._finish(change)

        releases = all(part.verb in RELEASES for op in ops for part in op.parts())
        (outcome,) = self._store.execute([Job(run, releases=releases)])
        if isinstance(outcome, tuple):
            results: list[Any] = outcome[0]
            self._written = True
            self._settle(outcome[1])
            return results
        if isinstance(outcome, Exception):
            return outcome
        return StoreError("the writer did not run what it was given")

    def _finish(self, change: Change, at_once: bool = False) -> Change:
        """Write what goes with all that was done in `change`."""
        if at_once or len(self._replaced) >= REPLACED:
            change.clear_log(self._replaced)
        change.close()
        return change

    def _settle(self, change: Change, at_once: bool = False) -> None:
        """`change` is on disk."""
        if at_once or len(self._replaced) >= REPLACED:
            self._replaced = []
        self._replaced += change.replaced
        self._committed = True
        if change.touched:
            self._report(change.touched)

    # ---------------------------------------------------------------- from time to time

    def tick(self) -> bool:
        """Clear what has expired or was dropped, a portion of it; whether there is more."""
        self._files.let_go()
        with self._writing:
            if not self._store.writing:
                return False
            now = self._clock()
            with self._store.view() as found:
                due = _due(found, self._tables, now, self._hurry)
            done = 0
            if due:
                hurry, self._hurry = self._hurry, False

                def run(at: StoreChange) -> tuple[int, Change]:
                    change = Change(at, self._tables, now)
                    count = change.tidy(TIDY, self._files.remove, hurry)
                    return count, self._finish(change)

                # The pages that a commit frees can be used two commits later: when something waits
                # for them, the second follows at once.
                for job in [Job(run, releases=True)] * (2 if hurry else 1):
                    (cleared,) = self._store.execute([job])
                    if isinstance(cleared, Exception):
                        raise cleared
                    done += cleared[0]
                    self._settle(cleared[1])
            self._look_through_log()
            if not self._written:
                self._clear_log()
            self._written = False
            self._forget_requests()
            self._sweep()
        return done >= TIDY

    def _clear_log(self) -> None:
        """Delete what waits for it. If that fails it only takes room."""
        if not self._replaced:
            return

        def run(at: StoreChange) -> Change:
            return self._finish(Change(at, self._tables, self._clock()), at_once=True)

        (outcome,) = self._store.execute([Job(run, releases=True)])
        if isinstance(outcome, Change):
            self._settle(outcome, at_once=True)

    def _look_through_log(self) -> None:
        """Find what a crash has left in the log, a portion at a time, once in a term."""
        if not self._look_from:
            return
        with self._store.view() as found:
            view = View(found, self._tables, self._clock())
            try:
                rows, self._look_from = view.replaced_rows(
                    self._look_from, LOOKED, self._look_until
                )
            except DataCorrupted:
                rows, self._look_from = [], b""  # damage is never deleted silently
        self._replaced += rows

    def _forget_requests(self) -> None:
        # Only after writes: an idle store leaves the disk alone, and nothing is due before time.
        if self._dedup is None or not self._committed:
            return
        job = self._dedup.housekeeping()
        if job is not None:
            self._committed = False
            self._store.execute([job])

    def _sweep(self) -> None:
        """Remove what was left behind in the directory of uploads."""
        now = time.monotonic()
        if now < self._sweep_at:
            return
        self._sweep_at = now + SWEEP_EVERY

        def named(blob: bytes) -> bool:
            with self._store.view() as found:
                return View(found, self._tables, self._clock()).blob(blob) is not None

        self._files.sweep(time.time(), named)


def _due(at: Any, tables: Any, now: int, hurry: bool) -> bool:
    first = ExpiryIndex(tables["due"]).next_ms(at)
    return first is not None and first <= now + (GRACE if hurry else 0)
