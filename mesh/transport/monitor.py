"""Who is connected: peers that leave a ROUTER, and the one connection of a DEALER.

libzmq reports connections by file descriptor and knows nothing of routing ids; the pump notes the
descriptor that a peer's first message came by. Put together they name a dead peer within
milliseconds. A monitor that nobody reads would in the end block libzmq's I/O thread, so the queue
here is unbounded and its owner calls `drain` in every turn of its loop.
"""

from __future__ import annotations

import itertools
import math
import os
import socket as net
import struct
from collections.abc import Iterator
from contextlib import suppress

import zmq

from mesh.transport.pump import Pump

ACCEPTED = int(zmq.EVENT_ACCEPTED)
CLOSED = int(zmq.EVENT_CLOSED)
CONNECT_RETRIED = int(zmq.EVENT_CONNECT_RETRIED)
DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
HANDSHAKE_SUCCEEDED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
HANDSHAKE_FAILURES = {
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "the handshake failed",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "the other side does not speak ZMTP as we do",
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "the other side refused our credentials",
}

_FAILURE_MASK = sum(HANDSHAKE_FAILURES)
_EVENT = struct.Struct("=Hi")
_READ_LIMIT = 1024
_serial = itertools.count(1)


def disconnect(fd: int) -> None:
    """End the connection behind a file descriptor that libzmq owns; libzmq then cleans up by
    itself.

    Raises:
        OSError: the descriptor is not (or no longer) a connected socket.
    """
    with net.socket(fileno=os.dup(fd)) as connection:
        connection.shutdown(net.SHUT_RDWR)


class _Monitor:
    """The event stream of one socket. `socket` is readable when there are events."""

    def __init__(self, watched: zmq.Socket[bytes], mask: int) -> None:
        address = f"inproc://mesh.monitor.{next(_serial)}"
        self._watched = watched
        watched.monitor(address, mask)
        self.socket: zmq.Socket[bytes] = watched.context.socket(zmq.PAIR)
        self.socket.setsockopt(zmq.RCVHWM, 0)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)
        self._pump = Pump(self.socket)

    def fileno(self) -> int:
        """A descriptor for event loops, edge-triggered: after it fires, call `drain`."""
        return int(self.socket.fileno())

    def _events(self) -> Iterator[tuple[int, int, bytes]]:
        """Everything that happened since the last call, as (event, value, local endpoint)."""
        while True:
            for header, endpoint in self._pump.receive(_READ_LIMIT):
                event, value = _EVENT.unpack(bytes(header))
                yield event, value, bytes(endpoint)
            if self._pump.drained:
                return

    def close(self) -> None:
        """Stop watching. To be called before the watched socket is closed; twice does no harm."""
        if not self._watched.closed:
            self._watched.monitor(None, 0)
        self.socket.close(0)


class Connection:
    """One accepted connection of a ROUTER. Only its watch changes `open`, `settled` and `peers`."""

    __slots__ = ("baseline", "fd", "open", "over_since", "peers", "settled", "tcp")

    def __init__(self, fd: int, tcp: bool) -> None:
        self.fd = fd
        self.tcp = tcp
        self.open = True
        self.settled = False  # its end has been reported by `departed`
        self.peers: list[bytes] = []
        self.baseline = 0  # bytes received, from where the guard counts
        self.over_since = math.inf  # when the guard saw it over the limit


class PeerWatch(_Monitor):
    """Names the peers of a ROUTER whose connection ended.

    One turn of the owner's loop: `drain()`, then empty the ROUTER until `pump.drained`, then
    `departed(pump)`. The event of a lost connection can overtake messages that it delivered; in
    this order they are all read before their sender is named. If the ROUTER was not emptied, leave
    `departed` to a later turn; while `pending` is true, do not block.

    A descriptor is reused as soon as its connection is closed. The events of one descriptor
    alternate, and libzmq reports a connection before its first message can be read (with one I/O
    thread, as `mesh.transport.context` has). So once `departed` has read all events, the newest
    connection on a descriptor is the earliest that can be the sender's last: binding the sender to
    it never names a living peer. Where that was too careful, the peer's silence must tell.
    """

    def __init__(self, router: zmq.Socket[bytes]) -> None:
        super().__init__(router, ACCEPTED | DISCONNECTED | _FAILURE_MASK)
        self.accepted = 0
        self.handshake_failures = 0
        self._newest: dict[int, Connection] = {}
        self._ended: list[Connection] = []

    @property
    def pending(self) -> bool:
        """Whether an end is known that `departed` has yet to report."""
        return bool(self._ended)

    def connections(self) -> list[Connection]:
        """The connections that are open, as far as `drain` has heard."""
        return [connection for connection in self._newest.values() if connection.open]

    def newest(self, fd: int) -> Connection | None:
        """The latest connection on a descriptor, open or not."""
        return self._newest.get(fd)

    def drain(self) -> None:
        """Take in what happened; never blocks."""
        for event, value, endpoint in self._events():
            if event == ACCEPTED:
                self.accepted += 1
                self._newest[value] = Connection(value, endpoint.startswith(b"tcp"))
            elif event == DISCONNECTED:
                connection = self._newest.get(value)
                if connection is not None and connection.open:
                    connection.open = False
                    self._ended.append(connection)
            elif event in HANDSHAKE_FAILURES:
                self.handshake_failures += 1

    def departed(self, pump: Pump) -> list[bytes]:
        """The routing ids of peers that left, each once; they are removed from `pump.sources`."""
        if not (self._ended or pump.fresh):
            return []
        ended, self._ended = self._ended, []
        if pump.fresh:
            self.drain()
        gone: list[bytes] = []
        for connection in ended:
            connection.settled = True
            gone += connection.peers
        for peer in pump.fresh:
            source = self._newest.get(pump.sources.get(peer, -1))
            if source is None:
                continue  # connected before the watch began
            if source.settled:
                gone.append(peer)
            else:
                source.peers.append(peer)
        pump.fresh.clear()
        return [peer for peer in gone if not self._came_back(peer, pump)]

    def _came_back(self, peer: bytes, pump: Pump) -> bool:
        """Forget a peer that left, unless it may live on as a later connection.

        Only an id that the peer itself chose can. It is then bound to the newest connection on its
        descriptor, which may be another peer's: when that ends, this one is gone too.
        """
        fd = pump.sources.get(peer)
        if fd is None:
            return True  # named already
        source = self._newest.get(fd)
        if peer[0] != 0 and source is not None and not source.settled:
            if peer not in source.peers:
                source.peers.append(peer)
            return True
        del pump.sources[peer]
        return False

    def cut(self, connection: Connection) -> bool:
        """End a connection; False if it ended by itself. `departed` then names its peers."""
        try:
            handle = net.socket(fileno=os.dup(connection.fd))
        except OSError:
            return False
        with handle:
            # The end of a connection is reported before its descriptor is closed. So if none has
            # been reported by now, the copy made above is of this connection and not of a
            # successor.
            self.drain()
            if not connection.open:
                return False
            with suppress(OSError):
                handle.shutdown(net.SHUT_RDWR)
        return True


class LinkWatch(_Monitor):
    """What became of a DEALER's only connection attempt; it must be made before the attempt.

    `up` is true from the end of the handshake until the connection is lost, `established` from then
    on, `lost` says why it is over (empty while it is not). Lost without ever being established
    means that nothing was delivered.

    A host name that does not resolve is not reported by libzmq: bound the time until `up`.
    """

    def __init__(self, dealer: zmq.Socket[bytes]) -> None:
        mask = HANDSHAKE_SUCCEEDED | DISCONNECTED | CLOSED | CONNECT_RETRIED | _FAILURE_MASK
        super().__init__(dealer, mask)
        self.established = False
        self.lost = ""

    @property
    def up(self) -> bool:
        return self.established and not self.lost

    def drain(self) -> bool:
        """Take in what happened; True if `up` or `lost` changed. Never blocks."""
        before = (self.established, self.lost)
        for event, _, _ in self._events():
            if event == HANDSHAKE_SUCCEEDED:
                self.established = True
            elif not self.lost:
                self.lost = HANDSHAKE_FAILURES.get(event) or (
                    "the connection ended" if self.established else "nobody answered there"
                )
        return (self.established, self.lost) != before
