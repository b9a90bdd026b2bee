"""`sage-mesh up` and `down` with real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from mesh import ServiceNotFound, connect
from tests import support
from tests.conftest import SOAK

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


def test_on_sighup_the_brokers_read_the_file_again(process: support.Start, config: Path) -> None:
    up = start_up(process, config)
    config.write_text(f"{config.read_text()}broker:\n  grace: 0.25\n")
    up.send_signal(signal.SIGHUP)
    up.expect(r"^broker-1 +\| reload$")
    up.expect(r"^broker-1 +\|.* broker.grace")
    with connect(endpoint(config), timeout=10.0) as m:
        with pytest.raises(ServiceNotFound, match=r"waited 0\.25 s"):
            m.options(retries=0).call("nobody.answers")
        m.memory.set("k", 1)


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
    elsewhere = ("--config", str(config), "--run", str(config.with_name("other")))
    third = support.start_mesh(process, "up", "--detach", *elsewhere)  # over the same data
    assert third.wait(timeout=20) == 1
    assert f"(pid {up.pid}), with its data in {config.with_name('data')}" in third.output()
    assert f"down --run {words[3]}" in third.output()
    assert support.start_mesh(process, "down", *words).wait(timeout=40) == 0
    assert up.wait(timeout=5) == 0
    assert support.start_mesh(process, "down", *words).wait(timeout=20) == 1


def test_a_wrong_configuration_ends_it(process: support.Start, tmp_path: Path) -> None:
    config = tmp_path / "mesh.yaml"
    config.write_text(f"services:\n  memory:\n    port: {support.free_port()}\n")
    words = ("up", "--config", str(config), "--run", str(tmp_path / "run"))
    up = support.start_mesh(process, *words)
    assert up.wait(timeout=30) == 2
    assert "the lmdb backend keeps its data in a directory" in up.output()
    assert support.survivors(grace=5.0, naming=str(config)) == {}


def mesh(process: support.Start, config: Path, *words: str, timeout: float = 60.0) -> support.Child:
    """`sage-mesh` with these words, for the mesh of `config`, once it has ended."""
    where = ("--config", str(config), "--run", str(config.with_name("run")))
    child = support.start_mesh(process, *words, *where)
    child.wait(timeout=timeout)
    return child


def told(process: support.Start, config: Path) -> list[dict[str, Any]]:
    """What `ps` tells."""
    members: list[dict[str, Any]] = json.loads(mesh(process, config, "ps", "--json").output())[
        "members"
    ]
    return members


class Load:
    """Callers that never stop; `failed` is what their calls raised."""

    def __init__(self, *endpoints: str) -> None:
        self.done = 0
        self.failed: list[BaseException] = []
        self._ending = threading.Event()
        self._endpoints = endpoints
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(4)]
        for thread in self._threads:
            thread.start()

    def _call(self, number: int) -> None:
        with connect(*self._endpoints, timeout=20.0) as m:
            while not self._ending.is_set():
                try:
                    m.memory.set(f"k{number}", self.done)
                    m.memory.get(f"k{number}")
                except Exception as error:
                    self.failed.append(error)
                self.done += 1

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()


def test_a_rollout_replaces_all_and_no_call_fails(process: support.Start, tmp_path: Path) -> None:
    ends = [f"tcp://127.0.0.1:{support.free_port()}" for _ in range(2)]
    config = tmp_path / "mesh.yaml"
    config.write_text(
        f"brokers: [{', '.join(ends)}]\nservices:\n  memory:\n    processes: 2\n"
        f"    data: {tmp_path / 'data'}\n"
    )
    assert mesh(process, config, "up", "--detach").returncode == 0
    before = json.loads(mesh(process, config, "ps", "--json").output())
    assert [m["name"] for m in before["members"]] == ["broker-1", "broker-2", "memory"]
    assert {m["state"] for m in before["members"]} == {"ready"}
    again = mesh(process, config, "up", "--detach")
    assert again.returncode == 1 and "runs already" in again.output()
    load = Load(*ends)
    try:
        for _ in range(20 if SOAK else 1):
            rolled = mesh(process, config, "rollout", timeout=120.0)
            assert rolled.returncode == 0, rolled.output()
            assert "3 processes were replaced" in rolled.output()
    finally:
        load.end()
        after = json.loads(mesh(process, config, "ps", "--json").output())
        assert mesh(process, config, "down").returncode == 0
    assert load.failed == []
    assert load.done > (5_000 if SOAK else 100)  # each is two calls
    pids = [{m["pid"] for m in each["members"]} for each in (before, after)]
    assert pids[0].isdisjoint(pids[1])
    assert "tcp://127.0.0.1" in json.dumps(after)
    assert support.survivors(grace=5.0, naming=str(config)) == {}


def test_a_rollout_with_a_wrong_configuration_replaces_nothing(
    process: support.Start, config: Path
) -> None:
    up = start_up(process, config)
    before = json.loads(mesh(process, config, "ps", "--json").output())
    text = config.read_text()
    config.write_text(text.replace("processes: 2", "processes: none"))
    run = str(config.with_name("run"))
    good = config.with_name("good.yaml")
    good.write_text(text)
    rolled = support.start_mesh(process, "rollout", "--config", str(good), "--run", run)
    assert rolled.wait(timeout=20) == 1
    assert "nothing was replaced" in rolled.output() and "processes" in rolled.output()
    # A file that is right, and makes the new workers end: the old ones stay.
    config.write_text(text.replace(str(config.with_name("data")), "/proc/no/such/folder"))
    rolled = support.start_mesh(process, "rollout", "--config", str(good), "--run", run)
    assert rolled.wait(timeout=40) == 1
    assert "ended before it served" in rolled.output()
    config.write_text(text)
    assert json.loads(mesh(process, config, "ps", "--json").output())["pid"] == before["pid"]
    with connect(endpoint(config), timeout=10.0) as m:
        m.memory.set("k", 1)
    assert "memory" in mesh(process, config, "ps").output()
    up.send_signal(signal.SIGTERM)
    assert up.wait(timeout=30) == 0


def test_a_writer_that_hangs_is_replaced(process: support.Start, config: Path) -> None:
    up = start_up(process, config)
    with connect(endpoint(config), timeout=30.0) as m:
        m.memory.set("k", 1)
        status = m.call("mesh.broker.history")
        took = [e for e in status["events"] if e["event"] == "took_over" and e["lane"] == "writer"]
        writer = int(took[-1]["worker"].split()[1])
        os.kill(writer, signal.SIGSTOP)
        m.memory.set("k", 2)
        assert m.memory.get("k") == 2
    up.expect(r"hangs; killing it", timeout=20)
    up.expect_all(r"serving memory pid=", 3, timeout=20)
    (shown,) = (m for m in told(process, config) if m["name"] == "memory")
    assert shown["restarts"] == 1
    assert len(shown["serves"]) == 2 and f"memory pid={writer}" not in shown["serves"]
    up.send_signal(signal.SIGINT)
    assert up.wait(timeout=30) == 0


def test_a_second_signal_ends_all_at_once(process: support.Start, config: Path) -> None:
    up = start_up(process, config)
    pid = int(up.expect(r"serving memory pid=(\d+)")[1])
    os.kill(pid, signal.SIGSTOP)  # it will not drain
    up.send_signal(signal.SIGINT)
    up.expect(r"^memory +\| drain$")
    up.send_signal(signal.SIGINT)
    up.wait(timeout=20)
    assert support.survivors(grace=5.0, naming=str(config)) == {}


def test_a_mesh_that_cannot_start_detached_says_why(process: support.Start, tmp_path: Path) -> None:
    config = tmp_path / "mesh.yaml"
    config.write_text(f"services:\n  memory:\n    port: {support.free_port()}\n")
    child = mesh(process, config, "up", "--detach")
    assert child.returncode == 1
    assert "memory cannot start: it ended with 78" in child.output()
    assert "keeps its data in a directory" in child.output()
    for words in (("ps",), ("rollout",), ("down",)):
        child = mesh(process, config, *words)
        assert child.returncode == 1
        assert "no mesh runs" in child.output()
