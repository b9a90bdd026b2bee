"""One request costs the same in a broker of any size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support import ROOT


@pytest.fixture(scope="module")
def costs() -> dict[str, dict[str, float]]:
    """What `cost` prints. The compiled form of the same modules has no lines to count."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.broker.cost"],
        env={**os.environ, "SAGE_PUMP": "pure"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    found: Any = json.loads(done.stdout)
    return dict(found)


@pytest.mark.parametrize("situation", ["free", "waiting", "waiting of many clients", "loss"])
def test_the_cost_of_one_does_not_grow_with_the_number_of_all(
    costs: dict[str, dict[str, float]], situation: str
) -> None:
    found = costs[situation].values()
    assert max(found) - min(found) <= 10
    assert 50 < max(found) < 500


def test_the_cost_of_many_is_the_sum_of_each(costs: dict[str, dict[str, float]]) -> None:
    few, many = costs["a client leaves"].values()
    assert many == pytest.approx(few, rel=0.1)
