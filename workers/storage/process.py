"""The storage service: durable records and objects in buckets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mesh.errors import ConfigError
from mesh.settings import Settings
from workers import serving
from workers.storage.engine import LmdbEngine
from workers.storage.handler import StorageHandler

FLAGS = {
    "--processes": ("services.storage.processes", "N"),
    "--data": ("services.storage.data", "DIR"),
    "--timeout": ("services.storage.timeout", "SECONDS"),
}
"""Options of the command line and the keys that they stand for."""


def run(settings: Settings, brokers: Sequence[str]) -> int:
    """Serve until a signal, in this process or in several under a supervisor; the exit status.

    Raises:
        ConfigError: nothing says where the data is.
    """
    storage = settings.services.storage
    if not storage.data:
        raise ConfigError(
            "storage keeps its data in a directory; give it: --data DIR, or services.storage.data "
            "in the configuration"
        )
    data = Path(storage.data)
    return serving.run(
        lambda: StorageHandler(LmdbEngine(data, local_uploads=storage.local_uploads)),
        brokers,
        settings,
        processes=storage.processes,
        timeout=storage.timeout,
        data=data,
    )
