"""The client's side of the protocol, without any I/O: calls over connections to several brokers.

A *link* is one connection to one broker, named by a number that never comes back: `take_links`
says which to open and close, and the shell reports with `connected` and `lost` what became of them.
A call waits until a link stands, is handed over to one link at a time, and ends exactly once:

    unsent ──a link stands──> sent ──FINAL, ERROR, deadline, cancel──> ended
      ^                        │ └──refused, and a retry is allowed──> paused ──backoff──┐
      └──the link is lost, and it may run twice───────────────────────────────┴──────────┘

Not responsible for: what is in a body, threads, futures, and waiting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mesh import errors
from mesh.client import failures
from mesh.client.calls import (
    ENDED,
    FIRST_WINDOW,
    PAUSED,
    SENT,
    UNSENT,
    Call,
    ClientSettings,
    Reader,
    Target,
    Writer,
    open_call,
)
from mesh.client.links import Link, Links
from mesh.client.timers import Timers
from mesh.errors import CallError, ProtocolError
from mesh.protocol import payload
from mesh.protocol.messages import (
    CANCEL,
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
    NORMAL,
    PARTIAL,
    REQUEST,
    STARTED,
    STREAM,
    WELCOME,
    Body,
    Message,
    make,
)
from mesh.resilience.backoff import Random, backoff
from mesh.resilience.breaker import Breaker
from mesh.resilience.budget import RetryBudget

__all__ = ["Call", "ClientCore", "ClientSettings"]

# A broker that says in time whether the work had begun is worth waiting a moment for.
REPLY_GRACE = 0.01
UNDELIVERED_PAUSE = 0.01
MAX_REASON = 1000
MAX_TARGETS = 4096
MAX_LEARNED = 4096

RETRIED = frozenset({errors.SERVICE_NOT_FOUND, errors.OVERLOADED, errors.WORKER_LOST})
BLAMED = RETRIED | {errors.DEADLINE_EXCEEDED}
SAYS_NOTHING = frozenset({errors.CANCELLED, errors.DRAINING, errors.NOT_STARTED})


class ClientCore:
    """All calls of one client, and its links.

    `incarnation` is a random number of 64 bits, new for each client; `hello` is sent to each broker
    (`name`, `host`, `pid`). `calls` holds what is open, by sequence number.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        settings: ClientSettings,
        *,
        incarnation: int,
        rng: Random,
        now: float,
        hello: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self.incarnation = incarnation
        self.calls: dict[int, Call] = {}
        self.counters: dict[str, int] = {}
        self.bytes = 0
        self.closed = False
        self.budget = RetryBudget(now, ratio=settings.retry_ratio, rate=settings.retry_rate)
        self._max_calls = settings.max_calls
        self._max_bytes = settings.max_bytes
        self._max_body = settings.max_body
        self._body_limits: dict[str, int] = {}
        self._max_timeout = settings.max_timeout
        self._retries = settings.retries
        self.timeout = settings.timeout
        self._rng = rng
        fields = {"capabilities": 0, "heartbeat": settings.heartbeat, **(hello or {})}
        greeting = Message(HELLO, incarnation=incarnation, frames=[payload.encode(fields)])
        self._out: list[tuple[int, Message]] = []
        self._links = Links(
            endpoints, settings, greeting=greeting, rng=rng, out=self._emit, now=now
        )
        self._targets: dict[bytes, Target] = {}
        self._unsent: dict[int, Call] = {}
        self._expiries = Timers()
        self._pauses = Timers()
        self._last_sequence = 0
        self._news: list[Call] = []
        self._handlers: dict[int, Callable[[Link, Message, float], None]] = {
            PARTIAL: self._on_partial,
            ERROR: self._on_error,
            CREDIT: self._on_credit,
            WELCOME: self._on_welcome,
            HEARTBEAT: self._on_heartbeat,
            DRAIN: self._on_drain,
            GOODBYE: self._on_goodbye,
        }
        self._links.open_due(now)

    # ---------------------------------------------------------------- the verbs

    def receive(self, link: int, message: Message, now: float) -> None:
        """Take in one message that arrived over `link`."""
        found = self._links.by_number.get(link)
        if found is None:
            self._count("dropped:old_link")
            return
        found.heard_at = now
        found.asked_at = math.inf
        if message.command == FINAL:
            self._on_final(found, message, now)
            return
        handler = self._handlers.get(message.command)
        if handler is None:
            self._count("dropped:unexpected_command")
            return
        handler(found, message, now)

    def connected(self, link: int, now: float) -> None:
        """The connection of `link` stands."""
        if self._links.connected(link, now):
            self._dispatch_unsent(now)

    def lost(self, link: int, now: float, reason: str = "the connection ended") -> None:
        """`link` is over: what was handed to it may or may not have arrived."""
        never_left = [message for number, message in self._out if number == link]
        if never_left:
            self._out = [entry for entry in self._out if entry[0] != link]
            for message in never_left:
                self.undelivered(link, message, now)
        found = self._links.drop(link, reason, now)
        if found is not None and found.open:
            self._count("lost:link_with_calls")
            for call in [call for call in self.calls.values() if call.link == link]:
                if call.state == SENT:
                    self._orphaned(call, found, reason, now)

    def undelivered(self, link: int, message: Message, now: float) -> None:
        """`message`, which `take` gave out, could not be handed to the transport."""
        call = self.calls.get(message.sequence)
        if call is None or call.link != link or call.state != SENT:
            return
        if message.command == REQUEST:
            self._count("resent:undelivered")
            self._let_go(call)
            self._pause(call, now + UNDELIVERED_PAUSE)
        elif message.command in (CHUNK, END, CREDIT):
            # The rest of the stream would arrive with a hole in it.
            self.fail(call, failures.broker_lost(call, "a part of the stream was not sent"), now)

    def tick(self, now: float) -> None:
        """Let time pass: expire calls, retry, beat, reconnect."""
        for call in self._expiries.due(now):
            if call.state == SENT and now < call.expires_at + REPLY_GRACE:
                self._expiries.add(call.expires_at + REPLY_GRACE, call)
            elif call.state != ENDED:
                self._expire(call, now)
        for call in self._pauses.due(now):
            if call.state == PAUSED and call.retry_at <= now:
                self._dispatch(call, now)
        while over := self._links.watch(now):
            for link, reason in over:
                self.lost(link, now, reason)
        if not self.closed:
            self._links.open_due(now)

    def next_deadline(self) -> float:
        """When `tick` is due next; infinite if never."""
        return min(self._expiries.next_at(), self._pauses.next_at(), self._links.next_at())

    def take(self) -> list[tuple[int, Message]]:
        """What is to be sent, in order, and forget it."""
        out = self._out
        if out:
            self._out = []
        return out

    def take_links(self) -> list[tuple[int, str | None]]:
        """Links to open (at an endpoint) or to close (None), after sending what `take` gave."""
        actions = self._links.actions
        if actions:
            self._links.actions = []
        return actions

    def take_news(self) -> list[Call]:
        """Calls that ended, got items to read, or may send items. May name a call twice."""
        news = self._news
        if news:
            self._news = []
        return news

    # ---------------------------------------------------------------- the caller's commands

    def call(
        self,
        service: bytes,
        method: bytes,
        frames: Sequence[Body],
        now: float,
        expires_at: float,
        flags: int = 0,
        priority: int = NORMAL,
        retries: int | None = None,
        idempotent: bool | None = None,
        credit: int | None = None,
    ) -> Call:
        """Begin a call. With STREAM in `flags` it has a `reader`, with MORE a `writer`.

        `credit` fixes the window of the reader; None lets it grow. `expires_at` is bounded by the
        settings.

        Raises:
            Overloaded: too many calls or bytes are open.
            CircuitOpen: the service failed too often just now.
            DeadlineExceeded: there is no time left.
            TooLarge: the body exceeds the limit.
            Cancelled: the client is closed.
        """
        target = self._targets.get(service)
        if target is None:
            target = self._new_target(service, now)
        size = len(frames[0]) if len(frames) == 1 else sum(map(len, frames))
        if (
            self.closed
            or expires_at <= now
            or len(self.calls) >= self._max_calls
            or self.bytes + size > self._max_bytes
            or size > self._max_body
        ):
            raise self._refusal(service, method, size, expires_at - now)
        ticket = target.breaker.allow(now)
        if not ticket:
            self._count("refused:circuit_open")
            raise failures.circuit_open(service, method, target.breaker.open_until - now)
        self.budget.called()
        self._last_sequence = sequence = self._last_sequence + 1
        if expires_at > now + self._max_timeout:
            expires_at = now + self._max_timeout
        call = open_call(
            sequence,
            target,
            method,
            frames,
            size,
            flags,
            priority,
            expires_at,
            self._retries if retries is None else retries,
            idempotent,
            ticket,
        )
        if flags & STREAM:
            call.credit = credit or FIRST_WINDOW
            call.reader = Reader(call.credit, fixed=credit is not None)
        if flags & MORE:
            call.writer = Writer()
        self.calls[sequence] = call
        self.bytes += size
        self._expiries.add(expires_at, call)
        self._dispatch(call, now)
        return call

    def cancel(self, call: Call, now: float) -> None:
        """End a call that nobody waits for any more, here and at the worker."""
        if call.state != ENDED:
            error = errors.Cancelled("cancelled by the caller", **call.identity())
            error.maybe_executed = call.state == SENT
            self.fail(call, error, now)

    def fail(self, call: Call, error: CallError, now: float) -> None:
        """End a call with `error`, for a reason that lies here; the worker is told to stop."""
        if call.state != ENDED:
            call.target.breaker.abandoned(call.ticket)
            self._tell_cancel(call)
            self._fail(call, error, now)

    def taken(self, call: Call, items: int) -> None:
        """The caller has read `items` more of the stream: it may get as many again."""
        reader = call.reader
        if reader is not None and call.state == SENT:
            more = reader.taken(items)
            if more:
                self._send(call, CREDIT, credit=more)

    def chunk(self, call: Call, items: int, body: bytes, flags: int = 0) -> None:
        """Send `items` of the caller's stream. There must be room for them."""
        writer = call.writer
        if writer is None or call.state != SENT:
            return
        if items > writer.room:
            raise ValueError(f"{items} items exceed the credit of {writer.room}")
        writer.sent += items
        call.touched = True
        self._send(call, CHUNK, credit=items, flags=flags, frames=[body])

    def finish(self, call: Call, code: int = 0, fields: Mapping[str, Any] | None = None) -> None:
        """The caller's stream has ended; with `code` because of an error."""
        writer = call.writer
        if writer is not None and not writer.ended and call.state == SENT:
            writer.ended = True
            call.touched = True
            frames = [payload.encode(dict(fields or {}))] if code else ()
            self._send(call, END, code=code, frames=frames)

    def aim(self, endpoints: Sequence[str], trouble: str, now: float) -> None:
        """The brokers are at `endpoints` from now on; `trouble` says why some may be missing."""
        if not self.closed:
            self._links.aim(endpoints, trouble, now)
            self._links.open_due(now)
            self._body_limits = {e: n for e, n in self._body_limits.items() if e in endpoints}
            self._bound_bodies()

    def close(self, now: float) -> None:
        """End all calls and leave all brokers. Nothing can be called afterwards."""
        if self.closed:
            return
        for call in list(self.calls.values()):
            error = errors.Cancelled("the client was closed", **call.identity())
            error.maybe_executed = call.state == SENT
            call.target.breaker.abandoned(call.ticket)
            self._fail(call, error, now)
        self.closed = True
        self._links.leave()
        self._expiries, self._pauses = Timers(), Timers()

    @property
    def connections(self) -> int:
        """How many brokers can be asked now."""
        return len(self._links.usable)

    # ---------------------------------------------------------------- where a call goes

    def _dispatch(self, call: Call, now: float) -> None:
        """Hand a call to a link, or let it wait for one."""
        link = self._links.choose(call.link)
        if link is None:
            call.state = UNSENT
            self._unsent[call.sequence] = call
            return
        left = call.expires_at - now
        if left <= 0.0:
            self._expire(call, now)
            return
        flags = call.flags
        if call.idempotent or (call.idempotent is None and call.method in call.target.idempotent):
            flags |= IDEMPOTENT
        call.state = SENT
        call.link = link.number
        call.sent_at = now
        link.begin(now)
        self._out.append(
            (
                link.number,
                make(
                    REQUEST,
                    flags,
                    call.priority,
                    call.retry_code,
                    0,
                    left,
                    call.credit,
                    self.incarnation,
                    call.sequence,
                    call.target.name,
                    call.method,
                    call.frames,
                ),
            )
        )

    def _dispatch_unsent(self, now: float) -> None:
        if self._unsent and self._links.usable:
            waiting, self._unsent = self._unsent, {}
            for call in waiting.values():
                self._dispatch(call, now)

    def _let_go(self, call: Call) -> None:
        """No link has the call any more."""
        if call.state == SENT:
            link = self._links.by_number.get(call.link)
            if link is not None:
                link.open -= 1
        elif call.state == UNSENT:
            self._unsent.pop(call.sequence, None)
        call.state = UNSENT
        if call.writer is not None:
            call.writer.granted = 0  # by a worker that does not have it any more

    def _pause(self, call: Call, at: float) -> None:
        call.state = PAUSED
        call.retry_at = at
        self._pauses.add(at, call)

    def _orphaned(self, call: Call, link: Link, reason: str, now: float) -> None:
        if call.repeatable:
            self._count("resent:link_lost")
            call.maybe_executed = True
            call.retry_code = errors.BROKER_LOST
            self._let_go(call)
            self._dispatch(call, now)
            return
        call.target.breaker.abandoned(call.ticket)
        self._fail(
            call,
            failures.broker_lost(call, f"{link.route.endpoint}: {reason}"),
            now,
        )

    # ---------------------------------------------------------------- how a call ends

    def _end(self, call: Call) -> None:
        self._let_go(call)
        call.state = ENDED
        call.forget_body()
        del self.calls[call.sequence]
        self.bytes -= call.size
        self._news.append(call)
        self._expiries.ended()

    def _fail(self, call: Call, error: CallError, now: float) -> None:
        call.error = error
        self._end(call)

    def _expire(self, call: Call, now: float) -> None:
        sent = call.state == SENT
        breaker = call.target.breaker
        if sent:
            breaker.failure(call.ticket, now)
            self._tell_cancel(call)
            text = "the time ran out before an answer came"
        elif call.last_error is not None:
            breaker.abandoned(call.ticket)
            text = f"the time ran out before the next try; the last one: {call.last_error.message}"
        else:
            breaker.abandoned(call.ticket)
            text = f"no broker could be reached in time ({self._links.troubles() or 'connecting'})"
        self._count("ended:deadline")
        self._fail(
            call,
            errors.DeadlineExceeded(
                text,
                maybe_executed=sent or call.maybe_executed,
                **call.identity(),
            ),
            now,
        )

    def _refusal(self, service: bytes, method: bytes, size: int, left: float) -> CallError:
        """Why a call cannot even begin."""
        if self.closed:
            return failures.closed(service, method)
        if left <= 0.0:
            return failures.no_time(service, method)
        if size > self._max_body:
            return failures.too_large(service, method, size, self._max_body)
        self._count("refused:too_much_open")
        return failures.too_much_open(service, method, len(self.calls), self.bytes)

    def _tell_cancel(self, call: Call) -> None:
        if call.state == SENT:
            self._send(call, CANCEL)

    # ---------------------------------------------------------------- from brokers

    def _asked(self, link: Link, message: Message) -> Call | None:
        """The open call that `message` is about; None, counted, if this link does not have it."""
        call = self.calls.get(message.sequence)
        if (
            call is None
            or call.link != link.number
            or call.state != SENT
            or message.incarnation != self.incarnation
        ):
            self._count("dropped:unknown_call")
            return None
        return call

    def _on_final(self, link: Link, message: Message, now: float) -> None:
        call = self._asked(link, message)
        if call is None:
            return
        if message.flags & IDEMPOTENT:
            self._learn(call)
        link.latency += 0.1 * (now - call.sent_at - link.latency)
        call.target.breaker.success(call.ticket, now)
        call.reply = message
        self._end(call)

    def _on_partial(self, link: Link, message: Message, now: float) -> None:
        call = self._asked(link, message)
        if call is None:
            return
        if message.flags & IDEMPOTENT:
            self._learn(call)
        call.touched = True
        reader = call.reader
        if reader is None:
            # A worker of another dialect answers in parts: they belong to the reply.
            self._count("dropped:unwanted_partial")
        elif reader.arrived(message):
            self._news.append(call)
        else:
            self._count("ended:credit_exceeded")
            self.fail(
                call,
                errors.RemoteError(
                    "the stream sent more than was asked for",
                    kind="ProtocolError",
                    maybe_executed=True,
                    **call.identity(),
                ),
                now,
            )

    def _on_credit(self, link: Link, message: Message, now: float) -> None:
        call = self._asked(link, message)
        if call is None:
            return
        if call.writer is None:
            self._count("dropped:unwanted_credit")
            return
        call.touched = True  # from now on items are taken from a source that cannot be rewound
        call.writer.granted += message.credit
        self._news.append(call)

    def _on_error(self, link: Link, message: Message, now: float) -> None:
        call = self._asked(link, message)
        if call is None:
            return
        if message.flags & IDEMPOTENT:
            self._learn(call)
        code = message.code
        if code == errors.DRAINING:
            self._links.retire(link)
        if code in (errors.DRAINING, errors.NOT_STARTED) and not call.touched:
            self._count("resent:not_started")
            call.retry_code = code
            self._let_go(call)
            if code == errors.DRAINING:
                self._dispatch(call, now)
            else:
                call.attempts += 1
                self._pause(call, now + backoff(call.attempts, self._rng, base=0.01, cap=0.5))
            return
        try:
            fields = payload.decode_map(message.body)
        except ProtocolError:
            fields = {}
        started = bool(message.flags & STARTED)
        error = errors.from_wire(code, fields, started=started, **call.identity())
        breaker = call.target.breaker
        if code in BLAMED:
            breaker.failure(call.ticket, now)
        elif code in SAYS_NOTHING:
            breaker.abandoned(call.ticket)
        else:
            breaker.success(call.ticket, now)
        safe = call.repeatable if started else not call.touched
        if code in RETRIED and safe and self._retry(call, error, now):
            return
        self._fail(call, error, now)

    def _retry(self, call: Call, error: CallError, now: float) -> bool:
        """Let the call be made again, if there are tries, time and budget left."""
        if call.attempts >= call.retries:
            return False
        delay = backoff(call.attempts, self._rng, factor=self.settings.retry_factor)
        if error.retry_after is not None and error.retry_after > 0.0:
            delay += error.retry_after
        if now + delay >= call.expires_at:
            return False
        ticket = call.target.breaker.allow(now)
        if not ticket:
            return False
        if not self.budget.take(now):
            call.target.breaker.abandoned(ticket)
            self._count("refused:retry_budget")
            return False
        call.ticket = ticket
        call.maybe_executed |= error.maybe_executed
        call.attempts += 1
        call.retry_code = error.code
        call.last_error = error
        self._count("retried")
        self._let_go(call)
        self._pause(call, now + delay)
        return True

    def _on_welcome(self, link: Link, message: Message, now: float) -> None:
        try:
            facts = payload.decode_map(message.body)
        except ProtocolError:
            self._count("dropped:bad_welcome")
            return
        self._links.welcome(link, facts)
        limit = facts.get("max_body")
        if type(limit) is int and limit > 0:
            self._body_limits[link.route.endpoint] = limit
            self._bound_bodies()

    def _bound_bodies(self) -> None:
        """A call may go to any of the brokers, so the least of their limits holds."""
        own = self.settings.max_body
        self._max_body = min(own, min(self._body_limits.values(), default=own))

    def _on_heartbeat(self, link: Link, message: Message, now: float) -> None:
        """A sign of life, and `receive` has noted it."""

    def _on_drain(self, link: Link, message: Message, now: float) -> None:
        self._links.retire(link)

    def _on_goodbye(self, link: Link, message: Message, now: float) -> None:
        text = bytes(memoryview(message.body))[:MAX_REASON].decode(errors="replace")
        self.lost(link.number, now, f"the broker said goodbye: {text}".rstrip(": "))

    # ---------------------------------------------------------------- small tools

    def _send(
        self,
        call: Call,
        command: int,
        *,
        credit: int = 0,
        code: int = 0,
        flags: int = 0,
        frames: Sequence[Body] = (),
    ) -> None:
        self._out.append(
            (
                call.link,
                Message(
                    command,
                    flags,
                    code=code,
                    credit=credit,
                    incarnation=self.incarnation,
                    sequence=call.sequence,
                    frames=frames,
                ),
            )
        )

    def _emit(self, entry: tuple[int, Message]) -> None:
        self._out.append(entry)

    def _learn(self, call: Call) -> None:
        learned = call.target.idempotent
        if call.method not in learned and len(learned) < MAX_LEARNED:
            learned.add(call.method)

    def _new_target(self, service: bytes, now: float) -> Target:
        if len(self._targets) >= MAX_TARGETS:
            used = {call.target.name for call in self.calls.values()}
            for name, target in list(self._targets.items()):
                if target.breaker.idle and name not in used:
                    del self._targets[name]
        breaker = Breaker(self.settings.breaker, self._rng, now)
        target = self._targets[service] = Target(service, self.incarnation, breaker)
        return target

    def _count(self, reason: str) -> None:
        self.counters[reason] = self.counters.get(reason, 0) + 1

    def check(self) -> None:
        """Assert what must always hold; for tests."""
        sent = [call for call in self.calls.values() if call.state == SENT]
        assert all(call.state != ENDED for call in self.calls.values())
        links = self._links.by_number
        assert all(call.link in links for call in sent)
        for link in links.values():
            assert link.open == sum(call.link == link.number for call in sent)
        self._links.check()
        unsent = {call.sequence for call in self.calls.values() if call.state == UNSENT}
        assert unsent == set(self._unsent)
        assert not unsent or not self._links.usable
        assert self.bytes == sum(call.size for call in self.calls.values())
        for call in self.calls.values():
            if call.reader is not None:
                assert 0 <= call.reader.unseen <= call.reader.unread
            if call.writer is not None:
                assert call.writer.sent <= call.writer.granted
        for target in self._targets.values():
            target.breaker.check()
