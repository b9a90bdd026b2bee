"""`MemoryService`: a broker and memory workers, as child processes of this one."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from types import TracebackType
from typing import Final, Self

from mesh.cli.output import Failure
from mesh.cli.processes import Process, broker_command, broker_environment
from mesh.errors import ConfigError
from mesh.settings import load, monitor_at
from mesh.supervision.folders import claim_data
from mesh.transport import is_local, parse_endpoint

BACKENDS: Final = ("lmdb", "redis", "memory")
DEFAULT_URL: Final = "redis://127.0.0.1:6379/0"
LOOK_EVERY: Final = 0.25
FIRST_BACKOFF: Final = 0.25
MAX_BACKOFF: Final = 5.0
START_TIMEOUT: Final = 20.0
# By then nothing is open any more; it would only wait for clients to go elsewhere.
BROKER_STOP_TIMEOUT: Final = 0.5

log = logging.getLogger("sage.service.memory")


@dataclass(slots=True)
class _Part:
    """One of the child processes: how it is started, and when again if it does not stay."""

    command: list[str]
    ready: str
    count: int
    process: Process | None = None
    failures: int = 0
    start_at: float = 0.0


class MemoryService:
    """The memory service, started and stopped by this program.

    Its processes end with this one, however that happens; one that dies is started again. Once
    started it keeps the program alive, as servers do, until `stop` or Ctrl-C. Also a context
    manager.

    Args:
        host: where to listen. Others than the loopback let everybody who reaches the port read and
            write all data: that is said in a warning, or refused with `insecure=False`.
        port: for clients and for further workers; 0 for any free port.
        storage_backend: "lmdb" keeps data on disk, "redis" in Redis or Valkey, "memory" loses it.
        url: of the redis backend; the default is `SAGE_MEMORY_URL` or redis://127.0.0.1:6379/0.
        data: directory of the lmdb backend; the default is `SAGE_MEMORY_DATA`, or a directory of
            this user's and this port's.
        cache_size: memory and disk that lmdb and memory may take, as in "1GB".
        eviction: what goes when that is full: "s3-fifo", "allkeys-lru", "volatile-ttl",
            "noeviction".
        processes: of workers; the default is 2, for "memory" 1.
        insecure: True: no warning; False: only loopback addresses are allowed.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8080,
        storage_backend: str = "lmdb",
        *,
        url: str | None = None,
        data: str | os.PathLike[str] | None = None,
        cache_size: str | int = "1GB",
        eviction: str = "s3-fifo",
        processes: int | None = None,
        insecure: bool | None = None,
    ) -> None:
        if storage_backend not in BACKENDS:
            raise ConfigError(
                f"storage_backend={storage_backend!r} is not one of {', '.join(BACKENDS)}"
            )
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 65_536:
            raise ConfigError(f"port={port!r} is not a number from 0 to 65535")
        if processes is None:
            processes = 1 if storage_backend == "memory" else 2
        if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
            raise ConfigError(f"processes={processes!r} is not a whole number from 1")
        self.host = host
        self.port = port
        self.storage_backend = storage_backend
        self.url = url or os.environ.get("SAGE_MEMORY_URL") or DEFAULT_URL
        self.data = Path(data or os.environ.get("SAGE_MEMORY_DATA") or _default_data(port))
        self._has_place = bool(port or data or os.environ.get("SAGE_MEMORY_DATA"))
        self._limits = ["--cache-size", str(cache_size), "--eviction", eviction]
        self.processes = processes
        self._insecure = insecure
        self._parts: list[_Part] = []
        self._held = ExitStack()
        self._stopping = threading.Event()
        self._drain_timeout = 30.0
        self._keeper: threading.Thread | None = None
        self._pid = 0

    @property
    def address(self) -> str:
        """HOST:PORT for clients on this machine, once it is started."""
        host = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"{host}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether it was started, and not stopped since."""
        return self._keeper is not None and self._keeper.is_alive()

    def start(self) -> Self:
        """Start everything; returns when calls are answered.

        Raises:
            ConfigError: something is in the way: the port is taken, redis does not answer, the
                directory cannot be written... The message says what to do.
        """
        if self.running:
            raise ConfigError(f"the memory service at {self.address} was started before")
        bind = parse_endpoint(f"{self.host}:{self.port}", bind=True)
        if not is_local(bind):
            self._check_open(bind)
        if self.storage_backend == "lmdb":
            self._make_place()
        self._stopping.clear()
        self._pid = os.getpid()
        started: Future[None] = Future()
        # The processes are tied to the thread that starts them, so it must live as long as they.
        keeper = threading.Thread(
            target=self._keep, args=(bind, started), name="sage-memory", daemon=_interactive()
        )
        keeper.start()
        started.result()
        self._keeper = keeper
        return self

    def stop(self, timeout: float = 30.0) -> None:
        """Finish what is in hand, within `timeout` seconds, and end all processes."""
        keeper, self._keeper = self._keeper, None
        if keeper is None or os.getpid() != self._pid:  # a forked child has not started anything
            return
        self._drain_timeout = timeout
        self._stopping.set()
        keeper.join()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is stopped; False if `timeout` seconds have passed before."""
        keeper = self._keeper
        if keeper is not None:
            keeper.join(timeout)
        return not self.running

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # ---------------------------------------------------------------- before the start

    def _check_open(self, bind: str) -> None:
        if self._insecure is False:
            raise ConfigError(
                f"{bind} can be reached from other machines, and nothing checks who connects: "
                "listen at 127.0.0.1, or allow it with insecure=True"
            )
        if self._insecure is None:
            print(
                f"warning: {bind} can be reached from other machines, and nothing checks who "
                "connects; insecure=True says that this is meant",
                file=sys.stderr,
                flush=True,
            )

    def _make_place(self) -> None:
        if not self._has_place:
            raise ConfigError("port=0 is another one each time: say with data= where data is kept")
        try:
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"data={str(self.data)!r} cannot be made: {error.strerror}; name another directory"
            ) from None

    # ---------------------------------------------------------------- on the keeper's thread

    def _keep(self, bind: str, started: Future[None]) -> None:
        try:
            self._start_all(bind)
        except BaseException as error:
            self._end_all()
            started.set_exception(error)
            return
        started.set_result(None)
        told = False
        while not self._stopping.wait(LOOK_EVERY):
            for part in self._parts:
                try:
                    self._look(part)
                except Exception:
                    log.exception("the memory service could not be looked after")
            if not told and not threading.main_thread().is_alive():
                if getattr(sys, "last_value", None) is not None:
                    break  # the program has failed
                told = True
                print(f"the memory service goes on at {self.address}; Ctrl-C ends it", flush=True)
        self._end_all()

    def _start_all(self, bind: str) -> None:
        if self.storage_backend == "lmdb":
            try:
                self._held.enter_context(claim_data(self.data, None, "name another with data="))
            except Failure as error:
                raise ConfigError(f"{error}; {error.advice}") from None
        told = self._tell()
        extra = [] if is_local(bind) else ["--insecure"]
        extra += told("broker")
        broker = _Part(broker_command([bind], extra), "listening ", 1)
        self._parts = [broker]
        (endpoint,) = self._launch(broker)
        self.port = int(endpoint.rpartition(":")[2])
        broker.command = broker_command([endpoint], extra)
        command = [*self._workers_command(), *told("memory")]
        self._parts.append(_Part(command, "serving ", self.processes))
        self._launch(self._parts[-1])

    def _tell(self) -> Callable[[str], list[str]]:
        """Tell of all parts over HTTP, if the environment asks for it; the options of each part."""
        address = monitor_at(load().settings)
        if address is None:
            return lambda part: []
        from mesh.monitoring.http import Monitor
        from mesh.monitoring.together import Together, address_in

        folder = Path(self._held.enter_context(TemporaryDirectory(prefix="sage-memory-")))
        self._held.callback(Monitor(address, Together(folder, self._missing)).start().close)
        return lambda part: ["--monitor", address_in(folder, part)]

    def _missing(self) -> list[str]:
        parts = zip(("broker", "memory"), self._parts, strict=False)
        return [f"{n} is starting" for n, p in parts if p.process is None or not p.process.running]

    def _workers_command(self) -> list[str]:
        where = ["--broker", f"tcp://{self.address}", "--processes", str(self.processes)]
        store = {
            "lmdb": ["--data", str(self.data)],
            "redis": ["--url", self.url],
            "memory": [],
        }[self.storage_backend]
        backend = ["--backend", self.storage_backend, *store, *self._limits]
        return [sys.executable, "-P", "-m", "workers", "memory", *where, *backend]

    def _launch(self, part: _Part) -> list[str]:
        """Start a process and wait until it is ready; what it says of itself then."""

        def tell(line: str) -> None:
            if ready.is_set() and not line.startswith(part.ready):
                print(line, file=sys.stderr, flush=True)

        ready = threading.Event()
        environment = {
            "SAGE_LOG_LEVEL": os.environ.get("SAGE_LOG_LEVEL", "WARNING"),
            **broker_environment(),
        }
        part.process = Process(part.command, env=environment, tell=tell, apart=True)
        try:
            found = part.process.wait_for(part.ready, part.count, START_TIMEOUT)
        except Failure as error:
            part.process.kill()
            text = self._explained(part.process.output, f"{error}: {error.advice}")
            raise ConfigError(text) from None
        ready.set()
        return found

    def _explained(self, output: str, what: str) -> str:
        """Why a process did not start, and what to do about it."""
        marks = ("error: ", "broker: ")
        said = [line.removeprefix(mark) for line in output.splitlines() for mark in marks
                if line.startswith(mark)]  # fmt: skip
        text = said[0] if said else what
        if "another process listens there" in text:
            return f"port={self.port}: {text}"
        if "no redis server" in text:
            return (
                f"{text}; start one there, or name another with url= or SAGE_MEMORY_URL; "
                'storage_backend="lmdb" needs none'
            )
        return f"the memory service did not start: {text}"

    def _look(self, part: _Part) -> None:
        """Start a process again that has ended, after a pause that grows."""
        process, now = part.process, monotonic()
        if process is not None and process.running:
            return
        if process is not None:
            part.failures += 1
            part.start_at = now + min(MAX_BACKOFF, FIRST_BACKOFF * 2.0**part.failures)
            log.error("%s ended with status %s; starting another", part.command[3], process.kill())
            part.process = None
        elif now >= part.start_at:
            try:
                self._launch(part)
                part.failures = 0
            except ConfigError as error:
                log.error("%s", error)

    def _end_all(self) -> None:
        for part in reversed(self._parts):
            if part.process is not None:
                part.process.end(
                    BROKER_STOP_TIMEOUT if part is self._parts[0] else self._drain_timeout
                )
        self._parts = []
        self._held.close()


def _default_data(port: int) -> Path:
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "sage" / f"memory-{port}"


def _interactive() -> bool:
    return hasattr(sys, "ps1") or bool(sys.flags.interactive)
