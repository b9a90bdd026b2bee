"""The `sage-mesh` command against a real broker and real workers."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import support

Run = Callable[..., support.Child]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A broker with the services `cart` (two workers) and `files`, shared by the tests."""
    children: list[support.Child] = []

    def start(*command: str, **options: Any) -> support.Child:
        children.append(support.Child(command, **options))
        return children[-1]

    try:
        _, (where,) = support.start_broker(start)
        support.start_service(start, "examples.streams:files", "--broker", where)
        carts = support.start_service(
            start, "examples.quickstart:cart", "--broker", where, "--workers", "2"
        )
        carts.expect_all(r"^serving cart pid=\d+$", 2)
        yield where
    finally:
        for child in reversed(children):
            child.stop()


@pytest.fixture
def mesh(process: support.Start, endpoint: str) -> Run:
    """Runs `sage-mesh` with the words given to its end."""

    def run(*words: str, timeout: float = 20.0, **env: str) -> support.Child:
        child = support.start_mesh(process, *words, env={"SAGE_BROKERS": endpoint, **env})
        child.wait(timeout=timeout)
        return child

    return run


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["cart.total", '{"tea": 2, "cup": 1}'], "1690"),
        (["cart.offers"], '["cup", "tea"]'),
        (["cart.offers", "--kwarg", "start=c"], '["cup"]'),
        (["cart.offers", "-k", "start=c", "--json", "--idempotent"], '["cup"]'),
        (["files.countdown", "3", "--stream"], "3\n2\n1"),
        (["files.countdown", "-1", "--stream"], ""),
        (
            ["cart.total", '{"tea": 1}', "--timeout", "9", "--retries", "0", "--priority", "high"],
            "350",
        ),
        (["mmi.service", "cart"], "200"),
        (["mmi.workers", "cart"], "2"),
    ],
)
def test_call(mesh: Run, words: list[str], printed: str) -> None:
    child = mesh("call", *words)
    assert (child.returncode, child.output()) == (0, printed)


@pytest.mark.parametrize(
    ("words", "kind", "hint"),
    [
        (["cart.nothing"], "MethodNotFound", "spelling"),
        (["cart.total"], "InvalidArgument", "JSON"),
        (["cart.total", '{"sugar": 1}'], "RemoteError", "traceback"),
        (["files.countdown", "3"], "InvalidArgument", "add --stream"),
        (["cart.total", "{}", "--stream"], "InvalidArgument", "leave out --stream"),
        (["cart.total", "{}", "--priority", "urgent"], "ConfigError", ""),
        (["kart.total", "{}", "--retries", "0"], "ServiceNotFound", "sage-mesh serve"),
        (["kart.total", "{}", "--timeout", "0.2"], "DeadlineExceeded", "sage-mesh status"),
    ],
)
def test_a_call_that_fails_says_why_and_what_to_do(
    mesh: Run, words: list[str], kind: str, hint: str
) -> None:
    child = mesh("call", *words)
    assert child.returncode == (2 if kind == "ConfigError" else 1)
    assert child.output().startswith(f"{kind}: ")
    assert hint in child.output()
    assert "Traceback" not in child.output()


def test_status(mesh: Run, endpoint: str) -> None:
    text = mesh("status").output()
    assert endpoint in text
    rows = [line.split()[:3] for line in text.splitlines()]
    assert ["cart", "2", "0"] in rows
    assert ["files", "1", "0"] in rows

    child = mesh("status", "--json")
    (found,) = json.loads(child.output())["brokers"]
    assert child.returncode == 0
    assert found["endpoint"] == endpoint
    assert {service["name"] for service in found["services"]} == {"cart", "files"}


def test_status_of_a_broker_that_is_away_does_not_hide_the_other(mesh: Run, endpoint: str) -> None:
    child = mesh("status", "--json", SAGE_BROKERS=f"{endpoint} tcp://127.0.0.1:1")
    first, second = json.loads(child.output())["brokers"]
    assert child.returncode == 1
    assert "error" not in first
    assert second == {"endpoint": "tcp://127.0.0.1:1", "error": "Connection refused"}


def test_status_can_be_watched(process: support.Start, endpoint: str) -> None:
    words = ["status", "--watch", "--every", "0.1", "--json"]
    child = support.start_mesh(process, *words, env={"SAGE_BROKERS": endpoint})
    for line in child.expect_all(r"^\{.*\}$", 3):
        assert json.loads(line[0])["brokers"][0]["endpoint"] == endpoint
    child.send_signal(signal.SIGINT)
    assert child.wait() == 130
    assert "Traceback" not in child.output()


def test_doctor(mesh: Run, endpoint: str) -> None:
    child = mesh("doctor", "--json")
    report = json.loads(child.output())
    assert (child.returncode, report["ok"]) == (0, True)
    states = {check["name"]: check for check in report["checks"]}
    assert states["broker"]["text"] == f"{endpoint} answers, 2 services"
    assert "libzmq" in states["pyzmq"]["text"]

    lines = mesh("doctor", SAGE_PUMP="pure").output().splitlines()
    at = next(i for i, line in enumerate(lines) if "frame pump" in line)
    assert lines[at].startswith("warn")
    assert "unset SAGE_PUMP" in lines[at + 1]
    assert lines[at + 2].startswith("warn  modules ")


def test_bench_with_its_own_broker(mesh: Run) -> None:
    child = mesh("bench", "--seconds", "0.1", "--in-flight", "20", "--json")
    assert child.returncode == 0
    results = json.loads(child.output())["results"]
    assert len(results) == 4
    for result in results:
        assert result["errors"] == 0
        assert result["per_second"] > 0
    assert results[0]["p50"] <= results[0]["p99"] < 5


def test_bench_of_a_running_broker(mesh: Run, endpoint: str) -> None:
    child = mesh("bench", "--seconds", "0.1", "--in-flight", "20", "--broker", endpoint)
    assert child.returncode == 0
    assert endpoint in child.output()
    assert "one call at a time" in child.output()


@pytest.mark.parametrize("as_json", [False, True])
def test_broker_and_serve_run_until_told_to_end(process: support.Start, as_json: bool) -> None:
    extra = ["--json"] if as_json else []
    bind = ["--bind", "tcp://127.0.0.1:0", "--drain-timeout", "5", "--heartbeat", "0.4"]
    broker = support.start_mesh(process, "broker", *bind, *extra)
    where = broker.expect(r"tcp://127\.0\.0\.1:\d+")[0]
    words = ["serve", "examples.quickstart:cart", "--broker", where, *extra]
    service = support.start_mesh(process, *words)
    line = service.expect("serving")
    call = support.start_mesh(process, "call", "cart.total", '{"tea": 1}', "--broker", where)
    assert call.wait() == 0
    if as_json:
        said = json.loads(line.string)
        assert (said["event"], said["service"]) == ("serving", "cart")
        assert said["pid"] != service.pid
        first = next(json.loads(line) for line in broker.output().splitlines() if line[:1] == "{")
        assert first == {"event": "listening", "endpoint": where}
    for child in (service, broker):
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 0


def test_serve_says_that_it_waits_for_a_broker(
    process: support.Start, free_port: Callable[[], int]
) -> None:
    where = f"tcp://127.0.0.1:{free_port()}"
    service = support.start_mesh(process, "serve", "examples.quickstart:cart", "--broker", where)
    service.expect(f"no broker at {where} yet")
    support.start_broker(process, binds=[where])
    service.expect(r"^serving cart pid=\d+$")


@pytest.mark.parametrize("target", ["examples.quickstart:nothing", "no.such.module:x", "nonsense"])
@pytest.mark.parametrize("extra", [[], ["--json"], ["--workers", "2"]])
def test_a_service_that_does_not_exist(mesh: Run, target: str, extra: list[str]) -> None:
    child = mesh("serve", target, *extra)
    assert child.returncode == 2
    assert target in child.output()


def test_a_folder_named_broker_is_not_taken_for_ours(process: support.Start, tmp_path: Any) -> None:
    (tmp_path / "broker.py").write_text("raise SystemExit('the wrong broker')")
    code = "import sys; sys.path.pop(0); from mesh.cli import main; main()"
    child = process(
        sys.executable, "-c", code, "broker", "--bind", "tcp://127.0.0.1:0", cwd=tmp_path
    )
    child.expect(r"^listening tcp://")


def test_a_broker_that_cannot_listen_says_so(mesh: Run, endpoint: str) -> None:
    child = mesh("broker", "--bind", endpoint)
    assert child.returncode not in (0, None)
    assert endpoint.removeprefix("tcp://") in child.output()


def test_output_into_a_pipe_that_closes(process: support.Start, endpoint: str) -> None:
    code = "import sys; from mesh.cli import main; main()"
    call = f'"{sys.executable}" -c "{code}" call files.countdown 1000000 --stream | head -n 2'
    child = process("sh", "-c", call, env={"SAGE_BROKERS": endpoint})
    assert child.wait(timeout=20) == 0
    assert child.output() == "1000000\n999999"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_children_of_bench_end_with_it(process: support.Start) -> None:
    child = support.start_mesh(process, "bench", "--seconds", "30")
    child.expect("started for this")
    child.kill()
    # The workers go first: nobody is left to answer them, so they drain at once.
    assert support.survivors(grace=5.0, naming="benchservice") == {}


def test_history_and_top(process: support.Start) -> None:
    def ask(*words: str) -> support.Child:
        child = support.start_mesh(process, *words, "--broker", endpoint)
        assert child.wait(timeout=20) == 0
        return child

    broker, (endpoint,) = support.start_broker(process, env={"SAGE_LOG_FORMAT": "json"})
    follower = support.start_mesh(process, "history", "--follow", "--json", "--broker", endpoint)
    worker = support.start_service(process, "examples.quickstart:cart", "--broker", endpoint)
    ask("call", "cart.total", '{"tea": 1}')
    (top,) = [json.loads(line) for line in ask("top", "--once", "--json").output().splitlines()]
    assert [row["name"] for row in top["services"]] == ["cart"]
    assert "cart" in ask("top", "--once", "--every", "0.2").output()
    worker.kill()
    lost = json.loads(follower.expect(r'^\{.*"event": "lost".*\}$')[0])
    assert (lost["reason"], lost["service"]) == ("disconnected", "cart")
    assert lost["worker"].startswith(f"pid {worker.pid} on ")
    events = [json.loads(line) for line in ask("history", "--json").output().splitlines()]
    assert [e["event"] for e in events if e.get("service")] == ["joined", "lost"]
    assert "disconnected" in ask("history", "--since", "1h").output()
    logged = [json.loads(line) for line in broker.output().splitlines() if line[:1] == "{"]
    assert [e["level"] for e in logged if e.get("event") == "lost"] == ["warning"]
