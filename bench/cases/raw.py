"""The broker alone: clients and workers in C on both sides of it."""

from __future__ import annotations

import tempfile

from bench import stacks
from bench.harness import Case, Figures, Plan, Stack, Target, python

WINDOWS = "64,256,1000"
LARGE = 1024 * 1024


def _client(processes: Stack, dialect: str, endpoint: str, plan: Plan, *more: object) -> Figures:
    command = python("bench.raw", f"{dialect}-client", endpoint, "--seconds", plan.seconds, *more)
    return processes.run(*command)


def _mesh(plan: Plan, bind: str, *more: object) -> Figures:
    with Stack() as processes:
        _, endpoint = stacks.mesh_broker(processes, bind)
        stacks.raw_worker(processes, "native", endpoint)
        return _client(processes, "native", endpoint, plan, *more)


def mesh_tcp(plan: Plan) -> Figures:
    return _mesh(plan, "tcp://127.0.0.1:0", "--windows", WINDOWS)


def mesh_ipc(plan: Plan) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        return _mesh(plan, f"ipc://{folder}/broker", "--windows", WINDOWS)


def nats(plan: Plan) -> Figures:
    with Stack() as processes:
        _, url = stacks.nats_server(processes)
        stacks.raw_worker(processes, "nats", url)
        return _client(processes, "nats", url, plan, "--windows", WINDOWS)


def plain_pyzmq(plan: Plan) -> Figures:
    with Stack() as processes:
        _, front, back = stacks.plain_broker(processes, "lru")
        stacks.raw_worker(processes, "plain", back)
        return _client(processes, "plain", front, plan, "--windows", WINDOWS)


def _megabytes(figures: Figures) -> Figures:
    (rate,) = figures.values()
    return {"MB/s": rate * 2 * LARGE / 1e6}


def large_mesh(plan: Plan) -> Figures:
    return _megabytes(_mesh(plan, "tcp://127.0.0.1:0", "--windows", 8, "--size", LARGE))


def large_relay(plan: Plan) -> Figures:
    with Stack() as processes:
        _, front, back = stacks.plain_broker(processes, "relay")
        stacks.raw_worker(processes, "plain", back, "--slots", 0)
        options = ("--windows", 8, "--size", LARGE)
        return _megabytes(_client(processes, "plain", front, plan, *options))


CASES = (
    Case(
        "raw",
        "Broker alone under raw load, 32-byte echo, by requests in flight",
        "requests/s",
        {
            "mesh": mesh_tcp,
            "mesh over ipc": mesh_ipc,
            "nats-server": nats,
            "plain pyzmq": plain_pyzmq,
        },
        (
            Target("256", "mesh", 100_000),
            Target("1000", "mesh", 100_000),
            Target("256", "mesh", 0.5, "nats-server"),
            Target("1000", "mesh", 0.5, "nats-server"),
        ),
    ),
    Case(
        "large",
        "Bodies of 1 MiB through the broker and back, 8 in flight, raw client and worker",
        "MB/s",
        {"mesh": large_mesh, "bare pyzmq relay": large_relay},
        (Target("MB/s", "mesh", 0.6, "bare pyzmq relay"),),
    ),
)
