"""An archive over the storage service: thousands of real files, stored while the writer is killed.

The files are those of this Python installation. Several threads store them, each as an object; half
way the process that writes the store is killed, and another takes its place. Then everything is
read back and compared with the files by its SHA-256, an index of them is walked in order, and the
directory is verified and backed up while the service works.

Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

from rich import box
from rich.console import Console
from rich.table import Table

from mesh import MeshError, connect
from mesh.cli.processes import Process, broker_environment, start_broker
from mesh.client.storage import Storage

THREADS = 8


def files(limit: int) -> list[Path]:
    """Up to `limit` files of this Python installation, and its largest ones for certain."""
    root = Path(sysconfig.get_path("stdlib"))
    found = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
    if len(found) > limit:
        large = sorted(found, key=lambda path: path.stat().st_size)[-20:]
        found = large + [found[at * len(found) // limit] for at in range(limit - len(large))]
    return sorted(set(found))


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def start_service(stack: ExitStack) -> tuple[str, Path]:
    """A broker and a storage service of two processes that end with `stack`: address and data."""
    data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="archive-"))) / "storage"
    broker, endpoint = start_broker()
    stack.callback(broker.end)
    command = [sys.executable, "-P", "-m", "workers", "storage", "--broker", endpoint]
    workers = Process([*command, "--data", str(data), "--processes", "2"], env=broker_environment())
    stack.callback(workers.end)
    workers.wait_for("serving ", 2)
    return endpoint, data


def kill_writer(address: str, service: str = "storage") -> int:
    """kill -9 of the process that writes the store of a service; its number."""
    with connect(address) as mesh:
        workers = mesh.call("mesh.broker.status")["workers"]
    writer = next(
        worker["pid"]
        for worker in workers
        if worker["service"] == service and "writer" in worker["lanes"]
    )
    os.kill(writer, signal.SIGKILL)
    return int(writer)


class Run:
    """What is done with every file, by several threads; what went wrong is kept."""

    def __init__(self, root: Path) -> None:
        self.errors: list[str] = []
        self._root = root

    def name(self, path: Path) -> str:
        """The key of a file."""
        return path.relative_to(self._root).as_posix()

    def over(self, paths: Sequence[Path], act: Callable[[Path], None]) -> float:
        """Do `act` with every file; how many seconds it took."""

        def guarded(path: Path) -> None:
            try:
                act(path)
            except (MeshError, OSError, ValueError) as error:
                self.errors.append(f"{self.name(path)}: {type(error).__name__}: {error}")

        begun = perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(guarded, paths))
        return perf_counter() - begun


def keep(
    run: Run, bucket: Storage, half_way: threading.Event, count: int
) -> Callable[[Path], None]:
    """What stores one file, and says when half of `count` are stored."""
    stored = 0
    lock = threading.Lock()

    def act(path: Path) -> None:
        nonlocal stored
        kind = "text/x-python" if path.suffix == ".py" else "application/octet-stream"
        bucket.put_file(run.name(path), path, content_type=kind, resume=False)
        with lock:
            stored += 1
            if stored == count // 2:
                half_way.set()

    return act


def check(run: Run, bucket: Storage) -> Callable[[Path], None]:
    """What reads one file back and compares it."""

    def act(path: Path) -> None:
        found = bucket.get_object(run.name(path))
        if found is None:
            raise ValueError("it is not there")
        summed = hashlib.sha256()
        with found:
            for piece in found:
                summed.update(piece)
        if summed.hexdigest() != sha256(path):
            raise ValueError("it is not what was stored")

    return act


def care(*words: str) -> tuple[int, str]:
    """Run `sage-mesh storage ...`: exit code and last line."""
    done = subprocess.run(
        [sys.executable, "-m", "mesh.cli", "storage", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return done.returncode, (done.stdout.strip().splitlines() or [""])[-1]


def main(arguments: list[str] | None = None) -> int:
    """Run everything; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.archive", description=__doc__)
    parser.add_argument("--files", type=int, default=3000, help="at most (default: 3000)")
    parser.add_argument("--address", help="of a mesh with a storage service (default: start one)")
    parser.add_argument("--data", type=Path, help="the directory of that service")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    paths = files(options.files)
    size = sum(path.stat().st_size for path in paths)
    run = Run(Path(sysconfig.get_path("stdlib")))

    with ExitStack() as stack:
        address, data = options.address, options.data
        if address is None:
            address, data = start_service(stack)
        console.print(f"Storage service at {address}, 2 worker processes")
        m = stack.enter_context(connect(address))
        bucket = m.storage.bucket("archive")
        half_way = threading.Event()

        def kill_half_way() -> None:
            half_way.wait()
            console.print(f"  [yellow]![/] writer {kill_writer(address)} killed")

        killer = threading.Thread(target=kill_half_way)
        killer.start()
        writing = run.over(paths, keep(run, bucket, half_way, len(paths)))
        half_way.set()
        killer.join()
        reading = run.over(paths, check(run, bucket))
        listed = list(bucket.keys())
        if listed != sorted(map(run.name, paths), key=str.encode):
            run.errors.append(f"{len(listed)} keys are listed, {len(paths)} files were stored")
        bucket.put("index", {"files": len(paths), "octets": size})
        told = []
        if data is not None:
            for words in (("verify",), ("backup", str(data.with_name("archive-backup")))):
                code, line = care(*words, "--data", str(data))
                told.append((f"sage-mesh storage {words[0]}", line))
                if code:
                    run.errors.append(f"{words[0]}: {line}")

    table = Table(
        title="An archive", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        show_edge=False, pad_edge=False, show_header=False,
    )  # fmt: skip
    table.add_column()
    table.add_column(justify="right")
    for label, value in (
        ("files", f"{len(paths):,}"),
        ("octets", f"{size:,}"),
        ("stored, each on disk before the next", f"{writing:.1f} s, {len(paths) / writing:,.0f}/s"),
        ("read back and compared", f"{reading:.1f} s, {size / reading / 1e6:,.0f} MB/s"),
        *told,
        ("failed or wrong", f"{len(run.errors):,}"),
    ):
        table.add_row(label, value)
    console.print()
    console.print(table)
    console.print()
    for line in run.errors[:5]:
        console.print(line, style="red", markup=False)
    if run.errors:
        console.print(f"[bold red]NOT OK[/]: {len(run.errors)} failed or wrong")
        return 1
    console.print(f"[bold green]OK[/]: {len(paths):,} files stored, every checksum is right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
