"""Whether the files of an index are what tantivy wrote.

tantivy ends each file with its checksum, but reads it for damages of the footer alone: a bit that
was flipped elsewhere would give wrong results without a word.
"""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from workers.search.derived import IndexDamaged

META: Final = "meta.json"
MOST: Final = 256 * 1024 * 1024
"""Octets of an index up to which its files are read through: a fraction of a second."""
_PARTS: Final = ("idx", "term", "pos", "fast", "fieldnorm", "store")
"""The files of a segment."""
_END: Final = struct.Struct("<II")
_MAGIC: Final = 1337


class State(NamedTuple):
    """Which files make up an index: since `commit`, segments may have been merged."""

    commit: int
    version: tuple[int, int]


def state(path: Path, before: State | None = None) -> State:
    """As it is now; `before`: as it was. Negative numbers if there is none, or not a whole one."""
    try:
        found = (path / META).stat()
        version = (found.st_ino, found.st_mtime_ns)
        if before is not None and before.version == version:
            return before
        return State(int(json.loads((path / META).read_bytes())["opstamp"]), version)
    except (ValueError, KeyError, TypeError, OSError):
        return State(-1, (-1, -1))


def verify(path: Path) -> None:
    """Check the files of an index, where there is one; those of a large one only for presence.

    Raises:
        IndexDamaged: a file is missing, or is not as it was written.
    """
    meta = path / META
    if not meta.exists():
        if any(not one.name.endswith(".lock") for one in path.iterdir()):
            raise IndexDamaged(f"{path.name}: {META} is missing")
        return
    try:
        files = list(_files(path, json.loads(meta.read_bytes())))
        small = sum(one.stat().st_size for one in files) <= MOST
        wrong = [one.name for one in files if small and not _intact(one)]
    except (ValueError, KeyError, TypeError, OSError, struct.error) as error:
        raise IndexDamaged(f"{path.name}: {error}") from error
    if wrong:
        raise IndexDamaged(f"{path.name}: {', '.join(wrong)}: not as written")


def _files(path: Path, meta: dict[str, Any]) -> Iterator[Path]:
    """The files that the last commit speaks of."""
    for segment in meta["segments"]:
        stem = segment["segment_id"].replace("-", "")
        gone = segment.get("deletes")
        yield from (path / f"{stem}.{part}" for part in _PARTS)
        if gone:
            yield path / f"{stem}.{gone['opstamp']}.del"


def _intact(file: Path) -> bool:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as octets:
        length, magic = _END.unpack(octets[-_END.size :])
        begin = len(octets) - _END.size - length
        footer = json.loads(octets[begin : -_END.size])
        with memoryview(octets)[:begin] as body:
            return bool(magic == _MAGIC and zlib.crc32(body) == footer["crc"])
