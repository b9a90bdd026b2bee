"""The contract of a policy, and all of them by name.

A policy holds keys and sizes, never values. Whoever owns the entries tells it what happens to them
and asks for a `victim` while there is too much. With sizes of 1 the capacity is a number of
entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mesh.errors import ConfigError
from workers.memory.eviction.lru import Lru
from workers.memory.eviction.s3fifo import S3Fifo
from workers.memory.eviction.volatile import NoEviction, VolatileTtl


class Policy(Protocol):
    """An eviction policy. `capacity`, in the unit of the sizes, may be changed at any time.

    `overhead` is what an entry takes here: octets of memory beside its key, as measured.
    """

    overhead: int
    capacity: int

    def insert(self, key: bytes, size: int, expire_at: int) -> None:
        """An entry was written. `expire_at` in milliseconds, 0 for never. Known keys: an access."""

    def adopt(self, key: bytes, size: int, expire_at: int) -> None:
        """An entry of an earlier life is there; a known one stays where it is."""

    def hit(self, key: bytes) -> None:
        """An entry was read; unknown keys are ignored."""

    def remove(self, key: bytes) -> None:
        """An entry is gone for another reason than eviction; unknown keys are ignored."""

    def victim(self) -> bytes | None:
        """Give up an entry: its key, or None if the policy has none to give."""

    def __len__(self) -> int: ...
    def check(self) -> None:
        """Assert all invariants."""


POLICIES: dict[str, Callable[[int], Policy]] = {
    "s3-fifo": S3Fifo,
    "allkeys-lru": Lru,
    "volatile-ttl": VolatileTtl,
    "noeviction": NoEviction,
}


def make_policy(name: str, capacity: int) -> Policy:
    """The policy called `name`.

    Raises:
        ConfigError: there is none of that name.
    """
    make = POLICIES.get(name)
    if make is None:
        raise ConfigError(f"eviction={name!r} is not one of {', '.join(POLICIES)}")
    return make(capacity)
