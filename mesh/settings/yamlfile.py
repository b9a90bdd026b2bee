"""A YAML file as a flat mapping of keys to values, each with the line that it stands on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mesh.errors import ConfigError
from mesh.settings.keys import advice, canonical, children, keys
from mesh.settings.values import Given, Layer

MAX_FILE = 1024 * 1024


def read_file(path: Path) -> Layer:
    """The keys that a file sets.

    Raises:
        ConfigError: it cannot be read, or is no YAML.
    """
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_FILE + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(
            f"{path}: cannot be read ({reason}); `sage-mesh config init {path}` writes one"
            if isinstance(error, FileNotFoundError)
            else f"{path}: cannot be read ({reason})"
        ) from None
    if len(octets) > MAX_FILE:
        raise ConfigError(f"{path}: more than {MAX_FILE:,} octets; that is no configuration")
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None
    return read_text(text, str(path))


def read_text(text: str, name: str) -> Layer:
    """The keys that a YAML text sets; `name` stands for the file in messages.

    Raises:
        ConfigError: it is no YAML.
    """
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        layer = Layer()
        if root is not None and not _is_null(root):
            _Reader(loader, name, layer).section(root, "")
        return layer
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark is not None else name
        why = " ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{where}: this is not YAML: {why}{_hint(text, mark)}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"{name}: this is not YAML: {' '.join(why.split())}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _hint(text: str, mark: Any) -> str:
    lines = text.splitlines()
    line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    return "; indent with spaces, not tabs" if "\t" in line else ""


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


class _Reader:
    """Walks the nodes of a file. Goes only where keys can be, so no file can make it long."""

    def __init__(self, loader: yaml.SafeLoader, name: str, layer: Layer) -> None:
        self._loader = loader
        self._name = name
        self._layer = layer

    def section(self, node: yaml.Node, section: str) -> None:
        """Take in what stands under the section of that name; "" is the whole file."""
        where = self._where(node)
        if not isinstance(node, yaml.MappingNode):
            shown = f"{section}: " if section else ""
            inner = ", ".join(children()[section])
            self._layer.problem(
                where,
                section,
                f"{shown}{_sketch(node)} stands where a section is needed, "
                f"with keys such as {inner}",
            )
            return
        seen: dict[str, int] = {}
        for word, value in node.value:
            line = word.start_mark.line + 1
            if not isinstance(word, yaml.ScalarNode):
                self._layer.problem(
                    f"{self._name}:{line}", section, "a key must be a word, not a list or mapping"
                )
                continue
            name = f"{section}.{word.value}" if section else word.value
            if word.value in seen:
                self._wrong(
                    word, name, f"stands here twice, first in line {seen[word.value]}; remove one"
                )
                continue
            seen[word.value] = line
            if name in children():
                if not _is_null(value):
                    self.section(value, name)
            elif canonical(name) in keys():
                self._key(word, value, name)
            else:
                self._wrong(word, name, advice(name))

    def _key(self, word: yaml.Node, node: yaml.Node, name: str) -> None:
        known = canonical(name)
        before = self._layer.given.get(known)
        if before is not None:
            text = f"is set twice, also as {before.name} ({before.origin}); remove one"
            self._wrong(word, name, text)
            return
        if isinstance(node, yaml.MappingNode):
            self._wrong(node, name, f"a mapping is not {keys()[known].kind.allowed}")
            return
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                if not isinstance(item, yaml.ScalarNode):
                    self._wrong(item, name, "a list in this place may hold texts only")
                    return
        elif isinstance(node, yaml.ScalarNode) and _base_60(node):
            self._wrong(
                node,
                name,
                f"{node.value} is a number to base 60 in YAML; write it out, or put it in quotes",
            )
            return
        try:
            value = self._loader.construct_object(node, deep=True)
        except yaml.MarkedYAMLError as error:
            self._wrong(node, name, f"{error.problem}; plain values are all that is read")
            return
        except ValueError as error:  # what looks like a date, and is none
            self._wrong(node, name, f"{error}; put the value in quotes if it is text")
            return
        self._layer.given[known] = Given(value, self._where(node), name)

    def _where(self, node: yaml.Node) -> str:
        return f"{self._name}:{node.start_mark.line + 1}"

    def _wrong(self, node: yaml.Node, name: str, text: str) -> None:
        self._layer.problem(self._where(node), name, f"{name}: {text}")


def _base_60(node: yaml.ScalarNode) -> bool:
    numbers = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    return ":" in node.value and node.tag in numbers


def _sketch(node: yaml.Node) -> str:
    return "a list" if isinstance(node, yaml.SequenceNode) else repr(node.value)[:40]
