"""Streams in both directions, at the reader's pace: `python -m examples.streams`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator

from mesh import Service, Stream, connect_async
from mesh.cli.processes import local_mesh

files = Service("files")


@files.rpc
async def countdown(start: int) -> AsyncIterator[int]:
    """A generator is a stream. It runs only as far ahead as its reader allows."""
    for number in range(start, 0, -1):
        yield number


@files.rpc
def upload(name: str, chunks: Stream[bytes]) -> dict[str, str | int]:
    """A parameter of type Stream receives what the caller iterates over, as it comes."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return {"name": name, "size": size, "sha256": digest.hexdigest()[:16]}


@files.rpc
async def running_sum(numbers: Stream[int]) -> AsyncIterator[int]:
    """A stream in and a stream out."""
    total = 0
    async for number in numbers:
        total += number
        yield total


def blocks(count: int, size: int) -> Iterator[bytes]:
    """`count` blocks of `size` octets; none exists before it is wanted."""
    for number in range(count):
        yield bytes([number % 256]) * size


async def main() -> None:
    with local_mesh("examples.streams:files") as endpoint:
        async with connect_async(endpoint) as mesh:
            print("whole:", [number async for number in mesh.stream(countdown, 5)])

            # Leaving the block ends the stream; the generator is closed where it is.
            async with mesh.stream(countdown, 1_000_000) as numbers:
                async for number in numbers:
                    if number <= 999_997:
                        print("left at:", number)
                        break

            print("upload:", await mesh.call("files.upload", "blocks", blocks(200, 64 * 1024)))

            sums = mesh.stream("files.running_sum", iter(range(1, 11)))
            print("sums:", [total async for total in sums])


if __name__ == "__main__":
    asyncio.run(main())
