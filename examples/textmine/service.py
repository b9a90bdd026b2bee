"""The text analysis as a service: `sage-mesh serve examples.textmine.service:service`.

The functions only read what they are given, so running one twice does no harm: they are declared
idempotent, and the mesh may repeat them when a worker or a broker dies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from examples.textmine import analysis
from mesh import Service, Stream

service = Service("textmine", version="1.0.0")


@service.rpc(idempotent=True)
def profile(text: str) -> dict[str, Any]:
    """Size, shape and checksum of one text."""
    return analysis.profile(text)


@service.rpc(idempotent=True)
def keywords(text: str) -> dict[str, int]:
    """How often the text uses each of Python's own names."""
    return analysis.keywords(text)


@service.rpc(idempotent=True)
def outline(text: str) -> Iterator[list[Any]]:
    """Each definition of the text, as a stream of `[line, kind, name]`."""
    return analysis.outline(text)


@service.rpc
def vocabulary(texts: Stream[str]) -> dict[str, Any]:
    """The names in all texts of a stream together."""
    return analysis.vocabulary(texts)
