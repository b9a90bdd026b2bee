"""The frame pump in plain Python: whole multipart messages in and out of a ZeroMQ socket, in
batches.

It is what runs where the compiled pump could not be built, and the readable statement of what both
do. It knows nothing of what the frames mean. A pump belongs to the thread that drives its socket,
and calls must not overlap.

The flags are plain integers and `more` is read from the frame: pyzmq's enum arithmetic and its
RCVMORE option would cost more than the receiving itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from errno import EAGAIN, EHOSTUNREACH
from typing import Protocol, TypeAlias, cast

import zmq

from mesh.errors import ProtocolError
from mesh.protocol import native
from mesh.protocol.messages import Message

# Frames from here on stay in libzmq's memory: handing them over beats copying them.
LARGE = 64 * 1024
# A message with more frames than this is read to its end and dropped.
MAX_FRAMES = 1024

_DONTWAIT = 1
_SNDMORE = 2
_SOURCE_FD = 2
_POLLIN = 1
_POLLOUT = 2


class LargeBody(Protocol):
    """A large received frame: read it with `memoryview` or `bytes`, or send it on as it is."""

    def __len__(self) -> int: ...

    def __bytes__(self) -> bytes: ...

    def __buffer__(self, flags: int, /) -> memoryview: ...


Body: TypeAlias = bytes | bytearray | memoryview | LargeBody
# What `wait` can watch besides the socket itself: a ZeroMQ socket or a file descriptor.
Wake: TypeAlias = "zmq.Socket[bytes] | int"


class Pump:
    """Moves messages over one socket without blocking, except in `wait` and `spin`.

    `router`: the socket is a ROUTER; frame 0 of each message is the peer's routing id. `wake`:
    further sockets or file descriptors whose readability ends `wait` (a monitor, a wake-up pipe).

    `sources` (ROUTER only) maps a routing id to the file descriptor of the connection it was first
    heard on; its reader removes the ids of peers that left. `fresh` lists the ids entered or
    changed since its reader last cleared it. An id that libzmq chose itself (first byte zero) is
    looked up once, as it never comes back; an id that the peer chose is looked up each time.
    `drained` says whether the last `receive` or `spin` ended because the socket was empty.
    `dropped_oversize` counts messages of more than MAX_FRAMES frames.

    Every method raises zmq.ZMQError if the socket is closed, or for an error that no case below
    names.
    """

    kind = "pure"

    def __init__(
        self, socket: zmq.Socket[bytes], *, router: bool = False, wake: Sequence[Wake] = ()
    ) -> None:
        self.socket = socket
        self.sources: dict[bytes, int] = {}
        self.fresh: list[bytes] = []
        self.drained = False
        self.dropped_oversize = 0
        self._router = router
        self._wake = [(source, _POLLIN) for source in wake]
        self._check()

    def _check(self) -> None:
        if self.socket.closed:
            raise zmq.ZMQError(zmq.ENOTSOCK)

    def receive(self, limit: int) -> list[list[Body]]:
        """Up to `limit` whole messages that have already arrived; never blocks.

        Frames under LARGE bytes are `bytes`; others are `LargeBody` objects that own libzmq's
        memory. A message of too many frames is dropped, but counts towards `limit`.
        """
        self._check()
        recv = self.socket.recv
        self.drained = False
        messages: list[list[Body]] = []
        for _ in range(limit):
            try:
                frame = recv(_DONTWAIT, False)
            except zmq.Again:
                self.drained = True
                break
            if self._router:
                self._trace(frame)
            frames = [_body(frame)]
            count = 1
            while frame.more:
                frame = recv(_DONTWAIT, False)
                count += 1
                if count <= MAX_FRAMES:
                    frames.append(_body(frame))
                else:
                    frames.clear()
            if count > MAX_FRAMES:
                self.dropped_oversize += 1
            else:
                messages.append(frames)
        return messages

    def read(self, limit: int, spin: float = 0.0) -> list[tuple[bytes, Message | list[Body]]]:
        """As `receive`, with every native message decoded: `(peer, message)`.

        `peer` is the routing id, empty for other sockets than a ROUTER. What is not a native
        message comes as its frames. With `spin`, it keeps trying for up to so many seconds until
        the first one: it gives up the processor between tries but never sleeps.
        """
        frames = self.spin(limit, spin) if spin > 0.0 else self.receive(limit)
        start = int(self._router)
        found: list[tuple[bytes, Message | list[Body]]] = []
        for received in frames:
            peer = cast("bytes", received[0]) if start else b""
            try:
                found.append((peer, native.decode(received, start)))
            except ProtocolError:
                found.append((peer, received))
        return found

    def write(self, entries: Sequence[tuple[bytes | int, Message]]) -> list[tuple[int, int]]:
        """Encode and send the messages of `(peer, message)`, as `send` does.

        For other sockets than a ROUTER the first of each pair does not matter.
        """
        return self.send(
            [
                native.encode(message, cast("bytes", peer) if self._router else None)
                for peer, message in entries
            ]
        )

    def _trace(self, frame: zmq.Frame) -> None:
        """Note the connection that a peer's message came by, if it is not known."""
        peer = frame.bytes
        if peer in self.sources and peer[0] == 0:
            return
        try:
            fd = frame.get(_SOURCE_FD)
        except zmq.ZMQError:  # of a peer that speaks ZMTP 1, libzmq does not tell
            return
        if self.sources.get(peer) != fd:
            self.sources[peer] = fd
            self.fresh.append(peer)

    def send(self, messages: Sequence[Sequence[Body]]) -> list[tuple[int, int]]:
        """Send each message whole, without blocking; `(index, errno)` of each that was not sent.

        The errno is EAGAIN (the peer's queue is full, or nobody is connected) or EHOSTUNREACH (a
        ROUTER does not know the peer). After a failure, later messages of this call to the same
        peer fail alike, so that order is kept; on any other socket than a ROUTER all the rest fail.
        Large frames remain usable, so one body can be sent to many peers.

        Raises:
            TypeError: a frame is not bytes-like; nothing of its message has been sent.
            ValueError: a message has no frames.
        """
        self._check()
        failed: list[tuple[int, int]] = []
        refused: dict[Body | None, int] = {}
        for index, message in enumerate(messages):
            frames = [_sendable(frame) for frame in message]
            if not frames:
                raise ValueError("a message needs at least one frame")
            peer = frames[0] if self._router else None
            error = refused.get(peer, 0) if refused else 0
            if not error:
                error = self._send_frames(frames)
                if not error:
                    continue
                refused[peer] = error
            failed.append((index, error))
        return failed

    def _send_frames(self, frames: list[Body]) -> int:
        """Send one message; 0, or the errno that kept it from being sent."""
        send = self.socket.send
        last = len(frames) - 1
        error = 0
        for index, frame in enumerate(frames):
            try:
                # A Frame is shared by reference and must say so; plain bytes are copied.
                send(
                    cast("bytes", frame),
                    _DONTWAIT if index == last else _DONTWAIT | _SNDMORE,
                    type(frame) is bytes,
                )
            except zmq.ZMQError as failure:
                if failure.errno not in (EAGAIN, EHOSTUNREACH):
                    raise
                if index == 0:
                    return int(failure.errno)
                # The pipe ended in the middle of the message. libzmq has rolled back what went
                # before and expects the other frames in order to throw them away.
                error = error or int(failure.errno)
        return error

    def wait(self, timeout: float, *, writing: bool = False) -> bool:
        """Block until something can be received, a `wake` source is readable, or `timeout` seconds
        passed.

        A negative `timeout` waits forever; times are rounded up to milliseconds. With `writing`,
        also until the socket takes messages again after EAGAIN (a ROUTER always seems to). Signal
        handlers run meanwhile; give a wake-up descriptor in `wake` to be woken by a signal. True
        means that something may be ready, False that the time is over.
        """
        self._check()
        for source, _ in self._wake:
            if not isinstance(source, int) and source.closed:
                raise zmq.ZMQError(zmq.ENOTSOCK)
        events = _POLLIN | _POLLOUT if writing else _POLLIN
        watched = [(self.socket, events), *self._wake]
        if timeout < 0:
            return bool(zmq.zmq_poll(watched, -1))
        end_at = time.monotonic() + timeout
        left = timeout
        # pyzmq counts whole seconds when a signal interrupts it, so it may be back too early.
        while not (ready := zmq.zmq_poll(watched, math.ceil(left * 1e3))):
            left = end_at - time.monotonic()
            if left <= 0:
                break
        return bool(ready)

    def spin(self, limit: int, duration: float) -> list[list[Body]]:
        """Like `receive`, but keeps trying for up to `duration` seconds until the first message.

        It gives up the processor between tries but never sleeps: a wake-up costs more than a short
        spin when the next message is on its way. `wake` sources are not looked at.
        """
        end_at = time.monotonic() + duration
        while True:
            messages = self.receive(limit)
            if messages or limit <= 0 or time.monotonic() >= end_at:
                return messages
            time.sleep(0)


def _body(frame: zmq.Frame) -> Body:
    return frame.bytes if len(frame) < LARGE else cast("LargeBody", frame)


def _sendable(frame: Body) -> Body:
    """The frame as `bytes` or zmq.Frame: nothing may fail once a message's first one has left."""
    if type(frame) is bytes or isinstance(frame, zmq.Frame):
        return frame
    return bytes(memoryview(frame))
