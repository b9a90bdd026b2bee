"""A full cache that is written all the time: memory and disk stay where they are.

Real processes. SAGE_SOAK=1 writes ten times as much.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from mesh import connect
from mesh.errors import StoreFull
from tests import support
from tests.integration.memory_mesh import SEED, SOAK, MemoryMesh, anonymous

pytestmark = pytest.mark.timeout(600 if SOAK else 120)

CACHE = 16_000_000
# The middle of the sizes of the values, 100 to 4,000 octets.
MEAN = 2_050
BATCH = 100


def on_disk(data: Path) -> int:
    """What the files take, holes not counted."""
    return sum(path.stat().st_blocks * 512 for path in data.rglob("*") if path.is_file())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("policy", ["s3-fifo", "allkeys-lru"])
def test_memory_and_disk_stay_flat_at_the_size_limit(
    process: support.Start, tmp_path: Path, policy: str
) -> None:
    data = tmp_path / "store"
    mesh = MemoryMesh(process, data, "--cache-size", str(CACHE), "--eviction", policy, processes=2)
    rng = random.Random(SEED)
    written = 0
    with connect(mesh.endpoint) as m:

        def fill(times: float) -> tuple[dict[int, int], int]:
            """Write `times` as much as the cache holds; memory of the workers, and disk, after."""
            nonlocal written
            for _ in range(round(times * CACHE / MEAN / BATCH)):
                first, written = written, written + BATCH
                values = {
                    f"key:{number}": os.urandom(rng.randint(100, 2 * MEAN - 100))
                    for number in range(first, written)
                }
                m.memory.set_many(values, ttl=rng.choice((None, 1.0, 3600.0)), tags=["churn"])
                m.memory.get_many([f"key:{rng.randrange(written)}" for _ in range(BATCH)])
                m.memory.increment(f"counter:{rng.randrange(50)}")
            return {pid: anonymous(pid) for pid in mesh.workers()}, on_disk(data)

        memory, disk = fill(3)
        memory_after, disk_after = fill(40 if SOAK else 3)
        stats = m.memory.stats()
    print(memory, memory_after, disk, disk_after, stats)
    assert memory.keys() == memory_after.keys()
    for pid, before in memory.items():
        assert memory_after[pid] - before < 8_000_000, f"SEED {SEED}"
    assert disk_after < 1.25 * CACHE
    assert disk_after - disk < 0.2 * CACHE
    assert stats["evicted"] > 0
    assert stats["octets"] <= CACHE


def test_without_eviction_a_full_store_refuses_and_goes_on_when_there_is_room(
    process: support.Start, tmp_path: Path
) -> None:
    mesh = MemoryMesh(
        process, tmp_path / "store",
        "--cache-size", "5MB", "--eviction", "noeviction", processes=2,
    )  # fmt: skip
    kept: dict[str, bytes] = {}
    with connect(mesh.endpoint) as m:
        with pytest.raises(StoreFull) as refusal:
            for number in range(10_000):
                key, value = f"key:{number}", os.urandom(4_000)
                m.memory.set(key, value)
                kept[key] = value
        assert 200 < len(kept) < 1_300
        assert str(refusal.value)
        # Nothing that was acknowledged has gone, and reading goes on.
        assert all(m.memory.get(key) == value for key, value in kept.items())
        for key in list(kept)[::2]:
            m.memory.delete(key)
        for number in range(len(kept) // 4):
            m.memory.set(f"later:{number}", os.urandom(4_000))
        assert m.memory.get("key:1") == kept["key:1"]
