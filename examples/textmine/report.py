"""What is shown: progress while it runs, then the tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.textmine.job import Failure, Phase


class Display:
    """Progress bars on a terminal; elsewhere one line for each phase and event."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._tasks: dict[str, Any] = {}
        self._progress: Progress | None = None
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description:<12}"),
                BarColumn(bar_width=40),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=console,
            )

    def __enter__(self) -> Display:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, phase: Phase) -> None:
        """`phase` has advanced."""
        if self._progress is None:
            if phase.ended:
                self.console.print(
                    f"  {phase.name:<12} {phase.done:,} {phase.unit} in {phase.seconds:.2f} s"
                )
            return
        task = self._tasks.get(phase.name)
        if task is None:
            task = self._progress.add_task(phase.name, total=phase.total)
            self._tasks[phase.name] = task
        self._progress.update(task, completed=phase.done)

    def say(self, text: str) -> None:
        """Something worth knowing has happened."""
        self.console.print(f"  [yellow]![/] {text}", highlight=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def throughput(phases: Sequence[Phase], alone: dict[str, float], megabytes: float) -> Table:
    """How fast each way was; `alone` has the seconds of the same work in one process."""
    columns = ("way", "requests", "seconds", "files/s", "MB/s", "failed", "one process alone")
    table = _table("Through the mesh", *columns)
    for phase in phases:
        table.add_row(
            phase.name,
            f"{len(phase.spans):,}",
            f"{phase.seconds:.2f}",
            f"{phase.done / phase.seconds:,.0f}",
            f"{megabytes / phase.seconds:.1f}",
            str(len(phase.errors)),
            f"{alone[phase.name]:.2f} s",
            style="red" if phase.errors else None,
        )
    return table


def costs(failures: Sequence[Failure]) -> Table:
    """What the failures cost."""
    names = [failure.what for failure in failures]
    table = _table("What the failures cost", "", *names)
    rows: list[tuple[str, Callable[[Failure], str]]] = [
        ("calls open at that moment", lambda f: str(f.caught)),
        ("given out again", lambda f: f"{f.repeated} {f.repeated_by}"),
        ("slowest of these calls", lambda f: f"{f.slowest:.3f} s"),
        ("a usual call of this phase", lambda f: f"{f.usual:.3f} s"),
        ("longest time without an answer", lambda f: f"{f.silence:.3f} s"),
        ("all workers back after", lambda f: f"{f.repaired:.2f} s"),
        ("calls that failed", lambda f: str(f.failed)),
    ]
    for label, value in rows:
        table.add_row(label, *(value(failure) for failure in failures))
    return table


def findings(rows: Sequence[tuple[str, str, str]]) -> Table:
    """What was found, next to the same from one process without a mesh."""
    table = _table("What was found", "", "through the mesh", "in one process", "")
    for label, mesh, alone in rows:
        same = mesh == alone
        table.add_row(label, mesh, alone, "[green]same[/]" if same else "[bold red]DIFFERENT[/]")
    return table
