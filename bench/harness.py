"""How things are measured: processes, interleaved rounds, medians of ratios.

Every round runs every rival once, in an order that rotates, so that a slow moment of the machine
meets all of them alike. A ratio is taken within a round; the median over rounds is what counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

Figures = dict[str, float]


class Unavailable(Exception):
    """A rival cannot run here; the message says what is missing."""


@dataclass(slots=True, frozen=True)
class Plan:
    """How much is measured. `seconds` is per figure; `scale` shrinks counts, 1.0 = full."""

    rounds: int = 5
    seconds: float = 1.5
    scale: float = 1.0

    def count(self, full: int, least: int = 1) -> int:
        return max(least, int(full * self.scale))


@dataclass(slots=True, frozen=True)
class Target:
    """What a figure of `rival` should reach.

    Without `against`, `bound` is in the figure's unit; with it, a multiple of that rival's figure
    in the same round. `at_most`: the figure should stay below the bound instead of above it.
    """

    figure: str
    rival: str
    bound: float
    against: str = ""
    at_most: bool = False
    other_figure: str = ""

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        of = f" x {self.against}" if self.against else ""
        if self.other_figure:
            of += f"{' x' if not of else ''} {self.other_figure}"
        return f"{self.rival} {self.figure} {sign} {self.bound:g}{of}"


@dataclass(slots=True, frozen=True)
class Case:
    """One benchmark: rivals that each produce figures, and what they should reach."""

    name: str
    title: str
    unit: str
    rivals: dict[str, Callable[[Plan], Figures]]
    targets: tuple[Target, ...] = ()
    rounds: int = 0  # 0 = as planned; at most that many otherwise


@dataclass(slots=True)
class Outcome:
    """What a case gave: for each rival and figure the values of all rounds."""

    case: Case
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def ratios(self, target: Target) -> list[float]:
        """The target's quantity in each round: a ratio, or the figure itself."""
        ours = self.values.get(target.rival, {}).get(target.figure, [])
        if not target.against and not target.other_figure:
            return ours
        theirs = self.values.get(target.against or target.rival, {}).get(
            target.other_figure or target.figure, []
        )
        return [mine / other for mine, other in zip(ours, theirs, strict=False) if other]

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.case.title,
            "unit": self.case.unit,
            "figures": {
                rival: {
                    name: {"median": statistics.median(v), "rounds": v} for name, v in f.items()
                }
                for rival, f in self.values.items()
            },
            "missing": self.missing,
            "targets": [
                {"target": str(t), "median": statistics.median(r), "rounds": r, "met": met(t, r)}
                for t in self.case.targets
                if (r := self.ratios(t))
            ],
        }


def met(target: Target, ratios: list[float]) -> bool:
    middle = statistics.median(ratios)
    return middle <= target.bound if target.at_most else middle >= target.bound


def run_case(case: Case, plan: Plan, say: Callable[[str], None]) -> Outcome:
    """All rounds of one case. A rival that is unavailable is left out, one that fails is named."""
    outcome = Outcome(case)
    names = list(case.rivals)
    rounds = min(plan.rounds, case.rounds or plan.rounds)
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            if name in outcome.missing:
                continue
            say(f"{case.name} round {turn + 1}/{rounds}: {name}")
            try:
                figures = case.rivals[name](plan)
            except Unavailable as reason:
                outcome.missing[name] = str(reason)
            except Exception as error:
                outcome.missing[name] = f"failed in round {turn + 1}: {error}"
                outcome.values.pop(name, None)
            else:
                kept = outcome.values.setdefault(name, {})
                for figure, value in figures.items():
                    kept.setdefault(figure, []).append(value)
    return outcome


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` (0 to 1) of `values` lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def latency_figures(seconds: list[float]) -> Figures:
    """p50 and p99 in microseconds."""
    return {"p50": percentile(seconds, 0.5) * 1e6, "p99": percentile(seconds, 0.99) * 1e6}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Stack:
    """The processes of one measurement; leaving the block ends them, and no others."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in reversed(self._started):
            self.end(process)

    def start(self, *command: str, until: str, timeout: float = 10.0) -> tuple[Child, str]:
        """Start a server and wait for the line that begins with `until`; returns it as well."""
        process = self._open(command, subprocess.PIPE)
        assert process.stdout is not None
        end_at = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while selector.select(max(0.0, end_at - time.monotonic())):
                line = process.stdout.readline()
                if line.startswith(until):
                    return Child(process), line.strip()
                if not line:
                    break
        raise RuntimeError(f"{' '.join(command)} did not say {until!r} (exit {process.poll()})")

    def spawn(self, *command: str) -> Child:
        """Start a server that says nothing when it is ready."""
        return Child(self._open(command, subprocess.DEVNULL, subprocess.DEVNULL))

    def run(self, *command: str, timeout: float = 120.0) -> Figures:
        """Run a client to its end; it prints one JSON line of figures last."""
        process = self._open(command, subprocess.PIPE)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.end(process)
            raise RuntimeError(f"{' '.join(command)} did not end in {timeout:g} s") from None
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        figures: Figures = json.loads(output.splitlines()[-1])
        return figures

    def _open(
        self, command: tuple[str, ...], stdout: int, stderr: int | None = None
    ) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdout=stdout, stderr=stderr
        )
        self._started.append(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> None:
        """SIGTERM, and SIGKILL if that did not do."""
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


@dataclass(slots=True, frozen=True)
class Child:
    """One started process."""

    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """kill -9, and gone when this returns."""
        self.process.kill()
        self.process.wait()

    def anonymous_memory(self) -> int:
        """Octets of private memory in use (RssAnon)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("RssAnon is not known here")


def python(module: str, *arguments: object) -> tuple[str, ...]:
    """The command that runs `module` with this interpreter."""
    return (sys.executable, "-m", module, *map(str, arguments))


def processor_time(pid: int) -> float:
    """Seconds that a process and its children have run until now (Linux; in steps of 10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(processor_time(int(child)) for child in children)


def wait_for_port(port: int, timeout: float = 10.0) -> None:
    """Return when something listens on the loopback port."""
    end_at = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > end_at:
                raise
            time.sleep(0.02)
