"""The writer of the memory service is killed or stopped: what is kept, what ends, what goes on."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from mesh import connect, connect_async
from mesh.errors import WorkerLost
from tests import support
from tests.integration.memory_mesh import SEED, SOAK, Client, MemoryMesh, Recorder, until
from tests.linearizability import LOCK, UNKNOWN, violations

KILLS = 100 if SOAK else 4


@pytest.fixture
def mesh(process: support.Start, tmp_path: Path) -> MemoryMesh:
    """Two processes over one store."""
    print(f"SAGE_SEED={SEED}")
    return MemoryMesh(process, tmp_path / "m", processes=2)


def kill_writers(mesh: MemoryMesh, count: int) -> None:
    """kill -9 of `count` writers, one after the other, at random moments."""
    rng = random.Random(SEED)
    for _ in range(count):
        threading.Event().wait(rng.uniform(0.02, 0.3))
        mesh.kill_writer()
        until(mesh.complete)


# ---------------------------------------------------------------- what is kept


@pytest.mark.timeout(1200 if SOAK else 60)
def test_nothing_acknowledged_is_lost_and_nothing_is_done_twice(mesh: MemoryMesh) -> None:
    """Each client alone changes its keys, so that it knows what every call must return."""
    written: dict[str, int] = {}

    def work(client: Client) -> None:
        m, turn = client.mesh, client.turns
        client.turns += 1
        assert m.call("memory.increment", f"sum{client.number}") == 3 * turn + 1
        sums = m.batch("memory.increment", [f"sum{client.number}"] * 2)
        assert sums == [3 * turn + 2, 3 * turn + 3]
        key = f"key{client.number}-{turn % 500}"
        m.call("memory.set", key, turn)
        written[key] = turn
        written[f"sum{client.number}"] = 3 * turn + 3

    with Recorder(mesh.endpoint).running(6, work):
        kill_writers(mesh, KILLS)
    with connect(mesh.endpoint) as m:
        for key, value in written.items():
            assert m.call("memory.get", key) == value, key
    assert len(written) > 12


@pytest.mark.timeout(1200 if SOAK else 60)
def test_fencing_tokens_never_go_back(mesh: MemoryMesh) -> None:
    """Locks are taken and given back over take-overs: one holder at a time, tokens that grow."""
    tokens: dict[tuple[int, str], int] = {}

    def work(client: Client) -> None:
        name = f"lock{client.rng.randrange(3)}"
        held = tokens.pop((client.number, name), None)
        if held is not None:
            client.note(name, "unlock", (held,), "unlock", name, held)
            return
        token = client.note(name, "lock", (), "lock", name, 300.0)
        if token is not UNKNOWN and token is not None:
            tokens[client.number, name] = token

    recorder = Recorder(mesh.endpoint)
    with recorder.running(6, work):
        kill_writers(mesh, KILLS)
    assert not violations(recorder.history, LOCK)
    given = [op.result for op in recorder.history if op.verb == "lock" and op.result]
    assert len(given) > 3 * KILLS


def test_a_lock_outlives_the_writer(mesh: MemoryMesh) -> None:
    with connect(mesh.endpoint) as m:
        token = m.call("memory.lock", "l", 60, owner="me")
        mesh.kill_writer()
        assert m.call("memory.lock", "l", 60) is None
        assert m.call("memory.lock_info", "l")["owner"] == "me"
        assert m.call("memory.extend", "l", token, 60) is True
        assert m.call("memory.unlock", "l", token) is True
        assert m.call("memory.lock", "l", 60) > token


def test_tokens_of_a_relaxed_namespace_do_not_go_back(mesh: MemoryMesh) -> None:
    """The lock may be lost with the writer; its token may never be given again."""
    with connect(mesh.endpoint) as m:
        m.call("memory.configure", ns="fast", durability="relaxed")
        last = 0
        for turn in range(3):
            for number in range(50):
                token = m.call("memory.lock", f"l{turn}-{number}", 60, ns="fast")
                assert token > last
                last = token
            mesh.kill_writer()


# ---------------------------------------------------------------- a writer that is stopped


@pytest.mark.timeout(600 if SOAK else 60)
def test_a_stopped_writer_is_replaced(mesh: MemoryMesh) -> None:
    """Its supervisor kills it; one that goes on in time goes on writing. No split, no loss."""
    recorder = Recorder(mesh.endpoint)
    with recorder.running(6, Client.act):
        for number in range(10 if SOAK else 1):
            recorder.prefix = str(number)
            writer = mesh.writer()
            os.kill(writer, signal.SIGSTOP)
            threading.Event().wait(0.5)
            os.kill(writer, signal.SIGCONT)
            until(lambda: _grows(recorder))
            assert mesh.writer() == writer
            os.kill(writer, signal.SIGSTOP)
            mesh.supervisor.expect(rf"writer \(pid {writer}\) hangs; killing it", timeout=30)
            until(lambda stopped=writer: mesh.complete() and mesh.writer() != stopped)
            until(lambda: _grows(recorder))
    recorder.read_all()
    assert not violations(recorder.history)


def _grows(recorder: Recorder) -> bool:
    before = len(recorder.history)
    threading.Event().wait(0.05)
    return len(recorder.history) > before + 20


# ---------------------------------------------------------------- what lives in the writer's memory


def test_a_watch_ends_with_an_error_and_can_be_begun_anew(mesh: MemoryMesh) -> None:
    async def run() -> None:
        async with connect_async(mesh.endpoint) as m:
            kinds: list[str] = []
            with pytest.raises(WorkerLost):
                async for event in m.stream("memory.watch", "k"):
                    kinds.append(event["kind"])
                    if event["kind"] == "watching":
                        await m.call("memory.set", "k", 1)
                    else:
                        mesh.kill_writer()
            assert kinds == ["watching", "set"]
            async for event in m.stream("memory.watch", "k"):
                kinds.append(event["kind"])
                if event["kind"] == "watching":
                    await m.call("memory.set", "k", 2)
                else:
                    break
            assert kinds[2:] == ["watching", "set"]

    asyncio.run(run())


@pytest.mark.timeout(300 if SOAK else 60)
def test_a_value_is_computed_once_over_take_overs(mesh: MemoryMesh) -> None:
    """The reservation is in the store: who computes goes on, and those who wait ask anew."""
    computed: dict[str, list[int]] = defaultdict(list)
    rng = random.Random(SEED)

    async def get_or_set(m: Any, key: str, number: int) -> Any:
        while True:
            found = await m.call("memory.reserve", key, 60)
            if "token" in found:
                computed[key].append(number)
                await asyncio.sleep(0.3)
                assert await m.call("memory.fill", key, number, found["token"])
                return number
            if "value" in found:
                return found["value"]
            await m.call("memory.wait", key, 30)

    async def run() -> None:
        async with connect_async(mesh.endpoint, timeout=40.0) as m:
            for turn in range(20 if SOAK else 2):
                key = f"k{turn}"
                everybody = asyncio.gather(*(get_or_set(m, key, number) for number in range(12)))
                await asyncio.sleep(rng.uniform(0.0, 0.3))
                mesh.kill_writer()
                values = await everybody
                assert values == computed[key] * 12
                while not mesh.complete():
                    await asyncio.sleep(0.01)

    asyncio.run(run())


def test_one_who_computes_and_dies_is_replaced(mesh: MemoryMesh) -> None:
    """Its reservation ends with its time; those who wait are woken by that."""

    async def run() -> None:
        async with connect_async(mesh.endpoint) as m:
            assert (await m.call("memory.reserve", "k", 1.0))["state"] == "lead"
            assert (await m.call("memory.reserve", "k", 1.0))["state"] == "wait"
            mesh.kill_writer()
            assert await m.call("memory.wait", "k", 25)
            assert (await m.call("memory.reserve", "k", 1.0))["state"] == "lead"

    asyncio.run(run())
