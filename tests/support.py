"""Child processes for integration tests: start, wait for a line of output, end for certain.

Knows nothing of pytest; `conftest.py` wraps it into fixtures. A child is the leader of a session of
its own, so that ending it ends whatever it started, and carries `SESSION_VARIABLE` in its
environment, by which `survivors` finds also what escaped.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

ROOT: Final = Path(__file__).resolve().parent.parent
SESSION_VARIABLE: Final = "SAGE_TEST_SESSION"
SESSION: Final = secrets.token_hex(8)

_UNSTOPPED: Final[set[Child]] = set()
_PORTS_GIVEN: Final[set[int]] = set()
# multiprocessing's own helpers live as long as the process that uses them, by design.
_EXEMPT: Final = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")


class ChildFailed(AssertionError):
    """A child did not do what the test waits for. The message holds its whole output."""


class Child:
    """One child process. Its output is read all the time, so it never blocks on a full pipe."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        """Start `command`; `env` is added to the environment of this process."""
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        added = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", SESSION_VARIABLE: SESSION}
        self.command = list(command)
        self._lines: list[str] = []
        self._open_pipes = 2
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            self.command,
            cwd=cwd,
            env={**os.environ, **added, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._readers = [
            threading.Thread(target=self._read, args=(pipe,), daemon=True)
            for pipe in (self._process.stdout, self._process.stderr)
        ]
        for reader in self._readers:
            reader.start()
        _UNSTOPPED.add(self)

    def _read(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._open_pipes -= 1
            self._changed.notify_all()

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while the child runs."""
        return self._process.poll()

    def output(self) -> str:
        """Everything the child has printed until now, stdout and stderr as they came."""
        with self._changed:
            return "\n".join(self._lines)

    def report(self) -> str:
        """The command, its state and its output, for people."""
        state = "running" if self.returncode is None else f"exit status {self.returncode}"
        return f"$ {' '.join(self.command)}   [pid {self.pid}, {state}]\n{self.output()}"

    def expect(self, pattern: str, *, timeout: float = 10.0) -> re.Match[str]:
        """Wait for a line in which `pattern` is found, among those printed already too.

        Raises ChildFailed after `timeout` seconds, or when the output has ended without it.
        """
        return self.expect_all(pattern, 1, timeout=timeout)[0]

    def expect_all(self, pattern: str, count: int, *, timeout: float = 10.0) -> list[re.Match[str]]:
        """Wait until `count` lines match `pattern`; the matches in order of appearance."""
        compiled = re.compile(pattern)
        found: list[re.Match[str]] = []
        seen = 0

        def settled() -> bool:
            nonlocal seen
            found.extend(filter(None, map(compiled.search, self._lines[seen:])))
            seen = len(self._lines)
            return len(found) >= count or not self._open_pipes

        with self._changed:
            self._changed.wait_for(settled, timeout)
        if len(found) < count:
            if not self._open_pipes:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(1.0)  # its output ends shortly before the process does
            within = f"in {timeout} s" if self._open_pipes else "until its output ended"
            raise ChildFailed(f"no line matched {pattern!r} {within}\n{self.report()}")
        return found[:count]

    def send_signal(self, number: int) -> None:
        """Send a signal to the child alone, not to what it has started."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End the child by SIGKILL and reap it. What it has started lives on until `stop`."""
        self._process.kill()
        self._process.wait()

    def wait(self, *, timeout: float = 10.0) -> int:
        """Wait for the child to end by itself; its exit status.

        Raises ChildFailed when it still runs after `timeout` seconds.
        """
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"still running after {timeout} s\n{self.report()}") from None
        self._join()
        return status

    def stop(self, *, grace: float = 5.0) -> int:
        """End the child: SIGTERM, after `grace` seconds SIGKILL, to its whole group.

        Returns the exit status. May be called at any time and more than once.
        """
        if self._process.poll() is None:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)  # a test may have stopped it
            try:
                self._process.wait(grace)
            except subprocess.TimeoutExpired:
                with self._changed:
                    self._lines.append(f"[did not end within {grace} s of SIGTERM: killed]")
        if self in _UNSTOPPED:
            # The number of a leader that was reaped stays reserved while its group has members:
            # this hits no stranger, but a second time might.
            _UNSTOPPED.remove(self)
            _signal_group(self.pid, signal.SIGKILL)
        status = self._process.wait()
        self._join()
        return status

    def _join(self) -> None:
        for reader in self._readers:
            reader.join(1.0)  # a grandchild may hold the pipe


def _signal_group(group: int, number: int) -> bool:
    """Whether there was a process in `group` to take the signal."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS: the second, for zombies
        return False
    return True


def run(
    *command: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT, timeout: float = 30.0
) -> Child:
    """Run a command to its end and return it. Raises ChildFailed if it takes longer."""
    child = Child(command, env=env, cwd=cwd)
    try:
        child.wait(timeout=timeout)
    finally:
        child.stop(grace=0.0)
    return child


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, a new one at each call.

    Prefer port 0 and the `listening` line wherever the endpoint need not be known beforehand.
    """
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in _PORTS_GIVEN:
            _PORTS_GIVEN.add(port)
            return port


Start = Callable[..., Child]
"""Makes a Child from words of a command: the `process` fixture, or a function like it."""


def start_broker(
    start: Start,
    *options: str,
    binds: Sequence[str] = ("tcp://127.0.0.1:0",),
    env: Mapping[str, str] | None = None,
    timeout: float = 10.0,
) -> tuple[Child, list[str]]:
    """A broker process that is ready, and the endpoints it listens on, in the order of `binds`."""
    words = [word for endpoint in binds for word in ("--bind", endpoint)]
    child = start(sys.executable, "-m", "broker", *words, *options, env=env)
    matches = child.expect_all(r"^listening (\S+)$", len(binds), timeout=timeout)
    return child, [match[1] for match in matches]


def start_mesh(start: Start, *words: str, env: Mapping[str, str] | None = None) -> Child:
    """The `sage-mesh` command of this checkout, whether or not it is installed."""
    code = "import sys; from mesh.cli import main; sys.exit(main())"
    return start(sys.executable, "-c", code, *words, env=env)


def start_service(
    start: Start, *words: str, env: Mapping[str, str] | None = None, timeout: float = 10.0
) -> Child:
    """`sage-mesh serve` with the words given, once it says that it serves."""
    child = start_mesh(start, "serve", *words, env=env)
    child.expect(r"^serving (\S+) pid=(\d+)$", timeout=timeout)
    return child


def survivors(*, grace: float = 2.0, naming: str = "") -> dict[int, str]:
    """Processes of this test session that still run: number -> command line.

    Only those whose command line contains `naming` (other tests' servers live as long as the
    session). Those about to end are given `grace` seconds for it. Linux sees every descendant
    and everything that inherited the session's variable; elsewhere only the groups of `Child`
    are looked at.
    """
    ends_at = time.monotonic() + grace
    find = _survivors_by_proc if Path("/proc/self/environ").exists() else _survivors_by_group
    while True:
        found = {pid: command for pid, command in find().items() if naming in command}
        if not found or time.monotonic() >= ends_at:
            return found
        threading.Event().wait(0.05)  # nothing tells of a stranger's end


def _survivors_by_group() -> dict[int, str]:
    return {
        child.pid: " ".join(child.command) for child in _UNSTOPPED if _signal_group(child.pid, 0)
    }


def _survivors_by_proc() -> dict[int, str]:
    mark = f"{SESSION_VARIABLE}={SESSION}".encode()
    parents: dict[int, int] = {}
    commands: dict[int, bytes] = {}
    ours: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            state, parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:2]
            if state in (b"Z", b"X"):
                continue
            command = (entry / "cmdline").read_bytes()
            marked = mark in (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile, or is not ours
            continue
        if any(exempt in command for exempt in _EXEMPT):
            continue
        pid = int(entry.name)
        parents[pid], commands[pid] = int(parent), command
        if marked:
            ours.add(pid)
    me = os.getpid()
    ours |= {pid for pid in parents if me in _ancestors(pid, parents)}
    return {
        pid: commands[pid].replace(b"\0", b" ").decode(errors="replace").strip()
        for pid in sorted(ours - {me})
    }


def _ancestors(pid: int, parents: Mapping[int, int]) -> Iterable[int]:
    while (pid := parents.get(pid, 0)) > 1:
        yield pid
