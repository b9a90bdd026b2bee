"""What is bounded: memory under a slow reader, and the time that failures cost."""

from __future__ import annotations

import threading

from bench import stacks
from bench.harness import Case, Child, Figures, Plan, Stack, Target, python


class MemoryWatch:
    """The highest growth of each process's private memory while the block runs, in MB."""

    def __init__(self, **children: Child) -> None:
        self._children = children
        self._before = {name: child.anonymous_memory() for name, child in children.items()}
        self._highest = dict(self._before)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self._look()

    def _look(self) -> None:
        for name, child in self._children.items():
            self._highest[name] = max(self._highest[name], child.anonymous_memory())

    def growth(self) -> Figures:
        return {name: (self._highest[name] - self._before[name]) / 1e6 for name in self._children}


def slow_reader(plan: Plan) -> Figures:
    with Stack() as processes:
        broker, endpoint = stacks.mesh_broker(processes)
        worker = stacks.mesh_worker(processes, endpoint)
        with MemoryWatch(broker=broker, worker=worker) as watch:
            count = plan.count(1_000_000)
            command = python("bench.client", "slow-reader", endpoint, "--count", count)
            figures = processes.run(*command)
        return {**watch.growth(), **figures}


def failures(plan: Plan) -> Figures:
    with Stack() as processes:
        return processes.run(*python("bench.failures", plan.count(10, 2)))


CASES = (
    Case(
        "memory",
        "A stream of a million items of 256 octets to a slow reader: growth of each process",
        "MB",
        {"mesh": slow_reader},
        tuple(Target(name, "mesh", 64, at_most=True) for name in ("broker", "worker", "client")),
        rounds=2,
    ),
    Case(
        "failures",
        "kill -9 of one of two workers, and of the broker, under load",
        "ms",
        {"mesh": failures},
        (
            Target("extra wait", "mesh", 50, at_most=True),
            Target("notice", "mesh", 20, at_most=True),
            Target("resume", "mesh", 1000, at_most=True),
        ),
        rounds=2,
    ),
)
