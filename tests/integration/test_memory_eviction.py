"""Which entries a whole store keeps, on a real trace. Needs SAGE_BENCH_DATA; see bench/hitratio."""

from __future__ import annotations

import pytest

from bench.harness import Unavailable
from bench.hitratio import fitted, hit_ratio, oltp, store_hit_ratio

ENTRIES = 1_000
REQUESTS = 30_000


@pytest.mark.parametrize("name", ["s3-fifo", "allkeys-lru"])
def test_hits_through_a_store_are_those_of_its_policy(name: str) -> None:
    """The policies alone are compared with the literature on the whole trace elsewhere."""
    try:
        keys = list(oltp())[:REQUESTS]
    except Unavailable as reason:
        pytest.skip(str(reason))
    found = store_hit_ratio(name, keys, fitted(name, keys, ENTRIES))
    assert 0.9 * ENTRIES < found.mean < 1.1 * ENTRIES
    assert abs(found.hits - hit_ratio(name, keys, round(found.mean))) < 0.5
