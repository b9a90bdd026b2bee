"""What clients see of the memory service is linearizable, whatever is killed meanwhile."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests import support
from tests.integration.memory_mesh import SEED, SOAK, Client, MemoryMesh, Recorder, kill, until
from tests.linearizability import Operation, violations

KILLS = 100 if SOAK else 6


@pytest.mark.timeout(1200 if SOAK else 60)
def test_histories_under_kills(process: support.Start, tmp_path: Path) -> None:
    """Writer, readers and broker are killed at random moments."""
    print(f"SAGE_SEED={SEED}")
    mesh = MemoryMesh(process, tmp_path / "m")
    rng = random.Random(SEED)
    recorder = Recorder(mesh.endpoint)
    with recorder.running(8, Client.act):
        for number in range(KILLS):
            recorder.prefix = str(number // 3)
            threading.Event().wait(rng.uniform(0.05, 0.4))
            victim = rng.choice(("writer", "writer", "reader", "broker", "writer and broker"))
            if "writer" in victim:
                mesh.kill_writer()
            if "reader" in victim:
                mesh.kill_reader(rng)
            if "broker" in victim:
                mesh.kill_broker()
            until(lambda: len(mesh.workers()) > 1)
        until(mesh.complete)
    recorder.read_all()
    print(len(recorder.history), "calls;", dict(recorder.errors))
    assert not violations(recorder.history)


def test_a_store_that_forgets_is_refused(process: support.Start) -> None:
    """The same over a backend that is empty after a restart: the histories must show it."""
    print(f"SAGE_SEED={SEED}")
    mesh = MemoryMesh(process, None, processes=1)
    recorder = Recorder(mesh.endpoint)
    with recorder.running(4, Client.act):
        until(lambda: len(recorder.history) > 200)
        (worker,) = mesh.workers()
        kill(worker)
        until(lambda: mesh.workers() not in ([], [worker]))
    recorder.read_all()
    assert violations(recorder.history)


def test_a_stale_reader_is_refused(process: support.Start, tmp_path: Path) -> None:
    """One read is answered with an entry that its client has seen replaced."""
    print(f"SAGE_SEED={SEED}")
    mesh = MemoryMesh(process, tmp_path / "m", processes=2)
    recorder = Recorder(mesh.endpoint)
    with recorder.running(4, Client.act):
        until(lambda: bool(stale_reads(recorder)))
    assert not violations(recorder.history)
    old, read = stale_reads(recorder)[-1]
    recorder.history.remove(read)
    recorder.history.append(replace(read, result=old.result))
    assert violations(recorder.history)


def stale_reads(recorder: Recorder) -> list[tuple[Operation, Operation]]:
    """Reads of client 0, each after an older one of an entry that it saw replaced in between.

    An entry has a version of its own: it cannot come back.
    """
    found = []
    reads = [op for op in list(recorder.history) if op.verb == "entry" and op.client == 0]
    for key in {op.key for op in reads}:
        of_key = [op for op in reads if op.key == key]
        old = next((op for op in of_key if op.result is not None), None)
        if old is not None:
            others = [op for op in of_key[of_key.index(old) :] if op.result != old.result]
            found += [(old, read) for read in others[1:]]
    return found
