"""Clients of the storage service: `python -m bench.objects KIND ADDRESS FOLDER [options]`.

objects  objects of 16 MiB in and out, in MB/s, in turns with the same octets to files in FOLDER
fill     as many values of one size, as fast as that goes
many     as many records of 100 octets, then the latency of single gets
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from bench import loops
from bench.harness import Figures
from mesh import connect
from mesh.client.storage.local import LocalUpload
from workers.store import place

SIZE = 16 * 1024 * 1024
MIB = 1024 * 1024
LOAD = 1000


def in_turns(acts: dict[str, Callable[[int], object]], count: int) -> Figures:
    """The median of MB/s of each over `count` times, after a first one; one after the other."""
    found: dict[str, list[float]] = {name: [] for name in acts}
    for number in range(count + 1):
        for name, act in acts.items():
            begun = time.perf_counter()
            act(number)
            found[name].append(SIZE / 1e6 / (time.perf_counter() - begun))
    return {name: statistics.median(speeds[1:]) for name, speeds in found.items()}


def objects(address: str, folder: Path, count: int) -> Figures:
    """Objects in and out, and the same octets to files of `folder` and back."""
    data = random.Random(1).randbytes(SIZE)

    def write(number: int) -> None:
        with (folder / f"f{number}").open("xb", buffering=0) as file:
            for at in range(0, SIZE, MIB):
                file.write(memoryview(data)[at : at + MIB])
            os.fsync(file.fileno())
        place.sync_directory(folder)

    def read(number: int) -> None:
        with (folder / f"f{number}").open("rb", buffering=0) as file:
            while file.read(MIB):
                pass

    with connect(address) as m:

        def send(number: int) -> None:
            # As from another machine, where the file of the upload is not to be found.
            with mock.patch.object(LocalUpload, "open", lambda path, upload: None):
                m.storage.put_object(f"s{number}", data)

        def get(number: int) -> None:
            found = m.storage.get_object(f"o{number}")
            assert found is not None
            for _ in found:
                pass

        puts = {
            "put": lambda number: m.storage.put_object(f"o{number}", data),
            "put, plain file": write,
            "put, sent": send,
        }
        gets = {"get": get, "get, plain file": read}
        return {**in_turns(puts, count), **in_turns(gets, count)}


def fill(address: str, count: int, size: int) -> Figures:
    source = random.Random(1)
    with connect(address, timeout=120.0) as m:
        step = max(1, min(LOAD, 4_000_000 // size))
        for begin in range(0, count, step):
            m.storage.put_many(
                {
                    f"key:{number:09d}": source.randbytes(size)
                    for number in range(begin, min(begin + step, count))
                }
            )
    return {}


def many(address: str, count: int) -> Figures:
    fill(address, count, 100)
    source = random.Random(2)
    with connect(address) as m:
        keys = iter([f"key:{source.randrange(count):09d}" for _ in range(6_000)])
        return loops.one_at_a_time_blocking(lambda: m.storage.get(next(keys)), 5_000)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("objects", "fill", "many"))
    parser.add_argument("address")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--size", type=int, default=100)
    options = parser.parse_args()
    if options.kind == "objects":
        result = objects(options.address, options.folder, options.count)
    elif options.kind == "fill":
        result = fill(options.address, options.count, options.size)
    else:
        result = many(options.address, options.count)
    print(json.dumps(result), flush=True)
