"""What the mesh itself did lately: a bounded ring of events. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker.state import Call, Worker

KEPT = 2000
MERGED_WITHIN = 1.0


@dataclass(slots=True)
class Event:
    """Something that happened at `at` (the router's clock), and `count` - 1 times soon after.

    `number` grows by one with each event. `worker` says which, for people; `request` is the id of
    the first request that it befell. Empty: it has none.
    """

    number: int
    at: float
    event: str
    reason: str = ""
    service: str = ""
    lane: str = ""
    worker: str = ""
    request: str = ""
    count: int = 1

    def facts(self) -> dict[str, Any]:
        """What there is to say of it, without its time and number."""
        found = asdict(self)
        return {k: v for k, v in found.items() if v and k not in ("number", "at", "count")}

    def line(self) -> str:
        """The same in words."""
        return " ".join(
            f"{value}" if name in ("event", "reason") else f"{name}={value!r}"
            for name, value in self.facts().items()
        )


class History:
    """The last `kept` events. What happens again, the same to the same, within a second of the
    first time only raises its count: a flood is one event a second."""

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self.last = 0
        self.events: deque[Event] = deque()
        self._latest: dict[tuple[str, str, str, str, str], Event] = {}

    def note(
        self,
        now: float,
        what: str,
        *,
        worker: Worker | None = None,
        service: bytes = b"",
        lane: bytes = b"",
        call: Call | None = None,
    ) -> None:
        """Enter `what`, as counters name it: `lost:silent` is the event lost for this reason."""
        event, _, reason = what.partition(":")
        if worker is not None:
            service = worker.service.name
        name, where = _text(service), _text(lane)
        who = f"pid {worker.pid} on {worker.host or '?'}" if worker is not None else ""
        key = (event, reason, name, where, who)
        same = self._latest.get(key)
        if same is not None and now - same.at < MERGED_WITHIN:
            same.count += 1
            return
        self.last += 1
        request = f"{call.incarnation:016x}-{call.sequence}" if call is not None else ""
        entry = Event(self.last, now, event, reason, name, where, who, request)
        self._latest[key] = entry
        self.events.append(entry)
        if len(self.events) > self.kept:
            oldest = self.events.popleft()
            known = (oldest.event, oldest.reason, oldest.service, oldest.lane, oldest.worker)
            if self._latest.get(known) is oldest:
                del self._latest[known]

    def since(self, number: int) -> list[Event]:
        """The events after that number that are still kept, oldest first."""
        missing = self.last - number
        if missing <= 0:
            return []
        events = list(self.events)
        return events[-missing:] if missing < len(events) else events

    def told(self, now: float, after: int = 0) -> dict[str, Any]:
        """Plain data: `last`, the number of the latest event, and those after `after`.

        Instead of a time each has its `age` in seconds.
        """
        events = []
        for entry in self.since(after):
            facts = asdict(entry)
            events.append({"age": now - facts.pop("at"), **facts})
        return {"last": self.last, "events": events}


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
