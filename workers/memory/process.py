"""The memory service: keys and values with expiry, tags, locks and watches."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.errors import ConfigError
from mesh.service import Runtime
from mesh.service.process import EXIT_CONFIG, serve_here, supervise_monitored
from mesh.settings import Settings, monitor_at
from workers.memory.backend import Backend
from workers.memory.handler import MemoryHandler
from workers.store import ProgressWatch

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# The thread that writes and the one that reads take turns; Python's 5 ms is as long as ten commits.
SWITCH_EVERY = 0.0005

FLAGS = {
    "--processes": ("services.memory.processes", "N"),
    "--data": ("services.memory.data", "DIR"),
    "--backend": ("services.memory.backend", "NAME"),
    "--url": ("services.memory.url", "URL"),
    "--cache-size": ("performance.cache_size", "SIZE"),
    "--eviction": ("services.memory.eviction", "POLICY"),
    "--timeout": ("services.memory.timeout", "SECONDS"),
}
"""Options of the command line and the keys that they stand for."""

LOCAL_REDIS = "redis://127.0.0.1:6379/0"

log = logging.getLogger("workers.memory")


def run(settings: Settings, brokers: Sequence[str]) -> int:
    """Serve until a signal, in this process or in several under a supervisor; the exit status.

    Raises:
        ConfigError: something that the backend needs is missing.
    """
    memory = settings.services.memory
    make = backend_maker(settings)
    # Several, even if one is asked for: only another process can tell that the writer hangs.
    watch = Guard(Path(memory.data)).look if memory.backend == "lmdb" and memory.data else None
    return supervise_monitored(
        lambda monitor: serve(make, brokers, memory.timeout, monitor),
        memory.processes,
        monitor_at(settings),
        watch,
    )


def backend_maker(settings: Settings) -> Callable[[], Backend]:
    """What opens the backend, in the process that is to use it.

    Raises:
        ConfigError: something that it needs is missing.
    """
    memory, performance = settings.services.memory, settings.performance
    size, eviction = performance.cache_size, memory.eviction
    if memory.backend == "memory":
        from workers.memory.backends.inmemory import MemoryBackend

        return lambda: MemoryBackend(size, eviction)
    if memory.backend == "redis":
        from workers.memory.backends.redis import RedisBackend

        url, pool = memory.url or LOCAL_REDIS, performance.connection_pool_size
        return lambda: RedisBackend(url, pool_size=pool)
    if not memory.data:
        raise ConfigError(
            "the lmdb backend keeps its data in a directory; give it: --data DIR, or "
            "services.memory.data in the configuration"
        )
    from workers.memory.backends.durable import LmdbBackend

    data = Path(memory.data)
    return lambda: LmdbBackend(data, size, eviction)


def serve(
    make: Callable[[], Backend],
    brokers: Sequence[str],
    timeout: float | None = None,
    monitor: str | None = None,
) -> int:
    """Serve in this process until a signal; the exit status. `timeout` bounds each call.

    `monitor`: where to tell of itself over HTTP.
    """
    sys.setswitchinterval(SWITCH_EVERY)
    try:
        handler = MemoryHandler(make())
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_CONFIG

    def started(runtime: Runtime) -> None:
        handler.stand(runtime.set_lane, lambda: os.kill(os.getpid(), signal.SIGTERM))

    for method in handler.service.methods.values():
        if not method.stream:
            method.timeout = timeout
    handler.service.on_shutdown(handler.close)
    return serve_here(
        handler.service,
        brokers,
        announce=True,
        started=started,
        monitor=monitor,
        more=lambda: families(handler.backend),
    )


def families(backend: Backend) -> Iterable[Metric]:
    """What to tell of `backend` over HTTP."""
    from workers.memory import monitor  # most run without

    return monitor.families(backend)


class Guard:
    """Ends a writer that hangs, so that another takes over: it may be stopped, or wait for ever."""

    def __init__(self, data: Path) -> None:
        self._watch = ProgressWatch(data)

    def look(self) -> None:
        """Kill the writer if it has shown no sign of life, or no progress, for too long."""
        stuck = self._watch.look(time.monotonic())
        if stuck is not None:
            log.critical("the writer (pid %d) hangs; killing it", stuck.pid)
            os.kill(stuck.pid, signal.SIGKILL)
