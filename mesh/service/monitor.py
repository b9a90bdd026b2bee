"""What a worker tells over HTTP: its session's state, taken in the thread that drives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.core import Metric

from mesh.monitoring import families
from mesh.monitoring.http import Unresponsive
from mesh.service.runtime import Runtime

ANSWER_TTL = 2.0


class WorkerSource:
    """The figures of the worker that `runtime` runs, and what its service adds to them."""

    def __init__(self, runtime: Runtime, more: Callable[[], Iterable[Metric]] = lambda: ()) -> None:
        self._runtime = runtime
        self._more = more

    def status(self) -> dict[str, Any]:
        """`service`, `brokers`, `draining`, `in_hand` by lane, `counters`. Raises Unresponsive."""
        found = self._runtime.look(ANSWER_TTL)
        if found is None:
            raise Unresponsive(f"the worker's I/O has not turned for {ANSWER_TTL:g} s")
        return found

    def unready(self) -> list[str]:
        """A worker that is registered nowhere gets no work. Raises Unresponsive."""
        status = self.status()
        if status["draining"]:
            return ["the worker is leaving"]
        return [] if status["brokers"] else ["registered at no broker"]

    def families(self) -> Iterable[Metric]:
        """The figures, and those of the process. Raises Unresponsive."""
        return [*families.of_worker(self.status()), *self._more(), *families.of_process()]
