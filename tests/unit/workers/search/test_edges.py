"""What nobody should ask, but somebody will: each is refused or answered, and harms no one else."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import InvalidArgument
from mesh.protocol import payload
from mesh.service.lanes import Job
from mesh.service.requests import Request
from tests.unit.workers.search.driver import Driver, opened
from workers.acts import plan_all
from workers.search.handler import SearchHandler

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


WORDS = " ".join(f"w{number}" for number in range(2000))


@pytest.mark.parametrize("form", ["match", "phrase", "prefix", "fuzzy"])
def test_texts_without_end_are_refused(store: Driver, form: str) -> None:
    for text in ("x" * 100_000, WORDS):
        for given in (text, {"title": text}, {"title": {"text": text}}):
            with pytest.raises(InvalidArgument, match="the limit is 8,192|more than 1,024 words"):
                store.ids("c", {form: given})
    half = WORDS[:4000]
    with pytest.raises(InvalidArgument, match=r"query\.bool\.should\[1\].*1,024 words"):
        store.ids("c", {"bool": {"should": [{form: half}, {form: half}]}})


def test_what_many_spellings_take_is_bounded(store: Driver) -> None:
    long = [f"{number:04}{'x' * 90}" for number in range(100)]
    with pytest.raises(InvalidArgument, match="8,192 characters, over all"):
        store.ids("c", {"bool": {"should": [{"fuzzy": {"title": word}} for word in long]}})
    with pytest.raises(InvalidArgument, match="8,192 characters, over all"):
        store.ids("c", {"bool": {"should": [{"prefix": {"title": word}} for word in long]}})
    assert store.ids(
        "c",
        {
            "fuzzy": {"title": "thinj"},
        },
    )


def test_a_text_to_be_resembled_may_be_long(store: Driver) -> None:
    text = "thing " * 100_000
    assert len(store.ids("c", {"like": {"title": text}})) == 5
    assert len(store.read("similar", "c", text=text)["hits"]) == 5
    with pytest.raises(InvalidArgument, match="the limit is"):
        store.ids("c", {"like": {"title": text * 10}})


@pytest.mark.parametrize("number", [Decimal("sNaN"), 10**5000], ids=["sNaN", "huge"])
def test_numbers_that_can_be_neither_compared_nor_shown(store: Driver, number: Any) -> None:
    query = SearchHandler(store.engine).service.methods["query"]
    for arguments in ({"k": number}, {"offset": number}, {"min_score": number}, {"limit": number}):
        request = Request.__new__(Request)
        request.flags, request.target = 0, query
        request.frames = [payload.encode([["c", "thing"], arguments])]
        ((_, (found,)),) = plan_all([Job(request)])
        assert isinstance(found, InvalidArgument), arguments
