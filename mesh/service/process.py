"""Worker processes: signals, and a small supervisor for several of them.

first SIGTERM or SIGINT    drain: finish what is in hand, then leave
second                     end at once
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Any

from mesh import logs
from mesh.errors import ConfigError
from mesh.service.declare import Service
from mesh.service.runtime import DRAIN_TTL, Runtime

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from mesh.monitoring.http import Monitor
    from mesh.settings import Flags, Loaded

EXIT_CONFIG = 78
FIRST_BACKOFF = 0.1
MAX_BACKOFF = 5.0
STABLE_TTL = 10.0
PARENT_CHECK = 1.0

log = logging.getLogger("mesh.service")

# The process that supervises this one; 0 without one. Not an environment variable: what a handler
# starts must not inherit it.
_supervisor = 0


def serve(
    target: str,
    brokers: Sequence[str] = (),
    workers: int = 1,
    *,
    config: str | None = None,
    assignments: Sequence[str] = (),
    monitor: str | None = None,
) -> int:
    """Serve `target`, written `package.module:service`, until a signal; the exit status.

    `config` is a file with settings, `assignments` are some more as "key=value"; `brokers` and
    `monitor`, an address to tell of itself at over HTTP, count before both. Prints `serving NAME
    pid=PID` to standard output once registered, for each process.

    Raises:
        ConfigError: a setting is wrong, or they name no broker that can be reached.
    """
    from mesh import settings  # not needed by a service that is part of another program

    flags: Flags = {
        "brokers": ("--broker", list(brokers) or None),
        "monitoring.address": ("--monitor", monitor),
    }
    loaded = settings.load(config, flags=flags, assignments=assignments)
    begin_logging(loaded)
    addresses = settings.brokers(loaded.settings, settings.WORKERS)
    threads = loaded.settings.performance.thread_pool_size

    def child(monitor: str | None) -> int:
        try:
            service = load(target)
            if threads is not None and not service.threads_chosen:
                service.threads = threads
            return serve_here(service, addresses, announce=True, monitor=monitor)
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return EXIT_CONFIG

    at = settings.monitor_at(loaded.settings)
    return child(at) if workers <= 1 else supervise_monitored(child, workers, at)


def begin_logging(loaded: Loaded) -> None:
    """Report on standard error as the settings say; first, on the settings."""
    logs.begin(loaded.settings.log_level, loaded.settings.log_format)
    for note in loaded.notes:
        log.warning("%s", note)


def load(target: str) -> Service:
    """The service that `package.module:attribute` names; the current folder is importable.

    Raises:
        ConfigError: there is no such module or service.
    """
    module_name, mark, attribute = target.partition(":")
    if not mark or not module_name or not attribute:
        raise ConfigError(f"{target!r}: write package.module:service, as in shop.cart:cart")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise ConfigError(f"{target!r}: there is no module {error.name}") from None
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if isinstance(found, Service):
        return found
    offered = [
        name for name, value in vars(sys.modules[module_name]).items() if isinstance(value, Service)
    ]
    raise ConfigError(
        f"{target!r}: {attribute} is no Service; the module has: {', '.join(offered) or 'none'}"
    )


def run(service: Service, brokers: Sequence[str], workers: int) -> None:
    """Serve `service` until a signal, in this process or in `workers` children."""
    if workers < 1:
        raise ConfigError(f"workers={workers!r} is not a whole number above 0")
    if workers == 1:
        status = serve_here(service, brokers)
    else:
        status = supervise(lambda: serve_here(service, brokers), workers)
    if status:
        raise SystemExit(status)


def serve_here(
    service: Service,
    brokers: Sequence[str],
    *,
    announce: bool = False,
    started: Callable[[Runtime], object] | None = None,
    monitor: str | None = None,
    more: Callable[[], Iterable[Metric]] = lambda: (),
) -> int:
    """Serve in this process until a signal; the exit status. `started` is given the runtime.

    `monitor`: the address at which to tell of the worker over HTTP; `more`: what to tell beside.

    Raises:
        ConfigError: that address is wrong, or in use.
    """
    stopping = Stopping()
    told: Monitor | None = None
    in_main = threading.current_thread() is threading.main_thread()
    before = _on_signals(stopping) if in_main else {}
    try:
        runtime = Runtime(service, brokers)
        told = _monitored(runtime, monitor, more)
        runtime.start()
        if started is not None:
            started(runtime)
        if announce:
            threading.Thread(target=_announce, args=(runtime,), daemon=True).start()
        while not stopping.wait(PARENT_CHECK):
            if runtime.wait_stopped(0):
                return 1  # the reason has been logged
            if _supervisor and os.getppid() != _supervisor:
                log.warning("the supervisor is gone; leaving")
                break
        finished = runtime.stop(DRAIN_TTL)
        return 0 if finished else 1
    finally:
        if told is not None:
            told.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _monitored(
    runtime: Runtime, address: str | None, more: Callable[[], Iterable[Metric]]
) -> Monitor | None:
    if address is None:
        return None
    from mesh.monitoring.http import Monitor  # most services run without
    from mesh.service.monitor import WorkerSource

    return Monitor(address, WorkerSource(runtime, more)).start()


def _announce(runtime: Runtime) -> None:
    runtime.wait_ready()
    # One write: several processes share the output.
    sys.stdout.write(f"serving {runtime.service.name} pid={os.getpid()}\n")
    sys.stdout.flush()


class Stopping:
    """Whether a signal has asked this process to stop. A second one ends it at once.

    Not a threading.Event: a handler runs on the thread that waits, which may hold the lock of the
    event at that moment, and would wait for itself for ever. A SimpleQueue is made for that.
    """

    def __init__(self) -> None:
        self._signals: SimpleQueue[int] = SimpleQueue()
        self._told = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if self._told:
            os._exit(128 + number)
        self._told = True
        self._signals.put(number)

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for a signal; whether one has come. For the main thread."""
        with contextlib.suppress(Empty):
            if not self._told:
                self._signals.get(timeout=timeout)
        return self._told


def _on_signals(stopping: Stopping) -> dict[int, Any]:
    stop = stopping.on_signal
    before: dict[int, Any] = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    # Ctrl-C reaches the whole process group; a supervisor turns it into one SIGTERM for each child.
    on_int = signal.SIG_IGN if _supervisor else stop
    before[signal.SIGINT] = signal.signal(signal.SIGINT, on_int)
    return before


# ---------------------------------------------------------------- supervisor


class Child:
    """One of the processes: its id while it runs, and when to start it again if it does not."""

    __slots__ = ("body", "failures", "pid", "start_at", "started_at")

    def __init__(self, body: Callable[[], int]) -> None:
        self.body = body
        self.pid = 0
        self.start_at = 0.0
        self.started_at = 0.0
        self.failures = 0


def supervise_monitored(
    body: Callable[[str | None], int],
    workers: int,
    monitor: str | None,
    watch: Callable[[], object] | None = None,
) -> int:
    """As `supervise`; each process is given the address at which to tell of itself, or None.

    One more process tells of them all at the address `monitor`.
    """
    if monitor is None:
        return supervise(lambda: body(None), workers, watch)
    from mesh.monitoring.together import address_in

    with tempfile.TemporaryDirectory(prefix="sage-mesh-") as name:
        folder = Path(name)

        def worker() -> int:
            return body(address_in(folder, str(os.getpid())))

        return supervise(worker, workers, watch, beside=lambda: _tell_together(monitor, folder))


def _tell_together(address: str, folder: Path) -> int:
    from mesh.monitoring.http import Monitor
    from mesh.monitoring.together import Together

    stopping = Stopping()
    _on_signals(stopping)
    try:
        monitor = Monitor(address, Together(folder)).start()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_CONFIG
    while not stopping.wait(PARENT_CHECK) and os.getppid() == _supervisor:
        pass
    monitor.close()
    return 0


def supervise(
    body: Callable[[], int],
    workers: int,
    watch: Callable[[], object] | None = None,
    beside: Callable[[], int] | None = None,
) -> int:
    """Keep `workers` processes running `body`, until a signal; the exit status.

    `beside` is run by one more process. `watch` is called about once a second: it may look for
    workers that hang, and kill them.

    One that dies is started again, after a pause that grows while it keeps dying young. An exit
    status of 78 (a wrong configuration) ends them all: it would not get better.
    """
    wake_in, wake_out = os.pipe()
    os.set_blocking(wake_in, False)
    os.set_blocking(wake_out, False)
    signals = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        if number != signal.SIGCHLD:
            signals += 1

    watched = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    before = {number: signal.signal(number, note) for number in watched}
    wakeup_before = signal.set_wakeup_fd(wake_out, warn_on_full_buffer=False)
    children = [Child(body) for _ in range(workers)]
    if beside is not None:
        children.append(Child(beside))
    status = 0
    told = 0
    try:
        while True:
            if watch is not None:
                watch()
            status = _reap(children, bool(signals)) or status
            if status == EXIT_CONFIG:
                signals = max(signals, 1)
            while told < min(signals, 2):
                told += 1
                _signal_all(children, signal.SIGTERM if told == 1 else signal.SIGKILL)
            if signals and not any(child.pid for child in children):
                return status
            due = [c.start_at for c in children if not c.pid] if not signals else []
            now = time.monotonic()
            if due and min(due) <= now:
                for child in children:
                    if not child.pid and child.start_at <= now:
                        _spawn(child, before)
                continue
            select.select([wake_in], [], [], max(0.0, min(due) - now) if due else PARENT_CHECK)
            with contextlib.suppress(BlockingIOError):
                os.read(wake_in, 4096)
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(wake_in)
        os.close(wake_out)


def _spawn(child: Child, handlers: dict[signal.Signals, Any]) -> None:
    global _supervisor
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        child.pid = pid
        child.started_at = time.monotonic()
        return
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _supervisor = parent
        die_with_parent(signal.SIGTERM)
        if os.getppid() == parent:
            status = child.body()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        log.critical("a worker process failed", exc_info=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def die_with_parent(number: int) -> bool:
    """Have the kernel send this process a signal when its parent dies; False where it cannot."""
    try:
        return bool(ctypes.CDLL(None).prctl(1, number, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def _reap(children: list[Child], stopping: bool) -> int:
    """Note which children have ended; the status of one that failed, else 0."""
    worst = 0
    for child in children:
        if not child.pid:
            continue
        pid, wait_status = os.waitpid(child.pid, os.WNOHANG)
        if not pid:
            continue
        status = os.waitstatus_to_exitcode(wait_status)
        now = time.monotonic()
        child.failures = 0 if now - child.started_at > STABLE_TTL else child.failures + 1
        pause = min(MAX_BACKOFF, FIRST_BACKOFF * 2.0 ** min(child.failures - 1, 10))
        child.start_at = now + (pause if child.failures else FIRST_BACKOFF)
        child.pid = 0
        if status == EXIT_CONFIG or (stopping and status not in (0, -signal.SIGTERM)):
            worst = status if status > 0 else 1
        if not stopping:
            log.warning("worker %d ended with status %d; starting another", pid, status)
    return worst


def _signal_all(children: list[Child], number: int) -> None:
    for child in children:
        if child.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)
