"""Settings as text: the commented default file, the effective settings, and the JSON schema."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from mesh.settings.keys import ALIASES, keys, value_of
from mesh.settings.load import DEFAULT, Loaded
from mesh.settings.model import Section, Settings

WIDTH = 92
HEAD = """\
# yaml-language-server: $schema={schema}
#
# SAGE Mesh: every key with its default. What is missing from a file has its default.
#
#   sage-mesh config check FILE           is everything right?
#   sage-mesh config show --config FILE   what is in force, and where each value came from
#
# Flags count before the environment, that before the file. In the environment a key has its name
# in capitals with _ for dots: broker.grace is SAGE_BROKER_GRACE. On the command line every key is
# --set broker.grace=5s. Durations are seconds or 500ms, 30s, 5m; sizes are octets or 512MB, 1GiB.
# What is marked "live" changes in a running broker when it gets SIGHUP.
"""


def default_yaml(schema: str = "schema.json") -> str:
    """The file with every key, its default and what it does. `schema` is where its schema lies."""
    lines = [HEAD.format(schema=schema)]
    lines += _commented(Settings(), "", 0)
    return "\n".join(lines).rstrip() + "\n"


def _commented(section: Section, before: str, depth: int) -> Iterator[str]:
    pad = "  " * depth
    for name in (field.name for field in fields(section)):
        inner = getattr(section, name)
        if isinstance(inner, Section):
            if depth == 0:
                yield ""
            yield from _comment((inner.__doc__ or "").strip(), pad)
            yield f"{pad}{name}:"
            yield from _commented(inner, f"{before}{name}.", depth + 1)
            continue
        known = keys()[before + name]
        yield from _comment(known.text + (" (live)" if known.live else ""), pad)
        yield f"{pad}{name}: {_scalar(known.kind.show(known.default))}"


def _comment(text: str, pad: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        WIDTH,
        initial_indent=f"{pad}# ",
        subsequent_indent=f"{pad}# ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _scalar(value: Any) -> str:
    """`value` as YAML on one line."""
    import yaml  # a broker needs none of this

    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").rstrip("\n")


def show_yaml(loaded: Loaded, *, only: str = "", secrets: bool = False) -> str:
    """The settings in force as YAML, with the origin of whatever is not a default.

    It can be loaded again. Passwords are hidden unless `secrets`. `only` is the name of a key or
    section; the rest is left out.
    """
    lines: list[str] = []
    open_sections: list[str] = []
    for name, key in keys().items():
        if only and name != only and not name.startswith(f"{only}."):
            continue
        *sections, last = name.split(".")
        shared = 0
        while shared < len(sections) and sections[: shared + 1] == open_sections[: shared + 1]:
            shared += 1
        lines += [f"{'  ' * i}{sections[i]}:" for i in range(shared, len(sections))]
        open_sections = sections
        value = value_of(loaded.settings, name)
        plain = key.kind.show(value) if secrets else key.kind.hide(value)
        origin = loaded.origin(name)
        mark = "" if origin == DEFAULT else f"  # {origin}"
        lines.append(f"{'  ' * len(sections)}{last}: {_scalar(plain)}{mark}")
    return "\n".join(lines) + "\n"


def show_rows(loaded: Loaded, *, only: str = "", secrets: bool = False) -> list[dict[str, Any]]:
    """As `show_yaml`, as plain data: for each key its value, origin, variable and whether live."""
    rows = []
    for name, key in keys().items():
        if only and name != only and not name.startswith(f"{only}."):
            continue
        value = value_of(loaded.settings, name)
        rows.append(
            {
                "key": name,
                "value": key.kind.show(value) if secrets else key.kind.hide(value),
                "origin": loaded.origin(name),
                "variable": key.variable,
                "live": key.live,
            }
        )
    return rows


# ---------------------------------------------------------------- JSON schema


def schema() -> dict[str, Any]:
    """The JSON schema of the file, by which editors complete and check it."""
    found = _schema(Settings(), "")
    for alias, section in ALIASES.items():
        parent, _, name = alias.rpartition(".")
        found["properties"][parent]["properties"][name] = found["properties"][section]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "SAGE Mesh configuration",
        **found,
    }


def _schema(section: Section, before: str) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for name in (field.name for field in fields(section)):
        inner = getattr(section, name)
        if isinstance(inner, Section):
            properties[name] = _schema(inner, f"{before}{name}.")
            continue
        known = keys()[before + name]
        properties[name] = {
            "description": known.text,
            "default": known.kind.show(known.default),
            **known.kind.schema(),
        }
    return {
        "description": " ".join((section.__doc__ or "").split()),
        "type": ["object", "null"],
        "properties": properties,
        "additionalProperties": False,
    }


def schema_text() -> str:
    """The schema as it stands in a file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
