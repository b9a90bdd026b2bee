"""The rules of who may import whom, and a checker of sources against them.

Works on a mapping of module names to source texts, so it can be tried on sources that never were.
Imports inside functions count, as do `import_module` and `__import__` of a literal name; those
under `if TYPE_CHECKING:` do not, since they never happen.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PACKAGES: Final = ("mesh", "broker", "workers", "gateway", "sage")
"""Top-level packages that are shipped."""

_LOW: Final = frozenset({"mesh.errors"})
_PURE: Final = _LOW | {"mesh.protocol"}
_CLIENT: Final = _PURE | {
    "mesh.context",
    "mesh.discovery",
    "mesh.ending",
    "mesh.resilience",
    "mesh.settings",
    "mesh.spin",
    "mesh.transport",
}
_SERVICE: Final = _CLIENT | {"mesh.client", "mesh.logs", "mesh.monitoring"}

UNITS: Final[Mapping[str, frozenset[str] | None]] = {
    "mesh.errors": frozenset(),
    "mesh.compiled": frozenset(),
    "mesh.ending": frozenset(),
    "mesh.context": _PURE,
    "mesh.logs": frozenset({"mesh.context"}),
    "mesh.protocol": _LOW | {"mesh.units"},
    "mesh.resilience": _PURE,
    "mesh.discovery": _PURE,
    "mesh.security": _PURE,
    "mesh.transport": _PURE,
    "mesh.settings": _PURE | {"mesh.spin", "mesh.units"},
    "mesh.spin": frozenset(),
    "mesh.units": _LOW,
    "mesh.client": _CLIENT,
    "mesh.service": _SERVICE,
    "mesh": _SERVICE | {"mesh.compiled", "mesh.security", "mesh.service", "mesh.settings"},
    "mesh.testing": None,
    "mesh.cli": None,
    "mesh.monitoring": _PURE,
    "mesh.supervision": None,
}
"""A part of mesh -> the other parts that it may import, None for any. `mesh` is the __init__."""

TESTING_MAY_IMPORT: Final = ("broker.router", "broker.state", "broker.queues")

PACKAGE_MAY_IMPORT: Final[Mapping[str, tuple[str, ...]]] = {
    "mesh": (),
    "broker": ("mesh",),
    "workers": ("mesh",),
    "gateway": ("mesh",),
    "sage": ("mesh", "broker", "workers", "gateway"),
}
NEVER_SHIPPED: Final = frozenset({"bench", "examples", "tests"})

_DOORS: Final = frozenset({"asyncio", "threading", "zmq"})
IMPURE: Final = _DOORS | {"logging", "os", "random", "time"}
"""What a sans-IO core must not import. The doors to the world not even through another module of
the project; but a record that it takes from elsewhere may stand beside a function with a clock."""
_CORE_FILES: Final = frozenset({"core", "router", "session"})
_CORE_PLACES: Final = ("broker.state", "broker.queues", "mesh.resilience", "mesh.protocol")

UNSAFE: Final = frozenset({"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"})
"""Modules whose input is code."""


@dataclass(slots=True)
class Import:
    """An import that happens at run time: the module meant, and the line it stands on."""

    target: str
    line: int


def is_within(module: str, place: str) -> bool:
    """Whether `module` is `place` or lies under it."""
    return module == place or module.startswith(place + ".")


def unit_of(module: str) -> str:
    """The part of mesh that a module of mesh belongs to: `mesh.client.core` -> `mesh.client`."""
    return ".".join(module.split(".")[:2])


def is_core(module: str) -> bool:
    """Whether a module must be sans-IO."""
    top, _, rest = module.partition(".")
    named = top in ("mesh", "broker") and rest.rpartition(".")[2] in _CORE_FILES
    return named or any(is_within(module, place) for place in _CORE_PLACES)


class Project:
    """The sources to be checked: module name -> text. A package's name stands for its __init__."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.names = set(sources)
        for name in sources:  # namespace packages have no source
            while name := name.rpartition(".")[0]:
                self.names.add(name)
        self.packages = {name.rpartition(".")[0] for name in self.names}
        self.imports = {
            name: list(self._imports(name, text)) for name, text in sorted(sources.items())
        }

    def violations(self) -> list[str]:
        """Every breach of a rule, as `module:line: what is wrong`."""
        return [
            f"{module}:{found.line}: {reason}"
            for module, imports in self.imports.items()
            for found in imports
            for reason in self._reasons(module, found.target)
        ]

    def _reasons(self, module: str, target: str) -> Iterator[str]:
        top, other = module.partition(".")[0], target.partition(".")[0]
        if other in UNSAFE:
            yield f"imports {other}, which runs what it reads"
        if top not in PACKAGES:
            return
        if other == "zmq" and not is_within(module, "mesh.transport"):
            yield "imports zmq; only mesh.transport may"
        if is_core(module) and (way := self._way_out(target)):
            yield f"is a sans-IO core and imports {' -> '.join(way)}"
        if other in NEVER_SHIPPED:
            yield f"imports {other}, which is not shipped"
        elif other in PACKAGES and other != top and other not in PACKAGE_MAY_IMPORT[top]:
            testing = is_within(module, "mesh.testing")
            if not (testing and any(is_within(target, place) for place in TESTING_MAY_IMPORT)):
                yield f"{top} imports {target}"
        elif top == other == "mesh":
            yield from self._within_mesh(unit_of(module), unit_of(target))

    def _within_mesh(self, unit: str, other: str) -> Iterator[str]:
        if unit not in UNITS:
            yield f"{unit} has no rule yet: state in UNITS what it may import"
        elif (allowed := UNITS[unit]) is not None and other not in (unit, *allowed):
            yield f"{unit} imports {other}"

    def _way_out(self, target: str) -> list[str] | None:
        """The modules from `target` to one that a core must not import; None if it is pure."""
        if target.partition(".")[0] in IMPURE:
            return [target]
        ways = [[target]]
        seen = {target}
        for way in ways:
            for found in self.imports.get(way[-1], ()):
                if found.target.partition(".")[0] in _DOORS:
                    return [*way, found.target]
                if found.target not in seen:
                    seen.add(found.target)
                    ways.append([*way, found.target])
        return None

    def _imports(self, module: str, text: str) -> Iterator[Import]:
        for node in _running(ast.parse(text, module)):
            match node:
                case ast.Import():
                    for alias in node.names:
                        yield Import(alias.name, node.lineno)
                case ast.ImportFrom():
                    base = self._base(module, node)
                    for alias in node.names:
                        full = f"{base}.{alias.name}"
                        yield Import(full if full in self.names else base, node.lineno)
                case ast.Call(args=[ast.Constant(value=str(name)), *_]):
                    function = ast.unparse(node.func).rpartition(".")[2]
                    if function in ("import_module", "__import__"):
                        yield Import(name, node.lineno)

    def _base(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        up = node.level - (module in self.packages)
        parent = ".".join(module.split(".")[: len(module.split(".")) - up])
        return f"{parent}.{node.module}" if node.module else parent


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node` but those that only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from _running(other)
        else:
            yield child
            yield from _running(child)


def read_sources(root: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """All Python sources of the packages that exist below `root`, by module name."""
    sources = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            sources[name] = path.read_text(encoding="utf-8")
    return sources
