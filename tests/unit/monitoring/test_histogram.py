"""Durations by bucket, and what is read from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.monitoring.histogram import BOUNDS, Histogram, Latency, quantile

SECONDS = st.floats(min_value=0.0, max_value=1e6)


@given(st.lists(SECONDS, max_size=50))
def test_each_duration_is_in_the_first_bucket_that_ends_after_it(durations: list[float]) -> None:
    found = Histogram()
    for seconds in durations:
        found.observe(seconds)
    expected = [0] * (len(BOUNDS) + 1)
    for seconds in durations:
        expected[sum(bound <= seconds for bound in BOUNDS)] += 1
    assert found.counts == expected
    assert found.sum == pytest.approx(sum(durations))


def test_a_clock_that_goes_back_does_no_harm() -> None:
    found = Histogram()
    found.observe(-1.0)
    assert found.counts[0] == 1


@given(st.lists(st.tuples(SECONDS, SECONDS), max_size=30))
def test_waiting_and_work_add_up(calls: list[tuple[float, float]]) -> None:
    latency, apart = Latency(), {name: Histogram() for name in ("queue", "service", "total")}
    for waited, worked in calls:
        latency.observe(100.0, 100.0 + waited, 100.0 + waited + worked)
        given_at = 100.0 + waited
        apart["queue"].observe(given_at - 100.0)
        apart["service"].observe(given_at + worked - given_at)
        apart["total"].observe(given_at + worked - 100.0)
    for name, found in latency.snapshot().items():
        assert found["counts"] == apart[name].counts, name
        assert found["sum"] == pytest.approx(apart[name].sum)


def test_quantiles() -> None:
    found = Histogram()
    assert quantile(found.counts, 0.5) == 0.0
    for _ in range(90):
        found.observe(0.001)
    for _ in range(10):
        found.observe(1.5)
    assert 0.0005 <= quantile(found.counts, 0.5) <= 0.002
    assert 1.0 <= quantile(found.counts, 0.99) <= 2.0
    found.observe(1e9)
    assert quantile(found.counts, 1.0) == BOUNDS[-1]
