"""The folders of a mesh that runs: where it is noted, and who may use them."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from mesh.cli.output import Failure
from mesh.settings import Settings

LOCK = "up.lock"
MAX_NOTE = 4200


def monitored_in(folder: Path) -> Path:
    """Where the children of the mesh in that run folder tell of themselves.

    Raises:
        Failure: the folder cannot be used.
    """
    path = folder / "monitor"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", "name another folder: --run DIR") from None
    for left_behind in path.glob("*.sock"):
        left_behind.unlink()
    return path


def run_folder(settings: Settings, chosen: str | None) -> Path:
    """Where the running mesh is noted: by choice, in XDG_RUNTIME_DIR, or beside the data.

    Raises:
        Failure: none of these is given.
    """
    runtime, data = os.environ.get("XDG_RUNTIME_DIR"), settings.services.memory.data
    if chosen:
        return Path(chosen)
    if runtime:
        return Path(runtime) / "sage-mesh"
    if data:
        return Path(f"{data.rstrip('/')}.run")
    raise Failure("there is no place to note that the mesh runs", "name a folder: --run DIR")


def claim(run: Path) -> AbstractContextManager[None]:
    """Have the run folder for this process, as long as it is entered.

    Raises:
        Failure: another mesh has it, or it cannot be used.
    """
    return _claimed(run, str(run.resolve()), "name another folder: --run DIR")


def claim_data(folder: Path, run: Path | None, otherwise: str) -> AbstractContextManager[None]:
    """Have a directory of data for the mesh in the run folder `run` (None: it has none), likewise.

    Over one store two meshes would each have workers of the service, but only one of them a writer.
    `otherwise` says how to name another directory.

    Raises:
        Failure: another mesh has it, or it cannot be used.
    """
    return _claimed(folder, str(run.resolve()) if run is not None else "", otherwise)


@contextmanager
def _claimed(folder: Path, run: str, otherwise: str) -> Iterator[None]:
    """A lock file in `folder` names this process and `run` meanwhile."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Failure(f"{folder}: {error.strerror}", otherwise) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(lock, folder, otherwise) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n{run}\n".encode(errors="surrogateescape"), 0)
        yield
        fcntl.flock(lock, fcntl.LOCK_UN)  # a forked child may have the file open too
    finally:
        os.close(lock)


def _taken(lock: int, folder: Path, otherwise: str) -> Failure:
    """Who has `folder`, and what to do about it."""
    pid, _, run = os.pread(lock, MAX_NOTE, 0).decode(errors="replace").strip().partition("\n")
    where = f" in {run}" if run else ""
    data = "" if run == str(folder.resolve()) else f", with its data in {folder}"
    end = f"end it with `sage-mesh down --run {run}`" if run else "end it"
    return Failure(f"a mesh runs already{where} (pid {pid}){data}", f"{end}, or {otherwise}")


def down(folder: Path, timeout: float) -> None:
    """Have the mesh of a run folder drain, and wait for its end.

    Raises:
        Failure: none runs there, or it has not ended within `timeout` seconds.
    """
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Failure(f"no mesh runs in {folder}", "name its folder: --run DIR") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = int(os.pread(lock, MAX_NOTE, 0).split()[0])
    else:
        os.close(lock)
        raise Failure(f"no mesh runs in {folder}", "name its folder: --run DIR")
    os.kill(pid, signal.SIGTERM)
    waiter = threading.Thread(target=fcntl.flock, args=(lock, fcntl.LOCK_EX), daemon=True)
    waiter.start()
    waiter.join(timeout)
    if waiter.is_alive():
        raise Failure(f"pid {pid} still drains after {timeout:g} s", "wait, or give --timeout")
    os.close(lock)
