"""`python -m examples.textmine`: run the job, then compare its results with a plain computation.

Exits with 1 if a result differs or a call failed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

from rich.console import Console

from examples.textmine import analysis, corpus, report
from examples.textmine.cluster import Cluster
from examples.textmine.job import Job
from mesh import MeshError
from mesh.cli.output import Failure

Results = dict[str, Any]


def compute_alone(texts: dict[str, str]) -> tuple[Results, dict[str, float]]:
    """The results of all phases without a mesh, and the seconds that each took."""
    work: dict[str, Callable[[], Any]] = {
        "calls": lambda: {path: analysis.profile(text) for path, text in texts.items()},
        "batches": lambda: {path: analysis.keywords(text) for path, text in texts.items()},
        "streams out": lambda: {path: [*analysis.outline(text)] for path, text in texts.items()},
        "stream in": lambda: analysis.vocabulary(texts.values()),
    }
    results, seconds = {}, {}
    for name, compute in work.items():
        begun = perf_counter()
        results[name] = compute()
        seconds[name] = perf_counter() - begun
    return results, seconds


def summary(results: Results) -> list[tuple[str, str]]:
    """The results in a few lines of label and text."""
    profiles, outlines = results["calls"].values(), results["streams out"].values()
    names: dict[str, int] = {}
    for counts in results["batches"].values():
        for name, number in counts.items():
            names[name] = names.get(name, 0) + number
    top = sorted(names, key=lambda name: (-names[name], name))[:3]
    kinds = [kind for outline in outlines for _, kind, _ in outline]
    vocabulary = results["stream in"] or {"distinct": 0, "words": 0, "common": []}
    rows = [
        ("files", f"{len(profiles):,}"),
        ("octets", f"{sum(p['octets'] for p in profiles):,}"),
        ("... compressed", f"{sum(p['compressed'] for p in profiles):,}"),
        ("lines", f"{sum(p['lines'] for p in profiles):,}"),
        ("... of them comments", f"{sum(p['comments'] for p in profiles):,}"),
        ("longest line", f"{max((p['longest'] for p in profiles), default=0):,} characters"),
        ("functions", f"{len(kinds) - kinds.count('class'):,}"),
        ("classes", f"{kinds.count('class'):,}"),
        ("words", f"{vocabulary['words']:,}"),
        ("different words", f"{vocabulary['distinct']:,}"),
        ("most common word", ", ".join(f"{word} ({n:,})" for word, n in vocabulary["common"][:1])),
    ]
    return rows + [(f"uses of `{name}`", f"{names[name]:,}") for name in top]


def differences(mesh: Results, alone: Results) -> list[str]:
    """Every result that is not the same, named; empty if all are."""
    found = []
    for phase, expected in alone.items():
        got = mesh[phase] or {}
        if not isinstance(expected, dict) or not isinstance(got, dict):
            found.append(f"{phase}: {type(got).__name__} instead of {type(expected).__name__}")
            continue
        for key in expected.keys() | got.keys():
            if key not in got or key not in expected or got[key] != expected[key]:
                found.append(f"{phase}: {key}")
    return sorted(found)


def main(arguments: list[str] | None = None) -> int:
    """Run everything; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.textmine", description=__doc__)
    parser.add_argument("--files", type=int, help="use only so many files")
    parser.add_argument("--workers", type=int, default=3, help="worker processes (default: 3)")
    options = parser.parse_args(arguments)
    if options.workers < 2 or (options.files is not None and options.files < 50):
        parser.error(
            "the job needs at least 2 workers and 50 files: one worker is killed on the way"
        )

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    texts = corpus.read(options.files)
    size = corpus.megabytes(texts)
    console.print(
        f"Corpus: {len(texts):,} source files of Python {sys.version.split()[0]}, {size:.1f} MB"
    )

    begun = perf_counter()
    try:
        with Cluster(options.workers) as cluster:
            console.print(f"Mesh: broker at {cluster.endpoint}, {options.workers} worker processes")
            with report.Display(console) as display:
                job = Job(cluster, texts, display.show, display.say)
                asyncio.run(job.run())
    except (Failure, MeshError, TimeoutError) as error:
        advice = f"\n{error.advice}" if isinstance(error, Failure) else ""
        what = f"NOT OK: the mesh did not come up, or did not recover: {error}{advice}"
        console.print(what, style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped; nothing is left behind.")
        return 130
    meshed = perf_counter()
    results = {phase.name: phase.results for phase in job.phases}
    left = cluster.survivors()
    alone, alone_seconds = compute_alone(texts)
    ended = perf_counter()

    job.worker_killed.cost(job.calls)
    job.broker_killed.cost(job.batches)
    rows = [
        (label, got, expected)
        for (label, got), (_, expected) in zip(summary(results), summary(alone), strict=True)
    ]
    for table in (
        report.findings(rows),
        report.throughput(job.phases, alone_seconds, size),
        report.costs([job.worker_killed, job.broker_killed]),
    ):
        console.print()
        console.print(table)
    console.print()

    wrong = differences(results, alone)
    errors = [error for phase in job.phases for error in phase.errors]
    compared = sum(len(part) for part in alone.values())
    console.print(
        f"Took {meshed - begun:.1f} s through the mesh, start, failures and end included; "
        f"{ended - meshed:.1f} s in one process."
    )
    for line in [*wrong[:5], *errors[:5]]:
        console.print(line, style="red", markup=False)
    if wrong or errors or left:
        console.print(
            f"[bold red]NOT OK[/]: {len(wrong)} results differ, {len(errors)} calls failed, "
            f"processes left behind: {left or 'none'}"
        )
        return 1
    console.print(
        f"[bold green]OK[/]: {compared:,} results compared, all the same; 0 calls failed; "
        "no process left behind"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
