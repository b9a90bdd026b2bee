"""Brings the sources together: flags before the environment before the file before defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mesh.settings.keys import advice, canonical, keys, value_of, variables
from mesh.settings.kinds import nearest
from mesh.settings.model import Settings
from mesh.settings.rules import contradictions, remarks
from mesh.settings.values import Given, Layer, refuse

FILE_VARIABLE = "SAGE_CONFIG"
DEFAULT = "default"
# Names that Kubernetes gives to what it tells of a service called "sage-...".
_KUBERNETES = ("_SERVICE_HOST", "_SERVICE_PORT", "_TCP", "_TCP_ADDR", "_TCP_PORT", "_TCP_PROTO")

Flags = Mapping[str, tuple[str, Any]]
"""Key -> (the flag as written, its value: text, several texts, or what the kind of the key takes).
Values that are None were not given."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, the file they came from, and for each key that is set where that was.

    `notes` are remarks for the operator: what is set without effect, or looks mistyped.
    """

    settings: Settings
    path: Path | None
    origins: Mapping[str, str]
    notes: Sequence[str] = ()

    def origin(self, name: str) -> str:
        """Where the value of the key `name` comes from."""
        return self.origins.get(name, DEFAULT)


def load(
    path: str | Path | None = None,
    *,
    flags: Flags | None = None,
    assignments: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """The settings from flags, the environment, the YAML file at `path`, and defaults.

    Without `path` the file is that of SAGE_CONFIG, if that is set. `assignments` are texts of the
    form "key=value", as given with --set; they count as flags.

    Raises:
        ConfigError: something is wrong; the message names every value that is, where it stands and
            what is allowed. `problems` has them one by one.
    """
    environ = os.environ if environ is None else environ
    chosen = path if path is not None else environ.get(FILE_VARIABLE) or None
    if chosen is not None:
        from mesh.settings.yamlfile import read_file  # and with it PyYAML
    layers = [
        read_file(Path(chosen)) if chosen is not None else Layer(),
        _environment(environ),
        _flags(flags or {}, assignments),
    ]
    return merge(layers, Path(chosen) if chosen is not None else None)


def merge(layers: Sequence[Layer], path: Path | None = None) -> Loaded:
    """The settings from some layers, the later ones before the earlier ones.

    Raises:
        ConfigError: as `load`.
    """
    values: dict[str, Any] = {}
    given: dict[str, Given] = {}
    for layer in layers:
        # A file must be right as a whole, also where something else has the last word.
        values.update(layer.parsed())
        given.update(layer.given)
    refuse(problem for layer in layers for problem in layer.problems)
    settings: Settings = _made(Settings(), _nested(values))
    refuse(contradictions(settings, given))
    origins = {name: found.origin for name, found in given.items()}
    notes = [note for layer in layers for note in layer.notes]
    return Loaded(settings, path, origins, (*notes, *remarks(settings, given)))


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        *sections, last = name.split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return found


def _made(section: Any, values: Mapping[str, Any]) -> Any:
    """`section` with some of its values, and some of those of its sections."""
    return replace(
        section,
        **{
            name: _made(getattr(section, name), value) if isinstance(value, dict) else value
            for name, value in values.items()
        },
    )


# ---------------------------------------------------------------- the environment


def _environment(environ: Mapping[str, str]) -> Layer:
    layer = Layer()
    for variable, key in variables().items():
        text = environ.get(variable, "")
        if not text.strip():
            continue  # empty is as good as not there
        first = layer.given.get(key.name)
        if first is not None:
            if first.value != key.kind.read(text):
                layer.notes.append(f"{variable} is ignored, as {first.origin} is set too")
            continue
        layer.given[key.name] = Given(key.kind.read(text), variable, key.name)
    for variable in sorted(environ):
        if variable.startswith("SAGE_") and variable not in variables():
            near = nearest(variable, variables(), 0.9)
            if near and not variable.endswith(_KUBERNETES):
                layer.notes.append(f"{variable} is not known; did you mean {near}?")
    return layer


# ---------------------------------------------------------------- the command line


def _flags(flags: Flags, assignments: Sequence[str]) -> Layer:
    layer = Layer()
    for text in assignments:
        name, mark, value = text.partition("=")
        name = name.strip()
        known = keys().get(canonical(name))
        if not mark:
            layer.problem("--set", name, f"{text!r} is not KEY=VALUE, as in broker.grace=5s")
        elif known is None:
            layer.problem("--set", name, f"{name}: {advice(name)}")
        else:
            layer.given[known.name] = Given(known.kind.read(value), f"--set {name}", name)
    for name, (flag, value) in flags.items():
        if value is not None:
            raw = keys()[name].kind.read(value) if isinstance(value, str) else value
            layer.given[name] = Given(raw, flag, name)
    return layer


def changed(before: Settings, after: Settings) -> list[str]:
    """The names of the keys whose values differ."""
    return [name for name in keys() if value_of(before, name) != value_of(after, name)]
