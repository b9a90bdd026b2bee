"""`sage-mesh up` and `down` with real processes."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path

import pytest

from mesh import connect
from tests import support

READY = r"^mesh +\| ready$"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mesh.yaml"
    path.write_text(
        f"services:\n  memory:\n    port: {support.free_port()}\n    processes: 2\n"
        f"    data: {tmp_path / 'data'}\n"
    )
    return path


def start_up(process: support.Start, config: Path) -> support.Child:
    run = config.with_name("run")
    child = support.start_mesh(process, "up", "--config", str(config), "--run", str(run))
    child.expect(READY, timeout=30)
    return child


def endpoint(config: Path) -> str:
    found = re.search(r"port: (\d+)", config.read_text())
    assert found is not None
    return f"tcp://127.0.0.1:{found[1]}"


def test_sigterm_drains_without_a_failed_call(process: support.Start, config: Path) -> None:
    """Calls in hand finish; only after the drain has begun is a new one refused."""
    up = start_up(process, config)
    done = threading.Semaphore(0)
    broken: list[BaseException] = []
    draining = threading.Event()

    def work() -> None:
        with connect(endpoint(config), timeout=5.0) as m:
            while True:
                late = draining.is_set()
                try:
                    m.call("memory.increment", "n")
                except Exception as error:
                    if (not late and not draining.is_set()) or getattr(
                        error, "maybe_executed", True
                    ):
                        broken.append(error)
                    return
                done.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        assert done.acquire(timeout=10)
    draining.set()
    up.send_signal(signal.SIGTERM)
    assert up.wait(timeout=30) == 0
    for thread in threads:
        thread.join()
    assert broken == []


def test_a_killed_child_is_started_again(process: support.Start, config: Path) -> None:
    up = start_up(process, config)
    pid = int(up.expect(r"serving memory pid=(\d+)")[1])
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    up.expect(r"^memory +\| ended \(-9\), again in ")
    up.expect_all(r"serving memory pid=", 4, timeout=30)
    with connect(endpoint(config), timeout=10.0) as m:
        m.call("memory.set", "k", 1)


def test_no_orphans_after_a_kill(process: support.Start, config: Path) -> None:
    up = start_up(process, config)
    up.kill()
    assert support.survivors(grace=20.0, naming=str(config)) == {}


def test_down_ends_it_and_a_second_up_is_refused(process: support.Start, config: Path) -> None:
    up = start_up(process, config)
    words = ("--config", str(config), "--run", str(config.with_name("run")))
    second = support.start_mesh(process, "up", *words)
    assert second.wait(timeout=20) == 1
    assert f"runs already in {words[3]} (pid {up.pid})" in second.output()
    assert support.start_mesh(process, "down", *words).wait(timeout=40) == 0
    assert up.wait(timeout=5) == 0
    assert support.start_mesh(process, "down", *words).wait(timeout=20) == 1


def test_a_wrong_configuration_ends_it(process: support.Start, tmp_path: Path) -> None:
    config = tmp_path / "mesh.yaml"
    config.write_text(f"services:\n  memory:\n    port: {support.free_port()}\n")
    words = ("up", "--config", str(config), "--run", str(tmp_path / "run"))
    up = support.start_mesh(process, *words)
    assert up.wait(timeout=30) == 1
    assert "the lmdb backend keeps its data in a directory" in up.output()
    assert support.survivors(grace=5.0, naming=str(config)) == {}
