"""A router on a clock of its own: messages in, messages out, invariants checked at each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from broker.router import Router
from broker.state import RouterSettings
from mesh.protocol import payload
from mesh.protocol.mdp import NATIVE
from mesh.protocol.messages import (
    CANCEL,
    CAPACITY,
    ERROR,
    FINAL,
    HEARTBEAT,
    HELLO,
    IDEMPOTENT,
    NAMES,
    NORMAL,
    PARTIAL,
    RAW,
    READY,
    REQUEST,
    WELCOME,
    Message,
)

Out = list[tuple[bytes, Message]]
STARTED_AT = 1000.0
INCARNATION = 77


class Mesh:
    """One router, and the words of its peers. Each verb returns what the router then sends."""

    def __init__(self, **settings: Any) -> None:
        self.now = STARTED_AT
        self.router = Router(RouterSettings(**settings), "broker-1")
        self.router.tick(self.now)
        self.beating: set[bytes] = set()

    def out(self) -> Out:
        self.router.check()
        return self.router.take()

    def say(self, peer: bytes, message: Message) -> Out:
        self.router.receive(peer, message, self.now)
        return self.out()

    def lost(self, peer: bytes) -> Out:
        self.router.lost(peer, self.now)
        return self.out()

    def undelivered(self, peer: bytes, message: Message) -> Out:
        self.router.undelivered(peer, message, self.now)
        return self.out()

    def wait(self, seconds: float) -> Out:
        """Let time pass, tick by tick; workers in `beating` stay in touch. Without heartbeats."""
        out: Out = []
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, max(self.router.next_deadline(), self.now + 1e-6))
            for peer in self.beating & self.router.workers.keys():
                self.router.receive(peer, Message(HEARTBEAT), self.now)
            self.router.tick(self.now)
            out += self.out()
        return [item for item in out if item[1].command != HEARTBEAT]

    # ---------------------------------------------------------------- clients

    def hello(self, peer: bytes, **fields: Any) -> Out:
        return self.say(peer, Message(HELLO, frames=[payload.encode(fields)]))

    def ask(self, peer: bytes, sequence: int, method: bytes = b"m", **fields: Any) -> Out:
        return self.say(peer, request(sequence, method, **fields))

    def cancel(self, peer: bytes, sequence: int) -> Out:
        return self.say(peer, Message(CANCEL, incarnation=INCARNATION, sequence=sequence))

    def ask_mdp(self, peer: bytes, dialect: int, service: bytes = b"echo", *body: bytes) -> Out:
        """What the codec makes of a REQUEST of an MDP client."""
        return self.say(
            peer,
            Message(
                REQUEST, IDEMPOTENT | RAW, NORMAL, code=dialect, service=service, frames=list(body)
            ),
        )

    # ---------------------------------------------------------------- workers

    def join(self, peer: bytes, service: bytes = b"echo", window: int = 1, **fields: Any) -> Out:
        """READY with one default lane, unless `lanes` are given. Without the WELCOME."""
        out = self.ready(peer, service, {"lanes": {"": window}, **fields})
        return [item for item in out if item[1].command != WELCOME]

    def ready(
        self, peer: bytes, service: bytes, fields: Mapping[str, Any], dialect: int = NATIVE
    ) -> Out:
        frames = [payload.encode(dict(fields))]
        return self.say(peer, Message(READY, service=service, code=dialect, frames=frames))

    def join_mdp(self, peer: bytes, dialect: int, service: bytes = b"echo") -> Out:
        return self.ready(peer, service, {"lanes": {"": 1}}, dialect)

    def final(self, peer: bytes, tag: int, body: bytes = b"done") -> Out:
        return self.say(peer, Message(FINAL, tag=tag, frames=[body]))

    def partial(self, peer: bytes, tag: int, items: int = 1, body: bytes = b"part") -> Out:
        return self.say(peer, Message(PARTIAL, tag=tag, credit=items, frames=[body]))

    def error(self, peer: bytes, tag: int, code: int, flags: int = 0) -> Out:
        return self.say(peer, Message(ERROR, flags, code=code, tag=tag, frames=[b"\x80"]))

    def capacity(self, peer: bytes, lane: bytes, window: int, epoch: int = 0) -> Out:
        return self.say(peer, Message(CAPACITY, method=lane, credit=window, sequence=epoch))

    # ---------------------------------------------------------------- facts

    def counted(self, reason: str) -> int:
        return self.router.counters.get(reason, 0)

    def assert_idle(self) -> None:
        """Nothing is open, so nothing may be kept."""
        router = self.router
        router.check()
        assert router.accepted == router.finished
        assert router.held_bytes == 0
        assert len(router.wheel) == 0
        assert all(not client.calls for client in router.clients.values())
        assert all(service.queued == 0 for service in router.services.values())


def request(sequence: int, method: bytes = b"m", **fields: Any) -> Message:
    values: dict[str, Any] = {
        "priority": NORMAL,
        "incarnation": INCARNATION,
        "service": b"echo",
        "frames": [b"body"],
        **fields,
    }
    return Message(REQUEST, sequence=sequence, method=method, **values)


def brief(out: Out) -> list[tuple[bytes, str]]:
    """Who got what kind of message."""
    return [(peer, NAMES[message.command]) for peer, message in out]


def only(out: Out, peer: bytes, command: int) -> Message:
    """The one message in `out`, which must be this."""
    assert brief(out) == [(peer, NAMES[command])]
    return out[0][1]


def failure(out: Out, peer: bytes) -> tuple[int, int]:
    """Code and flags of the ERROR that is all of `out`."""
    message = only(out, peer, ERROR)
    assert payload.decode_map(message.body)["message"]
    return message.code, message.flags


def requests(out: Out) -> list[tuple[bytes, int]]:
    """Which worker got which sequence."""
    return [(peer, message.sequence) for peer, message in out if message.command == REQUEST]


def tags(out: Out) -> dict[int, int]:
    """The tag of each dispatched sequence."""
    return {m.sequence: m.tag for _, m in out if m.command == REQUEST}


def bodies(out: Iterable[tuple[bytes, Message]]) -> list[list[bytes]]:
    return [[bytes(frame) for frame in message.frames] for _, message in out]
