"""Writes an index again and again, and is killed at every step that touches the disk.

Run with a directory. For each step a forked child writes, merges and kills itself there; then the
index must open, be what was committed last (or what was being committed), and take more. Prints how
many steps there were.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.unit.workers.search.vectors.model import as_bytes
from workers.search.schema import Field
from workers.search.vectors import merging
from workers.search.vectors.index import VectorReader, VectorWriter

FIELD = Field("v", "vector", dimension=4, metric="l2")
ROUNDS = 6


def changes(number: int) -> tuple[list[int], list[tuple[int, bytes]]]:
    """The change of one commit."""
    source = random.Random(number)
    rows = range(number * 40, number * 40 + 40)
    vectors = [np.array([source.random() for _ in range(4)]) for _ in rows]
    removed = [row for row in range(number * 40) if source.random() < 0.2]
    return removed, [(row, as_bytes(vector)) for row, vector in zip(rows, vectors, strict=True)]


def states() -> list[set[int]]:
    """The rows that are there after each commit."""
    there: set[int] = set()
    found = [set(there)]
    for number in range(ROUNDS):
        removed, added = changes(number)
        there = there - set(removed) | {row for row, _ in added}
        found.append(there)
    return found


def write(path: Path, committed: int) -> None:
    """The whole of it; each commit is noted in the file `committed`."""
    writer = VectorWriter(path, FIELD)
    for number in range(ROUNDS):
        writer.apply(*changes(number))
        writer.commit()
        os.write(committed, b".")
        if number % 2:
            writer.settle()
    writer.close()


def kill_at(step: int) -> None:
    """Have this process killed before its `step`-th touch of the disk."""
    left = [step]

    def counted(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return call

    for name in ("pwrite", "fsync", "fdatasync", "ftruncate"):
        setattr(os, name, counted(getattr(os, name)))
    for name in ("rename", "unlink", "touch", "write_bytes"):
        setattr(Path, name, counted(getattr(Path, name)))


def killed(path: Path, step: int) -> int | None:
    """The commits that were acknowledged until the kill; None if it came to its end before."""
    shutil.rmtree(path, ignore_errors=True)
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        kill_at(step)
        write(path, sender)
        os._exit(0)
    os.close(sender)
    acknowledged = 0
    while data := os.read(receiver, 64):
        acknowledged += len(data)
    os.close(receiver)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return acknowledged
    assert status == 0, status
    return None


def check(path: Path, acknowledged: int) -> None:
    expected = states()
    writer = VectorWriter(path, FIELD)
    there = set(VectorReader(path, FIELD).search(np.zeros(4, np.float32), 10_000)[0])
    assert there in expected[acknowledged : acknowledged + 2], acknowledged
    for number in range(expected.index(there), ROUNDS):
        writer.apply(*changes(number))
    writer.commit()
    writer.settle()
    reader = VectorReader(path, FIELD)
    assert set(reader.search(np.zeros(4, np.float32), 10_000)[0]) == expected[-1]
    writer.close()
    assert not [file for file in path.iterdir() if file.name.startswith("tmp-")]


def main() -> None:
    merging.Merger.start = lambda self: None  # type: ignore[method-assign]
    path = Path(sys.argv[1])
    step = 1
    while (acknowledged := killed(path, step)) is not None:
        check(path, acknowledged)
        step += 1
    print("steps", step - 1)


if __name__ == "__main__":
    main()
