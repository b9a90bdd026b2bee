"""The routing core of a broker: who gets which request, and how each one ends. Pure.

Theory of operation
-------------------
Messages come in through `receive`, the end of a peer through `lost`, messages that could not be
delivered through `undelivered`, time through `tick`. What is to be sent is collected and handed
out by `take`. Nothing else changes the state, and nothing here reads a clock or a socket.

A REQUEST becomes a `Call`, which is in exactly one of three places until it has ended:

    waiting     in the FairQueue of its lane; `seat` is None
    in hand     in `calls` of one worker; `seat` says which
    owed        as in hand, but `ended`: the client has its answer (deadline, cancel) or is gone,
                and only the worker's seat is still occupied

A lane gives work away as soon as it has both a waiting call and a seat with free credit, so one of
the two is always empty (`check`). A worker's end returns its calls to the front of the queue or
ends them with WORKER_LOST. The protocol is docs/protocol.md; its sections are cited in place.

What every request needs is here; the other rules stand beside it, as functions over this state:

    admission    which requests are taken           registration  how peers come in; lanes, claims
    endings      deadlines, losses, other workers   membership    heartbeats, ejection, leaving
    streams      parts, chunks and their credit     admin         what the broker itself answers
    history      what happened lately
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from broker import admission, endings, membership, registration, streams
from broker.history import History
from broker.queues import CreditPool, ExpiryWheel, FairQueue
from broker.state import (
    ACTIVE,
    CALL_OVERHEAD,
    Call,
    Client,
    Lane,
    RouterSettings,
    Seat,
    Service,
    Worker,
    body_size,
    open_call,
)
from mesh import errors
from mesh.protocol.mdp import NATIVE
from mesh.protocol.messages import (
    CANCEL,
    CAPACITY,
    CHUNK,
    CREDIT,
    DRAIN,
    END,
    ERROR,
    FINAL,
    GOODBYE,
    HEARTBEAT,
    HELLO,
    IDEMPOTENT,
    PARTIAL,
    RAW,
    READY,
    REQUEST,
    STARTED,
    STREAM,
    WELCOME,
    Body,
    Message,
)

RATE_EVERY = 0.1
OVERHEAD = CALL_OVERHEAD  # its type is known in the compiled form
STREAMED = frozenset({PARTIAL, CREDIT, CHUNK, END})


class Router:
    """All routing state of one broker. `broker_id` is any text, new at each start."""

    def __init__(self, settings: RouterSettings | None = None, broker_id: str = "") -> None:
        self.settings = settings or RouterSettings()
        self.broker_id = broker_id
        self.clients: dict[bytes, Client] = {}
        self.workers: dict[bytes, Worker] = {}
        self.services: dict[bytes, Service] = {}
        self.expelled: dict[bytes, float] = {}
        self.claims: dict[tuple[bytes, str, bytes], int] = {}  # by service, store and lane
        self.counters: dict[str, int] = {}
        self.history = History()
        self.accepted = 0
        self.finished = 0
        self.held_bytes = 0
        self.octets_in = 0
        self.octets_out = 0
        self.streams = 0
        self.heartbeats = 0
        self.draining_since: float | None = None
        self.started_at: float | None = None
        self.endpoints: list[str] = []
        self.wheel = ExpiryWheel()
        self._out: list[tuple[bytes, Message]] = []
        self._last_tag = 0
        self._last_sequence = 0
        self._watched_at = 0.0
        self.paused: dict[Worker, float] = {}
        self._handlers: dict[int, Callable[[bytes, Message, float], None]] = {
            PARTIAL: self._on_partial,
            ERROR: self._on_error,
            CREDIT: partial(streams.credit, self),
            CANCEL: partial(streams.cancel, self),
            CHUNK: partial(streams.chunk, self),
            END: partial(streams.chunk, self),
            HELLO: partial(registration.greet, self),
            READY: partial(registration.register, self),
            CAPACITY: partial(registration.set_capacity, self),
            HEARTBEAT: partial(membership.heartbeat, self),
            DRAIN: partial(membership.drain, self),
            GOODBYE: partial(membership.goodbye, self),
            WELCOME: partial(membership.unexpected, self),
        }

    # ---------------------------------------------------------------- the verbs

    def receive(self, peer: bytes, message: Message, now: float) -> None:
        """Take in one message of `peer`. The router owns it from here on."""
        if self.expelled and peer in self.expelled:
            self.count("dropped:expelled")
            return
        command = message.command
        if command == REQUEST:
            self._on_request(peer, message, now)
        elif command == FINAL:
            self._on_final(peer, message, now)
        else:
            self._handlers[command](peer, message, now)

    def receive_native(
        self, found: Sequence[tuple[bytes, Message | list[Body]]], start: int, now: float
    ) -> int:
        """Take in what was found, from `start` on, until something is no native message.

        How much of `found` is dealt with.
        """
        for index in range(start, len(found)):
            peer, received = found[index]
            if type(received) is not Message:
                return index
            message = received
            if message.command == REQUEST and not message.sequence:
                self.count("dropped:no_request_id")
                continue
            if message.command == READY:
                message.code = NATIVE
            self.receive(peer, message, now)
        return len(found)

    def lost(self, peer: bytes, now: float) -> None:
        """`peer` is gone: nothing sent to it arrives, nothing more comes from it."""
        self.expelled.pop(peer, None)
        worker = self.workers.get(peer)
        if worker is not None:
            membership.remove(self, worker, "lost:disconnected", now)
        client = self.clients.pop(peer, None)
        if client is not None:
            for call in list(client.calls.values()):
                self.count("cancelled:client_lost")
                endings.abandon(self, call)

    def unread(self, peer: bytes, now: float) -> None:
        """`peer` does not read what it is sent, and no more can be kept for it: part with it."""
        self.lost(peer, now)
        text = "too much of what this broker sent was not read"
        membership.turn_away(self, peer, "lost:unread", now, code=errors.OVERLOADED, text=text)

    def undelivered(self, peer: bytes, message: Message, now: float) -> None:
        """`message`, which `take` gave out, could not be handed to the transport."""
        worker = self.workers.get(peer)
        client = self.clients.get(peer)
        if worker is not None:
            self.count("undelivered:to_worker")
            call = worker.calls.get(message.tag)
        else:
            self.count("undelivered:to_client")
            call = client.calls.get(message.sequence) if client is not None else None
        if call is None:
            return
        if worker is None or message.command != REQUEST:
            if message.command in STREAMED and not call.ended:
                # The rest would arrive with a hole in it.
                text = "a part of the stream could not be delivered"
                endings.fail_at_both(self, call, errors.WORKER_LOST, text)
            return
        self.happened(now, "redispatched:undelivered", worker=worker, call=call)
        membership.pause(self, worker, now + self.settings.refusal_pause)
        self._take_back(worker, call, now)

    def wrong_endpoint(self, peer: bytes, wanted: str, now: float) -> None:
        """`peer` sent what belongs to an endpoint for `wanted`, to one that is not."""
        if peer in self.expelled:
            self.count("dropped:expelled")
        else:
            membership.wrong_endpoint(self, peer, wanted, now)

    def inexpressible(self, peer: bytes, message: Message) -> None:
        """`message` has no form in the dialect that `peer` speaks (section 10)."""
        endings.inexpressible(self, peer, message)

    def tick(self, now: float) -> None:
        """Let time pass: expire calls, watch workers, measure rates."""
        if self.started_at is None:
            self.started_at = self._watched_at = now
            self.history.note(now, "broker:started")
        if self.wheel.next_at() <= now:
            for call in self.wheel.due(now):
                endings.due(self, call, now)
        if self.paused and min(self.paused.values()) <= now:
            membership.resume_paused(self, now)
        if now >= self._watched_at:
            membership.watch(self, now, late_by=max(0.0, now - self._watched_at))
            self._watched_at = now + min(RATE_EVERY, self.settings.heartbeat / 2)
            for service in list(self.services.values()):
                admission.measure(self, service, now)

    def next_deadline(self) -> float:
        """When `tick` is due next."""
        at = min(self._watched_at, self.wheel.next_at())
        return min(at, min(self.paused.values())) if self.paused else at

    def take(self) -> list[tuple[bytes, Message]]:
        """What is to be sent, in order, and forget it."""
        out = self._out
        self._out = []
        return out

    def drain(self, now: float) -> None:
        """Begin to leave (section 8): no new requests, finish the open ones."""
        if self.draining_since is not None:
            return
        self.draining_since = now
        self.happened(now, "broker:draining")
        for peers in (self.clients, self.workers):
            for peer, known in peers.items():
                if known.dialect == NATIVE:
                    self.send(peer, Message(DRAIN))

    def drained(self, now: float) -> bool:
        """Whether the broker may leave: nothing open, and every client knows."""
        return membership.may_leave(self, now)

    def farewell(self) -> None:
        """GOODBYE to everybody, as the last thing before the sockets close."""
        for peer in [*self.clients, *self.workers]:
            self.send(peer, Message(GOODBYE))

    # ---------------------------------------------------------------- small tools

    def send(self, peer: bytes, message: Message) -> None:
        self._out.append((peer, message))

    def count(self, reason: str, by: int = 1) -> None:
        self.counters[reason] = self.counters.get(reason, 0) + by

    def happened(
        self,
        now: float,
        what: str,
        *,
        worker: Worker | None = None,
        service: bytes = b"",
        lane: bytes = b"",
        call: Call | None = None,
    ) -> None:
        """Count `what`, and remember it for the operator (`history`)."""
        self.count(what)
        self.history.note(now, what, worker=worker, service=service, lane=lane, call=call)

    def lane(self, service: Service, name: bytes) -> Lane:
        lane = service.lanes.get(name)
        if lane is None:
            lane = service.lanes[name] = Lane(service, name, FairQueue(), CreditPool())
        return lane

    # ---------------------------------------------------------------- requests

    def _on_request(self, peer: bytes, message: Message, now: float) -> None:
        client = self.clients.get(peer)
        if client is None:
            client = admission.new_client(self, peer, message, now)
            if client is None:
                return
        client.seen_at = now
        client.asked += 1
        sequence = message.sequence
        if not sequence:
            if client.dialect == NATIVE:
                self.count("dropped:no_request_id")
                return
            self._last_sequence += 1
            sequence = self._last_sequence
            message.code = 0
            message.timeout = self.settings.mdp_ttl
            message.flags |= STREAM
            message.credit = streams.MAX_CREDIT
        elif sequence in client.calls or client.dialect != NATIVE:
            self.count("dropped:duplicate_request")
            return
        if message.code:
            self.count(f"retried:{endings.CODE_NAMES.get(message.code, 'other')}")
        service = self.services.get(message.service)
        if service is None or not service.workers:
            service = admission.find_unserved(self, client, message, sequence, now)
            if service is None:
                return
        method = service.methods.get(message.method)
        if client.dialect != NATIVE and b"writer" in service.lanes:
            lane = service.lanes[b"writer"]
        elif method is not None:
            lane = service.lanes.get(method.lane) or self.lane(service, method.lane)
        else:
            lane = service.lanes.get(b"") or self.lane(service, b"")
        if message.code:
            lane.retried += 1
        timeout = message.timeout or self.settings.default_timeout
        if timeout > self.settings.max_timeout:
            timeout = self.settings.max_timeout
        size = body_size(message.frames)
        queue = lane.queue
        if (
            self.held_bytes + size + OVERHEAD > self.settings.max_held_bytes
            or size > self.settings.max_body
            or self.draining_since is not None
        ) and not admission.fits(self, client, message, sequence, size):
            return
        idempotent = bool(message.flags & IDEMPOTENT) or (method is not None and method.idempotent)
        size += OVERHEAD
        call = open_call(client, lane, message, sequence, size, idempotent, now + timeout, now)
        call.method = method
        pool = lane.pool
        if queue.length or not pool.size:
            if not self._may_wait(call, timeout):
                return
            self._open(call)
            queue.push(call)
            if lane.serving:
                self.wheel.add(call, call.expires_at)
            else:
                endings.set_timer(self, call, now)
            return
        self._open(call)
        self.wheel.add(call, call.expires_at)
        seat = pool.take()
        if seat is not None:
            self._give(call, seat, now)

    def _open(self, call: Call) -> None:
        call.client.calls[call.sequence] = call
        self.held_bytes += call.size
        self.octets_in += call.size - OVERHEAD
        self.accepted += 1

    def _may_wait(self, call: Call, timeout: float) -> bool:
        """Whether `call` may join its queue; refuses it if not (bounded in length and in time)."""
        lane = call.lane
        message = call.message
        assert message is not None
        length = lane.queue.ahead(call.priority)  # a flood of bulk must not shut out the rest
        wait = length / lane.rate if lane.rate else 0.0
        if length >= self.settings.max_queue:
            text = f"{length} requests are waiting already"
        elif wait > timeout and lane.serving:
            text = f"would wait about {wait:.2g} s, longer than its {timeout:.2g} s"
        else:
            return True
        retry_after = min(max(wait / 2, 0.05), 5.0)
        admission.refuse(
            self, call.client, message, call.sequence, errors.OVERLOADED, text, retry_after
        )
        return False

    # ---------------------------------------------------------------- dispatch

    def _give(self, call: Call, seat: Seat, now: float) -> None:
        """Hand `call` to the worker of `seat`, which already counts it in flight."""
        message = call.message
        assert message is not None
        self._last_tag += 1
        tag = self._last_tag
        worker = seat.worker
        if call.tag:  # it was given away before: that message may still be somebody's
            message = call.message = message.replace()
        call.tag = tag
        call.seat = seat
        call.given_at = now
        worker.calls[tag] = call
        worker.sent_at = now
        message.tag = tag
        message.timeout = call.expires_at - now
        message.credit = call.credit
        self._out.append((worker.peer, message))
        if worker.probing:
            membership.unseat(worker)  # one request over all its lanes

    def dispatch(self, lane: Lane, now: float) -> None:
        """Give waiting calls of `lane` to seats with free credit until one of them runs out."""
        queue = lane.queue
        pool = lane.pool
        while queue.length and pool.size:
            call = queue.pop()
            if call.expires_at <= now:
                self.wheel.discard(call)
                endings.expire(self, call)
                continue
            if call.wheel_slot < 0:
                self.wheel.add(call, call.expires_at)
            seat = pool.take()
            assert seat is not None
            self._give(call, seat, now)
            if call.end is not None:
                self._out.append((seat.worker.peer, call.end.replace(tag=call.tag)))

    def release(self, worker: Worker, call: Call, now: float) -> None:
        """`worker` has finished with `call`: its seat has room again."""
        del worker.calls[call.tag]
        seat = call.seat
        assert seat is not None
        call.seat = None
        seat.in_flight -= 1
        lane = seat.lane
        lane.ended += 1
        lane.spent += now - call.queued_at
        lane.latency.observe(call.queued_at, call.given_at, now)
        method = call.method
        if method is not None:
            method.ended += 1
            method.latency.observe(now - call.queued_at)
        worker.ended += 1
        if worker.state == ACTIVE and not worker.paused_until:
            if worker.probing:
                membership.seat_probe(self, worker, now)
                return
            pool = lane.pool
            pool.put(seat)
            queue = lane.queue
            if queue.length:
                self.dispatch(lane, now)

    def _take_back(self, worker: Worker, call: Call, now: float) -> None:
        """`worker`, now paused, has not begun `call`: another one gets it, before all that wait."""
        del worker.calls[call.tag]
        seat = call.seat
        assert seat is not None
        call.seat = None
        seat.in_flight -= 1
        if not call.ended:
            endings.wait_first(self, call, now)
            self.dispatch(call.lane, now)

    def close(self, call: Call) -> None:
        """`call` ends for its client. The worker's seat, if any, stays taken until it answers."""
        call.ended = True
        self.finished += 1
        self.wheel.discard(call)
        call.client.calls.pop(call.sequence, None)
        self.held_bytes -= call.size
        call.message = None
        call.parts = None
        call.end = None

    # ---------------------------------------------------------------- from workers

    def held(self, peer: bytes, message: Message, now: float) -> tuple[Worker, Call] | None:
        """The sender and the call that `message` is about; None, counted, if there is none."""
        worker = self.workers.get(peer)
        if worker is None:
            membership.unexpected(self, peer, message, now)
            return None
        worker.seen_at = now
        call = worker.calls.get(message.tag)
        if call is None:
            if worker.dialect == NATIVE:
                self.count("dropped:unknown_tag")
            else:
                membership.expel(self, worker, "expelled:unsolicited_reply", now)
            return None
        return worker, call

    def _on_final(self, peer: bytes, message: Message, now: float) -> None:
        held = self.held(peer, message, now)
        if held is None:
            return
        worker, call = held
        if worker.consecutive_errors or worker.probing:
            membership.succeeded(self, worker, now)
        service = call.lane.service
        service.last_success_at = now
        service.last_success_worker = worker
        if call.ended:
            self.count("dropped:ended")
        else:
            message.incarnation = call.incarnation
            message.sequence = call.sequence
            if call.idempotent:
                message.flags |= IDEMPOTENT
            client = call.client
            if client.dialect != NATIVE:
                message.service = streams.asked_name(call)
                if call.parts:
                    message.frames = [*call.parts, *message.frames]
                    message.flags |= RAW
            self.octets_out += body_size(message.frames)
            self._out.append((client.peer, message))
            self.close(call)
        self.release(worker, call, now)

    def _on_error(self, peer: bytes, message: Message, now: float) -> None:
        held = self.held(peer, message, now)
        if held is None:
            return
        worker, call = held
        if message.code == errors.NOT_STARTED:
            self.happened(now, "redispatched:not_started", worker=worker, call=call)
            if worker.state == ACTIVE:
                membership.pause(self, worker, now + self.settings.refusal_pause)
            if call.started or call.parts is not None:  # it cannot take back PARTIAL or CREDIT
                self._finish_with_error(worker, call, message, now)
            else:
                self._take_back(worker, call, now)
            return
        worker.errors += 1
        call.lane.failed += 1
        if call.method is not None:
            call.method.failed += 1
        membership.failed(self, worker, message.code, now)
        self._finish_with_error(worker, call, message, now)

    def _finish_with_error(self, worker: Worker, call: Call, message: Message, now: float) -> None:
        if call.ended:
            self.count("dropped:ended")
        else:
            message.incarnation = call.incarnation
            message.sequence = call.sequence
            if message.code == errors.NOT_STARTED:
                message.code = errors.WORKER_LOST
                message.flags |= STARTED
            if call.idempotent:
                message.flags |= IDEMPOTENT
            self._out.append((call.client.peer, message))
            self.close(call)
        self.release(worker, call, now)

    def _on_partial(self, peer: bytes, message: Message, now: float) -> None:
        held = self.held(peer, message, now)
        if held is None:
            return
        worker, call = held
        if call.ended:
            self.count("dropped:ended")
            return
        client = call.client
        if client.dialect != NATIVE:
            streams.partial_to_mdp(self, worker, call, message)
            return
        if not call.started:
            call.started = True
            self.streams += 1
        call.credit -= message.credit or 1
        if call.credit < 0 or not call.flags & STREAM:
            text = "the worker sent more than was asked"
            endings.fail(self, call, errors.PROTOCOL, text, started=True)
            if worker.dialect == NATIVE:  # a worker of MDP cannot know what was asked
                membership.expel(self, worker, "expelled:stream_credit", now)
            return
        message.incarnation = call.incarnation
        message.sequence = call.sequence
        self.octets_out += body_size(message.frames)
        self._out.append((client.peer, message))

    # ---------------------------------------------------------------- for tests

    def check(self) -> None:
        """Assert every invariant of the routing state. Slow: for tests only."""
        from broker.invariants import check

        check(self)
