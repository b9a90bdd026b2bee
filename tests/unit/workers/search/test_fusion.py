"""Fusing the legs of a query."""

from __future__ import annotations

import pytest

from workers.search.fusion import Leg, by_ranks, by_scores

EVEN = {"text": 1.0, "vector": 1.0}


def test_ranks_are_fused_as_in_the_paper() -> None:
    legs = {"text": Leg([1, 2], [9.0, 1.0]), "vector": Leg([2, 3], [0.9, 0.1])}
    assert by_ranks(legs, EVEN) == [
        (2, pytest.approx(1 / 62 + 1 / 61)), (1, pytest.approx(1 / 61)), (3, pytest.approx(1 / 62)),
    ]  # fmt: skip
    assert [row for row, _ in by_ranks(legs, {"text": 3.0, "vector": 1.0})] == [2, 1, 3]
    assert by_ranks(legs, EVEN, k=0)[0] == (2, 1.5)


def test_scores_count_by_how_far_they_stand_out() -> None:
    legs = {"text": Leg([1, 2, 3, 4], [9.0, 2.0, 1.0, 1.0]),
            "vector": Leg([4, 3, 2, 1], [0.53, 0.52, 0.51, 0.50])}  # fmt: skip
    assert [row for row, _ in by_scores(legs, {"text": 1.0, "vector": 0.6}, 4)] == [1, 4, 3, 2]
    assert [row for row, _ in by_scores(legs, EVEN, 4)] == [4, 1, 3, 2]


def test_units_of_scores_do_not_matter() -> None:
    text = Leg([1, 2, 3], [5.0, 4.0, 1.0])
    vector, scaled = Leg([3, 1, 2], [0.9, 0.5, 0.4]), Leg([3, 1, 2], [90.0, 50.0, 40.0])
    first = by_scores({"text": text, "vector": vector}, EVEN, 3)
    second = by_scores({"text": text, "vector": scaled}, EVEN, 3)
    assert [row for row, _ in first] == [row for row, _ in second]
    assert [score for _, score in first] == pytest.approx([score for _, score in second])


def test_the_only_document_with_a_word_comes_first() -> None:
    near = Leg(range(100), [1.0 - row / 100 for row in range(100)])
    fused = by_scores({"text": Leg([99], [0.1]), "vector": near}, EVEN, 100)
    assert fused[0][0] == 99


def test_deeper_legs_change_nothing_in_the_order_of_the_first() -> None:
    scores = [100.0 - row for row in range(50)]
    text, vector = Leg(range(50), scores), Leg(range(49, -1, -1), scores)

    def page(depth: int) -> list[tuple[int, float]]:
        legs = {"text": Leg(text.rows[:depth], scores[:depth]),
                "vector": Leg(vector.rows[:depth], scores[:depth])}  # fmt: skip
        return by_scores(legs, {"text": 1.0, "vector": 0.6}, 10)

    assert page(30)[: len(page(10))] == page(10)


@pytest.mark.parametrize("depth", [1, 5])
def test_few_or_no_hits(depth: int) -> None:
    assert by_scores({"text": Leg([], []), "vector": Leg([], [])}, EVEN, depth) == []
    legs = {"text": Leg([], []), "vector": Leg([7], [-3.0])}
    assert by_scores(legs, EVEN, depth) == [(7, 0.0)]
    assert by_ranks({"text": Leg([], []), "vector": Leg([7], [-3.0])}, EVEN)[0][0] == 7


def test_a_leg_without_weight_is_left_out() -> None:
    legs = {"text": Leg([1], [1.0]), "vector": Leg([2], [1.0])}
    weights = {"text": 0.0, "vector": 1.0}
    assert [row for row, _ in by_scores(legs, weights, 10)] == [2]
    assert [row for row, _ in by_ranks(legs, weights)] == [2]
