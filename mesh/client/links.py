"""Connections to brokers as the client core knows them: a route for each broker, and its link."""

from __future__ import annotations

import math

CONNECTING, UP, RETIRING = range(3)

FIRST_DELAY = 0.02
MAX_DELAY = 0.9


class Route:
    """One broker's endpoint. `link` is the connection to it, None while there is none."""

    __slots__ = ("endpoint", "failures", "link", "open_at", "reason")

    def __init__(self, endpoint: str, now: float) -> None:
        self.endpoint = endpoint
        self.link: Link | None = None
        self.open_at = now
        self.failures = 0
        self.reason = "not connected yet"

    def closed(self, reason: str, now: float, chance: float) -> None:
        """The link is over. `chance` (0 to 1) spreads the attempts of many clients."""
        delay = min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(self.failures, 10))
        self.failures += 1
        self.open_at = now + delay * (0.5 + 0.5 * chance)
        self.link = None
        self.reason = reason


class Link:
    """One connection, never used again when it has ended.

    `open` counts the calls that were handed to it and have not ended. `beat_at` is when a sign of
    life was last asked for, and `asked_at` when first since it was heard (infinite: not asked).
    """

    __slots__ = (
        "asked_at",
        "beat_at",
        "heard_at",
        "heartbeat",
        "latency",
        "max_body",
        "number",
        "open",
        "opened_at",
        "route",
        "state",
    )

    def __init__(
        self, number: int, route: Route, heartbeat: float, max_body: int, now: float
    ) -> None:
        self.number = number
        self.route = route
        self.state = CONNECTING
        self.open = 0
        self.latency = 0.0
        self.heartbeat = heartbeat
        self.max_body = max_body
        self.opened_at = now
        self.heard_at = now
        self.beat_at = now
        self.asked_at = math.inf

    def load(self) -> tuple[int, float]:
        """What the choice between two links is made by: less is better."""
        return (self.open, self.latency)

    def due_at(self) -> float:
        """When it is time for the next HEARTBEAT; infinite while no call is open."""
        return max(self.heard_at, self.beat_at) + self.heartbeat if self.open else math.inf

    def silent_at(self, beats: int) -> float:
        """When the broker, if it stays silent, counts as lost."""
        return self.asked_at + beats * self.heartbeat if self.open else math.inf
