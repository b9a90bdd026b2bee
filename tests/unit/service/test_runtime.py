"""The life of a runtime when something is wrong around it. No broker is needed."""

from __future__ import annotations

import threading
import time

import pytest

from mesh import Service
from mesh.service.runtime import Runtime

pytestmark = pytest.mark.timeout(30)

NOBODY = "tcp://127.0.0.1:1"


def shop(kind: str, noted: list[str]) -> Service:
    made = Service("shop")
    if kind == "async":

        @made.rpc
        async def total() -> int:
            return 1
    else:

        @made.rpc
        def total() -> int:
            return 1

    @made.on_startup
    def begin() -> None:
        noted.append("began")

    @made.on_shutdown
    def end() -> None:
        noted.append("ended")

    return made


@pytest.fixture(params=["plain", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_never_began_need_not_be_shut_down(kind: str) -> None:
    noted: list[str] = []
    before = set(threading.enumerate())
    runtime = Runtime(shop(kind, noted), [NOBODY])
    assert runtime.stop()
    assert runtime.stop()
    assert noted == []
    assert not set(threading.enumerate()) - before


@pytest.mark.parametrize("broker", [NOBODY, "tcp://no-such-host.invalid:8080"])
def test_without_a_broker_it_goes_on_trying_and_stops_at_once(kind: str, broker: str) -> None:
    noted: list[str] = []
    runtime = Runtime(shop(kind, noted), [broker]).start()
    assert not runtime.wait_ready(0.3)
    assert not runtime.wait_stopped(0)
    begun = time.monotonic()
    assert runtime.stop()
    assert time.monotonic() - begun < 5
    assert noted == ["began", "ended"]


def test_a_crash_of_the_io_thread_is_told(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    noted: list[str] = []
    runtime = Runtime(shop(kind, noted), [NOBODY])

    def broken(now: float) -> bool:
        raise ArithmeticError("broken on purpose")

    monkeypatch.setattr(runtime, "_receive", broken)
    runtime.start()
    assert runtime.wait_stopped(10)
    begun = time.monotonic()
    assert not runtime.stop()
    assert time.monotonic() - begun < 5
    assert noted == ["began", "ended"]
    assert any("broken on purpose" in str(record.exc_info) for record in caplog.records)


def test_a_failing_start_up_ends_what_was_begun(kind: str) -> None:
    made = shop(kind, [])

    @made.on_startup
    def fail() -> None:
        raise OSError("no database")

    before = set(threading.enumerate())
    with pytest.raises(OSError, match="no database"):
        Runtime(made, [NOBODY]).start()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert not set(threading.enumerate()) - before
