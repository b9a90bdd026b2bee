"""The checker of histories: what it accepts, and above all what it refuses."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.linearizability import (
    KEY,
    LOCK,
    UNKNOWN,
    Conflict,
    Key,
    Model,
    Operation,
    step_key,
    violations,
)


def history(*lines: tuple[Any, ...]) -> list[Operation]:
    """Calls on one key: (called at, returned at, verb, arguments..., result)."""
    return [
        Operation("k", verb, tuple(words[:-1]), words[-1], called_at, returned_at)
        for called_at, returned_at, verb, *words in lines
    ]


def accepts(*lines: tuple[Any, ...], model: Model = KEY) -> bool:
    return not violations(history(*lines), model)


def test_one_after_the_other() -> None:
    assert accepts(
        (0, 1, "get", None),
        (2, 3, "set", 7, 1),
        (4, 5, "entry", (7, 1)),
        (6, 7, "increment", 3, 10),
        (8, 9, "entry", (10, 4)),
        (10, 11, "compare_and_set", 5, 4, 6),
        (12, 13, "compare_and_set", 5, 4, Conflict(6)),
        (14, 15, "delete", 1),
        (16, 17, "delete", 0),
        (18, 19, "compare_and_set", 1, 0, 9),
        (20, 21, "get", 1),
    )


def test_what_overlaps_may_come_in_any_order() -> None:
    assert accepts((0, 9, "set", 1, 2), (0, 9, "set", 2, 1), (10, 11, "get", 1))
    assert accepts((0, 9, "increment", 1, 2), (1, 8, "increment", 1, 1))
    assert not accepts((0, 1, "increment", 1, 2), (2, 3, "increment", 1, 1))
    assert accepts((0, 9, "set", 1, 1), (1, 2, "get", None), (3, 4, "get", 1))
    assert not accepts((0, 9, "set", 1, 1), (1, 2, "get", 1), (3, 4, "get", None))


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(((0, 1, "set", 1, 1), (2, 3, "get", None)), id="a lost write"),
        pytest.param(
            ((0, 1, "set", 1, 1), (2, 3, "set", 2, 2), (4, 5, "get", 1)), id="a stale read"
        ),
        pytest.param(
            ((0, 1, "increment", 1, 1), (2, 3, "increment", 1, 3)), id="an increment done twice"
        ),
        pytest.param(
            ((0, 1, "increment", 1, 1), (2, math.inf, "increment", 1, UNKNOWN), (3, 4, "get", 3)),
            id="an unknown increment done twice",
        ),
        pytest.param(((0, 1, "delete", 1),), id="what was deleted never existed"),
        pytest.param(((0, 1, "set", 1, 5), (2, 3, "set", 1, 5)), id="a version given twice"),
        pytest.param(
            ((0, 1, "set", 1, 5), (2, 3, "delete", 1), (4, 5, "set", 2, 4)),
            id="a version that went back over a deletion",
        ),
        pytest.param(
            (
                (0, 1, "set", 1, 1),
                (2, 5, "compare_and_set", 2, 1, 2),
                (2, 5, "compare_and_set", 3, 1, 3),
            ),
            id="both win a compare-and-set",
        ),
        pytest.param(
            ((0, 1, "set", 1, 1), (2, 3, "compare_and_set", 2, 1, Conflict(1))),
            id="a conflict without one",
        ),
        pytest.param(
            (
                (0, 1, "set", 1, 1),
                (2, math.inf, "set", 2, UNKNOWN),
                (3, 4, "get", 2),
                (5, 6, "get", 1),
            ),
            id="a write that was seen and is gone",
        ),
        pytest.param(
            ((0, 1, "get", 2), (2, math.inf, "set", 2, UNKNOWN)), id="seen before it was called"
        ),
    ],
)  # fmt: skip
def test_what_no_store_may_do(lines: tuple[Any, ...]) -> None:
    (problem,) = violations(history(*lines))
    assert "key 'k'" in problem


def test_an_unknown_outcome_may_come_at_any_time_or_never() -> None:
    unknown = (2, math.inf, "set", 2, UNKNOWN)
    assert accepts((0, 1, "set", 1, 1), unknown, (3, 4, "get", 1), (5, 6, "get", 2))
    assert accepts((0, 1, "set", 1, 1), unknown, (3, 4, "get", 1))
    assert accepts((0, 1, "set", 1, 1), unknown, (3, 4, "entry", (2, 7)), (5, 6, "set", 3, 8))
    assert not accepts((0, 1, "set", 1, 1), unknown, (3, 4, "entry", (2, 7)), (5, 6, "set", 3, 6))


def test_keys_are_looked_at_alone() -> None:
    good = Operation("good", "set", (1,), 1, 0.0, 1.0)
    bad = Operation("bad", "get", (), 1, 2.0, 3.0)
    (problem,) = violations([good, bad])
    assert problem.startswith("key 'bad'")


def test_locks() -> None:
    assert accepts(
        (0, 1, "lock", 3),
        (2, 3, "lock", None),
        (4, 5, "unlock", 3, True),
        (6, 7, "unlock", 3, False),
        (8, 9, "lock", 4),
        model=LOCK,
    )
    assert not accepts((0, 1, "lock", 3), (2, 3, "lock", 4), model=LOCK)
    assert not accepts((0, 1, "lock", 3), (2, 3, "unlock", 3, True), (4, 5, "lock", 2), model=LOCK)
    assert not accepts((0, 1, "lock", 3), (2, 3, "unlock", 3, False), model=LOCK)
    unknown = (0, math.inf, "lock", UNKNOWN)
    assert accepts(unknown, (2, 3, "lock", None), model=LOCK)
    assert accepts(unknown, (2, 3, "unlock", 7, True), (4, 5, "lock", 8), model=LOCK)


VERBS = ("get", "entry", "set", "compare_and_set", "increment", "delete")


def record(seed: int, *, faulty: str = "", calls: int = 400) -> list[Operation]:
    """What six clients see of a simulated store that acts at a random moment of each call.

    `faulty`: "lose" forgets one write that it has acknowledged, "twice" does one increment twice,
    "stale" answers one read with an older value.
    """
    rng = random.Random(seed)
    state, version, past = Key(), 0, [Key()]
    found: list[Operation] = []
    free_at = [0.0] * 6
    moments = sorted(rng.uniform(0, calls / 20) for _ in range(calls))
    wrong_from = calls // 2 if faulty else calls
    for number, moment in enumerate(moments):
        client = min(range(6), key=free_at.__getitem__)
        called_at = max(free_at[client], moment - rng.uniform(0, 0.06))
        if called_at > moment:
            continue
        returned_at = moment + rng.uniform(0, 0.06)
        free_at[client] = returned_at
        verb = rng.choice((*VERBS, "get", "entry", "get"))
        arguments: tuple[Any, ...] = ()
        result: Any = state.value
        after = state
        wrong = number >= wrong_from
        if verb == "entry":
            result = None if state.value is None else (state.value, state.version)
        elif verb == "delete":
            result, after = int(state.value is not None), Key(None, 0)
        elif verb == "increment":
            version += 1
            arguments, result = (1,), (state.value or 0) + 1
            if wrong and faulty == "twice":
                wrong_from, wrong = calls, False
                after = Key(result + 1, version)
            else:
                after = Key(result, version)
        elif verb in ("set", "compare_and_set"):
            version += 1
            guess = state.version if rng.random() < 0.7 else version + 1
            arguments = (number,) if verb == "set" else (number, guess)
            if verb == "set" or guess == state.version:
                result, after = version, Key(number, version)
            else:
                result = Conflict(state.version or 0)
        if wrong and faulty == "lose" and after != state:
            wrong_from, after = calls, state
        if wrong and faulty == "stale" and verb == "get" and past[-30].value != state.value:
            wrong_from, result = calls, past[-30].value
        past.append(after)
        state = after
        # Some never learn what became of their call.
        if verb not in ("get", "entry") and rng.random() < 0.02:
            result, returned_at = UNKNOWN, math.inf
        found.append(Operation("k", verb, arguments, result, called_at, returned_at, client))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_long_histories(seed: int) -> None:
    assert violations(record(seed)) == []


@pytest.mark.parametrize("faulty", ["lose", "twice", "stale"])
def test_one_fault_in_a_long_history_is_found(faulty: str) -> None:
    """Some faults are hidden by what overlaps them or is written next; many are not."""
    found = sum(bool(violations(record(seed, faulty=faulty))) for seed in range(20))
    assert found >= 8, f"of 20 histories {found} were refused"


@given(
    st.lists(
        st.tuples(
            st.integers(0, 12),
            st.integers(1, 6),
            st.sampled_from(
                [("get", None), ("get", 1), ("get", 2), ("increment", 1, 1), ("increment", 1, 2),
                 ("increment", 1, UNKNOWN), ("delete", 0), ("delete", 1), ("delete", UNKNOWN)]
            ),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_agrees_with_trying_every_order(calls: list[tuple[int, int, tuple[Any, ...]]]) -> None:
    found = history(
        *(
            (at, math.inf if words[-1] is UNKNOWN else at + length, *words)
            for at, length, words in calls
        )
    )
    assert (not violations(found)) == _some_order_fits(found, Key())


def _some_order_fits(left: list[Operation], state: Key) -> bool:
    if all(operation.result is UNKNOWN for operation in left):
        return True
    first_end = min(operation.returned_at for operation in left)
    for operation in left:
        if operation.called_at <= first_end:
            after = step_key(state, operation)
            if after is not None and _some_order_fits(
                [o for o in left if o is not operation], after
            ):
                return True
    return False
