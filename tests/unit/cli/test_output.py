"""What the commands print."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import uuid
from collections.abc import Callable

import pytest
import typer

from mesh.cli.output import FAILED, USAGE, Failure, Output, advise, clean, plain, reporting, to_json
from mesh.errors import ConfigError, DeadlineExceeded, MeshError, ServiceNotFound, WorkerLost


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ([1, 2.5, True], "[1, 2.5, true]"),
        ((1, (2,)), "[1, [2]]"),
        ({"b": {2, 1}}, '{"b": [1, 2]}'),
        ({1: "a", b"k": "b"}, '{"1": "a", "aw==": "b"}'),
        (b"\x00\xff", '"AP8="'),
        ("分布式", '"分布式"'),
        (dt.date(2026, 11, 5), '"2026-11-05"'),
        (decimal.Decimal("1.50"), '"1.50"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
    ],
)
def test_every_value_a_call_can_return_has_a_json_form(value: object, text: str) -> None:
    assert to_json(value) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [-math.inf]}])
def test_numbers_without_a_json_form_become_text(value: object) -> None:
    json.loads(to_json(value), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_plain_keeps_what_json_has() -> None:
    value = {"a": [1, None, "x", {"b": 2.0}]}
    assert plain(value) == value


def test_text_of_a_peer_cannot_steer_the_terminal() -> None:
    assert clean("cart\x1b[2J\nnext\x07") == "cart�[2J�next�"
    assert clean("分布式 cache") == "分布式 cache"
    assert clean(12) == "12"


def test_results_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    for value in ("text", 42, {"a": [1]}, [b"cart", b"\x1bmail"], b"raw\x00"):
        output.value(value)
    assert capsys.readouterr().out == 'text\n42\n{"a": [1]}\ncart\n�mail\nraw\x00'


def test_results_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    for value in ("text", 42, b"raw"):
        output.value(value)
    assert capsys.readouterr().out == '"text"\n42\n"cmF3"\n'


def _report(error: BaseException, *, as_json: bool = False) -> int:
    with pytest.raises(typer.Exit) as ended, reporting(as_json, ["tcp://h:1"]):
        raise error
    return ended.value.exit_code


def test_a_failure_says_what_is_wrong_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert _report(Failure("no tea", "buy some", code=USAGE)) == USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: no tea\nhint: buy some\n"


@pytest.mark.parametrize(
    ("error", "code", "hint"),
    [
        (ServiceNotFound("nobody", service="cart"), FAILED, "sage-mesh serve"),
        (ConfigError("timeout=0; give more"), USAGE, ""),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_set_the_exit_code(
    error: BaseException, code: int, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _report(error) == code
    printed = capsys.readouterr().err
    assert hint in printed
    assert ("hint:" in printed) == bool(hint)
    assert "Traceback" not in printed


def test_a_failed_call_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    error = WorkerLost("it died", service="cart", method="add", maybe_executed=True)
    assert _report(error, as_json=True) == FAILED
    captured = capsys.readouterr()
    assert captured.err == ""
    found = json.loads(captured.out)["error"]
    assert found["kind"] == "WorkerLost"
    assert (found["retryable"], found["maybe_executed"]) == (False, True)
    assert "twice" in found["hint"]


def test_text_in_an_error_is_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    _report(Failure("[bold]x[/] and [/nonsense]"))
    assert "[bold]x[/] and [/nonsense]" in capsys.readouterr().err


def test_advice_names_the_brokers_in_use() -> None:
    advice = advise(DeadlineExceeded("late"), ["tcp://h:1", "ipc://s"])
    assert "sage-mesh status --broker tcp://h:1 --broker ipc://s" in advice
    assert "`sage-mesh status`" in advise(DeadlineExceeded("late"))


def _kinds(base: type[MeshError]) -> list[type[MeshError]]:
    return [base, *(kind for sub in base.__subclasses__() for kind in _kinds(sub))]


@pytest.mark.parametrize("kind", _kinds(MeshError), ids=lambda kind: kind.__name__)
def test_every_error_of_the_mesh_can_be_reported(
    kind: Callable[[str], MeshError], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _report(kind("something happened")) in (FAILED, USAGE)
    assert "something happened" in capsys.readouterr().err
