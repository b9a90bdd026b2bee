"""Both pumps against the contract of `mesh.transport.pure.Pump`, over tcp and ipc."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
import zmq

from mesh.errors import ProtocolError
from mesh.protocol import native
from mesh.protocol.messages import CAPACITY, ERROR, FINAL, HEARTBEAT, RAW, REQUEST, Message
from mesh.transport import LARGE, MAX_FRAMES, Bound, Link, Pump, context, pump, pure
from tests.unit.transport.wire import collect, plain, until

Listen = Callable[..., Bound]
Dial = Callable[..., Link]


def test_a_message_goes_there_and_back(address: str, listen: Listen, dial: Dial) -> None:
    router = listen(address)
    dealer = dial(router)
    assert dealer.pump.send([[b"head", b"body"]]) == []
    [message] = collect(router.pump, 1)
    assert message[1:] == [b"head", b"body"]
    assert router.pump.send([message]) == []
    assert collect(dealer.pump, 1) == [[b"head", b"body"]]


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"", b"", b""],
        [b"x", b"", b"y"],
        [b"%d" % n for n in range(100)],
        [b"a" * 33, b"b" * 34, b"c" * 255, b"d" * 256],
        [b"e" * (LARGE - 1), b"f" * LARGE, b"g" * (LARGE + 1)],
        [b"h" * (3 << 20), b"end"],
    ],
    ids=lambda frames: f"{len(frames)}x{len(frames[0])}",
)
def test_frames_of_every_kind_come_through_unchanged(
    address: str, frames: list[bytes], listen: Listen, dial: Dial
) -> None:
    router = listen(address)
    dealer = dial(router)
    assert dealer.pump.send([frames, frames]) == []
    messages = collect(router.pump, 2)
    assert [message[1:] for message in plain(messages)] == [frames, frames]
    for frame in messages[0]:
        assert (type(frame) is bytes) == (len(frame) < LARGE)
    assert router.pump.send(messages) == []
    assert plain(collect(dealer.pump, 2)) == [frames, frames]


def test_order_is_kept_over_many_messages(address: str, listen: Listen, dial: Dial) -> None:
    router = listen(address)
    dealer = dial(router)
    sent = [[b"%d" % n, b"x" * (n % 100)] for n in range(2000)]
    assert dealer.pump.send(sent) == []
    received = collect(router.pump, 2000)
    assert [message[1:] for message in received] == sent
    assert len({bytes(message[0]) for message in received}) == 1


def test_buffers_and_tuples_are_taken_as_they_are(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    big = bytearray(b"k" * (LARGE + 5))
    message = (b"a", bytearray(b"b"), memoryview(b"ccc")[1:], memoryview(b"abcdef")[::2], big)
    assert dealer.pump.send((message,)) == []
    big[:] = b"overwritten"  # once sent, the buffer is the caller's again
    [[_, *frames]] = plain(collect(router.pump, 1))
    assert frames == [b"a", b"b", b"cc", b"ace", b"k" * (LARGE + 5)]


def test_a_large_frame_is_relayed_and_shared_by_three_peers(
    address: str, listen: Listen, dial: Dial
) -> None:
    router = listen(address)
    dealers = [dial(router) for _ in range(3)]
    for dealer in dealers:
        dealer.pump.send([[b"hello"]])
    peers = [message[0] for message in collect(router.pump, 3)]
    body = os.urandom(5 * LARGE)
    dealers[0].pump.send([[b"head", body]])
    [[_, head, large]] = collect(router.pump, 1)
    assert len(large) == len(body)
    assert router.pump.send([[peer, head, large] for peer in peers]) == []
    assert bytes(large) == body  # still ours after it was sent
    assert bytes(memoryview(large)[7:70]) == body[7:70]
    for dealer in dealers:
        assert plain(collect(dealer.pump, 1)) == [[b"head", body]]


def test_large_bytes_outlive_their_sender_and_are_given_back(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    body = os.urandom(LARGE * 4)
    before = sys.getrefcount(body)
    for _ in range(50):
        assert dealer.pump.send([[body]]) == []
        assert bytes(collect(router.pump, 1)[0][1]) == body
    until(lambda: sys.getrefcount(body) == before, lambda: dealer.pump.wait(0.01))
    # Bytes that nobody else holds must live until libzmq has sent them.
    assert dealer.pump.send([[b"%d" % n * LARGE] for n in range(10)]) == []
    for n, [_, frame] in enumerate(collect(router.pump, 10)):
        assert bytes(frame) == b"%d" % n * LARGE


def test_the_pumps_take_each_others_large_frames(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    other = pure.Pump(router.socket, router=True)
    dealer.pump.send([[b"z" * LARGE], [b"z" * LARGE]])
    [first] = collect(router.pump, 1)
    [second] = collect(other, 1)
    assert other.send([first]) == []
    assert router.pump.send([second]) == []
    assert plain(collect(dealer.pump, 2)) == [[b"z" * LARGE]] * 2


@pytest.mark.parametrize("frame", ["text", 7, None, [1, 2]])
def test_a_frame_that_is_no_buffer_leaves_no_half_message(
    frame: object, listen: Listen, dial: Dial
) -> None:
    router = listen()
    dealer = dial(router)
    with pytest.raises(TypeError):
        dealer.pump.send([[b"first"], [b"half", frame]])
    with pytest.raises(ValueError, match="at least one frame"):
        dealer.pump.send([[]])
    assert dealer.pump.send([[b"second"]]) == []
    assert [m[1:] for m in collect(router.pump, 2)] == [[b"first"], [b"second"]]


def test_an_unknown_peer_is_named_and_the_others_are_served(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    dealer.pump.send([[b"hello"]])
    [[peer, _]] = collect(router.pump, 1)
    nobody = b"\0nobody"
    failed = router.pump.send(
        [[peer, b"1"], [nobody, b"x"], [peer, b"2"], [nobody, b"y"], [peer, b"3"]]
    )
    assert failed == [(1, errno.EHOSTUNREACH), (3, errno.EHOSTUNREACH)]
    assert collect(dealer.pump, 3) == [[b"1"], [b"2"], [b"3"]]


def test_a_full_peer_is_named_in_order_and_the_others_are_served(
    listen: Listen, dial: Dial
) -> None:
    router = listen(send_limit=5)
    slow, quick = dial(router, receive_limit=5), dial(router)
    slow.pump.send([[b"slow"]])
    quick.pump.send([[b"quick"]])
    peers = {message[1]: message[0] for message in collect(router.pump, 2)}
    body = b"x" * 60_000
    batch = [[peers[b"slow"], b"%d" % n, body] for n in range(2000)]
    failed = router.pump.send([*batch, [peers[b"quick"], b"served"]])
    assert failed
    first = failed[0][0]
    assert failed == [(n, errno.EAGAIN) for n in range(first, 2000)]
    assert collect(quick.pump, 1) == [[b"served"]]
    assert [m[0] for m in collect(slow.pump, first)] == [b"%d" % n for n in range(first)]


def test_a_dealer_with_nobody_to_send_to_gives_everything_back(pump_class: type[Pump]) -> None:
    with context().socket(zmq.DEALER) as lonely:
        assert pump_class(lonely).send([[b"a"], [b"b", b"c"], [b"d"]]) == [
            (0, errno.EAGAIN),
            (1, errno.EAGAIN),
            (2, errno.EAGAIN),
        ]


def test_a_full_dealer_keeps_order_and_says_when_it_can_send_again(
    listen: Listen, dial: Dial
) -> None:
    router = listen(receive_limit=5)
    dealer = dial(router, send_limit=5)
    unsent = [[b"%d" % n, b"x" * 60_000] for n in range(500)]
    received = []
    refusals = 0
    while unsent:
        failed = dealer.pump.send(unsent)
        first = failed[0][0] if failed else len(unsent)
        assert failed == [(n, errno.EAGAIN) for n in range(first, len(unsent))]
        refusals += bool(failed)
        unsent = unsent[first:]
        received += router.pump.receive(1000)
        if unsent and not first:
            assert router.pump.wait(0.001) or dealer.pump.wait(5, writing=True)
    received += collect(router.pump, 500 - len(received))
    assert refusals
    assert [message[1] for message in received] == [b"%d" % n for n in range(500)]


def test_the_limit_bounds_a_batch(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    dealer.pump.send([[b"%d" % n] for n in range(10)])
    first = collect(router.pump, 1)
    assert router.pump.wait(5)
    assert router.pump.receive(0) == []
    rest: list[list[pump.Body]] = []
    while len(rest) < 9:
        batch = router.pump.receive(4)
        assert len(batch) <= 4
        assert router.pump.drained == (len(batch) < 4)
        rest += batch
    assert [m[1] for m in first + rest] == [b"%d" % n for n in range(10)]
    assert router.pump.receive(4) == []
    assert router.pump.drained


def test_a_message_of_too_many_frames_is_dropped_whole(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    most = [b"%d" % n for n in range(MAX_FRAMES - 1)]  # the routing id is a frame too
    dealer.pump.send([[b"before"], [*most, b"one more"], most, [b"x"] * 5000, [b"after"]])
    messages = [message[1:] for message in collect(router.pump, 3)]
    assert messages == [[b"before"], most, [b"after"]]
    assert router.pump.dropped_oversize == 2


def test_wait_ends_at_its_time_or_with_a_message(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    router.watch.drain()
    started = time.monotonic()
    assert router.pump.wait(0.05) is False
    assert time.monotonic() - started >= 0.049
    assert router.pump.wait(0) is False
    threading.Timer(0.05, dealer.pump.send, ([[b"now"]],)).start()
    assert router.pump.wait(-1) is True
    assert len(collect(router.pump, 1)) == 1


def test_wait_is_ended_by_a_wake_descriptor_and_by_its_watch(
    listen: Listen, dial: Dial, pump_class: type[Pump]
) -> None:
    router = listen()
    read, write = os.pipe()
    try:
        watched = pump_class(router.socket, router=True, wake=(router.watch.socket, read))
        assert watched.wait(0) is False
        threading.Timer(0.02, os.write, (write, b"!")).start()
        assert watched.wait(5) is True
        os.read(read, 1)
        assert watched.wait(0) is False
        dial(router)
        assert watched.wait(5) is True  # a connection is an event of the watch
    finally:
        os.close(read)
        os.close(write)


def test_signal_handlers_run_while_waiting(listen: Listen) -> None:
    router = listen()
    seen: list[float] = []
    previous = signal.signal(signal.SIGALRM, lambda *_: seen.append(time.monotonic()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        started = time.monotonic()
        assert router.pump.wait(0.3) is False
        assert time.monotonic() - started >= 0.299
        assert seen
        assert seen[0] - started < 0.25
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_spin_returns_at_the_first_message_or_at_its_time(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    started = time.monotonic()
    assert router.pump.spin(10, 0.03) == []
    assert 0.03 <= time.monotonic() - started < 5
    assert router.pump.drained
    sender = threading.Timer(0.03, dealer.pump.send, ([[b"one"], [b"two"]],))
    sender.start()
    started = time.monotonic()
    messages = router.pump.spin(10, 10.0)
    assert time.monotonic() - started < 5
    sender.join()
    messages += collect(router.pump, 2 - len(messages))
    assert [message[1:] for message in messages] == [[b"one"], [b"two"]]
    assert router.pump.spin(0, 10.0) == []


def test_spinning_leaves_the_interpreter_to_other_threads(listen: Listen) -> None:
    router = listen()
    counted = 0
    done = threading.Event()

    def count() -> None:
        nonlocal counted
        while not done.is_set():
            counted += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        router.pump.spin(1, 0.3)
    finally:
        done.set()
        thread.join()
    assert counted > 1000


@pytest.mark.parametrize("use", ["receive", "spin", "send", "wait"])
def test_use_after_close_raises(use: str, listen: Listen) -> None:
    router = listen()
    router.close()
    calls: dict[str, Callable[[], object]] = {
        "receive": lambda: router.pump.receive(1),
        "spin": lambda: router.pump.spin(1, 0.001),
        "send": lambda: router.pump.send([[b"a", b"b"]]),
        "wait": lambda: router.pump.wait(0),
    }
    with pytest.raises(zmq.ZMQError):
        calls[use]()


def test_a_closed_socket_gets_no_pump_and_a_closed_wake_socket_no_wait(
    listen: Listen, pump_class: type[Pump]
) -> None:
    router = listen()
    router.watch.close()
    with pytest.raises(zmq.ZMQError):
        router.pump.wait(0)
    router.close()
    with pytest.raises(zmq.ZMQError):
        pump_class(router.socket)


def test_sources_hold_the_connection_of_each_peer_once(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealers = [dial(router) for _ in range(3)]
    for _ in range(2):
        for dealer in dealers:
            dealer.pump.send([[b"hello"]])
    peers = {message[0] for message in collect(router.pump, 6)}
    assert set(router.pump.sources) == peers
    assert len(set(router.pump.sources.values())) == 3
    assert sorted(router.pump.fresh) == sorted(peers)
    for fd in router.pump.sources.values():
        os.fstat(fd)
    assert dealers[0].pump.sources == {}


def test_the_connection_of_an_old_peer_is_not_known(listen: Listen) -> None:
    """libzmq does not tell where messages in ZMTP 1 come from."""
    router = listen()
    host, _, port = router.endpoints[0].removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10.0) as peer:
        peer.sendall(b"\x09\x00old-peer" + b"\x06\x00hello")
        assert collect(router.pump, 1) == [[b"old-peer", b"hello"]]
    assert router.pump.sources == {}


def test_many_threads_with_a_pump_each(pump_class: type[Pump]) -> None:
    failures: list[BaseException] = []

    def talk(number: int) -> None:
        try:
            with context().socket(zmq.ROUTER) as router, context().socket(zmq.DEALER) as dealer:
                router.linger = dealer.linger = 0
                dealer.connect(f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}")
                here, there = pump_class(router, router=True), pump_class(dealer)
                for turn in range(20):
                    body = b"%d/%d" % (number, turn) * 2000 * (1 + turn % 9)
                    there.send([[body]])
                    here.send(collect(here, 1))
                    assert plain(collect(there, 1)) == [[body]]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("ending", ["context.term()", "pass"])
def test_a_process_that_exits_with_lent_bytes_in_flight_ends_cleanly(
    ending: str, pump_class: type[Pump], listen: Listen
) -> None:
    router = listen()
    code = f"""
import zmq, {pump_class.__module__} as pumps
context = zmq.Context()
socket = context.socket(zmq.DEALER)
socket.linger = 5000
socket.connect({router.endpoints[0]!r})
assert pumps.Pump(socket).send([[b"%d" % n * 1_000_000] for n in range(20)]) == []
socket.close()
{ending}
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as child:
        received = []
        if ending != "pass":  # only ending the context waits for what is queued
            received = [bytes(frame) for _, frame in collect(router.pump, 20, timeout=20)]
        _, errors = child.communicate(timeout=20)
    assert (child.returncode, errors) == (0, b"")
    assert received in ([], [b"%d" % n * 1_000_000 for n in range(20)])


def test_the_choice_of_the_pump_can_be_forced_and_is_explained() -> None:
    code = "from mesh.transport import pump; print(pump.KIND, pump.Pump.kind, pump.why())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SAGE_PUMP": "pure"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    kind, pump_kind, *reason = run.stdout.split()
    assert kind == pump_kind == "pure"
    assert "SAGE_PUMP=pure" in reason


def test_the_pump_in_use_is_the_compiled_one_or_says_why_not() -> None:
    assert pump.Pump.kind == pump.KIND
    assert (pump.KIND == "compiled") == (pump.why() == "")


def test_both_pumps_agree_on_their_limits() -> None:
    compiled = pytest.importorskip("mesh.transport._pump", exc_type=ImportError)
    assert (compiled.LARGE, compiled.MAX_FRAMES) == (pure.LARGE, pure.MAX_FRAMES)


# ---------------------------------------------------------------- whole messages of the protocol

NATIVE = [
    Message(HEARTBEAT),
    Message(CAPACITY, credit=0xFFFFFFFF, sequence=2**64 - 1, service=b"s" * 200, method=b""),
    Message(REQUEST, 1, 2, 0, 7, 30.0, 3, 2**64 - 1, 9, b"shop", b"buy", [b"body"]),
    Message(REQUEST, 0, 0, 0, 8, 1e-6, 0, 1, 10, b"shop", b"sell", [b"body", b"metadata"]),
    Message(FINAL, RAW, 0, 0, 2**64 - 1, 0.0, 0, 1, 2, frames=[b"%d" % n for n in range(1000)]),
    Message(FINAL, tag=4, sequence=5, frames=[b"x" * LARGE]),
    Message(ERROR, 16, 3, 255, 1, 2.0, 0, 1, 2, frames=[b""]),
]


def read(pump: Pump, count: int) -> list[tuple[bytes, object]]:
    found: list[tuple[bytes, object]] = []
    until(lambda: len(found) >= count, lambda: (pump.wait(0.1), found.extend(pump.read(100))))
    return found


def test_messages_are_read_as_the_codec_decodes_them(
    address: str, listen: Listen, dial: Dial
) -> None:
    router = listen(address)
    dealer = dial(router)
    assert dealer.pump.write([(0, message) for message in NATIVE]) == []
    found = read(router.pump, len(NATIVE))
    assert [message for _, message in found] == NATIVE
    assert len({peer for peer, _ in found}) == 1
    entries = [(peer, message) for peer, message in found if isinstance(message, Message)]
    assert router.pump.write(entries) == []
    assert read(dealer.pump, len(NATIVE)) == [(b"", message) for message in NATIVE]


def test_messages_are_written_as_the_codec_encodes_them(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    assert dealer.pump.write([(0, message) for message in NATIVE]) == []
    received = plain(collect(router.pump, len(NATIVE)))
    assert [frames[1:] for frames in received] == [native.encode(message) for message in NATIVE]


HEADER = bytes(native.encode(NATIVE[2])[0])
STRANGE = [
    [b""],
    [b"", b"MDPC01", b"echo", b"body"],
    [HEADER[:39]],
    [HEADER + b"x", b"body"],
    [b"\xe4" + HEADER[1:]],
    [HEADER[:1] + b"\x02" + HEADER[2:]],
    [HEADER[:2] + b"\0" + HEADER[3:]],
    [HEADER[:2] + b"\x10" + HEADER[3:]],
    [HEADER[:4] + b"\x04" + HEADER[5:]],
    [HEADER[:6] + b"\0\x07" + HEADER[8:]],
    [HEADER[:6] + b"\xc9\0" + HEADER[8:40] + b"x" * 201],
    [HEADER, b"one", b"two", b"three"],
    [bytes(native.encode(NATIVE[4])[0]), *[b"x"] * 1001],
    [b"\xe5" * LARGE],
]


@pytest.mark.parametrize("frames", STRANGE, ids=range(len(STRANGE)))
def test_what_is_no_native_message_comes_as_its_frames(
    frames: list[bytes], listen: Listen, dial: Dial
) -> None:
    with pytest.raises(ProtocolError):
        native.decode(frames)
    router = listen()
    dealer = dial(router)
    assert dealer.pump.send([frames, native.encode(NATIVE[0])]) == []
    (peer, strange), (_, beat) = read(router.pump, 2)
    assert isinstance(strange, list)
    assert plain([strange]) == [[peer, *frames]]
    assert beat == NATIVE[0]


def test_too_many_frames_are_dropped_while_reading_messages(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    raw = bytes(native.encode(NATIVE[4])[0])
    dealer.pump.send([[raw, *[b"x"] * MAX_FRAMES], [b"y"] * (MAX_FRAMES + 1)])
    dealer.pump.write([(0, NATIVE[0])])
    assert [message for _, message in read(router.pump, 1)] == [NATIVE[0]]
    assert router.pump.dropped_oversize == 2


def test_reading_may_spin_until_the_first_message(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    begun = time.monotonic()
    assert router.pump.read(10, 0.02) == []
    assert time.monotonic() - begun >= 0.02
    assert router.pump.drained
    later = threading.Timer(0.02, dealer.pump.write, ([(0, NATIVE[0])],))
    later.start()
    assert [message for _, message in router.pump.read(10, 10.0)] == [NATIVE[0]]
    later.join()


def test_a_message_that_fits_into_no_header_is_not_sent_in_part(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    for wrong in (
        Message(REQUEST, credit=2**32),
        Message(REQUEST, credit=-1),
        Message(256),
        Message(REQUEST, tag=2**64),
        Message(REQUEST, sequence=-1),
        Message(REQUEST, service=b"x" * 256),
    ):
        with pytest.raises((ValueError, OverflowError, struct.error)):
            dealer.pump.write([(0, wrong)])
    assert dealer.pump.write([(0, NATIVE[0])]) == []
    assert [message for _, message in read(router.pump, 1)] == [NATIVE[0]]


def test_writing_tells_which_messages_no_peer_took(listen: Listen, dial: Dial) -> None:
    router = listen()
    dealer = dial(router)
    dealer.pump.write([(0, NATIVE[0])])
    [(peer, _)] = read(router.pump, 1)
    stranger = b"\0none"
    entries = [(stranger, NATIVE[2]), (peer, NATIVE[3]), (stranger, NATIVE[0])]
    assert router.pump.write(entries) == [(0, errno.EHOSTUNREACH), (2, errno.EHOSTUNREACH)]
    assert read(dealer.pump, 1) == [(b"", NATIVE[3])]
