"""Files as the source and the target of objects."""

from __future__ import annotations

import errno
import os
import uuid
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Self


def upload_name(bucket: str, key: str, path: Path) -> bytes:
    """What the upload of a file is called, as long as that is the same file."""
    status = path.stat()
    told = f"{bucket}\0{key}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"
    return blake2b(told.encode(), digest_size=16).digest()


class Target:
    """A file that has its name once `done` was called: on disk, complete. Else nothing is left."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")

    def write(self, data: bytes) -> None:
        """Append some octets."""
        self._file.write(data)

    def done(self) -> None:
        """Nothing more comes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self._path)

    def __enter__(self) -> Self:
        if self._path.is_dir():  # now, and not when everything has been fetched
            raise IsADirectoryError(errno.EISDIR, "it is a directory", str(self._path))
        self._file = self._partial.open("xb", buffering=0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        with suppress(FileNotFoundError):
            self._partial.unlink()
