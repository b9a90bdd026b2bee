"""The worker's session against every order of events: each request is answered exactly once."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh import errors
from mesh.protocol import payload
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
    MORE,
    PARTIAL,
    READY,
    REQUEST,
    STARTED,
    STREAM,
    WELCOME,
    Message,
)
from mesh.service import Service, Stream
from mesh.service.requests import Request
from mesh.service.session import CANCELLED_SIGNAL, SessionCore

CAPACITY_OF = {"": 4, "writer": 2}
METHODS = [b"plain", b"limited", b"timed", b"write", b"items", b"upload", b"absent"]


def service() -> Service:
    made = Service("model", concurrency=CAPACITY_OF[""])
    made.lane("writer", capacity=CAPACITY_OF["writer"])

    @made.rpc
    def plain() -> None: ...

    @made.rpc(concurrency=1)
    def limited() -> None: ...

    @made.rpc(timeout=2)
    def timed() -> None: ...

    @made.rpc(lane="writer")
    def write() -> None: ...

    @made.rpc
    def items() -> Any:
        yield 1

    @made.rpc
    def upload(chunks: Stream[int]) -> None: ...

    return made


class SessionMachine(RuleBasedStateMachine):
    """Plays two brokers and the runtime. `open` is what each link has asked and not been told."""

    def __init__(self) -> None:
        super().__init__()
        made = service()
        self.now = 100.0
        self.core = SessionCore(
            made.name,
            made.methods.values(),
            made.lanes(),
            ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"],
            uniform=random.Random(1).random,
            now=self.now,
        )
        self.links: dict[int, str] = {}
        self.open: dict[tuple[int, int], Message] = {}
        self.queued: list[Request] = []
        self.started: list[Request] = []
        self.granted: dict[tuple[int, int], int] = {}
        self.allowed: dict[tuple[int, int], int] = {}
        self.told_capacity: dict[int, dict[str, int]] = {}
        self.left: set[int] = set()
        self.last_tag = 0
        self.settle()

    # ---- the shell

    def settle(self) -> None:
        """Take everything the core gives out, and hold it against the model."""
        self.core.tick(self.now)
        actions = self.core.take_links()
        for link, endpoint in actions:
            if endpoint is not None:
                assert link not in self.links
                self.links[link] = endpoint
        for link, message in self.core.take():
            self.judge(link, message)
        for link, endpoint in actions:
            if endpoint is None:
                del self.links[link]
                for key in [key for key in self.open if key[0] == link]:
                    del self.open[key]
        for request in self.core.take_starts():
            self.queued.append(request)
        for kind, request in self.core.take_signals():
            if kind == CANCELLED_SIGNAL:
                assert request.cancel_code

    def judge(self, link: int, message: Message) -> None:
        assert link in self.links, "a message for a link that is closed"
        assert link not in self.left, "nothing may follow a GOODBYE"
        command = message.command
        key = (link, message.tag)
        if command == READY:
            lanes = payload.decode_map(message.body)["lanes"]
            assert all(0 < window <= CAPACITY_OF[name] for name, window in lanes.items())
            self.told_capacity[link] = lanes
        elif command == CAPACITY:
            assert not self.core.draining
            self.told_capacity[link][message.method.decode()] = message.credit
        elif command in (FINAL, ERROR):
            asked = self.open.pop(key, None)
            assert asked is not None, f"{message!r} answers nothing that is open"
            assert (asked.incarnation, asked.sequence) == (message.incarnation, message.sequence)
            if message.code == errors.NOT_STARTED:
                assert not message.flags & STARTED
        elif command == PARTIAL:
            self.granted[key] -= message.credit
            assert self.granted[key] >= 0, "more items than were granted"
        elif command == CREDIT:
            self.allowed[key] = self.allowed.get(key, 0) + message.credit
        elif command == GOODBYE:
            self.left.add(link)
        else:
            assert command in (HEARTBEAT, DRAIN)

    def lane_in_hand(self, lane: str) -> int:
        return self.core.lanes[lane].in_hand

    # ---- brokers

    @precondition(lambda self: self.links)
    @rule(data=st.data(), heartbeat=st.sampled_from([0.2, 0.5]))
    def welcome(self, data: Any, heartbeat: float) -> None:
        link = data.draw(st.sampled_from(sorted(self.links)))
        body = payload.encode({"heartbeat": heartbeat, "broker": "b"})
        self.core.receive(link, Message(WELCOME, frames=[body]), self.now)
        self.settle()

    @precondition(lambda self: self.links)
    @rule(
        data=st.data(),
        method=st.sampled_from(METHODS),
        timeout=st.sampled_from([0.0, 0.3, 5.0]),
        credit=st.integers(0, 5),
    )
    def request(self, data: Any, method: bytes, timeout: float, credit: int) -> None:
        link = data.draw(st.sampled_from(sorted(self.links)))
        self.last_tag += 1
        flags = {b"items": STREAM, b"upload": MORE}.get(method, 0)
        message = Message(
            REQUEST,
            flags,
            tag=self.last_tag,
            timeout=timeout,
            credit=credit if flags == STREAM else 0,
            incarnation=7,
            sequence=self.last_tag,
            service=b"model",
            method=method,
            frames=[payload.encode([[]])],
        )
        key = (link, self.last_tag)
        self.open[key] = message
        self.granted[key] = credit
        lane = "writer" if method == b"write" else ""
        room = self.lane_in_hand(lane) < self.core.lanes[lane].capacity
        self.core.receive(link, message, self.now)
        taken = [
            r for entry in self.core.entries.values() for r in entry.waiting
        ] + self.core._starts
        accepted = any(r.tag == self.last_tag for r in taken)
        assert accepted == (room and not self.core.draining and method != b"absent")
        self.settle()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), command=st.sampled_from([CANCEL, CREDIT, CHUNK, END]))
    def about_request(self, data: Any, command: int) -> None:
        link, tag = data.draw(st.sampled_from(sorted(self.open)))
        credit = 3 if command in (CREDIT, CHUNK) else 0
        if command == CREDIT:
            self.granted[link, tag] += credit
        body = payload.encode(1)
        self.core.receive(link, Message(command, tag=tag, credit=credit, frames=[body]), self.now)
        self.settle()

    @precondition(lambda self: self.links)
    @rule(data=st.data(), command=st.sampled_from([HEARTBEAT, DRAIN, GOODBYE, REQUEST]))
    def odd_message(self, data: Any, command: int) -> None:
        link = data.draw(st.sampled_from(sorted(self.links)))
        if command == REQUEST and not any(key[0] == link for key in self.open):
            command = HEARTBEAT
        tag = next((key[1] for key in self.open if key[0] == link), 0)
        message = Message(command, tag=tag, service=b"model", method=b"plain")
        self.core.receive(link, message, self.now)
        self.settle()

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def lose(self, data: Any) -> None:
        link = data.draw(st.sampled_from(sorted(self.links)))
        self.core.lost(link, self.now)
        self.settle()

    # ---- the runtime

    @precondition(lambda self: self.queued)
    @rule(data=st.data())
    def begin(self, data: Any) -> None:
        request = self.queued.pop(data.draw(st.integers(0, len(self.queued) - 1)))
        code = request.refusal(self.now)
        if request.deadline <= self.now:
            assert code, "what has expired must not begin"
        if code:
            self.core.fail(request, code, {"message": "late"}, started=False)
        else:
            self.started.append(request)
        self.settle()

    @precondition(lambda self: self.started)
    @rule(data=st.data(), how=st.sampled_from(["finish", "fail", "items", "grant", "twice"]))
    def act(self, data: Any, how: str) -> None:
        index = data.draw(st.integers(0, len(self.started) - 1))
        request = self.started[index]
        if how == "items":
            flow = request.flow
            if flow is not None and request.target.name == "items":
                self.core.partial(request, [b"\x01"] * min(3, flow.granted - flow.sent))
        elif how == "grant":
            if request.flow is not None and request.target.name == "upload":
                self.core.grant(request, 3)
        else:
            self.started.pop(index)
            if how == "fail":
                self.core.fail(request, errors.REMOTE_ERROR, {"message": "no"})
            else:
                self.core.finish(request, [b"\xc0"])
                if how == "twice":
                    self.core.finish(request, [b"\xc0"])
        self.settle()

    @rule(step=st.sampled_from([0.01, 0.25, 1.0, 6.0]))
    def wait(self, step: float) -> None:
        self.now += step
        self.settle()

    @rule()
    def wait_for_timer(self) -> None:
        at = self.core.next_deadline()
        if at < self.now + 100:
            self.now = max(self.now, at)
            self.settle()

    @rule(capacity=st.integers(0, 2))
    def change_lane(self, capacity: int) -> None:
        self.core.set_lane("writer", capacity, self.now)
        self.settle()

    @rule(chance=st.integers(0, 9))
    def drain(self, chance: int) -> None:
        if chance == 0:
            self.core.drain(self.now)
            self.settle()

    # ---- always

    @invariant()
    def sound(self) -> None:
        self.core.check()
        for name, capacity in CAPACITY_OF.items():
            assert self.lane_in_hand(name) <= capacity
        limited = self.core.entries[b"limited"]
        assert limited.running <= 1

    def teardown(self) -> None:
        """Everything comes to an end, with nothing left over."""
        self.core.drain(self.now)
        for _ in range(200):
            self.settle()
            while self.queued:
                self.begin_first()
            while self.started:
                self.core.finish(self.started.pop(), [b"\xc0"])
            if self.core.done:
                break
            self.now = max(self.now, min(self.core.next_deadline(), self.now + 1.0))
        self.settle()
        assert self.core.done, "the drain does not end"
        assert not self.open, f"never answered: {self.open}"
        assert self.core.in_hand == 0
        self.core.check()

    def begin_first(self) -> None:
        request = self.queued.pop(0)
        code = request.refusal(self.now)
        if code:
            self.core.fail(request, code, {"message": "late"}, started=False)
        else:
            self.started.append(request)


TestSession = SessionMachine.TestCase
