"""Which modules run compiled, and whether the compiled form is that of the source beside it.

The modules in NAMES are plain Python files that an installation compiles where it can (setup.py).
A compiled module hides its source: whoever edits the source must install again.
With `SAGE_PUMP=pure` in the environment everything runs as plain Python; `mesh` imports this module
first, so that it holds for all that come after.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

NAMES = (
    "mesh.protocol.messages",
    "mesh.protocol.native",
    "mesh.protocol.payload",
    "mesh.resilience.breaker",
    "mesh.resilience.budget",
    "mesh.monitoring.histogram",
    "mesh.ending",
    "mesh.client.calls",
    "mesh.client.timers",
    "mesh.client.links",
    "mesh.client.core",
    "mesh.client.wire",
    "mesh.client.base",
    "mesh.client.aio_driver",
    "mesh.client.awaited",
    "mesh.context",
    "mesh.service.links",
    "mesh.service.requests",
    "mesh.service.session",
    "mesh.service.invoke",
    "mesh.service.lanes",
    "mesh.protocol.checks",
    "mesh.protocol.storage",
    "mesh.protocol.memory",
    "mesh.protocol.search",
    "broker.state",
    "broker.queues",
    "broker.router",
    "broker.server",
    "workers.acts",
    "workers.store.checksum",
    "workers.store.tables",
    "workers.store.dedup",
    "workers.memory.operations",
    "workers.memory.records",
    "workers.memory.view",
    "workers.memory.locks",
    "workers.memory.cache",
    "workers.memory.change",
    "workers.memory.running",
    "workers.memory.repeats",
    "workers.memory.outcomes",
    "workers.memory.verbs",
    "workers.memory.backends.lmdbtables",
    "workers.memory.eviction.s3fifo",
    "workers.storage.records",
    "workers.storage.operations",
    "workers.storage.view",
    "workers.storage.change",
    "workers.storage.running",
    "workers.storage.verbs",
    "workers.search.schema",
    "workers.search.operations",
    "workers.search.hits",
    "workers.search.records",
    "workers.search.view",
    "workers.search.change",
    "workers.search.verbs",
    "workers.search.legs",
    "workers.search.searching",
    "workers.search.text.index",
    "workers.search.text.paging",
    "workers.search.text.compile",
)


def compiled() -> list[str]:
    """The modules that would be imported in their compiled form."""
    return [name for name in NAMES if _binary_and_source(name) is not None]


def stale() -> list[str]:
    """Compiled modules whose source in the same folder has changed since."""
    found = []
    for name in NAMES:
        files = _binary_and_source(name)
        if files is None:
            continue
        binary, source = files
        parts = [path for path in (source, source[:-3] + ".pxd") if os.path.exists(path)]
        if any(os.path.getmtime(path) > os.path.getmtime(binary) for path in parts):
            found.append(name)
    return found


def _binary_and_source(name: str) -> tuple[str, str] | None:
    """The paths of a compiled module and of its source; None if it is not compiled."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or spec.origin.endswith(".py"):
        return None
    folder, _, file = spec.origin.rpartition(os.sep)
    return spec.origin, os.path.join(folder, file.partition(".")[0] + ".py")


ONLY_COMPILED = frozenset(
    (
        *(f"mesh.transport.{part}" for part in ("_header", "_pump", "_stream")),
        "workers.search.text._stems",
    )
)


class _Sources(importlib.abc.MetaPathFinder):
    """Finds the source of the modules in NAMES, whether or not a compiled form lies beside it.

    What has no source in Python counts as not built: it was compiled for the compiled forms.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in ONLY_COMPILED:
            raise ModuleNotFoundError(f"SAGE_PUMP=pure: {name} is left out", name=name)
        if name not in NAMES or not path:
            return None
        for folder in path:
            source = os.path.join(folder, name.rpartition(".")[2] + ".py")
            if os.path.exists(source):
                return importlib.util.spec_from_file_location(name, source)
        return None


if os.environ.get("SAGE_PUMP") == "pure":  # the same switch as the pump's: nothing compiled
    sys.meta_path.insert(0, _Sources())
