"""What is to become an object: cut into parts, and summed up."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from mesh.client.storage.sums import Sum
from mesh.errors import InvalidArgument
from mesh.protocol.storage import PART, part_digest


@dataclass(slots=True)
class Part:
    """One part of what is sent."""

    number: int
    data: bytes | memoryview
    digest: bytes


class Outgoing:
    """What is to become an object: cut into parts, and summed up.

    `pieces` are octets of any length; without them `push` and `end` bring those.
    """

    def __init__(self, pieces: Iterator[Any] | None, total: int | None) -> None:
        self.total = total
        self.size = 0
        self._pieces = pieces
        self._sum = Sum()
        self._waiting: deque[memoryview] = deque()
        self._held = 0
        self._ended = False
        self._number = 0

    @property
    def sha256(self) -> bytes:
        """Of everything that was taken."""
        return self._sum.digest()

    @property
    def lacking(self) -> bool:
        """Whether more must be pushed before the next part can be taken."""
        return self._held < PART and not self._ended

    def push(self, piece: Any) -> None:
        """Some more octets."""
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise InvalidArgument(f"an object is made of bytes, not of {type(piece).__name__}")
        view = _octets(piece)
        if len(view):
            # What may change must not do so while it waits.
            self._waiting.append(view if isinstance(piece, bytes) else memoryview(bytes(view)))
            self._held += len(view)

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True

    def take(self) -> Part | None:
        """The next part, None at the end."""
        while self.lacking and self._pieces is not None:
            piece = next(self._pieces, None)
            if piece is None:
                self.end()
            else:
                self.push(piece)
        if not self._held:
            return None
        wanted = min(PART, self._held)
        self._held -= wanted
        cut = []
        while wanted:
            view = self._waiting.popleft()
            if len(view) > wanted:
                self._waiting.appendleft(view[wanted:])
                view = view[:wanted]
            wanted -= len(view)
            cut.append(view)
        data = cut[0] if len(cut) == 1 else b"".join(cut)
        self._sum.update(data)
        self.size += len(data)
        self._number += 1
        return Part(self._number - 1, data, part_digest(data))


def of(source: Any) -> Outgoing:
    """What is to be sent, from bytes, an open binary file, or an iterable of bytes.

    Raises:
        InvalidArgument: it is none of these.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        view = _octets(source)
        return Outgoing(iter(view[at : at + PART] for at in range(0, len(view), PART)), len(view))
    if isinstance(source, str | os.PathLike):
        raise InvalidArgument("a path: use put_file(key, path), or give the content as bytes")
    if hasattr(source, "read"):
        return Outgoing(_read(source), _left(source))
    if isinstance(source, Iterable):
        return Outgoing(iter(source), None)
    raise InvalidArgument(
        f"{type(source).__name__} is no content: give bytes, a binary file or an iterable of bytes"
    )


def _octets(piece: bytes | bytearray | memoryview) -> memoryview:
    view = memoryview(piece)
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def _read(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PART):
        yield piece


def _left(file: Any) -> int | None:
    """Octets that are left to read; None if that cannot be known."""
    try:
        return int(os.fstat(file.fileno()).st_size - file.tell())
    except (OSError, AttributeError, ValueError):
        return None
