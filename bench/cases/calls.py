"""Calls as users make them: a client and a worker in Python."""

from __future__ import annotations

import functools

from bench import stacks
from bench.harness import Case, Figures, Plan, Stack, Target, python

WINDOWS = "64,256,1000"


def _mesh(role: str, plan: Plan, *options: object) -> Figures:
    with Stack() as processes:
        _, endpoint = stacks.mesh_broker(processes)
        stacks.mesh_worker(processes, endpoint)
        return processes.run(*python("bench.client", role, endpoint, *options))


def _nats(role: str, *options: object) -> Figures:
    with Stack() as processes:
        _, url = stacks.nats_server(processes)
        stacks.nats_worker(processes, url)
        return processes.run(*python("bench.peers.nats_peer", role, url, *options))


def _grpc(role: str, *options: object) -> Figures:
    with Stack() as processes:
        _, address = stacks.grpc_server(processes)
        return processes.run(*python("bench.peers.grpc_peer", role, address, *options))


def _windows(plan: Plan) -> tuple[object, ...]:
    return ("--windows", WINDOWS, "--seconds", plan.seconds)


def mesh_throughput(plan: Plan, *options: object) -> Figures:
    return _mesh("throughput", plan, *_windows(plan), *options)


def mesh_latency(plan: Plan, role: str = "latency", method: str = "echo") -> Figures:
    return _mesh(role, plan, "--count", plan.count(3_000), "--method", method)


def nats_throughput(plan: Plan) -> Figures:
    return _nats("throughput", *_windows(plan))


def nats_latency(plan: Plan) -> Figures:
    return _nats("latency", "--count", plan.count(3_000))


def grpc_throughput(plan: Plan) -> Figures:
    return _grpc("throughput", *_windows(plan))


def grpc_latency(plan: Plan, role: str = "latency") -> Figures:
    return _grpc(role, "--count", plan.count(3_000))


def mesh_batches(plan: Plan) -> Figures:
    return _mesh("batches", plan, "--windows", "1,16", "--seconds", plan.seconds)


def mesh_stream(plan: Plan) -> Figures:
    count = plan.count(300_000)
    return {
        **_mesh("stream", plan, "--count", count),
        **_mesh("stream-blocking", plan, "--count", count),
    }


CASES = (
    Case(
        "calls",
        "One asyncio client, one Python worker (async handler), by calls in flight",
        "calls/s",
        {
            "mesh": mesh_throughput,
            "nats-py": nats_throughput,
            "grpc.aio": grpc_throughput,
            "mesh, inline handler": lambda plan: mesh_throughput(plan, "--method", "echo_inline"),
        },
        (
            Target("64", "mesh", 2.0, "nats-py"),
            Target("256", "mesh", 3.5, "nats-py"),
            Target("1000", "mesh", 3.5, "nats-py"),
            Target("256", "mesh", 12.0, "grpc.aio"),
            Target("1000", "mesh", 12.0, "grpc.aio"),
        ),
    ),
    Case(
        "latency",
        "One call at a time",
        "us",
        {
            "mesh": mesh_latency,
            "nats-py": nats_latency,
            "grpc.aio": grpc_latency,
            "mesh, inline handler": functools.partial(mesh_latency, method="echo_inline"),
            "mesh, asyncio client": functools.partial(mesh_latency, role="latency-async"),
            "grpc, blocking client": functools.partial(grpc_latency, role="latency-blocking"),
        },
        (
            Target("p50", "mesh", 0.7, "grpc.aio", at_most=True),
            Target("p50", "mesh", 1.0, "nats-py", at_most=True),
        ),
    ),
    Case(
        "batch",
        "Batches of 100 calls, one asyncio client and one worker, by batches in flight",
        "items/s",
        {"mesh": mesh_batches},
        (Target("16", "mesh", 250_000),),
    ),
    Case(
        "stream",
        "One stream of 32-byte items from an async generator, by kind of reader",
        "items/s",
        {"mesh": mesh_stream},
        (Target("asyncio", "mesh", 150_000), Target("blocking", "mesh", 150_000)),
    ),
)
