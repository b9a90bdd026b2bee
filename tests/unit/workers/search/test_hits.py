"""Hits are put together octet by octet; a decoder must read what was meant."""

from __future__ import annotations

import pytest

from mesh.protocol import payload
from workers.search.hits import NOTHING, joined, packed_answer, packed_hit, place
from workers.search.records import Document


def record(name: str, **fields: object) -> bytes:
    body = payload.encode({"id": name, **fields})
    return Document(name, body, {"at": b"\0" * 8}).pack()


@pytest.mark.parametrize("octets", [1, 31, 32, 255, 256, 480])
@pytest.mark.parametrize("source", [True, False])
def test_a_hit_reads_as_its_parts(octets: int, source: bool) -> None:
    name = "x" * octets
    found = payload.decode(packed_hit(record(name, n=1), 2**40, 1.5, NOTHING, source))
    expected = {"id": name, "score": 1.5, "version": 2**40}
    assert found == expected | ({"source": {"id": name, "n": 1}} if source else {})


def test_more_is_told_before_the_source() -> None:
    told = joined(b"\x81\xa4text" + place(10_000, -0.5), {"sort": ["a", None], "explain": {}})
    found = payload.decode(packed_hit(record("d"), 1, 0.0, told, True))
    assert list(found) == ["id", "score", "version", "text", "sort", "explain", "source"]
    assert found["text"] == {"rank": 10_000, "score": -0.5}
    assert found["sort"] == ["a", None] and found["explain"] == {}


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_an_answer_holds_its_hits(count: int) -> None:
    hits = [packed_hit(record(f"d{at}"), at, 1.0, NOTHING, True) for at in range(count)]
    found = payload.decode(packed_answer(hits, {"total": None, "cursor": b"\1", "facets": {}}))
    assert [hit["id"] for hit in found.pop("hits")] == [f"d{at}" for at in range(count)]
    assert found == {"total": None, "cursor": b"\1", "facets": {}}
