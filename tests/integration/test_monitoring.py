"""What brokers, workers and a whole mesh tell over HTTP, and `check`, with real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mesh import connect
from tests import support
from tests.integration.test_up import start_up


def get(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=15.0) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def figures(address: str) -> dict[str, dict[str, float]]:
    """Name of a sample -> its label `process` -> value; the sum where there are several."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(get(address, "/metrics")[1]):
        for sample in family.samples:
            values = found.setdefault(sample.name, {})
            process = sample.labels.get("process", "")
            values[process] = values.get(process, 0.0) + sample.value
    return found


def until(seen: Callable[[], bool], timeout: float = 20.0) -> None:
    give_up_at = monotonic() + timeout
    while not seen():
        assert monotonic() < give_up_at, "it did not come about"
        threading.Event().wait(0.1)  # another process, asked over HTTP, has no other news


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mesh.yaml"
    path.write_text(
        f"services:\n  memory:\n    port: {support.free_port()}\n    processes: 2\n"
        f"    data: {tmp_path / 'data'}\n  monitoring:\n    enabled: true\n"
        f"    metrics_port: {support.free_port()}\n    health_check_interval: 0.2\n"
    )
    return path


def test_a_whole_mesh(process: support.Start, config: Path) -> None:
    up = start_up(process, config)
    address = up.expect(r"monitoring at (127\S+)")[1]
    port = re.findall(r"port: (\d+)", config.read_text())[0]
    until(lambda: get(address, "/ready")[0] == 200)
    assert get(address, "/health")[0] == 200
    with connect(f"tcp://127.0.0.1:{port}") as m:
        for number in range(50):
            m.memory.set(f"k{number}", number)
    found = figures(address)
    assert found["sage_mesh_memory_written_total"].popitem()[1] == 50
    assert found["sage_mesh_answers_total"]["broker-1"] >= 50
    assert found["sage_mesh_store_flush_seconds_count"].popitem()[1] >= 1
    workers = set(found["sage_mesh_worker_brokers"])
    assert len(workers) == 2 and all(worker.startswith("memory/") for worker in workers)
    assert set(json.loads(get(address, "/status")[1])["processes"]) == {"broker-1", "memory"}

    killed = next(iter(workers))
    os.kill(int(killed.partition("/")[2]), signal.SIGKILL)
    until(lambda: len(set(figures(address)["sage_mesh_worker_brokers"]) - {killed}) == 2)
    assert killed not in figures(address)["process_cpu_seconds_total"]

    broker = int(found_pid(up, "broker"))
    os.kill(broker, signal.SIGSTOP)
    try:
        until(lambda: any("broker" in reason for reason in unready(address)))
    finally:
        os.kill(broker, signal.SIGCONT)
    until(lambda: get(address, "/ready")[0] == 200)
    up.send_signal(signal.SIGTERM)
    assert up.wait(timeout=30) == 0


def unready(address: str) -> list[str]:
    """The reasons for which it is not ready; none if it is."""
    reasons: list[str] = json.loads(get(address, "/ready")[1])["reasons"]
    return reasons


def found_pid(up: support.Child, module: str) -> str:
    """The process that runs `python -m module` below `up`."""
    children = [pid for pid, words in support.survivors(grace=0.0, naming=f"-m {module} ").items()]
    (pid,) = [each for each in children if _is_below(each, up.pid)]
    return str(pid)


def _is_below(pid: int, above: int) -> bool:
    while pid > 1 and pid != above:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid == above


def test_a_broker_and_workers_alone(process: support.Start, tmp_path: Path) -> None:
    where = f"127.0.0.1:{support.free_port()}"
    broker, (endpoint,) = support.start_broker(process, "--monitor", where)
    assert get(where, "/ready")[0] == 200
    assert json.loads(get(where, "/status")[1])["endpoints"] == [endpoint]

    own = f"127.0.0.1:{support.free_port()}"
    words = ("examples.quickstart:cart", "--broker", endpoint, "--workers", "2")
    workers = support.start_service(process, *words, env={"SAGE_MONITORING_ADDRESS": own})
    until(lambda: len(figures(own).get("sage_mesh_worker_brokers", {})) == 2)
    with connect(endpoint) as m:
        m.call("cart.total", {"tea": 1})
    assert figures(where)["sage_mesh_answers_total"][""] == 1.0
    broker.stop()
    until(lambda: get(own, "/ready")[0] == 503)
    assert "registered at no broker" in get(own, "/ready")[1]
    assert get(own, "/health")[0] == 200
    assert workers.stop() == 0


def test_an_address_in_use_is_said_at_once(process: support.Start) -> None:
    where = f"127.0.0.1:{support.free_port()}"
    _, (endpoint,) = support.start_broker(process, "--monitor", where)
    words = ("-m", "broker", "--bind", "tcp://127.0.0.1:0", "--monitor", where)
    second = support.run(sys.executable, *words)
    assert second.returncode == 2
    assert "in use" in second.output() and "Traceback" not in second.output()
    for workers in ("1", "2"):
        child = support.start_mesh(
            process, "serve", "examples.quickstart:cart", "--broker", endpoint, "-n", workers,
            env={"SAGE_MONITORING_ADDRESS": where},
        )  # fmt: skip
        assert child.wait(timeout=20) == 2
        assert "in use" in child.output() and "Traceback" not in child.output()


def test_check(process: support.Start) -> None:
    def check(endpoint: str) -> tuple[int, str]:
        child = support.start_mesh(process, "check", "--broker", endpoint)
        return child.wait(timeout=20), child.output()

    code, text = check("tcp://127.0.0.1:1")
    assert code == 1 and "sage-mesh broker --bind" in text
    _, (endpoint,) = support.start_broker(process)
    worker = process(
        sys.executable, "-m", "workers", "memory", "--backend", "memory", "--broker", endpoint
    )
    worker.expect(r"^serving memory")
    code, text = check(endpoint)
    assert code == 0, text
    assert "a read took" in text


def test_the_embedded_service_tells_of_both_its_parts(
    process: support.Start, tmp_path: Path
) -> None:
    where = f"127.0.0.1:{support.free_port()}"
    words = ("-m", "sage.service.memory.server", "--port", str(support.free_port()))
    environment = {"SAGE_MEMORY_DATA": str(tmp_path), "SAGE_MONITORING_ADDRESS": where}
    child = process(sys.executable, *words, env=environment)
    child.expect(r"^serving memory at ", timeout=30)
    until(lambda: get(where, "/ready")[0] == 200)
    assert set(json.loads(get(where, "/status")[1])["processes"]) == {"broker", "memory"}
    assert len(figures(where)["sage_mesh_worker_brokers"]) == 2
    assert child.stop() == 0
