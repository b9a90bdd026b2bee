"""`call`: one call from the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.cli.output import USAGE, Failure, Output

_NUMBER = re.compile(r"-(\d|\.\d)")


@dataclass(slots=True)
class Request:
    """What to call: `target` is "service.method"; `options` are those of `Mesh.options`."""

    target: str
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        service, dot, method = self.target.rpartition(".")
        if not (service and dot and method):
            raise Failure(
                f"{self.target!r} is not SERVICE.METHOD",
                "name both, with a dot between them: cart.total",
                code=USAGE,
            )


def parse_value(text: str) -> Any:
    """`text` as JSON; what is not JSON is taken as text."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def parse_pairs(texts: Sequence[str], option: str) -> dict[str, Any]:
    """`NAME=VALUE` texts as a map; the values are parsed like arguments.

    Raises:
        Failure: one has no name or no `=`, or a name comes twice.
    """
    pairs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise Failure(
                f"{option} {text!r} is not NAME=VALUE", f"for example: {option} qty=2", code=USAGE
            )
        if name in pairs:
            raise Failure(f"{option} {name} is given twice", "give each name once", code=USAGE)
        pairs[name] = parse_value(value)
    return pairs


def refuse_options(arguments: Sequence[str], command_line: Sequence[str]) -> None:
    """Arguments may be negative numbers, but a mistyped option must not become an argument.

    Raises:
        Failure: an argument looks like an option and was not protected by `--`.
    """
    if "--" in command_line:
        return
    for argument in arguments:
        if argument.startswith("-") and argument != "-" and not _NUMBER.match(argument):
            raise Failure(
                f"no such option: {argument}",
                "see `sage-mesh call --help`; after a `--` everything is an argument",
                code=USAGE,
            )


def options(**given: Any) -> dict[str, Any]:
    """Those options that the user has given; the others keep the defaults of the client."""
    return {
        name: value
        for name, value in given.items()
        if value is not None and value is not False and value != {}
    }


def run(request: Request, endpoints: Sequence[str], output: Output, *, stream: bool) -> None:
    """Make the call and print its result, or with `stream` each item as it comes.

    Raises:
        CallError: it failed.
    """
    from mesh import connect

    with connect(*endpoints) as mesh:
        bound = mesh.options(**request.options)
        if not stream:
            output.value(bound.call(request.target, *request.args, **request.kwargs))
            return
        with bound.stream(request.target, *request.args, **request.kwargs) as items:
            for item in items:
                output.value(item)
