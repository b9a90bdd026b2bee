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

Membership (registration, heartbeats, suspicion, ejection) is in `membership`; answers that the
broker itself gives are in `admin`.
"""

from __future__ import annotations

from broker import admin, membership
from broker.queues import CreditPool, ExpiryWheel, FairQueue
from broker.state import (
    ACTIVE,
    Call,
    Client,
    Lane,
    RouterSettings,
    Seat,
    Service,
    Worker,
    body_size,
)
from mesh import errors
from mesh.errors import ProtocolError
from mesh.protocol import payload
from mesh.protocol.mdp import LEGACY02, MDP01, NATIVE
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
    MORE,
    PARTIAL,
    RAW,
    READY,
    REQUEST,
    STARTED,
    STREAM,
    WELCOME,
    Message,
)

RATE_EVERY = 0.1
MAX_CREDIT = (1 << 32) - 1


class Router:
    """All routing state of one broker. `broker_id` is any text, new at each start."""

    def __init__(self, settings: RouterSettings | None = None, broker_id: str = "") -> None:
        self.settings = settings or RouterSettings()
        self.broker_id = broker_id
        self.clients: dict[bytes, Client] = {}
        self.workers: dict[bytes, Worker] = {}
        self.services: dict[bytes, Service] = {}
        self.expelled: dict[bytes, float] = {}
        self.counters: dict[str, int] = {}
        self.accepted = 0
        self.finished = 0
        self.held_bytes = 0
        self.draining_since: float | None = None
        self.started_at: float | None = None
        self.endpoints: list[str] = []
        self._wheel = ExpiryWheel()
        self._out: list[tuple[bytes, Message]] = []
        self._last_tag = 0
        self._last_sequence = 0
        self._watched_at = 0.0
        self.paused: dict[Worker, float] = {}
        self._handlers = {
            REQUEST: self._on_request,
            FINAL: self._on_final,
            PARTIAL: self._on_partial,
            ERROR: self._on_error,
            CANCEL: self._on_cancel,
            CREDIT: self._on_credit,
            CHUNK: self._on_chunk,
            END: self._on_chunk,
            HEARTBEAT: self._on_heartbeat,
            HELLO: self._on_hello,
            READY: self._on_ready,
            CAPACITY: self._on_capacity,
            DRAIN: self._on_drain,
            GOODBYE: self._on_goodbye,
            WELCOME: self.unexpected,
        }

    # ---------------------------------------------------------------- the verbs

    def receive(self, peer: bytes, message: Message, now: float) -> None:
        """Take in one message of `peer`. The router owns it from here on."""
        if self.expelled and peer in self.expelled:
            self.count("dropped:expelled")
            return
        self._handlers[message.command](peer, message, now)

    def lost(self, peer: bytes, now: float) -> None:
        """`peer` is gone: nothing sent to it arrives, nothing more comes from it."""
        self.expelled.pop(peer, None)
        worker = self.workers.get(peer)
        if worker is not None:
            self.remove_worker(worker, "lost:disconnected", now)
        client = self.clients.pop(peer, None)
        if client is not None:
            for call in list(client.calls.values()):
                self.count("cancelled:client_lost")
                self._abandon(call, now)

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
                self._fail_at_both(call, errors.WORKER_LOST, text)
            return
        self.count("redispatched:undelivered")
        membership.pause(self, worker, now + self.settings.refusal_pause)
        self._take_back(worker, call, now)

    def inexpressible(self, peer: bytes, message: Message) -> None:
        """`message` has no form in the dialect that `peer` speaks (section 10)."""
        self.count("dropped:inexpressible")
        worker = self.workers.get(peer)
        if worker is None or message.command != REQUEST:
            return
        call = worker.calls.get(message.tag)
        if call is None:  # the worker left and came back meanwhile
            return
        if not call.ended:
            self._fail(call, errors.INVALID_ARGUMENT, "MDP workers cannot take a client's stream")
        self._release(worker, call, worker.sent_at)

    def tick(self, now: float) -> None:
        """Let time pass: expire calls, watch workers, measure rates."""
        if self.started_at is None:
            self.started_at = self._watched_at = now
        if self._wheel.next_at() <= now:
            for call in self._wheel.due(now):
                self._due(call, now)
        if self.paused and min(self.paused.values()) <= now:
            membership.resume_paused(self, now)
        if now >= self._watched_at:
            membership.watch(self, now, late_by=max(0.0, now - self._watched_at))
            self._watched_at = now + min(RATE_EVERY, self.settings.heartbeat / 2)
            for service in list(self.services.values()):
                self._measure(service, now)

    def next_deadline(self) -> float:
        """When `tick` is due next."""
        at = min(self._watched_at, self._wheel.next_at())
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
        for client in self.clients.values():
            if client.dialect == NATIVE:
                self.send(client.peer, Message(DRAIN))
        for worker in self.workers.values():
            if worker.dialect == NATIVE:
                self.send(worker.peer, Message(DRAIN))

    def drained(self, now: float) -> bool:
        """Whether the broker may leave: nothing open, and every client knows.

        A client that has been silent may not even look at its socket until it is used again; it
        is not waited for as long as one that was busy just now.
        """
        since = self.draining_since
        if since is None:
            return False
        settings = self.settings
        for client in self.clients.values():
            busy = client.seen_at > since - settings.drain_busy_ttl
            patience = settings.drain_busy_ttl if busy else settings.drain_idle_ttl
            if client.calls or not (client.drained or now - since >= patience):
                return False
        return True

    def farewell(self) -> None:
        """GOODBYE to everybody, as the last thing before the sockets close."""
        for peer in [*self.clients, *self.workers]:
            self.send(peer, Message(GOODBYE))

    # ---------------------------------------------------------------- small tools

    def send(self, peer: bytes, message: Message) -> None:
        self._out.append((peer, message))

    def count(self, reason: str, by: int = 1) -> None:
        self.counters[reason] = self.counters.get(reason, 0) + by

    def lane(self, service: Service, name: bytes) -> Lane:
        lane = service.lanes.get(name)
        if lane is None:
            lane = service.lanes[name] = Lane(service, name, FairQueue(), CreditPool())
        return lane

    # ---------------------------------------------------------------- requests

    def _on_request(self, peer: bytes, message: Message, now: float) -> None:
        client = self.clients.get(peer)
        if client is None:
            client = self._new_client(peer, message, now)
            if client is None:
                return
        client.seen_at = now
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
            message.credit = MAX_CREDIT
        elif sequence in client.calls or client.dialect != NATIVE:
            self.count("dropped:duplicate_request")
            return
        service = self.services.get(message.service)
        if service is None or not service.workers:
            service = self._unserved(client, message, sequence, now)
            if service is None:
                return
        method = service.methods.get(message.method)
        if client.dialect != NATIVE and b"writer" in service.lanes:
            lane = service.lanes[b"writer"]
        elif method is not None:
            lane = service.lanes.get(method.lane) or self.lane(service, method.lane)
        else:
            lane = service.lanes.get(b"") or self.lane(service, b"")
        timeout = message.timeout or self.settings.default_timeout
        if timeout > self.settings.max_timeout:
            timeout = self.settings.max_timeout
        size = body_size(message.frames)
        queue = lane.queue
        if self.draining_since is not None or self.held_bytes + size > self.settings.max_held_bytes:
            if self.draining_since is not None:
                self._refuse(client, message, sequence, errors.DRAINING, "broker is leaving")
            else:
                self._refuse(
                    client, message, sequence, errors.OVERLOADED, "broker holds too many bytes", 0.1
                )
            return
        if size > self.settings.max_body:
            self._refuse(
                client,
                message,
                sequence,
                errors.TOO_LARGE,
                f"body of {size:,} octets; the limit is {self.settings.max_body:,}: use a stream",
            )
            return
        idempotent = bool(message.flags & IDEMPOTENT) or (method is not None and method.idempotent)
        call = Call(client, lane, message, sequence, size, idempotent, now + timeout, now)
        if queue.length or not lane.pool.size:
            if not self._may_wait(call, timeout):
                return
            self._open(call)
            queue.push(call)
            if not service.workers and client.dialect == NATIVE:
                self._wheel.add(call, min(call.expires_at, now + self.settings.grace))
            else:
                self._wheel.add(call, call.expires_at)
            return
        self._open(call)
        self._wheel.add(call, call.expires_at)
        seat = lane.pool.take()
        if seat is not None:
            self._give(call, seat, now)

    def _open(self, call: Call) -> None:
        call.client.calls[call.sequence] = call
        self.held_bytes += call.size
        self.accepted += 1

    def _may_wait(self, call: Call, timeout: float) -> bool:
        """Whether `call` may join its queue; refuses it if not (bounded in length and in time)."""
        lane = call.lane
        message = call.message
        assert message is not None
        length = lane.queue.length
        wait = length / lane.rate if lane.rate else 0.0
        if length >= self.settings.max_queue:
            text = f"{length} requests are waiting already"
        elif wait > timeout and lane.seats:
            text = f"would wait about {wait:.2g} s, longer than its {timeout:.2g} s"
        else:
            return True
        self._refuse(
            call.client,
            message,
            call.sequence,
            errors.OVERLOADED,
            text,
            min(max(wait / 2, 0.05), 5.0),
        )
        return False

    def _new_client(self, peer: bytes, message: Message, now: float) -> Client | None:
        worker = self.workers.get(peer)
        if worker is not None:
            membership.expel(self, worker, "expelled:request_from_worker", now)
            return None
        dialect = NATIVE if message.sequence else message.code
        if not message.sequence and not NATIVE < dialect <= LEGACY02:
            self.count("dropped:no_request_id")
            return None
        client = self.clients[peer] = Client(peer, dialect, now)
        return client

    def _unserved(
        self, client: Client, message: Message, sequence: int, now: float
    ) -> Service | None:
        """The service for a name that no worker serves; None if the request is dealt with."""
        name = message.service
        reply = admin.answer(self, message, now)
        if reply is not None:
            reply.incarnation = message.incarnation
            reply.sequence = message.sequence
            reply.service = name
            self.send(client.peer, reply)
            return None
        if client.dialect != NATIVE and b"." in name:
            parent, _, method = name.rpartition(b".")
            found = self.services.get(parent)
            if method and found is not None and found.workers:
                message.service, message.method = parent, method
                return found
        service = self.services.get(name)
        if service is not None:
            return service
        if not name or len(self.services) >= self.settings.max_services:
            self._refuse(client, message, sequence, errors.SERVICE_NOT_FOUND, "no such service")
            return None
        service = self.services[name] = Service(name)
        return service

    def _refuse(
        self,
        client: Client,
        message: Message,
        sequence: int,
        code: int,
        text: str,
        retry_after: float | None = None,
    ) -> None:
        self.count(f"refused:{CODE_NAMES[code]}")
        body: dict[str, object] = {"message": text}
        if retry_after is not None:
            body["retry_after"] = retry_after
        self.send(
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
        worker.calls[tag] = call
        worker.sent_at = now
        message.tag = tag
        message.timeout = call.expires_at - now
        message.credit = call.credit
        self._out.append((worker.peer, message))

    def dispatch(self, lane: Lane, now: float) -> None:
        """Give waiting calls of `lane` to seats with free credit until one of them runs out."""
        queue = lane.queue
        pool = lane.pool
        while queue.length and pool.size:
            call = queue.pop()
            if call.expires_at <= now:
                self._wheel.discard(call)
                self._expire(call)
                continue
            if call.wheel_slot < 0:
                self._wheel.add(call, call.expires_at)
            seat = pool.take()
            assert seat is not None
            self._give(call, seat, now)
            if call.end is not None:
                self._out.append((seat.worker.peer, call.end.replace(tag=call.tag)))

    def _release(self, worker: Worker, call: Call, now: float) -> None:
        """`worker` has finished with `call`: its seat has room again."""
        del worker.calls[call.tag]
        seat = call.seat
        assert seat is not None
        call.seat = None
        seat.in_flight -= 1
        lane = seat.lane
        lane.ended += 1
        worker.ended += 1
        if worker.state == ACTIVE and not worker.paused_until:
            if worker.probing:
                membership.seat_probe(self, worker, now)
                return
            lane.pool.put(seat)
            if lane.queue.length:
                self.dispatch(lane, now)

    def _take_back(self, worker: Worker, call: Call, now: float) -> None:
        """`worker`, now paused, has not begun `call`: another one gets it, before all that wait."""
        del worker.calls[call.tag]
        seat = call.seat
        assert seat is not None
        call.seat = None
        seat.in_flight -= 1
        if not call.ended:
            call.lane.queue.push_front(call)
            self.dispatch(call.lane, now)

    # ---------------------------------------------------------------- the ways in which calls end

    def _close(self, call: Call) -> None:
        """`call` ends for its client. The worker's seat, if any, stays taken until it answers."""
        call.ended = True
        self.finished += 1
        self._wheel.discard(call)
        call.client.calls.pop(call.sequence, None)
        self.held_bytes -= call.size
        call.message = None
        call.parts = None
        call.end = None

    def _fail(self, call: Call, code: int, text: str, *, started: bool = False) -> None:
        """End `call` with an error of the broker's own."""
        self.count(f"failed:{CODE_NAMES[code]}")
        # A worker that was lost with it may have done the work.
        flags = (STARTED if started or call.losses else 0) | (IDEMPOTENT if call.idempotent else 0)
        self.send(
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
        self._close(call)

    def _abandon(self, call: Call, now: float) -> None:
        """The client wants `call` no longer: forget it, or tell its worker."""
        if call.seat is None:
            call.lane.queue.remove(call)
        else:
            self._stop(call, call.seat.worker)
        self._close(call)

    def _stop(self, call: Call, worker: Worker) -> None:
        """Tell `worker`, which has `call`, that nobody waits for it any more."""
        self.send(
            worker.peer,
            Message(CANCEL, tag=call.tag, incarnation=call.incarnation, sequence=call.sequence),
        )

    def _expire(self, call: Call) -> None:
        """The time of a waiting `call`, already out of its queue, has run out."""
        self._fail(call, errors.DEADLINE_EXCEEDED, "ran out of time before a worker was free")

    def _due(self, call: Call, now: float) -> None:
        """The wheel brings back `call`: its deadline, or the end of its service's grace."""
        if call.seat is None:
            if now >= call.expires_at:
                call.lane.queue.remove(call)
                self._expire(call)
            elif call.lane.service.workers or call.client.dialect != NATIVE:
                self._wheel.add(call, call.expires_at)
            else:
                call.lane.queue.remove(call)
                self._fail(
                    call,
                    errors.SERVICE_NOT_FOUND,
                    f"no worker offers it; waited {self.settings.grace:.2g} s for one",
                )
        elif now >= call.expires_at:
            worker = call.seat.worker
            self._fail(
                call, errors.DEADLINE_EXCEEDED, "ran out of time at the worker", started=True
            )
            self._stop(call, worker)
        else:
            self._wheel.add(call, call.expires_at)

    def _end_at_worker_loss(self, call: Call, text: str) -> None:
        """The worker that had `call` is gone. The call is out of its table already."""
        call.seat = None
        if call.ended:
            return
        if call.idempotent and not call.started and call.losses < self.settings.max_redispatches:
            self._start_over(call, "redispatched:worker_lost")
        else:
            call.losses += 1
            self._fail(call, errors.WORKER_LOST, text, started=True)

    def _start_over(self, call: Call, reason: str) -> None:
        """Another worker is to do `call` from the beginning; it may be done twice."""
        self.count(reason)
        call.losses += 1
        if call.parts is not None:  # kept here, not forwarded: the next worker sends its own
            size = body_size(call.parts)
            call.size -= size
            self.held_bytes -= size
            call.parts = None
        call.lane.queue.push_front(call)

    def move_from_suspect(self, worker: Worker, now: float) -> None:
        """Give what silent `worker` has in hand to others, where it may be done twice.

        Once a call at most: should the call itself be what silences workers, it must not spread.
        What stays behind in its place is owed: it keeps the seat taken until the worker answers.
        """
        for call in list(worker.calls.values()):
            seat = call.seat
            message = call.message
            if call.ended or call.started or call.losses or not call.idempotent:
                continue
            if seat is None or message is None or not _others_serve(call.lane, worker):
                continue
            owed = Call(call.client, call.lane, message, call.sequence, 0, True, now, now)
            owed.seat, owed.tag, owed.ended, owed.message = seat, call.tag, True, None
            worker.calls[call.tag] = owed
            self._stop(owed, worker)
            call.seat = None
            self._start_over(call, "redispatched:suspect")
            self.dispatch(call.lane, now)

    # ---------------------------------------------------------------- from workers

    def _held(self, peer: bytes, message: Message, now: float) -> tuple[Worker, Call] | None:
        """The sender and the call that `message` is about; None, counted, if there is none."""
        worker = self.workers.get(peer)
        if worker is None:
            self.unexpected(peer, message, now)
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
        held = self._held(peer, message, now)
        if held is None:
            return
        worker, call = held
        if worker.consecutive_errors or worker.probing:
            membership.succeeded(self, worker, now)
        service = call.lane.service
        service.last_success_at = now
        service.last_success_worker = worker
        if not call.ended:
            message.incarnation = call.incarnation
            message.sequence = call.sequence
            if call.idempotent:
                message.flags |= IDEMPOTENT
            client = call.client
            if client.dialect != NATIVE:
                message.service = self._asked_name(call)
                if call.parts:
                    message.frames = [*call.parts, *message.frames]
                    message.flags |= RAW
            self._out.append((client.peer, message))
            self._close(call)
        self._release(worker, call, now)

    def _on_error(self, peer: bytes, message: Message, now: float) -> None:
        held = self._held(peer, message, now)
        if held is None:
            return
        worker, call = held
        if message.code == errors.NOT_STARTED:
            self.count("redispatched:not_started")
            if worker.state == ACTIVE:
                membership.pause(self, worker, now + self.settings.refusal_pause)
            if call.started or call.parts is not None:  # it cannot take back PARTIAL or CREDIT
                self._finish_with_error(worker, call, message, now)
            else:
                self._take_back(worker, call, now)
            return
        worker.errors += 1
        if message.code not in BLAMELESS:
            membership.failed(self, worker, now)
        self._finish_with_error(worker, call, message, now)

    def _finish_with_error(self, worker: Worker, call: Call, message: Message, now: float) -> None:
        if not call.ended:
            message.incarnation = call.incarnation
            message.sequence = call.sequence
            if message.code == errors.NOT_STARTED:
                message.code = errors.WORKER_LOST
                message.flags |= STARTED
            if call.idempotent:
                message.flags |= IDEMPOTENT
            self._out.append((call.client.peer, message))
            self._close(call)
        self._release(worker, call, now)

    @staticmethod
    def _asked_name(call: Call) -> bytes:
        """The service that an MDP client asked for: `a.b` if method b of service a served it."""
        name = call.lane.service.name
        message = call.message
        return name + b"." + message.method if message is not None and message.method else name

    def _on_partial(self, peer: bytes, message: Message, now: float) -> None:
        held = self._held(peer, message, now)
        if held is None:
            return
        worker, call = held
        if call.ended:
            return
        client = call.client
        if client.dialect != NATIVE:
            self._partial_to_mdp(worker, call, message)
            return
        call.started = True
        call.credit -= message.credit or 1
        if call.credit < 0 or not call.flags & STREAM:
            self._fail(call, errors.PROTOCOL, "the worker sent more than was asked", started=True)
            if worker.dialect == NATIVE:  # a worker of MDP cannot know what was asked
                membership.expel(self, worker, "expelled:stream_credit", now)
            return
        message.incarnation = call.incarnation
        message.sequence = call.sequence
        self._out.append((client.peer, message))

    def _partial_to_mdp(self, worker: Worker, call: Call, message: Message) -> None:
        if call.client.dialect != MDP01:
            call.started = True
            message.sequence = call.sequence
            message.service = self._asked_name(call)
            self._out.append((call.client.peer, message))
            return
        # A 0.1 client takes one reply: the parts are kept until the FINAL (section 10).
        size = body_size(message.frames)
        settings = self.settings
        if call.size + size > settings.max_body or self.held_bytes + size > settings.max_held_bytes:
            text = "the parts of the reply exceed the limit"
            self._fail(call, errors.TOO_LARGE, text, started=True)
            self._stop(call, worker)
            return
        call.size += size
        self.held_bytes += size
        if call.parts is None:
            call.parts = []
        call.parts.extend(message.frames)

    # ---------------------------------------------------------------- from clients, and both

    def _on_cancel(self, peer: bytes, message: Message, now: float) -> None:
        call = self._asked(peer, message, now)
        if call is not None:
            self.count("cancelled:by_client")
            self._abandon(call, now)

    def _asked(self, peer: bytes, message: Message, now: float) -> Call | None:
        """The open call of client `peer` that `message` names; None, counted, if there is none."""
        client = self.clients.get(peer)
        if client is None:
            self.count("dropped:unknown_peer")
            return None
        client.seen_at = now
        call = client.calls.get(message.sequence)
        if call is None:
            self.count("dropped:unknown_request")
        return call

    def _on_credit(self, peer: bytes, message: Message, now: float) -> None:
        if peer in self.workers:
            held = self._held(peer, message, now)
            if held is None or held[1].ended:
                return
            call = held[1]
            if not call.flags & MORE:
                self.count("dropped:credit_for_no_stream")
                return
            call.started = True
            message.credit = min(message.credit, MAX_CREDIT - call.chunk_credit)
            call.chunk_credit += message.credit
            message.incarnation = call.incarnation
            message.sequence = call.sequence
            self._out.append((call.client.peer, message))
            return
        asked = self._asked(peer, message, now)
        if asked is None:
            return
        message.credit = min(message.credit, MAX_CREDIT - asked.credit)
        asked.credit += message.credit
        if asked.seat is not None:
            message.tag = asked.tag
            asked.seat.worker.sent_at = now
            self._out.append((asked.seat.worker.peer, message))

    def _on_chunk(self, peer: bytes, message: Message, now: float) -> None:
        """CHUNK and END of a client's stream."""
        call = self._asked(peer, message, now)
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
            self._fail_at_both(call, errors.PROTOCOL, text)
            return
        if call.seat is None:  # the END of an empty stream, or of one that failed: goes with it
            return
        message.tag = call.tag
        call.seat.worker.sent_at = now
        self._out.append((call.seat.worker.peer, message))

    def _fail_at_both(self, call: Call, code: int, text: str) -> None:
        if call.seat is None:
            call.lane.queue.remove(call)
        else:
            self._stop(call, call.seat.worker)
        self._fail(call, code, text, started=call.seat is not None)

    def _on_heartbeat(self, peer: bytes, message: Message, now: float) -> None:
        worker = self.workers.get(peer)
        if worker is not None:
            worker.seen_at = now
            return
        client = self.clients.get(peer)
        if client is None:
            self.unexpected(peer, message, now)
            return
        client.seen_at = now
        self.send(peer, Message(HEARTBEAT))

    def _on_hello(self, peer: bytes, message: Message, now: float) -> None:
        if peer in self.workers:
            self.unexpected(peer, message, now)
            return
        try:
            fields = payload.decode_map(message.body)
        except ProtocolError:
            self.count("dropped:bad_hello")
            return
        client = self.clients.get(peer)
        if client is None:
            client = self.clients[peer] = Client(peer, NATIVE, now)
        client.name = membership.text_of(fields, "name")
        client.host = membership.text_of(fields, "host")
        client.pid = membership.pid_of(fields)
        self.send(peer, membership.welcome(self, membership.agreed_heartbeat(self, fields)))
        if self.draining_since is not None:
            self.send(peer, Message(DRAIN))

    def _on_ready(self, peer: bytes, message: Message, now: float) -> None:
        membership.register(self, peer, message, now)

    def _on_capacity(self, peer: bytes, message: Message, now: float) -> None:
        membership.set_capacity(self, peer, message, now)

    def _on_drain(self, peer: bytes, message: Message, now: float) -> None:
        worker = self.workers.get(peer)
        if worker is not None:
            worker.seen_at = now
            membership.drain(self, worker)
            return
        client = self.clients.get(peer)
        if client is None:
            self.count("dropped:unknown_peer")
        else:
            client.seen_at = now
            client.drained = True

    def _on_goodbye(self, peer: bytes, message: Message, now: float) -> None:
        worker = self.workers.get(peer)
        if worker is not None:
            self.remove_worker(worker, "left:goodbye", now)
        elif peer in self.clients:
            self.lost(peer, now)
        else:
            self.count("dropped:unknown_peer")

    def unexpected(self, peer: bytes, message: Message, now: float) -> None:
        """A command that this peer may not send now: GOODBYE, and deaf to it from here on."""
        worker = self.workers.get(peer)
        if worker is not None:
            membership.expel(self, worker, "expelled:unexpected_command", now)
            return
        if peer in self.clients:
            self.count("dropped:unexpected_command")
        else:
            membership.turn_away(self, peer, "refused:unexpected_command", now)

    def remove_worker(self, worker: Worker, reason: str, now: float) -> None:
        """Forget `worker`; what it had in hand is given to others or ended (section 7)."""
        self.count(reason)
        del self.workers[worker.peer]
        service = worker.service
        del service.workers[worker.peer]
        self.paused.pop(worker, None)
        if service.last_success_worker is worker:
            service.last_success_worker = None
        calls = list(worker.calls.values())
        worker.calls.clear()
        for seat in worker.seats.values():
            seat.lane.pool.discard(seat)
            del seat.lane.seats[worker]
        for call in reversed(calls):  # each goes to the front: the oldest comes to stand first
            self._end_at_worker_loss(call, f"the worker was lost ({reason}) with it in hand")
        for lane in service.lanes.values():
            self.dispatch(lane, now)
        membership.recall_ejected(self, service, now)
        if not service.workers:
            for lane in service.lanes.values():
                for call in lane.queue:
                    if call.client.dialect == NATIVE:
                        self._wheel.discard(call)
                        self._wheel.add(call, min(call.expires_at, now + self.settings.grace))

    def _measure(self, service: Service, now: float) -> None:
        """How fast each lane of `service` ends calls while some wait: predicts a wait. Forget a
        service that has neither workers nor calls."""
        if not service.workers and not service.queued:
            del self.services[service.name]
            return
        for lane in service.lanes.values():
            passed = now - lane.rate_at
            if not lane.queue.length:
                lane.rate_at, lane.rate_ended = now, lane.ended
            elif passed >= 0.5 and lane.ended - lane.rate_ended >= 10:
                rate = (lane.ended - lane.rate_ended) / passed
                lane.rate = rate if not lane.rate else lane.rate + 0.5 * (rate - lane.rate)
                lane.rate_at, lane.rate_ended = now, lane.ended

    # ---------------------------------------------------------------- for tests

    def check(self) -> None:
        """Assert every invariant of the routing state. Slow: for tests only."""
        from broker.invariants import check

        check(self)


def _others_serve(lane: Lane, worker: Worker) -> bool:
    return any(other is not worker and other.state == ACTIVE for other in lane.seats)


CODE_NAMES = {
    errors.SERVICE_NOT_FOUND: "service_not_found",
    errors.METHOD_NOT_FOUND: "method_not_found",
    errors.INVALID_ARGUMENT: "invalid_argument",
    errors.OVERLOADED: "overloaded",
    errors.DEADLINE_EXCEEDED: "deadline_exceeded",
    errors.WORKER_LOST: "worker_lost",
    errors.DRAINING: "draining",
    errors.PROTOCOL: "protocol",
    errors.TOO_LARGE: "too_large",
}

STREAMED = frozenset({PARTIAL, CREDIT, CHUNK, END})
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
