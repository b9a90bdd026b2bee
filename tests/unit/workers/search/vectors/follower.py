"""Follows an index in a process of its own. Run with a directory and the last row.

Rows come in their order, each nearer to the query than all before it; the five newest are there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from workers.search.schema import Field
from workers.search.vectors.index import VectorReader


def main() -> None:
    path, last = Path(sys.argv[1]), int(sys.argv[2])
    reader = VectorReader(path, Field("v", "vector", dimension=4, metric="dot"))
    print("following", flush=True)
    newest = seen = 0
    while newest < last:
        reader.refresh()
        rows, _ = reader.search(np.ones(4, np.float32), 10)
        assert rows[0] >= newest, rows
        assert rows == [row for row in range(rows[0], rows[0] - 5, -1) if row >= 0], rows
        seen += rows[0] > newest
        newest = rows[0]
    print("saw", seen)


if __name__ == "__main__":
    main()
