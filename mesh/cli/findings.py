"""What an examination has found: lines that are ok, warn or fail, and say what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mesh.cli.output import Output, clean

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(slots=True)
class Finding:
    """One line of a report; `hint` says what to do unless all is well."""

    name: str
    state: str
    text: str
    hint: str = ""


def show(found: Sequence[Finding], output: Output) -> None:
    """Print the report; as JSON `{"ok": nothing fails, "checks": [...]}`."""
    if output.as_json:
        fit = all(finding.state != FAIL for finding in found)
        output.json({"ok": fit, "checks": [asdict(finding) for finding in found]})
        return
    from rich.text import Text

    colours = {OK: "green", WARN: "yellow", FAIL: "bold red"}
    console = output.console()
    width = max((len(finding.name) for finding in found), default=0)
    for finding in found:
        mark = (f"{finding.state:<4}  ", colours[finding.state])
        console.print(
            Text.assemble(mark, (f"{clean(finding.name):<{width}}  ", "bold"), clean(finding.text)),
            soft_wrap=True,
        )
        if finding.hint:
            console.print(Text(f"{'':<6}{'':<{width}}  -> {finding.hint}", "cyan"), soft_wrap=True)
