"""All benchmarks, by name, in the order in which they run."""

from __future__ import annotations

from bench.cases import bounds, calls, memory, raw, router, search, storage
from bench.harness import Case

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        *raw.CASES,
        *calls.CASES,
        *memory.CASES,
        *storage.CASES,
        *search.CASES,
        *router.CASES,
        *bounds.CASES,
    )
}
