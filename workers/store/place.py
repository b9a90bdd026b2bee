"""The data directory: who may see it, what it may lie on, and who else has it open.

A store is shared memory between the processes of one kernel. What is refused, and how it is seen:

* A network or host-shared file system: by the type of the mount. Nothing can be seen on systems
  without `/proc` (macOS); there the directory must be on a local disk.
* A second container on the same volume: by the pid namespace, which the first opener writes into
  the file `openers` under a record lock that every opener keeps. LMDB tells its readers apart by
  process number, and two containers give the same numbers out twice.
* A second machine on the same disk: only if their file system passes record locks on; those that
  do are refused by type. A plain file system mounted by two machines destroys itself, store or not.

Record locks end with the process that took them, however it ends. They also end when the process
closes *any* descriptor of the same file: nothing here opens a lock file twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mesh.errors import ConfigError

OPENERS: Final = "openers"
DATA: Final = "data.mdb"
LOCKS: Final = "lock.mdb"

SHARED_FILE_SYSTEMS: Final = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "fakeowner",
        "gfs2",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "prl_fs",
        "smb3",
        "smbfs",
        "vboxsf",
        "virtiofs",
        "vmhgfs",
    ]
)
"""Where memory maps or record locks do not hold between all that can open the file. So does no
`fuse` file system but `fuseblk` (a local disk)."""


def prepare(path: Path) -> None:
    """Make the directory `path`, or check one that is there, and keep it to its owner.

    Raises:
        ConfigError: it is not a directory, not ours, or lies where a store cannot work.
    """
    with usable(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"the data directory {path} belongs to user {found.st_uid} and this process runs as"
            f" user {os.geteuid()}; give it to that user, or name a directory below it"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        with usable(path):
            path.chmod(0o700)
    kind = file_system(path)
    if kind in SHARED_FILE_SYSTEMS or (kind.startswith("fuse") and kind != "fuseblk"):
        raise ConfigError(
            f"the data directory {path} lies on a {kind} file system, where a store cannot be"
            " shared safely between processes; use a local disk (in Kubernetes: a volume with"
            " the access mode ReadWriteOncePod), or another backend"
        )


@contextlib.contextmanager
def usable(path: Path) -> Iterator[None]:
    """Do something with files of the directory `path`.

    Raises:
        ConfigError: the system does not let us.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"the data directory {path} cannot be used: {error.strerror}; name another one, or"
            " make it accessible to the user of this process"
        ) from None


def file_system(path: Path) -> str:
    """The type of the file system that holds `path`, as the kernel names it; "" if unknown."""
    directory = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        facts = Path(f"/proc/self/fdinfo/{directory}").read_text()
        mount = next(line.split()[1] for line in facts.splitlines() if line.startswith("mnt_id:"))
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if line.startswith(f"{mount} "):
                return line.partition(" - ")[2].split()[0]
    except (OSError, StopIteration):
        pass
    finally:
        os.close(directory)
    return ""


def here() -> dict[str, str]:
    """What must be the same for all who open one store: the kernel, and the names of processes."""
    found = {"host": platform.node(), "boot": "", "processes": ""}
    with contextlib.suppress(OSError):
        found["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        found["processes"] = str(Path("/proc/self/ns/pid").stat().st_ino)
    return found


_joined: Final[set[tuple[int, int]]] = set()


class Openers:
    """The lock that each process keeps while it has the store open; the first is alone for a while.

    >>> openers = Openers(path)
    >>> if openers.alone: migrate()
    >>> openers.share()
    """

    def __init__(self, path: Path, *, exclusive: bool = False) -> None:
        """Join the openers of the directory `path`. Waits while another one is alone.

        `exclusive`: to be alone until `close`, or to fail.

        Raises:
            ConfigError: the store is open in another container, or `exclusive` and it is open.
        """
        self._path = path
        if (path / OPENERS).exists() and file_id(path / OPENERS) in _joined:
            # A second descriptor would drop the lock of the first one when it is closed.
            raise ConfigError(f"the store {path} is open in this process already; use that one")
        with usable(path):
            self._file = open_private(path / OPENERS)
        self._file_id = file_id(self._file)
        _joined.add(self._file_id)
        try:
            self.alone = self._try(fcntl.LOCK_EX)
            """Whether nobody else has the store open. Until `share`, others wait."""
            if self.alone:
                text = json.dumps(here()).encode()
                os.pwrite(self._file, text, 0)
                os.ftruncate(self._file, len(text))
            elif exclusive:
                raise ConfigError(f"the store {path} is in use; stop its processes first")
            else:
                fcntl.lockf(self._file, fcntl.LOCK_SH, 1)
                self._compare()
        except BaseException:
            self.close()
            raise

    def share(self) -> None:
        """Let others in. They keep off whoever wants to be alone."""
        fcntl.lockf(self._file, fcntl.LOCK_SH, 1)
        self.alone = False

    def close(self) -> None:
        """Leave."""
        _joined.discard(self._file_id)
        os.close(self._file)

    def _try(self, kind: int) -> bool:
        try:
            fcntl.lockf(self._file, kind | fcntl.LOCK_NB, 1)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _compare(self) -> None:
        try:
            other = json.loads(os.pread(self._file, 4096, 0))
        except ValueError:
            other = None
        if not isinstance(other, dict) or other != here():
            where = other.get("host", "unknown") if isinstance(other, dict) else "unknown"
            raise ConfigError(
                f"the store {self._path} is in use by another container or machine ({where});"
                " one store serves the processes of one container: run them there, or give this"
                " one a volume of its own"
            )


def file_id(file: Path | str | int) -> tuple[int, int]:
    """What tells a file from every other one, whatever its path."""
    found = os.stat(file)
    return found.st_dev, found.st_ino


def open_private(path: Path) -> int:
    """A descriptor of the file `path` for reading and writing; it is made for the owner alone."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def allocate(path: Path, size: int) -> None:
    """Give the new file `path` its blocks on disk, so that a full disk cannot hit it later.

    A hole in a file that is mapped into memory kills the process that touches it when no block is
    left. Must not be called for a file of LMDB that this process has open.
    """
    file = open_private(path)
    try:
        missing = size - os.fstat(file).st_size
        if missing > 0:
            os.pwrite(file, bytes(missing), size - missing)
    finally:
        os.close(file)


def sync_directory(path: Path) -> None:
    """Make the names in the directory `path` durable."""
    directory = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


os.register_at_fork(after_in_child=_joined.clear)  # a child has not inherited the locks
