"""Queries as they are typed, and what they have found as it is shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mesh.cli.output import USAGE, Failure, Output, clean, to_json

if TYPE_CHECKING:
    from rich.text import Text

    from mesh.client.search import Hit, Hits

# What a fragment is marked by: no text of a document has them.
BEFORE, AFTER = "\x02", "\x03"


def asked(text: str) -> Any:
    """A query as it is meant: a JSON object, or words and operators. Raises Failure."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise Failure(
            f"{text}: {error}", "a query in braces is a JSON object", code=USAGE
        ) from None


def show(output: Output, found: Hits, offset: int) -> None:
    """Print what a query has found, with what was found in it, as a table."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=bool(found.hits))
    for name, justify in (("", "right"), ("score", "right"), ("id", "left"), ("document", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for number, hit in enumerate(found, offset + 1):
        shown = _shown(hit)
        if hit.explain is not None:
            shown.append(f"\n{clean(to_json(hit.explain))}", style="dim")
        table.add_row(str(number), f"{hit.score:.3f}", clean(hit.id), shown)
    output.show(table)
    for name, facet in found.facets.items():
        print(f"{clean(name)}: {clean(to_json(facet))}")
    total = "" if found.total < 0 else f" of {found.total:,}"
    print(f"{len(found)}{total} in {1000 * found.took:.1f} ms")


def _shown(hit: Hit) -> Text:
    """What is seen of a hit: fragments with what was found, or how its fields begin."""
    from rich.text import Text

    found = Text()
    if not hit.highlight:
        fields = [f"{name}: {value}" for name, value in hit.source.items()
                  if name != "id" and not isinstance(value, bytes)]  # fmt: skip
        return Text(clean("  ".join(fields)[:200]))
    for name, fragments in hit.highlight.items():
        for fragment in fragments:
            found.append("\n" if found else "").append(f"{clean(name)}: ", style="dim")
            for part in fragment.split(BEFORE):
                marked, _, rest = part.rpartition(AFTER)
                found.append(clean(marked), style="bold yellow").append(clean(rest))
    return found
