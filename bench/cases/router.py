"""The routing core alone, in process: does a request cost the same with many workers and queues?"""

from __future__ import annotations

import gc

from bench.harness import Case, Figures, Plan, Stack, Target, python
from bench.routing import SHAPES, Load


def measure(plan: Plan) -> Figures:
    figures: Figures = {}
    for workers, waiting in SHAPES:
        load = Load(workers, waiting)
        gc.collect()
        gc.freeze()
        load.seconds(500)
        figures[f"{workers:,}w {waiting:,}q"] = load.seconds(plan.count(20_000, 2_000)) * 1e6
        gc.unfreeze()
    with Stack() as processes:
        # Compiled code makes its calls unseen: they are counted in the same code as plain Python.
        figures |= processes.run("env", "SAGE_PUMP=pure", *python("bench.routing"))
    return figures


_SMALL = "1w 1q"
_OTHERS = [f"{workers:,}w {waiting:,}q" for workers, waiting in SHAPES][1:]

CASES = (
    Case(
        "router",
        "The routing core alone, by workers (w) and waiting requests (q)",
        "us per request",
        {"mesh": measure},
        (
            *(Target(n, "mesh", 2.0, other_figure=_SMALL, at_most=True) for n in _OTHERS),
            *(
                Target(f"calls {n}", "mesh", 1.1, other_figure=f"calls {_SMALL}", at_most=True)
                for n in _OTHERS
            ),
        ),
        rounds=3,
    ),
)
