"""The settings themselves: every key, its kind, its default and what it does.

The order here is the order of `config/default.yaml`. Plain dataclasses: a library for models would
double the time that a broker needs to start, and a restarted broker is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from mesh.errors import ConfigError
from mesh.settings.kinds import (
    Address,
    Choice,
    Count,
    Duration,
    Endpoints,
    Folder,
    Host,
    Kind,
    Missing,
    Number,
    Size,
    Switch,
    Url,
)
from mesh.spin import SPIN

KB, MB, GB, TB = 1000, 1000**2, 1000**3, 1000**4
MIB = 1024**2
DAY = 86_400.0
LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
BACKENDS = ("lmdb", "memory", "redis")
EVICTIONS = ("s3-fifo", "allkeys-lru", "volatile-ttl", "noeviction")
REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")


def key(kind: Kind, default: Any, text: str, *, live: bool = False) -> Any:
    """A field: its kind, its default as the settings hold it, and what it does.

    One that is `live` can change while a broker runs.
    """
    return field(default=default, metadata={"kind": kind, "text": text, "live": live})


@dataclass(frozen=True, slots=True)
class Section:
    """A group of keys. What it is given is checked, and brought into one form.

    Raises:
        ConfigError: a value is not allowed.
    """

    def __post_init__(self) -> None:
        for known in fields(self):
            kind: Kind | None = known.metadata.get("kind")
            if kind is not None:
                try:
                    value = kind.parse(getattr(self, known.name))
                except ValueError as error:
                    raise ConfigError(f"{known.name}: {error}") from None
                object.__setattr__(self, known.name, value)


@dataclass(frozen=True, slots=True)
class Memory(Section):
    """The memory service, and the broker that it is reached at."""

    host: str = key(
        Host(),
        "127.0.0.1",
        "Where the broker listens, unless broker.bind says so. An address that other machines can "
        "reach, such as 0.0.0.0, needs broker.insecure as well.",
    )
    port: int = key(
        Count(least=1, most=65535), 8080, "The TCP port that goes with it. Also: SAGE_SERVICE_PORT."
    )
    max_connections: int | None = key(
        Count(least=1, most=1_000_000, optional=True),
        None,
        "Clients that the broker takes at a time; one more is refused and told why. "
        "null: as many as the system has file descriptors for.",
        live=True,
    )
    timeout: float | None = key(
        Duration(least=0.001, most=300.0, optional=True),
        None,
        "What one call to the memory service may take, whatever its caller allows; streams are not "
        "bounded. null: what the caller allows.",
    )
    backend: str = key(
        Choice(names=BACKENDS),
        "lmdb",
        "Where the data is kept: lmdb (on disk), memory (of one process) or redis. Also: "
        "SAGE_MEMORY_BACKEND.",
    )
    url: str | None = key(
        Url(schemes=REDIS_SCHEMES, optional=True),
        None,
        "The server of the redis backend, as in redis://:PASSWORD@HOST:6379/0; a password is "
        "better kept in SAGE_MEMORY_URL than in a file. null: redis://127.0.0.1:6379/0.",
    )
    data: str | None = key(
        Folder(optional=True),
        None,
        "The directory of the lmdb backend, which needs one. Also: SAGE_MEMORY_DATA.",
    )
    eviction: str = key(
        Choice(names=EVICTIONS),
        "s3-fifo",
        "What goes when the cache is full, with the backends lmdb and memory.",
    )
    processes: int = key(
        Count(least=1, most=256),
        1,
        "Worker processes. All serve reads; with lmdb one of them writes.",
    )


@dataclass(frozen=True, slots=True)
class Storage(Section):
    """The storage service."""

    data: str | None = key(
        Folder(optional=True),
        None,
        "The directory of its data; without one `sage-mesh up` does not start it. Also: "
        "SAGE_STORAGE_DATA.",
    )
    processes: int = key(
        Count(least=1, most=256), 1, "Worker processes. All serve reads; one of them writes."
    )
    local_uploads: bool = key(
        Switch(),
        True,
        "Whether clients on the same machine, and of the same user, may write the content of large "
        "objects to the directory themselves instead of sending it.",
    )
    timeout: float | None = key(
        Duration(least=0.001, most=300.0, optional=True),
        None,
        "What one call to the storage service may take, whatever its caller allows; streams are "
        "not bounded. null: what the caller allows.",
    )


@dataclass(frozen=True, slots=True)
class Search(Section):
    """The search service."""

    data: str | None = key(
        Folder(optional=True),
        None,
        "The directory of its data; without one `sage-mesh up` does not start it. It needs "
        "sage-mesh[search]. Also: SAGE_SEARCH_DATA.",
    )
    processes: int = key(
        Count(least=1, most=256),
        1,
        "Worker processes. All serve reads; one of them writes, and keeps the indexes up to date.",
    )
    timeout: float | None = key(
        Duration(least=0.001, most=300.0, optional=True),
        None,
        "What one call to the search service may take, whatever its caller allows; streams are "
        "not bounded. null: what the caller allows.",
    )


@dataclass(frozen=True, slots=True)
class Services(Section):
    """The built-in services."""

    memory: Memory = Memory()
    storage: Storage = Storage()
    search: Search = Search()


BUILT_IN = tuple(section.name for section in fields(Services))
"""The built-in services by name: each has a section above, and a module `workers.NAME.process`."""


@dataclass(frozen=True, slots=True)
class Mdp(Section):
    """Peers that speak MDP, the Majordomo protocol."""

    heartbeat: float = key(Duration(least=0.1, most=3600.0), 2.5, "Between heartbeats of workers.")
    lost_beats: int = key(
        Count(least=2, most=1000),
        4,
        "Beats of silence after which an idle worker counts as lost.",
        live=True,
    )
    ttl: float = key(
        Duration(least=0.001, most=300.0),
        30.0,
        "What a request may take: MDP carries no deadlines.",
        live=True,
    )
    busy_timeout: float = key(
        Duration(least=1.0, most=DAY), 900.0, "How long a busy worker may be silent.", live=True
    )


@dataclass(frozen=True, slots=True)
class Broker(Section):
    """The broker. Durations are seconds, or text as in 500ms, 30s and 5m."""

    bind: tuple[str, ...] = key(
        Endpoints(bind=True),
        (),
        "Where to listen for clients and workers: tcp://HOST:PORT or ipc://PATH. Empty, with the "
        "next two: at services.memory.host and port.",
    )
    bind_clients: tuple[str, ...] = key(Endpoints(bind=True), (), "For clients only.")
    bind_workers: tuple[str, ...] = key(Endpoints(bind=True), (), "For workers only.")
    insecure: bool = key(
        Switch(),
        False,
        "Allow endpoints that other machines can reach. Nothing checks who connects: everybody who "
        "reaches the port can call, and register workers for, every service.",
    )
    drain_timeout: float = key(
        Duration(least=0.0, most=1e6),
        30.0,
        "What open calls get to finish after SIGTERM.",
        live=True,
    )
    spin: float = key(
        Duration(least=0.0, most=0.1),
        SPIN,
        "How long to look for more before sleeping, while that pays off. 0 saves CPU time and "
        "costs latency.",
    )
    heartbeat: float = key(Duration(least=0.1, most=10.0), 0.5, "Between signs of life of workers.")
    suspect_beats: int = key(
        Count(least=1, most=1000),
        2,
        "Beats of silence after which a worker gets no new work.",
        live=True,
    )
    lost_beats: int = key(
        Count(least=2, most=1000),
        10,
        "Beats of silence after which an idle worker counts as lost.",
        live=True,
    )
    hung_beats: int = key(
        Count(least=2, most=100_000),
        60,
        "Beats of silence after which a worker with work in hand counts as lost.",
        live=True,
    )
    grace: float = key(
        Duration(least=0.0, most=300.0),
        2.0,
        "What a request waits for a service that nobody offers.",
        live=True,
    )
    default_timeout: float = key(
        Duration(least=0.001, most=300.0),
        30.0,
        "The deadline of a request that names none.",
        live=True,
    )
    max_timeout: float = key(
        Duration(least=0.001, most=300.0),
        300.0,
        "The longest deadline that a request may have.",
        live=True,
    )
    max_queue: int = key(
        Count(least=0, most=10_000_000),
        10_000,
        "Requests that may wait in one lane before one of the same class; more are refused at "
        "once.",
        live=True,
    )
    max_held_bytes: int = key(
        Size(least=MB, most=TB),
        512 * MIB,
        "Octets of all requests that the broker holds, 1 KiB for each beside its body.",
        live=True,
    )
    max_body: int = key(
        Size(least=KB, most=64 * MIB),
        64 * MIB,
        "Octets of one message; what is larger travels as a stream.",
        live=True,
    )
    max_services: int = key(
        Count(least=1, most=1_000_000),
        10_000,
        "Services beyond which requests no longer wait for one that has no worker yet.",
        live=True,
    )
    max_redispatches: int = key(
        Count(least=0, most=100),
        3,
        "How often an idempotent request whose worker died is given to another.",
        live=True,
    )
    refusal_pause: float = key(
        Duration(least=0.0, most=60.0),
        0.02,
        "What a worker that did not start a request is left alone for.",
        live=True,
    )
    eject_errors: int = key(
        Count(least=1, most=1_000_000),
        5,
        "Errors in a row after which a worker gets no work for a while.",
        live=True,
    )
    eject_ttl: float = key(
        Duration(least=0.01, most=DAY),
        10.0,
        "How long, times the number of such ejections in a row.",
        live=True,
    )
    client_idle_ttl: float = key(
        Duration(least=1.0, most=30 * DAY),
        600.0,
        "When a silent client without open calls is forgotten.",
        live=True,
    )
    drain_idle_ttl: float = key(
        Duration(least=0.0, most=300.0),
        1.0,
        "What a leaving broker allows idle clients to move on.",
        live=True,
    )
    drain_busy_ttl: float = key(
        Duration(least=0.0, most=300.0), 5.0, "What it allows clients that were calling.", live=True
    )
    mdp: Mdp = Mdp()


@dataclass(frozen=True, slots=True)
class Client(Section):
    """Programs that call: `connect(config=FILE)`."""

    timeout: float = key(
        Duration(least=0.001, most=300.0), 30.0, "The deadline of a call that names none."
    )
    max_timeout: float = key(
        Duration(least=0.001, most=300.0), 300.0, "The longest deadline that a call may have."
    )
    heartbeat: float = key(
        Duration(least=0.1, most=10.0), 0.5, "Between signs of life to and from the brokers."
    )
    lost_beats: int = key(
        Count(least=2, most=1000), 10, "Beats of silence after which a broker counts as lost."
    )
    connect_timeout: float = key(
        Duration(least=0.01, most=300.0), 5.0, "What a connection may take to stand."
    )
    max_calls: int = key(
        Count(least=1, most=10_000_000), 100_000, "Calls open at a time; more are refused at once."
    )
    max_bytes: int = key(
        Size(least=MB, most=TB), 512 * MIB, "Octets of the arguments of all open calls."
    )
    max_body: int = key(
        Size(least=KB, most=64 * MIB), 64 * MIB, "Octets of the arguments of one call."
    )


@dataclass(frozen=True, slots=True)
class Performance(Section):
    """Sizes of pools and caches."""

    thread_pool_size: int | None = key(
        Count(least=1, most=1000, optional=True),
        None,
        "Threads for plain (not async) handlers in each process of `sage-mesh serve`, where the "
        "service does not say itself. null: four for each processor, at most 32.",
    )
    connection_pool_size: int | None = key(
        Count(least=8, most=100_000, optional=True),
        None,
        "Connections that each memory worker may have to its redis server (in a cluster: to each "
        "of them). null: as many as it needs. Clients need no pool: they send all calls over one "
        "connection to each broker.",
    )
    cache_size: int = key(
        Size(least=MB, most=1000 * TB),
        GB,
        "Memory and disk that the memory service may use, with the backends lmdb and memory. "
        "Also: SAGE_MEMORY_SIZE.",
    )


@dataclass(frozen=True, slots=True)
class RetryPolicy(Section):
    """When a call is made again: only if it was not begun, or if it is idempotent."""

    max_retries: int = key(Count(least=0, most=100), 3, "How often. 0: never.")
    backoff_multiplier: float = key(
        Number(least=1.0, most=100.0),
        2.0,
        "How much longer each wait may be than the one before; the first is up to 50 ms.",
    )


@dataclass(frozen=True, slots=True)
class Resilience(Section):
    """How calls deal with failures, in `connect(config=FILE)`."""

    circuit_breaker: bool = key(
        Switch(), True, "Stop calling a service for a while when half of its calls fail."
    )
    retry_policy: RetryPolicy = RetryPolicy()


@dataclass(frozen=True, slots=True)
class Security(Section):
    """Encryption, access and rates. Not available in this version: off is all there is."""

    tls_enabled: bool | None = key(
        Missing(what="encryption", off=(False, None)), False, "Encrypt connections."
    )
    auth_required: bool | None = key(
        Missing(what="access rules", off=(False, None)),
        False,
        "Let in only who can prove who it is.",
    )
    rate_limiting: int | None = key(
        Missing(what="rate limiting", off=(0, None)),
        None,
        "Requests a minute that a client may make.",
    )


@dataclass(frozen=True, slots=True)
class Discovery(Section):
    """How brokers are found. Also: services.discovery."""

    type: str | None = key(
        Missing(what="discovery through a registry", off=("static", None)),
        "static",
        "static: they are listed, under `brokers`.",
    )
    address: str | None = key(
        Missing(what="discovery through a registry"), None, "The address of the registry."
    )


@dataclass(frozen=True, slots=True)
class Monitoring(Section):
    """Metrics and health checks over HTTP. Also: services.monitoring."""

    enabled: bool = key(
        Switch(),
        False,
        "Serve /health, /ready, /metrics and /status: `sage-mesh up` for all that it runs, a "
        "broker or worker that is started alone for itself.",
    )
    metrics_port: int = key(Count(least=1, most=65535), 9090, "The TCP port for it, at 127.0.0.1.")
    address: str | None = key(
        Address(optional=True),
        None,
        "Where to serve it instead, enabled or not: HOST:PORT or unix:PATH. Whoever reaches an "
        "address other than 127.0.0.1 can read the figures. Also: --monitor.",
    )
    health_check_interval: float = key(
        Duration(least=0.1, most=DAY),
        30.0,
        "How often `sage-mesh up` calls every service to see that it answers. Heartbeats are in "
        "broker.heartbeat.",
    )


@dataclass(frozen=True, slots=True)
class Settings(Section):
    """Everything that can be set."""

    log_level: str = key(
        Choice(names=LOG_LEVELS),
        "info",
        "What brokers and workers report on standard error.",
        live=True,
    )
    log_format: str = key(
        Choice(names=LOG_FORMATS), "text", "How: text for people, json for one object a line."
    )
    brokers: tuple[str, ...] = key(
        Endpoints(),
        (),
        "The brokers that workers register at and clients connect to; dns://HOST:PORT stands for "
        "one at each address of the host, which may change. Empty: where the broker of this file "
        "listens.",
    )
    services: Services = Services()
    broker: Broker = Broker()
    client: Client = Client()
    performance: Performance = Performance()
    resilience: Resilience = Resilience()
    security: Security = Security()
    discovery: Discovery = Discovery()
    monitoring: Monitoring = Monitoring()
