"""The engine as its tests call it: verbs by name, answers or exceptions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workers.acts import Act
from workers.search.engine import SearchEngine
from workers.search.operations import Op
from workers.search.verbs import Verbs


def opened(path: Path, **options: Any) -> SearchEngine:
    """An engine in `path` that writes."""
    engine = SearchEngine(path, **options)
    writes = threading.Event()
    engine.stand(lambda epoch: writes.set(), lambda error: None)
    assert writes.wait(20.0)
    return engine


class Driver:
    """Calls the verbs of an engine. Writes wait until searches see them, unless told otherwise."""

    def __init__(self, engine: SearchEngine) -> None:
        self.engine = engine
        self._verbs = Verbs()

    def read(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        return self._run(self.engine.read, getattr(self._verbs, verb)(*args, **kwargs))

    def write(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        return self._run(self.engine.execute, getattr(self._verbs, verb)(*args, **kwargs))

    def index(self, collection: str, *documents: dict[str, Any], **kwargs: Any) -> Any:
        return self.write("index", collection, list(documents), **{"refresh": "wait", **kwargs})

    def delete(self, collection: str, *ids: str) -> Any:
        return self.write("delete", collection, list(ids), refresh="wait")

    def ids(self, collection: str, query: Any = None, **kwargs: Any) -> list[str]:
        """The ids of what a query finds, best first."""
        return [hit["id"] for hit in self.read("query", collection, query, **kwargs)["hits"]]

    def again(self, act: Act[Op], sequence: int) -> Any:
        """Run an act as the request of that number."""
        act.op.call = (1, sequence, b"x" * 16)
        return self._run(self.engine.execute, act)

    def _run(self, run: Callable[[list[Op]], list[Any]], act: Act[Op]) -> Any:
        (result,) = run([act.op])
        if isinstance(result, Exception):
            raise result
        return act.answer(result)
