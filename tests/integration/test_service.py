"""Worker processes over real sockets: leaving, blocking, streaming, dying."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mesh import Mesh, connect, connect_async
from mesh.errors import (
    CallError,
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    RemoteError,
    WorkerLost,
)
from mesh.service import Service
from tests.support import Child, Start

TARGET = "tests.integration.served:served"


@pytest.fixture
def broker(process: Start) -> str:
    child = process(sys.executable, "-m", "broker", "--bind", "tcp://127.0.0.1:0")
    return child.expect(r"^listening (\S+)")[1]


@pytest.fixture
def worker(process: Start, broker: str) -> Child:
    return start_worker(process, broker)


@pytest.fixture
def mesh(broker: str) -> Iterator[Mesh]:
    with connect(broker, timeout=15.0) as m:
        yield m


def start_worker(process: Start, broker: str, *more: str, count: int = 1) -> Child:
    child = process(sys.executable, "-m", "mesh.service", TARGET, "--broker", broker, *more)
    child.expect_all(r"^serving served pid=\d+", count)
    return child


def test_a_drain_under_load_loses_nothing(process: Start, broker: str) -> None:
    """Workers are replaced one after the other while calls are made, none of them idempotent."""

    async def scenario() -> None:
        failed: list[CallError] = []
        done = 0
        stopping = False

        async def caller(method: str) -> None:
            nonlocal done
            while not stopping:
                try:
                    assert await m.call(method, done) >= 0
                    done += 1
                except CallError as error:
                    failed.append(error)

        async with connect_async(broker, timeout=15.0) as m:
            callers = [
                asyncio.create_task(caller(method))
                for method in ("served.echo", "served.plain")
                for _ in range(20)
            ]
            old = first
            for _ in range(3):
                new = await asyncio.to_thread(start_worker, process, broker)
                old.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(old.wait) == 0
                old = new
            stopping = True
            await asyncio.gather(*callers)
        assert not failed, failed[:3]
        assert done > 100

    first = start_worker(process, broker)
    asyncio.run(scenario())


def test_a_handler_that_holds_on_is_not_taken_for_dead(worker: Child, mesh: Mesh) -> None:
    """Seven seconds are more than any silence that the broker suffers."""
    assert mesh.call("served.inline", 0) == 0
    patient = mesh.options(timeout=30)
    pending = [patient.submit(method, 7) for method in ("served.block", "served.hog")]
    assert mesh.call("served.inline", 1) == 1
    assert [call.result() for call in pending] == [7, 7]
    assert worker.returncode is None


@pytest.mark.parametrize("method", ["served.endless", "served.endless_plain"])
def test_leaving_a_stream_ends_its_generator(worker: Child, mesh: Mesh, method: str) -> None:
    with mesh.stream(method) as items:
        assert [next(items) for _ in range(1000)] == list(range(1000))
    assert mesh.call("served.was_ended", 5)


def test_a_stream_that_breaks_gives_its_items_and_then_its_error(worker: Child, mesh: Mesh) -> None:
    found = []
    with pytest.raises(RemoteError, match="after two") as broken:
        for item in mesh.stream("served.breaks"):
            found.append(item)
    assert found == [1, 2]
    assert broken.value.kind == "ValueError"


@pytest.mark.parametrize("method", ["served.total", "served.total_plain"])
def test_uploads(worker: Child, mesh: Mesh, method: str) -> None:
    assert mesh.call(method, (b"x" * 1000 for _ in range(20_000))) == 20_000_000

    def failing() -> Iterator[bytes]:
        yield b"x"
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        mesh.call(method, failing())
    with pytest.raises(InvalidArgument, match="stream"):
        mesh.call(method, b"not a stream")


def test_cancelling_a_call_frees_its_worker(worker: Child, mesh: Mesh) -> None:
    pending = [mesh.submit("served.block", 0.5) for _ in range(8)]
    for call in pending:
        call.cancel()
        with pytest.raises(Cancelled):
            call.result()
    with pytest.raises(DeadlineExceeded):
        mesh.options(timeout=0.05).call("served.block", 0.2)
    assert mesh.call("served.plain", 3) == 3


def test_a_dying_worker_is_replaced(process: Start, broker: str, mesh: Mesh) -> None:
    supervisor = start_worker(process, broker, "--workers", "2", count=2)
    first = {mesh.call("served.pid") for _ in range(50)}
    assert len(first) == 2
    victim = min(first)
    os.kill(victim, signal.SIGKILL)
    supervisor.expect_all(r"^serving served pid=\d+", 3)
    now = {mesh.call("served.pid") for _ in range(50)}
    assert victim not in now
    assert len(now) == 2
    with pytest.raises(WorkerLost) as lost:
        mesh.call("served.crash")
    assert lost.value.maybe_executed
    supervisor.expect_all(r"^serving served pid=\d+", 4)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait() == 0


def test_workers_end_with_their_supervisor(process: Start, broker: str) -> None:
    supervisor = start_worker(process, broker, "--workers", "2", count=2)
    pids = [int(m[1]) for m in supervisor.expect_all(r"^serving served pid=(\d+)", 2)]
    supervisor.kill()
    end_at = time.monotonic() + 10
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < end_at, "the workers outlive their supervisor"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


def test_a_second_signal_ends_at_once(worker: Child, mesh: Mesh) -> None:
    assert mesh.call("served.inline", 0) == 0
    pending = mesh.submit("served.block", 20)
    assert mesh.call("served.inline", 1) == 1
    worker.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert worker.returncode is None
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=3) == 128 + signal.SIGTERM
    with pytest.raises(WorkerLost):
        pending.result()


def test_a_broker_that_returns_is_found_again(process: Start, free_port: Callable[[], int]) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    command = (sys.executable, "-m", "broker", "--bind", endpoint)
    first = process(*command)
    first.expect("^listening")
    start_worker(process, endpoint)
    with connect(endpoint) as m:
        assert m.call("served.inline", 1) == 1
        first.kill()
        second = process(*command)
        second.expect("^listening")
        begun = time.monotonic()
        assert m.call("served.inline", 2) == 2
        assert time.monotonic() - begun < 5


def test_two_brokers_share_a_worker(process: Start) -> None:
    ends = []
    for _ in range(2):
        child = process(sys.executable, "-m", "broker", "--bind", "tcp://127.0.0.1:0")
        ends.append(child.expect(r"^listening (\S+)")[1])
    start_worker(process, ends[0], "--broker", ends[1])
    for end in ends:
        with connect(end) as m:
            assert m.call("served.inline", 1) == 1


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("tests.integration.served", "write package.module:service"),
        ("tests.integration.absent:x", "there is no module"),
        ("tests.integration.served:absent", "is no Service; the module has: served"),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_wrong_target_is_explained(
    process: Start, target: str, complaint: str, workers: str
) -> None:
    child = process(sys.executable, "-m", "mesh.service", target, "--workers", workers)
    child.expect(complaint)
    assert child.wait() == 78


def test_serving_inside_a_process(broker: str) -> None:
    inside = Service("inside")

    @inside.rpc
    async def ping() -> str:
        return "pong"

    with inside.start(broker) as runtime:
        assert runtime.wait_ready(5)
        with connect(broker) as m:
            assert m.call(ping) == "pong"
    assert runtime.wait_stopped(0)


def test_a_handler_that_blocks_the_loop_stops_neither_heartbeats_nor_other_threads(
    broker: str,
) -> None:
    """Async handlers share their loop with the sockets; the guard drives while it is stuck."""
    inside = Service("inside")
    blocked = threading.Event()
    release = threading.Event()

    @inside.rpc
    async def block() -> str:
        blocked.set()
        release.wait(30)  # what an async handler must never do
        return "released"

    @inside.rpc
    def plain(number: int) -> int:
        return number

    @inside.rpc
    async def quick() -> str:
        return "quick"

    with inside.start(broker) as runtime, connect(broker, timeout=15.0) as m:
        assert runtime.wait_ready(5)
        with ThreadPoolExecutor(1) as pool:
            stuck = pool.submit(m.call, block)
            assert blocked.wait(5)
            begun = time.monotonic()
            # Longer than a broker waits for the heartbeat of a worker before it is suspect.
            while time.monotonic() < begun + 1.5:
                assert m.call(plain, 7) == 7
            assert runtime.counters["guard:took_over"] >= 1
            release.set()
            assert stuck.result(10) == "released"
        assert m.call(quick) == "quick"
        assert not [reason for reason in runtime.counters if reason.startswith("link:")]
