"""What should run, in which order, and when to start again what has ended. Sans-IO.

Brokers first, workers once all brokers are ready; at the end workers first, brokers once all
workers have left. Whoever uses it does what `take` returns and tells what happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mesh.resilience.backoff import Random, backoff

Action = Literal["start", "drain", "kill"]
State = Literal["waiting", "starting", "ready", "draining", "ended"]

BROKER: Final = "broker"
WORKER: Final = "worker"
FIRST_BACKOFF: Final = 0.1
MAX_BACKOFF: Final = 5.0
STABLE_TTL: Final = 10.0
"""Seconds of being ready after which an end is no longer part of a crash loop."""
NEVER: Final = float("inf")


@dataclass(slots=True)
class Member:
    """One child process. `since` is the time of its present state."""

    name: str
    role: str
    state: State = "waiting"
    since: float = 0.0
    restarts: int = 0
    failures: int = 0
    """Ends in a row, each soon after its start."""
    start_at: float = 0.0
    kill_at: float = NEVER


class Supervision:
    """The state of all members. `status` is the exit code once `done`."""

    def __init__(
        self,
        members: Sequence[tuple[str, str]],
        rng: Random,
        *,
        ready_timeout: float = 30.0,
        drain_timeout: float = 60.0,
    ) -> None:
        """`members`: name and role of each. The timeouts are seconds until a child is killed."""
        self.members = {name: Member(name, role) for name, role in members}
        self.draining = False
        self.status = 0
        self._rng = rng
        self._ready_timeout = ready_timeout
        self._drain_timeout = drain_timeout
        self._brokers_stood = False
        self._actions: list[tuple[Action, str]] = []

    @property
    def ready(self) -> bool:
        """Whether everything serves."""
        return all(member.state == "ready" for member in self.members.values())

    @property
    def done(self) -> bool:
        """Whether it drains, and nothing runs any more."""
        return self.draining and not any(map(_runs, self.members.values()))

    def became_ready(self, name: str, now: float) -> None:
        """The child has said that it serves."""
        member = self.members[name]
        if member.state == "starting":
            self._enter(member, "ready", now)
            member.kill_at = NEVER

    def ended(self, name: str, now: float, *, hopeless: bool = False) -> None:
        """The child has ended. `hopeless`: another start would end the same way."""
        member = self.members[name]
        if not _runs(member):
            return
        stable = member.state == "ready" and now - member.since >= STABLE_TTL
        member.failures = 0 if stable else member.failures + 1
        member.kill_at = NEVER
        if hopeless and not self.draining:
            self.status = 1
            self.drain(now)
        self._enter(member, "ended" if self.draining else "waiting", now)
        if self.draining:
            return
        member.restarts += 1
        # Half of it is certain: a pause that chance makes zero would be none.
        pause = min(MAX_BACKOFF, FIRST_BACKOFF * 2.0 ** min(member.failures, 10))
        member.start_at = now + pause / 2 + backoff(0, self._rng, base=pause / 2, cap=pause / 2)

    def drain(self, now: float) -> None:
        """Begin to end everything; a second time: at once."""
        if self.draining:
            for member in self.members.values():
                if _runs(member):
                    member.kill_at = now
        self.draining = True

    def tick(self, now: float) -> None:
        """Time has passed, or something was told."""
        brokers = [m for m in self.members.values() if m.role == BROKER]
        workers = [m for m in self.members.values() if m.role != BROKER]
        if self.draining:
            leaving = workers if any(map(_runs, workers)) else brokers
            for member in leaving:
                if member.state in ("starting", "ready"):
                    self._enter(member, "draining", now)
                    member.kill_at = min(member.kill_at, now + self._drain_timeout)
                    self._actions.append(("drain", member.name))
        else:
            self._brokers_stood |= all(m.state == "ready" for m in brokers)
            for member in (*brokers, *(workers if self._brokers_stood else ())):
                if member.state == "waiting" and member.start_at <= now:
                    self._enter(member, "starting", now)
                    member.kill_at = now + self._ready_timeout
                    self._actions.append(("start", member.name))
        for member in self.members.values():
            if _runs(member) and member.kill_at <= now:
                member.kill_at = NEVER
                self._actions.append(("kill", member.name))

    def next_deadline(self) -> float:
        """When `tick` has something to do next; infinity if only events can give it some."""
        due = [member.kill_at for member in self.members.values() if _runs(member)]
        if not self.draining:
            due += [
                member.start_at
                for member in self.members.values()
                if member.state == "waiting" and (member.role == BROKER or self._brokers_stood)
            ]
        return min(due, default=NEVER)

    def take(self) -> list[tuple[Action, str]]:
        """What is to be done now, in order."""
        actions, self._actions = self._actions, []
        return actions

    def check(self) -> None:
        """All invariants, for tests."""
        for member in self.members.values():
            assert member.kill_at == NEVER or _runs(member), member
            assert member.state != "draining" or self.draining, member
            assert member.state != "ended" or self.draining, member
            assert member.role == BROKER or self._brokers_stood or not _runs(member), member

    @staticmethod
    def _enter(member: Member, state: State, now: float) -> None:
        member.state, member.since = state, now


def _runs(member: Member) -> bool:
    return member.state in ("starting", "ready", "draining")
