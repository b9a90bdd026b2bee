"""What the writer of a store says of itself to a supervisor in another process.

A small file, mapped by the holder of the writer lock. A stopped process (SIGSTOP) or one that hangs
keeps its lock and cannot be asked: only its supervisor can end it, and sees by this file that it
should. Who holds the lock is asked of the kernel, so that an old file never accuses a new process.

    watch = ProgressWatch(path)
    ...every second...
    if stuck := watch.look(time.monotonic()):
        os.kill(stuck.pid, signal.SIGKILL)
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from workers.store.election import lock_holder
from workers.store.place import allocate, open_private

PROGRESS: Final = "progress"
SIZE: Final = 4096
BEAT_EVERY: Final = 0.25
"""Seconds between two beats of a holder."""

_RECORD: Final = struct.Struct("=QQQQQQ")
_BEATS, _BEGUN, _ENDED = 24, 32, 40
_COUNT: Final = struct.Struct("=Q")


@dataclass(slots=True)
class Progress:
    """A reading. Counters only ever grow within one epoch."""

    pid: int
    started: int
    """When the process began, in the kernel's ticks since boot; 0 where that is not known."""
    epoch: int
    beats: int
    """Signs of life, four a second, whether or not there is work."""
    begun: int
    """Groups of jobs begun; one more than `ended` while a group is under way."""
    ended: int


class ProgressFile:
    """The holder's side."""

    def __init__(self, path: Path, epoch: int) -> None:
        """Take over the file in the directory `path`, for the holder of `epoch`."""
        allocate(path / PROGRESS, SIZE)
        file = open_private(path / PROGRESS)
        try:
            self._map = mmap.mmap(file, SIZE)
        finally:
            os.close(file)
        pid = os.getpid()
        _RECORD.pack_into(self._map, 0, pid, process_start(pid), epoch, 0, 0, 0)
        self._beats = self._begun = self._ended = 0

    def beat(self) -> None:
        """Show that the process runs."""
        self._beats += 1
        _COUNT.pack_into(self._map, _BEATS, self._beats)

    def begin(self) -> None:
        """Show that a group of jobs is under way."""
        self._begun += 1
        _COUNT.pack_into(self._map, _BEGUN, self._begun)

    def end(self) -> None:
        """Show that it has ended."""
        self._ended = self._begun
        _COUNT.pack_into(self._map, _ENDED, self._ended)

    def close(self) -> None:
        """Let go of the file; its last reading stays."""
        self._map.close()


class ProgressWatch:
    """The supervisor's side; it needs the directory alone, not the store."""

    def __init__(self, path: Path, *, silence: float = 3.0, patience: float = 30.0) -> None:
        """Watch the store in the directory `path`.

        `silence`: seconds without a beat after which the holder counts as stuck. `patience`:
        seconds that one group of jobs may take (a slow disk is no reason to kill).
        """
        self._path = path
        self._silence = silence
        self._patience = patience
        self._beat: tuple[tuple[int, ...], float] = ((), 0.0)
        self._group: tuple[tuple[int, ...], float] = ((), 0.0)

    def look(self, now: float) -> Progress | None:
        """The holder of the writer lock if it is stuck at the time `now`, otherwise None."""
        seen = read_progress(self._path)
        if seen is None or lock_holder(self._path) != seen.pid:
            self._beat = self._group = ((), 0.0)
            return None
        term = (seen.pid, seen.started, seen.epoch)
        beat, group = (*term, seen.beats), (*term, seen.begun, seen.ended)
        if beat != self._beat[0]:
            self._beat = (beat, now)
        if group != self._group[0]:
            self._group = (group, now)
        silent = now - self._beat[1] >= self._silence
        hangs = seen.begun != seen.ended and now - self._group[1] >= self._patience
        same = not seen.started or process_start(seen.pid) == seen.started
        return seen if (silent or hangs) and same else None


def read_progress(path: Path) -> Progress | None:
    """The last reading of the store in the directory `path`; None if nobody has ever written."""
    try:
        content = (path / PROGRESS).read_bytes()[: _RECORD.size]
    except OSError:
        return None
    if len(content) < _RECORD.size or not any(content):
        return None
    return Progress(*_RECORD.unpack(content))


def process_start(pid: int) -> int:
    """When the process `pid` began, in ticks since boot; 0 if it is gone or cannot be seen."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0
