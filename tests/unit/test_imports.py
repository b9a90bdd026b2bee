"""Who may import whom, what a package makes public, and that nothing that is read is run."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys

import pytest

from tests.imports import PACKAGES, Project, read_sources
from tests.support import ROOT

EVERYTHING = (*PACKAGES, "bench", "examples", "tests")
EXTRAS = frozenset({"grpc", "numpy", "starlette", "tantivy", "usearch", "uvicorn"})
"""Libraries that only an extra installs: without one, its package cannot be imported."""


def test_the_imports_of_the_project_keep_the_rules() -> None:
    sources = read_sources(ROOT, EVERYTHING)
    assert {"mesh.errors", "mesh.protocol", "broker.router"} <= sources.keys()
    assert Project(sources).violations() == []


BREACHES = {
    "a low part imports a high one": (
        {"mesh.protocol.native": "from mesh.client import connect", "mesh.client": ""},
        ["mesh.protocol.native:1: mesh.protocol imports mesh.client"],
    ),
    "errors import nothing": (
        {"mesh.errors": "import sys\nimport mesh.protocol", "mesh.protocol": ""},
        ["mesh.errors:2: mesh.errors imports mesh.protocol"],
    ),
    "by the name of the part": (
        {"mesh.transport.pump": "from mesh import client", "mesh": "", "mesh.client": ""},
        ["mesh.transport.pump:1: mesh.transport imports mesh.client"],
    ),
    "through the front door": (
        {"mesh.client.core": "from mesh import Service", "mesh": ""},
        ["mesh.client.core:1: mesh.client imports mesh"],
    ),
    "relatively, from a package": (
        {"mesh.client": "from ..service import Service", "mesh.service": "", "mesh.client.aio": ""},
        ["mesh.client:1: mesh.client imports mesh.service"],
    ),
    "relatively, from a module": (
        {"mesh.client.aio": "from .. import service", "mesh.service": "", "mesh": ""},
        ["mesh.client.aio:1: mesh.client imports mesh.service"],
    ),
    "late, in a function": (
        {"mesh.client.aio": "def late():\n    import mesh.service"},
        ["mesh.client.aio:2: mesh.client imports mesh.service"],
    ),
    "by a string": (
        {"mesh.client.aio": "import importlib\nimportlib.import_module('mesh.service')"},
        ["mesh.client.aio:2: mesh.client imports mesh.service"],
    ),
    "in the branch that runs": (
        {
            "mesh.client.aio": "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    import mesh.cli\nelse:\n    import mesh.service"
        },
        ["mesh.client.aio:5: mesh.client imports mesh.service"],
    ),
    "a part without a rule": (
        {"mesh.extra": "import mesh.errors"},
        ["mesh.extra:1: mesh.extra has no rule yet: state in UNITS what it may import"],
    ),
    "mesh imports the broker": (
        {"mesh.cli.serve": "import broker.router"},
        ["mesh.cli.serve:1: mesh imports broker.router"],
    ),
    "testing imports the broker's shell": (
        {"mesh.testing": "from broker import server", "broker": "", "broker.server": ""},
        ["mesh.testing:1: mesh imports broker.server"],
    ),
    "broker and workers import each other": (
        {"broker.admin": "import workers.memory", "workers.memory": "import broker"},
        [
            "broker.admin:1: broker imports workers.memory",
            "workers.memory:1: workers imports broker",
        ],
    ),
    "a second home of zmq": (
        {"broker.server": "import zmq.utils", "mesh.client.sync": "from zmq import Context"},
        [
            "broker.server:1: imports zmq; only mesh.transport may",
            "mesh.client.sync:1: imports zmq; only mesh.transport may",
        ],
    ),
    "a core knows the time": (
        {"mesh.client.core": "from time import monotonic"},
        ["mesh.client.core:1: is a sans-IO core and imports time"],
    ),
    "a core goes out by a back door": (
        {
            "broker.router": "from broker import pool",
            "broker.pool": "import time\nimport concurrent.futures\nimport asyncio.events",
            "broker": "",
        },
        ["broker.router:1: is a sans-IO core and imports broker.pool -> asyncio.events"],
    ),
    "every pure place": (
        {
            "broker.queues": "import random",
            "broker.state": "import logging",
            "mesh.protocol": "import asyncio",
            "mesh.resilience.breaker": "import threading",
            "mesh.service.session": "import os",
        },
        [
            "broker.queues:1: is a sans-IO core and imports random",
            "broker.state:1: is a sans-IO core and imports logging",
            "mesh.protocol:1: is a sans-IO core and imports asyncio",
            "mesh.resilience.breaker:1: is a sans-IO core and imports threading",
            "mesh.service.session:1: is a sans-IO core and imports os",
        ],
    ),
    "the tests are not shipped": (
        {"workers.memory": "from tests import support", "tests": ""},
        ["workers.memory:1: imports tests, which is not shipped"],
    ),
    "what is read is run": (
        {"bench.load": "import pickle"},
        ["bench.load:1: imports pickle, which runs what it reads"],
    ),
}


@pytest.mark.parametrize(("sources", "expected"), BREACHES.values(), ids=BREACHES.keys())
def test_a_breach_is_found(sources: dict[str, str], expected: list[str]) -> None:
    assert Project(sources).violations() == expected


def test_what_is_allowed_is_not_complained_of() -> None:
    sources = {
        "broker": "",
        "broker.router": "from heapq import heappush\nfrom mesh.protocol import Request\n"
        "from .queues import Queue",
        "broker.queues": "import collections",
        "broker.server": "import os, time\nfrom mesh.transport import router_socket",
        "examples.textmine": "from mesh import Service\nimport time",
        "mesh": "from mesh.client import connect\nfrom mesh.service import Service",
        "mesh.cli": "from mesh import connect",
        "mesh.client": "from mesh.client.core import Core",
        "mesh.client.core": "from typing import TYPE_CHECKING\nfrom mesh.errors import MeshError\n"
        "if TYPE_CHECKING:\n    import zmq\n    from mesh.service import Service",
        "mesh.client.sync": "import threading\nfrom mesh.transport import dealer_socket",
        "mesh.errors": "",
        "mesh.protocol": "import struct\nfrom ..errors import ProtocolError",
        "mesh.service": "from mesh import client",
        "mesh.service.session": "from mesh.context import Call",
        "mesh.context": "import time",
        "mesh.testing": "import broker.router\nfrom broker.state import State",
        "mesh.transport": "import zmq",
        "sage.service.memory": "from workers.memory import Store\nfrom mesh import Service",
        "tests.unit.test_x": "import zmq\nimport broker.server",
        "workers.memory.session": "import time\nfrom mesh import Service",
    }
    assert Project(sources).violations() == []


def public_names(source: str) -> set[str]:
    """The names that a package's __init__ defines or takes in from elsewhere, for its users."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        match node:
            case ast.ImportFrom(module="__future__"):
                pass
            case ast.ImportFrom():
                names.update(alias.asname or alias.name for alias in node.names)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Assign():
                names.update(target.id for target in node.targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return {name for name in names if not name.startswith("_")}


def test_public_names_are_told_from_the_source() -> None:
    source = (
        "from __future__ import annotations\nimport os\nfrom a import b, c as d, _e\n"
        "F = 1\ng: int = 2\n_h = 3\n__version__ = '1'\ndef i(): j = 1\nclass K: l = 1\n"
    )
    assert public_names(source) == {"b", "d", "F", "g", "i", "K"}


PUBLIC_PACKAGES = sorted(
    ".".join(path.parent.relative_to(ROOT).parts)
    for top in PACKAGES
    for path in (ROOT / top).rglob("__init__.py")
)


@pytest.mark.parametrize("name", PUBLIC_PACKAGES)
def test_all_is_true(name: str) -> None:
    """`__all__` names what there is and what is public: no more, no less, nothing twice."""
    defined = public_names((ROOT.joinpath(*name.split(".")) / "__init__.py").read_text("utf-8"))
    try:
        package = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRAS:
            raise
        pytest.skip(f"needs the extra that installs {error.name}")
    announced: list[str] = list(getattr(package, "__all__", ()))
    assert len(set(announced)) == len(announced)
    assert defined <= set(announced), "public, but not in __all__"
    missing = [public for public in announced if not hasattr(package, public)]
    assert missing == [], "in __all__, but not there"


@pytest.mark.parametrize("first", ["broker.router", "workers.acts", "workers.search.searching"])
def test_plain_python_can_be_asked_for_whatever_is_imported_first(first: str) -> None:
    code = f"import sys, {first}; print(sys.modules[{first!r}].__file__)"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "SAGE_PUMP": "pure"}, text=True,
        capture_output=True, timeout=30,
    )  # fmt: skip
    assert run.stdout.strip().endswith(".py"), run.stderr
