"""Child processes: their lines are waited for, and they end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest

from mesh.cli.output import Failure
from mesh.cli.processes import ROOT, Process

SPEAKER = (
    "import sys,time; print('ready one'); print('ready two'); sys.stdin.read(); time.sleep(60)"
)


def test_lines_are_waited_for() -> None:
    with Process([sys.executable, "-c", SPEAKER]) as process:
        assert process.wait_for("ready ", 2) == ["one", "two"]
        assert process.wait_for("ready ") == ["one"]
        assert process.running
    assert process.returncode == -signal.SIGTERM
    assert process.output == "ready one\nready two"


def test_the_process_id_is_that_of_the_program() -> None:
    with Process([sys.executable, "-c", "import os; print('pid', os.getpid())"]) as process:
        assert process.wait_for("pid ") == [str(process.pid)]


def test_a_child_that_ends_early_is_reported_with_its_last_words() -> None:
    code = "import sys; sys.exit('broken for good')"
    with Process([sys.executable, "-c", code]) as process, pytest.raises(Failure) as failure:
        process.wait_for("ready ")
    assert "ended before it was ready" in failure.value.what
    assert failure.value.advice == "broken for good"
    assert process.returncode == 1


def test_a_child_that_says_nothing_is_given_up() -> None:
    code = "import time; time.sleep(60)"
    with Process([sys.executable, "-c", code]) as process, pytest.raises(Failure) as failure:
        process.wait_for("ready ", timeout=0.2)
    assert "not ready after 0.2 s" in failure.value.what


def test_a_child_that_ignores_the_request_to_end_is_killed() -> None:
    code = (
        "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('ready '); time.sleep(60)"
    )
    process = Process([sys.executable, "-c", code])
    process.wait_for("ready ")
    assert process.end(timeout=0.3) == -signal.SIGKILL


def test_kill_ends_at_once() -> None:
    process = Process([sys.executable, "-c", SPEAKER])
    process.wait_for("ready ")
    assert process.kill() == -signal.SIGKILL
    assert process.end() == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_children_end_when_their_parent_is_killed(
    wait_gone: Callable[[int], bool],
) -> None:
    code = (
        "import sys; from mesh.cli.processes import Process;"
        f"child = Process([sys.executable, '-c', {SPEAKER!r}]);"
        "child.wait_for('ready '); print(child.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    assert wait_gone(child)


@pytest.fixture
def wait_gone() -> Callable[[int], bool]:
    """Whether a process that is not our child ends within some seconds."""

    def wait(pid: int) -> bool:
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                import select

                return bool(select.select([handle], [], [], 5.0)[0])
            finally:
                os.close(handle)
        return True

    return wait
