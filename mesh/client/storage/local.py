"""An upload by a client on the same machine as the service, and of the same user.

Its parts go straight into the file that the service has made for it; sockets and broker carry only
what is known of them. The service compares the file with the digests of all parts, as always.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

from mesh.protocol.storage import DISK_RESERVE, PART

try:
    import fcntl
except ImportError:  # not a Unix: there is no service here either
    fcntl = None  # type: ignore[assignment]


class LocalUpload:
    """The file of an upload. As long as it is open, nobody makes an object of it."""

    def __init__(self, file: int) -> None:
        self._file = file
        # A call that is cancelled closes it while a thread may still write.
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: object, upload: bytes) -> Self | None:
        """The file that a service has made at `path`; None if that is not here, or not ours.

        Whoever answers for the service must not have us write over anything else: the file has the
        name of the upload, belongs to this user, is empty and has no other name.
        """
        if fcntl is None or not isinstance(path, str) or Path(path).name != upload.hex():
            return None
        try:
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError):
            return None
        try:
            # The lock first: who finds the file empty under it is its only writer.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(file)
        except OSError:
            os.close(file)
            return None
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if not ours or found.st_size or found.st_nlink != 1:
            os.close(file)
            return None
        return cls(file)

    def write(self, number: int, data: bytes | memoryview) -> None:
        """Write a part to its place.

        Raises:
            OSError: that is not possible, as when the disk is full.
        """
        with self._lock:
            disk = os.fstatvfs(self._file)
            if disk.f_bavail * disk.f_frsize < DISK_RESERVE + len(data):
                raise OSError(errno.ENOSPC, "no room")
            write_part(self._file, number, data)

    def flush(self) -> None:
        """Have the disk take what was written: less for the service to wait for.

        It flushes too, and sees what goes wrong.
        """
        with self._lock, suppress(OSError):
            os.fsync(self._file)

    def close(self) -> None:
        """Leave the file to the service. May be called again."""
        with self._lock:
            file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def write_part(file: int, number: int, data: bytes | memoryview) -> None:
    """Write a part to its place, and have the disk begin with it: less is left for the flush."""
    left, at = memoryview(data), number * PART
    while left:
        written = os.pwrite(file, left, at)
        left = left[written:]
        at += written
    if hasattr(os, "posix_fadvise"):
        # What is dirty is written at once by this, and nobody waits for it.
        os.posix_fadvise(file, number * PART, len(data), os.POSIX_FADV_DONTNEED)
