"""Records and results as octets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import DataCorrupted, VersionConflict
from workers.memory import outcomes
from workers.memory.records import Entry, Lock, Space, read_entry, read_lock, read_space

NUMBER = st.integers(0, 2**64 - 1)
ENTRIES = st.builds(
    Entry, NUMBER, NUMBER, NUMBER, st.lists(st.text(max_size=5), max_size=4).map(tuple), st.binary()
)


@given(entry=ENTRIES)
def test_entries_come_back(entry: Entry) -> None:
    assert read_entry(b"k", entry.pack()) == entry


@given(data=st.binary(max_size=40))
def test_whatever_lies_there_is_an_entry_or_damaged(data: bytes) -> None:
    try:
        read_entry(b"k", data)
    except DataCorrupted as error:
        assert "b'k'" in str(error)


def test_others_come_back() -> None:
    space = Space("n", 7, True, 3, 400, 5000)
    assert read_space("n", space.pack()) == space
    lock = Lock(5, 6, "wörker")
    assert read_lock(lock.pack()) == lock
    for read in (lambda: read_space("n", b"short"), lambda: read_lock(b"short")):
        with pytest.raises(DataCorrupted):
            read()


def test_what_an_entry_costs() -> None:
    plain = Entry(1, 0, 0, (), b"x" * 100).cost(b"k" * 10)
    assert Entry(1, 0, 0, (), b"x" * 101).cost(b"k" * 10) == plain + 1
    assert Entry(1, 9, 0, (), b"x" * 100).cost(b"k" * 10) > plain
    assert Entry(1, 0, 0, ("t",), b"x" * 100).cost(b"k" * 10) > plain


@given(entry=ENTRIES, number=st.integers(-(2**63), 2**64 - 1))
def test_results_come_back(entry: Entry, number: int) -> None:
    lock = Lock(1, 2, "o")
    assert outcomes.unpack(outcomes.pack([entry, None, number, True, "hit", lock, 0.5])) == [
        entry, None, number, True, "hit", lock, 0.5,
    ]  # fmt: skip


def test_errors_are_results() -> None:
    conflict = VersionConflict("no", data={"version": 4})
    (again,) = outcomes.unpack(outcomes.pack([conflict]))
    assert isinstance(again, VersionConflict)
    assert (again.message, again.data) == ("no", {"version": 4})
