"""The client core against brokers that do anything: each call ends exactly once, and safely."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from mesh import errors
from mesh.client.calls import ENDED, SENT, Call
from mesh.client.core import ClientCore, ClientSettings
from mesh.errors import CallError
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
    PARTIAL,
    REQUEST,
    STARTED,
    STREAM,
    WELCOME,
    Message,
)

ENDPOINTS = ["tcp://a:1", "tcp://b:1"]
INCARNATION = 7
RETRIED = (
    errors.DRAINING,
    errors.NOT_STARTED,
    errors.SERVICE_NOT_FOUND,
    errors.OVERLOADED,
    errors.WORKER_LOST,
)
PICK = st.integers(0, 30)
BODY = payload.encode([[1]])


@dataclass
class Seen:
    """What the brokers saw of one call."""

    call: Call
    idempotent: bool | None
    expires_at: float
    where: int = 0
    unsure: bool = False
    touched: bool = False
    granted: int = 0
    sent_items: int = 0
    ends: int = 0
    tries: list[int] = field(default_factory=list)


class ClientMachine(RuleBasedStateMachine):
    """Rules are what users, brokers and networks do. `now` is virtual."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.core = ClientCore(
            ENDPOINTS,
            ClientSettings(max_calls=30),
            incarnation=INCARNATION,
            rng=random.Random(1),
            now=self.now,
        )
        self.seen: dict[int, Seen] = {}
        self.opened: set[int] = set()
        self.up: set[int] = set()
        self.leaving: set[int] = set()
        self.numbers: set[int] = set()
        self.learned: set[bytes] = set()
        self.settle()
        for link in self.opened:
            self.up.add(link)
            self.core.connected(link, self.now)
        self.settle()

    # ---------------------------------------------------------------- the shell

    def settle(self) -> None:
        """Take everything out of the core and judge it."""
        self.broken = True  # unless the end is reached: what follows would say nothing
        out, actions = self.core.take(), self.core.take_links()
        closed = {link for link, endpoint in actions if endpoint is None}
        for seen in self.seen.values():
            if seen.where in closed:
                seen.unsure, seen.where = True, 0
        for link, message in out:
            assert link in self.up, f"{message} on a link that is not up"
            self.sent(link, message)
        for link, endpoint in actions:
            if endpoint is None:
                self.opened.discard(link)
                self.up.discard(link)
            else:
                assert link not in self.numbers, "a link's number came back"
                self.numbers.add(link)
                self.opened.add(link)
        for call in self.core.take_news():
            if call.state == ENDED:
                seen = self.seen[call.sequence]
                seen.ends += 1
                assert seen.ends == 1, "a call ended twice"
                assert (call.error is None) != (call.reply is None)
                assert call.sequence not in self.core.calls
        self.broken = False

    def sent(self, link: int, message: Message) -> None:
        if message.command in (HELLO, HEARTBEAT, DRAIN, GOODBYE):
            return
        assert message.incarnation == INCARNATION
        seen = self.seen[message.sequence]
        if message.command == REQUEST:
            assert link not in self.leaving, "a request went to a broker that leaves"
            assert seen.expires_at > self.now, "sent after its deadline"
            assert 0.0 < message.timeout <= seen.expires_at - self.now + 1e-6
            assert not seen.touched, "a stream that had begun was handed over again"
            assert not seen.unsure or self.repeatable(seen), "made again although it may have run"
            seen.where = link
            seen.tries.append(link)
            seen.granted = seen.sent_items = 0
        elif message.command == CHUNK:
            seen.sent_items += message.credit
            seen.touched = True
            assert seen.sent_items <= seen.granted, "more items than were granted"
        else:
            assert message.command in (CANCEL, CREDIT, END)
            assert seen.tries, f"{message} of a call that was never handed over"
            assert seen.tries[-1] == link
            seen.touched |= message.command == END

    def repeatable(self, seen: Seen) -> bool:
        learned = seen.idempotent is None and seen.call.target.name in self.learned
        return bool(seen.idempotent or learned)

    def receive(self, seen: Seen, message: Message) -> None:
        message.incarnation = INCARNATION
        message.sequence = seen.call.sequence
        if message.flags & IDEMPOTENT:
            self.learned.add(seen.call.target.name)
        self.core.receive(seen.tries[-1], message, self.now)
        self.settle()

    def open(self) -> list[Seen]:
        """The calls that have not ended."""
        return [seen for seen in self.seen.values() if not seen.ends]

    def held(self) -> list[Seen]:
        """The calls that a broker has."""
        return [seen for seen in self.open() if seen.where]

    # ---------------------------------------------------------------- the user

    @rule(
        idempotent=st.sampled_from([True, False, None]),
        flags=st.sampled_from([0, 0, STREAM, MORE, STREAM | MORE]),
        timeout=st.sampled_from([0.05, 1.0, 30.0]),
        retries=st.integers(0, 3),
        service=st.sampled_from([b"s", b"t"]),
    )
    def call(
        self, idempotent: bool | None, flags: int, timeout: float, retries: int, service: bytes
    ) -> None:
        try:
            call = self.core.call(
                service,
                b"m",
                [BODY],
                now=self.now,
                expires_at=self.now + timeout,
                flags=flags,
                retries=retries,
                idempotent=idempotent,
            )
        except CallError as error:
            assert error.retryable
            self.settle()
            return
        self.seen[call.sequence] = Seen(call, idempotent, self.now + timeout)
        self.settle()

    @precondition(lambda self: self.open())
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        seen = self.open()[pick % len(self.open())]
        self.core.cancel(seen.call, self.now)
        self.settle()
        assert seen.ends == 1

    @precondition(lambda self: self.open())
    @rule(pick=PICK, items=st.integers(1, 200))
    def write(self, pick: int, items: int) -> None:
        seen = self.open()[pick % len(self.open())]
        writer = seen.call.writer
        if writer is None or seen.call.state != SENT:
            return
        if items > writer.room:
            if not writer.ended:
                try:
                    self.core.chunk(seen.call, items, b"\x01")
                except ValueError:
                    return
                raise AssertionError("it let more pass than was granted")
            return
        self.core.chunk(seen.call, items, b"\x01")
        self.settle()

    @precondition(lambda self: self.open())
    @rule(pick=PICK, code=st.sampled_from([0, errors.REMOTE_ERROR]))
    def end_stream(self, pick: int, code: int) -> None:
        seen = self.open()[pick % len(self.open())]
        self.core.finish(seen.call, code, {"message": "x"})
        self.settle()

    @precondition(lambda self: self.open())
    @rule(pick=PICK)
    def read(self, pick: int) -> None:
        seen = self.open()[pick % len(self.open())]
        reader = seen.call.reader
        if reader is None or not reader.inbox:
            return
        message = reader.inbox.popleft()
        before = reader.unread
        self.core.taken(seen.call, message.credit)
        assert reader.unread >= before - message.credit
        self.settle()

    # ---------------------------------------------------------------- brokers and the network

    @precondition(lambda self: self.opened - self.up)
    @rule(welcome=st.booleans(), pick=st.randoms(use_true_random=False))
    def connected(self, welcome: bool, pick: random.Random) -> None:
        link = pick.choice(sorted(self.opened - self.up))
        self.up.add(link)
        self.core.connected(link, self.now)
        if welcome:
            body = payload.encode({"heartbeat": 0.5})
            self.core.receive(link, Message(WELCOME, frames=[body]), self.now)
        self.settle()

    @precondition(lambda self: self.opened)
    @rule(pick=st.randoms(use_true_random=False))
    def lost(self, pick: random.Random) -> None:
        link = pick.choice(sorted(self.opened))
        self.core.lost(link, self.now)
        self.settle()

    @precondition(lambda self: self.up)
    @rule(pick=st.randoms(use_true_random=False), goodbye=st.booleans())
    def leave(self, pick: random.Random, goodbye: bool) -> None:
        link = pick.choice(sorted(self.up))
        if not goodbye:
            self.leaving.add(link)
        self.core.receive(link, Message(GOODBYE if goodbye else DRAIN), self.now)
        self.settle()

    @precondition(lambda self: self.held())
    @rule(pick=PICK)
    def undelivered(self, pick: int) -> None:
        seen = self.held()[pick % len(self.held())]
        if seen.touched or seen.granted:
            return
        seen.where = 0
        message = Message(REQUEST, sequence=seen.call.sequence)
        self.core.undelivered(seen.tries[-1], message, self.now)
        self.settle()
        assert seen.ends == 0

    @precondition(lambda self: self.held())
    @rule(pick=PICK, learn=st.booleans())
    def final(self, pick: int, learn: bool) -> None:
        seen = self.held()[pick % len(self.held())]
        self.receive(seen, Message(FINAL, IDEMPOTENT if learn else 0, frames=[b"\xc0"]))
        assert seen.ends == 1 and seen.call.error is None

    @precondition(lambda self: self.held())
    @rule(
        pick=PICK,
        code=st.sampled_from(RETRIED) | st.integers(1, 14),
        started=st.booleans(),
        retry_after=st.sampled_from([None, 0.1, 100.0]),
    )
    def error(self, pick: int, code: int, started: bool, retry_after: float | None) -> None:
        seen = self.held()[pick % len(self.held())]
        if code == errors.DRAINING:
            self.leaving.add(seen.tries[-1])
        if started and code not in (errors.DRAINING, errors.NOT_STARTED):
            seen.unsure = True
        seen.where = 0
        fields = {"message": "x", "retry_after": retry_after}
        flags = STARTED if started else 0
        self.receive(seen, Message(ERROR, flags, code=code, frames=[payload.encode(fields)]))
        if code not in RETRIED:
            assert seen.ends == 1

    @precondition(lambda self: self.held())
    @rule(pick=PICK, items=st.integers(1, 100))
    def partial(self, pick: int, items: int) -> None:
        seen = self.held()[pick % len(self.held())]
        reader = seen.call.reader
        room = reader.unseen if reader is not None else 0
        seen.touched = True
        self.receive(seen, Message(PARTIAL, credit=items, frames=[b"\x01"]))
        if reader is not None and items > room:
            assert seen.ends == 1, "a stream that exceeds its credit goes on"

    @precondition(lambda self: self.held())
    @rule(pick=PICK, items=st.integers(1, 300))
    def credit(self, pick: int, items: int) -> None:
        seen = self.held()[pick % len(self.held())]
        if seen.call.writer is not None:
            seen.granted += items
        self.receive(seen, Message(CREDIT, credit=items))

    @precondition(lambda self: self.up)
    @rule(
        command=st.integers(1, 15),
        sequence=st.integers(1, 40),
        incarnation=st.sampled_from([INCARNATION, 8]),
        body=st.sampled_from([b"", b"\xc1", b"\x80"]),
        pick=st.randoms(use_true_random=False),
    )
    def nonsense(
        self, command: int, sequence: int, incarnation: int, body: bytes, pick: random.Random
    ) -> None:
        link = pick.choice(sorted(self.up))
        call = self.core.calls.get(sequence)
        if command in (DRAIN, GOODBYE):
            return
        if call is not None and call.link == link and incarnation == INCARNATION:
            return
        message = Message(command, incarnation=incarnation, sequence=sequence, frames=[body])
        self.core.receive(link, message, self.now)
        self.settle()

    # ---------------------------------------------------------------- time

    @rule(step=st.sampled_from([0.001, 0.05, 0.6, 5.0]))
    def wait(self, step: float) -> None:
        self.now += step
        self.tick()

    @rule(step=st.sampled_from([0.05, 1.0]))
    def stall(self, step: float) -> None:
        """Time passes, and the shell is too busy to notice."""
        self.now += step

    @rule()
    def wait_until_due(self) -> None:
        at = self.core.next_deadline()
        if at < self.now + 1000.0:
            self.now = max(self.now, at)
        self.tick()

    def tick(self) -> None:
        self.core.tick(self.now)
        self.settle()
        assert self.core.next_deadline() > self.now, "tick left something undone"

    # ---------------------------------------------------------------- always

    @invariant()
    def sound(self) -> None:
        self.core.check()
        for seen in self.seen.values():
            assert (seen.ends == 1) == (seen.call.state == ENDED)

    @precondition(lambda self: self.open())
    @rule(pick=PICK)
    def deadline_ends_all(self, pick: int) -> None:
        seen = self.open()[pick % len(self.open())]
        self.now = max(self.now, seen.expires_at + 0.02)
        self.tick()
        assert seen.ends == 1

    def teardown(self) -> None:
        if self.broken:
            return
        self.now += 1000.0
        self.tick()
        self.core.check()
        assert not self.core.calls and self.core.bytes == 0
        assert all(seen.ends == 1 for seen in self.seen.values())
        self.core.close(self.now)
        self.settle()
        assert self.core.next_deadline() == float("inf")


TestClientCore = ClientMachine.TestCase
