"""The log: what was committed since the last flush, a frame for each commit.

    header   32 octets: magic, format, dimension, octets that are committed, checksum
    frame    24 octets: counts of removed and of added rows, checksum; then the removed rows, the
             added ones (64 bits each) and their vectors (32-bit floats)

A commit appends its frame, flushes it, and only then moves the mark in the header: whatever lies
behind the mark does not count, and whatever lies before it must be right. So a commit costs two
flushes, and neither its file nor its time grows with the collection.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from xxhash import xxh3_64_intdigest

from workers.search.derived import IndexDamaged
from workers.search.vectors.metrics import Floats, Rows

FORMAT: Final = 1
_MAGIC: Final = b"SMVL"
_HEADER: Final = struct.Struct("<4sIQQQ")
_FRAME: Final = struct.Struct("<QQQ")
_MODE: Final = 0o600


@dataclass(slots=True)
class Frame:
    """What one commit changed: first `removed` goes, then `rows` come, with their vectors."""

    removed: Rows
    rows: Rows
    matrix: Floats


class LogWriter:
    """A log that is open for appending."""

    def __init__(self, path: Path, dimension: int) -> None:
        """Go on with a log; what was not committed is dropped. Raises IndexDamaged."""
        self._dimension = dimension
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._end = _committed(self._file, path, dimension)
            os.ftruncate(self._file, self._end)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def make(path: Path, dimension: int) -> None:
        """Make an empty log. Its name is durable once the directory is flushed."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        file = os.open(path, flags, _MODE)
        try:
            _write(file, _header(dimension, _HEADER.size), 0)
            os.fsync(file)
        finally:
            os.close(file)

    def append(self, frame: Frame) -> None:
        """Commit a frame; it is on disk when this returns. After an error it is not there."""
        body = b"".join(
            (
                frame.removed.astype("<u8").tobytes(),
                frame.rows.astype("<u8").tobytes(),
                frame.matrix.astype("<f4").tobytes(),
            )
        )
        checksum = xxh3_64_intdigest(body, self._end)
        head = _FRAME.pack(len(frame.removed), len(frame.rows), checksum)
        _write(self._file, head + body, self._end)
        os.fdatasync(self._file)
        end = self._end + len(head) + len(body)
        _write(self._file, _header(self._dimension, end), 0)
        os.fdatasync(self._file)
        self._end = end

    def close(self) -> None:
        """Give the file back."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class LogReader:
    """A log that is followed, in any process. It holds no file open."""

    def __init__(self, path: Path, dimension: int) -> None:
        self._path = path
        self._dimension = dimension
        self._at = _HEADER.size

    def read(self) -> list[Frame]:
        """What was committed since the last call.

        Raises:
            IndexDamaged: a frame is not what was written.
            FileNotFoundError: the log has served its time, or was lost.
        """
        file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            end = _committed(file, self._path, self._dimension)
            data = _read(file, end - self._at, self._at)
        finally:
            os.close(file)
        frames: list[Frame] = []
        offset = 0
        while offset < len(data):
            frame, length = self._frame(data, offset)
            frames.append(frame)
            offset += length
        self._at = end
        return frames

    def _frame(self, data: bytes, offset: int) -> tuple[Frame, int]:
        if offset + _FRAME.size > len(data):
            raise self._damaged()
        removed, added, checksum = _FRAME.unpack_from(data, offset)
        start = offset + _FRAME.size
        end = start + 8 * (removed + added) + 4 * added * self._dimension
        if end > len(data):
            raise self._damaged()
        if xxh3_64_intdigest(memoryview(data)[start:end], self._at + offset) != checksum:
            raise self._damaged()
        numbers = np.frombuffer(data, "<u8", removed + added, start)
        vectors = np.frombuffer(data, "<f4", added * self._dimension, start + numbers.nbytes)
        matrix = vectors.reshape(added, self._dimension)
        return Frame(numbers[:removed], numbers[removed:], matrix), end - offset

    def _damaged(self) -> IndexDamaged:
        return IndexDamaged(f"{self._path.name} is not what was written")


def is_empty(path: Path) -> bool:
    """Whether a log was made and never used."""
    return path.stat().st_size <= _HEADER.size


def _header(dimension: int, end: int) -> bytes:
    head = _HEADER.pack(_MAGIC, FORMAT, dimension, end, 0)[:-8]
    return head + xxh3_64_intdigest(head).to_bytes(8, "little")


def _committed(file: int, path: Path, dimension: int) -> int:
    """The octets that count. Raises IndexDamaged."""
    for _ in range(5):
        data = os.pread(file, _HEADER.size, 0)
        if len(data) == _HEADER.size:
            magic, version, found, end, checksum = _HEADER.unpack(data)
            if checksum == xxh3_64_intdigest(data[:-8]):
                break
        time.sleep(0.001)  # it may have been read while it was written
    else:
        raise IndexDamaged(f"the header of {path.name} is not what was written")
    if (magic, version, found) != (_MAGIC, FORMAT, dimension):
        raise IndexDamaged(f"{path.name} is of another format or dimension")
    if os.fstat(file).st_size < end:
        raise IndexDamaged(f"{path.name} is shorter than it was")
    return int(end)


def _write(file: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written


def _read(file: int, length: int, offset: int) -> bytes:
    parts = []
    while length > 0:
        part = os.pread(file, length, offset)
        if not part:
            break
        parts.append(part)
        length, offset = length - len(part), offset + len(part)
    return b"".join(parts)
