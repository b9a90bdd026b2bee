"""The search service beside libraries that run in the asking process: tantivy, FTS5, usearch."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from bench import stacks
from bench.harness import Case, Figures, Plan, Stack, Target, python

SEARCH, SEVERAL = "search service", "search service, 2 processes"
TANTIVY, SQLITE = "tantivy, in process", "sqlite fts5, in process"
COLUMNS = "tantivy with the service's columns, one thread"
KINDS = {
    SEARCH: "mesh", SEVERAL: "mesh", TANTIVY: "tantivy", COLUMNS: "columns", SQLITE: "sqlite",
}  # fmt: skip


def _service(processes: Stack, folder: str, workers: int = 1) -> tuple[str, int]:
    """Its address, and its process."""
    _, address = stacks.mesh_broker(processes)
    stacks.mesh_worker(processes, address)
    child = stacks.search_service(processes, address, Path(folder) / "store", workers)
    return address, child.pid


def _texts(name: str, plan: Plan) -> Figures:
    with tempfile.TemporaryDirectory() as folder, Stack() as processes:
        address, service = "-", 0
        if KINDS[name] == "mesh":
            address, service = _service(processes, folder, 1 if name == SEARCH else 2)
        return processes.run(
            *python("bench.searching", KINDS[name], address, "--seconds", plan.seconds,
                    "--count", plan.count(30_000, 2000), "--calls", plan.count(2000, 100),
                    "--service", service)
        )  # fmt: skip


def _vectors(plan: Plan) -> Figures:
    with tempfile.TemporaryDirectory() as folder, Stack() as processes:
        address, service = _service(processes, folder)
        return processes.run(
            *python("bench.searching", "vectors", address, "--seconds", plan.seconds,
                    "--count", plan.count(20_000, 2000), "--service", service)
        )  # fmt: skip


def _many(plan: Plan) -> Figures:
    with tempfile.TemporaryDirectory() as folder, Stack() as processes:
        address, service = _service(processes, folder)
        count = plan.count(1_000_000, 20_000)
        found = processes.run(
            *python("bench.searching", "many", address, "--count", count), timeout=1800.0
        )
        data = Path(folder) / "store"
        files = [path.stat().st_blocks * 512 for path in data.rglob("*") if path.is_file()]
        memory = sum(map(_memory, (service, *_children(service))))
        return {**found, "MB on disk": sum(files) / 1e6, "MB of memory": memory / 1e6}


def _children(process: int) -> list[int]:
    return [*map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]


def _memory(process: int) -> int:
    """Octets of a process that no file backs."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return sum([int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")])


CASES = (
    Case(
        "search-texts",
        "English texts of 40 words: documents loaded, on disk and searched when it returns (load); "
        "one query at a time (p50, p99, us); queries/s with 16 in flight, by the clock and by the "
        "processor time of the service; hits with documents; all queries differ",
        "documents/s, us, queries/s",
        {name: functools.partial(_texts, name) for name in KINDS},
        (
            Target("queries/s of a core", SEARCH, 0.7, TANTIVY),
            Target("load", SEARCH, 0.6, TANTIVY),
            Target("p50 less 1.2 empty calls", SEARCH, 1.0, TANTIVY, True, "p50"),
        ),
    ),
    Case(
        "search-vectors",
        "The 10 nearest of 20,000 vectors of 64 numbers, 16 in flight: right after the load, and "
        "with the graphs built; by the clock, by the service's processor time; usearch in process",
        "queries/s",
        {SEARCH: _vectors},
        (Target("settled, of a core", SEARCH, 0.6, other_figure="usearch"),),
    ),
    Case(
        "search-many",
        "A million documents of 8 words: load, a query at a time; disk and memory of the service",
        "documents/s, us, MB",
        {SEARCH: _many},
        rounds=1,
    ),
)
