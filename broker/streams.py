"""Streams: parts, chunks, and the credit that paces them (section 7). Also the client's CANCEL.

Rules over the router's state, called by the router alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker import endings
from broker.state import CALL_OVERHEAD, Call, Worker, body_size
from mesh import errors
from mesh.protocol.mdp import MDP01
from mesh.protocol.messages import END, MORE, Message

if TYPE_CHECKING:
    from broker.router import Router

MAX_CREDIT = (1 << 32) - 1


def partial_to_mdp(router: Router, worker: Worker, call: Call, message: Message) -> None:
    """A part of the answer for a client of MDP, which grants no credit."""
    if call.client.dialect != MDP01:
        if not call.started:
            call.started = True
            router.streams += 1
        message.sequence = call.sequence
        message.service = asked_name(call)
        router.octets_out += body_size(message.frames)
        router.send(call.client.peer, message)
        return
    # A 0.1 client takes one reply: the parts are kept until the FINAL (section 10).
    size = body_size(message.frames)
    settings = router.settings
    kept = call.size - CALL_OVERHEAD
    if kept + size > settings.max_body or router.held_bytes + size > settings.max_held_bytes:
        text = "the parts of the reply exceed the limit"
        endings.fail(router, call, errors.TOO_LARGE, text, started=True)
        endings.stop(router, call, worker)
        return
    call.size += size
    router.held_bytes += size
    if call.parts is None:
        call.parts = []
    call.parts.extend(message.frames)


def asked_name(call: Call) -> bytes:
    """The service that an MDP client asked for: `a.b` if method b of service a served it."""
    name = call.lane.service.name
    message = call.message
    return name + b"." + message.method if message is not None and message.method else name


def cancel(router: Router, peer: bytes, message: Message, now: float) -> None:
    call = _asked(router, peer, message, now)
    if call is not None:
        router.count("cancelled:by_client")
        endings.abandon(router, call)


def credit(router: Router, peer: bytes, message: Message, now: float) -> None:
    """CREDIT: a client takes further parts of the answer, or a worker further chunks."""
    if peer in router.workers:
        held = router.held(peer, message, now)
        if held is not None:
            _credit_of_worker(router, held[1], message)
        return
    call = _asked(router, peer, message, now)
    if call is None:
        return
    message.credit = min(message.credit, MAX_CREDIT - call.credit)
    call.credit += message.credit
    if call.seat is not None:
        _forward(router, call.seat.worker, call, message, now)


def _credit_of_worker(router: Router, call: Call, message: Message) -> None:
    if call.ended:
        router.count("dropped:ended")
        return
    if not call.flags & MORE:
        router.count("dropped:credit_for_no_stream")
        return
    if not call.started:
        call.started = True
        router.streams += 1
    message.credit = min(message.credit, MAX_CREDIT - call.chunk_credit)
    call.chunk_credit += message.credit
    message.incarnation = call.incarnation
    message.sequence = call.sequence
    router.send(call.client.peer, message)


def chunk(router: Router, peer: bytes, message: Message, now: float) -> None:
    """CHUNK and END of a client's stream."""
    call = _asked(router, peer, message, now)
    if call is None:
        return
    if message.command == END:
        excess = call.end is not None
        call.end = message
    else:
        call.chunk_credit -= message.credit or 1
        excess = call.end is not None or call.chunk_credit < 0
    if excess or not call.flags & MORE:
        text = "the client sent more than the worker granted"
        endings.fail_at_both(router, call, errors.PROTOCOL, text)
        return
    if call.seat is not None:  # else it is the END of an empty or failed stream: goes with it
        _forward(router, call.seat.worker, call, message, now)


def _forward(router: Router, worker: Worker, call: Call, message: Message, now: float) -> None:
    message.tag = call.tag
    worker.sent_at = now
    router.send(worker.peer, message)


def _asked(router: Router, peer: bytes, message: Message, now: float) -> Call | None:
    """The open call of client `peer` that `message` names; None, counted, if there is none."""
    client = router.clients.get(peer)
    if client is None:
        router.count("dropped:unknown_peer")
        return None
    client.seen_at = now
    call = client.calls.get(message.sequence)
    if call is None:
        router.count("dropped:unknown_request")
    return call
