"""A connection to a broker that needs no thread: TCP or a Unix socket, ZMTP 3 spoken by `_stream`.

libzmq would move the frames on a thread of its own, at the price of two more wake-ups for each
message. This is the same wire protocol, for the one thing that clients and workers need of it: a
DEALER that connects once. Everything is done by the thread that calls, which waits on one
descriptor: an epoll instance, readable whenever there is something to do.
"""

from __future__ import annotations

import errno
import os
import select
import socket as net
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from mesh.protocol.endpoints import parse_endpoint
from mesh.transport.handshake import Handshake
from mesh.transport.sockets import MAX_MESSAGE

if TYPE_CHECKING:
    from mesh.transport._stream import Stream
else:
    try:
        from mesh.transport._stream import Stream
    except ImportError:
        Stream = None

AVAILABLE = Stream is not None and hasattr(select, "epoll")

NOBODY = "nobody answered there"

MAX_RECEIVED = 16 * 1024
# A peer that is gone without a word is noticed in half a minute, if nothing else notices it.
KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))

Address = tuple[net.AddressFamily, Any]


class DirectLink:
    """A connection on its way to one endpoint; its own watch (`established`, `lost`, `drain`).

    It connects once and never again. Messages may be written at once and leave when the connection
    stands.
    """

    def __init__(self, endpoint: str) -> None:
        """Begin to connect.

        Raises:
            ConfigError: the endpoint is wrong.
        """
        self.endpoint = parse_endpoint(endpoint)
        self.pump = Stream(max_frame=MAX_MESSAGE)
        self.established = False
        self.lost = ""
        self._epoll = select.epoll()
        self._socket: net.socket | None = None
        self._connected = False
        self._handshake: Handshake
        self._names: _Resolving | None = None
        self._addresses: list[Address] = []
        _links.add(self)
        scheme, _, address = self.endpoint.partition("://")
        if scheme == "ipc":
            name = "\0" + address[1:] if address.startswith("@") else address
            self._addresses = [(net.AF_UNIX, name)]
        else:
            host, _, port = address.rpartition(":")
            host = host.removeprefix("[").removesuffix("]")
            try:
                self._addresses = _lookup(host, int(port), net.AI_NUMERICHOST)
            except OSError:
                if host == "localhost":
                    self._addresses = [(net.AF_INET, ("127.0.0.1", int(port)))]
                else:
                    self._names = _Resolving(host, int(port))
                    self._epoll.register(self._names.fd, select.EPOLLIN)
        if self._names is None:
            self._connect()

    @property
    def watch(self) -> DirectLink:
        """What tells whether the connection stands: the link itself."""
        return self

    @property
    def up(self) -> bool:
        """Whether the connection stands."""
        return self.established and not self.lost

    def descriptors(self) -> tuple[int, ...]:
        """What to wait for; level-triggered."""
        return (self._epoll.fileno(),)

    def drain(self) -> bool:
        """Go on with connecting, see whether it is over; True if `up` or `lost` changed."""
        if self.lost:
            return False
        if self.established:
            if self.pump.ended:
                self.lost = self.pump.ended
                return True
            return False
        try:
            self._advance()
        except OSError as error:
            self._next(error.strerror or str(error))
        return self.established or bool(self.lost)

    def close(self, linger: float | None = None) -> None:
        """End the connection; with `linger`, wait so many seconds at most for what is unsent."""
        connection, self._socket = self._socket, None
        if connection is not None:
            if self.established and not self.pump.ended:
                end_at = time.monotonic() + (linger or 0.0)
                while not self.pump.flush() and (left := end_at - time.monotonic()) > 0:
                    poll = select.poll()
                    poll.register(connection, select.POLLOUT)
                    poll.poll(left * 1e3)
                # Closed with something unread, the kernel would throw away what was just sent.
                with suppress(OSError):
                    connection.shutdown(net.SHUT_WR)
                    while connection.recv(65536):
                        pass
            self.pump.detach()
            connection.close()
        if self._names is not None:
            self._names.close()
        self._epoll.close()
        self.lost = self.lost or "closed"
        _links.discard(self)

    def leave_to_parent(self) -> None:
        """This process is a fork: let go of the connection without touching it."""
        self.pump.detach()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._epoll.close()
        self.lost = "the process forked"

    # ---------------------------------------------------------------- until it stands

    def _connect(self) -> None:
        """Try the next address."""
        family, address = self._addresses.pop(0)
        # Anew: one that failed before may have said half of its greeting.
        self._handshake = Handshake(b"DEALER", (b"ROUTER",))
        self._socket = connection = net.socket(family, net.SOCK_STREAM)
        prepare(connection)
        try:
            connection.connect(address)
        except BlockingIOError as error:
            if error.errno != errno.EINPROGRESS:
                return self._next(NOBODY)  # a Unix socket with a full queue
        except OSError:
            return self._next(NOBODY)
        self._epoll.register(connection, select.EPOLLIN | select.EPOLLOUT)

    def _next(self, reason: str) -> None:
        """This address is of no use: try the next one, or give up."""
        if self._socket is not None:
            self._socket.close()  # which takes it from the epoll instance too
            self._socket = None
        self._connected = False
        if self._addresses:
            self._connect()
        else:
            self.lost = reason

    def _advance(self) -> None:
        if self._names is not None:
            found = self._names.result()
            if found is None:
                return
            self._epoll.unregister(self._names.fd)
            self._names.close()
            self._names = None
            if isinstance(found, str):
                self.lost = found
                return
            self._addresses = found
            self._connect()
        connection = self._socket
        if connection is None:
            return
        if not self._connected:
            error = connection.getsockopt(net.SOL_SOCKET, net.SO_ERROR)
            if error:
                return self._next(NOBODY)
            try:
                connection.getpeername()
            except OSError:
                return  # still on its way
            self._connected = True
            self._epoll.modify(connection, select.EPOLLIN)
            connection.send(self._handshake.hello)
        try:
            data = connection.recv(MAX_RECEIVED)
        except BlockingIOError:
            return
        if not data:
            self.lost = "the connection ended during the handshake"
            return
        shaking = self._handshake
        shaking.receive(data)
        self.lost = shaking.failed
        if shaking.done:
            self.established = True
            self.pump.attach(connection.fileno(), self._epoll.fileno(), shaking.rest)


def prepare(connection: net.socket) -> None:
    """Set the options of a connection of either side."""
    connection.setblocking(False)
    if connection.family != net.AF_UNIX:
        connection.setsockopt(net.IPPROTO_TCP, net.TCP_NODELAY, 1)
        connection.setsockopt(net.SOL_SOCKET, net.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE:
            if hasattr(net, name):
                connection.setsockopt(net.IPPROTO_TCP, getattr(net, name), value)


class _Resolving:
    """Looks a host name up on a thread, since that may take long; then `fd` is readable."""

    def __init__(self, host: str, port: int) -> None:
        self.fd, self._end = os.pipe()
        self._found: list[Address] | str | None = None
        self._lock = threading.Lock()
        self._closed = False
        threading.Thread(target=self._run, args=(host, port), daemon=True).start()

    def _run(self, host: str, port: int) -> None:
        found: list[Address] | str
        try:
            found = _lookup(host, port, 0)
        except OSError as error:
            found = f"{host} is no known host: {error.strerror}"
        with self._lock:
            self._found = found
            if not self._closed:
                os.write(self._end, b"\0")

    def result(self) -> list[Address] | str | None:
        """The addresses, or why there are none; None while it is not done."""
        return self._found

    def close(self) -> None:
        with self._lock:
            self._closed = True
            os.close(self.fd)
            os.close(self._end)


def _lookup(host: str, port: int, flags: int) -> list[Address]:
    found = net.getaddrinfo(host, port, type=net.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]


_links: WeakSet[DirectLink] = WeakSet()


def _leave_to_parent() -> None:
    for link in list(_links):
        link.leave_to_parent()
    _links.clear()


os.register_at_fork(after_in_child=_leave_to_parent)
