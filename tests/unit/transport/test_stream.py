"""Messages over connections of our own: `_stream` on socket pairs."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.protocol import native
from mesh.protocol.messages import FINAL, RAW, REQUEST, Body, Message

_stream = pytest.importorskip(
    "mesh.transport._stream", reason="nothing compiled is in use", exc_type=ImportError
)

MAX_FRAME = 1_000_000


class Pair:
    """A stream, and the other end of its connection as a plain socket."""

    def __init__(self, **options: int) -> None:
        ours, self.other = socket.socketpair()
        ours.setblocking(False)
        self.other.setblocking(False)
        self.ours = ours
        self.epoll = select.epoll()
        self.epoll.register(ours, select.EPOLLIN)
        self.stream = _stream.Stream(**{"max_frame": MAX_FRAME, **options})

    def attach(self, received: bytes = b"") -> _stream.Stream:
        self.stream.attach(self.ours.fileno(), self.epoll.fileno(), received)
        return self.stream

    def close(self) -> None:
        self.stream.detach()
        for part in (self.ours, self.other, self.epoll):
            part.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def frames_of(body: bytes, more: bool = False, flags: int = 0) -> bytes:
    """One ZMTP frame."""
    flags |= more
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + len(body).to_bytes(8, "big") + body


def octets_of(frames: list[bytes]) -> bytes:
    return b"".join(
        frames_of(frame, number < len(frames) - 1) for number, frame in enumerate(frames)
    )


def plain(found: list[tuple[bytes, Message | list[Body]]]) -> list[list[bytes]]:
    """What was read, as frames again."""
    return [
        [bytes(memoryview(f)) for f in (native.encode(m) if isinstance(m, Message) else m)]
        for _, m in found
    ]


def request(*bodies: bytes, flags: int = 0) -> Message:
    return Message(
        REQUEST,
        flags=flags,
        service=b"echo",
        method=b"m",
        incarnation=7,
        sequence=9,
        timeout=1.0,
        frames=list(bodies),
    )


def read_all(stream: _stream.Stream, limit: int = 1000) -> list[list[bytes]]:
    found = []
    while True:
        part = stream.read(limit)
        found += part
        if stream.drained:
            return plain(found)


small = st.one_of(st.sampled_from([0, 1, 255, 256]), st.integers(0, 700)).map(bytes)
large = st.sampled_from([65_535, 65_536, 65_537, 200_000]).map(bytes)
foreign = st.lists(small, min_size=1, max_size=5)
natives = st.lists(st.one_of(small, small, large), max_size=2).map(
    lambda bodies: native.encode(request(*bodies))
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(foreign, natives), max_size=8),
    st.lists(st.integers(1, 5000), min_size=1, max_size=30),
    st.integers(1, 5),
    st.integers(0, 100),
)
def test_what_comes_in_any_pieces_is_read_as_it_was_sent(
    messages: list[list[bytes]], pieces: list[int], limit: int, early: int
) -> None:
    octets = b"".join(map(octets_of, messages))
    pair = Pair()
    try:
        stream = pair.attach(octets[:early])
        at, found, turn = early, [], 0
        while at < len(octets) or not stream.drained:
            size = pieces[turn % len(pieces)] if turn < 200 else 1 << 20
            turn += 1
            with contextlib.suppress(BlockingIOError):
                at += pair.other.send(octets[at : at + size])
            part = stream.read(limit)
            assert len(part) <= limit
            found += part
        assert plain(found) == messages
        assert not stream.ended
    finally:
        pair.close()


@settings(max_examples=100, deadline=None)
@given(st.lists(natives, min_size=1, max_size=10))
def test_what_is_written_arrives_at_another_stream(messages: list[list[bytes]]) -> None:
    pair, second = Pair(), Pair()
    second.ours.close()
    second.ours = pair.other
    second.epoll.register(pair.other, select.EPOLLIN)
    try:
        writer, reader = pair.attach(), second.attach()
        assert writer.write([(0, native.decode(frames)) for frames in messages]) == []
        found: list[list[bytes]] = []
        while len(found) < len(messages):
            writer.flush()
            found += read_all(reader)
        assert found == messages
    finally:
        pair.close()
        second.close()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 60), st.integers(0, 255))
def test_any_octets_end_in_messages_a_reason_or_waiting(
    data: bytes, where: int, octet: int
) -> None:
    good = bytearray(octets_of(native.encode(request(b"body"))))
    good[min(where, len(good) - 1)] = octet
    pair = Pair()
    try:
        stream = pair.attach()
        pair.other.send(bytes(good) + data)
        read_all(stream)
        assert stream.ended in ("", _stream.NO_ZMTP, _stream.ENDLESS)
        pair.other.close()
        read_all(stream)
        assert stream.ended
    finally:
        pair.close()


def test_a_message_with_the_wrong_number_of_bodies_comes_as_its_frames(pair: Pair) -> None:
    stream = pair.attach()
    head = native.encode(request())[0]
    pair.other.send(octets_of([head, b"a", b"b", b"c"]))
    ((peer, frames),) = stream.read(10)
    assert peer == b"" and frames == [head, b"a", b"b", b"c"]
    raw = native.encode(request(flags=RAW))[0]
    pair.other.send(octets_of([raw, b"a", b"b", b"c"]))
    ((_, message),) = stream.read(10)
    assert isinstance(message, Message) and list(message.frames) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_commands_may_come_between_frames(pair: Pair, at: int) -> None:
    stream = pair.attach()
    parts = [frames_of(frame, more) for frame, more in ((b"x", True), (b"y", False))]
    parts.insert(at, frames_of(b"\x04PING\x00\x01context", flags=4))
    pair.other.send(b"".join(parts))
    assert read_all(stream) == [[b"x", b"y"]]
    assert pair.other.recv(100) == frames_of(b"\x04PONGcontext", flags=4)


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"\x08\x01x", "does not speak ZMTP"),
        (b"\x02" + (MAX_FRAME + 1).to_bytes(8, "big"), "does not speak ZMTP"),
        (frames_of(bytes(900_000), True) * 3, "without end"),
    ],
)
def test_what_ends_a_stream(pair: Pair, octets: bytes, reason: str) -> None:
    stream = pair.attach()
    sent = 0
    while not stream.ended:
        if sent < len(octets):
            sent += pair.other.send(octets[sent : sent + 60_000])
        assert read_all(stream) == []
    assert reason in stream.ended


def test_a_message_of_too_many_frames_is_dropped(pair: Pair) -> None:
    stream = pair.attach()
    octets = octets_of([b""] * 3000) + octets_of([b"next"])
    pair.other.send(octets)
    assert read_all(stream) == [[b"next"]]
    assert stream.dropped_oversize == 1


def test_the_end_comes_after_all_that_was_sent(pair: Pair) -> None:
    stream = pair.attach()
    pair.other.send(octets_of(native.encode(request(b"last"))))
    pair.other.close()
    (entry,) = stream.read(1)
    assert entry[1].body == b"last" and not stream.ended
    assert stream.read(1) == [] and stream.drained and stream.ended == _stream.ENDED


def test_a_reader_that_is_slow_gets_everything_in_order(pair: Pair) -> None:
    stream = pair.attach()
    many = [(0, Message(FINAL, tag=n, frames=[bytes(50_000)])) for n in range(100)]
    assert stream.write(many) == []
    assert stream.unsent > 0 and not stream.flush()
    assert [event for _, event in pair.epoll.poll(0)] == []
    reader = Pair()
    reader.epoll.register(pair.other, select.EPOLLIN)
    heard = _stream.Stream(max_frame=MAX_FRAME)
    heard.attach(pair.other.fileno(), reader.epoll.fileno(), b"")
    found = heard.read(1000)
    assert select.EPOLLOUT in [event & select.EPOLLOUT for _, event in pair.epoll.poll(1)]
    while len(found) < 100:
        stream.read(10)  # which sends what waits, too
        found += heard.read(1000)
    assert [message.tag for _, message in found] == list(range(100))
    assert stream.unsent == 0 and pair.epoll.poll(0) == []
    heard.detach()
    reader.close()


def test_writing_is_refused_above_the_limit() -> None:
    pair = Pair(limit=100_000)
    stream = pair.attach()
    body = bytes(60_000)
    refused = stream.write([(0, Message(FINAL, tag=n, frames=[body])) for n in range(50)])
    assert refused and {error for _, error in refused} == {errno.EAGAIN}
    assert [index for index, _ in refused] == list(range(50 - len(refused), 50))
    pair.close()


def test_pongs_for_a_peer_that_does_not_read_are_bounded() -> None:
    pair = Pair(limit=10_000)
    stream = pair.attach()
    ping = frames_of(b"\x04PING\x00\x01" + bytes(16), flags=4) * 1000
    for _ in range(100):
        with contextlib.suppress(BlockingIOError):
            pair.other.send(ping)
        stream.read(10)
    assert stream.unsent < 50_000
    pair.close()


def test_messages_wait_until_the_connection_stands(pair: Pair) -> None:
    assert pair.stream.write([(0, request(b"early"))]) == []
    assert pair.stream.read(10) == [] and pair.stream.unsent
    pair.attach()
    assert pair.stream.unsent == 0
    assert pair.other.recv(1000) == octets_of(native.encode(request(b"early")))


def test_a_header_that_cannot_be_written_costs_only_itself(pair: Pair) -> None:
    stream = pair.attach()
    with pytest.raises(ValueError, match="does not fit"):
        stream.write([(0, request(b"one")), (0, Message(FINAL, credit=1 << 40))])
    assert stream.write([(0, request(b"two"))]) == []
    octets = octets_of(native.encode(request(b"one"))) + octets_of(native.encode(request(b"two")))
    assert pair.other.recv(1000) == octets


def test_too_much_after_the_handshake_is_an_error(pair: Pair) -> None:
    with pytest.raises(ValueError, match="too much"):
        pair.attach(bytes(70_000))


# -------------------------------------------------------------------- many connections


class Hall:
    """A hub, and the other ends of its connections."""

    def __init__(self, limit: int = 16 << 20) -> None:
        self.epoll = select.epoll()
        self.hub = _stream.Hub(self.epoll.fileno(), max_frame=MAX_FRAME, limit=limit)
        self.ours: dict[bytes, socket.socket] = {}
        self.others: dict[bytes, socket.socket] = {}

    def join(self, peer: bytes, received: bytes = b"") -> socket.socket:
        ours, other = socket.socketpair()
        ours.setblocking(False)
        self.epoll.register(ours, select.EPOLLIN)
        self.ours[peer], self.others[peer] = ours, other
        self.hub.add(peer, ours.fileno(), received)
        return other

    def close(self) -> None:
        for stream in list(self.hub.streams.values()):
            self.hub.remove(stream)
        for part in (*self.ours.values(), *self.others.values(), self.epoll):
            part.close()


@pytest.fixture
def hall() -> Iterator[Hall]:
    made = Hall()
    yield made
    made.close()


def test_messages_bear_the_names_of_their_peers(hall: Hall) -> None:
    hall.join(b"a").send(octets_of(native.encode(request(b"1"))))
    hall.join(b"b").send(octets_of([b"", b"MDPC01", b"x"]))
    found = dict(hall.hub.read(10))
    assert found[b"a"].body == b"1" and found[b"b"] == [b"b", b"", b"MDPC01", b"x"]
    assert hall.hub.drained


def test_what_came_with_the_handshake_is_read_without_an_event(hall: Hall) -> None:
    hall.join(b"a", octets_of([b"early"]))
    assert hall.hub.pending
    assert hall.hub.read(10) == [(b"a", [b"a", b"early"])]
    assert not hall.hub.pending


def test_one_peer_does_not_keep_the_others_waiting(hall: Hall) -> None:
    loud, quiet = hall.join(b"loud"), hall.join(b"quiet")
    loud.send(octets_of([b"x"]) * 10_000)
    quiet.send(octets_of([b"y"]))
    found = hall.hub.read(10)
    assert len(found) <= 10 and b"quiet" in dict(found)
    assert hall.hub.pending and not hall.hub.drained
    total = len(found)
    while not hall.hub.drained:
        total += len(hall.hub.read(1000))
    assert total == 10_001


def test_who_leaves_is_named_after_what_they_sent(hall: Hall) -> None:
    hall.join(b"a").send(octets_of([b"1"]) * 5)
    hall.others[b"a"].close()
    found = hall.hub.read(2)
    assert len(found) == 2 and not hall.hub.departed
    while not hall.hub.departed:
        found += hall.hub.read(2)
    assert len(found) == 5
    (gone,) = hall.hub.departed
    assert gone.peer == b"a"
    assert hall.hub.write([(b"a", request())]) == [(0, errno.EHOSTUNREACH)]
    hall.hub.departed.clear()
    assert hall.hub.read(10) == [] and not hall.hub.departed


def test_a_descriptor_may_be_used_again_at_once(hall: Hall) -> None:
    hall.join(b"a").close()
    hall.hub.read(10)
    (gone,) = hall.hub.departed
    hall.hub.remove(gone)
    number = hall.ours.pop(b"a").detach()
    socket.close(number)
    hall.join(b"b").send(octets_of([b"new"]))
    assert hall.ours[b"b"].fileno() == number
    assert hall.hub.read(10) == [(b"b", [b"b", b"new"])]


def test_answers_go_to_whom_they_are_for(hall: Hall) -> None:
    others = [hall.join(b"%d" % n) for n in range(3)]
    entries = [(b"%d" % (n % 4), Message(FINAL, tag=n)) for n in range(12)]
    assert hall.hub.write(entries) == [(n, errno.EHOSTUNREACH) for n in (3, 7, 11)]
    for n, other in enumerate(others):
        expected = [octets_of(native.encode(Message(FINAL, tag=n + k))) for k in (0, 4, 8)]
        assert other.recv(1000) == b"".join(expected)
    assert hall.hub.send([[b"1", b"", b"raw"], [b"9", b"x"]]) == [(1, errno.EHOSTUNREACH)]
    assert others[1].recv(100) == octets_of([b"", b"raw"])


def test_one_that_does_not_read_holds_up_nobody() -> None:
    hall = Hall(limit=100_000)
    hall.join(b"deaf")
    other = hall.join(b"b")
    body = bytes(60_000)
    refused = 0
    for _ in range(50):
        entries = [(b"deaf", Message(FINAL, frames=[body])), (b"b", Message(FINAL, tag=1))]
        failed = hall.hub.write(entries)
        assert all(entry == (0, errno.EAGAIN) for entry in failed)
        refused += len(failed)
        assert other.recv(1000) == octets_of(native.encode(Message(FINAL, tag=1)))
    assert refused > 0
    hall.close()


def test_others_are_told_of(hall: Hall) -> None:
    ours, other = socket.socketpair()
    hall.epoll.register(ours, select.EPOLLIN)
    other.send(b"x")
    assert hall.hub.read(10) == [] and hall.hub.others == [ours.fileno()]
    hall.epoll.unregister(ours)
    ours.close()
    other.close()
