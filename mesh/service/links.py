"""One broker as the session knows it: where it is, and the state of the connection to it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.service.requests import Request

WAITING, CONNECTING, LIVE, RETIRING = range(4)

FIRST_BACKOFF = 0.02
MAX_BACKOFF = 1.0
MIN_HEARTBEAT = 0.1
MAX_HEARTBEAT = 10.0
SILENT_BEATS = 10


class Link:
    """The connection to the broker at `endpoint`; `number` is new each time it is made.

    `quiet` says that nothing was sent since the last look at `beat_at`. `announced` is the window
    of each lane as the broker knows it. `requests` are those in hand from there, by tag. One that
    is no longer `wanted` is not made again.
    """

    __slots__ = (
        "announced",
        "attempts",
        "beat_at",
        "broker",
        "endpoint",
        "heard_at",
        "heartbeat",
        "leave_at",
        "number",
        "opened_at",
        "quiet",
        "requests",
        "state",
        "wake_at",
        "wanted",
    )

    def __init__(self, endpoint: str, now: float) -> None:
        self.endpoint = endpoint
        self.number = 0
        self.state = WAITING
        self.wake_at = now
        self.wanted = True
        self.attempts = 0
        self.requests: dict[int, Request] = {}
        self.announced: dict[str, int] = {}
        self.broker = ""
        self.open(now, 0.5)
        self.state = WAITING

    def open(self, now: float, heartbeat: float) -> None:
        """A new connection begins."""
        self.state = CONNECTING
        self.heartbeat = heartbeat
        self.opened_at = now
        self.heard_at = now
        self.beat_at = now + heartbeat / 2
        self.leave_at = math.inf
        self.quiet = True

    def welcome(self, fields: dict[str, Any], now: float) -> None:
        """Take the terms of the broker's WELCOME."""
        interval = fields.get("heartbeat")
        if isinstance(interval, int | float) and MIN_HEARTBEAT <= interval <= MAX_HEARTBEAT:
            self.heartbeat = float(interval)
        broker = fields.get("broker")
        self.broker = broker[:100] if isinstance(broker, str) else ""
        self.beat_at = min(self.beat_at, now + self.heartbeat / 2)
        self.attempts = 0

    def gives_up_at(self, register_ttl: float) -> float:
        """When the broker, if it stays silent, counts as lost."""
        if self.state == CONNECTING:
            return self.opened_at + register_ttl
        return self.heard_at + SILENT_BEATS * self.heartbeat

    def close(self, now: float, chance: float) -> None:
        """The connection has ended. `chance` (0 to 1) spreads the attempts of many workers."""
        delay = min(MAX_BACKOFF, FIRST_BACKOFF * 2.0 ** min(self.attempts, 10))
        self.attempts += 1
        self.wake_at = now + delay * (0.5 + 0.5 * chance)
        self.state = WAITING
