"""Who belongs to the mesh: heartbeats, suspicion, pauses, ejection, leaving.

Rules over the router's state, called by the router and the rules beside it. How a worker comes in
is in `registration`.

    active ──silent 2 beats──> suspect ──any sign of life──> active
           (what it has that may be done twice goes to others)
    active ──5 errors in a row while others succeed──> ejected ──ttl, then one probe──> active
    active ──DRAIN──> draining
    any    ──silent 10 beats (60 with work in hand), disconnect, GOODBYE──> removed

Only an active worker that is not paused stands in the pools of its lanes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker import endings
from broker.state import ACTIVE, DRAINING, EJECTED, SUSPECT, Service, Worker
from mesh import errors
from mesh.protocol.mdp import NATIVE
from mesh.protocol.messages import DRAIN, GOODBYE, HEARTBEAT, Message

if TYPE_CHECKING:
    from broker.router import Router

EXPELLED_KEPT = 10_000
BLAMELESS = frozenset(
    {
        errors.METHOD_NOT_FOUND,
        errors.INVALID_ARGUMENT,
        errors.CANCELLED,
        errors.DEADLINE_EXCEEDED,
        errors.UNAUTHORIZED,
        errors.TOO_LARGE,
    }
)


def turn_away(
    router: Router,
    peer: bytes,
    reason: str,
    now: float,
    *,
    code: int = errors.PROTOCOL,
    text: str = "",
    service: bytes = b"",
) -> None:
    """Refuse a peer that is no worker: GOODBYE, then deaf to this connection."""
    router.happened(now, reason, service=service)
    router.send(
        peer, Message(GOODBYE, code=code, frames=[text.encode("utf-8", "replace")] if text else ())
    )
    deafen(router, peer, now)


def expel(router: Router, worker: Worker, reason: str, now: float) -> None:
    """Part with a worker that broke the protocol: GOODBYE, then deaf to this connection."""
    router.send(worker.peer, Message(GOODBYE, code=errors.PROTOCOL))
    remove(router, worker, reason, now)
    deafen(router, worker.peer, now)


def deafen(router: Router, peer: bytes, now: float) -> None:
    """Ignore `peer` until its connection has ended."""
    if len(router.expelled) >= EXPELLED_KEPT:
        del router.expelled[next(iter(router.expelled))]
    router.expelled[peer] = now


def remove(router: Router, worker: Worker, reason: str, now: float) -> None:
    """Forget `worker`; what it had in hand is given to others or ended (section 7)."""
    router.happened(now, reason, worker=worker)
    del router.workers[worker.peer]
    service = worker.service
    del service.workers[worker.peer]
    service.undeclare(worker)
    router.paused.pop(worker, None)
    if service.last_success_worker is worker:
        service.last_success_worker = None
    calls = list(worker.calls.values())
    worker.calls.clear()
    for seat in worker.seats.values():
        lane = seat.lane
        lane.pool.discard(seat)
        del lane.seats[worker]
        if seat.window:
            lane.serving -= 1
            if not lane.serving:
                endings.unserved(router, lane, now)
    for call in reversed(calls):  # each goes to the front: the oldest comes to stand first
        text = f"the worker was lost ({reason}) with it in hand"
        endings.worker_lost(router, call, text, now)
    for lane in service.lanes.values():
        router.dispatch(lane, now)
    recall_ejected(router, service, now)


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
                router.happened(now, "probed", worker=worker)
            if worker.state == ACTIVE:
                seat_all(router, worker, now)


def seat_probe(router: Router, worker: Worker, now: float) -> None:
    """One request only, over all its lanes, until it has shown that it works again.

    It stands in the pools of all; the router takes it out of them when it gets its request.
    """
    for seat in worker.seats.values():
        if seat.window and not worker.calls:
            window, seat.window = seat.window, 1
            seat.lane.pool.put(seat)
            seat.window = window
            router.dispatch(seat.lane, now)


def failed(router: Router, worker: Worker, code: int, now: float) -> None:
    """A worker answered with an error, which may be its own fault unless it is in BLAMELESS.

    It is ejected after several in a row, if meanwhile another worker of the service succeeded
    (otherwise the requests are to blame), and never more than half of a service at once.
    """
    if code in BLAMELESS:
        return
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
    if (len(_ejected(router, service)) + 1) * 2 > _able(service):
        return
    worker.ejections += 1
    worker.probing = False
    worker.consecutive_errors = 0
    pause(router, worker, now + router.settings.eject_ttl * worker.ejections)
    worker.state = EJECTED
    router.happened(now, "ejected", worker=worker)


def _ejected(router: Router, service: Service) -> list[Worker]:
    """The ejected workers of `service`: each is paused until its probe."""
    return [w for w in router.paused if w.state == EJECTED and w.service is service]


def _able(service: Service) -> int:
    """How many workers of `service` there are, without those that leave or are silent."""
    return sum(worker.state in (ACTIVE, EJECTED) for worker in service.workers.values())


def succeeded(router: Router, worker: Worker, now: float) -> None:
    """A worker that had failed works again."""
    worker.consecutive_errors = 0
    if worker.probing:
        worker.probing = False
        worker.ejections = 0
        router.happened(now, "restored", worker=worker)
        if worker.state == ACTIVE and not worker.paused_until:
            seat_all(router, worker, now)


def recall_ejected(router: Router, service: Service, now: float) -> None:
    """Others have gone, leave or are silent: probe ejected workers now rather than leave out more
    than half of those that could work."""
    ejected = _ejected(router, service)
    if not ejected:
        return
    surplus = max(0, len(ejected) - _able(service) // 2)
    for worker in sorted(ejected, key=lambda worker: worker.paused_until)[:surplus]:
        router.paused[worker] = now
        resume_paused(router, now)


def heartbeat(router: Router, peer: bytes, message: Message, now: float) -> None:
    """HEARTBEAT: a sign of life, which is answered to clients."""
    router.heartbeats += 1
    worker = router.workers.get(peer)
    if worker is not None:
        worker.seen_at = now
        return
    client = router.clients.get(peer)
    if client is None:
        unexpected(router, peer, message, now)
        return
    client.seen_at = now
    router.send(peer, Message(HEARTBEAT))


def wrong_endpoint(router: Router, peer: bytes, wanted: str, now: float) -> None:
    """`peer` sent what belongs to another endpoint of this broker, one for `wanted`."""
    text = f"not at this endpoint: connect to one of this broker's endpoints for {wanted}"
    turn_away(router, peer, "refused:wrong_endpoint", now, code=errors.INVALID_ARGUMENT, text=text)


def unexpected(router: Router, peer: bytes, message: Message, now: float) -> None:
    """A command that this peer may not send now: GOODBYE, and deaf to it from here on."""
    worker = router.workers.get(peer)
    if worker is not None:
        expel(router, worker, "expelled:unexpected_command", now)
    elif peer in router.clients:
        router.count("dropped:unexpected_command")
    else:
        turn_away(router, peer, "refused:unexpected_command", now)


# -------------------------------------------------------------------- leaving (section 8)


def drain(router: Router, peer: bytes, message: Message, now: float) -> None:
    """DRAIN: a worker wants no new work, or a client knows that the broker leaves."""
    worker = router.workers.get(peer)
    if worker is None:
        client = router.clients.get(peer)
        if client is None:
            router.count("dropped:unknown_peer")
        else:
            client.seen_at = now
            client.drained = True
        return
    worker.seen_at = now
    worker.state = DRAINING
    router.paused.pop(worker, None)
    worker.paused_until = 0.0
    unseat(worker)
    router.happened(now, "drained", worker=worker)
    if worker.dialect == NATIVE:  # no request is on its way any more; 0 would be the broker's own
        router.send(peer, Message(DRAIN, credit=1))
    recall_ejected(router, worker.service, now)


def goodbye(router: Router, peer: bytes, message: Message, now: float) -> None:
    """GOODBYE: a peer leaves."""
    worker = router.workers.get(peer)
    if worker is not None:
        remove(router, worker, "left:goodbye", now)
    elif peer in router.clients:
        router.lost(peer, now)
    else:
        router.count("dropped:unknown_peer")


def may_leave(router: Router, now: float) -> bool:
    """Whether the broker that drains has nothing open and every client knows.

    A client that has been silent may not even look at its socket until it is used again; it is not
    waited for as long as one that was busy just now.
    """
    since = router.draining_since
    if since is None:
        return False
    settings = router.settings
    for client in router.clients.values():
        busy = client.seen_at > since - settings.drain_busy_ttl
        patience = settings.drain_busy_ttl if busy else settings.drain_idle_ttl
        if client.calls or not (client.drained or now - since >= patience):
            return False
    return True


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
            remove(router, worker, "lost:silent", now)
            deafen(router, worker.peer, now)
            continue
        if silence > suspect_after:
            if worker.state == ACTIVE:
                worker.state = SUSPECT
                unseat(worker)
                router.happened(now, "suspected", worker=worker)
                recall_ejected(router, worker.service, now)
            if worker.calls:  # each time: those who can take them may come later
                endings.move_from_silent(router, worker, now)
        elif worker.state == SUSPECT:
            worker.state = ACTIVE
            router.happened(now, "cleared", worker=worker)
            if not worker.paused_until:
                seat_all(router, worker, now)
        if now - worker.sent_at >= beat - 0.01:
            worker.sent_at = now
            router.send(worker.peer, Message(HEARTBEAT))
    for client in list(router.clients.values()):
        idle = not client.calls and now - client.seen_at > settings.client_idle_ttl
        if idle and client.dialect != NATIVE:
            del router.clients[client.peer]
