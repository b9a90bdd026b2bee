"""Who writes: one process, by a record lock, freed by the kernel the moment that process is gone.

The lock belongs to the process, not to its threads or children: a forked child that lives on does
not keep it. Waiters do not block in the lock call, which nothing could interrupt, but on a FIFO
whose only open writing end is the holder's: it hangs up when the holder closes it or dies, and the
kernel frees the locks of a dying process before it hangs up its pipes. They look every
`FALLBACK_EVERY` seconds besides, in case a child that Python has not forked keeps the FIFO open.

A holder that is stopped (SIGSTOP) keeps the lock; see `progress`.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final

from workers.store.place import file_id, open_private

LOCK: Final = "writer.lock"
DOOR: Final = "writer.fifo"
FALLBACK_EVERY: Final = 1.0
_FIRST_RETRY: Final = 0.001
_LAST_RETRY: Final = 0.064

# The lock record of fcntl(2): GNU/Linux with 64-bit offsets, and macOS.
_FLOCK: Final = struct.Struct("qqihh" if sys.platform == "darwin" else "hhxxxxqqi4x")

_elections: Final[weakref.WeakSet[Election]] = weakref.WeakSet()


class Election:
    """One process's part in the election of a directory. One object a process and directory."""

    def __init__(self, path: Path) -> None:
        """Stand for the store in the directory `path`; nothing is acquired yet."""
        self._door = path / DOOR
        with suppress(FileExistsError):
            os.mkfifo(self._door, 0o600)
        self._lock = open_private(path / LOCK)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._open_door: int | None = None
        self._stopped = False
        self.held = False
        """Whether this process has the lock, as far as it knows."""
        self.file_id = file_id(self._lock)
        _elections.add(self)

    def try_acquire(self) -> bool:
        """Take the lock if it is free. Whether this process has it now."""
        if self.held:
            return True
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except (BlockingIOError, PermissionError):
            return False
        # Reading and writing: an end for writing alone cannot be opened while nobody waits.
        self._open_door = os.open(self._door, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = True
        return True

    def wait(self) -> bool:
        """Block until the lock is ours or `stop` is called. Whether it is ours."""
        door = os.open(self._door, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            poller = select.poll()
            poller.register(door, select.POLLIN)
            poller.register(self._wake_read, select.POLLIN)
            retry = _FIRST_RETRY
            while not self._stopped:
                if self.try_acquire():
                    return True
                if poller.poll(FALLBACK_EVERY * 1000) and not self._stopped:
                    # It hung up. Whoever was faster hangs it in again in a moment.
                    if self.try_acquire():
                        return True
                    select.select([self._wake_read], [], [], retry)
                    retry = min(retry * 2, _LAST_RETRY)
                else:
                    retry = _FIRST_RETRY
            return False
        finally:
            os.close(door)

    def stop(self) -> None:
        """End `wait`, now and for good. May be called from any thread, more than once."""
        self._stopped = True
        with suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    def release(self) -> None:
        """Give the lock up; the next one in line has it at once."""
        if self.held:
            self.held = False
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1)
            self._close_door()

    def close(self) -> None:
        """Give the lock up and leave. Nobody may be in `wait`."""
        _elections.discard(self)
        self.release()
        for file in (self._lock, self._wake_read, self._wake_write):
            os.close(file)

    def _close_door(self) -> None:
        if self._open_door is not None:
            os.close(self._open_door)
            self._open_door = None


def lock_holder(path: Path) -> int | None:
    """The process that holds the writer lock of the store in the directory `path`, if any.

    Asks the kernel and takes no lock, so it disturbs no election.
    """
    try:
        found = file_id(path / LOCK)
        if any(election.held and election.file_id == found for election in _elections):
            return os.getpid()  # closing a second descriptor of the file would drop the lock
        file = os.open(path / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if sys.platform == "darwin":
            asked = _FLOCK.pack(0, 1, 0, fcntl.F_WRLCK, os.SEEK_SET)
            _, _, pid, kind, _ = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, asked))
        else:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
            kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else pid
    finally:
        os.close(file)


def _forget() -> None:
    """In a forked child: it has not inherited the lock, and must not keep the door open."""
    for election in list(_elections):
        election.held = False
        election._close_door()
        _elections.discard(election)


os.register_at_fork(after_in_child=_forget)
