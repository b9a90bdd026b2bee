"""Which requests the broker takes, which service they are for, and how it refuses the others.

Rules over the router's state, called by the router alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker import admin, membership
from broker.endings import CODE_NAMES
from broker.state import CALL_OVERHEAD, Client, Service
from mesh import errors
from mesh.protocol import payload
from mesh.protocol.mdp import LEGACY02, NATIVE
from mesh.protocol.messages import ERROR, Message

if TYPE_CHECKING:
    from broker.router import Router


def new_client(router: Router, peer: bytes, message: Message, now: float) -> Client | None:
    """The client that `peer`, so far unknown, becomes by a request; None if it may not."""
    worker = router.workers.get(peer)
    if worker is not None:
        membership.expel(router, worker, "expelled:request_from_worker", now)
        return None
    dialect = NATIVE if message.sequence else message.code
    if not message.sequence and not NATIVE < dialect <= LEGACY02:
        router.count("dropped:no_request_id")
        return None
    client = Client(peer, dialect, now)
    if full(router):
        refuse(router, client, message, message.sequence, errors.OVERLOADED, FULL, 1.0)
        return None
    router.clients[peer] = client
    return client


FULL = "the broker has as many clients as it may have; ask its operator for more (max_connections)"


def full(router: Router) -> bool:
    """Whether one more client would be too many."""
    most = router.settings.max_clients
    return 0 < most <= len(router.clients)


def find_unserved(
    router: Router, client: Client, message: Message, sequence: int, now: float
) -> Service | None:
    """The service for a name that no worker serves; None if the request is dealt with."""
    name = message.service
    reply = admin.answer(router, message, now)
    if reply is not None:
        reply.incarnation = message.incarnation
        reply.sequence = message.sequence
        reply.service = name
        router.send(client.peer, reply)
        return None
    if client.dialect != NATIVE and b"." in name:
        parent, _, method = name.rpartition(b".")
        found = router.services.get(parent)
        if method and found is not None and found.workers:
            message.service, message.method = parent, method
            return found
    service = router.services.get(name)
    if service is not None:
        return service
    if not name or len(router.services) >= router.settings.max_services:
        refuse(router, client, message, sequence, errors.SERVICE_NOT_FOUND, "no such service")
        return None
    service = router.services[name] = Service(name)
    return service


def fits(router: Router, client: Client, message: Message, sequence: int, size: int) -> bool:
    """Whether the broker takes a request of `size` octets; refuses it if not."""
    settings = router.settings
    if router.draining_since is not None:
        refuse(router, client, message, sequence, errors.DRAINING, "broker is leaving")
    elif size > settings.max_body:
        text = f"body of {size:,} octets; the limit is {settings.max_body:,}: use a stream"
        refuse(router, client, message, sequence, errors.TOO_LARGE, text)
    elif router.held_bytes + size + CALL_OVERHEAD > settings.max_held_bytes:
        text = "broker holds as much as it may have (max_held_bytes)"
        refuse(router, client, message, sequence, errors.OVERLOADED, text, 0.1)
    else:
        return True
    return False


def refuse(
    router: Router,
    client: Client,
    message: Message,
    sequence: int,
    code: int,
    text: str,
    retry_after: float | None = None,
) -> None:
    """Answer a request that is not accepted with an ERROR: the work has not started."""
    router.happened(client.seen_at, f"refused:{CODE_NAMES[code]}", service=message.service)
    body: dict[str, object] = {"message": text}
    if retry_after is not None:
        body["retry_after"] = retry_after
    router.send(
        client.peer,
        Message(
            ERROR,
            code=code,
            incarnation=message.incarnation,
            sequence=sequence,
            service=message.service if client.dialect != NATIVE else b"",
            frames=[payload.encode(body)],
        ),
    )


def measure(router: Router, service: Service, now: float) -> None:
    """How fast each lane of `service` ends calls while some wait: predicts a wait.

    A service, or a lane, that has neither workers nor calls is forgotten.
    """
    if not service.workers and not service.queued:
        del router.services[service.name]
        return
    for lane in list(service.lanes.values()):
        passed = now - lane.rate_at
        if not lane.seats and not lane.queue.length:
            del service.lanes[lane.name]
        elif not lane.queue.length:
            lane.rate_at, lane.rate_ended = now, lane.ended
        elif passed >= 0.5 and lane.ended - lane.rate_ended >= 10:
            rate = (lane.ended - lane.rate_ended) / passed
            lane.rate = rate if not lane.rate else lane.rate + 0.5 * (rate - lane.rate)
            lane.rate_at, lane.rate_ended = now, lane.ended
