"""Messages that the full queue of a peer has refused: kept in order until it takes them again.

libzmq keeps what a peer has not read yet, up to a number of messages, and refuses the rest. An
answer that is refused must not be thrown away, since its caller would wait for it in vain; nor may
a later one overtake it. A peer that reads nothing at all must not fill the broker's memory, so what
is kept of one peer is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from errno import EAGAIN

from mesh.protocol.messages import Body

Frames = Sequence[Body]
Send = Callable[[Sequence[Frames]], list[tuple[int, int]]]

MAX_MESSAGES = 10_000
MAX_OCTETS = 64 * 1024 * 1024
MAX_TOTAL = 512 * 1024 * 1024
OVERHEAD = 256
RETRY_EVERY = 0.01
AT_ONCE = 256


class _Peer:
    __slots__ = ("octets", "refused")

    def __init__(self) -> None:
        self.refused: deque[Frames] = deque()
        self.octets = 0


class Backlog:
    """What could not be sent yet, by peer. True while there is anything.

    A message may always be kept if nothing else of its peer is; more than MAX_MESSAGES, or
    MAX_OCTETS, put the peer into `overfull`, for the owner to part with. Where all of them together
    come to more than MAX_TOTAL, those do with most.
    """

    def __init__(self) -> None:
        self._peers: dict[bytes, _Peer] = {}
        self.overfull: set[bytes] = set()
        self.retry_at = 0.0
        self._octets = 0

    def __bool__(self) -> bool:
        return bool(self._peers)

    def __contains__(self, peer: bytes) -> bool:
        return peer in self._peers

    def __iter__(self) -> Iterator[bytes]:
        return iter(list(self._peers))

    def add(self, peer: bytes, frames: Frames) -> None:
        """Keep `frames`, which are to follow all that is kept of `peer`."""
        held = self._peers.get(peer)
        if held is None:
            held = self._peers[peer] = _Peer()
        held.refused.append(frames)
        octets = _octets(frames)
        held.octets += octets
        self._octets += octets
        count = len(held.refused)
        if count > MAX_MESSAGES or (count > 1 and held.octets > MAX_OCTETS):
            self.overfull.add(peer)
        elif self._octets > MAX_TOTAL and not self.overfull:
            self.overfull.add(max(self._peers, key=lambda peer: self._peers[peer].octets))

    def retry(self, peer: bytes, send: Send) -> int:
        """Send what is kept of `peer`, as far as it goes; how many were dropped as it is gone."""
        held = self._peers[peer]
        refused = held.refused
        while refused:
            batch = [refused[index] for index in range(min(AT_ONCE, len(refused)))]
            failures = send(batch)
            sent = failures[0][0] if failures else len(batch)  # what follows a failure fails alike
            for _ in range(sent):
                octets = _octets(refused.popleft())
                held.octets -= octets
                self._octets -= octets
            if failures and failures[0][1] == EAGAIN:
                return 0
            if failures:
                self.discard(peer)
                return len(refused)
        self.discard(peer)
        return 0

    def discard(self, peer: bytes) -> None:
        """Forget what is kept of `peer`, if anything is."""
        held = self._peers.pop(peer, None)
        if held is not None:
            self._octets -= held.octets
        self.overfull.discard(peer)


def _octets(frames: Frames) -> int:
    return sum(map(len, frames)) + OVERHEAD
