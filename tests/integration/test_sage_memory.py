"""`sage.service.memory` as the description of SAGE shows it, with real processes."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh.errors import ConfigError
from sage.service.memory import MemoryService, MemoryServiceClient, MemoryServiceConnector
from tests import support
from tests.conformance.memory.valkey import start_server

QUICK_START = """
from sage.service.memory import MemoryService

# 创建内存服务实例
memory_service = MemoryService(
    host="0.0.0.0",
    port=8080,
    storage_backend="redis"
)

# 启动服务
memory_service.start()

from sage.service.memory.api import MemoryServiceClient

# 连接到内存服务
client = MemoryServiceClient("localhost:8080")

# 存储数据
client.store("user_session", {"user_id": 123, "name": "Alice"})

# 检索数据
session = client.retrieve("user_session")
print(session)  # {"user_id": 123, "name": "Alice"}

# 检查服务健康状态
health_status = client.health_check()
print(f"Service health: {health_status}")

# 获取服务指标
metrics = client.get_metrics()
print(f"Request count: {metrics['request_count']}")
print(f"Response time: {metrics['avg_response_time']}ms")
"""


def quick_start(port: int) -> list[str]:
    """The command that runs the quick start at another port."""
    return [sys.executable, "-c", QUICK_START.replace("8080", str(port))]


def gone(pids: set[int], timeout: float = 20.0) -> bool:
    """Whether all the processes have ended, at the latest after `timeout` seconds."""
    end_at = time.monotonic() + timeout
    while any(map(runs, pids)):
        if time.monotonic() > end_at:
            return False
        time.sleep(0.02)
    return True


def runs(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> set[int]:
    """All processes that `pid` has started, directly or not."""
    found = {pid}
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent in found:
            found.add(int(folder.name))
    return found - {pid}


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[str]:
    """The URL of a Valkey server."""
    child, port = start_server(tmp_path)
    yield f"redis://127.0.0.1:{port}/0"
    child.stop()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., MemoryService]]:
    """Starts a service; it is stopped after the test."""
    services: list[MemoryService] = []

    def start(backend: str = "lmdb", port: int = 0, folder: str = "data") -> MemoryService:
        service = MemoryService(port=port, storage_backend=backend, data=tmp_path / folder)
        services.append(service)
        return service.start()

    yield start
    for service in services:
        service.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_the_quick_start(process: support.Start, valkey: str, free_port: Callable[[], int]) -> None:
    """As written, but for the port. It serves on; and nothing outlives it when it is killed."""
    port = free_port()
    child = process(*quick_start(port), env={"SAGE_MEMORY_URL": valkey})
    child.expect(r"^\{'user_id': 123, 'name': 'Alice'\}$", timeout=30)
    assert child.expect(r"^Service health: (.*)$")[1].startswith("{'status': 'healthy'")
    assert int(child.expect(r"^Request count: (\d+)$")[1]) >= 2
    assert float(child.expect(r"^Response time: ([\d.]+)ms$")[1]) > 0
    assert "warning: tcp://0.0.0.0" in child.output()
    child.expect(f"goes on at 127.0.0.1:{port}; Ctrl-C ends it")
    with MemoryServiceClient(f"localhost:{port}") as client:
        assert client.retrieve("user_session") == {"user_id": 123, "name": "Alice"}
    started = children(child.pid)
    assert len(started) >= 4  # a broker, a supervisor, two workers
    os.kill(child.pid, signal.SIGKILL)
    assert gone(started)


def test_the_quick_start_without_redis_says_what_to_do(
    process: support.Start, free_port: Callable[[], int]
) -> None:
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    child = process(*quick_start(free_port()), env={"SAGE_MEMORY_URL": nobody})
    assert child.wait(timeout=30) == 1
    last = child.output().splitlines()[-1]
    assert last.startswith("mesh.errors.ConfigError: no redis server at redis://127.0.0.1:")
    assert "SAGE_MEMORY_URL" in last and 'storage_backend="lmdb"' in last


def test_a_port_that_is_taken(started: Callable[..., MemoryService]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port={port}: .*another process listens there"):
            started("memory", port)


def test_a_place_that_cannot_be_written(started: Callable[..., MemoryService]) -> None:
    with pytest.raises(ConfigError, match=r"cannot be made: .*; name another directory"):
        started(folder="/dev/null/data")


def test_data_of_another_service(started: Callable[..., MemoryService]) -> None:
    service = started()
    with pytest.raises(ConfigError, match=rf"pid {os.getpid()}\), with its data .*data="):
        started()
    service.stop()
    started()


def test_data_outlives_the_service(started: Callable[..., MemoryService]) -> None:
    service = started()
    with MemoryServiceClient(service.address) as client:
        client.store("k", 1)
    service.stop()
    assert not service.running
    with service.start(), pytest.raises(ConfigError, match="started before"):
        service.start()
    with started() as again, MemoryServiceClient(again.address) as client:
        assert client.retrieve("k") == 1


def test_what_dies_is_started_again(started: Callable[..., MemoryService]) -> None:
    """Broker and supervisor are killed; calls wait, and lose nothing that was acknowledged."""
    service = started()
    with MemoryServiceClient(service.address) as client:
        for turn in range(2):
            client.store(f"k{turn}", turn)
            running = service._parts[turn].process
            assert running is not None
            os.kill(running.pid, signal.SIGKILL)
            assert client.retrieve(f"k{turn}") == turn
            client.store("n", turn)
        assert client.get_many(["k0", "k1", "n"]) == {"k0": 0, "k1": 1, "n": 1}


def test_who_starts_it_may_leave(started: Callable[..., MemoryService]) -> None:
    """The kernel ties a process to the thread that started it: here one that ends at once."""
    services: list[MemoryService] = []
    thread = threading.Thread(target=lambda: services.append(started("memory")))
    thread.start()
    thread.join()
    with MemoryServiceClient(services[0].address) as client:
        assert client.health_check()["status"] == "healthy"


def test_health_and_metrics(started: Callable[..., MemoryService]) -> None:
    service = started("memory")
    with MemoryServiceClient(service.address, namespace="n") as client:
        health = client.health_check()
        assert (health["status"], health["workers"]) == ("healthy", 1)
        before = client.get_metrics()
        for number in range(20):
            client.store("k", number)
            assert client.retrieve("k") == number
        client.retrieve("none")
        after = client.get_metrics()
        # Each get_metrics asks the service once, after it has read the counters.
        assert after["request_count"] - before["request_count"] == 42
        assert 0 < after["avg_response_time"] < 10_000
        assert (after["hits"], after["misses"], after["written"]) == (20, 1, 20)
        assert after["hit_ratio"] == round(20 / 21, 4)
        service.stop()
        assert client.health_check()["status"] == "unhealthy"


def test_a_step_of_a_stream_is_cached(started: Callable[..., MemoryService]) -> None:
    service = started("memory")
    connector = MemoryServiceConnector(service.address, ttl=60)
    done: list[int] = []

    def square(record):  # type: ignore[no-untyped-def]
        if record.hit:
            return record
        done.append(record.item)
        return record.filled(record.item**2)

    for _ in range(2):
        stream = map(connector.cache_store, map(square, map(connector.cache_lookup, [1, 2, 3])))
        assert list(stream) == [1, 4, 9]
    assert done == [1, 2, 3]
    connector.close()


def test_the_server(process: support.Start, free_port: Callable[[], int], tmp_path: Path) -> None:
    """As a container runs it: settings from the environment, SIGTERM drains."""
    port = free_port()
    environment = {"SAGE_SERVICE_PORT": str(port), "SAGE_MEMORY_DATA": str(tmp_path / "d")}
    for turn in range(2):
        child = process(sys.executable, "-m", "sage.service.memory.server", env=environment)
        child.expect(rf"^serving memory at 127\.0\.0\.1:{port} \(lmdb\)$", timeout=30)
        with MemoryServiceClient(f"localhost:{port}") as client:
            assert client.increment("n") == turn + 1
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=20) == 0


def test_the_server_says_what_is_wrong(process: support.Start) -> None:
    for name, value, text in (
        ("SAGE_SERVICE_PORT", "http", "SAGE_SERVICE_PORT='http' is not a number"),
        ("SAGE_MEMORY_BACKEND", "mysql", "storage_backend='mysql' is not one of"),
    ):
        child = process(sys.executable, "-m", "sage.service.memory.server", env={name: value})
        assert child.wait() == 78
        assert f"error: {text}" in child.output()
