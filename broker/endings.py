"""How calls end other than by their worker's reply, and how they come to another worker.

Rules over the router's state, called by the router and the rules beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.state import ACTIVE, Call, Lane, Worker, body_size, open_call
from mesh import errors
from mesh.protocol import payload
from mesh.protocol.mdp import NATIVE
from mesh.protocol.messages import CANCEL, ERROR, GOODBYE, IDEMPOTENT, REQUEST, STARTED, Message

if TYPE_CHECKING:
    from broker.router import Router

CODE_NAMES = {
    errors.SERVICE_NOT_FOUND: "service_not_found",
    errors.METHOD_NOT_FOUND: "method_not_found",
    errors.INVALID_ARGUMENT: "invalid_argument",
    errors.OVERLOADED: "overloaded",
    errors.DEADLINE_EXCEEDED: "deadline_exceeded",
    errors.WORKER_LOST: "worker_lost",
    errors.NOT_STARTED: "not_started",
    errors.DRAINING: "draining",
    errors.PROTOCOL: "protocol",
    errors.TOO_LARGE: "too_large",
    errors.BROKER_LOST: "broker_lost",
}


def fail(router: Router, call: Call, code: int, text: str, *, started: bool = False) -> None:
    """End `call` with an error of the broker's own."""
    router.count(f"failed:{CODE_NAMES[code]}")
    # A worker that was lost with it may have done the work.
    flags = (STARTED if started or call.losses else 0) | (IDEMPOTENT if call.idempotent else 0)
    router.send(
        call.client.peer,
        Message(
            ERROR,
            flags,
            code=code,
            incarnation=call.incarnation,
            sequence=call.sequence,
            frames=[payload.encode({"message": text})],
        ),
    )
    router.close(call)


def fail_at_both(router: Router, call: Call, code: int, text: str) -> None:
    """End `call` for its client, and tell the worker that has it, if any."""
    if call.seat is None:
        call.lane.queue.remove(call)
    else:
        stop(router, call, call.seat.worker)
    fail(router, call, code, text, started=call.seat is not None)


def abandon(router: Router, call: Call) -> None:
    """The client wants `call` no longer: forget it, or tell its worker."""
    if call.seat is None:
        call.lane.queue.remove(call)
    else:
        stop(router, call, call.seat.worker)
    router.close(call)


def stop(router: Router, call: Call, worker: Worker) -> None:
    """Tell `worker`, which has `call`, that nobody waits for it any more."""
    router.send(
        worker.peer,
        Message(CANCEL, tag=call.tag, incarnation=call.incarnation, sequence=call.sequence),
    )


def inexpressible(router: Router, peer: bytes, message: Message) -> None:
    """`message` has no form in the dialect of MDP that `peer` speaks (section 10)."""
    worker = router.workers.get(peer)
    if worker is None and message.command in (ERROR, GOODBYE):
        router.count("mdp:unanswered")  # as that protocol has it: its clients time out
        return
    router.count("dropped:inexpressible")
    if worker is None or message.command != REQUEST:
        return
    call = worker.calls.get(message.tag)
    if call is None:  # the worker left and came back meanwhile
        return
    if not call.ended:
        text = "MDP workers cannot take a client's stream"
        fail(router, call, errors.INVALID_ARGUMENT, text)
    router.release(worker, call, worker.sent_at)


# -------------------------------------------------------------------- time


def expire(router: Router, call: Call) -> None:
    """The time of a waiting `call`, already out of its queue, has run out."""
    fail(router, call, errors.DEADLINE_EXCEEDED, "ran out of time before a worker was free")


def set_timer(router: Router, call: Call, now: float) -> None:
    """The waiting `call` is due at its deadline; where nobody serves its lane, after the grace.

    MDP has no error reply that would tell a client to look elsewhere: its calls wait on.
    """
    due_at = call.expires_at
    if not call.lane.serving and call.client.dialect == NATIVE:
        due_at = min(due_at, now + router.settings.grace)
    router.wheel.discard(call)
    router.wheel.add(call, due_at)


def unserved(router: Router, lane: Lane, now: float) -> None:
    """Nobody serves `lane` any more: the grace of the calls that wait in it begins."""
    for call in lane.queue:
        set_timer(router, call, now)


def due(router: Router, call: Call, now: float) -> None:
    """The wheel brings back `call`: its deadline, or the end of the grace of its lane."""
    seat = call.seat
    if seat is not None:
        if now < call.expires_at:
            router.wheel.add(call, call.expires_at)
            return
        worker = seat.worker
        text = "ran out of time at the worker"
        fail(router, call, errors.DEADLINE_EXCEEDED, text, started=True)
        stop(router, call, worker)
        return
    lane = call.lane
    if now >= call.expires_at:
        lane.queue.remove(call)
        expire(router, call)
    elif lane.serving or call.client.dialect != NATIVE:
        router.wheel.add(call, call.expires_at)
    else:
        lane.queue.remove(call)
        waited = f"waited {router.settings.grace:.2g} s for one"
        if lane.service.workers:
            name = lane.name.decode("utf-8", "replace")
            text = f"none of its workers serves lane {name!r}, where this method belongs; {waited}"
        else:
            text = f"no worker offers it; {waited}"
        fail(router, call, errors.SERVICE_NOT_FOUND, text)


# -------------------------------------------------------------------- another worker


def worker_lost(router: Router, call: Call, text: str, now: float) -> None:
    """The worker that had `call` is gone. The call is out of its table already."""
    call.seat = None
    if call.ended:
        return
    if call.idempotent and not call.started and call.losses < router.settings.max_redispatches:
        start_over(router, call, "redispatched:worker_lost", now)
    else:
        call.losses += 1
        name = call.lane.service.name
        router.history.note(now, "failed:worker_lost", service=name, call=call)
        fail(router, call, errors.WORKER_LOST, text, started=True)


def start_over(router: Router, call: Call, reason: str, now: float) -> None:
    """Another worker is to do `call` from the beginning; it may be done twice."""
    router.happened(now, reason, service=call.lane.service.name, lane=call.lane.name, call=call)
    call.losses += 1
    if call.parts is not None:  # kept here, not forwarded: the next worker sends its own
        size = body_size(call.parts)
        call.size -= size
        router.held_bytes -= size
        call.parts = None
    wait_first(router, call, now)


def wait_first(router: Router, call: Call, now: float) -> None:
    """`call` comes back from a worker: it waits before all others of its lane."""
    call.lane.queue.push_front(call)
    if not call.lane.serving:
        set_timer(router, call, now)


def move_from_silent(router: Router, worker: Worker, now: float) -> None:
    """Give what silent `worker` has in hand to others, where it may be done twice.

    Once a call at most: should the call itself be what silences workers, it must not spread.
    """
    moved: dict[Lane, None] = {}
    for call in reversed(list(worker.calls.values())):  # the oldest comes to stand first
        movable = not call.losses and _others_serve(call.lane, worker)
        if movable and _take_from(router, worker, call, "redispatched:suspect", now):
            moved[call.lane] = None
    for lane in moved:
        router.dispatch(lane, now)


def move_from_lane(router: Router, worker: Worker, lane: Lane, now: float) -> None:
    """`worker` no longer serves `lane`: what it has of it and may be done twice waits for others.

    The caller dispatches the lane.
    """
    for call in reversed(list(worker.calls.values())):
        if call.lane is lane and call.losses < router.settings.max_redispatches:
            _take_from(router, worker, call, "redispatched:old_epoch", now)


def _take_from(router: Router, worker: Worker, call: Call, reason: str, now: float) -> bool:
    """Let `call`, which `worker` has, start over, if it may; whether it does.

    What stays behind in its place is owed: it keeps the seat taken until the worker answers.
    """
    seat = call.seat
    message = call.message
    if call.ended or call.started or not call.idempotent or seat is None or message is None:
        return False
    owed = open_call(call.client, call.lane, message, call.sequence, 0, True, now, now)
    owed.seat, owed.tag, owed.ended, owed.message = seat, call.tag, True, None
    worker.calls[call.tag] = owed
    stop(router, owed, worker)
    call.seat = None
    start_over(router, call, reason, now)
    return True


def _others_serve(lane: Lane, worker: Worker) -> bool:
    return any(
        seat.window > 0 and other is not worker and other.state == ACTIVE
        for other, seat in lane.seats.items()
    )
