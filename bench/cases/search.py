"""The search service beside libraries that run in the asking process: tantivy, FTS5, usearch."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from bench import stacks
from bench.harness import Case, Figures, Plan, Stack, Target, python

SEARCH, SEVERAL = "search service", "search service, 2 processes"
TANTIVY, SQLITE = "tantivy, in process", "sqlite fts5, in process"
KINDS = {SEARCH: "mesh", SEVERAL: "mesh", TANTIVY: "tantivy", SQLITE: "sqlite"}


def _service(processes: Stack, folder: str, workers: int = 1) -> str:
    _, address = stacks.mesh_broker(processes)
    stacks.mesh_worker(processes, address)
    stacks.search_service(processes, address, Path(folder) / "store", workers)
    return address


def _texts(name: str, plan: Plan) -> Figures:
    with tempfile.TemporaryDirectory() as folder, Stack() as processes:
        address = "-"
        if KINDS[name] == "mesh":
            address = _service(processes, folder, 1 if name == SEARCH else 2)
        return processes.run(
            *python("bench.searching", KINDS[name], address, "--seconds", plan.seconds,
                    "--count", plan.count(30_000, 2000), "--calls", plan.count(2000, 100))
        )  # fmt: skip


def _vectors(plan: Plan) -> Figures:
    with tempfile.TemporaryDirectory() as folder, Stack() as processes:
        address = _service(processes, folder)
        return processes.run(
            *python("bench.searching", "vectors", address, "--seconds", plan.seconds,
                    "--count", plan.count(20_000, 2000))
        )  # fmt: skip


def _many(plan: Plan) -> Figures:
    with tempfile.TemporaryDirectory() as folder, Stack() as processes:
        address = _service(processes, folder)
        count = plan.count(1_000_000, 20_000)
        found = processes.run(
            *python("bench.searching", "many", address, "--count", count), timeout=1800.0
        )
        data = Path(folder) / "store"
        files = [path.stat().st_blocks * 512 for path in data.rglob("*") if path.is_file()]
        return {**found, "MB on disk": sum(files) / 1e6}


CASES = (
    Case(
        "search-texts",
        "English texts of 40 words: documents loaded, on disk and searched when it returns (load); "
        "one query at a time (p50, p99, us); queries/s with 16 in flight; hits with documents",
        "documents/s, us, queries/s",
        {name: functools.partial(_texts, name) for name in KINDS},
        (
            Target("queries/s", SEARCH, 0.7, TANTIVY),
            Target("load", SEARCH, 0.6, TANTIVY),
        ),
    ),
    Case(
        "search-vectors",
        "The 10 nearest of 20,000 vectors of 64 numbers, 16 in flight; usearch in process",
        "queries/s",
        {SEARCH: _vectors},
        (Target("mesh", SEARCH, 0.6, other_figure="usearch"),),
    ),
    Case(
        "search-many",
        "A million documents of 8 words: load, a query at a time, disk",
        "documents/s, us, MB",
        {SEARCH: _many},
        rounds=1,
    ),
)
