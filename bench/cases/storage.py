"""The storage service beside stores that promise the same: acknowledged means on disk.

Valkey with `appendfsync always` and redis-py, PostgreSQL with psycopg (a commit per put), SQLite in
the client's own process (WAL, synchronous FULL: no server, no network). Objects beside a plain file
that is written and flushed.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import stacks
from bench.harness import Case, Figures, Plan, Stack, Target, python

STORAGE, VALKEY, POSTGRES, SQLITE = (
    "storage service", "valkey, fsync always", "postgresql", "sqlite, in process",
)  # fmt: skip
KINDS = {STORAGE: "storage", VALKEY: "redis", POSTGRES: "postgres", SQLITE: "sqlite"}


def _run(
    name: str, role: str, options: Callable[[Plan], tuple[object, ...]], plan: Plan
) -> Figures:
    with tempfile.TemporaryDirectory() as folder, Stack() as processes:
        data = Path(folder)
        if name == STORAGE:
            _, address = stacks.mesh_broker(processes)
            stacks.storage_service(processes, address, data / "store")
        elif name == VALKEY:
            always = ("--appendonly", "yes", "--appendfsync", "always")
            _, address = stacks.valkey_server(processes, data, *always)
        elif name == POSTGRES:
            _, address = stacks.postgres_server(processes, data)
        else:
            address = str(data / "sqlite.db")
        return processes.run(*python("bench.kv", role, KINDS[name], address, *options(plan)))


def _rivals(
    names: tuple[str, ...], role: str, options: Callable[[Plan], tuple[object, ...]]
) -> dict[str, Callable[[Plan], Figures]]:
    return {name: functools.partial(_run, name, role, options) for name in names}


def _mixed(windows: str, reads: float) -> Callable[[Plan], tuple[object, ...]]:
    return lambda plan: ("--windows", windows, "--seconds", plan.seconds, "--reads", reads)


def _objects(plan: Plan) -> Figures:
    with tempfile.TemporaryDirectory() as folder, Stack() as processes:
        _, address = stacks.mesh_broker(processes)
        stacks.storage_service(processes, address, Path(folder) / "store")
        count = plan.count(16, 3)
        return processes.run(*python("bench.objects", "objects", address, folder, "--count", count))


def _space(size: int, plan: Plan) -> float:
    """Octets on disk for each octet stored, in values of `size` octets."""
    count = plan.count(min(100_000, 200 * 1024 * 1024 // size), 20)
    with tempfile.TemporaryDirectory() as folder, Stack() as processes:
        data = Path(folder) / "store"
        _, address = stacks.mesh_broker(processes)
        stacks.storage_service(processes, address, data)
        processes.run(*python("bench.objects", "fill", address, "-", "--count", count,
                              "--size", size))  # fmt: skip
        used = sum(path.stat().st_blocks * 512 for path in data.rglob("*") if path.is_file())
        return used / (count * size)


def _spaces(plan: Plan) -> Figures:
    sizes = {"100 B": 100, "1 KB": 1000, "4 KB": 4000, "1 MB": 1_000_000}
    return {name: _space(size, plan) for name, size in sizes.items()}


def _many(plan: Plan) -> Figures:
    """p50 of a get over 10,000 records, and over as many as asked for."""
    count = int(os.environ.get("SAGE_BENCH_RECORDS", "0")) or plan.count(1_000_000, 50_000)
    found: Figures = {}
    for name, records in (("10 thousand", 10_000), ("many", count)):
        with tempfile.TemporaryDirectory() as folder, Stack() as processes:
            _, address = stacks.mesh_broker(processes)
            stacks.storage_service(processes, address, Path(folder) / "store")
            figures = processes.run(
                *python("bench.objects", "many", address, "-", "--count", records), timeout=1800.0
            )
            found[name] = figures["p50"]
    return found


CASES = (
    Case(
        "storage-puts",
        "One asyncio client, puts of 100 octets that are on disk when they return, by puts in "
        "flight",
        "puts/s",
        _rivals((STORAGE, VALKEY, POSTGRES, SQLITE), "mix", _mixed("1,16,128,512", 0.0)),
        (
            Target("128", STORAGE, 2.0, VALKEY),
            Target("512", STORAGE, 3.0, VALKEY),
        ),
    ),
    Case(
        "storage-gets",
        "One asyncio client, gets of 100 octets, by gets in flight",
        "gets/s",
        _rivals((STORAGE, VALKEY, POSTGRES), "mix", _mixed("64,256", 1.0)),
        (Target("64", STORAGE, 2.5, VALKEY), Target("256", STORAGE, 2.5, VALKEY)),
    ),
    Case(
        "storage-batches",
        "One asyncio client, 100 keys at a time, by batches in flight; as one command, and as many",
        "keys/s",
        _rivals(
            (STORAGE, VALKEY),
            "batches",
            lambda plan: ("--windows", "1,16", "--seconds", plan.seconds * 0.5),
        ),
        (Target("set many 16", STORAGE, 100_000),),
    ),
    Case(
        "storage-objects",
        "One blocking client on the same machine, objects of 16 MiB, on disk when it returns; in "
        "turns with a plain file that is written and flushed, and with a client that sends all",
        "MB/s",
        {STORAGE: _objects},
        (Target("put", STORAGE, 0.6, other_figure="put, plain file"),),
    ),
    Case(
        "storage-space",
        "Octets on disk for each octet stored, by the size of values",
        "octets",
        {STORAGE: _spaces},
        rounds=1,
    ),
    Case(
        "storage-many",
        "p50 of a get by a blocking client, by the number of records (SAGE_BENCH_RECORDS)",
        "us",
        {STORAGE: _many},
        (Target("many", STORAGE, 1.5, at_most=True, other_figure="10 thousand"),),
        rounds=2,
    ),
)
