"""Tests of a service without sockets, processes or waiting: `python -m examples.testing_a_service`.

`MeshTest` runs the real router, client and worker logic in this process, on a clock of its own that
jumps to the next event. With pytest, the functions below are found and run as they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from mesh import Service
from mesh.errors import DeadlineExceeded, ServiceNotFound
from mesh.testing import MeshTest

shop = Service("shop")
stock = {"tea": 3}
busy = asyncio.Event()


@shop.rpc
async def take(name: str) -> int:
    """Take one out of the stock; how many are left."""
    if not stock.get(name):
        raise LookupError(f"no {name} left")
    stock[name] -= 1
    return stock[name]


@shop.rpc
async def slow() -> None:
    """Takes an hour."""
    busy.set()
    await asyncio.sleep(3600)


@shop.rpc
async def ticks(number: int) -> AsyncIterator[int]:
    """Counts up."""
    for tick in range(number):
        yield tick


def test_the_function_itself() -> None:
    """A decorated function is still the function."""
    stock["tea"] = 2
    assert asyncio.run(take("tea")) == 1


def test_a_call() -> None:
    """From a blocking test."""
    stock["tea"] = 2
    with MeshTest(shop) as mesh:
        assert mesh.call("shop.take", "tea") == 1
        assert list(mesh.stream("shop.ticks", 3)) == [0, 1, 2]


def test_a_deadline() -> None:
    """Thirty seconds pass because the test says so."""

    async def scenario() -> None:
        async with MeshTest(shop) as mesh:
            call = asyncio.ensure_future(mesh.options(timeout=30).call("shop.slow"))
            await busy.wait()
            mesh.clock.advance(31)
            try:
                await call
            except DeadlineExceeded as error:
                assert error.maybe_executed
            else:
                raise AssertionError("the call should have run out of time")

    asyncio.run(scenario())


def test_without_any_worker() -> None:
    """What a caller sees when all workers have died: retries and their pauses cost no time."""
    with MeshTest(shop) as mesh:
        mesh.kill(shop)
        begun = mesh.clock.now
        try:
            mesh.options(timeout=60).call("shop.ticks", 1)
        except ServiceNotFound as error:
            assert error.retryable
            assert mesh.clock.now - begun > 1
        else:
            raise AssertionError("nobody was there to answer")


def main() -> None:
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print(f"passed: {name.removeprefix('test_').replace('_', ' ')}")


if __name__ == "__main__":
    main()
