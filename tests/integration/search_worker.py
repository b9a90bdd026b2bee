"""The search service in one process that kills itself at a named point.

Run with the directory of the store, the endpoint of the broker, the point, and how often it is
passed before that. The points:

    received     a group of writes has arrived, nothing was written
    committed    a group is on disk, nobody was told
    applied      an index knows of documents, in memory
    indexed      an index has them on disk, nothing says so
    published    an index is published, nobody was told
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.integration.storage_worker import killed_after, wrap
from workers import serving
from workers.search.engine import SearchEngine
from workers.search.generation import DerivedIndex
from workers.search.handler import SearchHandler
from workers.search.indexing import Indexer

POINTS = {
    "received": (SearchEngine, "_execute", True),
    "committed": (SearchEngine, "_execute", False),
    "applied": (DerivedIndex, "commit", True),
    "indexed": (DerivedIndex, "commit", False),
    "published": (Indexer, "_publish", False),
}
"""Each is a method, and whether the process dies before it, not after."""


def main() -> int:
    """Serve until the point is reached, or a signal comes."""
    data, broker, point, passes = sys.argv[1:]
    owner, name, before = POINTS[point]
    reached = killed_after(int(passes))
    wrap(owner, name, *((reached, _nothing) if before else (_nothing, reached)))
    return serving.serve(lambda: SearchHandler(SearchEngine(Path(data))), [broker])


def _nothing() -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
