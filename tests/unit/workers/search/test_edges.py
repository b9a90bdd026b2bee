"""What nobody should ask, but somebody will: each is refused or answered, and harms no one else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import InvalidArgument
from mesh.protocol import payload
from tests.unit.workers.search.driver import Driver, opened

DOCUMENTS: list[dict[str, Any]] = [
    {"id": f"n{number}", "title": f"thing {number}", "at": [float(number), 1.0]}
    for number in range(5)
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Driver]:
    engine = opened(tmp_path / "s")
    found = Driver(engine)
    found.write("create", "c", {"title": "text", "at": {"kind": "vector", "dimension": 2}})
    found.index("c", *DOCUMENTS)
    yield found
    engine.close()


@pytest.mark.parametrize("place", [[-5], [2**62], [2**64 - 1], [1.0], [None], [], 5, [3, 3]])
def test_cursors_of_a_vector_query_that_were_made_up(store: Driver, place: Any) -> None:
    with pytest.raises(InvalidArgument, match="cursor= was not given out"):
        store.ids("c", "thing", vector=[1, 1], cursor=payload.encode(place))


def test_a_cursor_beyond_the_last_document(store: Driver) -> None:
    cursor = payload.encode([2**31 - 1])
    assert store.ids("c", "thing", vector=[1, 1], cursor=cursor) == []
    assert store.ids("c", vector=[1, 1], cursor=cursor) == []
