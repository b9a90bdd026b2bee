"""The search service: documents found by words, values and vectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mesh.errors import ConfigError
from mesh.settings import Settings
from workers import serving

FLAGS = {
    "--processes": ("services.search.processes", "N"),
    "--data": ("services.search.data", "DIR"),
    "--timeout": ("services.search.timeout", "SECONDS"),
}
"""Options of the command line and the keys that they stand for."""


def run(settings: Settings, brokers: Sequence[str]) -> int:
    """Serve until a signal, in this process or in several under a supervisor; the exit status.

    Raises:
        ConfigError: nothing says where the data is, or the libraries are not installed.
    """
    search = settings.services.search
    if not search.data:
        raise ConfigError(
            "search keeps its data in a directory; give it: --data DIR, or services.search.data "
            "in the configuration"
        )
    data = Path(search.data)
    # Threads of BLAS that wait for each other cost more than they bring while all cores are in use;
    # it is asked when it is loaded.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from workers.search.engine import SearchEngine
        from workers.search.handler import SearchHandler
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"search needs more libraries ({error.name} is missing): install sage-mesh[search]"
        ) from None
    return serving.run(
        lambda: SearchHandler(SearchEngine(data)),
        brokers,
        settings,
        processes=search.processes,
        timeout=search.timeout,
        data=data,
    )
