"""Configuration as users meet it: the commands, and a broker that reads its file again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mesh import connect
from tests import support

EXIT_CONFIG = 78


def sage_mesh(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mesh.cli", "config", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_init_check_show(tmp_path: Path) -> None:
    path = tmp_path / "sage.yaml"
    assert sage_mesh("init", str(path)).returncode == 0
    assert sage_mesh("check", str(path)).returncode == 0
    assert sage_mesh("init", str(path)).returncode != 0  # it would write over a file
    path.write_text("broker: {grace: 5s}\n")
    rows = json.loads(sage_mesh("show", "--config", str(path), "--json").stdout)
    text = json.dumps(rows)
    assert "broker.grace" in text and f"{path}:1" in text


def test_check_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "sage.yaml"
    path.write_text("services:\n  memory:\n    port: 99999\n")
    found = sage_mesh("check", str(path))
    assert found.returncode == 2
    assert f"{path}:3: services.memory.port: 99999 is not" in found.stdout + found.stderr


@pytest.mark.parametrize(
    ("program", "status"), [(["broker"], 2), (["workers", "memory"], EXIT_CONFIG)]
)
def test_a_program_does_not_start_with_a_wrong_file(
    tmp_path: Path, program: list[str], status: int
) -> None:
    path = tmp_path / "sage.yaml"
    path.write_text("broker: {graze: 1}\n")
    command = [sys.executable, "-m", *program, "--config", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert found.returncode == status
    assert "did you mean grace" in found.stderr and "Traceback" not in found.stderr


def test_one_file_for_broker_worker_and_client(process: support.Start, tmp_path: Path) -> None:
    path = tmp_path / "sage.yaml"
    path.write_text(
        f"services: {{memory: {{port: {support.free_port()}, data: {tmp_path / 'data'}}}}}\n"
    )
    broker = process(sys.executable, "-m", "broker", "--config", str(path))
    endpoint = broker.expect(r"^listening (\S+)$")[1]
    worker = process(sys.executable, "-m", "workers", "memory", "--config", str(path))
    worker.expect(r"^serving memory", timeout=20)
    with connect(endpoint) as m:
        m.memory.set("k", 1)
        assert m.memory.get("k") == 1


def test_a_broker_reads_its_file_again_on_sighup(process: support.Start, tmp_path: Path) -> None:
    path = tmp_path / "sage.yaml"
    path.write_text("broker: {grace: 30}\n")
    broker = process(
        sys.executable, "-m", "broker", "--bind", "tcp://127.0.0.1:0", "--config", str(path)
    )
    endpoint = broker.expect(r"^listening (\S+)$")[1]
    path.write_text("broker: {grace: 0.01, heartbeat: 1}\n")
    broker.send_signal(signal.SIGHUP)
    broker.expect("read again; changed: .*broker.grace")
    with connect(endpoint) as m, pytest.raises(Exception, match="nobody"):
        m.options(retries=0).call("nobody.at_all")
    path.write_text("broker: {grace: soon}\n")
    broker.send_signal(signal.SIGHUP)
    broker.expect("configuration not changed: .*grace")
    with connect(endpoint) as m:
        assert m.call("mesh.broker.status")["broker"]
