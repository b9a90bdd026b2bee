"""The HTTP side of monitoring, against hostile and slow clients."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from mesh.errors import ConfigError
from mesh.monitoring import http as monitoring
from mesh.monitoring.families import gauge
from mesh.monitoring.http import Monitor, Unresponsive
from mesh.monitoring.together import Together, address_in


class Source:
    """A process as the test wants it."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.hangs = False

    def status(self) -> dict[str, Any]:
        if self.hangs:
            raise Unresponsive("it hangs")
        return {"uptime": 3}

    def unready(self) -> list[str]:
        self.status()
        return self.reasons

    def families(self) -> Iterable[Metric]:
        return [gauge("depth", "How deep.", self.status()["uptime"])]


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def monitor(source: Source) -> Iterator[Monitor]:
    made = Monitor("127.0.0.1:0", source).start()
    yield made
    made.close()


def ask(monitor: Monitor, path: str, method: str = "GET") -> tuple[int, bytes]:
    host, _, port = monitor.address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10.0)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_process_that_is_well(monitor: Monitor) -> None:
    assert ask(monitor, "/health")[0] == 200
    status, body = ask(monitor, "/ready?verbose=1")
    assert (status, json.loads(body)) == (200, {"status": "ready", "reasons": []})
    assert json.loads(ask(monitor, "/status")[1]) == {"uptime": 3}
    (family,) = text_string_to_metric_families(ask(monitor, "/metrics")[1].decode())
    assert (family.name, family.samples[0].value) == ("sage_mesh_depth", 3.0)


def test_a_process_that_is_not_ready_or_hangs(monitor: Monitor, source: Source) -> None:
    source.reasons = ["registered at no broker"]
    status, body = ask(monitor, "/ready")
    assert (status, json.loads(body)["reasons"]) == (503, ["registered at no broker"])
    assert ask(monitor, "/health")[0] == 200
    source.hangs = True
    for path in ("/health", "/ready", "/metrics", "/status"):
        status, body = ask(monitor, path)
        assert (status, json.loads(body)["reasons"]) == (503, ["it hangs"])


def test_other_paths_and_methods(monitor: Monitor) -> None:
    status, body = ask(monitor, "/")
    assert status == 404
    assert "/metrics" in json.loads(body)["error"]
    assert ask(monitor, "/health", "HEAD") == (200, b"")
    assert ask(monitor, "/health", "POST")[0] == 501


def test_who_drips_and_who_comes_in_crowds_does_not_keep_others_out(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "REQUEST_TTL", 0.2)
    host, _, port = monitor.address.rpartition(":")
    slow = [
        socket.create_connection((host, int(port)), timeout=10.0)
        for _ in range(monitoring.MAX_CONNECTIONS + 5)
    ]
    for each in slow:
        each.sendall(b"GET /health")
    for each in slow:
        with each, suppress(ConnectionResetError):
            while each.recv(1000):  # until the server has ended it
                pass
    assert ask(monitor, "/health")[0] == 200


def test_an_address_that_is_taken_or_wrong_is_refused(monitor: Monitor, source: Source) -> None:
    with pytest.raises(ConfigError, match=r"in use.*monitoring\.metrics_port"):
        Monitor(monitor.address, source)
    with pytest.raises(ConfigError, match="monitoring at"):
        Monitor("no.such.host.invalid:80", source)
    with pytest.raises(ConfigError, match="monitoring at"):
        Monitor("unix:/no/such/folder/x.sock", source)


def test_all_addresses_of_the_machine(source: Source) -> None:
    monitor = Monitor("*:0", source).start()
    try:
        port = int(monitor.address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10.0) as connection:
            connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            assert b"200 OK" in connection.recv(1000)
    finally:
        monitor.close()


# -------------------------------------------------------------------- several processes


def test_a_socket_of_a_file_is_its_owners_alone_and_goes_with_the_process(
    tmp_path: Path, source: Source
) -> None:
    path = tmp_path / "one.sock"
    left_behind = socket.socket(socket.AF_UNIX)
    left_behind.bind(str(path))
    left_behind.close()
    monitor = Monitor(f"unix:{path}", source).start()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(ConfigError, match="in use"):
        Monitor(f"unix:{path}", source)
    monitor.close()
    assert not path.exists()


def test_several_processes_as_one(tmp_path: Path) -> None:
    sources = {"a": Source(), "b": Source()}
    monitors = {n: Monitor(address_in(tmp_path, n), s).start() for n, s in sources.items()}
    missing: list[str] = []
    together = Together(tmp_path, lambda: list(missing))

    def processes() -> set[str]:
        return {s.labels["process"] for family in together.families() for s in family.samples}

    try:
        assert processes() == {"a", "b"}
        assert together.unready() == []
        assert together.status() == {"processes": {"a": {"uptime": 3}, "b": {"uptime": 3}}}
        sources["a"].reasons = ["busy"]
        missing.append("c is starting")
        assert together.unready() == ["c is starting", "a: busy"]
        sources["b"].hangs = True
        assert "b: it hangs" in together.unready()
        assert processes() == {"a"}
        sources["b"].hangs = False
        above = tmp_path / "above"
        above.mkdir()
        monitors["outer"] = Monitor(address_in(above, "outer"), together).start()
        shown = {s.labels["process"] for f in Together(above).families() for s in f.samples}
        assert shown == {"outer/a", "outer/b"}
    finally:
        for monitor in monitors.values():
            monitor.close()
    assert processes() == set()


def test_a_process_that_died_is_forgotten(tmp_path: Path, source: Source) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead.sock"))
    dead.close()
    together = Together(tmp_path)
    assert together.unready() == ["no process tells of itself"]
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.monitoring.together.ANSWER_TTL", 0.1)
    with socket.socket(socket.AF_UNIX) as stopped:
        stopped.bind(str(tmp_path / "stopped.sock"))
        stopped.listen()
        together = Together(tmp_path)
        (reason,) = together.unready()
        assert reason.startswith("stopped: does not answer")
        with pytest.raises(Unresponsive, match="stopped"):
            together.status()
        assert list(together.families()) == []
