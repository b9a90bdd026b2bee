"""The broker and the workers of the job: started here, hurt on purpose, and cleared away."""

from __future__ import annotations

import asyncio
import os
import signal
from time import perf_counter
from typing import Any

from mesh.cli.processes import broker_process, start_broker, start_workers

TARGET = "examples.textmine.service:service"


class Cluster:
    """One broker on a free port of this machine, and several worker processes of the service."""

    def __init__(self, workers: int) -> None:
        self.size = workers
        self._seen: set[int] = set()
        self._broker, self.endpoint = start_broker()
        try:
            self._workers = start_workers(TARGET, [self.endpoint], workers)
        except BaseException:
            self._broker.end()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.end()
        self._broker.end()

    def kill_worker(self, pid: int) -> None:
        """What a crash or the kernel out of memory does to a process."""
        os.kill(pid, signal.SIGKILL)

    def kill_broker(self) -> None:
        """The same for the broker; everything that it held in memory is gone."""
        self._broker.kill()

    async def start_broker(self) -> None:
        """A new broker at the old address; returns when it listens."""
        self._broker = broker_process(self.endpoint)
        await asyncio.to_thread(self._broker.wait_for, "listening ")

    def survivors(self) -> list[int]:
        """The processes that still run: none, once the block has been left."""
        started = [process.pid for process in (self._broker, self._workers) if process.running]
        return started + sorted(filter(_exists, self._seen))

    async def wait_complete(self, mesh: Any, without: int = 0, timeout: float = 20.0) -> float:
        """Wait until all workers are registered, none of them with the process id `without`.

        Returns the seconds it took.
        """
        begun = perf_counter()
        while True:
            ready = [worker["pid"] for worker in (await status(mesh))["workers"]]
            self._seen.update(ready)
            took = perf_counter() - begun
            if len(ready) >= self.size and without not in ready:
                return took
            if took > timeout:
                raise TimeoutError(f"{len(ready)} of {self.size} workers after {timeout:g} s")
            # The broker tells its state when asked, it does not announce it.
            await asyncio.sleep(0.02)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def status(mesh: Any) -> dict[str, Any]:
    """What the broker says about itself and its workers."""
    options = mesh.options(priority="system", idempotent=True)
    found: dict[str, Any] = await options.call("mesh.broker.status")
    return found


def redispatched(counters: dict[str, int]) -> int:
    """Requests that a broker took from one worker and gave to another."""
    return sum(n for reason, n in counters.items() if reason.startswith("redispatched:"))


def resent(counters: dict[str, int]) -> int:
    """Requests that a client has sent again, after a broker was lost or a worker refused."""
    return sum(n for reason, n in counters.items() if reason.startswith(("resent:", "retried")))
