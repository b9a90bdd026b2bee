"""A page cache over the memory service: several processes, one of which is killed on the way.

Each client process serves requests for pages, which are made from the source files of Python: some
files are asked for much more often than others. A page that nobody has made yet is made once, for
all who ask; each request also counts a hit and keeps a session alive. Half-way the process that
writes the store is killed. In the end every counter must be what the clients were told, and every
page in the cache must be right.

Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import accumulate
from time import perf_counter, sleep
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from examples.textmine import analysis, corpus
from mesh import MeshError, connect
from sage.service.memory import MemoryService
from sage.service.memory.api import MemoryServiceClient

SKEW = 0.9
SESSIONS = 200
RENDERING = 0.02


@dataclass
class Served:
    """What one process, or all of them, have done."""

    requests: int = 0
    made: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, other: Served) -> None:
        """Add what another process has done."""
        self.requests += other.requests
        self.made += other.made
        self.hits += other.hits
        self.errors += other.errors
        self.seconds += other.seconds


def page(path: str, text: str) -> dict[str, Any]:
    """The page of a file: its outline, and what identifies its content."""
    return {
        "path": path,
        "outline": list(analysis.outline(text)),
        "digest": hashlib.sha256(text.encode()).digest(),
    }


def serve(address: str, texts: dict[str, str], requests: int, threads: int, seed: int) -> Served:
    """Serve `requests` requests from `threads` threads that share one client."""
    paths = list(texts)
    weights = list(accumulate((rank + 1) ** -SKEW for rank in range(len(paths))))
    served = Served()
    lock = threading.Lock()

    with MemoryServiceClient(address) as client:

        def work(number: int) -> None:
            rng = random.Random(f"{seed} {number}")
            for path in rng.choices(paths, cum_weights=weights, k=requests // threads):

                def make(path: str = path) -> dict[str, Any]:
                    with lock:
                        served.made += 1
                    sleep(RENDERING)  # what a database or a template would take
                    return page(path, texts[path])

                begun = perf_counter()
                try:
                    found = client.get_or_set(f"page:{path}", make, ttl=300, tags=["pages"])
                    if found["path"] != path:
                        raise ValueError(f"{path}: the page of {found['path']}")
                    client.increment(f"hits:{path}")
                    session = f"session:{rng.randrange(SESSIONS)}"
                    if client.get_and_touch(session, ttl=60) is None:
                        client.set(session, {"began": path}, ttl=60)
                except (MeshError, ValueError) as error:
                    with lock:
                        served.errors.append(f"{type(error).__name__}: {error}")
                    continue
                with lock:
                    served.requests += 1
                    served.hits[path] += 1
                    served.seconds.append(perf_counter() - begun)

        running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    return served


def quick_start(client: MemoryServiceClient, console: Console) -> None:
    """The first lines that anybody types."""
    client.store("user_session", {"user_id": 123, "name": "Alice"})
    session = client.retrieve("user_session")
    console.print(f"  store, retrieve: {session}")
    client.set("greeting", "hello", ttl=60, tags=["texts"])
    with client.lock("report", ttl=5) as lock:
        visits = client.increment("visits", 2)
        console.print(f"  visits: {visits}, counted under lock number {lock.token}")
    console.print(f"  keys: {sorted(client.scan())}")
    console.print(f"  health: {client.health_check()['status']}")


def start_service(stack: ExitStack) -> str:
    """Start a memory service that ends with `stack`; its address."""
    data = stack.enter_context(tempfile.TemporaryDirectory(prefix="pagecache-"))
    service = MemoryService(port=0, data=data, cache_size="64MB", processes=2)
    return stack.enter_context(service).address


def kill_writer(address: str) -> int:
    """kill -9 of the process that writes the store; its number."""
    with connect(address) as mesh:
        workers = mesh.call("mesh.broker.status")["workers"]
    writer = next(worker["pid"] for worker in workers if "writer" in worker["lanes"])
    os.kill(writer, signal.SIGKILL)
    return int(writer)


def half_way(client: MemoryServiceClient, requests: int, running: Sequence[Future[Any]]) -> None:
    """Wait until half of `requests` have been counted, or all have ended."""
    while wait_for(running, timeout=0.05).not_done:
        counted = sum(value for _, value in client.scan_items("hits:"))
        if counted >= requests // 2:
            return


def wrong_in_store(
    client: MemoryServiceClient, served: Served, texts: dict[str, str]
) -> tuple[int, list[str]]:
    """How many counters and pages were compared, and every one that is not right."""
    wrong = []
    counters = dict(client.scan_items("hits:"))
    for path in counters.keys() | {f"hits:{path}" for path in served.hits}:
        told = served.hits[path.removeprefix("hits:")]
        if counters.get(path) != told:
            wrong.append(f"{path} is {counters.get(path)}, the clients were told {told}")
    pages = dict(client.scan_items("page:"))
    for key, found in pages.items():
        path = key.removeprefix("page:")
        if found != page(path, texts[path]):
            wrong.append(f"{key} is not what the file gives")
    return len(counters) + len(pages), wrong


def main(arguments: list[str] | None = None) -> int:
    """Run everything; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.pagecache", description=__doc__)
    parser.add_argument("--requests", type=int, default=12_000, help="in all (default: 12000)")
    parser.add_argument("--clients", type=int, default=2, help="client processes (default: 2)")
    parser.add_argument("--pages", type=int, default=400, help="different pages (default: 400)")
    parser.add_argument("--address", help="of a memory service that runs (default: start one)")
    parser.add_argument("--spare-writer", action="store_true", help="do not kill the writer")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    texts = corpus.read(options.pages)
    threads = 8

    with ExitStack() as stack:
        address = options.address or start_service(stack)
        client = stack.enter_context(MemoryServiceClient(address))
        console.print(f"Memory service at {address}, 2 worker processes, data on disk")
        client.clear()
        quick_start(client, console)
        client.clear()

        context = multiprocessing.get_context("spawn")
        served = Served()
        begun = perf_counter()
        with ProcessPoolExecutor(options.clients, mp_context=context) as pool:
            share = options.requests // options.clients
            running = [
                pool.submit(serve, address, texts, share, threads, seed)
                for seed in range(options.clients)
            ]
            half_way(client, options.requests, running)
            if not options.spare_writer:
                console.print(f"  [yellow]![/] writer {kill_writer(address)} killed")
            for one in running:
                served.add(one.result())
        took = perf_counter() - begun
        compared, wrong = wrong_in_store(client, served, texts)

    times = sorted(served.seconds) or [0.0]
    table = Table(
        title="A page cache", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        show_edge=False, pad_edge=False, show_header=False,
    )  # fmt: skip
    table.add_column()
    table.add_column(justify="right")
    for label, value in (
        ("requests", f"{served.requests:,}"),
        ("... per second", f"{served.requests / took:,.0f}"),
        ("calls to the service for them", f"{3 * served.requests:,} and more"),
        ("different pages", f"{len(served.hits):,}"),
        ("pages made", f"{served.made:,}"),
        ("served from the cache", f"{1 - served.made / max(1, served.requests):.1%}"),
        ("a usual request", f"{times[len(times) // 2] * 1e3:.1f} ms"),
        ("slowest request, the writer's death included", f"{times[-1]:.3f} s"),
        ("requests that failed", f"{len(served.errors):,}"),
        ("counters and pages compared", f"{compared:,}"),
        ("... of them wrong", f"{len(wrong):,}"),
    ):
        table.add_row(label, value)
    console.print()
    console.print(table)
    console.print()
    for line in [*wrong[:5], *served.errors[:5]]:
        console.print(line, style="red", markup=False)
    if wrong or served.errors or served.requests < len(served.hits):
        console.print(f"[bold red]NOT OK[/]: {len(wrong)} wrong, {len(served.errors)} failed")
        return 1
    console.print(
        f"[bold green]OK[/]: every counter is what the clients were told, "
        f"every page is right; {served.requests:,} requests, 0 failed"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
