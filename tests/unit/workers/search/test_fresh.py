"""Changes on their way to the index: given away without gaps, in whatever order they came."""

from __future__ import annotations

from workers.search.change import Fresh
from workers.search.fresh import EACH, FreshValues


def change(after: int, until: int, octets: int = 10) -> Fresh:
    made = Fresh(after)
    made.until, made.octets = until, octets
    made.added = [(row, {"n": row}) for row in range(after + 1, until + 1)]
    return made


def test_what_follows_is_given_away_together() -> None:
    fresh = FreshValues()
    for one in (change(3, 5), change(0, 3), change(9, 10)):
        fresh.add({1: one})
    assert fresh.waiting(1) == 6
    found = fresh.take(1, 0, 100)
    assert found is not None
    assert (found.until, [row for row, _ in found.added]) == (5, [1, 2, 3, 4, 5])
    assert fresh.take(1, 5, 100) is None  # the store has what is between
    found = fresh.take(1, 9, 100)
    assert found is not None
    assert (found.until, fresh.waiting(1)) == (10, 0)


def test_a_portion_ends_after_so_many_documents() -> None:
    fresh = FreshValues()
    for after in range(0, 30, 10):
        fresh.add({1: change(after, after + 10)})
    found = fresh.take(1, 0, 15)
    assert found is not None
    assert found.until == 20


def test_what_is_too_much_is_left_to_the_store() -> None:
    fresh = FreshValues(most=2 * (10 + EACH))
    for after in (0, 1, 2, 3):  # of the same number of octets; it is documents that take room
        fresh.add({1: change(after, after + 1)})
    found = fresh.take(1, 0, 100)
    assert found is not None
    assert found.until == 2
    assert fresh.take(1, 3, 100) is None
    fresh.add({1: change(4, 5)})  # there is room again
    assert fresh.waiting(1) == 1
    assert fresh.take(1, 5, 100) is None
    assert fresh.waiting(1) == 0
    assert fresh.touched() == {1}
    assert fresh.touched() == set()
