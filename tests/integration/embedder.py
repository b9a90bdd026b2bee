"""A service that makes vectors of texts: how long they are."""

from __future__ import annotations

from mesh import Service

embedder = Service("embedder")


@embedder.rpc(idempotent=True)
def vectors(texts: list[str]) -> list[list[float]]:
    return [[float(len(one)), 1.0, 0.0] for one in texts]
