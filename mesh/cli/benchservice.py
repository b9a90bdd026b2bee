"""The service that `sage-mesh bench` calls."""

from __future__ import annotations

from collections.abc import Iterator

from mesh import Service

service = Service("sage-bench")


@service.rpc(inline=True, idempotent=True)
def echo(value: bytes) -> bytes:
    """The argument, as it is."""
    return value


@service.rpc
def items(count: int, value: bytes) -> Iterator[bytes]:
    """`value`, `count` times."""
    for _ in range(count):
        yield value
