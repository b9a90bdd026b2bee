"""grpcio as its users write it: `python -m bench.peers.grpc_peer ROLE ADDRESS [options]`.

Bodies are plain bytes, so no time goes into protobuf.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from typing import Any

import grpc

from bench import loops

METHOD = "/bench/echo"


async def server(options: argparse.Namespace) -> None:
    """An asyncio server; prints `listening ADDRESS`."""

    async def echo(request: bytes, _: Any) -> bytes:
        return request

    handler = grpc.method_handlers_generic_handler(
        "bench", {"echo": grpc.unary_unary_rpc_method_handler(echo)}
    )
    service = grpc.aio.server()
    service.add_generic_rpc_handlers((handler,))
    port = service.add_insecure_port("127.0.0.1:0")
    await service.start()
    print(f"listening 127.0.0.1:{port}", flush=True)
    await service.wait_for_termination()


async def throughput(options: argparse.Namespace) -> None:
    """Calls with many in flight on one channel."""
    async with grpc.aio.insecure_channel(options.address) as channel:
        call = channel.unary_unary(METHOD)
        body = os.urandom(32)
        figures = await loops.in_flight(lambda: call(body), options.windows, options.seconds)
    print(json.dumps(figures), flush=True)


async def latency(options: argparse.Namespace) -> None:
    """One call at a time, awaited."""
    async with grpc.aio.insecure_channel(options.address) as channel:
        call = channel.unary_unary(METHOD)
        body = os.urandom(32)
        figures = await loops.one_at_a_time(lambda: call(body), options.count)
    print(json.dumps(figures), flush=True)


async def latency_blocking(options: argparse.Namespace) -> None:
    """One call at a time from the blocking stub; the server stays the asyncio one."""
    with grpc.insecure_channel(options.address) as channel:
        call = channel.unary_unary(METHOD)
        body = os.urandom(32)
        figures = loops.one_at_a_time_blocking(lambda: call(body), options.count)
    print(json.dumps(figures), flush=True)


ROLES = {
    "server": server,
    "throughput": throughput,
    "latency": latency,
    "latency-blocking": latency_blocking,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=sorted(ROLES))
    parser.add_argument("address", nargs="?", default="")
    parser.add_argument("--windows", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=2000)
    arguments = parser.parse_args()
    asyncio.run(ROLES[arguments.role](arguments))
