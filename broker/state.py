"""The records of which the routing state is made. They hold facts; the rules are in `router`.

Client 1─* Call *─1 Lane *─1 Service 1─* Worker
             └── Seat (a worker in a lane) while dispatched
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.monitoring.histogram import Histogram, Latency
from mesh.protocol.mdp import NATIVE
from mesh.protocol.messages import Body, Message

if TYPE_CHECKING:
    from broker.queues import CreditPool, FairQueue

ACTIVE = "active"
SUSPECT = "suspect"
DRAINING = "draining"
EJECTED = "ejected"

# Octets that an open call takes beside its body: its records, and its places in the tables.
CALL_OVERHEAD = 1024


@dataclass(slots=True)
class RouterSettings:
    """What an operator may tune. Durations in seconds, sizes in octets.

    `max_clients` 0 sets no limit. The keys of the configuration and their defaults are the same
    (`broker.config`).
    """

    heartbeat: float = 0.5
    grace: float = 2.0
    default_timeout: float = 30.0
    max_timeout: float = 300.0
    max_queue: int = 10_000
    max_held_bytes: int = 512 * 1024 * 1024
    max_body: int = 64 * 1024 * 1024
    max_redispatches: int = 3
    max_services: int = 10_000
    max_clients: int = 0
    suspect_beats: int = 2
    lost_beats: int = 10
    hung_beats: int = 60
    refusal_pause: float = 0.02
    eject_errors: int = 5
    eject_ttl: float = 10.0
    client_idle_ttl: float = 600.0
    drain_idle_ttl: float = 1.0
    drain_busy_ttl: float = 5.0
    mdp_ttl: float = 30.0
    mdp_heartbeat: float = 2.5
    mdp_lost_beats: int = 4
    mdp_busy_timeout: float = 900.0


class Client:
    """A peer that makes requests, `asked` so far. `calls` are its open ones, by sequence."""

    __slots__ = ("asked", "calls", "dialect", "drained", "host", "name", "peer", "pid", "seen_at")

    def __init__(self, peer: bytes, dialect: int, now: float) -> None:
        self.peer = peer
        self.dialect = dialect
        self.calls: dict[int, Call] = {}
        self.drained = dialect != NATIVE
        self.seen_at = now
        self.asked = 0
        self.name = ""
        self.host = ""
        self.pid = 0


class Call:
    """One accepted request until it has ended and no worker has it any more.

    `size` is what it counts for in `held_bytes`. `seat` is None while it waits. `ended` means that
    its client has its answer, or is gone, while the worker still owes the reply that frees its
    seat. `started` forbids giving it to another worker: the client has seen a part of the answer or
    the worker a part of the client's stream. `end` is the END of the client's stream, kept for the
    worker that gets the call.
    """

    __slots__ = (
        "chunk_credit",
        "client",
        "credit",
        "end",
        "ended",
        "expires_at",
        "flags",
        "given_at",
        "idempotent",
        "incarnation",
        "lane",
        "losses",
        "message",
        "method",
        "parts",
        "priority",
        "queued_at",
        "seat",
        "sequence",
        "size",
        "started",
        "tag",
        "wheel_slot",
    )

    chunk_credit: int
    client: Client
    credit: int
    end: Message | None
    ended: bool
    expires_at: float
    flags: int
    given_at: float
    idempotent: bool
    incarnation: int
    lane: Lane
    losses: int
    message: Message | None
    method: Method | None
    parts: list[Body] | None
    priority: int
    queued_at: float
    seat: Seat | None
    sequence: int
    size: int
    started: bool
    tag: int
    wheel_slot: int


def open_call(
    client: Client,
    lane: Lane,
    message: Message,
    sequence: int,
    size: int,
    idempotent: bool,
    expires_at: float,
    now: float,
) -> Call:
    """The call that `message` of `client` asks for."""
    call = Call.__new__(Call)
    call.client = client
    call.lane = lane
    call.message = message
    call.incarnation = message.incarnation
    call.sequence = sequence
    call.method = None
    call.flags = message.flags
    call.priority = message.priority
    call.size = size
    call.idempotent = idempotent
    call.expires_at = expires_at
    call.queued_at = now
    call.given_at = now
    call.credit = message.credit
    call.chunk_credit = 0
    call.seat = None
    call.tag = 0
    call.losses = 0
    call.started = False
    call.ended = False
    call.parts = None
    call.end = None
    call.wheel_slot = -1
    return call


@dataclass(slots=True)
class Store:
    """The store that a worker has opened, as it says; an empty `uuid` stands for none."""

    uuid: str = ""
    epoch: int = 0
    host: str = ""

    def __str__(self) -> str:
        if not self.uuid:
            return "none"
        return f"{self.uuid} on {self.host}" if self.host else self.uuid


NO_STORE = Store()


class Worker:
    """A registered worker. `calls` are those it has in hand, by tag; `declared` its methods."""

    __slots__ = (
        "calls",
        "consecutive_errors",
        "declared",
        "dialect",
        "ejections",
        "ended",
        "errors",
        "failing_since",
        "heartbeat",
        "host",
        "instance",
        "joined_at",
        "paused_until",
        "peer",
        "pid",
        "probing",
        "seats",
        "seen_at",
        "sent_at",
        "service",
        "state",
        "store",
        "version",
    )

    def __init__(self, peer: bytes, service: Service, dialect: int, now: float) -> None:
        self.peer = peer
        self.service = service
        self.dialect = dialect
        self.seats: dict[bytes, Seat] = {}
        self.calls: dict[int, Call] = {}
        self.declared: tuple[bytes, ...] = ()
        self.store = NO_STORE
        self.state = ACTIVE
        self.joined_at = now
        self.seen_at = now
        self.sent_at = now
        self.heartbeat = 0.5
        self.paused_until = 0.0
        self.consecutive_errors = 0
        self.failing_since = 0.0
        self.ejections = 0
        self.probing = False
        self.ended = 0
        self.errors = 0
        self.instance = ""
        self.version = ""
        self.host = ""
        self.pid = 0


class Seat:
    """A worker in one lane: how many requests it wants in flight there, and how many it has.

    `bucket` is where the lane's pool keeps it, between `before` and `after`; -1 while the pool does
    not hold it.
    """

    __slots__ = ("after", "before", "bucket", "in_flight", "lane", "window", "worker")

    def __init__(self, worker: Worker, lane: Lane, window: int) -> None:
        self.worker = worker
        self.lane = lane
        self.window = window
        self.in_flight = 0
        self.bucket = -1
        self.before: Seat | None = None
        self.after: Seat | None = None


class Lane:
    """A queue of one service and the workers that serve it: `serving` have a window above 0.

    `ended` counts what workers have answered, `failed` those of it that are errors, `spent` the
    seconds from arrival to answer; `retried` the requests that their clients made again.
    """

    __slots__ = (
        "ended",
        "failed",
        "latency",
        "name",
        "pool",
        "queue",
        "rate",
        "rate_at",
        "rate_ended",
        "retried",
        "seats",
        "service",
        "serving",
        "spent",
    )

    def __init__(self, service: Service, name: bytes, queue: FairQueue, pool: CreditPool) -> None:
        self.service = service
        self.name = name
        self.queue = queue
        self.pool = pool
        self.seats: dict[Worker, Seat] = {}
        self.serving = 0
        self.ended = 0
        self.failed = 0
        self.retried = 0
        self.spent = 0.0
        self.latency = Latency()
        self.rate = 0.0
        self.rate_at = 0.0
        self.rate_ended = 0


class Method:
    """What a service declared of a method, and how its calls ended; `latency`: queue and work."""

    __slots__ = ("ended", "failed", "idempotent", "lane", "latency")

    def __init__(self, lane: bytes = b"", idempotent: bool = False) -> None:
        self.lane = lane
        self.idempotent = idempotent
        self.ended = 0
        self.failed = 0
        self.latency = Histogram()

    def same(self, other: Method) -> bool:
        """Whether both declare the same."""
        return self.lane == other.lane and self.idempotent == other.idempotent


class Service:
    """A name that workers have registered, or that requests wait for.

    `methods` is what its present workers declare; where they differ, the latest one counts.
    `declarations` says for each method who declares what, in the order of registration.
    """

    __slots__ = (
        "declarations",
        "lanes",
        "last_success_at",
        "last_success_worker",
        "methods",
        "name",
        "workers",
    )

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.lanes: dict[bytes, Lane] = {}
        self.methods: dict[bytes, Method] = {}
        self.declarations: dict[bytes, OrderedDict[Worker, Method]] = {}
        self.workers: dict[bytes, Worker] = {}
        self.last_success_at = 0.0
        self.last_success_worker: Worker | None = None

    def declare(self, worker: Worker, methods: Mapping[bytes, Method]) -> None:
        """`worker` has these methods, and had none before."""
        worker.declared = tuple(methods)
        for name, method in methods.items():
            known = self.methods.get(name)
            mine = (
                known if known is not None and known.same(method) else method
            )  # one for all alike
            self.methods[name] = mine
            self.declarations.setdefault(name, OrderedDict())[worker] = mine

    def undeclare(self, worker: Worker) -> None:
        """`worker` leaves, and with it the methods that nobody else has."""
        for name in worker.declared:
            others = self.declarations[name]
            del others[worker]
            if others:
                self.methods[name] = next(reversed(others.values()))
            else:
                del self.declarations[name], self.methods[name]

    @property
    def queued(self) -> int:
        return sum(lane.queue.length for lane in self.lanes.values())


def body_size(frames: Sequence[Body]) -> int:
    """Octets of `frames`; the common single frame without a loop."""
    return len(frames[0]) if len(frames) == 1 else sum(map(len, frames))
