"""A load for the routing core in process. As a program: how many function calls a request makes.

Prints one JSON line, for each shape the calls per request.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections import deque
from types import FrameType

from bench.harness import Figures
from broker.router import Router
from broker.state import RouterSettings
from mesh.protocol import payload
from mesh.protocol.messages import FINAL, HELLO, READY, REQUEST, Message

SHAPES = tuple(itertools.product((1, 1_000, 10_000), (1, 100_000)))
BATCH = 64
CLIENTS = 100
WINDOW = 4
BODY = bytes(32)
BETWEEN = 5e-6  # virtual seconds from one request to the next


class Load:
    """A router whose workers have their windows full and whose queue holds `waiting` requests."""

    def __init__(self, workers: int, waiting: int) -> None:
        settings = RouterSettings(max_queue=10 * waiting + 100_000, max_held_bytes=1 << 40)
        self.now = 0.0
        self.router = Router(settings)
        self.router.tick(self.now)
        self.sequences = itertools.count(1)
        self.in_hand: deque[tuple[bytes, Message]] = deque()
        self.peers = [b"client %d" % number for number in range(CLIENTS)]
        for peer in self.peers:
            self.router.receive(peer, Message(HELLO, incarnation=1), self.now)
        ready = payload.encode({"lanes": {"": WINDOW}, "methods": {"echo": {}}, "heartbeat": 10.0})
        self.workers = {b"worker %d" % number for number in range(workers)}
        for peer in self.workers:
            self.router.receive(peer, Message(READY, service=b"bench", frames=[ready]), self.now)
        self.router.take()
        for message in self.requests(workers * WINDOW + waiting):
            self.router.receive(self.peers[message.sequence % CLIENTS], message, self.now)
        self.collect()

    def requests(self, count: int) -> list[Message]:
        return [
            Message(
                REQUEST,
                priority=2,
                timeout=30.0,
                incarnation=1,
                sequence=next(self.sequences),
                service=b"bench",
                method=b"echo",
                frames=[BODY],
            )
            for _ in range(count)
        ]

    def collect(self) -> None:
        """Take what the router sends; keep what workers have been given."""
        self.in_hand += [
            (peer, message)
            for peer, message in self.router.take()
            if message.command == REQUEST and peer in self.workers
        ]

    def arrivals(self) -> list[tuple[bytes, Message]]:
        """One batch: for each reply of a worker a new request of a client."""
        batch: list[tuple[bytes, Message]] = []
        pairs = min(BATCH, len(self.in_hand))
        for request in self.requests(pairs):
            peer, given = self.in_hand.popleft()
            final = Message(
                FINAL,
                tag=given.tag,
                incarnation=given.incarnation,
                sequence=given.sequence,
                frames=[BODY],
            )
            batch += [(peer, final), (self.peers[request.sequence % CLIENTS], request)]
        return batch

    def feed(self, batch: list[tuple[bytes, Message]]) -> None:
        """As the broker's shell does it: receive all, tick once."""
        receive = self.router.receive
        now = self.now
        for peer, message in batch:
            receive(peer, message, now)
        self.router.tick(now)
        self.router.next_deadline()

    def seconds(self, requests: int) -> float:
        """Seconds per request, through request, dispatch, reply."""
        spent = 0.0
        done = 0
        while done < requests:
            batch = self.arrivals()
            self.now += BETWEEN * len(batch) / 2
            begun = time.perf_counter()
            self.feed(batch)
            spent += time.perf_counter() - begun
            done += len(batch) // 2
            self.collect()
        return spent / done

    def calls(self, requests: int) -> float:
        """Function calls per request, without the clock moving: no timers, only the work."""
        made = 0
        done = 0

        def watch(_frame: FrameType, event: str, _argument: object) -> None:
            nonlocal made
            if event in ("call", "c_call"):
                made += 1

        while done < requests:
            batch = self.arrivals()
            sys.setprofile(watch)
            self.feed(batch)
            sys.setprofile(None)
            done += len(batch) // 2
            self.collect()
        return made / done


def counted() -> Figures:
    """Function calls per request, for each shape."""
    return {
        f"calls {workers:,}w {waiting:,}q": Load(workers, waiting).calls(1_000)
        for workers, waiting in SHAPES
    }


if __name__ == "__main__":
    print(json.dumps(counted()), flush=True)
