"""The memory service beside Valkey with redis-py: 10,000 zipf keys, values of 100 octets.

Acknowledged by the memory service means on disk, always. Valkey is run twice: keeping nothing on
disk, which is the harder rival, and with `appendfsync always`, which promises the same.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import stacks
from bench.harness import Case, Figures, Plan, Stack, Target, python

MESH, EMPTY = "memory service", "empty call"
NOTHING_KEPT, ALWAYS = "valkey, no AOF", "valkey, fsync always"
SETTINGS = {
    NOTHING_KEPT: ("--appendonly", "no"),
    ALWAYS: ("--appendonly", "yes", "--appendfsync", "always"),
}


def _mesh(kind: str, role: str, options: tuple[object, ...]) -> Figures:
    with tempfile.TemporaryDirectory() as data, Stack() as processes:
        _, endpoint = stacks.mesh_broker(processes)
        if kind == "echo":
            stacks.mesh_worker(processes, endpoint)
        else:
            stacks.memory_service(processes, endpoint, Path(data) / "store")
        return processes.run(*python("bench.kv", role, kind, endpoint, *options))


def _valkey(settings: tuple[str, ...], role: str, options: tuple[object, ...]) -> Figures:
    with tempfile.TemporaryDirectory() as data, Stack() as processes:
        _, url = stacks.valkey_server(processes, Path(data), *settings)
        return processes.run(*python("bench.kv", role, "redis", url, *options))


def _rivals(
    names: tuple[str, ...], role: str, options: Callable[[Plan], tuple[object, ...]]
) -> dict[str, Callable[[Plan], Figures]]:
    """The rivals called `names`, each doing the same `role`."""

    def run(name: str, plan: Plan) -> Figures:
        if name in SETTINGS:
            return _valkey(SETTINGS[name], role, options(plan))
        return _mesh("echo" if name == EMPTY else "mesh", role, options(plan))

    return {name: functools.partial(run, name) for name in names}


def _mixed(windows: str, reads: float) -> Callable[[Plan], tuple[object, ...]]:
    return lambda plan: ("--windows", windows, "--seconds", plan.seconds, "--reads", reads)


def _timed(windows: str, share: float) -> Callable[[Plan], tuple[object, ...]]:
    return lambda plan: ("--windows", windows, "--seconds", plan.seconds * share)


CASES = (
    Case(
        "memory-mixed",
        "One asyncio client, 90 % reads, by operations in flight",
        "operations/s",
        _rivals((MESH, NOTHING_KEPT, ALWAYS, EMPTY), "mix", _mixed("64,256", 0.9)),
        (
            Target("64", MESH, 2.5, NOTHING_KEPT),
            Target("256", MESH, 2.5, NOTHING_KEPT),
        ),
    ),
    Case(
        "memory-writes",
        "One asyncio client, writes that are on disk when they return, by writes in flight",
        "writes/s",
        _rivals((MESH, ALWAYS, EMPTY), "mix", _mixed("128,256", 0.0)),
        (
            Target("128", MESH, 2.0, ALWAYS),
            Target("256", MESH, 3.0, ALWAYS),
        ),
    ),
    Case(
        "memory-batches",
        "One asyncio client, 100 keys at a time, by batches in flight; as one command, and as many",
        "keys/s",
        _rivals((MESH, NOTHING_KEPT, ALWAYS), "batches", _timed("1,16", 0.5)),
        (
            Target("get many 1", MESH, 2.0, NOTHING_KEPT, other_figure="gets 1"),
            Target("get many 16", MESH, 2.0, NOTHING_KEPT, other_figure="gets 16"),
            Target("set many 1", MESH, 2.0, ALWAYS, other_figure="sets 1"),
            Target("set many 16", MESH, 2.0, ALWAYS, other_figure="sets 16"),
        ),
    ),
    Case(
        "memory-single",
        "One blocking client, one operation at a time",
        "us",
        _rivals(
            (MESH, NOTHING_KEPT, ALWAYS, EMPTY),
            "single",
            lambda plan: ("--count", plan.count(3_000)),
        ),
    ),
    Case(
        "memory-ycsb",
        "Mixes of YCSB, one asyncio client, 64 operations in flight",
        "operations/s",
        _rivals((MESH, NOTHING_KEPT, ALWAYS), "ycsb", _timed("64", 0.7)),
    ),
)
