"""The lock that elects the writer, between real processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Child, Start
from workers.store import lock_holder
from workers.store.election import Election

HOLD = """
import os, signal, sys
from pathlib import Path
from workers.store.election import Election
election = Election(Path(sys.argv[1]))
assert election.wait()
if len(sys.argv) > 2 and not os.fork():
    signal.pause()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("holds", flush=True)
signal.sigwait([signal.SIGUSR1])  # not a handler and pause(): it could come in between
election.release()
print("released", flush=True)
signal.pause()
"""


@pytest.fixture
def election(tmp_path: Path) -> Iterator[Election]:
    found = Election(tmp_path)
    yield found
    found.close()


def hold(process: Start, path: Path, *more: str) -> Child:
    child = process(sys.executable, "-c", HOLD, str(path), *more)
    child.expect("^holds")
    return child


class Waiting:
    """`wait` of an election in a thread, and when it returned."""

    def __init__(self, election: Election) -> None:
        self.result: bool | None = None
        self.ended_at = 0.0

        def run() -> None:
            self.result = election.wait()
            self.ended_at = time.monotonic()

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def join(self) -> bool | None:
        self._thread.join(10)
        return self.result


def test_a_free_lock_is_taken_at_once(election: Election, tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None
    assert election.try_acquire() and election.held
    assert election.wait()
    assert lock_holder(tmp_path) == os.getpid()
    assert lock_holder(tmp_path) == os.getpid()  # asking did not drop it
    election.release()
    assert not election.held and lock_holder(tmp_path) is None


def test_there_is_no_lock_in_an_empty_directory(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None


def test_a_killed_holder_is_followed_within_milliseconds(
    election: Election, process: Start, tmp_path: Path
) -> None:
    holder = hold(process, tmp_path)
    assert not election.try_acquire()
    assert lock_holder(tmp_path) == holder.pid
    waiting = Waiting(election)
    killed_at = time.monotonic()
    holder.kill()
    assert waiting.join() is True
    assert waiting.ended_at - killed_at < 0.5


def test_the_lock_is_handed_over_at_release(
    election: Election, process: Start, tmp_path: Path
) -> None:
    holder = hold(process, tmp_path)
    waiting = Waiting(election)
    released_at = time.monotonic()
    holder.send_signal(signal.SIGUSR1)
    assert waiting.join() is True
    assert waiting.ended_at - released_at < 0.5
    holder.expect("released")
    assert holder.returncode is None


def test_a_forked_child_that_lives_on_does_not_keep_the_lock(
    election: Election, process: Start, tmp_path: Path
) -> None:
    holder = hold(process, tmp_path, "fork")
    waiting = Waiting(election)
    killed_at = time.monotonic()
    holder.kill()
    assert waiting.join() is True
    assert waiting.ended_at - killed_at < 0.5


def test_waiting_can_be_ended(election: Election, process: Start, tmp_path: Path) -> None:
    hold(process, tmp_path)
    waiting = Waiting(election)
    election.stop()
    assert waiting.join() is False
    assert not election.held


def test_one_after_the_other_gets_it(process: Start, tmp_path: Path) -> None:
    first = hold(process, tmp_path)
    others = [process(sys.executable, "-c", HOLD, str(tmp_path)) for _ in range(4)]
    holder = first.pid
    for _ in others:
        next(child for child in (first, *others) if child.pid == holder).kill()
        ends_at = time.monotonic() + 10
        while (new := lock_holder(tmp_path)) in (None, holder) and time.monotonic() < ends_at:
            threading.Event().wait(0.001)
        assert new in {child.pid for child in others}
        # It has the lock before it says so.
        next(child for child in others if child.pid == new).expect("^holds$")
        holder = new or 0
