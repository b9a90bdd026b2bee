"""Values on their way into the settings: where each came from, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mesh.errors import ConfigError
from mesh.settings.keys import keys


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was written, for the key that was written as `name`."""

    value: Any
    origin: str
    name: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong: where (`file:line`, a variable or a flag), with which key, and what."""

    origin: str
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.text}"


@dataclass(slots=True)
class Layer:
    """What one source sets, by the name of the key, and what is wrong in it."""

    given: dict[str, Given] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def problem(self, origin: str, key: str, text: str) -> None:
        """Note something wrong."""
        self.problems.append(Problem(origin, key, text))

    def parsed(self) -> dict[str, Any]:
        """The values in the form that the settings hold; those that are wrong become problems."""
        found = {}
        for name, given in self.given.items():
            try:
                found[name] = keys()[name].kind.parse(given.value)
            except ValueError as error:
                self.problem(given.origin, name, f"{given.name}: {error}")
        self.problems.sort(key=_line)
        return found


def _line(problem: Problem) -> int:
    tail = problem.origin.rpartition(":")[2]
    return int(tail) if tail.isdecimal() else 0


def refuse(problems: Iterable[Problem]) -> None:
    """Raise ConfigError for all of them in one, if there are any."""
    found = list(dict.fromkeys(problems))
    if len(found) == 1:
        raise ConfigError(str(found[0]), problems=found)
    if found:
        lines = "\n".join(f"  {problem}" for problem in found)
        raise ConfigError(f"{len(found)} errors in the configuration:\n{lines}", problems=found)
