"""What a broker tells over HTTP: its status, taken in the thread that routes."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Event
from time import monotonic
from typing import Any

from prometheus_client.core import Metric

from broker import admin
from broker.server import Server
from mesh.monitoring import families
from mesh.monitoring.http import Unresponsive

ANSWER_TTL = 2.0


class BrokerSource:
    """The figures of the broker that `server` runs."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def status(self) -> dict[str, Any]:
        """As `mesh.broker.status` answers. Raises Unresponsive."""
        found: dict[str, Any] = {}
        done = Event()

        def look() -> None:
            found.update(admin.status(self._server.router, monotonic()))
            done.set()

        self._server.ask(look)
        if not done.wait(ANSWER_TTL):
            raise Unresponsive(f"the broker's loop has not turned for {ANSWER_TTL:g} s")
        return found

    def unready(self) -> list[str]:
        """A broker that drains takes no new requests. Raises Unresponsive."""
        return ["the broker is leaving"] if self.status()["draining"] else []

    def families(self) -> Iterable[Metric]:
        """The figures, and those of the process. Raises Unresponsive."""
        return [*families.of_broker(self.status()), *families.of_process()]
