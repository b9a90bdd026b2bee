"""Runs a `Supervision` over child processes, in the foreground."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from mesh.cli.output import Failure
from mesh.cli.processes import Process, broker_command, broker_environment
from mesh.monitoring.together import address_in
from mesh.protocol.endpoints import is_local
from mesh.settings import Settings, binds
from mesh.supervision.core import BROKER, NEVER, WORKER, Supervision

HOPELESS = {BROKER: 2, WORKER: 78}
"""Exit statuses that say that the configuration is wrong."""
LAST_LINES = 3
LOCK = "up.lock"


@dataclass(frozen=True, slots=True)
class Plan:
    """A child: how it is started, and which lines, how many of them, say that it serves."""

    role: str
    command: list[str]
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

    if several:
        for number, endpoint in enumerate(filter(is_local, several), 1):
            name = f"broker-{number}"
            found[name] = Plan(BROKER, broker_command([endpoint], extra(name)), "listening ", 1)
    else:
        name, count = "broker-1", sum(map(len, binds(settings).values()))
        found[name] = Plan(BROKER, broker_command([], extra(name)), "listening ", count)
    for service, processes in (("memory", settings.services.memory.processes),):
        command = [sys.executable, "-P", "-m", "workers", service, *extra(service)]
        found[service] = Plan(WORKER, command, "serving ", processes)
    return found


def monitored_in(folder: Path) -> Path:
    """Where the children of the mesh in that run folder tell of themselves.

    Raises:
        Failure: the folder cannot be used.
    """
    path = folder / "monitor"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", "name another folder: --run DIR") from None
    for left_behind in path.glob("*.sock"):
        left_behind.unlink()
    return path


def run_folder(settings: Settings, chosen: str | None) -> Path:
    """Where the running mesh is noted: by choice, in XDG_RUNTIME_DIR, or beside the data.

    Raises:
        Failure: none of these is given.
    """
    runtime, data = os.environ.get("XDG_RUNTIME_DIR"), settings.services.memory.data
    if chosen:
        return Path(chosen)
    if runtime:
        return Path(runtime) / "sage-mesh"
    if data:
        return Path(f"{data.rstrip('/')}.run")
    raise Failure("there is no place to note that the mesh runs", "name a folder: --run DIR")


def claim(folder: Path) -> int:
    """Take the run folder for this process, until it ends; the open lock file.

    Raises:
        Failure: another mesh has it, or it cannot be used.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Failure(f"{folder}: {error.strerror}", "name another folder: --run DIR") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(lock, 20, 0).decode().strip()
        os.close(lock)
        raise Failure(
            f"a mesh runs already in {folder} (pid {pid})",
            "end it with `sage-mesh down`, or name another folder: --run DIR",
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def down(folder: Path, timeout: float) -> None:
    """Have the mesh of a run folder drain, and wait for its end.

    Raises:
        Failure: none runs there, or it has not ended within `timeout` seconds.
    """
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Failure(f"no mesh runs in {folder}", "name its folder: --run DIR") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = int(os.pread(lock, 20, 0))
    else:
        os.close(lock)
        raise Failure(f"no mesh runs in {folder}", "name its folder: --run DIR")
    os.kill(pid, signal.SIGTERM)
    waiter = threading.Thread(target=fcntl.flock, args=(lock, fcntl.LOCK_EX), daemon=True)
    waiter.start()
    waiter.join(timeout)
    if waiter.is_alive():
        raise Failure(f"pid {pid} still drains after {timeout:g} s", "wait, or give --timeout")
    os.close(lock)


Event = dict[str, Any]


class Shell:
    """The children of one mesh. `tell` is given every line and change, from any thread."""

    def __init__(
        self, children: dict[str, Plan], tell: Callable[[Event], object], drain_timeout: float
    ) -> None:
        members = [(name, plan.role) for name, plan in children.items()]
        self.core = Supervision(members, random.Random(), drain_timeout=drain_timeout)
        self._plans = children
        self._tell = tell
        self._running: dict[str, Process] = {}
        self._news: SimpleQueue[Callable[[float], None]] = SimpleQueue()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; the exit code. To be called in the main thread."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {n: signal.signal(n, lambda *_: self._news.put(self.core.drain)) for n in numbers}
        announced = False
        try:
            while not self.core.done:
                now = time.monotonic()
                self.core.tick(now)
                for action, name in self.core.take():
                    self._do(action, name)
                if self.core.ready and not announced:
                    announced = True
                    self._tell({"event": "ready"})
                due = self.core.next_deadline()
                try:
                    happened = self._news.get(
                        timeout=None if due == NEVER else max(0.0, due - time.monotonic())
                    )
                except Empty:
                    continue
                happened(time.monotonic())
            return self.core.status
        finally:
            for process in self._running.values():
                process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def missing(self) -> list[str]:
        """Which children do not serve; from any thread."""
        return [f"{m.name} is {m.state}" for m in self.core.members.values() if m.state != "ready"]

    def _do(self, action: str, name: str) -> None:
        self._tell({"event": action, "process": name})
        if action == "start":
            self._start(name)
        elif name in self._running:
            self._running[name].signal(signal.SIGTERM if action == "drain" else signal.SIGKILL)

    def _start(self, name: str) -> None:
        plan, seen = self._plans[name], 0

        def line(text: str) -> None:
            nonlocal seen
            self._tell({"event": "output", "process": name, "text": text})
            if text.startswith(plan.prefix):
                seen += 1
                if seen == plan.count:
                    self._news.put(lambda now: self.core.became_ready(name, now))

        process = Process(plan.command, env=broker_environment(), tell=line, apart=True)
        self._running[name] = process

        def wait() -> None:
            process.wait()
            self._news.put(lambda now: self._ended(name, now))

        threading.Thread(target=wait, daemon=True).start()

    def _ended(self, name: str, now: float) -> None:
        process = self._running.pop(name)
        status = process.end()
        hopeless = status == HOPELESS[self._plans[name].role]
        self.core.ended(name, now, hopeless=hopeless)
        event: Event = {"event": "ended", "process": name, "status": status}
        member = self.core.members[name]
        if member.state == "waiting":
            event["restart_in"] = round(member.start_at - now, 2)
            event["last_lines"] = process.output.splitlines()[-LAST_LINES:]
        self._tell(event)
