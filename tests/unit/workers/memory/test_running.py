"""Running groups of operations: what they leave behind."""

from __future__ import annotations

import gc

from workers.memory.backend import Op
from workers.memory.backends.inmemory import MemoryBackend
from workers.memory.change import Change


def test_a_group_is_freed_without_the_collector() -> None:
    """A change holds all that its group wrote: a cycle would keep it until the next collection."""
    backend = MemoryBackend(10_000_000)
    gc.collect()
    gc.disable()
    try:
        backend.execute([Op("set", "default", {"key": b"k", "body": b"\x01"})])
        backend.execute([Op("set_many", "default", {"items": [(b"k", b"\x02")]})])
        assert not [found for found in gc.get_objects() if isinstance(found, Change)]
    finally:
        gc.enable()
