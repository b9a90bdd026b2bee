"""Backoff, retry budget and rate limit: arithmetic over a clock that is passed in."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.resilience import RetryBudget, TokenBucket, backoff


class Chance:
    """Always the same number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


def test_backoff_doubles_up_to_its_cap() -> None:
    highest = Chance(1.0)
    assert [backoff(n, highest) for n in range(8)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert backoff(10_000, highest) == 2.0


def test_backoff_has_full_jitter() -> None:
    rng = random.Random(1)
    delays = [backoff(3, rng) for _ in range(1000)]
    assert 0.0 <= min(delays) < 0.02 and 0.38 < max(delays) <= 0.4


def test_a_dead_service_gets_few_retries() -> None:
    budget = RetryBudget(0.0)
    spent = 0
    for n in range(10_000):
        budget.called()
        spent += budget.take(n * 0.001)
        spent += budget.take(n * 0.001)
    # A tenth of the calls, one a second for ten seconds, and what was saved at the start.
    assert 1000 <= spent <= 1000 + 10 + 10


def test_a_quiet_client_may_retry_about_once_a_second() -> None:
    budget = RetryBudget(0.0)
    while budget.take(0.0):
        pass
    assert not budget.take(0.9)
    assert budget.take(1.9)


def test_savings_of_the_budget_are_bounded() -> None:
    budget = RetryBudget(0.0)
    budget.called(1_000_000)
    assert budget.available(1e9) == 100.0


@given(st.lists(st.tuples(st.floats(0.0, 2.0), st.floats(0.1, 3.0)), max_size=60))
def test_no_more_tokens_than_rate_and_burst_allow(steps: list[tuple[float, float]]) -> None:
    bucket = TokenBucket(5.0, 3.0, 0.0)
    now = taken = 0.0
    for pause, tokens in steps:
        now += pause
        wait = bucket.wait(now, tokens)
        if bucket.take(now, tokens):
            assert wait == 0.0
            taken += tokens
        else:
            assert wait > 0.0
            assert bucket.take(now + wait + 1e-6, tokens)
            now, taken = now + wait + 1e-6, taken + tokens
        assert taken <= 3.0 + 5.0 * now + 1e-6


def test_what_a_bucket_can_never_hold() -> None:
    bucket = TokenBucket(5.0, 3.0, 0.0)
    assert bucket.wait(0.0, 4.0) == math.inf
    assert not bucket.take(1e9, 4.0)


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_a_bucket_without_tokens_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="above zero"):
        TokenBucket(rate, burst, 0.0)
