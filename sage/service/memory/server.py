"""`python -m sage.service.memory.server`: the memory service as a program of its own.

Everything can be said in the environment, as containers want it; the command line goes first.

    SAGE_SERVICE_HOST   where to listen; the default is 127.0.0.1, in a container 0.0.0.0
    SAGE_SERVICE_PORT   8080
    SAGE_MEMORY_BACKEND lmdb, redis or memory
    SAGE_MEMORY_URL     of the redis backend
    SAGE_MEMORY_DATA    directory of the lmdb backend
    SAGE_MEMORY_SIZE    memory and disk that may be used, as in 1GB

SIGTERM and Ctrl-C end it when it has finished what it has in hand.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mesh.errors import ConfigError
from mesh.service.process import Stopping
from sage.service.memory.service import BACKENDS, MemoryService

EXIT_CONFIG = 78


def default_host(environment: Mapping[str, str], root: Path = Path("/")) -> str:
    """Where to listen if nobody says: in a container the loopback would reach nobody."""
    contained = (
        "KUBERNETES_SERVICE_HOST" in environment
        or (root / ".dockerenv").exists()
        or (root / "run/.containerenv").exists()
    )
    return "0.0.0.0" if contained else "127.0.0.1"


def parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """The command line, with what the environment says as defaults."""
    found = argparse.ArgumentParser(
        prog="python -m sage.service.memory.server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    host = environment.get("SAGE_SERVICE_HOST") or default_host(environment)
    found.add_argument("--host", default=host, help=f"(default {host})")
    found.add_argument("--port", default=environment.get("SAGE_SERVICE_PORT") or "8080")
    found.add_argument(
        "--backend",
        default=environment.get("SAGE_MEMORY_BACKEND") or "lmdb",
        help=", ".join(BACKENDS),
    )
    found.add_argument("--url", default=None, help="of the redis backend")
    found.add_argument("--data", default=None, help="directory of the lmdb backend")
    found.add_argument("--cache-size", default=environment.get("SAGE_MEMORY_SIZE") or "1GB")
    found.add_argument("--processes", type=int, default=None)
    found.add_argument(
        "--insecure", action="store_true", help="no warning where other machines can connect"
    )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal; the exit status."""
    options = parser(os.environ).parse_args(arguments)
    stopping = Stopping()  # at once the second time: the processes follow, each in its own way
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stopping.on_signal)
    try:
        if not options.port.isdecimal():
            raise ConfigError(f"SAGE_SERVICE_PORT={options.port!r} is not a number")
        service = MemoryService(
            options.host,
            int(options.port),
            options.backend,
            url=options.url,
            data=options.data,
            cache_size=options.cache_size,
            processes=options.processes,
            insecure=options.insecure or None,
        ).start()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_CONFIG
    if service.storage_backend != "redis" and "KUBERNETES_SERVICE_HOST" in os.environ:
        print(
            "note: this pod keeps its data to itself: several replicas are several independent "
            "caches; SAGE_MEMORY_BACKEND=redis makes them one",
            file=sys.stderr,
            flush=True,
        )
    with service:
        print(f"serving memory at {service.address} ({service.storage_backend})", flush=True)
        while not stopping.wait(1.0):  # a signal just before a wait does not end it
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
