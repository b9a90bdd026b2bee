"""The memory service: keys and values with expiry, tags, locks and watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mesh.errors import ConfigError
from mesh.settings import Settings
from workers import serving
from workers.memory.backend import Backend
from workers.memory.cache import Cache
from workers.memory.handler import MemoryHandler

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


def run(settings: Settings, brokers: Sequence[str]) -> int:
    """Serve until a signal, in this process or in several under a supervisor; the exit status.

    Raises:
        ConfigError: something that the backend needs is missing.
    """
    memory = settings.services.memory
    make = backend_maker(settings)
    return serving.run(
        lambda: MemoryHandler(make()),
        brokers,
        settings,
        processes=memory.processes,
        timeout=memory.timeout,
        data=Path(memory.data) if memory.backend == "lmdb" and memory.data else None,
    )


def backend_maker(settings: Settings) -> Callable[[], Backend]:
    """What opens the backend, in the process that is to use it.

    Raises:
        ConfigError: something that it needs is missing.
    """
    memory, performance = settings.services.memory, settings.performance
    size, eviction = performance.cache_size, memory.eviction
    if memory.backend != "redis":
        Cache(eviction, size)  # what it refuses is said once, not by each process
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
