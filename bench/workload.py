"""What the benchmarks of the memory service ask for: zipf keys, values of 100 octets, mixes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

KEYS = 10_000
VALUE = 100
SKEW = 0.99
SEED = 20260101

Step = tuple[str, str]
"""What to do ("read", "write", "modify") and with which key."""


def key(number: int) -> str:
    """The name of a key, as long as those of a session store."""
    return f"user:{number:012d}"


def values() -> Iterator[bytes]:
    """Values without end: 100 octets, no two in a row alike."""
    source = random.Random(SEED)
    return itertools.cycle([source.randbytes(VALUE) for _ in range(257)])


def zipf(count: int, seed: int = SEED) -> list[str]:
    """`count` keys as YCSB asks for them: the n-th most popular of 10,000 with weight n**-0.99."""
    source = random.Random(seed)
    # Popular keys do not lie beside each other.
    names = [key(number) for number in range(KEYS)]
    source.shuffle(names)
    weights = list(itertools.accumulate((n + 1) ** -SKEW for n in range(KEYS)))
    return source.choices(names, cum_weights=weights, k=count)


def steps(reads: float, modifies: float = 0.0, count: int = 50_000) -> Iterator[Step]:
    """Steps without end: a share of reads, one of read-modify-writes, the rest are writes."""
    source = random.Random(SEED + 1)
    found: list[Step] = []
    for name in zipf(count):
        chance = source.random()
        kind = "read" if chance < reads else "modify" if chance < reads + modifies else "write"
        found.append((kind, name))
    return itertools.cycle(found)


def batches(size: int, count: int = 500) -> Iterator[list[str]]:
    """Lists of `size` different keys without end."""
    names = iter(zipf(20 * size * count))
    found: list[list[str]] = []
    batch: dict[str, None] = {}
    for name in names:
        batch[name] = None
        if len(batch) == size:
            found.append(list(batch))
            batch = {}
            if len(found) == count:
                break
    return itertools.cycle(found)


MIXES = {
    "A": (0.5, 0.0),
    "B": (0.95, 0.0),
    "C": (1.0, 0.0),
    "F": (0.5, 0.5),
}
"""The mixes of YCSB that a store of keys can run: shares of reads and of read-modify-writes."""
