"""`history`: what the mesh itself did, by the events that its brokers remember."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mesh.cli.output import Failure, Output, clean
from mesh.cli.status import ask, count
from mesh.errors import ConfigError
from mesh.units import parse_duration

if TYPE_CHECKING:
    from rich.text import Text

Entry = dict[str, Any]

POLL_EVERY = 0.5
# Until then an event may still be counted again, where it is.
SETTLED = 1.0
_COLOURS = {
    **dict.fromkeys(("lost", "expelled", "ejected", "failed"), "red"),
    **dict.fromkeys(("suspected", "refused", "redispatched", "closed"), "yellow"),
    **dict.fromkeys(("joined", "restored", "cleared"), "green"),
}


def run(
    endpoints: Sequence[str],
    output: Output,
    *,
    since: str | None,
    follow: bool,
    timeout: float,
) -> bool:
    """Print the events of all brokers in the order of their times; whether all brokers answered.

    Raises:
        ConfigError: `since` is no duration.
        Failure: no broker answers.
    """
    span = _span(since)
    found, unsettled, failed = gather(endpoints, dict.fromkeys(endpoints, 0), timeout)
    if len(failed) == len(endpoints):
        raise Failure(
            "; ".join(f"no history from {where}: {why}" for where, why in failed.items()),
            f"start a broker with `sage-mesh broker --bind {endpoints[0]}`, or name another one "
            "with --broker or SAGE_BROKERS",
        )
    several = len(endpoints) > 1
    entries = [e for e in found if span is None or e["age"] <= span]
    _print(entries if follow else _sorted(entries + unsettled), output, several)
    if not follow:
        return not failed
    after = dict.fromkeys(endpoints, 0)
    _advance(after, found)
    while True:
        time.sleep(POLL_EVERY)
        found, _, _ = gather(endpoints, after, timeout)
        _advance(after, found)
        _print(found, output, several)


def gather(
    endpoints: Sequence[str], after: dict[str, int], timeout: float
) -> tuple[list[Entry], list[Entry], dict[str, str]]:
    """Events after the numbers given: those that are settled, and those that still may count up;
    and why some brokers do not answer. Each gets its `broker` and its `time` (Unix seconds)."""
    settled: list[Entry] = []
    unsettled: list[Entry] = []
    failed: dict[str, str] = {}
    for endpoint in endpoints:
        answer = ask(endpoint, timeout, "history", after[endpoint])
        now = time.time()
        if "error" in answer:
            failed[endpoint] = answer["error"]
            continue
        if answer["last"] < after[endpoint]:  # another broker has taken its place
            after[endpoint] = 0
        for entry in answer["events"]:
            entry.update(broker=endpoint, time=now - entry["age"])
            (settled if entry["age"] >= SETTLED else unsettled).append(entry)
    return _sorted(settled), _sorted(unsettled), failed


def _sorted(entries: list[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (entry["time"], entry["number"]))


def _advance(after: dict[str, int], entries: Sequence[Entry]) -> None:
    for entry in entries:
        after[entry["broker"]] = max(after[entry["broker"]], entry["number"])


def _span(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError:
        raise ConfigError(f"--since {text!r}: write a duration, as in 30s, 10m or 2h") from None


def _print(entries: Sequence[Entry], output: Output, several: bool) -> None:
    for entry in entries:
        if output.as_json:
            output.json({k: v for k, v in entry.items() if v != "" and k != "age"})
        else:
            output.console().print(line(entry, several), soft_wrap=True)


def line(entry: Entry, several: bool) -> Text:
    """One event for people."""
    from rich.text import Text

    at = datetime.fromtimestamp(entry["time"], UTC).astimezone()
    event = clean(entry["event"])
    found = Text.assemble(
        (at.strftime("%Y-%m-%d %H:%M:%S.") + f"{at.microsecond // 1000:03d}  ", "dim"),
        (f"{event:<13}", _COLOURS.get(event, "")),
    )
    found.append("  ".join(_words(entry, several)))
    return found


def _words(entry: Entry, several: bool) -> Iterator[str]:
    yield f"{clean(entry['reason'] or '-'):<20}"
    if entry["service"]:
        lane = f" lane {clean(entry['lane'])}" if entry["lane"] else ""
        yield f"{clean(entry['service'])}{lane}"
    if entry["worker"]:
        yield clean(entry["worker"])
    if entry["request"]:
        yield f"request {clean(entry['request'])}"
    if entry["count"] > 1:
        yield f"x {count(entry['count'])}"
    if several:
        yield f"at {clean(entry['broker'])}"
