"""Listening without a thread: a broker's side of TCP and Unix connections, ZMTP 3 by `_stream`.

It does what a bound ROUTER, its watch and its byte guard do, with less: the end of a connection
comes after everything that it delivered, a message without end is seen as it grows, and the bytes
that a peer does not read are counted.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import select
import socket as net
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mesh.errors import ConfigError
from mesh.transport.direct import MAX_RECEIVED, prepare
from mesh.transport.handshake import Handshake
from mesh.transport.sockets import (
    BACKLOG,
    HANDSHAKE_TIMEOUT,
    MAX_MESSAGE,
    Troubles,
    advice,
    make_way,
)

if TYPE_CHECKING:
    from mesh.transport._stream import ENDLESS, Hub
else:
    try:
        from mesh.transport._stream import ENDLESS, Hub
    except ImportError:
        Hub = None

PEERS = frozenset((b"DEALER", b"REQ", b"ROUTER"))
ACCEPT_BUDGET = 64
# When descriptors run out, new connections wait in the kernel for so long.
REST_TTL = 0.1
UNSENT_LIMIT = 16 * 1024 * 1024

log = logging.getLogger("mesh.transport")


class _Guest:
    """An accepted connection. `spoke`: it has sent something."""

    __slots__ = ("connection", "handshake", "spoke", "until")

    def __init__(self, connection: net.socket, until: float) -> None:
        self.connection = connection
        self.handshake = Handshake(b"ROUTER", PEERS)
        self.until = until
        self.spoke = False


class DirectBound:
    """A listening socket and its connections; its own watch and its own guard.

    One turn of the owner's loop: `pump.read`, `after`, and `departed` when `pump.drained`. While
    `pending`, do not wait; wait for `descriptors` until `next_at`.
    """

    def __init__(
        self,
        address: str,
        *,
        max_frame: int = MAX_MESSAGE,
        unsent_limit: int = UNSENT_LIMIT,
    ) -> None:
        """Listen at `address`, as `parse_endpoint` gives it.

        Raises:
            ConfigError: it is in use, or cannot be listened at.
        """
        self._path = ""
        self._listener = self._listen(address)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self.pump = Hub(self._epoll.fileno(), max_frame=max_frame, limit=unsent_limit)
        self.accepted = 0
        self.handshake_failures = 0
        self.cut = 0
        self._guests: dict[int, _Guest] = {}
        self._members: dict[bytes, net.socket] = {}
        self._look_at = math.inf
        self._rest_until = math.inf

    @property
    def watch(self) -> DirectBound:
        """What tells who left: the port itself."""
        return self

    @property
    def guard(self) -> DirectBound:
        """What keeps peers within bounds: the port itself."""
        return self

    @property
    def pending(self) -> bool:
        """Whether there is something to read or to tell, whatever the descriptors say."""
        return bool(self.pump.pending or self.pump.departed or self.pump.others)

    @property
    def next_at(self) -> float:
        """When `after` has something to do even if nothing happens."""
        return min(self._look_at, self._rest_until)

    def descriptors(self) -> tuple[int, ...]:
        """What to wait for; level-triggered."""
        return (self._epoll.fileno(),)

    def drain(self) -> None:
        """There is nothing to be taken in that `after` does not."""

    def after(self, found: Sequence[object], now: float) -> None:
        """Accept connections, shake hands, and part with those that take too long."""
        others = self.pump.others
        if others:
            own = self._listener.fileno()
            for fd in others:
                if fd == own:
                    self._accept(now)
                elif (guest := self._guests.get(fd)) is not None:
                    self._shake_hands(fd, guest)
            others.clear()
        if now >= self.next_at:
            self._look(now)

    def departed(self) -> list[bytes]:
        """The names of peers that left, each once."""
        pump = self.pump
        if not pump.departed:
            return []
        gone = []
        for stream in pump.departed:
            gone.append(stream.peer)
            self.cut += stream.ended == ENDLESS
            pump.remove(stream)
            self._members.pop(stream.peer).close()
        pump.departed.clear()
        return gone

    @property
    def troubles(self) -> Troubles:
        """What was refused, cut and dropped so far."""
        return Troubles(self.handshake_failures, self.cut, self.pump.dropped_oversize)

    def close(self, linger: float = 0.0) -> None:
        """Stop listening and end all connections, up to `linger` seconds after what is unsent."""
        self._epoll.unregister(self._listener)
        self._listener.close()
        if self._path:
            with suppress(OSError):
                os.unlink(self._path)
        end_at = time.monotonic() + linger
        unsent = list(self.pump.streams.values())
        while unsent := [stream for stream in unsent if not (stream.ended or stream.flush())]:
            left = end_at - time.monotonic()
            if left <= 0:
                break
            poll = select.poll()
            for stream in unsent:
                poll.register(self._members[stream.peer], select.POLLOUT)
            poll.poll(left * 1e3)
        for stream in list(self.pump.streams.values()):
            self.pump.remove(stream)
        for connection in self._members.values():
            # Closed with something unread, the kernel would throw away what was just sent.
            with suppress(OSError):
                connection.shutdown(net.SHUT_WR)
                while connection.recv(65536):
                    pass
            connection.close()
        for guest in self._guests.values():
            guest.connection.close()
        self._epoll.close()

    # ---------------------------------------------------------------- connections

    def _accept(self, now: float) -> None:
        for _ in range(ACCEPT_BUDGET):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    log.warning("cannot accept a connection: %s", error.strerror)
                    self._epoll.modify(self._listener, 0)
                    self._rest_until = now + REST_TTL
                    return
                continue  # that connection has ended already
            self.accepted += 1
            guest = _Guest(connection, now + HANDSHAKE_TIMEOUT)
            try:
                prepare(connection)
                connection.send(guest.handshake.hello)
                self._epoll.register(connection, select.EPOLLIN)
            except OSError:
                self.handshake_failures += 1
                connection.close()
                continue
            self._guests[connection.fileno()] = guest
            self._look_at = min(self._look_at, guest.until)

    def _shake_hands(self, fd: int, guest: _Guest) -> None:
        shaking = guest.handshake
        try:
            data = guest.connection.recv(MAX_RECEIVED)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            guest.spoke = True
            shaking.receive(data)
        if not data and not guest.spoke:  # it only looked whether somebody listens
            self._let_go(fd, guest)
        elif not data or shaking.failed:
            self._turn_away(fd, guest)
        elif shaking.done:
            del self._guests[fd]
            # Nobody is to guess the names of others.
            peer = b"\0" + os.urandom(8)
            self._members[peer] = guest.connection
            self.pump.add(peer, fd, shaking.rest)

    def _turn_away(self, fd: int, guest: _Guest) -> None:
        self.handshake_failures += 1
        self._let_go(fd, guest)

    def _let_go(self, fd: int, guest: _Guest) -> None:
        del self._guests[fd]
        guest.connection.close()

    def _look(self, now: float) -> None:
        if now >= self._rest_until:
            self._rest_until = math.inf
            self._epoll.modify(self._listener, select.EPOLLIN)
        for fd, guest in list(self._guests.items()):
            if guest.until <= now:
                self._turn_away(fd, guest)
        self._look_at = min((guest.until for guest in self._guests.values()), default=math.inf)

    # ---------------------------------------------------------------- listening

    def _listen(self, address: str) -> net.socket:
        scheme, _, place = address.partition("://")
        if scheme == "ipc":
            make_way(place)
            listener = net.socket(net.AF_UNIX, net.SOCK_STREAM)
            where: Any = "\0" + place[1:] if place.startswith("@") else place
        else:
            host, _, port = place.rpartition(":")
            host = host.removeprefix("[").removesuffix("]")
            number = 0 if port == "*" else int(port)
            try:
                found = net.getaddrinfo(
                    "0.0.0.0" if host == "*" else host,
                    number,
                    type=net.SOCK_STREAM,
                    flags=net.AI_PASSIVE,
                )
            except OSError as error:
                raise ConfigError(f"cannot listen at {address}: {error.strerror}") from error
            family, _, _, _, where = found[0]
            listener = net.socket(family, net.SOCK_STREAM)
            listener.setsockopt(net.SOL_SOCKET, net.SO_REUSEADDR, 1)
        try:
            listener.bind(where)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise ConfigError(f"cannot listen at {address}: {advice(error)}") from error
        listener.setblocking(False)
        if scheme == "ipc":
            self._path = "" if place.startswith("@") else place
            self.endpoints = (address,)
        else:
            bound = listener.getsockname()
            shown = f"[{bound[0]}]" if listener.family == net.AF_INET6 else bound[0]
            self.endpoints = (f"tcp://{shown}:{bound[1]}",)
        return listener
