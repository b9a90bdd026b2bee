"""Hit ratios of the eviction policies on a real trace: `python -m bench.hitratio [--store]`.

The trace is OLTP of Megiddo and Modha (ARC, FAST 2003) in the folder that SAGE_BENCH_DATA names.
Each line is `first block, count of blocks, ignored, number`; an entry is one block, of size 1.
`--store` replays it through a whole store in LMDB, and compares with the policy alone at the number
of entries that the store was able to hold.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import msgpack

from bench.harness import Unavailable
from workers.memory.backend import Op
from workers.memory.backends.durable import LmdbBackend
from workers.memory.eviction import make_policy

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


def store_hit_ratio(keys: list[bytes], cache_size: int) -> tuple[float, int]:
    """Per cent of `keys` found in a store of `cache_size` octets, and how many entries it held."""
    body = msgpack.packb(b"x" * 100)
    hits = 0
    gained = threading.Event()
    with tempfile.TemporaryDirectory() as directory:
        backend = LmdbBackend(Path(directory) / "store", cache_size)
        backend.stand(gained.set, lambda error: None)
        gained.wait()
        backend.execute([Op("configure", "trace", {"relaxed": True, "quota": None})])
        for number, key in enumerate(keys):
            (found,) = backend.execute([Op("get", "trace", {"key": key})])
            if found is not None:
                hits += 1
            else:
                backend.execute([Op("set", "trace", {"key": key, "body": body})])
            if number % 10_000 == 0:
                backend.tick()
        (stats,) = backend.execute([Op("stats", "")])
        backend.close()
    return 100.0 * hits / len(keys), stats["entries"]


def main() -> None:
    """Print a table: policy, entries, hits, and the reference."""
    parser = argparse.ArgumentParser(prog="python -m bench.hitratio", description=__doc__)
    parser.add_argument("--store", action="store_true", help="replay through a store in LMDB")
    options = parser.parse_args()
    keys = list(oltp())
    if options.store:
        for megabytes in (5, 10):
            found, entries = store_hit_ratio(keys, megabytes * 1_000_000)
            alone = hit_ratio("s3-fifo", keys, entries)
            print(f"{megabytes} MB, {entries:,} entries: {found:.2f} % (alone {alone:.2f})")
        return
    for name, expected in REFERENCE.items():
        for capacity, reference in zip(CAPACITIES, expected, strict=True):
            found = hit_ratio(name, keys, capacity)
            print(f"{name:12} {capacity:6,} {found:6.2f} % (reference {reference:.2f})")


if __name__ == "__main__":
    main()
