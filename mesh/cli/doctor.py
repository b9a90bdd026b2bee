"""`doctor`: is this machine and this installation fit, and can the brokers be reached."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from mesh import compiled
from mesh.cli.findings import FAIL, OK, WARN, Finding, show
from mesh.cli.output import Output
from mesh.errors import MeshError

NEEDED = {
    "pyzmq": "zmq",
    "msgpack": "msgpack",
    "pydantic": "pydantic",
    "PyYAML": "yaml",
    "lmdb": "lmdb",
}
FEW_FILES = 4096
BUILD = (
    "install a C compiler, then reinstall with `pip install --force-reinstall --no-deps sage-mesh`,"
    " in a checkout `make clean install`"
)


def mesh_version() -> str:
    """The version of the installed distribution; that of the checkout if it is not installed."""
    try:
        return metadata.version("sage-mesh")
    except metadata.PackageNotFoundError:
        import tomllib

        with (Path(__file__).parents[2] / "pyproject.toml").open("rb") as file:
            return str(tomllib.load(file)["project"]["version"])


def run(brokers: Sequence[str] | None, output: Output) -> bool:
    """Print all findings; whether none of them is a failure."""
    found = list(examine(brokers))
    show(found, output)
    return all(finding.state != FAIL for finding in found)


def examine(brokers: Sequence[str] | None) -> Iterator[Finding]:
    """All findings. `brokers` None means that the user named none: then none need be there."""
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        _mesh,
        _pump,
        _modules,
        _connections,
        _msgpack,
        _files,
        _cores,
    )
    yield from (check() for check in checks[:2])
    missing = [_module(name, module) for name, module in NEEDED.items()]
    yield from missing
    if any(finding.state == FAIL for finding in missing[:2]):
        return
    yield from (check() for check in checks[2:])
    yield from _brokers(brokers)


def _python() -> Finding:
    text = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    if sys.version_info < (3, 11):  # noqa: UP036 - the check is what this is for
        return Finding("python", FAIL, text, "install Python 3.11 or newer")
    return Finding("python", OK, f"{text}, {platform.system()} {platform.machine()}")


def _mesh() -> Finding:
    return Finding("sage-mesh", OK, f"{mesh_version()} in {Path(__file__).parents[2]}")


def _module(name: str, module: str) -> Finding:
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        return Finding(name, FAIL, str(error), f"run `{sys.executable} -m pip install {name}`")
    text = metadata.version(name)
    if name == "pyzmq":
        text += f", libzmq {imported.zmq_version()}"
    return Finding(name, OK, text)


def _pump() -> Finding:
    from mesh.transport import pump

    if pump.KIND == "compiled":
        return Finding("frame pump", OK, "compiled")
    chosen = os.environ.get("SAGE_PUMP") == "pure"
    hint = (
        "unset SAGE_PUMP to use the compiled one" if chosen else f"it works but is slower: {BUILD}"
    )
    return Finding("frame pump", WARN, f"pure Python: {pump.why()}", hint)


def _modules() -> Finding:
    """The modules that are compiled as they stand: each runs as plain Python, too, but slower."""
    name = "modules"
    if os.environ.get("SAGE_PUMP") == "pure":
        return Finding(
            name, WARN, "pure Python: SAGE_PUMP=pure", "unset SAGE_PUMP to use the compiled ones"
        )
    found = compiled.compiled()
    text = f"{len(found)} of {len(compiled.NAMES)} compiled"
    if stale := compiled.stale():
        text += f", older than their source: {', '.join(stale)}"
        return Finding(name, WARN, text, "compile them again: `make install`")
    if len(found) < len(compiled.NAMES):
        missing = [module for module in compiled.NAMES if module not in found]
        shown = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        return Finding(name, WARN, f"{text}, not {shown}", f"they work but are slower: {BUILD}")
    return Finding(name, OK, text)


def _connections() -> Finding:
    from mesh import transport

    if transport.DIRECT:
        return Finding("connections", OK, "direct, no I/O thread between")
    return Finding("connections", OK, "by libzmq")


def _msgpack() -> Finding:
    try:
        importlib.import_module("msgpack._cmsgpack")
    except ImportError:
        return Finding(
            "payload codec",
            WARN,
            "msgpack runs in pure Python: calls are several times slower",
            "unset MSGPACK_PUREPYTHON and install a wheel of msgpack for this Python",
        )
    if os.environ.get("MSGPACK_PUREPYTHON"):
        return Finding(
            "payload codec",
            WARN,
            "msgpack is told to run in pure Python",
            "unset MSGPACK_PUREPYTHON",
        )
    return Finding("payload codec", OK, "msgpack, compiled")


def _files() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shown = "no limit" if soft == resource.RLIM_INFINITY else f"{soft:,}"
    if soft != resource.RLIM_INFINITY and soft < FEW_FILES:
        enough = min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536
        return Finding(
            "open files",
            WARN,
            f"at most {shown}: a broker has one for each connection",
            f"raise it before starting the broker: ulimit -n {enough}",
        )
    return Finding("open files", OK, f"at most {shown}")


def _cores() -> Finding:
    usable = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if usable < 2:
        return Finding(
            "processors",
            WARN,
            "1 usable: broker, workers and clients share it",
            "give it two or more for speed",
        )
    return Finding("processors", OK, f"{usable} usable")


def _brokers(brokers: Sequence[str] | None) -> Iterator[Finding]:
    from mesh.cli.endpoints import parse_all
    from mesh.cli.status import fetch

    try:
        endpoints = parse_all(brokers or [])
    except MeshError as wrong:
        yield Finding("broker", FAIL, str(wrong), "see --broker and SAGE_BROKERS")
        return
    for endpoint in endpoints:
        status = fetch(endpoint, 2.0)
        if "error" not in status:
            services = status.get("services") or []
            yield Finding("broker", OK, f"{endpoint} answers, {len(services)} services")
            continue
        # Nobody asked for the broker at the default place: it may not be wanted here.
        state = FAIL if brokers else WARN
        hint = f"start it with `sage-mesh broker --bind {endpoint}`, or name another with --broker"
        yield Finding("broker", state, f"{endpoint}: {status['error']}", hint)
