"""What drives the asyncio client, over a carrier that carries nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from mesh.client import base
from mesh.client.aio_driver import LoopDriver
from mesh.client.base import Options
from mesh.client.calls import Call, ClientSettings
from mesh.client.core import ClientCore


class Carrier:
    """Ends the calls in `ending` in its next turn, after which there is more to read."""

    def __init__(self, core: ClientCore) -> None:
        self.changed = 0
        self.clock: Callable[[], float] = time.monotonic
        self.on_open: Callable[[list[int]], None] = lambda descriptors: None
        self.on_close: Callable[[list[int]], None] = lambda descriptors: None
        self.core = core
        self.ending: list[Call] = []
        self.turns = 0

    def turn(self, rounds: int = 8) -> bool:
        self.turns += 1
        ending, self.ending = self.ending, []
        for call in ending:
            self.core.cancel(call, self.clock())
        return bool(ending)

    def flush(self) -> bool:
        return False

    def close(self) -> None:
        pass


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_task_that_ends_the_program_leaves_nothing_undone(error: type[BaseException]) -> None:
    """What is left of a turn comes after it: the tasks behind this one, and what is to be read."""
    core = base.new_core(["tcp://127.0.0.1:1"], ClientSettings(), seed=1, now=time.monotonic())
    carrier = Carrier(core)
    noted: list[int] = []

    async def wait(number: int) -> None:
        call = driver.begin(Options(), "shop.total", b"\x90")
        carrier.ending.append(call)
        await driver.ended(call)
        noted.append(number)
        if number == 1:
            raise error

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        driver = LoopDriver(core, carrier, loop)
        tasks = [loop.create_task(wait(number)) for number in range(3)]
        with pytest.raises(error):
            loop.run_until_complete(asyncio.wait(tasks, timeout=10.0))
        assert noted == [0, 1]
        turns = carrier.turns
        loop.run_until_complete(asyncio.wait([tasks[0], tasks[2]], timeout=10.0))
        assert noted == [0, 1, 2]
        assert carrier.turns > turns
        assert isinstance(tasks[1].exception(), error)


def test_the_last_task_of_a_turn_may_end_the_program_too() -> None:
    core = base.new_core(["tcp://127.0.0.1:1"], ClientSettings(), seed=1, now=time.monotonic())
    carrier = Carrier(core)

    async def wait() -> None:
        call = driver.begin(Options(), "shop.total", b"\x90")
        carrier.ending.append(call)
        await driver.ended(call)
        raise SystemExit(3)

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        driver = LoopDriver(core, carrier, loop)
        task = loop.create_task(wait())
        with pytest.raises(SystemExit):
            loop.run_until_complete(asyncio.wait([task], timeout=10.0))
        turns = carrier.turns
        loop.run_until_complete(asyncio.sleep(0))
        assert carrier.turns > turns  # it was told that there is more to read
        assert isinstance(task.exception(), SystemExit)
