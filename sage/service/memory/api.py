"""`MemoryServiceClient`: calls a memory service at an address."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from mesh.client import connect
from mesh.client.memory import Memory
from mesh.errors import MeshError
from mesh.protocol.memory import DEFAULT_NAMESPACE, check_namespace

SERVICE = "memory"
# The lane of those who wait for something to happen: that takes as long as it takes.
WATCH = "watch"
CHECK_TIMEOUT = 5.0


class MemoryServiceClient(Memory):
    """All verbs of `mesh.client.memory.Memory`, with a connection of its own.

    Any number of threads may use it. Also a context manager.

    Args:
        address: HOST:PORT of the service, or any endpoint of a broker; several are used together.
        timeout: seconds after which a call ends with DeadlineExceeded.
        namespace: whose keys these are.
    """

    def __init__(
        self, *address: str, timeout: float = 30.0, namespace: str = DEFAULT_NAMESPACE
    ) -> None:
        self._mesh = connect(*(address or ("localhost:8080",)), timeout=timeout)
        super().__init__(self._mesh, timeout, check_namespace(namespace))

    def store(
        self, key: str, value: Any, *, ttl: float | None = None, tags: Iterable[str] = ()
    ) -> int:
        """Keep a value, for `ttl` seconds or for ever; its version."""
        return self.set(key, value, ttl=ttl, tags=tags)

    def retrieve(self, key: str, default: Any = None) -> Any:
        """The value of a key; `default` if there is none."""
        return self.get(key, default)

    def health_check(self) -> dict[str, Any]:
        """Whether the service answers: `{"status": "healthy" | "unhealthy", ...}`. Never raises.

        Healthy: with `workers`, `latency_ms` of one read and the broker's
        `uptime` in seconds. Unhealthy: with the `reason`.
        """
        quick = self._mesh.options(timeout=CHECK_TIMEOUT, priority="high")
        try:
            status = self._status(quick)
            begun = perf_counter()
            quick.memory.exists("health")
            latency = perf_counter() - begun
            quick.memory.stats()  # answered by the process that writes
        except MeshError as error:
            return {"status": "unhealthy", "reason": str(error)}
        return {
            "status": "healthy",
            "workers": sum(worker["service"] == SERVICE for worker in status["workers"]),
            "latency_ms": round(latency * 1000, 3),
            "uptime": status["uptime"],
        }

    def get_metrics(self) -> dict[str, Any]:
        """Figures of the service, of all clients together.

        `request_count`: what the workers have answered; `avg_response_time`: ms from the broker
        to the worker and back, waiting included (calls that wait for something to happen are not
        counted); both as the broker that was asked knows them. `in_flight`, `queued`, `workers`,
        `uptime` (s). Everything of `stats()`: entries, octets, hits, misses, ...; and the
        `hit_ratio`.

        Raises:
            CallError: the service does not answer.
        """
        status = self._status(self._mesh)
        known: list[dict[str, Any]] = status["services"]
        facts = next((service for service in known if service["name"] == SERVICE), {})
        lanes = [lane for name, lane in facts.get("lanes", {}).items() if name != WATCH]
        count = sum(lane["ended"] for lane in lanes)
        spent = sum(lane["spent"] for lane in lanes)
        stats = self.stats()
        asked = stats["hits"] + stats["misses"]
        return {
            "request_count": count,
            "avg_response_time": round(1000 * spent / count, 3) if count else 0.0,
            "in_flight": facts.get("in_flight", 0),
            "queued": facts.get("queued", 0),
            "workers": facts.get("workers", 0),
            "uptime": status["uptime"],
            "hit_ratio": round(stats["hits"] / asked, 4) if asked else 0.0,
            **stats,
        }

    def close(self) -> None:
        """End the connection."""
        self._mesh.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @staticmethod
    def _status(caller: Any) -> dict[str, Any]:
        found: dict[str, Any] = caller.options(idempotent=True).call("mesh.broker.status")
        return found
