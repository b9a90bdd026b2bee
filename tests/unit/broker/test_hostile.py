"""Whatever peers send, the router neither raises nor loses its books, and what it answers can be
sent."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.state import CALL_OVERHEAD
from mesh.errors import ProtocolError
from mesh.protocol import native, payload
from mesh.protocol.mdp import CLIENT, FORMS, MDP01, MDP02, WORKER
from mesh.protocol.messages import END, RAW, STREAM, Message
from tests.unit.broker.driver import INCARNATION, Mesh

PEERS = (b"a", b"b", b"c", b"d")
COMMANDS = st.integers(1, END)
OCTET = st.integers(0, 255)
U32 = st.one_of(st.integers(0, 3), st.sampled_from([2**31 - 1, 2**31, 2**32 - 1]))
U64 = st.one_of(st.integers(0, 12), st.sampled_from([2**63, 2**64 - 1]))
SERVICES = st.sampled_from(
    [b"", b"echo", b"echo.m", b"a.", b".a", b"mmi", b"mmi.service", b"mesh.broker", b"\xff", b"."]
)
METHODS = st.sampled_from([b"", b"m", b"status", b"service", b"writer", b"\xff\xfe"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.just(2**5000)
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
KNOWN = {
    "lanes": st.dictionaries(st.sampled_from(["", "writer", "x" * 300]), VALUES | st.just(1)),
    "methods": st.dictionaries(
        st.sampled_from(["m", "status"]),
        VALUES | st.fixed_dictionaries({}, optional={"lane": VALUES, "idempotent": VALUES}),
    ),
    "heartbeat": VALUES,
    "name": VALUES,
    "pid": VALUES,
    "instance": VALUES,
}
MAPS = st.fixed_dictionaries({}, optional=KNOWN)
GOOD = st.sampled_from(
    [{"lanes": {"": 1}}, {"lanes": {"": 3, "writer": 2**40}, "methods": {"m": {"lane": "writer"}}}]
)
BODIES = st.one_of(
    st.binary(max_size=6),
    GOOD.map(payload.encode),
    MAPS.map(payload.encode),
    VALUES.map(payload.encode),
)
MESSAGES = st.builds(
    Message,
    COMMANDS,
    OCTET,
    st.integers(0, 3),
    OCTET,
    U64,
    st.sampled_from([0.0, 1e-6, 0.5, 4294.967295]),
    U32,
    U64,
    U64,
    SERVICES,
    METHODS,
    st.lists(BODIES, max_size=3),
).filter(lambda message: len(message.frames) < 3 or message.flags & RAW)  # no others are read
HEADERS = st.builds(
    lambda *fields: fields, COMMANDS, OCTET, st.integers(0, 4), OCTET, U64, U32, U32, U64, U64
)
STEPS = st.one_of(
    st.tuples(st.just("say"), st.sampled_from(PEERS), MESSAGES),
    st.tuples(
        st.just("raw"), st.sampled_from(PEERS), st.tuples(HEADERS, SERVICES, METHODS, BODIES)
    ),
    st.tuples(st.just("join"), st.sampled_from(PEERS), GOOD),
    st.tuples(st.just("ask"), st.sampled_from(PEERS), st.integers(0, 255)),
    st.tuples(st.just("lost"), st.sampled_from(PEERS), st.none()),
    st.tuples(st.just("wait"), st.none(), st.sampled_from([0.02, 0.6, 6.0])),
    st.tuples(st.just("drain"), st.none(), st.none()),
)


class Hostile(Mesh):
    """A mesh in which everything that is sent must have a form on the wire."""

    def out(self) -> list[tuple[bytes, Message]]:
        out = super().out()
        for peer, message in out:
            assert type(peer) is bytes
            frames = native.encode(message)
            if message.method and not message.service:
                continue  # a peer that sends odd names gets no better ones
            assert native.decode(frames).command == message.command
            for dialect in (MDP01, MDP02):
                FORMS[dialect, CLIENT].encode(message)
                if FORMS[dialect, WORKER].encode(message) is None:
                    self.router.inexpressible(peer, message)
        return out


def take(mesh: Hostile, what: str, peer: Any, value: Any) -> None:
    sent: list[tuple[bytes, Message]] = []
    if what == "say":
        sent = mesh.say(peer, value)
    elif what == "raw":
        (command, flags, priority, code, tag, timeout, credit, one, two), service, method, body = (
            value
        )
        header = struct.pack(
            "!BBBBBBBBQIIQQ",
            0xE5,
            1,
            command,
            flags,
            priority,
            code,
            len(service),
            len(method),
            tag,
            timeout,
            credit,
            one,
            two,
        )
        try:
            message = native.decode([header + service + method, body])
        except ProtocolError:
            return
        sent = mesh.say(peer, message)
    elif what == "join":
        sent = mesh.ready(peer, b"echo", value)
    elif what == "ask":
        sent = mesh.ask(peer, len(mesh.router.counters) + mesh.router.accepted + 1, flags=value)
    elif what == "lost":
        sent = mesh.lost(peer)
    elif what == "drain":
        mesh.router.drain(mesh.now)
        sent = mesh.out()
    else:
        mesh.wait(value)
    for item in sent[::3]:
        mesh.undelivered(*item)


@settings(max_examples=200)
@given(st.lists(STEPS, max_size=40))
def test_nothing_that_peers_send_raises(steps: list[tuple[str, Any, Any]]) -> None:
    mesh = Hostile(
        max_queue=3,
        max_services=3,
        max_held_bytes=300 + 8 * CALL_OVERHEAD,
        max_body=100,
        eject_errors=2,
        eject_ttl=0.5,
    )
    for step in steps:
        take(mesh, *step)
    for peer in PEERS:
        mesh.lost(peer)
    mesh.wait(1.0)
    mesh.assert_idle()
    assert not mesh.router.workers and not mesh.router.clients
    assert not mesh.router.services and not mesh.router.expelled


@given(st.lists(st.tuples(COMMANDS, U64, U32), max_size=30))
def test_whatever_a_worker_says_of_what_it_has(words: list[tuple[int, int, int]]) -> None:
    """The same with an honest beginning: two workers, and calls in their hands."""
    mesh = Hostile()
    for peer in (b"w1", b"w2"):
        mesh.join(peer, window=3)
    for sequence in range(1, 9):
        mesh.ask(b"c1", sequence, flags=sequence | STREAM, credit=2)
    for command, tag, credit in words:
        mesh.say(b"w1", Message(command, tag=tag, credit=credit, code=credit % 16))
    assert mesh.router.workers.keys() <= {b"w1", b"w2"}
    mesh.lost(b"w1")
    mesh.lost(b"w2")
    mesh.lost(b"c1")
    mesh.assert_idle()


@given(st.lists(st.tuples(COMMANDS, st.integers(0, 9), U32), max_size=30))
def test_whatever_a_client_says_of_its_calls(words: list[tuple[int, int, int]]) -> None:
    mesh = Hostile()
    mesh.join(b"w1", window=2)
    for sequence in range(1, 5):
        mesh.ask(b"c1", sequence, flags=0x0C, credit=2)
        mesh.ask(b"honest", sequence)
    for command, sequence, credit in words:
        mesh.say(b"c1", Message(command, sequence=sequence, credit=credit, incarnation=INCARNATION))
    assert b"w1" in mesh.router.workers
    assert len(mesh.router.clients[b"honest"].calls) == 4
    assert mesh.counted("expelled:stream_credit") == 0
