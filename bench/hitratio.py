"""Hit ratios of the eviction policies on a real trace: `python -m bench.hitratio [--store]`.

The trace is OLTP of Megiddo and Modha (ARC, FAST 2003) in the folder that SAGE_BENCH_DATA names.
Each line is `first block, count of blocks, ignored, number`; an entry is one block, of size 1.
`--store` replays it through a whole store in LMDB as well, with a `cache_size` that was found to
hold that number of entries; a minute or two for each row.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgpack

from bench.harness import Unavailable
from workers.memory.backend import Op
from workers.memory.backends.durable import LmdbBackend
from workers.memory.cache import MIN_CAPACITY
from workers.memory.eviction import make_policy

# With its record it fills a page of its own: how many entries a store holds is then steady.
BODY = msgpack.packb(bytes(4040))
CAPACITIES = (1_000, 2_000, 5_000, 10_000)
# Per cent of hits, from libCacheSim 0.3.5; its LRU agrees with the ARC paper.
REFERENCE = {
    "s3-fifo": (40.86, 47.03, 55.75, 62.69),
    "allkeys-lru": (32.83, 42.47, 53.65, 60.70),
}


def oltp() -> Iterator[bytes]:
    """The keys that are asked for, in order.

    Raises:
        Unavailable: the trace or the library that unpacks it is not here.
    """
    folder = os.environ.get("SAGE_BENCH_DATA")
    if not folder:
        raise Unavailable("SAGE_BENCH_DATA does not name the folder with OLTP.lis.zst")
    path = Path(folder) / "OLTP.lis.zst"
    if not path.exists():
        raise Unavailable(f"{path} does not exist")
    try:
        import zstandard
    except ModuleNotFoundError:
        raise Unavailable("the package zstandard is not installed") from None
    with path.open("rb") as packed:
        for line in zstandard.ZstdDecompressor().stream_reader(packed).read().splitlines():
            first, count = map(int, line.split()[:2])
            for block in range(first, first + count):
                yield b"%d" % block


def hit_ratio(name: str, keys: list[bytes], capacity: int) -> float:
    """Per cent of `keys` that are found in a cache of `capacity` entries under policy `name`."""
    policy = make_policy(name, capacity)
    cached: set[bytes] = set()
    hits = 0
    for key in keys:
        if key in cached:
            hits += 1
            policy.hit(key)
            continue
        if len(cached) >= capacity:
            victim = policy.victim()
            if victim is not None:
                cached.discard(victim)
        policy.insert(key, 1, 0)
        cached.add(key)
    return 100.0 * hits / len(keys)


class Replay(NamedTuple):
    """What came of a replay through a store: per cent of hits, and how many entries it held."""

    hits: float
    mean: float
    least: int
    most: int


@contextmanager
def small_store(name: str, cache_size: int) -> Iterator[LmdbBackend]:
    """A store in LMDB that writes, with a namespace `trace` whose writes are not waited for."""
    gained = threading.Event()
    with tempfile.TemporaryDirectory() as directory:
        backend = LmdbBackend(Path(directory) / "store", cache_size, name)
        backend.stand(lambda epoch: gained.set(), lambda error: None)
        gained.wait()
        backend.execute([Op("configure", "trace", {"relaxed": True, "quota": None})])
        try:
            yield backend
        finally:
            backend.close()


def store_hit_ratio(name: str, keys: list[bytes], cache_size: int) -> Replay:
    """Ask a store of `cache_size` octets for `keys`; what it does not hold is written."""
    hits = 0
    held: list[int] = []
    with small_store(name, cache_size) as backend:
        for number, key in enumerate(keys):
            (found,) = backend.execute([Op("get", "trace", {"key": key})])
            if found is not None:
                hits += 1
            else:
                backend.execute([Op("set", "trace", {"key": key, "body": BODY})])
            if number % 5_000 == 0:
                backend.tick()
                (stats,) = backend.execute([Op("stats", "")])
                held += [stats["entries"]] if stats["evicted"] else []
    held = held or [len(set(keys))]
    return Replay(100.0 * hits / len(keys), sum(held) / len(held), min(held), max(held))


def fitted(name: str, keys: list[bytes], capacity: int) -> int:
    """The `cache_size` with which a store holds about `capacity` entries, found by trying."""
    size = max(MIN_CAPACITY, int(1.4 * capacity * len(BODY)))
    for _ in range(2):
        held = store_hit_ratio(name, keys[: 12 * capacity], size).mean
        size = max(MIN_CAPACITY, int(size * capacity / held))
    return size


def main() -> None:
    """Print a table: policy, entries, hits, and the reference."""
    parser = argparse.ArgumentParser(prog="python -m bench.hitratio", description=__doc__)
    parser.add_argument("--store", action="store_true", help="replay through a store in LMDB")
    parser.add_argument("--policy", choices=tuple(REFERENCE), action="append")
    parser.add_argument("--entries", type=int, choices=CAPACITIES, action="append")
    parser.add_argument("--first", type=int, help="only so many requests; there is no reference")
    options = parser.parse_args()
    keys = list(oltp())[: options.first]
    for name in options.policy or REFERENCE:
        for capacity, reference in zip(CAPACITIES, REFERENCE[name], strict=True):
            if capacity not in (options.entries or CAPACITIES):
                continue
            alone = hit_ratio(name, keys, capacity)
            line = f"{name:12} {capacity:6,} entries: alone {alone:.2f} %"
            if options.store:
                found = store_hit_ratio(name, keys, fitted(name, keys, capacity))
                line += (
                    f", through the store {found.hits:.2f} %, which held {found.mean:,.0f}"
                    f" ({found.least:,} to {found.most:,})"
                )
            if options.first is None:
                line += f"; reference {reference:.2f} %"
            print(line, flush=True)


if __name__ == "__main__":
    main()
