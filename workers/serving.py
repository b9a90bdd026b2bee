"""A built-in service as a process, or as several under a supervisor."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mesh import Service
from mesh.errors import ConfigError
from mesh.service import Runtime
from mesh.service.process import EXIT_CONFIG, serve_here, supervise_monitored
from mesh.settings import Settings, monitor_at
from workers.store import ProgressWatch

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# The thread that writes and the one that reads take turns; Python's 5 ms is as long as ten commits.
SWITCH_EVERY = 0.0005
# A group of jobs is thousands of objects that all end together, none of them in a cycle: with
# Python's 700 they would be looked through several times before they do.
COLLECT_EVERY = 50_000

log = logging.getLogger("workers")


class Handler(Protocol):
    """The methods of a built-in service over its store."""

    service: Service

    def stand(self, set_lane: Callable[[str, int, int], None], fail: Callable[[], None]) -> None:
        """Begin to write as soon as it is this process's turn.

        `set_lane(name, capacity, epoch)` opens a lane, by a claim if `epoch` is not 0, so that no
        process whose turn is over gets anything from it; `fail()` ends the process: it can write
        no longer.
        """

    def families(self) -> Iterable[Metric]:
        """What there is to tell over HTTP."""

    def close(self) -> None:
        """Write what is left, hand over, close the store."""


def run(
    make: Callable[[], Handler],
    brokers: Sequence[str],
    settings: Settings,
    *,
    processes: int,
    timeout: float | None,
    data: Path | None,
) -> int:
    """Serve until a signal, in this process or in several; the exit status.

    `make` opens the store, in the process that is to use it. `timeout` bounds each call. `data`:
    the directory of a store of `workers.store`, whose writer is watched.
    """
    # Several, even if one is asked for: only another process can tell that the writer hangs.
    watch = Guard(data).look if data is not None else None
    return supervise_monitored(
        lambda monitor: serve(make, brokers, timeout, monitor),
        processes,
        monitor_at(settings),
        watch,
    )


def serve(
    make: Callable[[], Handler],
    brokers: Sequence[str],
    timeout: float | None = None,
    monitor: str | None = None,
) -> int:
    """Serve in this process until a signal; the exit status.

    `monitor`: where to tell of itself over HTTP.
    """
    sys.setswitchinterval(SWITCH_EVERY)
    gc.set_threshold(COLLECT_EVERY)
    try:
        handler = make()
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
        more=handler.families,
    )


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
