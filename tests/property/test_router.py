"""The router against a model of what it promises, whatever peers and time do.

The model knows nothing of queues and pools. It watches what goes in and comes out:

    every request ends exactly once for the client that made it, and for no other
    a worker never holds more than it announced, and nothing waits while fit credit is free
    what has expired is never begun; what may run once only is begun once only
    a stream never carries more than was granted
    a lane that is claimed goes to the newest claim only
    when all is over, nothing is kept
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.router import Router
from broker.state import ACTIVE, CALL_OVERHEAD, RouterSettings
from mesh import errors
from mesh.protocol import payload
from mesh.protocol.mdp import LEGACY02, MDP01, MDP02, NATIVE
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

NATIVE_CLIENTS = (b"c1", b"c2")
MDP_CLIENTS = {b"m1": MDP01, b"m2": MDP02, b"m3": LEGACY02}
WORKERS = (b"w1", b"w2", b"w3")
SERVICES = (b"echo", b"echo", b"echo", b"echo", b"echo.put", b"other")
METHODS: dict[str, dict[str, Any]] = {"get": {"idempotent": True}, "put": {"lane": "writer"}}
LANES = st.dictionaries(st.sampled_from(["", "writer"]), st.integers(1, 3), min_size=1)
TIMEOUTS = st.sampled_from([0.0, 0.004, 0.3, 2.0, 8.0, 1000.0])
CODES = st.sampled_from(
    [errors.REMOTE_ERROR, errors.INVALID_ARGUMENT, errors.CANCELLED, errors.OVERLOADED, 0, 99]
)
SLACK = 0.02  # a call may be found expired one slot of the wheel late

Key = tuple[bytes, int]


@dataclass(eq=False)
class Open:
    """A request that has not ended, as its client and its workers know it."""

    key: Key
    body: bytes
    expires_at: float
    idempotent: bool
    flags: int
    granted: int
    chunks: int = 0
    begun: int = 0
    touched: bool = False
    ended: bool = False


@dataclass(eq=False)
class Member:
    """A registered worker, as it knows itself. `hand` is by tag."""

    service: bytes
    dialect: int
    windows: dict[bytes, int]
    epochs: dict[bytes, int] = field(default_factory=dict)
    hand: dict[int, tuple[Open, Message, bytes]] = field(default_factory=dict)
    draining: bool = False


class Mesh(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 50.0
        self.router = Router(
            RouterSettings(
                default_timeout=4.0,
                max_timeout=10.0,
                grace=1.0,
                max_queue=8,
                max_held_bytes=600 + 40 * CALL_OVERHEAD,
                max_redispatches=2,
                hung_beats=24,
                eject_errors=2,
                eject_ttl=1.0,
                mdp_ttl=5.0,
                mdp_busy_timeout=12.0,
                client_idle_ttl=1.0,
            ),
            "b",
        )
        self.open: dict[Key, Open] = {}
        self.workers: dict[bytes, Member] = {}
        self.deaf: set[bytes] = set()
        self.claims: dict[tuple[bytes, bytes], int] = {}  # the newest, by service and lane
        self.undeclared: set[bytes] = set()  # services with workers of MDP: they name no methods
        self.requests = 0
        self.sequence = 0
        self.steps = 0
        self.draining = False
        self.tick()

    # ---------------------------------------------------------------- in and out

    def tick(self) -> None:
        self.router.tick(self.now)
        self.look()

    def say(self, peer: bytes, message: Message) -> None:
        self.router.receive(peer, message, self.now)
        self.look()

    def look(self) -> None:
        """Let the model see what the router sends, in order."""
        for peer, message in self.router.take():
            note(f"{self.now:.3f} -> {peer!r} {message}")
            if message.command in (WELCOME, HEARTBEAT, DRAIN):
                continue
            if message.command == GOODBYE:
                self.deaf.add(peer)
                self.workers.pop(peer, None)
            elif peer in WORKERS:
                self.to_worker(peer, message)
            else:
                self.to_client(peer, message)

    def to_client(self, peer: bytes, message: Message) -> None:
        if message.command not in (FINAL, ERROR, PARTIAL, CREDIT):
            return
        request = self.open.get((peer, message.sequence))
        assert request is not None, "an answer to nobody, or a second one"
        if message.command == PARTIAL:
            request.touched = True
            request.granted -= message.credit or 1
            assert request.granted >= 0, "more items than the client granted"
            assert bytes(message.frames[0]) == request.body, "a part of another answer"
        elif message.command == CREDIT:
            request.touched = True
            request.chunks += message.credit
        else:
            if message.command == FINAL:
                assert bytes(message.frames[-1]) == request.body, "the answer to another request"
            elif message.code == errors.DEADLINE_EXCEEDED and not message.flags & STARTED:
                assert not request.begun, "it was begun after all"
            del self.open[request.key]
            request.ended = True

    def to_worker(self, peer: bytes, message: Message) -> None:
        worker = self.workers.get(peer)
        assert worker is not None, "a word to a worker that has left"
        if message.command == CAPACITY:
            newest = self.claims[worker.service, message.method]
            assert (message.credit, message.sequence) == (0, newest)
            assert worker.epochs.get(message.method, 0) < newest, "the newest claim was refused"
            worker.windows[message.method] = 0
            return
        if message.command != REQUEST:
            assert message.command in (CANCEL, CREDIT, CHUNK, END)
            if message.command == CANCEL and message.tag in worker.hand:
                # Nobody waits for this execution; the request itself may be given to another.
                stopped, given, lane = worker.hand[message.tag]
                worker.hand[message.tag] = (replace(stopped, ended=True), given, lane)
            if message.command == CREDIT and message.tag in worker.hand:
                assert not worker.hand[message.tag][0].ended, "credit for what has ended"
            return
        request = next((r for r in self.open.values() if r.body == message.frames[0]), None)
        assert request is not None, "work that nobody waits for"
        assert not worker.draining, "work for a worker that leaves"
        assert request.expires_at > self.now, "expired work was begun"
        assert abs(message.timeout - (request.expires_at - self.now)) < 1e-6
        held_by = [w for w in self.workers.values() for r, _, _ in w.hand.values() if r is request]
        assert not held_by, "two workers have it"
        assert not request.touched, "given on after a part was seen"
        request.begun += 1
        assert request.idempotent or request.begun == 1, "begun twice"
        lane = self.router.workers[peer].calls[message.tag].lane.name
        if request.key[0] in NATIVE_CLIENTS:
            declared = METHODS.get(message.method.decode(), {}).get("lane", "").encode()
            assert lane == declared or worker.service in self.undeclared
        newest = self.claims.get((worker.service, lane), 0)
        assert worker.epochs.get(lane, 0) == newest, "work for an older claim"
        taken = sum(1 for _, _, other in worker.hand.values() if other == lane)
        assert taken < worker.windows.get(lane, 0), "more than the worker announced"
        assert message.tag not in worker.hand
        worker.hand[message.tag] = (request, message, lane)

    # ---------------------------------------------------------------- clients

    @rule(peer=st.sampled_from(NATIVE_CLIENTS))
    def hello(self, peer: bytes) -> None:
        self.say(peer, Message(HELLO))

    @rule(
        peer=st.sampled_from(NATIVE_CLIENTS),
        service=st.sampled_from(SERVICES),
        method=st.sampled_from([b"get", b"put", b"else"]),
        flags=st.sampled_from([0, IDEMPOTENT, STREAM, IDEMPOTENT | STREAM, MORE | STREAM]),
        credit=st.integers(0, 3),
        timeout=TIMEOUTS,
        priority=st.integers(0, 3),
        again=st.booleans(),
        copies=st.integers(1, 4),
    )
    def request(
        self,
        peer: bytes,
        service: bytes,
        method: bytes,
        flags: int,
        credit: int,
        timeout: float,
        priority: int,
        again: bool,
        copies: int,
    ) -> None:
        for _ in range(copies):
            mine = [sequence for owner, sequence in self.open if owner == peer]
            if again and mine:
                sequence = mine[0]
            else:
                self.sequence += 1
                sequence = self.sequence
            message = Message(
                REQUEST,
                flags,
                priority,
                timeout=timeout,
                credit=credit,
                incarnation=1,
                sequence=sequence,
                service=service,
                method=method,
            )
            idempotent = bool(flags & IDEMPOTENT) or method == b"get"
            self.ask((peer, sequence), message, idempotent, min(timeout or 4.0, 10.0))

    @rule(peer=st.sampled_from(sorted(MDP_CLIENTS)), service=st.sampled_from(SERVICES))
    def request_mdp(self, peer: bytes, service: bytes) -> None:
        message = Message(
            REQUEST, IDEMPOTENT | RAW, 2, code=MDP_CLIENTS[peer], service=service, credit=0
        )
        self.ask((peer, self.router._last_sequence + 1), message, True, 5.0)

    def ask(self, key: Key, message: Message, idempotent: bool, timeout: float) -> None:
        self.requests += 1
        message.frames = [b"body %d" % self.requests]
        if key not in self.open:
            granted = message.credit if message.flags & STREAM else 0
            self.open[key] = Open(
                key,
                bytes(message.frames[0]),
                self.now + timeout,
                idempotent,
                message.flags,
                granted if key[0] in NATIVE_CLIENTS else 1 << 40,
            )
        self.say(key[0], message)

    def some(self, data: st.DataObject, flag: int = 0) -> Open | None:
        """One of the open requests of native clients, which has `flag`."""
        found = [
            r for r in self.open.values() if r.key[0] in NATIVE_CLIENTS and r.flags & flag == flag
        ]
        return data.draw(st.sampled_from(found)) if found else None

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = self.some(data)
        if request is not None:
            self.gone(request)
            self.say(request.key[0], Message(CANCEL, sequence=request.key[1]))

    @rule(data=st.data(), items=st.integers(0, 3))
    def grant_to_worker(self, data: st.DataObject, items: int) -> None:
        request = self.some(data, STREAM)
        if request is not None:
            request.granted += items
            self.say(request.key[0], Message(CREDIT, sequence=request.key[1], credit=items))

    @rule(data=st.data(), command=st.sampled_from([CHUNK, CHUNK, END]), fair=st.booleans())
    def write(self, data: st.DataObject, command: int, fair: bool) -> None:
        request = self.some(data, MORE)
        if request is None or (fair and command == CHUNK and not request.chunks):
            return
        request.chunks -= command == CHUNK
        bad = request.chunks < 0
        self.say(request.key[0], Message(command, sequence=request.key[1], credit=1))
        assert not bad or request.ended, "a client wrote more than was granted"

    @rule(peer=st.sampled_from([*NATIVE_CLIENTS, *MDP_CLIENTS]), politely=st.booleans())
    def client_leaves(self, peer: bytes, politely: bool) -> None:
        for request in [r for key, r in self.open.items() if key[0] == peer]:
            self.gone(request)
        if politely and peer in NATIVE_CLIENTS:
            self.say(peer, Message(GOODBYE))
        self.router.lost(peer, self.now)
        self.look()

    def gone(self, request: Open) -> None:
        del self.open[request.key]
        request.ended = True

    # ---------------------------------------------------------------- workers

    @initialize(lanes=LANES, second=st.booleans())
    def begin(self, lanes: dict[str, int], second: bool) -> None:
        self.join(b"w1", b"echo", lanes, 1.0)
        if second:
            self.join(b"w2", b"echo", lanes, 1.0)

    @rule(
        peer=st.sampled_from(WORKERS),
        service=st.sampled_from(SERVICES),
        lanes=LANES,
        heartbeat=st.sampled_from([0.1, 1.0]),
    )
    def join(self, peer: bytes, service: bytes, lanes: dict[str, int], heartbeat: float) -> None:
        if peer not in self.workers and peer not in self.deaf:
            windows = {name.encode(): window for name, window in lanes.items()}
            self.workers[peer] = Member(service, NATIVE, windows)
            fields = {"lanes": lanes, "methods": METHODS, "heartbeat": heartbeat}
            self.say(peer, Message(READY, service=service, frames=[payload.encode(fields)]))

    @rule(
        peer=st.sampled_from(WORKERS),
        service=st.sampled_from(SERVICES),
        dialect=st.sampled_from([MDP01, MDP02]),
    )
    def join_mdp(self, peer: bytes, service: bytes, dialect: int) -> None:
        if peer not in self.workers and peer not in self.deaf:
            self.workers[peer] = Member(service, dialect, {b"": 1})
            self.undeclared.add(service)
            frames = [payload.encode({"lanes": {"": 1}})]
            self.say(peer, Message(READY, service=service, code=dialect, frames=frames))

    def registered(self, data: st.DataObject, *, native: bool = False) -> bytes | None:
        found = [p for p, w in self.workers.items() if not native or w.dialect == NATIVE]
        return data.draw(st.sampled_from(found)) if found else None

    def holding(self, data: st.DataObject, *, native: bool = False) -> tuple[bytes, int] | None:
        found = [
            (peer, tag)
            for peer, worker in self.workers.items()
            if not native or worker.dialect == NATIVE
            for tag in worker.hand
        ]
        return data.draw(st.sampled_from(found)) if found else None

    @rule(data=st.data())
    def ready_twice(self, data: st.DataObject) -> None:
        peer = self.registered(data)
        if peer is not None:
            self.say(peer, Message(READY, service=b"echo"))
            assert peer not in self.workers

    @rule(data=st.data(), lane=st.sampled_from([b"", b"writer"]), window=st.integers(0, 4))
    def capacity(self, data: st.DataObject, lane: bytes, window: int) -> None:
        peer = self.registered(data, native=True)
        if peer is not None:
            self.workers[peer].windows[lane] = window
            self.workers[peer].epochs.pop(lane, None)
            self.say(peer, Message(CAPACITY, method=lane, credit=window))

    @rule(data=st.data(), window=st.integers(1, 3), epoch=st.integers(1, 4))
    def claim(self, data: st.DataObject, window: int, epoch: int) -> None:
        peer = self.registered(data, native=True)
        if peer is not None:
            worker = self.workers[peer]
            worker.windows[b"writer"] = window
            worker.epochs[b"writer"] = epoch
            key = (worker.service, b"writer")
            self.claims[key] = max(epoch, self.claims.get(key, 0))
            message = Message(CAPACITY, method=b"writer", credit=window, sequence=epoch)
            self.say(peer, message)

    @rule(data=st.data(), count=st.integers(1, 4))
    def final(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            found = self.holding(data)
            if found is not None:
                peer, tag = found
                request = self.workers[peer].hand.pop(tag)[0]
                self.say(peer, Message(FINAL, tag=tag, frames=[request.body]))

    @rule(data=st.data(), code=CODES)
    def error(self, data: st.DataObject, code: int) -> None:
        found = self.holding(data, native=True)
        if found is not None:
            peer, tag = found
            del self.workers[peer].hand[tag]
            self.say(peer, Message(ERROR, STARTED, code=code, tag=tag))

    @rule(data=st.data())
    def not_started(self, data: st.DataObject) -> None:
        found = self.holding(data, native=True)
        if found is not None:
            peer, tag = found
            self.workers[peer].hand.pop(tag)[0].begun -= 1
            self.say(peer, Message(ERROR, code=errors.NOT_STARTED, tag=tag))

    @rule(data=st.data())
    def undelivered(self, data: st.DataObject) -> None:
        found = self.holding(data)
        if found is None:
            return
        peer, tag = found
        request, message, _ = self.workers[peer].hand[tag]
        if request.touched or self.router.workers[peer].calls[tag].parts:
            return
        del self.workers[peer].hand[tag]
        request.begun -= 1
        self.router.undelivered(peer, message, self.now)
        self.look()

    @rule(data=st.data(), items=st.integers(0, 2), fair=st.booleans())
    def partial(self, data: st.DataObject, items: int, fair: bool) -> None:
        found = self.holding(data)
        if found is None:
            return
        peer, tag = found
        request = self.workers[peer].hand[tag][0]
        beyond = not request.ended and (
            (items or 1) > request.granted
            or (request.key[0] in NATIVE_CLIENTS and not request.flags & STREAM)
        )
        if fair and beyond:
            return
        native = self.workers[peer].dialect == NATIVE
        self.say(peer, Message(PARTIAL, tag=tag, credit=items, frames=[request.body]))
        assert not beyond or request.ended, "a worker wrote more than was granted"
        assert not (beyond and native) or peer not in self.workers

    @rule(data=st.data(), items=st.integers(0, 3))
    def grant_to_client(self, data: st.DataObject, items: int) -> None:
        found = self.holding(data, native=True)
        if found is not None:
            self.say(found[0], Message(CREDIT, tag=found[1], credit=items))

    @rule(data=st.data(), theirs=st.booleans(), command=st.sampled_from([FINAL, ERROR, PARTIAL]))
    def reply_to_what_it_has_not(self, data: st.DataObject, theirs: bool, command: int) -> None:
        peer = self.registered(data)
        if peer is None:
            return
        tag = 0
        if theirs:
            tags = [t for p, w in self.workers.items() if p != peer for t in w.hand]
            tag = data.draw(st.sampled_from(tags)) if tags else 0
        native = self.workers[peer].dialect == NATIVE
        self.say(peer, Message(command, tag=tag, frames=[b"a lie"]))
        assert (peer in self.workers) == native

    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        peer = self.registered(data)
        if peer is not None:
            self.say(peer, Message(HEARTBEAT))

    @rule(data=st.data())
    def worker_drains(self, data: st.DataObject) -> None:
        peer = self.registered(data, native=True)
        if peer is not None:
            self.workers[peer].draining = True
            self.say(peer, Message(DRAIN))

    @rule(data=st.data(), politely=st.booleans())
    def worker_leaves(self, data: st.DataObject, politely: bool) -> None:
        busy = self.holding(data)
        peer = busy[0] if busy is not None else self.registered(data)
        if peer is not None:
            held = [request for request, _, _ in self.workers.pop(peer).hand.values()]
            if politely:
                self.say(peer, Message(GOODBYE))
            self.router.lost(peer, self.now)
            self.look()
            for request in held:
                assert request.ended or (request.idempotent and not request.touched)

    @precondition(lambda self: self.deaf)
    @rule()
    def the_expelled_reconnect(self) -> None:
        for peer in self.deaf:
            self.router.lost(peer, self.now)
            self.look()
        self.deaf.clear()

    # ---------------------------------------------------------------- time, and the broker itself

    @rule(seconds=st.sampled_from([0.001, 0.05, 0.5, 1.3, 6.0]), beating=st.booleans())
    def wait(self, seconds: float, beating: bool) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, max(self.router.next_deadline(), self.now + 1e-4))
            if beating:
                for peer in list(self.workers):
                    self.say(peer, Message(HEARTBEAT))
            self.tick()
        late = [r for r in self.open.values() if r.expires_at < self.now - SLACK]
        assert not late, "requests outlived their time"

    @rule()
    def sleep_until_deadline(self) -> None:
        self.now = max(self.now, self.router.next_deadline())
        self.tick()

    @rule(seconds=st.sampled_from([0.2, 3.0]))
    def be_held_up(self, seconds: float) -> None:
        """The broker looks neither at the clock nor at its sockets for a while."""
        self.now += seconds

    @precondition(lambda self: self.steps > 40 and not self.draining)
    @rule()
    def drain(self) -> None:
        self.draining = True
        self.router.drain(self.now)
        self.look()

    def stream(self, data: st.DataObject) -> None:
        """A stream that has begun, and may still be given on as far as its flags go."""
        self.request(b"c1", b"echo", b"get", STREAM | IDEMPOTENT, 2, 2.0, 0, False, 1)
        self.partial(data, 1, True)

    @rule(data=st.data(), acts=st.lists(st.integers(0, 21), min_size=2, max_size=10))
    def commotion(self, data: st.DataObject, acts: list[int]) -> None:
        """What interacts most, close together."""
        for act in acts:
            _COMMOTION[act](self, data)

    # ---------------------------------------------------------------- what always holds

    @invariant()
    def books_agree(self) -> None:
        self.steps += 1
        self.router.check()
        known = {
            (peer, sequence)
            for peer, client in self.router.clients.items()
            for sequence in client.calls
        }
        assert known == set(self.open), "the router forgot a request, or kept one"
        assert set(self.router.workers) == set(self.workers)
        for peer, worker in self.workers.items():
            assert set(self.router.workers[peer].calls) == set(worker.hand)

    @invariant()
    def nothing_waits_for_free_credit(self) -> None:
        for peer, member in self.workers.items():
            known = self.router.workers[peer]
            if known.state != ACTIVE or known.paused_until or known.probing:
                continue
            for lane, window in member.windows.items():
                taken = sum(1 for _, _, other in member.hand.values() if other == lane)
                waiting = known.service.lanes[lane].queue.length
                assert taken >= window or not waiting, "work waits while fit credit is free"

    def teardown(self) -> None:
        """All peers fall silent: everything ends by itself, and nothing is kept."""
        if sys.exc_info()[0] is not None:
            return
        self.wait(30.0, False)
        assert not self.open
        router = self.router
        assert not router.workers and not router.services and not router.paused
        for peer in (*NATIVE_CLIENTS, *MDP_CLIENTS, *WORKERS):
            router.lost(peer, self.now)
        self.look()
        router.check()
        assert not router.clients and not router.expelled
        assert router.accepted == router.finished
        assert router.held_bytes == 0
        assert len(router.wheel) == 0


_COMMOTION: list[Callable[[Mesh, st.DataObject], None]] = [
    lambda mesh, _: mesh.request(b"c1", b"echo", b"else", 0, 0, 0.3, 2, False, 2),
    lambda mesh, _: mesh.request(b"c2", b"echo", b"get", STREAM, 1, 2.0, 2, False, 1),
    lambda mesh, _: mesh.request(b"c2", b"echo", b"else", MORE, 0, 2.0, 1, False, 1),
    lambda mesh, _: mesh.request_mdp(b"m1", b"echo"),
    lambda mesh, _: mesh.request_mdp(b"m2", b"echo"),
    lambda mesh, _: mesh.join(b"w2", b"echo", {"": 2}, 1.0),
    lambda mesh, data: mesh.capacity(data, b"", 4),
    lambda mesh, data: mesh.final(data, 1),
    lambda mesh, data: mesh.final(data, 2),
    lambda mesh, data: mesh.error(data, errors.REMOTE_ERROR),
    lambda mesh, data: mesh.not_started(data),
    lambda mesh, data: mesh.stream(data),
    lambda mesh, data: mesh.partial(data, 0, False),
    lambda mesh, data: mesh.undelivered(data),
    lambda mesh, data: mesh.grant_to_client(data, 1),
    lambda mesh, data: mesh.write(data, CHUNK, False),
    lambda mesh, data: mesh.cancel(data),
    lambda mesh, data: mesh.worker_leaves(data, False),
    lambda mesh, _: mesh.wait(0.5, True),
    lambda mesh, _: mesh.be_held_up(0.3),
    lambda mesh, _: mesh.request(b"c1", b"echo", b"put", IDEMPOTENT, 0, 8.0, 2, False, 2),
    lambda mesh, data: mesh.claim(data, 2, len(mesh.claims) + mesh.steps % 4 + 1),
]

TestRouter = Mesh.TestCase
TestRouter.settings = settings(stateful_step_count=80)
