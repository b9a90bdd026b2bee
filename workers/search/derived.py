"""What all derived indexes share: where they lie, and that they may turn out to be unusable."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from workers.search.records import Index
from workers.search.schema import Schema

DAMAGED: Final = ".damaged"
"""Ends the name of a file beside an index that a reader could not use: it is to be replaced."""


class IndexDamaged(Exception):
    """The files of an index cannot be used: it is built anew from the documents."""


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
