"""The sockets under a client core: what arrives goes in, what the core gives out goes out.

It decides nothing, and never blocks. How to wait is the business of the blocking and the asyncio
client; both call `turn` whenever something may have happened.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TypeAlias

from mesh import transport
from mesh.client.core import ClientCore
from mesh.protocol.messages import Body, Message

# Replies are read in portions: while this process works on one, the broker and the worker have
# the requests that the last one made room for. A quarter of what is open keeps all three busy.
MIN_PORTION = 16
MAX_PORTION = 512
LINGER = 0.2

Entry: TypeAlias = tuple[int, Message]


class Wire:
    """The links of `core`. The caller sees to it that only one thread is in here at a time.

    `changed` counts links that were opened or closed. `on_open` and `on_close` are called with the
    descriptors of a link, which are edge-triggered: after one fires, or anything was sent, `turn`.
    """

    def __init__(self, core: ClientCore, *, clock: Callable[[], float] = monotonic) -> None:
        self.core = core
        self.clock = clock
        self.changed = 0
        self.turned_at = 0.0
        self.on_open: Callable[[list[int]], None] = _ignore
        self.on_close: Callable[[list[int]], None] = _ignore
        self._links: dict[int, transport.AnyLink] = {}
        self._held_back: dict[int, list[Entry]] = {}

    def turn(self, rounds: int = 8) -> bool:
        """Receive, let time pass, send, until nothing moves; True if `rounds` were not enough."""
        core = self.core
        for _ in range(rounds):
            self.turned_at = now = self.clock()
            unread = self._receive(now)
            core.tick(now)
            if not self._send(now) and not unread:
                return False
        return True

    def flush(self) -> bool:
        """Send, and nothing else; True if `turn` is necessary afterwards."""
        return self._send(self.clock())

    def spin(self, duration: float) -> bool:
        """Keep trying to receive for up to `duration` seconds, if there is only one link."""
        if len(self._links) != 1:
            return False
        ((number, link),) = self._links.items()
        found = link.pump.read(MAX_PORTION, duration)
        self._feed(number, found, self.clock())
        return bool(found)

    def descriptors(self) -> list[int]:
        """What to wait for, besides the core's next deadline."""
        return [fd for link in self._links.values() for fd in link.descriptors()]

    def close(self) -> None:
        """Close all sockets; what was sent before still leaves."""
        for number in list(self._links):
            self._close(number, LINGER)

    # ---------------------------------------------------------------- in

    def _receive(self, now: float) -> bool:
        """Take in what has arrived; True if there may be more."""
        unread = False
        core = self.core
        portion = min(MAX_PORTION, max(MIN_PORTION, len(core.calls) >> 2))
        for number, link in list(self._links.items()):
            watch = link.watch
            watch.drain()
            if watch.established and self._held_back.get(number) is None:
                self._held_back[number] = []
                self.core.connected(number, now)
            pump = link.pump
            found = pump.read(portion)
            if found:
                self._feed(number, found, now)
            # The end of a connection can be reported before all that it delivered has been read.
            if not pump.drained:
                unread = True
            elif watch.lost:
                for _, message in self._held_back.pop(number, ()):
                    self.core.undelivered(number, message, now)
                self.core.lost(number, now, watch.lost)
                self._close(number, 0.0)
        return unread

    def _feed(
        self, number: int, found: list[tuple[bytes, Message | list[Body]]], now: float
    ) -> None:
        core = self.core
        for _, message in found:
            if type(message) is Message:
                core.receive(number, message, now)
            else:
                counters = core.counters
                counters["dropped:malformed"] = counters.get("dropped:malformed", 0) + 1

    # ---------------------------------------------------------------- out

    def _send(self, now: float) -> bool:
        """Send what there is and see to the links; True if it is necessary to look once more."""
        core = self.core
        out = core.take()
        # Sending may swallow libzmq's sign that something has arrived.
        again = bool(out) and not transport.DIRECT
        if out:
            number = out[0][0]
            # The common case: one link, and all is for it.
            if len(self._links) == 1 and all([entry[0] == number for entry in out]):
                self._send_over(number, out, now)
            else:
                grouped: dict[int, list[Entry]] = {}
                for entry in out:
                    grouped.setdefault(entry[0], []).append(entry)
                for number, group in grouped.items():
                    self._send_over(number, group, now)
        for number, waiting in list(self._held_back.items()):
            if waiting:
                self._held_back[number] = []
                self._push(number, waiting)
        for number, endpoint in core.take_links():
            if endpoint is None:
                self._close(number, LINGER if core.closed else 0.0)
            else:
                self._open(number, endpoint, now)
            again = True
        return again

    def _send_over(self, number: int, entries: list[Entry], now: float) -> None:
        if number not in self._links:
            for _, message in entries:
                self.core.undelivered(number, message, now)
            return
        waiting = self._held_back.get(number)
        if waiting:
            waiting += entries
        else:
            self._push(number, entries)

    def _push(self, number: int, entries: list[Entry]) -> None:
        failed = self._links[number].pump.write(entries)
        if failed:
            # The socket's queue is full. Order must be kept, so the rest waits here, with the core
            # still free to learn that it never left.
            self._held_back.setdefault(number, []).extend([entries[index] for index, _ in failed])

    # ---------------------------------------------------------------- links

    def _open(self, number: int, endpoint: str, now: float) -> None:
        try:
            link = transport.open_link(endpoint, self.core.settings.connect_timeout)
        except Exception as error:  # out of descriptors, no such host: all are reasons to try later
            self.core.lost(number, now, str(error))
            return
        self._links[number] = link
        self.changed += 1
        self.on_open(list(link.descriptors()))

    def _close(self, number: int, linger: float) -> None:
        link = self._links.pop(number, None)
        self._held_back.pop(number, None)
        if link is not None:
            self.changed += 1
            self.on_close(list(link.descriptors()))
            link.close(linger)


def _ignore(descriptors: list[int]) -> None:
    pass
