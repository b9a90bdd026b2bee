"""What a task awaits until its call has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from mesh.ending import Ending

LOOPS: list[Any] = [asyncio.new_event_loop]
try:
    import uvloop

    LOOPS.append(uvloop.new_event_loop)
except ImportError:
    pass

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=LOOPS, ids=lambda factory: factory.__module__.partition(".")[0])
def run(request: pytest.FixtureRequest) -> Run:
    def run_on_loop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main())

    return run_on_loop


async def waiting(*endings: Ending) -> tuple[list[asyncio.Task[None]], list[Any]]:
    """Tasks that wait, each for one ending, and what they noted: themselves, when they went on."""
    noted: list[Any] = []

    async def wait(ending: Ending) -> None:
        await ending
        noted.append(asyncio.current_task())

    tasks = [asyncio.create_task(wait(ending)) for ending in endings]
    await asyncio.sleep(0)
    return tasks, noted


def test_tasks_go_on_within_the_callback_that_wakes_them(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        endings = [Ending(loop) for _ in range(5)]
        tasks, noted = await waiting(*endings)

        def wake_all() -> None:
            for ending in endings:
                ending.wake()
            noted.append("all woken")

        loop.call_soon(wake_all)
        await asyncio.gather(*tasks)
        assert noted == [*tasks, "all woken"]

    run(main)


def test_what_has_ended_is_not_waited_for(run: Run) -> None:
    async def main() -> None:
        ending = Ending(asyncio.get_running_loop())
        ending.wake()
        assert ending.done()
        await ending

    run(main)


def test_a_cancelled_task_says_why_and_is_not_woken_again(run: Run) -> None:
    async def main() -> None:
        ending = Ending(asyncio.get_running_loop())
        (task,), noted = await waiting(ending)
        assert task.cancel("enough")
        asyncio.get_running_loop().call_soon(ending.wake)
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
        await asyncio.sleep(0)
        assert noted == []
        assert not ending.cancel()

    run(main)


def test_a_task_may_be_cancelled_by_one_that_was_woken_before_it(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, second = Ending(loop), Ending(loop)
        (task,), noted = await waiting(second)

        async def cancels() -> None:
            await first
            task.cancel()

        canceller = asyncio.create_task(cancels())
        await asyncio.sleep(0)

        def wake_both() -> None:
            first.wake()
            second.wake()

        loop.call_soon(wake_both)
        await canceller
        with pytest.raises(asyncio.CancelledError):
            await task
        assert noted == []

    run(main)


def test_a_timeout_ends_the_wait(run: Run) -> None:
    async def main() -> None:
        ending = Ending(asyncio.get_running_loop())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await ending

    run(main)


def test_the_task_keeps_its_context(run: Run) -> None:
    name: ContextVar[str] = ContextVar("name", default="none")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ending = Ending(loop)

        async def named() -> str:
            name.set("mine")
            await ending
            return name.get()

        task = asyncio.create_task(named())
        await asyncio.sleep(0)
        loop.call_soon(ending.wake)
        assert await task == "mine"
        assert name.get() == "none"

    run(main)


def test_the_pure_task_of_asyncio_waits_as_well(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ending = Ending(loop)

        async def wait() -> str:
            await ending
            return "went on"

        task: Any = asyncio.tasks._PyTask(wait(), loop=loop)  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        loop.call_soon(ending.wake)
        assert await task == "went on"

    run(main)
