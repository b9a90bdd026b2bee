"""What the broker answers itself: MMI (RFC 8) and its own status."""

from __future__ import annotations

from heapq import nlargest
from typing import TYPE_CHECKING, Any

from broker.state import Client, Lane, Method, Service, Store
from mesh import errors
from mesh.protocol import payload
from mesh.protocol.messages import ERROR, FINAL, RAW, Body, Message

if TYPE_CHECKING:
    from broker.router import Router

SHOWN_CLIENTS = 50
SHOWN_METHODS = 100
SHOWN_ID = 32


def answer(router: Router, message: Message, now: float) -> Message | None:
    """The reply to a request that is for the broker itself; None if it is not."""
    name = message.service
    if name == b"mmi" or name.startswith(b"mmi."):
        # Natively "mmi.service" is addressed as service "mmi", method "service".
        verb = message.method if name == b"mmi" else name[4:]
        return Message(FINAL, RAW, frames=_mmi(router, verb, _subject(message)))
    if name == b"mesh.broker":
        if message.method == b"status":
            return Message(FINAL, frames=[payload.encode(status(router, now))])
        if message.method == b"history":
            return Message(FINAL, frames=[payload.encode(history(router, message, now))])
        text = payload.encode({"message": "the broker answers: status, history"})
        return Message(ERROR, code=errors.METHOD_NOT_FOUND, frames=[text])
    return None


def history(router: Router, message: Message, now: float) -> dict[str, Any]:
    """What happened lately, after the number that the request names, if it names one."""
    after = _argument(message)
    return {
        "broker": router.broker_id,
        **router.history.told(now, after if type(after) is int and after > 0 else 0),
    }


def _subject(message: Message) -> bytes | None:
    """The name that an MMI request asks about: its body frame, or natively its first argument."""
    if not message.frames:
        return None
    if message.flags & RAW:
        return bytes(message.frames[0])
    subject = _argument(message)
    return subject.encode() if isinstance(subject, str) else subject


def _argument(message: Message) -> Any:
    """The first argument of a native request; None without one."""
    try:
        return payload.decode(bytes(message.frames[0]))[0][0]
    except (errors.ProtocolError, LookupError, TypeError):
        return None


def _mmi(router: Router, verb: bytes, subject: bytes | None) -> list[Body]:
    service = router.services.get(subject) if isinstance(subject, bytes) else None
    if verb == b"service":
        return [b"200" if service is not None and service.workers else b"404"]
    if verb == b"services":
        return [name for name, service in router.services.items() if service.workers]
    if verb == b"workers":
        return [str(len(service.workers) if service is not None else 0).encode()]
    return [b"501"]


def status(router: Router, now: float) -> dict[str, Any]:
    """What the broker knows, as plain data. Ages and durations in seconds."""
    services = []
    for service in router.services.values():
        seats = [seat for lane in service.lanes.values() for seat in lane.seats.values()]
        waiting = [lane.queue.oldest_at() for lane in service.lanes.values()]
        in_hand = [call.queued_at for w in service.workers.values() for call in w.calls.values()]
        since = [at for at in (*waiting, *in_hand) if at is not None]
        services.append(
            {
                "name": service.name.decode("utf-8", "replace"),
                "workers": len(service.workers),
                "in_flight": sum(seat.in_flight for seat in seats),
                "credit": sum(seat.window for seat in seats),
                "queued": service.queued,
                "oldest_age": now - min(since) if since else 0.0,
                "lanes": {
                    lane.name.decode("utf-8", "replace"): _lane(lane)
                    for lane in service.lanes.values()
                },
                "busiest_methods": _methods(service),
            }
        )
    workers = [
        {
            "service": worker.service.name.decode("utf-8", "replace"),
            "instance": worker.instance,
            "version": worker.version,
            "store": _store(worker.store),
            "host": worker.host,
            "pid": worker.pid,
            "state": worker.state,
            "lanes": sorted(
                name.decode("utf-8", "replace")
                for name, seat in worker.seats.items()
                if seat.window
            ),
            "in_flight": sum(seat.in_flight for seat in worker.seats.values()),
            "credit": sum(seat.window for seat in worker.seats.values()),
            "ended": worker.ended,
            "errors": worker.errors,
            "age": now - worker.joined_at,
        }
        for worker in router.workers.values()
    ]
    return {
        "broker": router.broker_id,
        "uptime": now - (router.started_at if router.started_at is not None else now),
        "draining": router.draining_since is not None,
        "endpoints": list(router.endpoints),
        "services": services,
        "workers": workers,
        "clients": len(router.clients),
        "busiest_clients": [
            {
                "id": client.peer[:SHOWN_ID].hex(),
                "name": client.name,
                "host": client.host,
                "pid": client.pid,
                "open": len(client.calls),
                "asked": client.asked,
            }
            for client in nlargest(SHOWN_CLIENTS, router.clients.values(), key=_asked)
        ],
        "accepted": router.accepted,
        "finished": router.finished,
        "held_bytes": router.held_bytes,
        "octets_in": router.octets_in,
        "octets_out": router.octets_out,
        "streams": router.streams,
        "heartbeats": router.heartbeats,
        "counters": dict(router.counters),
    }


def _methods(service: Service) -> dict[str, dict[str, Any]]:
    busiest = nlargest(SHOWN_METHODS, service.methods.items(), key=_ended)
    return {
        name.decode("utf-8", "replace"): {
            "ended": method.ended,
            "failed": method.failed,
            "latency": method.latency.snapshot(),
        }
        for name, method in busiest
        if method.ended
    }


def _ended(named: tuple[bytes, Method]) -> int:
    return named[1].ended


def _lane(lane: Lane) -> dict[str, Any]:
    seats = lane.seats.values()
    return {
        "in_flight": sum(seat.in_flight for seat in seats),
        "credit": sum(seat.window for seat in seats),
        "queued": lane.queue.length,
        "ended": lane.ended,
        "failed": lane.failed,
        "retried": lane.retried,
        "spent": lane.spent,
        "latency": lane.latency.snapshot(),
    }


def _asked(client: Client) -> int:
    return client.asked


def _store(store: Store) -> dict[str, object] | None:
    return {"uuid": store.uuid, "epoch": store.epoch, "host": store.host} if store.uuid else None
