"""Cuts TCP peers that send a message without end.

libzmq bounds the size of a frame and counts whole messages, but collects an unfinished message of
any length: a peer that announces one more frame for ever would fill the memory. The kernel knows
how many bytes a connection has brought; the guard compares them with what came out as messages.
Unix sockets have no such counter: who may open a socket file is a matter of its permissions. Nor
has any system but Linux, where the guard therefore does nothing.
"""

from __future__ import annotations

import math
import socket as net
import struct
from collections.abc import Sequence
from typing import cast

from mesh.transport.monitor import PeerWatch
from mesh.transport.pump import Pump

SUPPORTED = hasattr(net, "TCP_INFO")
DEFAULT_LIMIT = 128 * 1024 * 1024

# struct tcp_info: eight single bytes, 24 words of 32 bits, then 64-bit counters, this one the
# fourth.
_RECEIVED = struct.Struct("=128xQ")
# Looking at one connection takes about 2 us; this keeps it under one percent of a processor.
_PER_CONNECTION = 0.0002
# A broker that is never idle must not shelter an attacker for longer than this.
_PATIENCE = 1.0


def bytes_received(fd: int) -> int | None:
    """The bytes that a TCP connection has brought; None if `fd` is not one."""
    try:
        probe = net.socket(net.AF_INET, net.SOCK_STREAM, net.IPPROTO_TCP, fileno=fd)
    except OSError:
        return None
    try:
        info = probe.getsockopt(net.IPPROTO_TCP, net.TCP_INFO, _RECEIVED.size)
    except OSError:
        return None
    finally:
        probe.detach()  # the descriptor belongs to libzmq
    return int(_RECEIVED.unpack(info)[0]) if len(info) == _RECEIVED.size else None


class ByteGuard:
    """Ends connections that bring more than `limit` bytes without giving a whole message.

    The owner of the ROUTER calls `after` in each turn of its loop with what it received, and wakes
    up for `next_at`. A connection that gave a message between two looks is counted anew from the
    second. One that passes the limit is cut at the next look, if the ROUTER has been emptied in
    between and still gave nothing from it. So an unfinished message holds the limit and what
    arrives in three looks, `interval` seconds or less apart (more only with over 500 connections).

    `limit` must leave room for the largest message and what the kernel holds back (some 6 MiB).
    `cut` counts the connections ended.
    """

    def __init__(
        self, watch: PeerWatch, pump: Pump, *, limit: int = DEFAULT_LIMIT, interval: float = 0.1
    ) -> None:
        self.cut = 0
        self.next_at = math.inf
        self._watch = watch
        self._pump = pump
        self._limit = limit
        self._interval = interval
        self._accepted = 0
        self._heard: set[object] = set()
        self._drained = False

    def after(self, messages: Sequence[Sequence[object]], now: float) -> None:
        """Take note of received messages, and look at the connections when it is time."""
        if self._accepted != self._watch.accepted:
            self._accepted = self._watch.accepted
            if SUPPORTED:
                self.next_at = min(self.next_at, now + self._interval)
        if self.next_at == math.inf:
            return
        self._heard.update([message[0] for message in messages])
        self._drained = self._drained or self._pump.drained
        if now >= self.next_at:
            self._look(now)

    def _look(self, now: float) -> None:
        sources = self._pump.sources
        heard = {sources.get(cast("bytes", peer)) for peer in self._heard}
        connections = [connection for connection in self._watch.connections() if connection.tcp]
        suspects = 0
        for connection in connections:
            received = bytes_received(connection.fd)
            if received is None:
                continue
            if connection.fd in heard:
                connection.baseline = received
            brought = received - connection.baseline
            suspects += brought > self._limit // 8
            if brought <= self._limit:
                connection.over_since = math.inf
            elif connection.over_since == math.inf:
                connection.over_since = now
            elif self._drained or now - connection.over_since > _PATIENCE:
                self.cut += self._watch.cut(connection)
                connection.baseline = received  # until its end is reported
                connection.over_since = math.inf
        self._heard.clear()
        self._drained = False
        every = max(self._interval, len(connections) * _PER_CONNECTION)
        self.next_at = now + (every / 2 if suspects else every) if connections else math.inf
