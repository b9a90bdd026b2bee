"""What the commands print: values, tables, and failures with what to do about them."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import TYPE_CHECKING, Any

import typer

from mesh.errors import CallError, ConfigError, MeshError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

OK, FAILED, USAGE = 0, 1, 2


class Failure(Exception):
    """A command cannot do what was asked: `what` is wrong, `advice` says what to do about it."""

    def __init__(self, what: str, advice: str = "", *, code: int = FAILED) -> None:
        super().__init__(what)
        self.what = what
        self.advice = advice
        self.code = code


def plain(value: Any) -> Any:
    """`value` with everything that JSON lacks turned into text or lists; bytes become base64."""
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else str(plain(key)): plain(v) for key, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=repr)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    isoformat = getattr(value, "isoformat", None)
    return isoformat() if isoformat is not None else str(value)


def to_json(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON text, in the script of its own language."""
    return json.dumps(plain(value), ensure_ascii=False, indent=indent)


def clean(value: Any) -> str:
    """Text of a peer, made safe for a terminal: no escape sequences, one line."""
    return "".join(c if c.isprintable() else "�" for c in str(value))


class Output:
    """Where a command prints: text and tables for people, or with `as_json` JSON only."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json

    def console(self, *, stderr: bool = False) -> Console:
        """A rich console; its width is that of the terminal, or 120 columns without one."""
        from rich.console import Console

        stream = sys.stderr if stderr else sys.stdout
        return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else 120)

    def json(self, value: Any) -> None:
        """One line of JSON."""
        print(to_json(value), flush=True)

    def line(self, facts: Any, text: str) -> None:
        """One line: `facts` as JSON, or `text`."""
        if self.as_json:
            self.json(facts)
        else:
            print(text, flush=True)

    def value(self, value: Any) -> None:
        """The result of a call: text as it is, octets raw into a pipe, everything else as JSON.

        A list of octets, as services of other protocols answer, is printed as one text a line.
        """
        if self.as_json:
            self.json(value)
        elif isinstance(value, str):
            print(value, flush=True)
        elif isinstance(value, bytes) and not sys.stdout.isatty():
            sys.stdout.buffer.write(value)
            sys.stdout.buffer.flush()
        elif isinstance(value, bytes):
            print(value, flush=True)
        elif isinstance(value, list) and value and all(isinstance(v, bytes) for v in value):
            for frame in value:
                print(clean(frame.decode(errors="replace")), flush=True)
        else:
            print(to_json(value, indent=2 if sys.stdout.isatty() else None), flush=True)

    def show(self, renderable: RenderableType) -> None:
        """A table or a styled text."""
        self.console().print(renderable)

    def failure(self, error: Exception, what: str, advice: str) -> None:
        """Report `error`, as JSON to standard output or as two lines to standard error."""
        if self.as_json:
            fields: dict[str, Any] = {"kind": type(error).__name__, "message": what}
            if advice:
                fields["hint"] = advice
            if isinstance(error, CallError):
                fields["retryable"] = error.retryable
                fields["maybe_executed"] = error.maybe_executed
            self.json({"error": fields})
            return
        from rich.text import Text

        console = self.console(stderr=True)
        label = "error" if isinstance(error, Failure) else type(error).__name__
        first_line = what.partition("\n")[0]
        console.print(Text.assemble((f"{label}: ", "bold red"), what), soft_wrap=True)
        if advice and advice != first_line:
            console.print(Text.assemble(("hint: ", "bold cyan"), advice), soft_wrap=True)


@contextmanager
def reporting(as_json: bool, brokers: Sequence[str] = ()) -> Iterator[Output]:
    """Run the body of a command; what it raises is reported with advice, and sets the exit code."""
    output = Output(as_json)
    try:
        yield output
    except Failure as error:
        output.failure(error, error.what, error.advice)
        raise typer.Exit(error.code) from None
    except MeshError as error:
        output.failure(error, str(error), advise(error, brokers))
        raise typer.Exit(USAGE if isinstance(error, ConfigError) else FAILED) from None
    except BrokenPipeError:
        # The reader of our output has left (`| head`): nothing more can be said to it.
        sys.stdout = None
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def advise(error: MeshError, brokers: Sequence[str] = ()) -> str:
    """What the user can do about `error`; empty if the message says it all."""
    where = " ".join(f"--broker {endpoint}" for endpoint in brokers)
    name = type(error).__name__
    if isinstance(error, CallError) and "call(), not stream()" in error.message:
        return "leave out --stream"
    if isinstance(error, CallError) and "stream(), not call()" in error.message:
        return "add --stream"
    advice = _ADVICE.get(name, "")
    if (
        isinstance(error, CallError)
        and error.maybe_executed
        and name in ("WorkerLost", "BrokerLost")
    ):
        advice += "; look before calling again, or pass --idempotent if twice does no harm"
    return advice.replace(" {where}", f" {where}" if where else "")


_ADVICE = {
    "ServiceNotFound": "start a worker with `sage-mesh serve package.module:service {where}`; "
    "`sage-mesh status {where}` shows what is offered",
    "MethodNotFound": "check the spelling; the last part of the target is the method",
    "InvalidArgument": "arguments are parsed as JSON, else taken as text; quote what should stay "
    "text: '\"42\"'. Keyword arguments: --kwarg name=value",
    "DeadlineExceeded": "give it more time with --timeout, or look at `sage-mesh status {where}`: "
    "is the service busy, or not there at all?",
    "Overloaded": "add workers (`sage-mesh serve ... --workers N`) or call less often",
    "CircuitOpen": "the service failed too often lately; `sage-mesh status {where}` may tell why",
    "WorkerLost": "the worker's own output may say why it died",
    "BrokerLost": "`sage-mesh status {where}` tells whether the broker is back",
    "Unauthorized": "this client may not call that; check its keys and the broker's rules",
    "RemoteError": "the handler raised this; the worker's own output has the traceback",
}
