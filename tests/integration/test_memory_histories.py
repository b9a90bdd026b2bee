"""What clients see of the memory service is linearizable, whatever is killed meanwhile."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests import support
from tests.integration.memory_mesh import SEED, SOAK, Client, MemoryMesh, Recorder, kill, until
from tests.linearizability import violations

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
    """One read is answered with what its client saw of the key at first."""
    print(f"SAGE_SEED={SEED}")
    mesh = MemoryMesh(process, tmp_path / "m", processes=2)
    recorder = Recorder(mesh.endpoint)
    with recorder.running(4, Client.act):
        until(lambda: len(recorder.history) > 600)
    assert not violations(recorder.history)
    reads = [op for op in recorder.history if op.verb == "entry" and op.client == 0]
    first = {op.key: op for op in reversed(reads)}
    last = next(op for op in reversed(reads) if op.result != first[op.key].result)
    recorder.history.remove(last)
    recorder.history.append(replace(last, result=first[last.key].result))
    assert violations(recorder.history)
