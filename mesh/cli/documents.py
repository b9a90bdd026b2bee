"""Documents in files, for `search index`: JSON, CSV, and plain text.

Nothing is read at once but a document, so that files may be of any size.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from xxhash import xxh3_128_hexdigest

from mesh.cli.output import USAGE, Failure
from mesh.protocol import payload
from mesh.protocol.search import MAX_DOCUMENT

FORMATS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "tsv"}
CHUNK = 64 * 1024
MOST = 4 * MAX_DOCUMENT
"""Characters that one JSON value may have."""
SPACE = re.compile(r"\s*")
SEPARATOR = ";"
"""Between the tags in a cell of a table."""


@dataclass(slots=True)
class Reading:
    """What is read, and how. `kinds`: of the fields that are declared, by name.

    `format`: "json", "csv", "tsv" or "text"; "" goes by the name of each file. `passed_over`: files
    in folders that are no text.
    """

    format: str = ""
    id_field: str = ""
    text_field: str = "text"
    kinds: Mapping[str, str] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)

    def documents(self, paths: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The documents of files and folders; "-" is standard input.

        Raises:
            Failure: a file cannot be read, or is not what it seems.
        """
        for path in paths:
            for document in self._of(path):
                yield self._named(document)

    def _of(self, path: str) -> Iterator[dict[str, Any]]:
        if path == "-":
            if isinstance(sys.stdin, TextIOWrapper):  # as files are read, whatever the locale
                sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict", newline="")
            with _reported("standard input"):
                yield from self._parsed("standard input", self.format or "json", sys.stdin)
            return
        with _reported(path):
            inside = Path(path).is_dir()
            if not inside:
                yield from self._file(Path(path))
                return
            for file in sorted(Path(path).rglob("*")):
                hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
                if file.is_file() and not hidden:
                    yield from self._within(file)

    def _within(self, file: Path) -> Iterator[dict[str, Any]]:
        with file.open("rb") as opened:
            binary = b"\0" in opened.read(4096)
        if binary:
            self.passed_over.append(str(file))
        else:
            yield from self._file(file)

    def _file(self, file: Path) -> Iterator[dict[str, Any]]:
        kind = self.format or FORMATS.get(file.suffix.lower(), "text")
        with _reported(str(file)), file.open(encoding="utf-8-sig", newline="") as opened:
            yield from self._parsed(str(file), kind, opened)

    def _parsed(self, name: str, kind: str, file: TextIO) -> Iterator[dict[str, Any]]:
        if kind == "json":
            yield from json_objects(name, file)
        elif kind == "text":
            # One character more than may be is enough to be told that it is too long.
            yield {"id": name, self.text_field: file.read(MAX_DOCUMENT + 1)}
        else:
            reader = csv.DictReader(file, delimiter="\t" if kind == "tsv" else ",")
            for row in reader:
                yield self._row(f"{name}, line {reader.line_num}", row)

    def _row(self, where: str, row: dict[str, Any]) -> dict[str, Any]:
        if None in row:
            raise Failure(f"{where}: more cells than names in the first line", code=USAGE)
        found = {}
        for name, cell in row.items():
            if cell:
                found[name] = value_of(where, name, self.kinds.get(name, "text"), cell)
        return found

    def _named(self, document: dict[str, Any]) -> dict[str, Any]:
        """The document with an id: if it has none, one that its content has once for all."""
        name = document.get(self.id_field or "id")
        if name is None and self.id_field:
            raise Failure(f"{payload_text(document)} has no {self.id_field!r}", "see --id")
        if name is None:
            name = xxh3_128_hexdigest(payload.encode(sorted(document.items())))
        elif isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        return {**document, "id": name}


def json_objects(name: str, file: TextIO) -> Iterator[dict[str, Any]]:
    """The objects of a file: one a line, one after the other, or as one array.

    Raises:
        Failure: it is something else; says in which line.
    """
    decoder = json.JSONDecoder()
    buffer, at, line, size, array, ended = "", 0, 1, CHUNK, False, False
    while True:
        end = SPACE.match(buffer, at).end()  # type: ignore[union-attr]  # it matches anything
        line, at = line + buffer.count("\n", at, end), end
        match buffer[at : at + 1]:
            case "[" if not array:
                array, at = True, at + 1
                continue
            case "," if array:
                at += 1
                continue
            case "]" if array:
                return
        try:
            value, end = decoder.raw_decode(buffer, at)
        except json.JSONDecodeError as error:
            if not ended and len(buffer) - at < MOST:
                more = file.read(size)
                buffer, at, size, ended = buffer[at:] + more, 0, min(2 * size, MOST), not more
                continue
            if at == len(buffer) and not array:
                return
            where = f"{name}, line {line + buffer.count(chr(10), at, error.pos)}"
            raise Failure(f"{where}: {error.msg}", "it should be JSON", code=USAGE) from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; too deep
            raise Failure(f"{name}, line {line}: {error}", code=USAGE) from None
        if not isinstance(value, dict):
            what = f"{name}, line {line}: {type(value).__name__} is no document"
            raise Failure(what, "a document is a JSON object", code=USAGE)
        line, at, size = line + buffer.count("\n", at, end), end, CHUNK
        yield value


def value_of(where: str, name: str, kind: str, cell: str) -> Any:
    """What a cell of a table says, for a field of that kind. Raises Failure."""
    try:
        match kind:
            case "integer":
                return int(cell)
            case "float":
                return float(cell)
            case "boolean":
                return {"true": True, "1": True, "false": False, "0": False}[cell.lower()]
            case "tags":
                return [part.strip() for part in cell.split(SEPARATOR) if part.strip()]
            case "vector":
                return json.loads(cell)
            case _:
                return cell
    except (ValueError, KeyError):
        raise Failure(f"{where}: {name}={cell!r:.60} is no {kind}", code=USAGE) from None


def payload_text(document: Mapping[str, Any]) -> str:
    """A document for messages, never long."""
    return f"{json.dumps(document, ensure_ascii=False, default=str):.60}"


def schema_of(given: Iterable[str]) -> dict[str, Any]:
    """Fields as the command line names them: files of JSON or YAML, and NAME=KIND.

    NAME=KIND may have options, as in title=text,boost=2 or v=vector,dimension=384.

    Raises:
        Failure: a file cannot be read, or a word makes no sense.
    """
    found: dict[str, Any] = {}
    for one in given:
        name, sign, kind = one.partition("=")
        if sign:
            found[name] = _field(one, kind)
            continue
        import yaml

        with _reported(one), Path(one).open(encoding="utf-8") as file:
            try:
                loaded = yaml.safe_load(file)
            except yaml.YAMLError as error:
                raise Failure(f"{one}: {error}", "it should be JSON or YAML", code=USAGE) from None
        if not isinstance(loaded, dict):
            raise Failure(f"{one} is no mapping of fields to kinds", code=USAGE)
        found |= loaded
    return found


def _field(given: str, text: str) -> Any:
    kind, *options = text.split(",")
    if not options:
        return kind
    declared: dict[str, Any] = {"kind": kind}
    for option in options:
        name, sign, value = option.partition("=")
        if not sign:
            raise Failure(f"--schema {given}: {option!r} is not NAME=VALUE", code=USAGE)
        try:
            declared[name] = json.loads(value)
        except ValueError:
            declared[name] = value
    return declared


@contextmanager
def _reported(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", "name a file that can be read") from None
    except UnicodeDecodeError as error:
        raise Failure(f"{path}: {error}", "it should be text in UTF-8", code=USAGE) from None
    except csv.Error as error:
        raise Failure(f"{path}: {error}", "it should be CSV", code=USAGE) from None
