"""What concerns several keys at once, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.errors import ConfigError
from mesh.protocol.endpoints import is_local, parse_endpoint
from mesh.settings.keys import keys, value_of
from mesh.settings.model import BUILT_IN, Settings
from mesh.settings.values import Given, Problem

BOTH, CLIENTS, WORKERS = "both", "clients", "workers"


def binds(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Where the broker is to listen, by role."""
    broker = settings.broker
    found = {BOTH: broker.bind, CLIENTS: broker.bind_clients, WORKERS: broker.bind_workers}
    if not any(found.values()):
        memory = settings.services.memory
        inner = memory.host.removeprefix("[").removesuffix("]")
        host = f"[{inner}]" if ":" in inner else inner
        found[BOTH] = (parse_endpoint(f"tcp://{host}:{memory.port}", bind=True),)
    return found


@dataclass(frozen=True, slots=True)
class Wanted:
    """A built-in service that `sage-mesh up` is to run; `data` is None if it keeps none here."""

    processes: int
    data: Path | None


def wanted(settings: Settings) -> dict[str, Wanted]:
    """The built-in services of a whole mesh: memory, and each that has a directory for its data."""
    found = {}
    for name in BUILT_IN:
        section = getattr(settings.services, name)
        stored = section.data and getattr(section, "backend", "lmdb") == "lmdb"
        if section.data or name == "memory":
            found[name] = Wanted(section.processes, Path(section.data) if stored else None)
    return found


def monitor_at(settings: Settings) -> str | None:
    """Where a process is to tell of itself over HTTP; None if nowhere."""
    monitoring = settings.monitoring
    own = f"127.0.0.1:{monitoring.metrics_port}" if monitoring.enabled else None
    return monitoring.address or own


def brokers(settings: Settings, role: str) -> tuple[str, ...]:
    """The brokers that peers of that role (clients or workers) are to connect to.

    Raises:
        ConfigError: the file's own broker listens at a port that nobody can know beforehand.
    """
    if settings.brokers:
        return settings.brokers
    listening = binds(settings)
    found = tuple(filter(None, map(_reachable, listening[role] + listening[BOTH])))
    if not found:
        raise ConfigError(
            f"brokers: the broker has no known port for {role}; name one, as in tcp://HOST:8080"
        )
    return found


def _reachable(endpoint: str) -> str | None:
    """Where to connect to what listens at `endpoint`; None if that cannot be known."""
    if endpoint.startswith("ipc://"):
        return endpoint
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if port == "*":
        return None
    host = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"tcp://{host}:{port}"


def contradictions(settings: Settings, given: Mapping[str, Given]) -> Iterator[Problem]:
    """Values that are allowed one by one, but not together."""

    def problem(name: str, text: str) -> Problem:
        found = given.get(name)
        origin, shown = (found.origin, found.name) if found is not None else ("default", name)
        return Problem(origin, name, f"{shown}: {text}")

    broker, memory = settings.broker, settings.services.memory
    if not broker.insecure:
        for name, endpoints in _listening(settings):
            open_to_all = [endpoint for endpoint in endpoints if not is_local(endpoint)]
            if open_to_all:
                yield problem(
                    name,
                    f"{open_to_all[0]} can be reached from other machines, and nothing here checks "
                    "who connects: name 127.0.0.1 or ipc://, or allow it with broker.insecure: "
                    "true (--insecure)",
                )
    if memory.backend == "memory" and memory.processes > 1:
        yield problem(
            "services.memory.processes",
            f"{memory.processes} processes with the backend memory would be as many separate "
            "stores; use the backend lmdb, or one process",
        )
    for low, high in _ORDERED:
        least, most = value_of(settings, low), value_of(settings, high)
        if least > most:
            guilty, other = (low, high) if low in given else (high, low)
            relation = "more" if guilty == low else "less"
            yield problem(
                guilty,
                f"{keys()[guilty].kind.show(value_of(settings, guilty))} is {relation} than "
                f"{other}, which is {keys()[other].kind.show(value_of(settings, other))}; "
                "change one of them",
            )


_ORDERED = (
    ("broker.default_timeout", "broker.max_timeout"),
    ("client.timeout", "client.max_timeout"),
    ("broker.suspect_beats", "broker.lost_beats"),
    ("broker.lost_beats", "broker.hung_beats"),
    ("broker.max_body", "broker.max_held_bytes"),
    ("client.max_body", "client.max_bytes"),
)


def _listening(settings: Settings) -> Iterator[tuple[str, tuple[str, ...]]]:
    broker = settings.broker
    if not (broker.bind or broker.bind_clients or broker.bind_workers):
        yield "services.memory.host", binds(settings)[BOTH]
    yield "broker.bind", broker.bind
    yield "broker.bind_clients", broker.bind_clients
    yield "broker.bind_workers", broker.bind_workers


def remarks(settings: Settings, given: Mapping[str, Given]) -> Iterator[str]:
    """What was set to something other than its default, and has no effect."""
    backend = settings.services.memory.backend
    # A flag that overrides is no mistake; a file that contradicts itself may be one.
    listening = any(
        value_of(settings, name) and not given[name].origin.startswith("--")
        for name in ("broker.bind", "broker.bind_clients", "broker.bind_workers")
        if name in given
    )
    retries = settings.resilience.retry_policy.max_retries
    without: dict[str, Any] = {
        "services.memory.host": listening and "broker.bind says where the broker listens",
        "services.memory.port": listening and "broker.bind says where the broker listens",
        "services.memory.url": backend != "redis" and f"the backend is {backend}",
        "services.memory.data": backend != "lmdb" and f"the backend is {backend}",
        "services.memory.eviction": backend == "redis" and "the redis server decides",
        "performance.cache_size": backend == "redis" and "the redis server decides (maxmemory)",
        "performance.connection_pool_size": backend != "redis" and f"the backend is {backend}",
        "resilience.retry_policy.backoff_multiplier": not retries and "max_retries is 0",
    }
    for name, reason in without.items():
        found = given.get(name)
        if reason and found is not None and value_of(settings, name) != keys()[name].default:
            yield f"{found.origin}: {found.name} has no effect: {reason}"
