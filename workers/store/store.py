"""The store that the built-in services share: one writer, many readers, one memory-mapped file.

In every worker process:

    store = Store.open(path, service="memory", tables={"items": PLAIN, "expiry": INDEX})
    items = store.tables["items"]

    with store.view() as view:                  # any thread, any process; 1-2 us
        view.get(items, b"key")                 # sees every commit that was acknowledged before

    def write(change):                          # one process at a time, in groups
        old = change.get(items, b"key")
        if old is None:
            raise InvalidArgument("...")        # fails this job alone; refuse before writing
        change.put(items, b"key", b"value")
        change.after_commit(lambda: counters.add(1))    # memory changes only then
        return len(old)

    store.elect(gained, lost)                   # threads of its own; see `elect`
    outcomes = store.execute([Job(write), Job(delete, releases=True)])   # durable when it returns

What holds: an outcome that `execute` returned is on disk; a job that failed left no trace; only the
holder of the lock commits, even if it does not know that it has lost it; a value that is read is
the one that was written, or DataCorrupted. What does not: keys are not secret from whoever can read
the directory, and one disk is one disk (see `backup`).

A process opens a store once, after any fork. Sizes are octets, times seconds.
"""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from mesh.errors import StoreBusy, StoreError
from mesh.monitoring.histogram import Histogram
from workers.store import backup, format, place
from workers.store.election import Election
from workers.store.engine import Engine, ReadBlock
from workers.store.progress import BEAT_EVERY, ProgressFile
from workers.store.tables import Table
from workers.store.writer import Job, Writer

PLAIN: Final = False
"""A table of one checksummed value a key."""
INDEX: Final = True
"""A table of several short values a key, sorted, without checksums: it can be built anew."""

MAP_SIZE: Final = 1024**3
MAX_SIZE: Final = 64 * 1024**3
CHECK_READERS_EVERY: Final = 30.0

_open: Final[weakref.WeakSet[Store]] = weakref.WeakSet()


class Store:
    """One process's hold of a store. Made by `open`."""

    def __init__(
        self,
        path: Path,
        openers: place.Openers,
        engine: Engine,
        identity: format.Identity,
        tables: dict[str, Table],
        own: Any,
        max_size: int,
    ) -> None:
        self.path = path
        self.uuid = identity.uuid
        self.service = identity.service
        self.tables = tables
        """Name -> the table, for use in views and jobs."""
        self._openers = openers
        self._engine = engine
        self._own = own
        self._max_size = max_size
        self._epoch = identity.epoch
        self._election: Election | None = None
        self._writer: Writer | None = None
        self._ended: StoreError | None = None
        self._wake = threading.Event()
        self._threads: list[threading.Thread] = []
        self._executing = threading.Lock()
        self._past: Counter[str] = Counter()
        _open.add(self)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        service: str,
        tables: Mapping[str, bool],
        map_size: int = MAP_SIZE,
        max_size: int = MAX_SIZE,
    ) -> Self:
        """Open the store in the directory `path`, which is made if it is not there.

        `service`: to which it belongs. `tables`: name -> PLAIN or INDEX. `map_size`: octets of
        address space to begin with; the file takes what its content needs. `max_size`: octets that
        the file may reach; what does not fit is refused with StoreFull.

        Raises:
            ConfigError: the directory cannot hold a store, or holds another one; see `place` and
                `format`.
            DataCorrupted: what is there is not a store.
        """
        directory = Path(path).resolve()
        place.prepare(directory)
        openers = place.Openers(directory)
        try:
            alone = openers.alone
            engine = Engine(directory, map_size=min(map_size, max_size), alone=alone)
            try:
                with format.trusting_no_bit(directory):
                    identity, opened, own = engine.with_room(
                        lambda: engine.as_large_as_the_file(
                            lambda: format.describe(
                                engine.env,
                                service=service,
                                tables=tables,
                                uuid=uuid.uuid4(),
                                alone=alone,
                            )
                        ),
                        max_size,
                    )
                    engine.env.reader_check()
                openers.share()
            except BaseException:
                engine.close()
                raise
        except BaseException:
            openers.close()
            raise
        return cls(directory, openers, engine, identity, opened, own, max_size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------ reading

    def view(self) -> ReadBlock:
        """`with store.view() as view:` reads one moment of the store.

        Begin it after the requests to be answered were received: then it holds every write that
        their callers have seen acknowledged. Never keep it across an await.
        """
        return self._engine.view()

    @property
    def epoch(self) -> int:
        """The term of the writer: this process's own while it writes, else the last one seen."""
        if self._writer is not None:
            return self._epoch
        with self._engine.view() as view:
            return format.epoch(view.raw, self._own)

    @property
    def size(self) -> int:
        """Octets of the file's content, free pages among it included."""
        info = self._engine.env.info()
        return int((info["last_pgno"] + 1) * self._engine.env.stat()["psize"])

    # ------------------------------------------------------------ writing

    @property
    def writing(self) -> bool:
        """Whether this process is the writer."""
        return self._writer is not None and self._ended is None

    @property
    def counters(self) -> Counter[str]:
        """What happened how often in this process: see `Writer.counters`."""
        # Copied in one go: another thread may be counting.
        return self._past + self._writer.counters.copy() if self._writer else self._past

    @property
    def flushes(self) -> Histogram:
        """How long commits took while this process was the writer."""
        return self._writer.flushes if self._writer is not None else Histogram()

    def elect(
        self, gained: Callable[[int], None], lost: Callable[[StoreError], None] | None = None
    ) -> None:
        """Stand for writer until `resign` or `close`.

        `gained(epoch)` is called, in a thread of the store, when this process has become the
        writer: rebuild here what lives in the writer's memory (`view` and `execute` work), then
        announce the lane. If it raises, the process steps down for good and `lost` gets the error.

        `lost(error)` is called when it can write no longer although nobody asked it to stop: the
        file was taken away or replaced, another process became the writer, the disk failed. This
        object writes never again: end the process, and let its supervisor start it anew.
        """
        if self._election is not None:
            raise StoreError("the store stands for election already")
        self._election = Election(self.path)
        self._wake.clear()
        stand = threading.Thread(
            target=self._stand, args=(self._election, gained, lost), name="store-election"
        )
        stand.daemon = True
        self._threads = [stand]
        stand.start()

    def resign(self) -> None:
        """Stand no longer; if this process writes, finish the group at hand and hand over."""
        election = self._election
        if election is None:
            return
        election.stop()
        self._wake.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        election.close()
        self._election = None

    def execute(self, jobs: Sequence[Job]) -> list[Any]:
        """Run `jobs` in order as one durable transaction; the outcome of each, when it is on disk.

        An exception stands in the place of a failed job's outcome. One thread at a time; others
        wait. In a process that does not write every outcome is StoreBusy.
        """
        with self._executing:
            if self._writer is None:
                error = self._ended or StoreBusy(
                    "this process does not write the store at this moment", retry_after=0.05
                )
                return [error] * len(jobs)
            return self._writer.execute(jobs)

    # ------------------------------------------------------------ the end

    def backup(self, target: str | os.PathLike[str]) -> None:
        """Copy the store as of now into the new directory `target`, while all go on working.

        Raises:
            ConfigError: `target` exists.
        """
        with self._engine.view():  # keeps the map as it is until the copy is made
            backup.copy(self._engine.env, Path(target).resolve())

    def close(self) -> None:
        """Resign and close the file. Waits for views that are open."""
        if self in _open:
            _open.discard(self)
            self.resign()
            self._engine.close()
            self._openers.close()

    # ------------------------------------------------------------ the store's own threads

    def _stand(
        self,
        election: Election,
        gained: Callable[[int], None],
        lost: Callable[[StoreError], None] | None,
    ) -> None:
        progress: ProgressFile | None = None
        try:
            if not election.wait():
                return
            self._epoch = self._engine.with_room(self._raise_epoch, self._max_size)
            progress = ProgressFile(self.path, self._epoch)
            keeper = threading.Thread(target=self._keep, args=(progress,), name="store-keeper")
            keeper.daemon = True
            self._threads.append(keeper)
            keeper.start()
            with self._executing:
                self._writer = Writer(
                    self._engine,
                    self._own,
                    progress,
                    epoch=self._epoch,
                    max_size=self._max_size,
                    lost=self._note_end,
                )
            gained(self._epoch)
            self._wake.wait()
        except Exception as error:
            self._note_end(
                error
                if isinstance(error, StoreError)
                else StoreError(f"the writer could not begin: {type(error).__name__}: {error}")
            )
        finally:
            self._step_down(election, progress)
        if self._ended is not None and lost is not None:
            lost(self._ended)

    def _step_down(self, election: Election, progress: ProgressFile | None) -> None:
        with self._executing:  # the group at hand is finished first
            if self._writer is not None:
                self._past = self._past + self._writer.counters
            self._writer = None
            self._wake.set()
            for thread in self._threads[1:]:
                thread.join()
            if progress is not None:
                progress.close()
            election.release()

    def _note_end(self, error: StoreError) -> None:
        self._ended = self._ended or error
        self._wake.set()

    def _raise_epoch(self) -> int:
        raw = self._engine.begin_write()
        try:
            number = format.epoch(raw, self._own) + 1
            format.set_epoch(raw, self._own, number)
        except BaseException:
            raw.abort()
            raise
        raw.commit()
        return number

    def _keep(self, progress: ProgressFile) -> None:
        """Show signs of life, and clear the slots of dead readers from time to time."""
        beats = 0
        while not self._wake.wait(BEAT_EVERY):
            progress.beat()
            beats += 1
            if beats * BEAT_EVERY >= CHECK_READERS_EVERY:
                beats = 0
                self._past["readers_cleared"] += self._engine.env.reader_check()

    def _abandon(self) -> None:
        """In a forked child: nothing of this object may be used."""
        self._engine.abandon()
        self._writer = None
        self._executing = threading.Lock()
        self._ended = StoreError(
            "the store was opened before this process was forked; open it anew here"
        )


def _abandon_all() -> None:
    for store in list(_open):
        store._abandon()
        _open.discard(store)


os.register_at_fork(after_in_child=_abandon_all)
