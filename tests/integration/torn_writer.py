"""Writes to a storage engine, group after group, and notes each one in the record of `recorder.c`.

Run with the directory, the number of groups, a seed, and `flush` or `unflushed`. Before a group its
operations are noted, after it that it was acknowledged.
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import lmdb

from tests.conformance.storage.driver import Clock, Driver, opened_lmdb

Step: TypeAlias = tuple[str, str, int]
"""A verb ("put", "object" or "delete"), a key, and the seed of its content."""

KEYS = 40
SESSION = 7


def content(seed: int) -> bytes:
    """What is written: 10 octets to 60 KiB."""
    source = random.Random(seed)
    return source.randbytes(source.choice((10, 100, 100, 1000, 5000, 60_000)))


def group(number: int, seed: int) -> list[Step]:
    """The operations of one group."""
    source = random.Random(f"{seed} {number}")
    return [
        (
            source.choice(("put", "put", "put", "object", "delete")),
            f"k{source.randrange(KEYS)}",
            source.getrandbits(30),
        )
        for _ in range(source.randrange(1, 12))
    ]


def main() -> None:
    folder, groups, seed, flush = sys.argv[1:]
    if flush == "unflushed":
        lmdb.open = partial(lmdb.open, sync=False)
        lmdb.Environment = partial(lmdb.Environment, sync=False)
    record = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND)

    def note(op: bytes, what: Any) -> None:
        text = json.dumps(what).encode()
        os.write(record, struct.pack("<cqq", op, 0, len(text)) + text)

    store = Driver(opened_lmdb(Path(folder), Clock()), Clock())
    for number in range(int(groups)):
        steps = group(number, int(seed))
        note(b"B", number)
        ops = []
        for verb, key, chosen in steps:
            if verb == "delete":
                op = store.op("delete", [key])
            elif verb == "put":
                op = store.op("put", key, content(chosen))
            else:
                data = content(chosen)
                op = store.op("put_object", key, data, sha256=bytes(32))
            op.call = (SESSION, len(ops) + 100 * number, b"c" * 16)
            ops.append(op)
        results = store.execute(*ops)
        assert not any(isinstance(result, Exception) for result in results), results
        note(b"A", [number, results])


if __name__ == "__main__":
    main()
