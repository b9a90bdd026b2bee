"""`python -m workers.storage backup|restore|verify|compact DIR [TARGET]`: a storage directory.

Works on the machine that has the directory. Exit status 0: done, nothing is wrong; 1: it failed, or
something is damaged; 2: wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mesh.errors import MeshError
from workers.storage import maintenance


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one of them; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workers.storage", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("backup", "copy a directory, which may be in use, into a new one, and verify the copy"),
        ("restore", "make a directory of a backup"),
    ):
        added = verbs.add_parser(verb, help=text)
        added.add_argument("source", type=Path)
        added.add_argument("target", type=Path)
        if verb == "restore":
            added.add_argument(
                "--replace",
                action="store_true",
                help="take the place of what is there, which moves aside",
            )
    for verb, text in (
        ("verify", "read everything, of a directory that may be in use"),
        ("compact", "give free pages back to the disk; nobody may have it open"),
    ):
        verbs.add_parser(verb, help=text).add_argument("source", type=Path)
    options = parser.parse_args(arguments)
    try:
        found = _do(options)
    except MeshError as error:
        text = getattr(error, "message", "") or str(error)
        print(json.dumps({"error": text}) if options.json else f"error: {text}", file=sys.stderr)
        return 1
    print(json.dumps(found) if options.json else _text(options.verb, found))
    return 1 if found.get("damage") else 0


def _do(options: argparse.Namespace) -> dict[str, Any]:
    source: Path = options.source.resolve()
    if options.verb == "backup":
        return asdict(maintenance.copy(source, options.target.resolve()))
    if options.verb == "restore":
        target: Path = options.target.resolve()
        return {"uuid": str(maintenance.restore(source, target, replace=options.replace))}
    if options.verb == "verify":
        return asdict(maintenance.verify(source))
    before, after = maintenance.compact(source)
    return {"before": before, "after": after}


def _text(verb: str, found: dict[str, Any]) -> str:
    if verb == "restore":
        return f"restored as {found['uuid']}"
    if verb == "compact":
        return f"{found['before']:,} octets before, {found['after']:,} after"
    what = (
        f"{found['entries']:,} keys of {found['octets']:,} octets, "
        f"{found['objects']:,} contents of objects"
    )
    if not found["damage"]:
        return f"{what}: all is well"
    return "\n".join([f"{what}: DAMAGED", *found["damage"]])


if __name__ == "__main__":
    sys.exit(main())
