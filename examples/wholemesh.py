"""A whole mesh from one file: brought up, used, looked at, replaced while it serves, ended.

`sage-mesh up` runs what config/default.yaml says, at its ports if they are free; only the data
goes to a folder that is thrown away. The page cache runs on it: half-way the writer is killed, and
while a second one runs every process is replaced. Then thousands of files are archived, thousands
of documents loaded and searched, and each time a writer is killed. The commands show what the mesh
has seen.

Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path
from time import monotonic, sleep

from rich.console import Console

from examples import archive, librarian, pagecache

CONFIG = Path(__file__).resolve().parents[1] / "config" / "default.yaml"
PORT, METRICS_PORT = 8080, 9090


def port_near(wanted: int) -> int:
    """That port of 127.0.0.1 if nobody listens there, else any that is free."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise OSError("no port is free")


def until_ready(port: int) -> None:
    """Wait until all that runs should get work: new workers find a new broker within a second."""
    give_up_at = monotonic() + 20.0
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ready").close()
        except urllib.error.HTTPError:
            if monotonic() > give_up_at:
                raise
            sleep(0.1)
        else:
            return


class Command:
    """Runs `sage-mesh` with settings from the environment."""

    def __init__(self, run_folder: Path, environment: dict[str, str]) -> None:
        self._where = ["--config", str(CONFIG), "--run", str(run_folder)]
        self._environment = {**os.environ, **environment}

    def __call__(self, *words: str) -> int:
        """The exit code of one command, whose output is shown."""
        members = words[0] in ("up", "down", "ps", "rollout")
        command = [sys.executable, "-m", "mesh.cli", *words, *(self._where if members else [])]
        done = subprocess.run(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # In one piece: something else may be printing meanwhile.
        print(f"\n$ sage-mesh {' '.join(words)}\n{done.stdout.rstrip()}", flush=True)
        return done.returncode


def main(arguments: list[str] | None = None) -> int:
    """Run everything; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.wholemesh", description=__doc__)
    parser.add_argument("--requests", type=int, default=6_000, help="in all (default: 6000)")
    parser.add_argument("--pages", type=int, default=300, help="different pages (default: 300)")
    parser.add_argument("--files", type=int, default=3000, help="to archive (default: 3000)")
    parser.add_argument(
        "--documents", type=int, default=10_000, help="to search, at most (default: 10000)"
    )
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    port, metrics_port = port_near(PORT), port_near(METRICS_PORT)
    for wanted, found in ((PORT, port), (METRICS_PORT, metrics_port)):
        if wanted != found:
            console.print(f"port {wanted} is taken: {found} instead")
    address = f"127.0.0.1:{port}"
    cache = ["--address", address, "--pages", str(options.pages)]
    cache += ["--requests", str(options.requests // 2), "--clients", "1"]
    codes = []
    with tempfile.TemporaryDirectory(prefix="wholemesh-") as folder:
        mesh = Command(
            Path(folder) / "run",
            {
                "SAGE_MEMORY_DATA": str(Path(folder) / "data"),
                "SAGE_SERVICES_MEMORY_PROCESSES": "2",
                "SAGE_STORAGE_DATA": str(Path(folder) / "storage"),
                "SAGE_SERVICES_STORAGE_PROCESSES": "2",
                "SAGE_SEARCH_DATA": str(Path(folder) / "search"),
                "SAGE_SERVICES_SEARCH_PROCESSES": "2",
                "SAGE_SERVICE_PORT": str(port),
                "SAGE_MONITORING_ENABLED": "true",
                "SAGE_MONITORING_METRICS_PORT": str(metrics_port),
                "SAGE_BROKERS": "",
            },
        )
        if mesh("up", "--detach"):
            return 1
        try:
            codes += [mesh("ps"), pagecache.main(cache), mesh("history", "--broker", address)]

            def replace() -> None:
                codes.append(mesh("top", "--once", "--broker", address))
                codes.append(mesh("rollout"))

            replacing = threading.Thread(target=replace)
            replacing.start()
            codes.append(pagecache.main([*cache, "--spare-writer"]))
            replacing.join()
            until_ready(metrics_port)
            console.print()
            stored = ["--files", str(options.files), "--data", str(Path(folder) / "storage")]
            codes.append(archive.main([*stored, "--address", address]))
            console.print()
            asked = ["--documents", str(options.documents), "--address", address]
            codes.append(librarian.main(asked))
            codes.append(mesh("check", "--broker", address))
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as answer:
                figures = [line for line in answer if b"_total{" in line and b"answers" in line]
            console.print(f"\n[bold]$ curl 127.0.0.1:{metrics_port}/metrics[/]   a few of them:")
            print(b"".join(figures[:4]).decode().rstrip(), flush=True)
        finally:
            codes.append(mesh("down"))
    if any(codes):
        console.print("[bold red]NOT OK[/]: see above")
        return 1
    console.print(
        "[bold green]OK[/]: a mesh from one file; its writers were killed and all of it replaced "
        "under load, and nothing failed"
    )
    console.print("`make up` brings the same up and leaves it running.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
