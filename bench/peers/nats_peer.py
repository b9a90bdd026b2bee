"""nats-py as its users write it: `python -m bench.peers.nats_peer ROLE URL [options]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os

import nats
from nats.aio.msg import Msg

from bench import loops

SUBJECT = "bench.echo"


async def worker(options: argparse.Namespace) -> None:
    """A queue subscriber that answers each message."""
    connection = await nats.connect(options.url)

    async def echo(message: Msg) -> None:
        await message.respond(message.data)

    await connection.subscribe(SUBJECT, queue="workers", cb=echo)
    await connection.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def throughput(options: argparse.Namespace) -> None:
    """Requests with many in flight."""
    connection = await nats.connect(options.url)
    body = os.urandom(32)
    figures = await loops.in_flight(
        lambda: connection.request(SUBJECT, body, timeout=10), options.windows, options.seconds
    )
    print(json.dumps(figures), flush=True)
    await connection.close()


async def latency(options: argparse.Namespace) -> None:
    """One request at a time."""
    connection = await nats.connect(options.url)
    body = os.urandom(32)
    figures = await loops.one_at_a_time(
        lambda: connection.request(SUBJECT, body, timeout=10), options.count
    )
    print(json.dumps(figures), flush=True)
    await connection.close()


ROLES = {"worker": worker, "throughput": throughput, "latency": latency}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=sorted(ROLES))
    parser.add_argument("url")
    parser.add_argument("--windows", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=2000)
    arguments = parser.parse_args()
    asyncio.run(ROLES[arguments.role](arguments))
