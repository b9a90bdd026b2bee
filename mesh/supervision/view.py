"""What `up` shows: a line for each thing that happens, and on a terminal a table of what runs."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mesh.cli.output import Output, clean
from mesh.cli.status import count, duration, table

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

Members = Callable[[float], list[dict[str, Any]]]

REFRESH_EVERY = 1.0
OWN = f"{'mesh':<9} | "
"""What stands before a line that is not of a child."""

_COLOURS = {"ready": "green", "starting": "cyan", "draining": "cyan", "waiting": "red"}


class View:
    """Prints events as they come, from any thread: as JSON, as text, or above a table."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._live: Live | None = None
        self._members: Members = lambda now: []
        self._closing = threading.Event()

    def show(self, members: Members) -> None:
        """Show a table of `members` from here on, if there is a terminal for it."""
        if self._output.as_json or not sys.stdout.isatty():
            return
        from rich.live import Live

        self._members = members
        self._live = Live(console=self._output.console(), auto_refresh=False, transient=True)
        self._live.start()
        threading.Thread(target=self._refresh, name="mesh-view", daemon=True).start()

    def tell(self, event: dict[str, Any]) -> None:
        """Print an event."""
        if self._output.as_json:
            self._output.json(event)
            return
        before = f"{event['process']:<9} | " if "process" in event else OWN
        line = before + clean(text_of(event))
        live = self._live
        if live is None:
            # One write: the children's readers share the output.
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
        else:
            from rich.text import Text

            live.console.print(Text(line), soft_wrap=True)

    def close(self) -> None:
        """Take the table away."""
        self._closing.set()
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _refresh(self) -> None:
        while True:
            live = self._live
            if live is None:
                return
            with suppress(RuntimeError):  # the members change meanwhile: look again
                live.update(render(self._members(time.monotonic())), refresh=True)
            if self._closing.wait(REFRESH_EVERY):
                return


def text_of(event: dict[str, Any]) -> str:
    """An event in words."""
    match event["event"]:
        case "output":
            return str(event["text"])
        case "ended":
            again = f", again in {event['restart_in']} s" if "restart_in" in event else ""
            last = "; ".join(event.get("last_lines", ()))
            return f"ended ({event['status']}){again}{': ' if last else ''}{last}"
        case "check":
            reasons = [f"{f['name']}: {f['text']} ({f['hint']})" for f in event["failing"]]
            return "; ".join(reasons) if reasons else "all that was checked is well again"
        case "failed":
            return f"{event['guilty']} cannot start: it {event['last']}"
        case "monitoring":
            return f"monitoring at {event['address']}"
        case other:
            return str(other)


def render(members: Sequence[dict[str, Any]]) -> Table:
    """What runs, one row each."""
    from rich.text import Text

    rows = table("process", "state", "since", "pid", "restarts", "serves")
    for member in members:
        state = member["state"]
        serves = ", ".join(member["serves"]) if state == "ready" else member["last"]
        rows.add_row(
            Text(clean(member["name"])),
            Text(state, _COLOURS.get(state, "")),
            duration(member["since"]),
            str(member["pid"] or "-"),
            count(member["restarts"]),
            Text(clean(serves)),
        )
    return rows
