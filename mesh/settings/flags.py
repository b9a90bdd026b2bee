"""Settings as options of a program: `--config`, `--set`, and flags that stand for keys."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mesh.settings.keys import keys
from mesh.settings.kinds import Endpoints, Switch
from mesh.settings.load import FILE_VARIABLE, Flags, Loaded, load


def add_flags(parser: argparse.ArgumentParser, table: Mapping[str, tuple[str, str]]) -> None:
    """Add `--config`, `--set` and the flags of `table`: flag -> (key, metavar).

    A flag says what its key says, and its value is checked as that of the key.
    """
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"a YAML file with settings (default: {FILE_VARIABLE} in the environment)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any key of the configuration, as in broker.grace=5s; may be repeated",
    )
    for flag, (name, metavar) in table.items():
        key = keys()[name]
        shown = key.kind.show(key.default)
        default = "" if shown in (None, False, [], ()) else f" (default: {shown})"
        text = f"{key.text} [{name}]{default}".replace("%", "%%")
        if isinstance(key.kind, Switch):
            parser.add_argument(flag, dest=name, action="store_true", default=None, help=text)
        elif isinstance(key.kind, Endpoints):
            parser.add_argument(
                flag, dest=name, action="append", metavar=metavar, help=f"{text}; may be repeated"
            )
        else:
            parser.add_argument(flag, dest=name, metavar=metavar, help=text)


@dataclass(slots=True)
class Chosen:
    """What a command line says about settings; it can be loaded again and again."""

    path: str | None
    flags: Flags
    assignments: Sequence[str] = field(default_factory=list)

    def load(self) -> Loaded:
        """The settings as they are now. Raises ConfigError."""
        return load(self.path, flags=self.flags, assignments=self.assignments)


def chosen(options: argparse.Namespace, table: Mapping[str, tuple[str, str]]) -> Chosen:
    """What the options that `add_flags` has added were given."""
    flags = {name: (flag, getattr(options, name)) for flag, (name, _) in table.items()}
    return Chosen(options.config, flags, options.set)
