"""The worker's side of the protocol, without any I/O: one service, connected to several brokers.

A *link* is one connection to one broker; when it ends, another link with a new number takes its
place. Every request that arrived over a link is answered over it exactly once, or never if the
link is lost. The core hands requests out (`take_starts`), tells what happens to them afterwards
(`take_signals`), and takes what their handlers produce (`partial`, `finish`, `fail`, `grant`).
It does not call handlers and knows nothing of threads.

    connecting ──WELCOME──> live ──DRAIN from the broker──> retiring ──GOODBYE, end──> waiting
        ^                     └──our drain: DRAIN, the last answer, GOODBYE──> gone       │
        └──────────────────────────── backoff has passed ─────────────────────────────────┘
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mesh import errors
from mesh.protocol import payload
from mesh.protocol.messages import (
    BATCH,
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
    MORE,
    PARTIAL,
    RAW,
    READY,
    REQUEST,
    STARTED,
    STREAM,
    WELCOME,
    Body,
    Message,
    make,
)
from mesh.service.links import CONNECTING, LIVE, RETIRING, WAITING, Link
from mesh.service.requests import (
    Entry,
    Flow,
    Lane,
    MethodFacts,
    Request,
    accept,
    packed_array,
    stream_mismatch,
)

CANCELLED_SIGNAL, CREDIT_SIGNAL, CHUNK_SIGNAL = range(3)

MAX_ITEMS = 256
MAX_PARTIAL = 64 * 1024
UNLIMITED = 1 << 62
REGISTER_TTL = 3.0
MAX_TEXT = 1000


class SessionCore:
    """All state of one worker process towards its brokers.

    `facts` are the fixed keys of the READY map (`instance`, `version`, `host`, `pid`). `uniform()`
    gives random numbers from 0 to 1. `counters` says what was dropped, refused or lost.
    """

    def __init__(
        self,
        service: str,
        methods: Iterable[MethodFacts],
        lanes: Mapping[str, int],
        brokers: Sequence[str],
        *,
        uniform: Callable[[], float],
        facts: Mapping[str, Any] | None = None,
        heartbeat: float = 0.5,
        incarnation: int = 0,
        now: float = 0.0,
    ) -> None:
        self.service = service.encode()
        self.heartbeat = heartbeat
        self.incarnation = incarnation
        self.lanes = {name: Lane(name, capacity) for name, capacity in lanes.items()}
        self.entries = {
            method.name.encode(): Entry(method, self.lanes[method.lane]) for method in methods
        }
        self.ended = 0
        self.counters: dict[str, int] = {}
        self.notices: list[str] = []
        self.draining = False
        self._facts = dict(facts or {})
        self._uniform = uniform
        self._timed = [entry for entry in self.entries.values() if entry.timers is not None]
        self.links: dict[int, Link] = {}
        self._slots = [Link(endpoint, now) for endpoint in brokers]
        self._next_link = 1
        self._live = 0
        self._out: list[tuple[int, Message]] = []
        self._starts: list[Request] = []
        self._signals: list[tuple[int, Request]] = []
        self._link_actions: list[tuple[int, str | None]] = []
        self._on = {
            CANCEL: self._on_cancel,
            CREDIT: self._on_credit,
            CHUNK: self._on_chunk,
            END: self._on_end,
            WELCOME: self._on_welcome,
            CAPACITY: self._on_capacity,
            HEARTBEAT: self._on_heartbeat,
            DRAIN: self._on_drain,
            GOODBYE: self._on_goodbye,
        }

    # ---------------------------------------------------------------- what the shell drives

    @property
    def live(self) -> int:
        """How many brokers this worker is registered at."""
        return self._live

    @property
    def in_hand(self) -> int:
        """Requests that have not ended, those of lost links included."""
        return sum(lane.in_hand for lane in self.lanes.values())

    @property
    def done(self) -> bool:
        """Whether the drain is over: every link has ended and nothing runs."""
        return self.draining and not self.links and not self.in_hand

    def receive(self, link: int, message: Message, now: float) -> None:
        """Take a message that arrived over `link`."""
        known = self.links.get(link)
        if known is None:
            self._count("dropped:unknown_link")
            return
        known.heard_at = now
        if message.command == REQUEST:
            self._on_request(known, message, now)
            return
        handler = self._on.get(message.command)
        if handler is None:
            self._count("dropped:unexpected_command")
            return
        handler(known, message, now)

    def receive_all(
        self, link: int, found: list[tuple[bytes, Message | list[Body]]], now: float
    ) -> int:
        """Take what a pump has read of `link`; how much of it was no message."""
        malformed = 0
        for _, message in found:
            if type(message) is Message:
                self.receive(link, message, now)
            else:
                malformed += 1
        return malformed

    def lost(self, link: int, now: float) -> None:
        """The connection of `link` has ended, or could not be made."""
        known = self.links.get(link)
        if known is not None:
            self._end_link(known, "lost", now)

    def undelivered(self, link: int, message: Message, now: float) -> None:
        """`message` could not be sent and never will be: the link is of no use."""
        self._count("undelivered")
        self.lost(link, now)

    def tick(self, now: float) -> None:
        """Let time pass: heartbeats, silent brokers, reconnects, declared timeouts, leaving."""
        for link in self._slots:
            if link.state == WAITING:
                if link.wake_at <= now and link.wanted and self._may_connect():
                    self._connect(link, now)
            elif link.gives_up_at(REGISTER_TTL) <= now:
                self._end_link(link, "silent", now)
            elif link.state == RETIRING and self.draining:
                self._leave_if_empty(link, now)
            elif link.beat_at <= now:
                self._beat(link, now)
        for entry in self._timed:
            self._expire(entry, now)

    def next_deadline(self) -> float:
        """When `tick` has something to do next; infinite if never."""
        at = math.inf
        for link in self._slots:
            if link.state == WAITING:
                if link.wanted and self._may_connect():
                    at = min(at, link.wake_at)
                continue
            at = min(at, link.beat_at, link.gives_up_at(REGISTER_TTL))
            if self.draining and not link.requests:
                at = min(at, link.leave_at)
        for entry in self._timed:
            if entry.timers:
                at = min(at, next(iter(entry.timers.values())))
        return at

    def take(self) -> list[tuple[int, Message]]:
        """The messages to send, as `(link, message)`, in order."""
        out = self._out
        if out:
            self._out = []
        return out

    def take_links(self) -> list[tuple[int, str | None]]:
        """Links to open, as `(link, endpoint)`, and to close, as `(link, None)`.

        Open before sending what `take` gives, close afterwards.
        """
        actions = self._link_actions
        if actions:
            self._link_actions = []
        return actions

    def take_starts(self) -> list[Request]:
        """Requests to begin, in order. Ask each for its `refusal` just before it begins."""
        starts = self._starts
        if starts:
            self._starts = []
        return starts

    def take_signals(self) -> list[tuple[int, Request]]:
        """What happened to requests that were handed out: cancelled, more credit, more chunks."""
        signals = self._signals
        if signals:
            self._signals = []
        return signals

    def drain(self, now: float) -> None:
        """Take no more work; finish what is in hand; leave. `done` tells when that is over."""
        if self.draining:
            return
        self.draining = True
        for link in self._slots:
            if link.state in (LIVE, RETIRING):
                self._live -= link.state == LIVE
                link.state = RETIRING
                self._send(link, Message(DRAIN))
                # A broker that does not answer DRAIN has read it when its second heartbeat is here.
                link.leave_at = now + 2 * link.heartbeat
            elif link.state == CONNECTING:
                self._send(link, Message(GOODBYE))
                self._end_link(link, "left", now)

    def leave(self, now: float) -> None:
        """Leave at once; the brokers decide what becomes of the requests in hand."""
        self.draining = True
        for link in self._slots:
            if link.state != WAITING:
                self._send(link, Message(GOODBYE))
                self._end_link(link, "left", now)

    def aim(self, endpoints: Sequence[str], now: float) -> None:
        """The brokers are at `endpoints` now; connections to others serve until they end."""
        known = {link.endpoint for link in self._slots}
        self._slots += [Link(endpoint, now) for endpoint in endpoints if endpoint not in known]
        for link in self._slots:
            link.wanted = link.endpoint in endpoints
        self._slots = [link for link in self._slots if link.wanted or link.state != WAITING]

    def set_lane(self, name: str, capacity: int, now: float, epoch: int = 0) -> None:
        """Serve `capacity` requests at a time in lane `name`; 0 gives the lane up.

        With `epoch` the lane is claimed: no worker with an older claim serves it any more.
        """
        lane = self.lanes.setdefault(name, Lane(name, 0))
        lane.capacity = capacity
        if epoch != lane.epoch:
            lane.epoch = epoch
            for link in self.links.values():
                link.announced.pop(name, None)
        self._announce(now)

    # ---------------------------------------------------------------- what handlers produce

    def partial(self, request: Request, items: Sequence[bytes]) -> None:
        """Send stream items, each packed, for which the reader has granted credit."""
        link = request.link
        if request.done or link is None or request.cancel_code:
            return
        if request.flags & RAW:
            for item in items:
                self._reply(link, request, PARTIAL, RAW, [item], credit=1)
            return
        flow = request.flow
        if flow is None or flow.sent + len(items) > flow.granted:
            raise ValueError("more stream items than the reader has granted")
        flow.sent += len(items)
        first = size = 0
        for index, item in enumerate(items):
            size += len(item)
            if index > first and (index - first == MAX_ITEMS or size > MAX_PARTIAL):
                self._partial(link, request, items[first:index])
                first, size = index, len(item)
        self._partial(link, request, items[first:])

    def finish(self, request: Request, frames: Sequence[Body], flags: int = 0) -> None:
        """The handler returned. `frames` is the packed result."""
        if request.cancel_code:
            self.fail(request, request.cancel_code, {"message": "the result came too late"})
            return
        link = self._end(request)
        if link is not None:
            self._out.append(
                (
                    link.number,
                    make(
                        FINAL,
                        flags,
                        0,
                        0,
                        request.tag,
                        0.0,
                        0,
                        request.incarnation,
                        request.sequence,
                        b"",
                        b"",
                        frames,
                    ),
                )
            )

    def fail(
        self, request: Request, code: int, fields: dict[str, Any], *, started: bool = True
    ) -> None:
        """The handler raised, or (`started` False) was never called."""
        link = self._end(request)
        if link is None:
            return
        if request.cancel_code:
            code = request.cancel_code
        self._reply(
            link,
            request,
            ERROR,
            STARTED if started else 0,
            [_packed(fields)],
            code=code,
        )

    def grant(self, request: Request, items: int) -> None:
        """The handler has room for `items` further items of the caller's stream."""
        link = request.link
        flow = request.flow
        if request.done or link is None or flow is None or request.cancel_code:
            return
        flow.allowed += items
        self._reply(link, request, CREDIT, 0, (), credit=items)

    def check(self) -> None:
        """Assert every invariant. Slow: for tests only."""
        open_requests = [r for link in self.links.values() for r in link.requests.values()]
        for link in self._slots:
            assert (link.state == WAITING) == (link.number not in self.links), link.state
            assert not (link.state == WAITING and link.requests)
        assert self._live == sum(link.state == LIVE for link in self._slots)
        for request in open_requests:
            assert not request.done and request.link is not None
            assert request.link.requests[request.tag] is request
        for lane in self.lanes.values():
            mine = [r for r in open_requests if r.entry.lane is lane]
            assert len(mine) <= lane.in_hand, (lane.name, lane.in_hand)
        for entry in self.entries.values():
            assert entry.running >= 0
            assert not entry.limit or entry.running <= entry.limit
            assert not entry.waiting or entry.running == entry.limit
            assert not any(request.done for request in entry.waiting)
            if entry.timers is not None:
                assert not any(request.done for request in entry.timers)
        for request in open_requests:
            flow = request.flow
            assert flow is None or flow.sent <= flow.granted

    # ---------------------------------------------------------------- from brokers

    def _on_request(self, link: Link, message: Message, now: float) -> None:
        tag = message.tag
        if tag in link.requests:
            self._count("dropped:tag_in_use")
            return
        entry = self.entries.get(message.method)
        if entry is None:
            self._refuse(link, message, errors.METHOD_NOT_FOUND, self._unknown_method(message))
            return
        lane = entry.lane
        if self.draining or lane.in_hand >= lane.capacity:
            reason = "the worker is leaving" if self.draining else "the worker has no room"
            self._count("refused:not_started")
            self._refuse(link, message, errors.NOT_STARTED, reason)
            return
        flags = message.flags
        if entry.streams or flags & (STREAM | MORE):
            reason = stream_mismatch(entry.method, flags)
            if reason:
                self._refuse(link, message, errors.INVALID_ARGUMENT, reason)
                return
        deadline = now + message.timeout if message.timeout else math.inf
        request = accept(message, link, entry, deadline)
        if entry.streams:
            request.flow = Flow(message.credit if flags & STREAM else UNLIMITED)
        link.requests[tag] = request
        lane.in_hand += 1
        timers = entry.timers
        if timers is not None and entry.timeout is not None:
            timers[request] = at = now + entry.timeout
            if at < deadline:
                request.deadline = at
        if entry.limit and entry.running >= entry.limit:
            entry.waiting.append(request)
            return
        entry.running += 1
        self._starts.append(request)

    def _on_cancel(self, link: Link, message: Message, now: float) -> None:
        request = link.requests.get(message.tag)
        if request is None:
            self._count("dropped:unknown_tag")
        else:
            self._cancel(request, errors.CANCELLED)

    def _on_credit(self, link: Link, message: Message, now: float) -> None:
        request = link.requests.get(message.tag)
        if request is None or request.flow is None:
            self._count("dropped:unknown_tag")
            return
        request.flow.granted += message.credit
        self._signals.append((CREDIT_SIGNAL, request))

    def _on_chunk(self, link: Link, message: Message, now: float) -> None:
        request = link.requests.get(message.tag)
        if request is None or request.flow is None:
            self._count("dropped:unknown_tag")
            return
        flow = request.flow
        items = message.credit or 1
        flow.arrived += items
        if flow.arrived > flow.allowed:
            self._count("cancelled:stream_credit")
            self._cancel(request, errors.PROTOCOL)
            return
        flow.inbox.append((items, message.flags, message.body))
        self._signals.append((CHUNK_SIGNAL, request))

    def _on_end(self, link: Link, message: Message, now: float) -> None:
        request = link.requests.get(message.tag)
        if request is None or request.flow is None:
            self._count("dropped:unknown_tag")
            return
        request.flow.inbox.append((0, message.code, message.body))
        self._signals.append((CHUNK_SIGNAL, request))

    def _on_welcome(self, link: Link, message: Message, now: float) -> None:
        try:
            fields = payload.decode_map(message.body)
        except errors.ProtocolError:
            fields = {}
        link.welcome(fields, now)
        if link.state == CONNECTING:
            link.state = LIVE
            self._live += 1
            self._announce(now)

    def _on_heartbeat(self, link: Link, message: Message, now: float) -> None:
        pass  # every message is a sign of life; this one is nothing else

    def _on_capacity(self, link: Link, message: Message, now: float) -> None:
        """The broker has closed a lane: another worker claimed it with a newer epoch."""
        lane = self.lanes.get(message.method.decode(errors="replace"))
        if lane is None or message.credit:
            self._count("dropped:unexpected_command")
            return
        if message.sequence > lane.epoch and lane.capacity:
            self._count("closed:old_epoch")
            lane.capacity = 0
            link.announced[lane.name] = 0
            self._announce(now)

    def _on_drain(self, link: Link, message: Message, now: float) -> None:
        if self.draining:
            if message.credit:
                link.leave_at = now  # the answer to our own: nothing more is on its way
        elif link.state == LIVE:
            link.state = RETIRING
            self._live -= 1
            self._announce(now)

    def _on_goodbye(self, link: Link, message: Message, now: float) -> None:
        if message.code:
            text = bytes(memoryview(message.body))[:MAX_TEXT].decode(errors="replace")
            self.notices.append(
                f"{link.endpoint} turned this worker away (code {message.code}) {text}".rstrip()
            )
        self._end_link(link, "goodbye", now)

    # ---------------------------------------------------------------- links

    def _may_connect(self) -> bool:
        """A worker that serves no lane has nothing to register."""
        return not self.draining and any(lane.capacity for lane in self.lanes.values())

    def _connect(self, link: Link, now: float) -> None:
        link.number = self._next_link
        self._next_link += 1
        link.open(now, self.heartbeat)
        self.links[link.number] = link
        self._link_actions.append((link.number, link.endpoint))
        brokers = self._live + 1
        body = {
            **self._facts,
            "capabilities": 0,
            "heartbeat": self.heartbeat,
            "lanes": {
                lane.name: -(-lane.capacity // brokers)
                for lane in self.lanes.values()
                if lane.capacity
            },
            "epochs": {
                lane.name: lane.epoch
                for lane in self.lanes.values()
                if lane.capacity and lane.epoch
            },
            "methods": {e.method.name: e.method.facts() for e in self.entries.values()},
        }
        self._send(
            link,
            Message(
                READY,
                incarnation=self.incarnation,
                service=self.service,
                frames=[payload.encode(body)],
            ),
        )
        link.announced = {lane.name: -(-lane.capacity // brokers) for lane in self.lanes.values()}

    def _end_link(self, link: Link, reason: str, now: float) -> None:
        self._count(f"link:{reason}")
        if link.state == LIVE:
            self._live -= 1
        was_live = link.state == LIVE
        self._link_actions.append((link.number, None))
        del self.links[link.number]
        requests = list(link.requests.values())
        link.requests.clear()
        link.close(now, self._uniform())
        for request in requests:
            # Its answer has nowhere to go.
            self._count("orphaned")
            request.link = None
            if request in request.entry.waiting:
                request.entry.waiting.remove(request)
                self._forget(request)
            else:
                self._cancel(request, errors.CANCELLED)
        if was_live:
            self._announce(now)

    def _announce(self, now: float) -> None:
        """Tell each broker its share of the capacity, if that has changed."""
        if self.draining:
            return
        brokers = max(1, self._live)
        for link in self.links.values():
            if link.state != LIVE:
                continue
            for lane in self.lanes.values():
                share = -(-lane.capacity // brokers)
                if link.announced.get(lane.name, 0) != share:
                    link.announced[lane.name] = share
                    self._send(
                        link,
                        Message(
                            CAPACITY,
                            service=self.service,
                            method=lane.name.encode(),
                            credit=share,
                            sequence=lane.epoch,
                        ),
                    )

    def _beat(self, link: Link, now: float) -> None:
        if link.quiet:
            beat = Message(HEARTBEAT, credit=len(link.requests), sequence=self.ended)
            self._out.append((link.number, beat))
        link.quiet = True
        # Twice an interval: the silence before a beat is then at most one interval.
        link.beat_at = now + link.heartbeat / 2

    def _leave_if_empty(self, link: Link, now: float) -> None:
        if not link.requests and link.leave_at <= now:
            self._send(link, Message(GOODBYE))
            self._end_link(link, "left", now)
        elif link.beat_at <= now:
            self._beat(link, now)

    # ---------------------------------------------------------------- requests

    def _cancel(self, request: Request, code: int) -> None:
        if request.cancel_code or request.done:
            return
        request.cancel_code = code
        entry = request.entry
        if request in entry.waiting:
            entry.waiting.remove(request)
            entry.running += 1  # `fail` counts it out again
            self.fail(request, code, {"message": "cancelled before it began"}, started=False)
        else:
            self._signals.append((CANCELLED_SIGNAL, request))

    def _expire(self, entry: Entry, now: float) -> None:
        timers = entry.timers
        while timers:
            request = next(iter(timers))
            if timers[request] > now:
                return
            del timers[request]
            self._cancel(request, errors.DEADLINE_EXCEEDED)

    def _end(self, request: Request) -> Link | None:
        """Take `request` off the books; the link to answer over, if it still stands."""
        if request.done:
            self._count("dropped:ended_twice")
            return None
        entry = request.entry
        entry.running -= 1
        self._forget(request)
        self.ended += 1
        if entry.waiting and entry.running < entry.limit:
            entry.running += 1
            self._starts.append(entry.waiting.popleft())
        link = request.link
        if link is not None:
            del link.requests[request.tag]
            link.quiet = False
        return link

    def _forget(self, request: Request) -> None:
        request.done = True
        entry = request.entry
        entry.lane.in_hand -= 1
        if entry.timers is not None:
            entry.timers.pop(request, None)

    def _partial(self, link: Link, request: Request, items: Sequence[bytes]) -> None:
        count = len(items)
        if count == 1:
            self._reply(link, request, PARTIAL, 0, items, credit=1)
        elif count:
            self._reply(link, request, PARTIAL, BATCH, [packed_array(items)], credit=count)

    def _reply(
        self,
        link: Link,
        request: Request,
        command: int,
        flags: int,
        frames: Sequence[Body],
        *,
        code: int = 0,
        credit: int = 0,
    ) -> None:
        self._send(
            link,
            Message(
                command,
                flags,
                code=code,
                tag=request.tag,
                credit=credit,
                incarnation=request.incarnation,
                sequence=request.sequence,
                frames=frames,
            ),
        )

    def _refuse(self, link: Link, message: Message, code: int, text: str) -> None:
        """Answer a request that is not taken in hand."""
        self._send(
            link,
            Message(
                ERROR,
                code=code,
                tag=message.tag,
                incarnation=message.incarnation,
                sequence=message.sequence,
                frames=[payload.encode({"message": text})],
            ),
        )

    def _unknown_method(self, message: Message) -> str:
        known = ", ".join(sorted(name.decode() for name in self.entries)[:20])
        return f"there is no method {message.method.decode(errors='replace')!r}; it has: {known}"

    def _send(self, link: Link, message: Message) -> None:
        link.quiet = False
        self._out.append((link.number, message))

    def _count(self, reason: str) -> None:
        self.counters[reason] = self.counters.get(reason, 0) + 1


def _packed(fields: dict[str, Any]) -> bytes:
    """An error map as it leaves; without its `data` if that cannot be sent."""
    try:
        return payload.encode(fields)
    except errors.InvalidArgument:
        message = f"what it raised cannot be sent: {fields.get('message')!r:.1000}"
        return payload.encode({"message": message.encode("utf-8", "backslashreplace").decode()})
