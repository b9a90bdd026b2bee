"""A process that stands for writer of a store and, once it is, writes numbers without end.

Run with the directory of the store. Each group writes the next numbers, 1 to 200 of them, and a
line `ack <last>` is printed after it is acknowledged: what was printed must never be lost.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from typing import Final

from workers.store import PLAIN, Change, Job, Store

TABLES: Final = {"numbers": PLAIN}
SERVICE: Final = "numbers"
MAP_SIZE: Final = 1024 * 1024


def open_store(path: str) -> Store:
    """The store of the test, with a map that has to grow often."""
    return Store.open(path, service=SERVICE, tables=TABLES, map_size=MAP_SIZE)


def value(number: int) -> bytes:
    """What is stored under `number`: up to some pages."""
    return b"%d " % number * (number * 7919 % 500)


def add(store: Store) -> Job:
    """A job that stores the next number."""
    numbers = store.tables["numbers"]

    def run(change: Change) -> int:
        last = 0
        for key, _ in change.items(numbers, reverse=True):
            last = int.from_bytes(key, "big")
            break
        change.put(numbers, (last + 1).to_bytes(8, "big"), value(last + 1))
        return last + 1

    return Job(run)


def main() -> None:
    with open_store(sys.argv[1]) as store:
        gained = threading.Event()
        failed: list[Exception] = []

        def begin(epoch: int) -> None:
            print(f"gained {epoch} at {time.monotonic()}", flush=True)
            gained.set()

        def lost(error: Exception) -> None:
            failed.append(error)
            gained.set()

        store.elect(begin, lost)
        print(f"stands {store.uuid}", flush=True)
        gained.wait()
        while not failed:
            outcomes = store.execute([add(store)] * random.randint(1, 200))
            errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
            if errors:
                raise errors[0]
            print(f"ack {outcomes[-1]}", flush=True)
        raise failed[0]


if __name__ == "__main__":
    main()
