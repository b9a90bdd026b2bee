"""The manifest: which files make up an index. It is replaced as a whole, never changed in place."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np
from xxhash import xxh3_64_digest

from workers.search.derived import IndexDamaged
from workers.search.schema import Field
from workers.search.vectors.metrics import Positions
from workers.store.place import sync_directory

NAME: Final = "manifest"
FORMAT: Final = 1
_CHECKSUM: Final = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """A segment: its files, what they must be, and which of its positions do not count.

    `graph` and `rows` are checksums (XXH3-64) of the two files, `octets` the length of the graph's,
    `vectors` where the matrix begins in it, `expansion` how widely its graph is searched.
    """

    name: str
    count: int
    octets: int
    graph: int
    rows: int
    vectors: int
    expansion: int
    gone: bytes = b""

    @property
    def gone_positions(self) -> Positions:
        """Positions that were removed, in order."""
        return np.frombuffer(self.gone, "<u4")

    @property
    def alive(self) -> int:
        """Vectors that count."""
        return self.count - len(self.gone) // 4

    def with_gone(self, gone: Positions) -> Entry:
        """With other removed positions."""
        return replace(self, gone=gone.astype("<u4").tobytes())


@dataclass(frozen=True, slots=True)
class Manifest:
    """The segments, oldest first, and the logs that are to be read over them, in their order."""

    next_number: int = 1
    segments: tuple[Entry, ...] = ()
    logs: tuple[str, ...] = field(default=())

    @property
    def files(self) -> set[str]:
        """The names of all files that belong to the index."""
        named = {f"{one.name}.{part}" for one in self.segments for part in ("graph", "rows")}
        return {NAME, *self.logs, *named}


def write(path: Path, manifest: Manifest, of: Field) -> None:
    """Put a manifest in the place of the last one, durably. What it names must be so already."""
    content = {
        "format": FORMAT,
        "dimension": of.dimension,
        "metric": of.metric,
        "next": manifest.next_number,
        "segments": [[getattr(one, name) for name in Entry.__slots__] for one in manifest.segments],
        "logs": list(manifest.logs),
    }
    packed: bytes = msgpack.packb(content)
    temporary = path / f"tmp-{NAME}"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(file, "wb") as stream:
        stream.write(xxh3_64_digest(packed) + packed)
        stream.flush()
        os.fsync(stream.fileno())
    sync_directory(path)
    temporary.rename(path / NAME)
    sync_directory(path)


def read(path: Path, of: Field) -> Manifest:
    """The manifest as it is now.

    Raises:
        IndexDamaged: it is not what was written, or that of an index of another kind.
        FileNotFoundError: there is none.
    """
    data = (path / NAME).read_bytes()
    packed = data[_CHECKSUM:]
    if xxh3_64_digest(packed) != data[:_CHECKSUM]:
        raise IndexDamaged("the manifest is not what was written")
    found: dict[str, Any] = msgpack.unpackb(packed)
    kind = (FORMAT, of.dimension, of.metric)
    if (found["format"], found["dimension"], found["metric"]) != kind:
        raise IndexDamaged("the index is of another format, dimension or metric")
    segments = tuple(Entry(*one) for one in found["segments"])
    return Manifest(found["next"], segments, tuple(found["logs"]))


def version(path: Path) -> tuple[int, int, int]:
    """What tells one manifest from the next, without reading it. Raises FileNotFoundError."""
    found = (path / NAME).stat()
    return found.st_ino, found.st_mtime_ns, found.st_size
