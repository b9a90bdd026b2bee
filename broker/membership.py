"""Who belongs to the mesh: registration, heartbeats, suspicion, pauses, ejection, leaving.

Rules over the router's state, called by the router alone.

    active ──silent 2 beats──> suspect ──any sign of life──> active
           (what it has that may be done twice goes to others)
    active ──5 errors in a row while others succeed──> ejected ──ttl, then one probe──> active
    active ──DRAIN──> draining
    any    ──silent 10 beats (60 with work in hand), disconnect, GOODBYE──> removed

Only an active worker that is not paused stands in the pools of its lanes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.state import (
    ACTIVE,
    DRAINING,
    EJECTED,
    SUSPECT,
    Call,
    Method,
    Seat,
    Service,
    Worker,
)
from mesh import errors
from mesh.errors import ProtocolError
from mesh.protocol import payload
from mesh.protocol.mdp import LEGACY02, NATIVE
from mesh.protocol.messages import DRAIN, GOODBYE, HEARTBEAT, MAX_NAME, WELCOME, Message

if TYPE_CHECKING:
    from broker.router import Router

MAX_WINDOW = 10_000
MAX_LANES = 64
MAX_METHODS = 4096
MAX_TEXT = 200
EXPELLED_KEPT = 10_000


def text_of(fields: dict[str, Any], key: str) -> str:
    """What a peer says of itself, for operators; empty if it is no text."""
    value = fields.get(key)
    return value[:MAX_TEXT] if type(value) is str else ""


def pid_of(fields: dict[str, Any]) -> int:
    """The process id that a peer states, 0 if it is none."""
    value = fields.get("pid")
    return value if type(value) is int and 0 < value < 1 << 32 else 0


def register(router: Router, peer: bytes, message: Message, now: float) -> None:
    """READY: `peer` becomes a worker, or is refused with GOODBYE."""
    known = router.workers.get(peer)
    if known is not None:
        expel(router, known, "expelled:ready_twice", now)
        return
    name = message.service
    try:
        fields = payload.decode_map(message.body)
        lanes = _lanes(fields)
        methods = _methods(fields)
        text = name.decode()
    except (ProtocolError, UnicodeDecodeError):
        turn_away(router, peer, "refused:bad_ready", now)
        return
    if (
        not name
        or len(name) > MAX_NAME
        or text.partition(".")[0] in ("mmi", "mesh")
        or text.strip(".") != text
    ):
        turn_away(router, peer, "refused:reserved_name", now)
        return
    if peer in router.clients:
        router.lost(peer, now)
    service = router.services.get(name)
    if service is None:
        service = router.services[name] = Service(name)
    first = not service.workers
    dialect = fields.get("mdp", NATIVE)
    if type(dialect) is not int or not NATIVE <= dialect <= LEGACY02:
        dialect = NATIVE
    worker = Worker(peer, service, dialect, now)
    worker.heartbeat = (
        agreed_heartbeat(router, fields)
        if worker.dialect == NATIVE
        else router.settings.mdp_heartbeat
    )
    worker.instance = text_of(fields, "instance")
    worker.version = text_of(fields, "version")
    worker.host = text_of(fields, "host")
    worker.pid = pid_of(fields)
    router.workers[peer] = worker
    service.workers[peer] = worker
    service.methods.update(methods)
    for lane_name, window in lanes.items():
        lane = router.lane(service, lane_name)
        seat = worker.seats[lane_name] = Seat(worker, lane, window)
        lane.seats[worker] = seat
    router.count("joined")
    if worker.dialect == NATIVE:
        router.send(peer, welcome(router, worker.heartbeat))
        if router.draining_since is not None:
            router.send(peer, Message(DRAIN))
    if first:
        _rehome(router, service)
    seat_all(router, worker, now)


def _rehome(router: Router, service: Service) -> None:
    """The first worker of `service` is here: put the calls that waited for it into their lanes.

    They stand in the default lane, or in a lane of workers that have left. MDP calls for `a.b`
    that found no service stand at a service of that name (section 10).
    """
    for lane in list(service.lanes.values()):
        for call in list(lane.queue):
            _place(router, call, service)
    prefix = service.name + b"."
    for name, other in router.services.items():
        method = name[len(prefix) :]
        if other.workers or not method or b"." in method or not name.startswith(prefix):
            continue
        for lane in other.lanes.values():
            for call in list(lane.queue):
                message = call.message
                if call.client.dialect != NATIVE and message is not None:
                    message.service, message.method = service.name, method
                    _place(router, call, service)


def _place(router: Router, call: Call, service: Service) -> None:
    """Let the waiting `call` wait where `service` wants it."""
    method = service.methods.get(call.message.method) if call.message is not None else None
    if call.client.dialect != NATIVE and b"writer" in service.lanes:
        lane = service.lanes[b"writer"]
    else:
        lane = router.lane(service, method.lane if method is not None else b"")
    call.idempotent = call.idempotent or (method is not None and method.idempotent)
    if lane is not call.lane:
        call.lane.queue.remove(call)
        call.lane = lane
        lane.queue.push(call)


def _lanes(fields: dict[str, Any]) -> dict[bytes, int]:
    lanes = fields.get("lanes", {"": 1})
    if not isinstance(lanes, dict) or not 0 < len(lanes) <= MAX_LANES:
        raise ProtocolError("lanes must be a map of 1 to 64 lanes")
    found = {}
    for name, window in lanes.items():
        if type(name) is not str or type(window) is not int or window <= 0:
            raise ProtocolError("a lane has a text name and a positive window")
        found[_name(name)] = min(window, MAX_WINDOW)
    return found


def _name(text: str) -> bytes:
    name = text.encode("utf-8", "surrogatepass")
    if len(name) > MAX_NAME:
        raise ProtocolError(f"a name is longer than {MAX_NAME} octets")
    return name


def _methods(fields: dict[str, Any]) -> dict[bytes, Method]:
    methods = fields.get("methods", {})
    if not isinstance(methods, dict) or len(methods) > MAX_METHODS:
        raise ProtocolError("methods must be a map of at most 4096 methods")
    found = {}
    for name, facts in methods.items():
        if type(name) is not str or not isinstance(facts, dict):
            raise ProtocolError("a method has a text name and a map of facts")
        lane = facts.get("lane", "")
        if type(lane) is not str:
            raise ProtocolError("a lane's name is text")
        found[_name(name)] = Method(_name(lane), facts.get("idempotent") is True)
    return found


def agreed_heartbeat(router: Router, fields: dict[str, Any]) -> float:
    """The interval both sides use: the slower proposal, within 0.1 to 10 s (section 6)."""
    theirs = fields.get("heartbeat")
    if type(theirs) is not int and type(theirs) is not float:
        theirs = 0.0
    return float(max(0.1, min(10.0, max(router.settings.heartbeat, theirs))))


def welcome(router: Router, heartbeat: float) -> Message:
    body = {
        "capabilities": 0,
        "heartbeat": heartbeat,
        "broker": router.broker_id,
        "max_body": router.settings.max_body,
        "brokers": 0,
    }
    return Message(WELCOME, frames=[payload.encode(body)])


def set_capacity(router: Router, peer: bytes, message: Message, now: float) -> None:
    """CAPACITY: a worker wants more or fewer requests in a lane it serves, or in a new one."""
    worker = router.workers.get(peer)
    if worker is None:
        router.unexpected(peer, message, now)
        return
    worker.seen_at = now
    window = min(message.credit, MAX_WINDOW)
    seat = worker.seats.get(message.method)
    if seat is None:
        if len(worker.seats) >= MAX_LANES:
            router.count("dropped:too_many_lanes")
            return
        lane = router.lane(worker.service, message.method)
        seat = worker.seats[message.method] = Seat(worker, lane, window)
        lane.seats[worker] = seat
    seat.window = window
    if worker.state != ACTIVE or worker.paused_until:
        return
    if worker.probing:
        unseat(worker)
        seat_probe(router, worker, now)
        return
    seat.lane.pool.put(seat)
    router.dispatch(seat.lane, now)


def turn_away(router: Router, peer: bytes, reason: str, now: float) -> None:
    router.count(reason)
    router.send(peer, Message(GOODBYE, code=errors.PROTOCOL))
    _deafen(router, peer, now)


def expel(router: Router, worker: Worker, reason: str, now: float) -> None:
    """Part with a worker that broke the protocol: GOODBYE, then deaf to this connection."""
    router.send(worker.peer, Message(GOODBYE, code=errors.PROTOCOL))
    router.remove_worker(worker, reason, now)
    _deafen(router, worker.peer, now)


def _deafen(router: Router, peer: bytes, now: float) -> None:
    if len(router.expelled) >= EXPELLED_KEPT:
        del router.expelled[next(iter(router.expelled))]
    router.expelled[peer] = now


def seat_all(router: Router, worker: Worker, now: float) -> None:
    """Put an eligible worker's seats into their pools and give them work."""
    if worker.probing:
        seat_probe(router, worker, now)
        return
    for seat in worker.seats.values():
        seat.lane.pool.put(seat)
        router.dispatch(seat.lane, now)


def unseat(worker: Worker) -> None:
    """No new work for this worker."""
    for seat in worker.seats.values():
        seat.lane.pool.discard(seat)


def pause(router: Router, worker: Worker, until: float) -> None:
    """A worker that refuses work must not look free: none for a moment."""
    if worker.state == ACTIVE:
        worker.paused_until = until
        router.paused[worker] = until
        unseat(worker)


def resume_paused(router: Router, now: float) -> None:
    for worker, until in list(router.paused.items()):
        if until <= now:
            del router.paused[worker]
            worker.paused_until = 0.0
            if worker.state == EJECTED:
                worker.state = ACTIVE
                worker.probing = True
                router.count("probed")
            if worker.state == ACTIVE:
                seat_all(router, worker, now)


def seat_probe(router: Router, worker: Worker, now: float) -> None:
    """One request only, until it has shown that it works again."""
    for seat in worker.seats.values():
        if seat.window and not worker.calls:
            window, seat.window = seat.window, 1
            seat.lane.pool.put(seat)
            seat.window = window
            router.dispatch(seat.lane, now)


def failed(router: Router, worker: Worker, now: float) -> None:
    """A worker answered with an error that may be its own fault.

    It is ejected after several in a row, if meanwhile another worker of the service succeeded
    (otherwise the requests are to blame), and never more than half of a service at once.
    """
    if not worker.consecutive_errors:
        worker.failing_since = now
    worker.consecutive_errors += 1
    service = worker.service
    if worker.state != ACTIVE or worker.paused_until:
        return
    others_succeed = (
        service.last_success_worker is not None
        and service.last_success_worker is not worker
        and service.last_success_at >= worker.failing_since
    )
    if not worker.probing and (
        worker.consecutive_errors < router.settings.eject_errors or not others_succeed
    ):
        return
    if (len(_ejected(router, service)) + 1) * 2 > len(service.workers):
        return
    worker.ejections += 1
    worker.probing = False
    worker.consecutive_errors = 0
    pause(router, worker, now + router.settings.eject_ttl * worker.ejections)
    worker.state = EJECTED
    router.count("ejected")


def _ejected(router: Router, service: Service) -> list[Worker]:
    """The ejected workers of `service`: each is paused until its probe."""
    return [w for w in router.paused if w.state == EJECTED and w.service is service]


def succeeded(router: Router, worker: Worker, now: float) -> None:
    """A worker that had failed works again."""
    worker.consecutive_errors = 0
    if worker.probing:
        worker.probing = False
        worker.ejections = 0
        router.count("restored")
        if worker.state == ACTIVE and not worker.paused_until:
            seat_all(router, worker, now)


def recall_ejected(router: Router, service: Service, now: float) -> None:
    """Others have gone: probe ejected workers now rather than leave out more than half."""
    ejected = _ejected(router, service)
    surplus = max(0, len(ejected) - len(service.workers) // 2)
    for worker in sorted(ejected, key=lambda worker: worker.paused_until)[:surplus]:
        router.paused[worker] = now
        resume_paused(router, now)


def drain(router: Router, worker: Worker) -> None:
    worker.state = DRAINING
    router.paused.pop(worker, None)
    worker.paused_until = 0.0
    unseat(worker)
    router.count("drained")
    if worker.dialect == NATIVE:  # tells it that no request is on its way any more
        router.send(worker.peer, Message(DRAIN))


def watch(router: Router, now: float, late_by: float) -> None:
    """Look at every worker's signs of life; say one's own.

    `late_by` is how much later than planned this look comes: a broker that was itself held up
    must not take its workers for silent.
    """
    settings = router.settings
    lag = late_by if late_by > settings.heartbeat / 2 else 0.0
    for worker in list(router.workers.values()):
        if lag:
            worker.seen_at = min(now, worker.seen_at + lag)
        silence = now - worker.seen_at
        beat = worker.heartbeat
        if worker.dialect == NATIVE:
            lost_after = beat * (settings.hung_beats if worker.calls else settings.lost_beats)
            suspect_after = beat * settings.suspect_beats
        else:
            lost_after = (
                settings.mdp_busy_timeout if worker.calls else beat * settings.mdp_lost_beats
            )
            suspect_after = lost_after
        if silence > lost_after:
            router.send(worker.peer, Message(GOODBYE))
            router.remove_worker(worker, "lost:silent", now)
            _deafen(router, worker.peer, now)
            continue
        if silence > suspect_after:
            if worker.state == ACTIVE:
                worker.state = SUSPECT
                unseat(worker)
                router.count("suspected")
                router.move_from_suspect(worker, now)
        elif worker.state == SUSPECT:
            worker.state = ACTIVE
            router.count("cleared")
            if not worker.paused_until:
                seat_all(router, worker, now)
        if now - worker.sent_at >= beat - 0.01:
            worker.sent_at = now
            router.send(worker.peer, Message(HEARTBEAT))
    for client in list(router.clients.values()):
        idle = not client.calls and now - client.seen_at > settings.client_idle_ttl
        if idle and client.dialect != NATIVE:
            del router.clients[client.peer]
