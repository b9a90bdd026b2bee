"""What should run, in which order, and when to start again what has ended. Sans-IO.

Brokers first, workers once all brokers are ready; at the end workers first, brokers once all
workers have left. Whoever uses it does what `take` returns and tells what happened.

A rollout replaces what runs, one by one, workers before brokers. A worker's successor is started
beside it, under a new name, and the old one drains once the new one serves. A broker's address can
belong to one process only: it drains first, and is started again under its own name. The first
that does not come to serve ends the rollout; what has not been replaced by then stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """One child process. `since` is the time of its present state.

    `base` is the name of the first in the line of successors that it stands in.
    """

    name: str
    role: str
    base: str
    state: State = "waiting"
    since: float = 0.0
    restarts: int = 0
    failures: int = 0
    """Ends in a row, each soon after its start."""
    start_at: float = 0.0
    kill_at: float = NEVER


@dataclass(slots=True)
class Rollout:
    """How far it has come: who is still to be replaced, who is being replaced, and by whom."""

    queue: list[str] = field(default_factory=list)
    old: str = ""
    new: str = ""
    replaced: int = 0


class Supervision:
    """The state of all members. `status` is the exit code once `done`; `guilty` is the member that
    ended everything by not being able to start.

    `outcome` is None while a rollout goes on, else how the last one ended: empty if all were
    replaced, or why it was stopped.
    """

    def __init__(
        self,
        members: Sequence[tuple[str, str]],
        rng: Random,
        *,
        ready_timeout: float = 30.0,
        drain_timeout: float = 60.0,
    ) -> None:
        """`members`: name and role of each. The timeouts are seconds until a child is killed."""
        self.members = {name: Member(name, role, name) for name, role in members}
        self.draining = False
        self.status = 0
        self.guilty = ""
        self.rollout = Rollout()
        self.outcome: str | None = ""
        self._rng = rng
        self._ready_timeout = ready_timeout
        self._drain_timeout = drain_timeout
        self._brokers_stood = False
        self._stood = False
        self._generation = 1
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
            self._stood |= self.ready

    def ended(self, name: str, now: float, *, hopeless: bool = False) -> None:
        """The child has ended. `hopeless`: another start would end the same way.

        Before everything has served once, that ends everything. Later it is no reason to end what
        serves: the file was changed meanwhile, and may be mended.
        """
        member = self.members[name]
        if not _runs(member):
            return
        was = member.state
        member.kill_at = NEVER
        if self._ended_in_rollout(member, was, now):
            return
        stable = was == "ready" and now - member.since >= STABLE_TTL
        member.failures = 0 if stable else member.failures + 1
        if hopeless and not self._stood and not self.draining:
            self.status = 2
            self.guilty = name
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
        if self.outcome is None:
            self.outcome = "the mesh is being ended"

    def roll(self) -> bool:
        """Begin to replace everything; False, and nothing happens, unless all is ready."""
        if self.outcome is None or self.draining or not self.ready:
            return False
        order = sorted(self.members.values(), key=lambda member: member.role == BROKER)
        self.rollout = Rollout([member.name for member in order])
        self.outcome = None
        self._generation += 1
        return True

    def tick(self, now: float) -> None:
        """Time has passed, or something was told."""
        brokers = [m for m in self.members.values() if m.role == BROKER]
        workers = [m for m in self.members.values() if m.role != BROKER]
        if self.draining:
            leaving = workers if any(map(_runs, workers)) else brokers
            for member in leaving:
                if member.state in ("starting", "ready"):
                    self._drain(member, now)
        else:
            if self.outcome is None:
                self._advance(now)
            self._brokers_stood |= all(m.state == "ready" for m in brokers)
            for member in list(self.members.values()):
                allowed = member.role == BROKER or self._brokers_stood
                if member.state == "waiting" and member.start_at <= now and allowed:
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
        rolling = self.rollout.old if self.outcome is None else ""
        for member in self.members.values():
            assert member.kill_at == NEVER or _runs(member), member
            leaves = self.draining or member.name == rolling
            assert member.state != "draining" or leaves or self.outcome, member
            assert member.state != "ended" or self.draining, member
            assert member.role == BROKER or self._brokers_stood or not _runs(member), member
        bases = [member.base for member in self.members.values()]
        double = {base for base in bases if bases.count(base) > 1}
        assert len(double) <= 1, "more than one is being replaced"

    # ---------------------------------------------------------------- rollout

    def _advance(self, now: float) -> None:
        """Go on as far as what has happened allows."""
        roll = self.rollout
        old, new = self.members.get(roll.old), self.members.get(roll.new)
        if roll.new and roll.new != roll.old:
            if new is not None and new.state == "ready" and old is not None:
                if old.state in ("starting", "ready"):
                    self._drain(old, now)
                elif old.state == "waiting":
                    del self.members[old.name]
                    old = None
            if old is not None:
                return
        elif roll.new and (new is None or new.state != "ready"):
            return
        if roll.new:
            roll.replaced += 1
            roll.old = roll.new = ""
        if not roll.queue:
            self.outcome = ""
            return
        following = self.members[roll.queue.pop(0)]
        roll.old = following.name
        if following.role == BROKER:
            if following.state == "ready":
                self._drain(following, now)
            roll.new = following.name
            return
        roll.new = f"{following.base}.{self._generation}"
        self.members[roll.new] = Member(
            roll.new, following.role, following.base, since=now, start_at=now
        )

    def _ended_in_rollout(self, member: Member, was: State, now: float) -> bool:
        """Whether the end of `member` is part of a rollout, and dealt with here."""
        roll = self.rollout
        if self.draining:
            return False
        successor = member.name == roll.new and roll.new != roll.old
        if self.outcome is None and successor and was == "starting":
            del self.members[member.name]
            self.outcome = f"{member.name}, the successor of {roll.old}, ended before it served"
            return True
        if was != "draining":
            if self.outcome is None and member.name == roll.old == roll.new and was == "starting":
                self.outcome = f"{member.name} ended before it served again"
            return False
        if member.role == BROKER:
            self._enter(member, "waiting", now)
            member.start_at = now
        else:
            del self.members[member.name]
        return True

    def _drain(self, member: Member, now: float) -> None:
        self._enter(member, "draining", now)
        member.kill_at = min(member.kill_at, now + self._drain_timeout)
        self._actions.append(("drain", member.name))

    @staticmethod
    def _enter(member: Member, state: State, now: float) -> None:
        member.state, member.since = state, now


def _runs(member: Member) -> bool:
    return member.state in ("starting", "ready", "draining")
