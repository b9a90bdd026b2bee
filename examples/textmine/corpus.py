"""The texts: the source files of the Python installation that runs this program."""

from __future__ import annotations

import sysconfig
from pathlib import Path

MAX_SIZE = 1_000_000


def read(limit: int | None = None) -> dict[str, str]:
    """Path (relative to the standard library) and text of up to `limit` files, in order of paths.

    With a limit, the files are spread over the whole library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(
        path for path in root.rglob("*.py") if "site-packages" not in path.parts and path.is_file()
    )
    if limit is not None and len(paths) > limit:
        paths = [paths[index * len(paths) // limit] for index in range(limit)]
    texts: dict[str, str] = {}
    for path in paths:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):  # test data of Python that is not text on purpose
            continue
        if text.strip() and len(text) <= MAX_SIZE:
            texts[str(path.relative_to(root))] = text
    return texts


def megabytes(texts: dict[str, str]) -> float:
    """The size of all texts, in millions of octets."""
    return sum(len(text.encode()) for text in texts.values()) / 1e6
