"""Connections to brokers as the client core knows them: a route for each broker, and its link."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mesh.client.calls import ClientSettings
from mesh.protocol.messages import DRAIN, GOODBYE, HEARTBEAT, Message
from mesh.resilience import Random

CONNECTING, UP, RETIRING = range(3)

FIRST_DELAY = 0.02
MAX_DELAY = 0.9


class Route:
    """One broker's endpoint. `link` is the connection to it, None while there is none.

    One that is no longer `wanted` stays only as long as its connection does.
    """

    __slots__ = ("endpoint", "failures", "link", "open_at", "reason", "wanted")

    def __init__(self, endpoint: str, now: float) -> None:
        self.endpoint = endpoint
        self.link: Link | None = None
        self.open_at = now
        self.failures = 0
        self.reason = "not connected yet"
        self.wanted = True

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
        "number",
        "open",
        "opened_at",
        "route",
        "state",
    )

    def __init__(self, number: int, route: Route, heartbeat: float, now: float) -> None:
        self.number = number
        self.route = route
        self.state = CONNECTING
        self.open = 0
        self.latency = 0.0
        self.heartbeat = heartbeat
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
        return self.asked_at + beats * self.heartbeat

    def begin(self, now: float) -> None:
        """A call is handed over."""
        if not self.open and self.beat_at <= self.heard_at:
            self.beat_at = now  # nothing was to be heard before
        self.open += 1


class Links:
    """All routes and their links; of those that are up, the one to use next.

    It decides when to connect, when a broker has been silent for too long, and what to say to
    brokers about the connection itself, which goes to `out`. `actions` are for the shell: links to
    open (with their endpoint) or to close (None).
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        settings: ClientSettings,
        *,
        greeting: Message,
        rng: Random,
        out: Callable[[tuple[int, Message]], None],
        now: float,
    ) -> None:
        self.routes = [Route(endpoint, now) for endpoint in endpoints]
        self.by_number: dict[int, Link] = {}
        self.usable: list[Link] = []
        self.actions: list[tuple[int, str | None]] = []
        self._settings = settings
        self._greeting = greeting
        self._rng = rng
        self._out = out
        self._last_number = 0
        self._trouble = ""

    def aim(self, endpoints: Sequence[str], trouble: str, now: float) -> None:
        """The brokers are at `endpoints` from now on; `trouble` says why some may be missing.

        Connections to others serve on until they end.
        """
        self._trouble = trouble
        known = {route.endpoint for route in self.routes}
        self.routes += [Route(endpoint, now) for endpoint in endpoints if endpoint not in known]
        for route in self.routes:
            route.wanted = route.endpoint in endpoints
        self.routes = [route for route in self.routes if route.wanted or route.link is not None]

    def choose(self, avoid: int) -> Link | None:
        """The better of two random links, rather not number `avoid`; None if none is up."""
        usable = self.usable
        count = len(usable)
        if count < 2:
            return usable[0] if usable else None
        first = int(self._rng.random() * count)
        second = int(self._rng.random() * (count - 1))
        if second >= first:
            second += 1
        one, other = usable[first], usable[second]
        if one.number == avoid:
            return other
        if other.number == avoid:
            return one
        return one if one.load() <= other.load() else other

    def open_due(self, now: float) -> None:
        """Begin the connections whose time has come."""
        for route in self.routes:
            if route.link is None and route.open_at <= now:
                self._last_number += 1
                link = Link(self._last_number, route, self._settings.heartbeat, now)
                route.link = self.by_number[link.number] = link
                self.actions.append((link.number, route.endpoint))

    def connected(self, number: int, now: float) -> bool:
        """The connection of a link stands; False if that is no news."""
        link = self.by_number.get(number)
        if link is None or link.state != CONNECTING:
            return False
        link.state = UP
        link.heard_at = link.beat_at = now
        self._out((number, self._greeting))
        self.usable.append(link)
        return True

    def drop(self, number: int, reason: str, now: float) -> Link | None:
        """A link is over; its route will be connected again. None if it is unknown."""
        link = self.by_number.pop(number, None)
        if link is not None:
            self.actions.append((number, None))
            self._unuse(link)
            link.route.closed(reason, now, self._rng.random())
            if not link.route.wanted:
                self.routes.remove(link.route)
        return link

    def retire(self, link: Link) -> None:
        """The broker is leaving: nothing new goes there, answers still come."""
        if link.state == UP:
            self._unuse(link)
            link.state = RETIRING
            link.route.reason = "the broker is leaving"
            self._out((link.number, Message(DRAIN)))

    def welcome(self, link: Link, fields: Mapping[str, Any]) -> None:
        """Take the terms of the broker's WELCOME."""
        link.route.failures = 0
        link.route.reason = ""
        heartbeat = fields.get("heartbeat")
        if isinstance(heartbeat, int | float) and 0.1 <= heartbeat <= 10.0:
            link.heartbeat = float(heartbeat)

    def watch(self, now: float) -> list[tuple[int, str]]:
        """Ask silent brokers for a sign of life; which links to give up, and why."""
        over = []
        for link in self.by_number.values():
            if link.state == CONNECTING:
                if now >= link.opened_at + self._settings.connect_timeout:
                    over.append((link.number, "no connection was made in time"))
            elif now >= link.silent_at(self._settings.lost_beats):
                over.append((link.number, "the broker is silent"))
            elif now >= link.due_at():
                link.beat_at = now
                link.asked_at = min(link.asked_at, now)
                self._out((link.number, Message(HEARTBEAT)))
        return over

    def next_at(self) -> float:
        """When `open_due` or `watch` has something to do."""
        at = math.inf
        for route in self.routes:
            link = route.link
            if link is None:
                at = min(at, route.open_at)
            elif link.state == CONNECTING:
                at = min(at, link.opened_at + self._settings.connect_timeout)
            else:
                at = min(at, link.due_at(), link.silent_at(self._settings.lost_beats))
        return at

    def leave(self) -> None:
        """GOODBYE to every broker, for good."""
        for link in self.by_number.values():
            if link.state != CONNECTING:
                self._out((link.number, Message(GOODBYE)))
            self.actions.append((link.number, None))
        self.by_number.clear()
        self.usable.clear()
        self.routes.clear()

    def troubles(self) -> str:
        """Why brokers cannot be asked now, for messages to people."""
        away = [
            f"{route.endpoint}: {route.reason}"
            for route in self.routes
            if route.link is None or route.link.state != UP
        ]
        return "; ".join(filter(None, (*away, self._trouble)))

    def _unuse(self, link: Link) -> None:
        if link in self.usable:
            self.usable.remove(link)

    def check(self) -> None:
        """Assert what must always hold; for tests."""
        for number, link in self.by_number.items():
            assert link.number == number
            assert link.route.link is link
            assert (link in self.usable) == (link.state == UP)
            assert link.open >= 0
        assert len(self.usable) == len(set(map(id, self.usable)))
        assert {id(route.link) for route in self.routes if route.link is not None} == {
            id(link) for link in self.by_number.values()
        }
