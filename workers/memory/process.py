"""The memory service: keys and values with expiry, tags, locks and watches."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mesh.errors import ConfigError
from mesh.service import Runtime
from mesh.service.process import EXIT_CONFIG, serve_here, supervise
from workers.memory.backend import Backend
from workers.memory.eviction import POLICIES
from workers.memory.handler import MemoryHandler
from workers.memory.limits import parse_size
from workers.store import ProgressWatch

BACKENDS = ("lmdb", "memory", "redis")

log = logging.getLogger("workers.memory")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the service on the command line."""
    parser.add_argument("--data", default="", metavar="DIR", help="directory of the lmdb backend")
    parser.add_argument("--backend", choices=BACKENDS, default="lmdb", help="(default lmdb)")
    parser.add_argument("--url", default="", help="of the redis backend, as in redis://host:6379/0")
    parser.add_argument(
        "--cache-size", default="1GB", help="memory and disk that may be used (default 1GB)"
    )
    parser.add_argument(
        "--eviction", choices=tuple(POLICIES), default="s3-fifo", help="(default s3-fifo)"
    )


def run(options: argparse.Namespace, brokers: Sequence[str], processes: int) -> int:
    """Serve until a signal, in this process or in several under a supervisor; the exit status.

    Raises:
        ConfigError: the options do not fit together.
    """
    size = parse_size(options.cache_size)
    if processes < 1:
        raise ConfigError(f"processes={processes} is not a whole number above 0")
    if options.backend == "memory" and processes > 1:
        raise ConfigError(
            f"--backend memory with {processes} processes would be as many separate stores; "
            "use lmdb, or one process"
        )
    make = backend_maker(options.backend, options.data, options.url, size, options.eviction)
    # Several, even if one is asked for: only another process can tell that the writer hangs.
    watch = Guard(Path(options.data)).look if options.backend == "lmdb" else None
    return supervise(lambda: serve(make, brokers), processes, watch)


def backend_maker(
    name: str, data: str, url: str, cache_size: int, eviction: str
) -> Callable[[], Backend]:
    """What opens the backend `name`, in the process that is to use it.

    Raises:
        ConfigError: something that it needs was not given.
    """
    if name == "memory":
        from workers.memory.backends.inmemory import MemoryBackend

        return lambda: MemoryBackend(cache_size, eviction)
    if name == "lmdb":
        if not data:
            raise ConfigError("the lmdb backend keeps its data in a directory; give it: --data DIR")
        from workers.memory.backends.durable import LmdbBackend

        return lambda: LmdbBackend(Path(data), cache_size, eviction)
    if name == "redis":
        if not url:
            raise ConfigError("the redis backend needs --url redis://host:6379/0")
        from workers.memory.backends.redis import RedisBackend

        return lambda: RedisBackend(url)
    raise ConfigError(f"backend {name!r} is not one of {', '.join(BACKENDS)}")


def serve(make: Callable[[], Backend], brokers: Sequence[str]) -> int:
    """Serve in this process until a signal; the exit status."""
    try:
        handler = MemoryHandler(make())
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_CONFIG

    def started(runtime: Runtime) -> None:
        handler.stand(runtime.set_lane, lambda: os.kill(os.getpid(), signal.SIGTERM))

    handler.service.on_shutdown(handler.close)
    return serve_here(handler.service, brokers, announce=True, started=started)


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
