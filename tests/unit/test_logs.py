"""The log as text and as JSON lines, inside calls and outside."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from mesh import logs
from mesh.context import Call, running


class Target:
    service = "cart"
    name = "total"


@pytest.fixture
def record() -> logging.LogRecord:
    made = logging.LogRecord("shop", logging.WARNING, "f.py", 3, "sold %d", (2,), None)
    made.created, made.msecs = 0.25, 250.0
    return made


@pytest.fixture
def in_a_call() -> Iterator[str]:
    call = Call(Target(), incarnation=0xAB, sequence=7)
    token = running.set(call)
    yield call.request_id
    running.reset(token)


def test_text(record: logging.LogRecord) -> None:
    assert logs._add_call(record)
    line = logs.TextLines().format(record)
    assert line == "1970-01-01 00:00:00.250Z WARNING shop: sold 2"


def test_text_within_a_call(record: logging.LogRecord, in_a_call: str) -> None:
    logs._add_call(record)
    assert logs.TextLines().format(record).endswith(f"sold 2 (request {in_a_call})")


def test_json(record: logging.LogRecord, in_a_call: str) -> None:
    logs._add_call(record)
    record.facts = {"event": "lost", "service": "购物车"}
    line = logs.JsonLines().format(record)
    found = json.loads(line)
    assert "\n" not in line and "购物车" in line
    assert found.pop("pid") > 0
    assert found == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "warning",
        "logger": "shop",
        "message": "sold 2",
        "request": "00000000000000ab-7",
        "target": "cart.total",
        "event": "lost",
        "service": "购物车",
    }


def test_json_of_an_exception_is_one_line(record: logging.LogRecord) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    line = logs.JsonLines().format(record)
    assert "\n" not in line
    assert "ValueError: two\nlines" in json.loads(line)["exception"]


@pytest.mark.parametrize("lines", [logs.TextLines, logs.JsonLines])
def test_a_huge_exception_is_clipped(
    lines: type[logging.Formatter], record: logging.LogRecord
) -> None:
    record.exc_info = (ValueError, ValueError("x" * 1_000_000), None)
    assert len(lines().format(record)) < 2 * logs.MAX_EXCEPTION
