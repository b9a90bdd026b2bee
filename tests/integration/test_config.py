"""Configuration of real processes: what a file says takes effect, and SIGHUP changes it."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh import ConfigError, Overloaded, ServiceNotFound, connect
from mesh.settings import default_yaml, schema_text
from tests import support

Mesh = Callable[..., support.Child]


@pytest.fixture
def mesh(process: support.Start) -> Mesh:
    """Runs `sage-mesh` with the words given to its end."""

    def run(*words: str, **env: str) -> support.Child:
        child = support.start_mesh(process, *words, env=env)
        child.wait(timeout=30.0)
        return child

    return run


def test_a_file_is_written_checked_and_shown(mesh: Mesh, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    assert mesh("config", "init", str(path)).returncode == 0
    assert path.read_text("utf-8") == default_yaml("my.schema.json")
    assert (tmp_path / "my.schema.json").read_text("utf-8") == schema_text()

    again = mesh("config", "init", str(path))
    assert again.returncode == 1
    assert "--force" in again.output()

    checked = mesh("config", "check", str(path))
    assert (checked.returncode, checked.output()[:4]) == (0, "ok: ")

    path.write_text("broker:\n  grace: 3\nservices: {memory: {url: 'redis://:geheim@h'}}\n")
    checked = mesh("config", "check", str(path))
    assert checked.returncode == 0
    assert "services.memory.url has no effect" in checked.output()

    shown = mesh("config", "show", "--config", str(path), "--set", "log_level=debug")
    assert f"grace: 3  # {path}:2" in shown.output()
    assert "log_level: debug  # --set log_level" in shown.output()
    assert "geheim" not in shown.output()
    rows = json.loads(
        mesh("config", "show", "broker.grace", "--json", SAGE_CONFIG=str(path)).output()
    )
    assert [(row["key"], row["value"]) for row in rows] == [("broker.grace", 3)]
    assert mesh("config", "show", "broker.graec").returncode == 2


def test_errors_are_named_and_set_the_exit_code(mesh: Mesh, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("broker: {graec: 1}\nsecurity: {tls_enabled: true}\n")
    child = mesh("config", "check", str(path))
    assert child.returncode == 2
    assert f"{path}:1: broker.graec: unknown key; did you mean grace?" in child.output()
    assert f"{path}:2: security.tls_enabled: true asks for encryption" in child.output()
    (report,) = json.loads(mesh("config", "check", str(path), "--json").output())["files"]
    assert [problem["key"] for problem in report["problems"]] == [
        "broker.graec",
        "security.tls_enabled",
    ]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["-m", "broker"], 2),
        (["-m", "workers", "memory"], 78),
        (["-m", "mesh.service", "a:b"], 78),
        (["-c", "from mesh.cli import main; main()", "broker"], 2),
        (["-c", "from mesh.cli import main; main()", "serve", "a:b"], 2),
    ],
)
def test_nothing_starts_with_a_wrong_file(
    process: support.Start, tmp_path: Path, words: list[str], status: int
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("broker:\n  grace: soon\n")
    child = process(sys.executable, *words, "--config", str(path))
    assert child.wait(timeout=30.0) == status
    assert f"{path}:2: broker.grace: 'soon' is not a duration" in child.output()
    assert "Traceback" not in child.output()


def test_one_file_is_enough_for_broker_workers_and_clients(
    process: support.Start, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    path = tmp_path / "sage.yaml"
    path.write_text(
        f"services: {{memory: {{port: {port}, data: {tmp_path / 'data'}, processes: 2}}}}\n"
        "performance: {cache_size: 64MB}\nlog_level: warning\n"
    )
    broker = support.start_mesh(process, "broker", "--config", str(path))
    broker.expect(rf"^listening tcp://127\.0\.0\.1:{port}$")
    workers = process(sys.executable, "-m", "workers", "memory", "--config", str(path))
    workers.expect_all(r"^serving memory pid=\d+$", 2)
    carts = support.start_mesh(
        process, "serve", "examples.quickstart:cart", "--config", str(path), "--json"
    )
    carts.expect(r'"serving"')
    with connect(config=path) as m:
        m.call("memory.set", "k", "v")
        assert m.call("memory.get", "k") == "v"
        assert m.call("cart.total", {"tea": 1}) == 350
    with pytest.raises(ConfigError, match=r"not be found|cannot be read"):
        connect(config=tmp_path / "nowhere.yaml")


def test_the_environment_counts_before_the_file_and_a_flag_before_both(
    process: support.Start, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    first, second = free_port(), free_port()
    path = tmp_path / "sage.yaml"
    path.write_text("services: {memory: {port: 1}}\n")
    environ = {"SAGE_CONFIG": str(path), "SAGE_SERVICE_PORT": str(first)}
    process(sys.executable, "-m", "broker", env=environ).expect(rf"^listening \S+:{first}$")
    words = [sys.executable, "-m", "broker", "--bind", f"127.0.0.1:{second}"]
    process(*words, env=environ).expect(rf"^listening \S+:{second}$")


def test_threads_of_plain_handlers(process: support.Start, tmp_path: Path) -> None:
    _broker, (endpoint,) = support.start_broker(process)
    (tmp_path / "pool.py").write_text(
        "from mesh import Service\n"
        "few, many = Service('few', threads=3), Service('many')\n"
        "@few.rpc\ndef size(): return few.threads\n"
        "@many.rpc(name='size')\ndef size_of_many(): return many.threads\n"
    )
    path = tmp_path / "sage.yaml"
    path.write_text(f"brokers: ['{endpoint}']\nperformance: {{thread_pool_size: 7}}\n")
    where = {"PYTHONPATH": f"{tmp_path}:{support.ROOT}"}
    for name in ("few", "many"):
        support.start_service(process, f"pool:{name}", "--config", str(path), env=where)
    with connect(endpoint) as m:
        assert m.call("many.size") == 7
        assert m.call("few.size") == 3, "what the service says itself counts first"


def test_hangup_changes_what_can_change_live(process: support.Start, tmp_path: Path) -> None:
    path = tmp_path / "sage.yaml"

    def write(grace: str, clients: str = "null", heartbeat: str = "500ms") -> None:
        path.write_text(
            f"broker: {{grace: {grace}, heartbeat: {heartbeat}}}\n"
            f"services: {{memory: {{max_connections: {clients}}}}}\n"
        )

    write("200s")
    broker, (endpoint,) = support.start_broker(process, "--config", str(path))
    with connect(endpoint) as m:
        waiting = m.options(timeout=100, retries=0)
        assert m.call("mesh.broker.status")["clients"] == 1

        write("10ms", "1", "2s")
        broker.send_signal(signal.SIGHUP)
        broker.expect(r"changed: services.memory.max_connections, broker.grace$")
        broker.expect(r"at the next start only: broker.heartbeat$")
        with pytest.raises(ServiceNotFound):
            waiting.call("nobody.serves")  # would have waited 200 s
        with connect(endpoint) as other, pytest.raises(Overloaded, match="max_connections"):
            other.options(retries=0).call("mesh.broker.status")

        path.write_text("broker: {grace: soon}\n")
        broker.send_signal(signal.SIGHUP)
        broker.expect(r"configuration not changed: \S+:1: broker.grace: 'soon'")
        with pytest.raises(ServiceNotFound):
            waiting.call("nobody.serves")

        write("10ms")  # what could not change is back where it was
        broker.send_signal(signal.SIGHUP)
        broker.expect(r"changed: services.memory.max_connections$")
        with connect(endpoint) as other:
            assert other.call("mesh.broker.status")["clients"] == 2
    assert broker.output().count("next start only") == 1
    assert broker.stop() == 0


def test_a_level_of_logging_changes_live_and_keys_of_others_do_not_matter(
    process: support.Start, tmp_path: Path
) -> None:
    path = tmp_path / "sage.yaml"
    path.write_text("log_level: info\n")
    broker, _ = support.start_broker(process, "--config", str(path))
    path.write_text("log_level: critical\nclient: {timeout: 1s}\n")
    broker.send_signal(signal.SIGHUP)
    broker.expect(r"changed: log_level$")
    path.write_text("log_level: info\n")
    broker.send_signal(signal.SIGHUP)
    broker.expect_all(r"changed: log_level$", 2)
    assert "client.timeout" not in broker.output()


def test_what_a_call_to_the_memory_service_may_take(process: support.Start, tmp_path: Path) -> None:
    path = tmp_path / "sage.yaml"
    _broker, (endpoint,) = support.start_broker(process)
    path.write_text(
        f"brokers: ['{endpoint}']\nservices: {{memory: {{backend: memory, timeout: 200ms}}}}\n"
    )
    words = [sys.executable, "-m", "workers", "memory", "--config", str(path)]
    process(*words).expect(r"^serving memory pid=\d+$")
    with connect(endpoint) as m, pytest.raises(TimeoutError):
        m.options(timeout=50, retries=0).call("memory.wait", "never", 40.0)
