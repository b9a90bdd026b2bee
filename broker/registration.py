"""How clients and workers come in, and which lanes workers serve (section 6 of the protocol).

Rules over the router's state, called by the router alone. What becomes of a worker afterwards is
in `membership`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker import admission, endings, membership
from broker.state import ACTIVE, NO_STORE, Call, Client, Lane, Method, Seat, Service, Store, Worker
from mesh import errors
from mesh.errors import ProtocolError
from mesh.protocol import payload
from mesh.protocol.mdp import NATIVE
from mesh.protocol.messages import CAPACITY, DRAIN, MAX_NAME, WELCOME, Message

if TYPE_CHECKING:
    from broker.router import Router

MAX_WINDOW = 10_000
MAX_LANES = 64
MAX_METHODS = 4096
MAX_TEXT = 200
MAX_EPOCH = (1 << 64) - 1
CLAIMS_KEPT = 10_000


def greet(router: Router, peer: bytes, message: Message, now: float) -> None:
    """HELLO: `peer` is a client that says who it is."""
    if peer in router.workers:
        membership.unexpected(router, peer, message, now)
        return
    try:
        fields = payload.decode_map(message.body)
    except ProtocolError:
        router.count("dropped:bad_hello")
        return
    client = router.clients.get(peer)
    if client is None:
        if admission.full(router):
            # Not turned away: what it asks for is refused one by one, and known not to have begun.
            router.happened(now, "refused:max_connections")
            return
        client = router.clients[peer] = Client(peer, NATIVE, now)
    client.name = _text(fields, "name")
    client.host = _text(fields, "host")
    client.pid = _pid(fields)
    router.send(peer, _welcome(router, _agreed_heartbeat(router, fields)))
    if router.draining_since is not None:
        router.send(peer, Message(DRAIN))


def register(router: Router, peer: bytes, message: Message, now: float) -> None:
    """READY: `peer` becomes a worker, or is refused with GOODBYE."""
    known = router.workers.get(peer)
    if known is not None:
        membership.expel(router, known, "expelled:ready_twice", now)
        return
    name = message.service
    try:
        fields = payload.decode_map(message.body)
        lanes = _lanes(fields)
        epochs = _epochs(fields)
        methods = _methods(fields)
        store = _store(fields)
        text = name.decode()
    except (ProtocolError, UnicodeDecodeError):
        membership.turn_away(router, peer, "refused:bad_ready", now)
        return
    if (
        not name
        or len(name) > MAX_NAME
        or text.partition(".")[0] in ("mmi", "mesh")
        or text.strip(".") != text
    ):
        membership.turn_away(router, peer, "refused:reserved_name", now)
        return
    service = router.services.get(name)
    other = _other_store(service, store)
    if other is not None:
        membership.turn_away(
            router,
            peer,
            "refused:other_store",
            now,
            code=errors.INVALID_ARGUMENT,
            service=name,
            text=f"a second store for {text}: yours is {store}, but its workers here have {other}; "
            "open the same store, stop those workers, or use another service name",
        )
        return
    if peer in router.clients:
        router.lost(peer, now)
    if service is None:
        service = router.services[name] = Service(name)
    first = not service.workers
    worker = Worker(peer, service, message.code, now)
    worker.heartbeat = (
        _agreed_heartbeat(router, fields)
        if worker.dialect == NATIVE
        else router.settings.mdp_heartbeat
    )
    worker.instance = _text(fields, "instance")
    worker.version = _text(fields, "version")
    worker.host = _text(fields, "host")
    worker.pid = _pid(fields)
    worker.store = store
    router.workers[peer] = worker
    service.workers[peer] = worker
    service.declare(worker, methods)
    router.happened(now, "joined", worker=worker)
    if worker.dialect == NATIVE:
        router.send(peer, _welcome(router, worker.heartbeat))
        if router.draining_since is not None:
            router.send(peer, Message(DRAIN))
    for lane_name, window in lanes.items():
        lane = router.lane(service, lane_name)
        seat = worker.seats[lane_name] = Seat(worker, lane, 0)
        lane.seats[worker] = seat
        _serve(router, seat, window, epochs.get(lane_name, 0), now)
    if first:
        _rehome(router, service, now)
    membership.seat_all(router, worker, now)


def set_capacity(router: Router, peer: bytes, message: Message, now: float) -> None:
    """CAPACITY: a worker wants more or fewer requests in a lane it serves, or in a new one."""
    worker = router.workers.get(peer)
    if worker is None:
        membership.unexpected(router, peer, message, now)
        return
    worker.seen_at = now
    seat = worker.seats.get(message.method)
    if seat is None:
        if len(worker.seats) >= MAX_LANES:
            router.count("dropped:too_many_lanes")
            return
        lane = router.lane(worker.service, message.method)
        seat = worker.seats[message.method] = Seat(worker, lane, 0)
        lane.seats[worker] = seat
    _serve(router, seat, min(message.credit, MAX_WINDOW), message.sequence, now)
    if worker.state != ACTIVE or worker.paused_until:
        return
    if worker.probing:
        membership.unseat(worker)
        membership.seat_probe(router, worker, now)
        return
    seat.lane.pool.put(seat)
    router.dispatch(seat.lane, now)


# -------------------------------------------------------------------- lanes, and claims on them


def _serve(router: Router, seat: Seat, window: int, epoch: int, now: float) -> None:
    """The worker of `seat` asks for `window` requests at a time, by a claim if `epoch` is not 0.

    The caller puts the seat into the pool of its lane, and gives it work.
    """
    lane = seat.lane
    worker = seat.worker
    if not window:
        _set_window(router, seat, 0, now)
        return
    key = (lane.service.name, worker.store.uuid, lane.name)
    newest = router.claims.get(key, 0)
    if epoch < newest:
        router.happened(now, "refused:old_epoch", worker=worker, lane=lane.name)
        _close(router, seat, newest, now)
        return
    _set_window(router, seat, window, now)
    if not epoch:
        return
    router.claims.pop(key, None)  # to the end of those that are kept
    if len(router.claims) >= CLAIMS_KEPT:
        del router.claims[next(iter(router.claims))]
    router.claims[key] = epoch
    if epoch == newest:
        return
    router.happened(now, "took_over", worker=worker, lane=lane.name)
    for other in list(lane.seats.values()):
        if other is not seat and other.window:
            router.happened(now, "closed:old_epoch", worker=other.worker, lane=lane.name)
            _close(router, other, epoch, now)
            endings.move_from_lane(router, other.worker, lane, now)


def _close(router: Router, seat: Seat, epoch: int, now: float) -> None:
    """The lane of `seat` belongs to the claim of `epoch`: tell the worker that it gets nothing."""
    _set_window(router, seat, 0, now)
    lane = seat.lane
    answer = Message(CAPACITY, sequence=epoch, service=lane.service.name, method=lane.name)
    if seat.worker.dialect == NATIVE:
        router.send(seat.worker.peer, answer)


def _set_window(router: Router, seat: Seat, window: int, now: float) -> None:
    """How many requests the worker of `seat` takes; 0 takes the seat out of its pool at once."""
    lane = seat.lane
    lane.serving += (window > 0) - (seat.window > 0)
    was_served = seat.window > 0
    seat.window = window
    if window:
        return
    lane.pool.discard(seat)
    if was_served and not lane.serving:
        endings.unserved(router, lane, now)


def _other_store(service: Service | None, store: Store) -> Store | None:
    """The store of the workers of `service`, if it is not `store`. All of them have the same."""
    for worker in service.workers.values() if service is not None else ():
        return worker.store if worker.store.uuid != store.uuid else None
    return None


# -------------------------------------------------------------------- calls that waited


def _rehome(router: Router, service: Service, now: float) -> None:
    """The first worker of `service` is here: put the calls that waited for it into their lanes.

    They stand in the default lane, or in a lane of workers that have left. MDP calls for `a.b`
    that found no service stand at a service of that name (section 10).
    """
    for lane in list(service.lanes.values()):
        for call in list(lane.queue):
            _place(router, call, service, now)
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
                    _place(router, call, service, now)


def _place(router: Router, call: Call, service: Service, now: float) -> None:
    """Let the waiting `call` wait where `service` wants it."""
    method = service.methods.get(call.message.method) if call.message is not None else None
    lane = lane_for(router, service, call.client, method)
    call.method = method
    call.idempotent = call.idempotent or (method is not None and method.idempotent)
    if lane is not call.lane:
        call.lane.queue.remove(call)
        call.lane = lane
        lane.queue.push(call)
    endings.set_timer(router, call, now)


def lane_for(router: Router, service: Service, client: Client, method: Method | None) -> Lane:
    """Where a call of `client` belongs: MDP does not say what only reads (section 10)."""
    if client.dialect != NATIVE and b"writer" in service.lanes:
        return service.lanes[b"writer"]
    return router.lane(service, method.lane if method is not None else b"")


# -------------------------------------------------------------------- what peers say of themselves


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


def _epochs(fields: dict[str, Any]) -> dict[bytes, int]:
    epochs = fields.get("epochs", {})
    if not isinstance(epochs, dict) or len(epochs) > MAX_LANES:
        raise ProtocolError("epochs must be a map of at most 64 lanes")
    found = {}
    for name, epoch in epochs.items():
        if type(name) is not str or type(epoch) is not int or not 0 < epoch <= MAX_EPOCH:
            raise ProtocolError("a claim has the name of a lane and an epoch of 64 bits, above 0")
        found[_name(name)] = epoch
    return found


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


def _store(fields: dict[str, Any]) -> Store:
    if "store" not in fields:
        return NO_STORE
    store = fields["store"]
    if not isinstance(store, dict):
        raise ProtocolError("store must be a map")
    uuid, epoch = store.get("uuid"), store.get("epoch", 0)
    if type(uuid) is not str or not uuid or type(epoch) is not int or not 0 <= epoch <= MAX_EPOCH:
        raise ProtocolError("a store has a uuid, which is text, and an epoch of 64 bits")
    _name(uuid)
    return Store(uuid, epoch, _text(store, "host"))


def _name(text: str) -> bytes:
    name = text.encode("utf-8", "surrogatepass")
    if len(name) > MAX_NAME:
        raise ProtocolError(f"a name is longer than {MAX_NAME} octets")
    return name


def _text(fields: dict[str, Any], key: str) -> str:
    """What a peer says of itself, for operators; empty if it is no text."""
    value = fields.get(key)
    return value[:MAX_TEXT] if type(value) is str else ""


def _pid(fields: dict[str, Any]) -> int:
    """The process id that a peer states, 0 if it is none."""
    value = fields.get("pid")
    return value if type(value) is int and 0 < value < 1 << 32 else 0


def _agreed_heartbeat(router: Router, fields: dict[str, Any]) -> float:
    """The interval both sides use: the slower proposal, within 0.1 to 10 s (section 6)."""
    theirs = fields.get("heartbeat")
    if type(theirs) is not int and type(theirs) is not float:
        theirs = 0.0
    return float(max(0.1, min(10.0, max(router.settings.heartbeat, theirs))))


def _welcome(router: Router, heartbeat: float) -> Message:
    body = {
        "capabilities": 0,
        "heartbeat": heartbeat,
        "broker": router.broker_id,
        "max_body": router.settings.max_body,
        "brokers": 0,
    }
    return Message(WELCOME, frames=[payload.encode(body)])
