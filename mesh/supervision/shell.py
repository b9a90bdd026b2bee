"""Runs a `Supervision` over child processes, in the foreground."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from mesh.cli.output import Failure
from mesh.cli.processes import Process, broker_command, broker_environment
from mesh.errors import ConfigError
from mesh.monitoring.together import address_in
from mesh.protocol.endpoints import is_local
from mesh.settings import Settings, binds, wanted
from mesh.supervision.core import BROKER, WORKER, Supervision

HOPELESS = {BROKER: 2, WORKER: 78}
"""Exit statuses that say that the configuration is wrong."""
LAST_LINES = 3
CONTROL_TTL = 10.0
# A wait is not ended by a signal that came just before it, or to another thread: its handler runs
# when the wait ends by itself.
LONGEST_WAIT = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """A child: the command under each name it may have, and which lines say that it serves."""

    role: str
    command: Callable[[str], list[str]]
    prefix: str
    count: int


def plans(settings: Settings, config: str | None, monitored: Path | None) -> dict[str, Plan]:
    """Everything that the settings ask for, by name; what it tells of itself goes to `monitored`.

    `brokers` lists several brokers, if nothing says where the one of this file listens: one is
    started for each endpoint of this machine.
    """
    own = settings.broker
    several = () if own.bind or own.bind_clients or own.bind_workers else settings.brokers
    found: dict[str, Plan] = {}

    def extra(name: str) -> list[str]:
        where = [] if monitored is None else ["--monitor", address_in(monitored, name)]
        return where + (["--config", config] if config is not None else [])

    def broker(*endpoints: str) -> Callable[[str], list[str]]:
        return lambda name: broker_command(endpoints, extra(name))

    def worker(service: str) -> Callable[[str], list[str]]:
        return lambda name: [sys.executable, "-P", "-m", "workers", service, *extra(name)]

    if several:
        for number, endpoint in enumerate(filter(is_local, several), 1):
            found[f"broker-{number}"] = Plan(BROKER, broker(endpoint), "listening ", 1)
    else:
        count = sum(map(len, binds(settings).values()))
        found["broker-1"] = Plan(BROKER, broker(), "listening ", count)
    for service, asked in wanted(settings).items():
        found[service] = Plan(WORKER, worker(service), "serving ", asked.processes)
    return found


Event = dict[str, Any]


class Shell:
    """The children of one mesh. `tell` is given every line and change, from any thread.

    `renew` gives the plans anew for a rollout, from the configuration as it is then.
    """

    def __init__(
        self,
        children: dict[str, Plan],
        tell: Callable[[Event], object],
        drain_timeout: float,
        renew: Callable[[], dict[str, Plan]],
    ) -> None:
        members = [(name, plan.role) for name, plan in children.items()]
        self.core = Supervision(members, random.Random(), drain_timeout=drain_timeout)
        self._plans = children
        self._renew = renew
        self._rolled = threading.Event()
        self._facts: dict[str, dict[str, Any]] = {}
        self._tell = tell
        self._running: dict[str, Process] = {}
        self._news: SimpleQueue[Callable[[float], None]] = SimpleQueue()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; the exit code. To be called in the main thread.

        On SIGHUP the brokers read their configuration again; if it says that the terminal is gone,
        it is an end like the others.
        """
        on = dict.fromkeys((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), self.core.drain)
        if not any(map(os.isatty, range(3))):
            on[signal.SIGHUP] = self._reload
        before = {n: signal.signal(n, partial(self._signalled, on[n])) for n in on}
        announced = False
        try:
            while not self.core.done:
                now = time.monotonic()
                self.core.tick(now)
                for action, name in self.core.take():
                    self._do(action, name)
                if self.core.outcome is not None and not self._rolled.is_set():
                    self._rolled.set()
                if self.core.ready and not announced:
                    announced = True
                    self._tell({"event": "ready"})
                due = self.core.next_deadline() - time.monotonic()
                try:
                    happened = self._news.get(timeout=min(max(0.0, due), LONGEST_WAIT))
                except Empty:
                    continue
                happened(time.monotonic())
            if self.core.guilty:
                last = self._facts[self.core.guilty].get("last", "")
                self._tell({"event": "failed", "guilty": self.core.guilty, "last": last})
            return self.core.status
        finally:
            for process in self._running.values():
                process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, then: Callable[[float], None], *_: object) -> None:
        self._news.put(then)

    def _reload(self, now: float) -> None:
        for member in self.core.members.values():
            if member.role == BROKER and member.state == "ready":
                self._tell({"event": "reload", "process": member.name})
                self._running[member.name].signal(signal.SIGHUP)

    def missing(self) -> list[str]:
        """Which children do not serve; from any thread."""
        members = list(self.core.members.values())
        return [f"{m.name} is {m.state}" for m in members if m.state != "ready"]

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What a request over the control socket is answered with; from any other thread."""
        match request["do"]:
            case "members":
                return self._ask(lambda now: {"pid": os.getpid(), "members": self.told(now)})
            case "rollout":
                return self._rollout()
            case unknown:
                return {"error": f"{unknown!r} is nothing that can be asked"}

    def told(self, now: float) -> list[dict[str, Any]]:
        """What runs: `name`, `role`, `state`, `pid`, `since` (s), `restarts`, `serves`, `last`.

        `restarts` are those of the child, and of the processes that it keeps running itself.
        """
        found = []
        for member in list(self.core.members.values()):
            running = self._running.get(member.name)
            facts = self._facts.get(member.name, {})
            found.append(
                {
                    "name": member.name,
                    "role": member.role,
                    "state": member.state,
                    "pid": running.pid if running is not None else None,
                    "since": round(now - member.since, 3),
                    "restarts": member.restarts + facts.get("restarts", 0),
                    "serves": [text for text in facts.get("serves", []) if _serves_still(text)],
                    "last": facts.get("last", ""),
                }
            )
        return found

    def _ask(self, job: Callable[[float], dict[str, Any]]) -> dict[str, Any]:
        """The result of `job`, run between two changes."""
        found: dict[str, Any] = {}
        done = threading.Event()

        def run(now: float) -> None:
            found.update(job(now))
            done.set()

        self._news.put(run)
        return found if done.wait(CONTROL_TTL) else {"error": "the supervisor does not answer"}

    def _rollout(self) -> dict[str, Any]:
        def begin(now: float) -> dict[str, Any]:
            if not self.core.ready:
                waiting = ", ".join(self.missing())
                return {"error": f"not all is ready: {waiting}", "hint": "wait, or mend it first"}
            try:
                plans = self._renew()
            except (ConfigError, Failure) as error:
                return {"error": f"nothing was replaced: {error}", "hint": "mend the configuration"}
            if plans.keys() != self._plans.keys():
                differing = ", ".join(sorted(plans.keys() ^ self._plans.keys()))
                hint = "end the mesh and start it again to add or leave out processes"
                return {"error": f"the configuration now differs in {differing}", "hint": hint}
            if not self.core.roll():
                return {"error": "a rollout is under way", "hint": "wait until it has ended"}
            self._plans = plans
            self._rolled.clear()
            return {}

        answer = self._ask(begin)
        if answer:
            return answer
        self._rolled.wait()
        replaced, outcome = self.core.rollout.replaced, self.core.outcome
        if outcome:
            return {
                "error": f"the rollout was stopped after {replaced}: {outcome}",
                "hint": "what was not replaced still runs; the output of `up` says more",
            }
        return {"replaced": replaced}

    def _do(self, action: str, name: str) -> None:
        self._tell({"event": action, "process": name})
        if action == "start":
            self._start(name)
        elif name in self._running:
            self._running[name].signal(signal.SIGTERM if action == "drain" else signal.SIGKILL)

    def _start(self, name: str) -> None:
        plan, seen = self._plans[self.core.members[name].base], 0
        facts = self._facts.setdefault(name, {})
        facts["serves"] = []

        def line(text: str) -> None:
            nonlocal seen
            self._tell({"event": "output", "process": name, "text": text})
            if text.startswith(plan.prefix):
                still = filter(_serves_still, facts["serves"])
                facts["serves"] = [*still, text.removeprefix(plan.prefix)]
                seen += 1
                if seen == plan.count:
                    self._news.put(lambda now: self.core.became_ready(name, now))
                elif seen > plan.count:
                    facts["restarts"] = facts.get("restarts", 0) + 1

        process = Process(plan.command(name), env=broker_environment(), tell=line, apart=True)
        self._running[name] = process

        def wait() -> None:
            process.wait()
            self._news.put(lambda now: self._ended(name, now))

        threading.Thread(target=wait, daemon=True).start()

    def _ended(self, name: str, now: float) -> None:
        process = self._running.pop(name)
        status = process.end()
        role, expected = self.core.members[name].role, self.core.members[name].state == "draining"
        self.core.ended(name, now, hopeless=status == HOPELESS[role])
        event: Event = {"event": "ended", "process": name, "status": status}
        member = self.core.members.get(name)
        if member is None:
            self._facts.pop(name, None)
        elif member.state == "waiting":
            event["restart_in"] = round(member.start_at - now, 2)
        if not expected:
            event["last_lines"] = process.output.splitlines()[-LAST_LINES:]
            if member is not None:
                member_facts = self._facts.setdefault(name, {})
                member_facts["last"] = f"ended with {status}: " + "; ".join(event["last_lines"])
        self._tell(event)


def _serves_still(text: str) -> bool:
    """Whether the process that a line "serving ... pid=N" is about is there."""
    _, mark, pid = text.rpartition("pid=")
    if not mark or not pid.isdecimal():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True
