"""The settings themselves: every key, its kind, its default and what it does.

The order here is the order of `config/default.yaml`. A field with `live` in its extra data can
change while a broker runs.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mesh.settings.kinds import (
    Choice,
    Count,
    Duration,
    Endpoints,
    Folder,
    Host,
    Missing,
    Number,
    Size,
    Switch,
    Url,
)

KB, MB, GB, TB = 1000, 1000**2, 1000**3, 1000**4
MIB = 1024**2
DAY = 86_400.0
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
BACKENDS = ("lmdb", "memory", "redis")
EVICTIONS = ("s3-fifo", "allkeys-lru", "volatile-ttl", "noeviction")
REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")


def key(default: Any, text: str, *, live: bool = False) -> Any:
    """A field: its default in the form that the settings hold, and what it does."""
    return Field(default, description=text, json_schema_extra={"live": True} if live else None)


class Section(BaseModel):
    """A group of keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Memory(Section):
    """The memory service, and the broker that it is reached at."""

    host: Annotated[str, Host()] = key(
        "127.0.0.1",
        "Where the broker listens, unless broker.bind says so. An address that other machines can "
        "reach, such as 0.0.0.0, needs broker.insecure as well.",
    )
    port: Annotated[int, Count(least=1, most=65535)] = key(
        8080, "The TCP port that goes with it. Also: SAGE_SERVICE_PORT."
    )
    max_connections: Annotated[int | None, Count(least=1, most=1_000_000, optional=True)] = key(
        None,
        "Clients that the broker takes at a time; one more is refused and told why. "
        "null: as many as the system has file descriptors for.",
        live=True,
    )
    timeout: Annotated[float | None, Duration(least=0.001, most=300.0, optional=True)] = key(
        None,
        "What one call to the memory service may take, whatever its caller allows; streams are not "
        "bounded. null: what the caller allows.",
    )
    backend: Annotated[str, Choice(names=BACKENDS)] = key(
        "lmdb", "Where the data is kept: lmdb (on disk), memory (of one process) or redis."
    )
    url: Annotated[str | None, Url(schemes=REDIS_SCHEMES, optional=True)] = key(
        None,
        "The server of the redis backend, as in redis://:PASSWORD@HOST:6379/0. A password is "
        "better kept in SAGE_SERVICES_MEMORY_URL than in a file.",
    )
    data: Annotated[str | None, Folder(optional=True)] = key(
        None, "The directory of the lmdb backend, which needs one."
    )
    eviction: Annotated[str, Choice(names=EVICTIONS)] = key(
        "s3-fifo", "What goes when the cache is full, with the backends lmdb and memory."
    )
    processes: Annotated[int, Count(least=1, most=256)] = key(
        1, "Worker processes. All serve reads; with lmdb one of them writes."
    )


class Services(Section):
    """The built-in services."""

    memory: Memory = Memory()


class Mdp(Section):
    """Peers that speak MDP, the Majordomo protocol."""

    heartbeat: Annotated[float, Duration(least=0.1, most=3600.0)] = key(
        2.5, "Between heartbeats of workers."
    )
    lost_beats: Annotated[int, Count(least=2, most=1000)] = key(
        4, "Beats of silence after which an idle worker counts as lost.", live=True
    )
    ttl: Annotated[float, Duration(least=0.001, most=300.0)] = key(
        30.0, "What a request may take: MDP carries no deadlines.", live=True
    )
    busy_timeout: Annotated[float, Duration(least=1.0, most=DAY)] = key(
        900.0, "How long a busy worker may be silent.", live=True
    )


class Broker(Section):
    """The broker. Durations are seconds, or text as in 500ms, 30s and 5m."""

    bind: Annotated[tuple[str, ...], Endpoints(bind=True)] = key(
        (),
        "Where to listen for clients and workers: tcp://HOST:PORT or ipc://PATH. Empty, with the "
        "next two: at services.memory.host and port.",
    )
    bind_clients: Annotated[tuple[str, ...], Endpoints(bind=True)] = key((), "For clients only.")
    bind_workers: Annotated[tuple[str, ...], Endpoints(bind=True)] = key((), "For workers only.")
    insecure: Annotated[bool, Switch()] = key(
        False,
        "Allow endpoints that other machines can reach. Nothing checks who connects: everybody who "
        "reaches the port can call, and register workers for, every service.",
    )
    drain_timeout: Annotated[float, Duration(least=0.0, most=1e6)] = key(
        30.0, "What open calls get to finish after SIGTERM.", live=True
    )
    spin: Annotated[float, Duration(least=0.0, most=0.1)] = key(
        0.0001,
        "How long to look for more before sleeping, while traffic flows. 0 saves CPU time and "
        "costs latency.",
    )
    heartbeat: Annotated[float, Duration(least=0.1, most=10.0)] = key(
        0.5, "Between signs of life of workers."
    )
    suspect_beats: Annotated[int, Count(least=1, most=1000)] = key(
        2, "Beats of silence after which a worker gets no new work.", live=True
    )
    lost_beats: Annotated[int, Count(least=2, most=1000)] = key(
        10, "Beats of silence after which an idle worker counts as lost.", live=True
    )
    hung_beats: Annotated[int, Count(least=2, most=100_000)] = key(
        60, "Beats of silence after which a worker with work in hand counts as lost.", live=True
    )
    grace: Annotated[float, Duration(least=0.0, most=300.0)] = key(
        2.0, "What a request waits for a service that nobody offers.", live=True
    )
    default_timeout: Annotated[float, Duration(least=0.001, most=300.0)] = key(
        30.0, "The deadline of a request that names none.", live=True
    )
    max_timeout: Annotated[float, Duration(least=0.001, most=300.0)] = key(
        300.0, "The longest deadline that a request may have.", live=True
    )
    max_queue: Annotated[int, Count(least=0, most=10_000_000)] = key(
        10_000, "Requests that may wait in one lane; more are refused at once.", live=True
    )
    max_held_bytes: Annotated[int, Size(least=MB, most=TB)] = key(
        512 * MIB, "Octets of all requests that the broker holds.", live=True
    )
    max_body: Annotated[int, Size(least=KB, most=64 * MIB)] = key(
        64 * MIB, "Octets of one message; what is larger travels as a stream.", live=True
    )
    max_services: Annotated[int, Count(least=1, most=1_000_000)] = key(
        10_000, "Names of services that the broker remembers.", live=True
    )
    max_redispatches: Annotated[int, Count(least=0, most=100)] = key(
        3, "How often an idempotent request whose worker died is given to another.", live=True
    )
    refusal_pause: Annotated[float, Duration(least=0.0, most=60.0)] = key(
        0.02, "What a worker that did not start a request is left alone for.", live=True
    )
    eject_errors: Annotated[int, Count(least=1, most=1_000_000)] = key(
        5, "Errors in a row after which a worker gets no work for a while.", live=True
    )
    eject_ttl: Annotated[float, Duration(least=0.01, most=DAY)] = key(
        10.0, "How long, times the number of such ejections in a row.", live=True
    )
    client_idle_ttl: Annotated[float, Duration(least=1.0, most=30 * DAY)] = key(
        600.0, "When a silent client without open calls is forgotten.", live=True
    )
    drain_idle_ttl: Annotated[float, Duration(least=0.0, most=300.0)] = key(
        1.0, "What a leaving broker allows idle clients to move on.", live=True
    )
    drain_busy_ttl: Annotated[float, Duration(least=0.0, most=300.0)] = key(
        5.0, "What it allows clients that were calling.", live=True
    )
    mdp: Mdp = Mdp()


class Client(Section):
    """Programs that call: `connect(config=FILE)`."""

    timeout: Annotated[float, Duration(least=0.001, most=300.0)] = key(
        30.0, "The deadline of a call that names none."
    )
    max_timeout: Annotated[float, Duration(least=0.001, most=300.0)] = key(
        300.0, "The longest deadline that a call may have."
    )
    heartbeat: Annotated[float, Duration(least=0.1, most=10.0)] = key(
        0.5, "Between signs of life to and from the brokers."
    )
    lost_beats: Annotated[int, Count(least=2, most=1000)] = key(
        10, "Beats of silence after which a broker counts as lost."
    )
    connect_timeout: Annotated[float, Duration(least=0.01, most=300.0)] = key(
        5.0, "What a connection may take to stand."
    )
    max_calls: Annotated[int, Count(least=1, most=10_000_000)] = key(
        100_000, "Calls open at a time; more are refused at once."
    )
    max_bytes: Annotated[int, Size(least=MB, most=TB)] = key(
        512 * MIB, "Octets of the arguments of all open calls."
    )
    max_body: Annotated[int, Size(least=KB, most=64 * MIB)] = key(
        64 * MIB, "Octets of the arguments of one call."
    )


class Performance(Section):
    """Sizes of pools and caches."""

    thread_pool_size: Annotated[int | None, Count(least=1, most=1000, optional=True)] = key(
        None,
        "Threads for plain (not async) handlers in each process of `sage-mesh serve`, where the "
        "service does not say itself. null: four for each processor, at most 32.",
    )
    connection_pool_size: Annotated[int | None, Count(least=8, most=100_000, optional=True)] = key(
        None,
        "Connections that each memory worker may have to its redis server (in a cluster: to each "
        "of them). null: as many as it needs. Clients need no pool: they send all calls over one "
        "connection to each broker.",
    )
    cache_size: Annotated[int, Size(least=MB, most=1000 * TB)] = key(
        GB, "Memory and disk that the memory service may use, with the backends lmdb and memory."
    )


class RetryPolicy(Section):
    """When a call is made again: only if it was not begun, or if it is idempotent."""

    max_retries: Annotated[int, Count(least=0, most=100)] = key(3, "How often. 0: never.")
    backoff_multiplier: Annotated[float, Number(least=1.0, most=100.0)] = key(
        2.0, "How much longer each wait may be than the one before; the first is up to 50 ms."
    )


class Resilience(Section):
    """How calls deal with failures, in `connect(config=FILE)`."""

    circuit_breaker: Annotated[bool, Switch()] = key(
        True, "Stop calling a service for a while when half of its calls fail."
    )
    retry_policy: RetryPolicy = RetryPolicy()


class Security(Section):
    """Encryption, access and rates. Not available in this version: off is all there is."""

    tls_enabled: Annotated[bool | None, Missing(what="encryption", off=(False, None))] = key(
        False, "Encrypt connections."
    )
    auth_required: Annotated[bool | None, Missing(what="access rules", off=(False, None))] = key(
        False, "Let in only who can prove who it is."
    )
    rate_limiting: Annotated[int | None, Missing(what="rate limiting", off=(0, None))] = key(
        None, "Requests a minute that a client may make."
    )


class Discovery(Section):
    """How brokers are found. Also: services.discovery."""

    type: Annotated[
        str | None, Missing(what="discovery through a registry", off=("static", None))
    ] = key("static", "static: they are listed, under `brokers`.")
    address: Annotated[str | None, Missing(what="discovery through a registry")] = key(
        None, "The address of the registry."
    )


class Monitoring(Section):
    """Metrics and health checks over HTTP. Also: services.monitoring."""

    enabled: Annotated[bool | None, Missing(what="metrics over HTTP", off=(False, None))] = key(
        False, "Serve metrics. Until then `sage-mesh status` has the figures."
    )
    metrics_port: Annotated[int | None, Missing(what="metrics over HTTP")] = key(
        None, "The port for them."
    )
    health_check_interval: Annotated[float | None, Missing(what="health checks over HTTP")] = key(
        None, "Seconds between health checks. Heartbeats are in broker.heartbeat."
    )


class Settings(Section):
    """Everything that can be set."""

    log_level: Annotated[str, Choice(names=LOG_LEVELS)] = key(
        "info", "What brokers and workers report on standard error.", live=True
    )
    brokers: Annotated[tuple[str, ...], Endpoints()] = key(
        (),
        "The brokers that workers register at and clients connect to. Empty: where the broker of "
        "this file listens.",
    )
    services: Services = Services()
    broker: Broker = Broker()
    client: Client = Client()
    performance: Performance = Performance()
    resilience: Resilience = Resilience()
    security: Security = Security()
    discovery: Discovery = Discovery()
    monitoring: Monitoring = Monitoring()
