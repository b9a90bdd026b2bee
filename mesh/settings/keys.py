"""The keys as a list: where each stands, its kind, its default, and its names elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from mesh.settings.kinds import Kind, nearest
from mesh.settings.model import BUILT_IN, Section, Settings

# The description of the product has these two inside `services`.
ALIASES = {"services.discovery": "discovery", "services.monitoring": "monitoring"}
SHORT_VARIABLES = {
    "SAGE_SERVICE_PORT": "services.memory.port",
    "SAGE_MEMORY_BACKEND": "services.memory.backend",
    "SAGE_MEMORY_URL": "services.memory.url",
    "SAGE_MEMORY_SIZE": "performance.cache_size",
    **{f"SAGE_{name.upper()}_DATA": f"services.{name}.data" for name in BUILT_IN},
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `name` has dots; `default` is in the form that the settings hold."""

    name: str
    kind: Kind
    default: Any
    text: str
    live: bool

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return variable_of(self.name)


def variable_of(name: str) -> str:
    """The name in the environment of the key `name`."""
    return f"SAGE_{name.replace('.', '_').upper()}"


def _keys(section: Section, before: str) -> Iterator[Key]:
    for field in fields(section):
        inner = getattr(section, field.name)
        if isinstance(inner, Section):
            yield from _keys(inner, f"{before}{field.name}.")
        else:
            yield Key(before + field.name, default=inner, **field.metadata)


@functools.cache
def keys() -> Mapping[str, Key]:
    """All keys by name, in the order of the model."""
    return {key.name: key for key in _keys(Settings(), "")}


@functools.cache
def variables() -> Mapping[str, Key]:
    """All keys by name in the environment, the full names before the short ones."""
    found = {key.variable: key for key in keys().values()}
    for alias, section in ALIASES.items():
        for key in keys().values():
            if key.name.startswith(f"{section}."):
                found[variable_of(alias + key.name.removeprefix(section))] = key
    return found | {short: keys()[name] for short, name in SHORT_VARIABLES.items()}


@functools.cache
def children() -> Mapping[str, tuple[str, ...]]:
    """What may stand under each section, by the section's name; "" is the whole file."""
    found: dict[str, list[str]] = {"": []}
    names = [
        *keys(),
        *(
            alias + name.removeprefix(section)
            for alias, section in ALIASES.items()
            for name in keys()
            if name.startswith(f"{section}.")
        ),
    ]
    for name in names:
        parent, _, last = name.rpartition(".")
        while True:
            known = found.setdefault(parent, [])
            if last not in known:
                known.append(last)
            if not parent:
                break
            parent, _, last = parent.rpartition(".")
    return {name: tuple(inner) for name, inner in found.items()}


def canonical(name: str) -> str:
    """The one name of a key or section that may be written in two ways."""
    for alias, section in ALIASES.items():
        if name == alias or name.startswith(f"{alias}."):
            return section + name.removeprefix(alias)
    return name


def value_of(settings: Settings, name: str) -> Any:
    """The value of the key `name`."""
    found: Any = settings
    for part in name.split("."):
        found = getattr(found, part)
    return found


def advice(name: str) -> str:
    """What to say about a key that does not exist: the nearest one, and what there is beside it."""
    parent, _, last = name.rpartition(".")
    beside = children().get(parent, ())
    near = nearest(last, beside)
    if near:
        return f"unknown key; did you mean {near}?"
    elsewhere = [known for known in keys() if known.rpartition(".")[2] == last]
    if elsewhere:
        return f"unknown key here; did you mean {' or '.join(elsewhere)}?"
    return f"unknown key; {parent or 'the file'} may have {', '.join(beside)}"
