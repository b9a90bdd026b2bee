"""What must hold of a fused ranking, whatever the legs are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.search.fusion import Leg, by_ranks, by_scores

legs = st.dictionaries(
    st.integers(0, 60), st.floats(-1e6, 1e6, allow_nan=False, width=32), max_size=30
).map(lambda found: Leg(*_columns(sorted(found.items(), key=lambda one: -one[1]))))
weights = st.floats(0.01, 10)


def _columns(pairs: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [row for row, _ in pairs], [score for _, score in pairs]


@given(legs, legs, weights, weights, st.integers(1, 40))
def test_a_ranking_of_all_rows(
    text: Leg, vector: Leg, first: float, second: float, depth: int
) -> None:
    """Each row once, in a stable order; what leads in both legs leads."""
    given = {"text": text, "vector": vector}
    count = {"text": first, "vector": second}
    for fused in (by_scores(given, count, depth), by_ranks(given, count)):
        rows = [row for row, _ in fused]
        assert sorted(rows) == sorted({*text.rows, *vector.rows})
        scores = [score for _, score in fused]
        assert scores == sorted(scores, reverse=True)
        if text.rows and text.rows[:1] == vector.rows[:1]:
            best = dict(fused)[text.rows[0]]
            assert best == fused[0][1]


@given(legs, weights)
def test_one_leg_keeps_its_order(leg: Leg, weight: float) -> None:
    scores = [score for _, score in by_scores({"text": leg}, {"text": weight}, len(leg.rows) or 1)]
    assert scores == sorted(scores, reverse=True)
    assert [row for row, _ in by_ranks({"text": leg}, {"text": weight})] == list(leg.rows)
