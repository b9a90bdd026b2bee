"""What all derived indexes share: where they lie, and that they may turn out to be unusable."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from mesh.errors import StoreBusy, StoreError, StoreFull
from workers.search.records import Index
from workers.search.schema import Schema

DAMAGED: Final = ".damaged"
"""Ends the name of a file beside an index that a reader could not use: it is to be replaced."""

_NO_ROOM: Final = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)))
_REFUSED: Final = tuple(
    map(os.strerror, (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EROFS))
)
_FAILED: Final = "index writer was killed"
"""Said by tantivy of an error that its thread met with while it wrote."""


class IndexDamaged(Exception):
    """The files of an index cannot be used: it is built anew from the documents."""


def undamaged(path: Path, error: BaseException) -> StoreError | None:
    """What to raise where files could not be read or written, though nothing is wrong with them.

    None if they may be damaged.
    """
    said = str(error)
    if any(text in said for text in _NO_ROOM) or _FAILED in said:
        return StoreFull(
            f"the index at {path} could not be written ({said}): the disk is full, or fails; make "
            "room: nothing is lost",
            retry_after=1.0,
        )
    if any(text in said for text in _REFUSED):
        return StoreBusy(f"the index at {path} cannot be opened now ({said})", retry_after=1.0)
    return None


def index_path(directory: Path, number: int, index: Index) -> Path:
    """Where an index of the collection with that number lies."""
    return directory / f"{number}-{index.generation}"


def mark_damaged(path: Path) -> None:
    """Have the writer, of whatever process, replace the index at `path`."""
    with suppress(OSError):
        path.with_name(path.name + DAMAGED).touch()


def vector_path(path: Path, schema: Schema, name: str) -> Path:
    """Where the vectors of a field lie in the folder of an index. Fields keep their places."""
    return path / f"vectors-{list(schema.fields).index(name)}"
