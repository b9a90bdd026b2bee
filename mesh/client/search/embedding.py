"""Vectors of documents and queries: of which text they are made, and what they are sent as.

What makes them is the user's: a function of a list of texts, or the name of a mesh method that
takes one. It gives as many vectors: lists of numbers, 32-bit floats as octets, or arrays.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from mesh.client.search.requests import CollectionInfo
from mesh.errors import InvalidArgument
from mesh.protocol.checks import shown

Document: TypeAlias = dict[str, Any]


class Arrayed(Protocol):
    """A vector, or vectors, of numpy and its kind."""

    def tolist(self) -> Any:
        """The numbers."""


Vector: TypeAlias = Sequence[float] | bytes | Arrayed
Vectors: TypeAlias = Sequence[Vector] | Arrayed
Embed: TypeAlias = str | Callable[[list[str]], Vectors | Awaitable[Vectors]]
"""A function, or "service.method". Only the asyncio client awaits what a function gives."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """How the documents of a collection get their vectors: `by`, from fields, into a field."""

    by: Embed
    field: str
    fields: tuple[str, ...]

    def text(self, document: Document) -> str:
        """What the vector of `document` is made of; "" for nothing."""
        found: list[str] = []
        for name in self.fields:
            value = document.get(name)
            if isinstance(value, str):
                found.append(value)
            elif isinstance(value, list | tuple):
                found += [part for part in value if isinstance(part, str)]
        return "\n".join(found).strip()

    def lacking(self, documents: Sequence[Document]) -> list[Document]:
        """Those that have text and no vector."""
        return [one for one in documents if one.get(self.field) is None and self.text(one)]


def choose(
    collection: str, info: CollectionInfo | None, by: Embed, field: str, fields: Sequence[str]
) -> Embedding:
    """From where to where, if that was not said: the text fields, the only field of vectors.

    Raises:
        InvalidArgument: it must be said, or there is no such field.
    """
    schema = {} if info is None else info.schema
    vectors = [name for name, one in schema.items() if one["kind"] == "vector"]
    texts = [name for name, one in schema.items() if one["kind"] == "text"]
    if not field:
        if len(vectors) != 1:
            there = f"has {len(vectors)}: {', '.join(vectors)}" if vectors else "has none"
            raise InvalidArgument(
                f"embed: name the field of vectors with embed_field; collection {collection!r} "
                f"{there}; create() or extend() declares one with its dimension"
            )
        field = vectors[0]
    elif field not in vectors:
        raise InvalidArgument(
            f"embed_field={field!r} is no field of vectors in collection {collection!r}; declare "
            "it with its dimension first: create() or extend()"
        )
    if not fields and not texts:
        raise InvalidArgument(
            f"embed: collection {collection!r} has no text fields yet; say with embed_from which "
            "fields the vectors are made of"
        )
    return Embedding(by, field, tuple(fields or texts))


def packed(vector: Any, what: str = "vector") -> bytes:
    """A vector as it is sent: 32-bit floats, little endian. Raises InvalidArgument."""
    if isinstance(vector, bytes):
        return vector
    astype = getattr(vector, "astype", None)
    try:
        if astype is not None:
            octets: bytes = astype("<f4").tobytes()
            return octets
        numbers = vector.tolist() if hasattr(vector, "tolist") else vector
        return struct.pack(f"<{len(numbers)}f", *numbers)
    except (struct.error, OverflowError, TypeError, ValueError):
        raise InvalidArgument(f"{what}={shown(vector)} is not a list of numbers") from None


def packed_all(vectors: Any, count: int) -> list[bytes]:
    """The vectors that an embedding function gave for `count` texts. Raises InvalidArgument."""
    try:
        found = list(vectors)
    except TypeError:
        raise InvalidArgument(f"embed gave {shown(vectors)}, not a list of vectors") from None
    if len(found) != count:
        raise InvalidArgument(f"embed gave {len(found)} vectors for {count} texts")
    return [packed(one, f"embed: vector {index}") for index, one in enumerate(found)]
