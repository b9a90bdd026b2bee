"""The environment of LMDB in one process, and the gate between its transactions and its growth.

The map of a store is as large as its file may become and costs address space alone. Only the writer
makes it larger, and no transaction of the process may be open meanwhile: readers pass a gate.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import lmdb

from mesh.errors import ConfigError, DataCorrupted, StoreBusy, StoreError
from workers.store.format import MAX_TABLES
from workers.store.place import DATA, LOCKS, allocate, file_id, usable
from workers.store.tables import View

T = TypeVar("T")

RESERVE: Final = 16 * 1024 * 1024
"""Octets beyond the size limit for what adds next to nothing: deleting needs a few pages first."""
MAX_READERS: Final = 1024
_LOCK_FILE_SIZE: Final = 72 * 1024
"""Octets of LMDB's own lock file: 64 for each reader, and its head."""
_GATE_TIMEOUT: Final = 10.0


class Engine:
    """The open file of a store."""

    def __init__(self, path: Path, *, map_size: int, alone: bool) -> None:
        """Open or make the file in the directory `path`. `alone`: nobody else has it open.

        Raises:
            DataCorrupted: the file is not a store, or damaged.
            ConfigError: the process has it open already, or it cannot be opened.
        """
        if alone:
            with usable(path):
                allocate(path / LOCKS, _LOCK_FILE_SIZE)
        self.path = path
        self.env = open_environment(path, map_size)
        self._file = os.fspath(path / DATA)
        self._file_id = file_id(self._file)
        self._lock = threading.Lock()
        self._gate = threading.Condition(self._lock)
        self._readers = 0
        self._growing = False
        self._closed_because = ""

    def view(self) -> ReadBlock:
        """`with engine.view() as view:` reads one moment of the store."""
        return ReadBlock(self)

    def begin_write(self) -> Any:
        """LMDB's write transaction. Waits for another process that has one."""

        def begin() -> Any:
            self._refuse_closed()
            return self.env.begin(write=True, buffers=True)

        return self.as_large_as_the_file(begin)

    def grow(self, size: int) -> None:
        """Make the map `size` octets large, or as small as its content allows.

        No transaction of the calling thread may be open.
        """
        self._resize(size)

    def as_large_as_the_file(self, act: Callable[[], T]) -> T:
        """What `act` returns, with the map grown to the file as often as another process grows it.

        No transaction of the calling thread may be open.
        """
        while True:
            try:
                return act()
            except lmdb.MapResizedError:
                self._resize(0)

    def with_room(self, act: Callable[[], T], most: int) -> T:
        """What `act`, which writes a few pages, returns; also where the map has not one to spare.

        That is so in a copy that was restored, and where the size limit `most` is reached. No
        transaction of the calling thread may be open.
        """
        size = self.map_size
        try:
            return act()
        except lmdb.MapFullError:
            self.grow(size + RESERVE)
        try:
            return act()
        finally:
            with suppress(StoreBusy):  # then the first job that finds it full takes it back
                self.grow(min(size + RESERVE, max(size, most)))

    @property
    def map_size(self) -> int:
        """Octets that the file may have at most, until it is grown."""
        return int(self.env.info()["map_size"])

    @property
    def last_transaction(self) -> int:
        """Number of the last transaction that was committed, by any process."""
        return int(self.env.info()["last_txnid"])

    def in_place(self) -> bool:
        """Whether the file is still the one that the path names."""
        try:
            return file_id(self._file) == self._file_id
        except OSError:
            return False

    def close(self) -> None:
        """Close the file, after the views that are open. No write transaction may be."""
        with self._gate:
            if self._closed_because:
                return
            self._closed_because = "it was closed"
            self._growing = True
            self._gate.wait_for(lambda: not self._readers, _GATE_TIMEOUT)
            self._growing = False
            self._gate.notify_all()
        self.env.close()

    def abandon(self) -> None:
        """Refuse all further use, in a forked child: LMDB's file must be opened anew there."""
        self._lock = threading.Lock()  # a thread that does not exist here may have held it
        self._gate = threading.Condition(self._lock)
        self._closed_because = "it was opened before this process was forked; open it anew here"
        self.env.close()  # of this process's copy; it touches neither the parent's nor the file

    def enter(self) -> Any:
        """A read transaction of LMDB; `leave` must follow."""
        while True:
            with self._lock:
                while self._growing:
                    self._gate.wait()
                if self._closed_because:
                    self._refuse_closed()
                self._readers += 1
            try:
                return self.env.begin(buffers=True)
            except lmdb.MapResizedError:
                self.leave()
                self._resize(0)
            except lmdb.ReadersFullError:
                self.leave()
                raise StoreBusy(
                    f"more than {MAX_READERS} reads are under way in all processes of the store",
                    retry_after=0.1,
                ) from None
            except BaseException:
                self.leave()
                raise

    def leave(self) -> None:
        """The read transaction has ended."""
        with self._lock:
            self._readers -= 1
            if self._growing and not self._readers:
                self._gate.notify_all()

    def _resize(self, size: int) -> None:
        with self._gate:
            while self._growing:
                self._gate.wait()
            self._refuse_closed()
            self._growing = True
            try:
                if not self._gate.wait_for(lambda: not self._readers, _GATE_TIMEOUT):
                    raise StoreBusy(
                        f"the store must grow and {self._readers} reads of this process have not"
                        f" ended in {_GATE_TIMEOUT:g} s; close each view in its block"
                    )
                self.env.set_mapsize(size)
            finally:
                self._growing = False
                self._gate.notify_all()

    def _refuse_closed(self) -> None:
        if self._closed_because:
            raise StoreError(f"the store {self.path} cannot be used: {self._closed_because}")


class ReadBlock:
    """The `with` block of a view."""

    __slots__ = ("_engine", "_raw")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> View:
        self._raw = self._engine.enter()
        return View(self._raw)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._raw.abort()
        finally:
            self._engine.leave()


def open_environment(path: Path, map_size: int, *, readonly: bool = False) -> Any:
    """LMDB's environment of the directory `path`, with what every opener must say alike.

    `readonly`: without LMDB's own locks, for a file that nobody else has open.
    The format of version 0.9 is asked for by number: an environment variable could choose another.
    """
    try:
        return lmdb.open(
            os.fspath(path),
            map_size=map_size,
            max_dbs=MAX_TABLES + 1,
            max_readers=MAX_READERS,
            mode=0o600,
            create=not readonly,
            readonly=readonly,
            lock=not readonly,
            lib_version=0,
        )
    except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError) as error:
        raise DataCorrupted(
            f"{path / DATA} is not a store of this version ({error}); restore a backup"
        ) from None
    except (lmdb.Error, OSError) as error:
        raise ConfigError(f"the store {path} cannot be opened: {error}") from None
