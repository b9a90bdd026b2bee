"""Looking whether a mesh answers, from time to time."""

from __future__ import annotations

from queue import SimpleQueue

import pytest

from mesh.cli.findings import FAIL, OK, WARN, Finding
from mesh.supervision import checks
from mesh.supervision.checks import Checks

WELL = Finding("broker", OK, "answers")
SLOW = Finding("broker", WARN, "slow")
AWAY = Finding("service memory", FAIL, "a call failed", "read its log")


def test_only_changes_of_what_fails_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([[WELL], [SLOW], [WELL, AWAY], [AWAY], [WELL]])
    asked: SimpleQueue[None] = SimpleQueue()

    def examine(endpoints: list[str], timeout: float) -> list[Finding]:
        asked.put(None)
        return next(looks, [WELL])

    monkeypatch.setattr(checks, "examine", examine)
    told: SimpleQueue[list[Finding]] = SimpleQueue()
    looking = Checks(["tcp://127.0.0.1:1"], 0.001, told.put)
    looking.start()
    try:
        assert told.get(timeout=10.0) == [AWAY]
        assert told.get(timeout=10.0) == []
        for _ in range(8):
            asked.get(timeout=10.0)
        assert told.empty()
        assert looking.failing() == []
    finally:
        looking.close()


def test_what_fails_is_said_in_words() -> None:
    looking = Checks([], 60.0, lambda found: None)
    looking._failing = [AWAY]
    assert looking.failing() == ["service memory: a call failed"]
