"""Counts what the interpreter executes for one request and its reply, in brokers of any size.

Lines of Python and calls of built-in functions are counted, not seconds: the numbers are the same
on every machine. It runs as a program of its own, on the modules in their plain form:

    SAGE_PUMP=pure python -m tests.unit.broker.cost
"""

from __future__ import annotations

import json
import sys
from types import FrameType
from typing import Any

from broker.router import Router
from broker.state import RouterSettings
from mesh.protocol import payload
from mesh.protocol.messages import FINAL, IDEMPOTENT, READY, REQUEST, Message

BODY = [b"x" * 32]
NOW = 100.0


class Counter:
    """Counts while it is entered."""

    def __init__(self) -> None:
        self.lines = 0

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        self.lines += 1
        return self._trace

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        self.lines += event == "c_call"

    def __enter__(self) -> Counter:
        sys.setprofile(self._profile)
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        sys.setprofile(None)


def broker(workers: int, waiting: int = 0, clients: int = 1) -> Router:
    """A router whose workers have ten seats each, all taken if requests are `waiting`."""
    router = Router(RouterSettings(max_queue=1_000_000, max_held_bytes=1 << 40), "b")
    router.tick(NOW)
    ready = payload.encode({"lanes": {"": 10}})
    for number in range(workers):
        router.receive(b"w%d" % number, Message(READY, service=b"echo", frames=[ready]), NOW)
    sequence = 1000
    for number in range(workers * 10 + waiting if waiting else 0):
        sequence += 1
        router.receive(b"c%d" % (number % clients), request(sequence), NOW)
    router.take()
    return router


def request(sequence: int) -> Message:
    return Message(
        REQUEST,
        IDEMPOTENT,
        2,
        incarnation=1,
        sequence=sequence,
        service=b"echo",
        method=b"m",
        frames=BODY,
    )


def round_trip(router: Router) -> int:
    """What one request costs and one reply, which belongs to another request if some wait."""
    found: list[int] = []
    for sequence in range(1, 6):
        asked = request(sequence)
        with Counter() as counter:
            router.receive(b"c0", asked, NOW)
            out = router.take()
            router.next_deadline()
        if out:
            peer, message = out[0]
            tag = message.tag
        else:
            peer = b"w0"
            tag = next(iter(router.workers[peer].calls))
        reply = Message(FINAL, tag=tag, frames=BODY)
        with counter:
            router.receive(peer, reply, NOW)
            router.take()
            router.next_deadline()
        found.append(counter.lines)
    return max(found[1:])  # the first makes the client and a slot of the wheel


def loss(router: Router) -> int:
    """What it costs to lose a worker."""
    with Counter() as counter:
        router.lost(b"w0", NOW)
        router.take()
    return counter.lines


def cancel_all(router: Router) -> float:
    """What it costs, per call, when a client with many waiting calls leaves."""
    calls = len(router.clients[b"c0"].calls)
    with Counter() as counter:
        router.lost(b"c0", NOW)
        router.take()
    return counter.lines / calls


if __name__ == "__main__":
    print(
        json.dumps(
            {
                "free": {n: round_trip(broker(n)) for n in (1, 1_000, 10_000)},
                "waiting": {n: round_trip(broker(1, n)) for n in (10, 100_000)},
                "waiting of many clients": {
                    n: round_trip(broker(1, n, 1_000)) for n in (1_000, 100_000)
                },
                "loss": {n: loss(broker(n)) for n in (2, 10_000)},
                "a client leaves": {n: cancel_all(broker(1, n)) for n in (100, 10_000)},
            }
        )
    )
