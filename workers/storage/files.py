"""The content of large objects: a file each, complete and flushed before anything names it.

LMDB writes a file of 16 MiB at a quarter of the speed of the disk, and its dirty pages wait in
memory; so what is larger than one part is kept beside it.

    uploads/<id>    what is being sent, part by part, in any order
    objects/<id>    what is complete; never changed, until it is removed

A client on the same machine may write the file of its upload itself; as long as it does, it holds a
lock on it (`flock`). `finish` makes an upload an object: it checks that every part is what its
client sent, gives the file its second name, and flushes both. Only then may a transaction name it.
What a crash leaves in `uploads` is removed a day after the last part, together with an object of
that name if no transaction has named it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mesh.client.storage.local import write_part
from mesh.errors import (
    ConfigError,
    DataCorrupted,
    InvalidArgument,
    Overloaded,
    StoreBusy,
    StoreFull,
)
from mesh.protocol.storage import (
    DISK_RESERVE,
    MAX_PARTS,
    PART,
    PARTS_AT_A_TIME,
    part_digest,
)
from workers.store.place import sync_directory

MOST: Final = 1000
"""Uploads at a time."""
IDLE_TTL: Final = 300.0
"""Seconds after which an idle upload's file is closed; its next part opens it again."""
UPLOAD_TTL: Final = 24 * 3600.0
_OPEN: Final = 64


@dataclass(slots=True)
class Upload:
    """An upload as this process knows it: the digests of the parts that it wrote itself."""

    file: int
    used_at: float
    digests: dict[int, bytes] = field(default_factory=dict)
    users: int = 0
    ended: bool = False
    sealed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class Files:
    """The two directories under that of the store. `clock`: seconds, monotonic."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._objects = path / "objects"
        self._uploading = path / "uploads"
        try:
            self._objects.mkdir(mode=0o700, exist_ok=True)
            self._uploading.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{path} cannot hold objects: {error.strerror}") from None
        self._clock = clock
        self._lock = threading.Lock()
        self._uploads: dict[bytes, Upload] = {}
        self._reading: dict[bytes, int] = {}

    # ---------------------------------------------------------------- writing

    def write(self, name: bytes, number: int, data: bytes, digest: bytes) -> None:
        """Write a part of an upload, which begins with its first one.

        Raises:
            InvalidArgument: it has become an object, which is never changed.
            StoreBusy: a client is writing it itself.
            StoreFull: the disk is.
            Overloaded: too many uploads.
        """
        disk = os.statvfs(self._uploading)
        if disk.f_bavail * disk.f_frsize < DISK_RESERVE + len(data):
            raise _no_room()
        if self.has(name):
            raise _finished()
        upload = self._enter(name)
        try:
            with upload.lock:
                if upload.sealed:
                    raise _finished()
                if _held(upload.file):
                    raise _busy()
                write_part(upload.file, number, data)
                # Only after writing: whoever takes the lock then finds that the file has something.
                if not _held(upload.file):
                    upload.digests[number] = digest
        except OSError as error:
            raise _translated(error) from error
        finally:
            self._leave(upload)

    def share(self, name: bytes) -> str:
        """Begin an upload that a client on this machine may write itself; the path of its file.

        Empty if it has begun before.
        """
        path = self._uploading / name.hex()
        if path.exists() or self.has(name):
            return ""
        self._leave(self._enter(name))
        return str(path)

    def parts(self, name: bytes, start: int = 0, count: int = PARTS_AT_A_TIME) -> list[bytes]:
        """The digests of up to `count` parts of an upload from `start` on.

        Of one that has not arrived that of zeros, and none beyond its end.
        """
        if self.has(name):
            file = os.open(self._objects / name.hex(), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return [_digest(file, number) for number in _there(file, start, count)]
            finally:
                os.close(file)
        if not (self._uploading / name.hex()).exists():
            return []
        upload = self._enter(name)
        try:
            with upload.lock:
                held = _held(upload.file)
                numbers = _there(upload.file, start, count)
                found = [_known(upload, number) for number in numbers]
                if not held:
                    upload.digests.update(zip(numbers, found, strict=True))
                return found
        finally:
            self._leave(upload)

    def finish(self, name: bytes, size: int, digests: bytes) -> None:
        """Make an upload an object of `size` octets whose parts have `digests`, on disk.

        Raises:
            InvalidArgument: a part is missing, or is not what `digests` says.
            StoreBusy: a client is writing it itself.
        """
        if self.has(name):
            return self._finish_again(name, digests)
        if not (self._uploading / name.hex()).exists():
            raise InvalidArgument("there is no such upload: it was finished, abandoned or too old")
        upload = self._enter(name)
        try:
            with upload.lock:
                if upload.sealed:
                    return self._finish_again(name, digests)
                if _held(upload.file):
                    raise _busy()
                _check(upload, size, digests)
                # The name first: then one flush takes both to the disk, on most file systems.
                os.link(self._uploading / name.hex(), self._objects / name.hex())
                upload.sealed = True
            self._flush(name)
        except OSError as error:
            # What a disk has refused to flush it may have lost: none of it can be trusted.
            self.remove(name)
            self.discard(name)
            raise _translated(error) from error
        finally:
            self._leave(upload)

    def _finish_again(self, name: bytes, digests: bytes) -> None:
        """An upload was finished before, by one who may have been killed before it was on disk."""
        if b"".join(self.parts(name, 0, MAX_PARTS)) != digests:
            raise _finished()
        self._flush(name)

    def _flush(self, name: bytes) -> None:
        """Put an object's file on disk, and its name."""
        file = os.open(self._objects / name.hex(), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        sync_directory(self._objects)

    def discard(self, name: bytes) -> bool:
        """Forget an upload; an object that was made of it stays. Whether there was one."""
        with self._lock:
            upload = self._uploads.pop(name, None)
            if upload is not None:
                self._close(upload)
        with suppress(FileNotFoundError):
            (self._uploading / name.hex()).unlink()
            return True
        return False

    def has(self, name: bytes) -> bool:
        """Whether there is the file of an object."""
        return (self._objects / name.hex()).exists()

    def remove(self, name: bytes) -> None:
        """Remove an object."""
        with self._lock:
            file = self._reading.pop(name, None)
            if file is not None:
                os.close(file)
        with suppress(FileNotFoundError):
            (self._objects / name.hex()).unlink()

    def sweep(self, now: float, named: Callable[[bytes], bool]) -> int:
        """Remove uploads without a part for a day, and objects that nothing has `named`.

        `now`: Unix time, as that of files. How many.
        """
        with self._lock:
            for name, upload in list(self._uploads.items()):
                if not upload.users and self._clock() - upload.used_at > IDLE_TTL:
                    del self._uploads[name]
                    self._close(upload)
        swept = 0
        for held in self._uploading.parent.glob("backup-*"):  # of one that was interrupted
            if held.stat().st_mtime < now - UPLOAD_TTL:
                shutil.rmtree(held, ignore_errors=True)
        for path in list(self._uploading.iterdir()):
            try:
                name = bytes.fromhex(path.name)
                old = path.stat().st_mtime < now - UPLOAD_TTL
            except (ValueError, FileNotFoundError):
                continue
            if name in self._uploads:  # in use
                continue
            if self.has(name) and named(name):
                self.discard(name)
            elif old:
                self.remove(name)
                self.discard(name)
                swept += 1
        return swept

    # ---------------------------------------------------------------- reading

    def read(self, name: bytes, start: int, length: int) -> bytes:
        """Octets of an object.

        Raises:
            DataCorrupted: its file is gone, or shorter.
        """
        with self._lock:
            file = self._reading.pop(name, None)
            try:
                if file is None:
                    file = os.open(self._objects / name.hex(), os.O_RDONLY | os.O_CLOEXEC)
                self._reading[name] = file  # the last one that was used stands last
                while len(self._reading) > _OPEN:
                    os.close(self._reading.pop(next(iter(self._reading))))
                copy = os.dup(file)
            except OSError as error:
                raise DataCorrupted(
                    f"the file of object {name.hex()} cannot be read ({error.strerror}); "
                    "restore a backup",
                    data={"blob": name.hex()},
                ) from error
        try:
            found = os.pread(copy, length, start)
        except OSError as error:
            raise DataCorrupted(
                f"reading object {name.hex()} failed ({error.strerror}); check the disk",
                data={"blob": name.hex()},
            ) from error
        finally:
            os.close(copy)
        return found

    def let_go(self) -> None:
        """Close what is kept open for reading and was removed: until then it takes its room."""
        with self._lock:
            for name, file in list(self._reading.items()):
                if not os.fstat(file).st_nlink:
                    os.close(self._reading.pop(name))

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for upload in self._uploads.values():
                self._close(upload)
            for file in self._reading.values():
                os.close(file)
            self._uploads.clear()
            self._reading.clear()

    # ---------------------------------------------------------------- uploads

    def _enter(self, name: bytes) -> Upload:
        with self._lock:
            upload = self._uploads.get(name)
            if upload is None:
                if len(self._uploads) >= MOST:
                    raise Overloaded(f"{MOST} uploads are under way already", retry_after=1.0)
                try:
                    path = self._uploading / name.hex()
                    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                except OSError as error:
                    raise _translated(error) from error
                upload = self._uploads[name] = Upload(file, self._clock())
            upload.used_at = self._clock()
            upload.users += 1
            return upload

    def _leave(self, upload: Upload) -> None:
        with self._lock:
            upload.users -= 1
            if upload.ended:
                self._close(upload)

    def _close(self, upload: Upload) -> None:
        """Close its file now, or when the last one who uses it leaves."""
        upload.ended = True
        if not upload.users:
            os.close(upload.file)


def _there(file: int, start: int, count: int) -> range:
    """The numbers of up to `count` parts of a file."""
    return range(start, min(start + count, -(-os.fstat(file).st_size // PART)))


def _digest(file: int, number: int) -> bytes:
    """Of a part as it lies in a file; holes are parts of zeros."""
    return part_digest(os.pread(file, PART, number * PART))


def _known(upload: Upload, number: int) -> bytes:
    """The digest of a part; that of one that another process has written is not known yet."""
    return upload.digests.get(number) or _digest(upload.file, number)


def _check(upload: Upload, size: int, digests: bytes) -> None:
    """Raise InvalidArgument unless an upload is what its client has sent."""
    there = os.fstat(upload.file).st_size
    if there != size:
        raise InvalidArgument(
            f"the upload has {there:,} octets, not {size:,}: send the parts that are missing"
        )
    for number in range(len(digests) // 8):
        if _known(upload, number) != digests[number * 8 : number * 8 + 8]:
            raise InvalidArgument(
                f"part {number} of the upload is not what its client sent; send it again",
                data={"part": number},
            )


def _busy() -> StoreBusy:
    return StoreBusy("a client on this machine is writing this upload itself", retry_after=0.1)


def _finished() -> InvalidArgument:
    return InvalidArgument(
        "this upload has become an object already; begin a new one", data={"finished": True}
    )


def _held(file: int) -> bool:
    """Whether a client holds the lock of an upload that it writes itself."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _translated(error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return _no_room()
    return error


def _no_room() -> StoreFull:
    return StoreFull("the disk is full; make room, nothing is lost", retry_after=1.0)
