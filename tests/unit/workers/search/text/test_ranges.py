"""Ranges over whole texts: in the order of code points, whatever their characters."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mesh.errors import InvalidArgument
from workers.search.query.nodes import Range
from workers.search.schema import parse
from workers.search.text.index import TextReader, TextWriter

SCHEMA = parse({"key": "keyword"})
LETTERS = "\x00\x01-abz~é中\ud7ff\ue000\uffff𐀀👍\U0010ffff"


def opened(path: Path, values: list[str]) -> TextReader:
    writer = TextWriter(path, SCHEMA)
    writer.apply([], [(row, {"key": value}) for row, value in enumerate(values)])
    writer.commit()
    writer.close()
    return TextReader(path, SCHEMA)


def test_ranges_are_those_of_python(tmp_path: Path) -> None:
    rng = random.Random(7)
    values = ["", *{"".join(rng.choices(LETTERS, k=rng.randrange(5))) for _ in range(300)}]
    reader = opened(tmp_path, values)
    for _ in range(300):
        low, high = (rng.choice([None, *values]) for _ in range(2))
        with_low, with_high = rng.random() < 0.5, rng.random() < 0.5
        if low is None and high is None:
            continue
        wanted = [
            row for row, value in enumerate(values)
            if (low is None or value > low or (with_low and value == low))
            and (high is None or value < high or (with_high and value == high))
        ]  # fmt: skip
        found = reader.rows(Range("key", low, high, with_low, with_high), 1000)
        assert found.tolist() == wanted, (low, high, with_low, with_high)
    reader.close()


@pytest.mark.parametrize("letter", ["a", "-", "中", "👍"])
def test_bounds_may_be_as_long_as_is_said(tmp_path: Path, letter: str) -> None:
    values = [letter * 49, letter * 50, letter * 51]
    reader = opened(tmp_path, values)
    assert reader.rows(Range("key", letter * 50, None), 10).tolist() == [1, 2]
    assert reader.rows(Range("key", None, letter * 50, True, False), 10).tolist() == [0]
    for text in (letter * 51, "".join(map(chr, range(0x80, 0x10000, 1311)))):
        with pytest.raises(InvalidArgument, match="too long for a bound"):
            reader.rows(Range("key", text, None), 10)
    reader.close()
