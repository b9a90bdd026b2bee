"""The storage service in one process that kills itself at a named point.

Run with the directory of the store, the endpoint of the broker, the point, and how often it is
passed before that. The points:

    received       a group of writes has arrived, nothing was written
    committed      a group is on disk, nobody was told
    linked         an upload has become an object's file, no transaction names it
    named          an object is there, its upload was not cleared away
    unlinked       the file of a deleted object is gone, the transaction that says so is not there
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workers import serving
from workers.storage import change, engine
from workers.storage.engine import LmdbEngine
from workers.storage.files import Files
from workers.storage.handler import StorageHandler


def arm(point: str, passes: int) -> None:
    """Have this process killed when it has passed `point` that often."""
    reached = killed_after(passes)

    def before(owner: Any, name: str) -> None:
        wrap(owner, name, reached, lambda *ignored: None)

    def after(owner: Any, name: str) -> None:
        wrap(owner, name, lambda *ignored: None, reached)

    {
        "received": lambda: before(LmdbEngine, "_commit"),
        "committed": lambda: after(LmdbEngine, "_commit"),
        "linked": lambda: after(Files, "finish"),
        "named": lambda: before(Files, "discard"),
        "unlinked": lambda: after(Files, "remove"),
    }[point]()


def killed_after(passes: int) -> Callable[..., None]:
    """A function that kills this process when it is called once more than `passes` times."""
    left = passes

    def reached(*ignored: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def wrap(owner: Any, name: str, before: Callable[..., None], after: Callable[..., None]) -> None:
    """Call something before and after a method."""
    method = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before()
        result = method(*args, **kwargs)
        after()
        return result

    setattr(owner, name, wrapped)


def main() -> int:
    """Serve until the point is reached, or a signal comes."""
    data, broker, point, passes = sys.argv[1:]
    # What was replaced stays for a minute, for its readers; nobody waits for that here.
    change.GRACE = engine.GRACE = 100  # type: ignore[misc]
    arm(point, int(passes))
    return serving.serve(lambda: StorageHandler(LmdbEngine(Path(data))), [broker])


if __name__ == "__main__":
    sys.exit(main())
