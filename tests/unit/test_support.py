"""The helpers of integration tests, tried on children that misbehave."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests import support

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print("child", child.pid, flush=True)
child.wait()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
signal.pause()
"""


def python(start: support.Start, code: str) -> support.Child:
    return start(sys.executable, "-c", code)


def test_lines_are_found_whenever_they_come(process: support.Start) -> None:
    child = python(process, "print('a 1'); print('b'); print('a 2')")
    assert [match[1] for match in child.expect_all(r"^a (\d)$", 2)] == ["1", "2"]
    assert child.expect("b").string == "b"
    assert child.wait() == 0
    assert child.expect("a 2").string == "a 2"


def test_a_child_that_ends_early_is_reported_with_its_output(process: support.Start) -> None:
    child = python(process, "import sys; print('half way'); sys.exit('no luck')")
    with pytest.raises(support.ChildFailed, match=r"(?s)'ready'.*exit status 1.*no luck"):
        child.expect("ready")
    assert "half way" in child.report()


def test_a_child_that_says_nothing_is_reported_in_time(process: support.Start) -> None:
    child = python(process, "import signal; signal.pause()")
    with pytest.raises(support.ChildFailed, match="running"):
        child.expect("ready", timeout=0.1)
    with pytest.raises(support.ChildFailed, match="still running"):
        child.wait(timeout=0.1)


@pytest.mark.parametrize("stopped", [False, True])
def test_stop_ends_a_stubborn_or_stopped_child(process: support.Start, stopped: bool) -> None:
    child = python(process, STUBBORN)
    child.expect("ready")
    if stopped:
        child.send_signal(signal.SIGSTOP)
    assert child.stop(grace=0.1) == -signal.SIGKILL
    assert child.stop() == -signal.SIGKILL
    assert "killed" in child.output()


def test_stop_ends_grandchildren_too(process: support.Start) -> None:
    child = python(process, PARENT)
    grandchild = int(child.expect(r"child (\d+)")[1])
    assert {child.pid, grandchild} <= support.survivors(grace=0.0).keys()
    child.kill()
    assert grandchild in support.survivors(grace=0.0)
    child.stop()
    assert not {child.pid, grandchild} & support.survivors().keys()


def test_what_was_started_without_the_fixture_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as stray:
        seen = support.survivors(grace=0.0)
        stray.kill()
    assert "signal.pause" in seen[stray.pid]
    assert stray.pid not in support.survivors()


def test_run_returns_the_status_and_the_output() -> None:
    child = support.run(sys.executable, "-c", "import sys; print('hm'); sys.exit(3)")
    assert (child.returncode, child.output()) == (3, "hm")


def test_ports_are_not_given_twice(free_port: Callable[[], int]) -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == len(ports)
