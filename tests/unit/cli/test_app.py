"""The command line as a whole, as far as no mesh is needed for it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mesh.cli.app import app
from mesh.cli.processes import ROOT

NOBODY = ["--broker", "tcp://127.0.0.1:1"]
runner = CliRunner()


def test_every_command_has_help_and_json() -> None:
    listed = runner.invoke(app, ["--help"])
    assert listed.exit_code == 0
    for name in ("broker", "serve", "call", "status", "check", "bench", "doctor", "version"):
        assert name in listed.output
        shown = runner.invoke(app, [name, "--help"])
        assert shown.exit_code == 0
        assert "--json" in shown.output


def test_version() -> None:
    assert runner.invoke(app, ["version"]).output.startswith("sage-mesh 0.")
    found = json.loads(runner.invoke(app, ["version", "--json"]).output)
    assert set(found) == {"sage-mesh", "python"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["call", "cart.total", *NOBODY], 1, "sage-mesh broker --bind tcp://127.0.0.1:1"),
        (["status", *NOBODY], 1, "Connection refused"),
        (["bench", *NOBODY], 1, "Connection refused"),
        (["call", "cart", *NOBODY], 2, "cart.total"),
        (["call", "cart.total", "--tiemout", "1", *NOBODY], 2, "no such option: --tiemout"),
        (["call", "cart.total", "--kwarg", "qty", *NOBODY], 2, "NAME=VALUE"),
        (["call", "cart.total", "--broker", "nope"], 2, "tcp://HOST:PORT"),
        (["serve", "a:b", "--broker", "udp://h:1"], 2, "tcp://HOST:PORT"),
        (["broker", "--bind", "nope"], 2, "tcp://HOST:PORT"),
        (["call"], 2, "SERVICE.METHOD"),
        (["nonsense"], 2, "nonsense"),
        (["serve", "a:b", "--workers", "0"], 2, "workers"),
    ],
)
def test_wrong_use_and_failures_are_told_apart(words: list[str], code: int, said: str) -> None:
    result = runner.invoke(app, words)
    assert result.exit_code == code, result.output
    assert said in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("words", [["call", "cart.total"], ["status"], ["bench"], ["doctor"]])
def test_with_json_failures_are_json_too(words: list[str]) -> None:
    result = runner.invoke(app, [*words, "--json", *NOBODY])
    assert result.exit_code == 1
    json.loads(result.stdout)


def test_brokers_come_from_the_environment() -> None:
    result = runner.invoke(
        app, ["status", "--json"], env={"SAGE_BROKERS": "127.0.0.1:1 tcp://127.0.0.1:2"}
    )
    endpoints = [status["endpoint"] for status in json.loads(result.stdout)["brokers"]]
    assert endpoints == ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]


def test_the_command_starts_quickly_because_it_imports_little() -> None:
    code = (
        "import sys\nfrom mesh.cli.app import app\n"
        "print([m for m in ('rich', 'pydantic', 'lmdb', 'mesh.cli.bench') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"
