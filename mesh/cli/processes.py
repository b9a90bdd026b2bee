"""Brokers and workers as child processes: started, waited for, and ended with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

from mesh.cli.output import Failure

ROOT = Path(__file__).resolve().parents[2]
LEASH = Path(__file__).with_name("leash.py")
READY_TIMEOUT = 20.0


class Process:
    """A child process whose output is kept. It ends when its parent does, however that happens.

    Start it from a thread that lives as long: the kernel ties a child to the one that started it.
    `tell` is called with each line of its output, on a thread of its own. With `apart` a Ctrl-C in
    the terminal does not reach it.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: dict[str, str] | None = None,
        tell: Callable[[str], object] = lambda line: None,
        apart: bool = False,
    ) -> None:
        command = list(arguments)
        if sys.platform == "linux":
            leash = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid())]
            command = leash + command
        self.arguments = list(arguments)
        self._apart = apart
        self._tell = tell
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=apart,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        )
        self._lines: deque[str] = deque(maxlen=500)
        self._news = threading.Condition()
        self._closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._child.poll() is None

    @property
    def returncode(self) -> int | None:
        """The exit code; None while it runs, negative if a signal ended it."""
        return self._child.poll()

    @property
    def output(self) -> str:
        """The last lines that it has printed."""
        with self._news:
            return "\n".join(self._lines)

    def wait_for(self, prefix: str, count: int = 1, timeout: float = READY_TIMEOUT) -> list[str]:
        """The rest of the first `count` lines that begin with `prefix`, as soon as they are there.

        Raises:
            Failure: the process has ended, or printed nothing of the kind within `timeout`.
        """
        deadline = monotonic() + timeout
        with self._news:
            while True:
                found = [line[len(prefix) :] for line in self._lines if line.startswith(prefix)]
                if len(found) >= count:
                    return found[:count]
                left = deadline - monotonic()
                if self._closed or left <= 0.0:
                    break
                self._news.wait(left)
            lines = [line for line in self._lines if line.strip()]
        name = " ".join(self.arguments[1:5])
        state = "ended before it was ready" if self._closed else f"not ready after {timeout:g} s"
        raise Failure(f"{name}: {state}", "; ".join(lines[-3:]) or "it printed nothing")

    def wait(self) -> int:
        """Wait until it ends by itself; the exit code."""
        return self._child.wait()

    def signal(self, number: int) -> None:
        """Send it a signal; nothing happens if it has ended.

        SIGKILL reaches those that it has started too, if it is `apart`: stopped ones would stay.
        """
        if number == signal.SIGKILL and self._apart and self.running:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
        self._child.send_signal(number)

    def end(self, timeout: float = 10.0) -> int:
        """Ask it to end (SIGTERM); after `timeout` seconds force it to. The exit code."""
        if self.running:
            self._child.terminate()
            try:
                self._child.wait(timeout)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
        return self._reap()

    def kill(self) -> int:
        """End it at once (SIGKILL), as a crash would. The exit code."""
        self.signal(signal.SIGKILL)
        return self._reap()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _reap(self) -> int:
        code = self._child.wait()
        # Grandchildren may hold the pipe a moment longer.
        self._reader.join(1.0)
        if not self._reader.is_alive() and self._child.stdout is not None:
            self._child.stdout.close()
        return code

    def _read(self) -> None:
        stream = self._child.stdout
        if stream is not None:
            for line in stream:
                with self._news:
                    self._lines.append(line.rstrip("\n"))
                    self._news.notify_all()
                self._tell(line.rstrip("\n"))
        with self._news:
            self._closed = True
            self._news.notify_all()


def broker_command(binds: Sequence[str], extra: Sequence[str] = ()) -> list[str]:
    """The command that runs a broker; to be run with `broker_environment()`."""
    arguments = [part for bind in binds for part in ("--bind", bind)]
    # -P: a file or folder named `broker` where the user stands is not our broker.
    return [sys.executable, "-P", "-m", "broker", *arguments, *extra]


def broker_environment() -> dict[str, str]:
    """What brokers and built-in workers need in their environment to find this installation."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def broker_process(bind: str, *extra: str) -> Process:
    """A broker on its way: it prints `listening ENDPOINT` when it is ready."""
    return Process(broker_command([bind], extra), env=broker_environment())


def start_broker(bind: str = "tcp://127.0.0.1:0", *extra: str) -> tuple[Process, str]:
    """A running broker and the endpoint at which it listens.

    Raises:
        Failure: it did not start.
    """
    process = broker_process(bind, *extra)
    try:
        return process, process.wait_for("listening ")[0]
    except BaseException:
        process.kill()
        raise


def start_workers(target: str, brokers: Sequence[str], workers: int = 1) -> Process:
    """Running workers of the service `target` ("package.module:service"), registered at `brokers`.

    Raises:
        Failure: they did not start.
    """
    where = [part for broker in brokers for part in ("--broker", broker)]
    command = [sys.executable, "-m", "mesh.service", target, *where, "--workers", str(workers)]
    process = Process(command)
    try:
        process.wait_for("serving ", workers)
    except BaseException:
        process.kill()
        raise
    return process


@contextmanager
def local_mesh(*targets: str, workers: int = 1) -> Iterator[str]:
    """A broker on a free port of this machine, with `workers` processes of each service.

    Yields the broker's endpoint. Everything ends with the block.
    """
    broker, endpoint = start_broker()
    services: list[Process] = []
    try:
        for target in targets:
            services.append(start_workers(target, [endpoint], workers))
        yield endpoint
    finally:
        for service in services:
            service.end()
        broker.end()
