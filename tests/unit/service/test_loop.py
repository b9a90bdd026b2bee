"""How async handlers share tasks."""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import weakref
from contextvars import ContextVar
from typing import Any

import pytest

from mesh.context import running
from mesh.errors import RemoteError
from mesh.protocol.messages import REQUEST, Message
from mesh.protocol.payload import encode
from mesh.service import Service
from mesh.service.invoke import FINISH, Outbox
from mesh.service.loop import LoopRunner
from mesh.service.requests import Entry, Lane, Request, accept
from mesh.testing import MeshTest

SEEN: ContextVar[str] = ContextVar("seen", default="nothing")


def test_calls_that_never_wait_share_a_task_but_no_context() -> None:
    made = Service("shop", version="1")

    @made.rpc
    async def touch() -> list[object]:
        before = SEEN.get()
        SEEN.set("something")
        return [before, id(asyncio.current_task())]

    async def main() -> None:
        async with MeshTest(made) as m:
            found = [await m.call("shop.touch") for _ in range(3)]
            assert found == [["nothing", found[0][1]]] * 3

    asyncio.run(asyncio.wait_for(main(), 10.0))


def test_calls_that_wait_have_tasks_of_their_own_and_give_them_back() -> None:
    made = Service("shop", version="1")
    go = asyncio.Event()
    waiting: list[object] = []

    @made.rpc
    async def wait() -> int:
        waiting.append(None)
        await go.wait()
        return id(asyncio.current_task())

    async def main() -> None:
        async with MeshTest(made) as m:
            calls = [asyncio.create_task(m.call("shop.wait")) for _ in range(5)]
            while len(waiting) < 5:
                await asyncio.sleep(0)
            go.set()
            assert len({await call for call in calls}) == 5
            before = len(asyncio.all_tasks())
            await m.call("shop.wait")
            assert len(asyncio.all_tasks()) == before

    asyncio.run(asyncio.wait_for(main(), 10.0))


def test_a_handler_that_cancels_its_task_and_returns_harms_nobody() -> None:
    made = Service("shop", version="1")

    @made.rpc
    async def cancel() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "cancelled"

    @made.rpc
    async def nap() -> str:
        await asyncio.sleep(0)
        return "rested"

    async def main() -> None:
        async with MeshTest(made) as m:
            methods = ["cancel", "nap", "cancel", "cancel", "nap"]
            found = await asyncio.gather(*[m.call(f"shop.{name}") for name in methods])
            assert found == ["cancelled", "rested", "cancelled", "cancelled", "rested"]
            assert await m.call("shop.nap") == "rested"

    asyncio.run(asyncio.wait_for(main(), 10.0))


def test_a_runner_with_nothing_to_do_holds_on_to_no_request() -> None:
    made = Service("shop", version="1")
    seen: list[weakref.ref[object]] = []

    class Held:
        pass

    kept: ContextVar[Held] = ContextVar("kept")

    @made.rpc
    async def hold() -> None:
        held = Held()
        kept.set(held)
        seen.append(weakref.ref(held))

    async def main() -> None:
        async with MeshTest(made) as m:
            await m.call("shop.hold")
            await asyncio.sleep(0)
            gc.collect()
            assert seen[0]() is None
            assert running.get() is None

    asyncio.run(asyncio.wait_for(main(), 10.0))


def test_a_result_that_cannot_be_packed_is_an_error_and_nothing_more() -> None:
    made = Service("shop", version="1")

    class Hollow(dict[str, int]):
        def items(self) -> Any:
            raise KeyError("nothing in here")

    @made.rpc
    async def hollow() -> Any:
        return Hollow(a=1)

    async def main() -> None:
        async with MeshTest(made) as m:
            for _ in range(2):
                with pytest.raises(RemoteError, match="result cannot be sent: 'nothing in here'"):
                    await m.call("shop.hollow")

    asyncio.run(asyncio.wait_for(main(), 10.0))


def test_one_that_was_cancelled_while_it_was_parked_is_replaced() -> None:
    outbox = Outbox(lambda: None)
    made = Service("shop", version="1")

    @made.rpc
    async def name() -> str:
        return "well"

    def request() -> Request:
        lane = Lane("", 1)
        entry = Entry(made.methods["name"], lane)
        link: Any = None
        return accept(Message(REQUEST, frames=[encode([[]])]), link, entry, math.inf)

    async def main() -> None:
        runner = LoopRunner(asyncio.get_running_loop(), outbox)
        before = asyncio.all_tasks()
        runner.submit([request()])
        while not outbox:
            await asyncio.sleep(0)
        (parked,) = asyncio.all_tasks() - before
        runner.submit([request()])
        parked.cancel()  # it ends only after the runner has looked for one that is parked
        while len(outbox) < 2:
            await asyncio.sleep(0)
        assert [found[0] for found in outbox.take()] == [FINISH, FINISH]

    asyncio.run(asyncio.wait_for(main(), 10.0))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are never eager before Python 3.12")
def test_a_service_may_let_its_tasks_begin_at_once() -> None:
    made = Service("shop", version="1", concurrency=1000)

    @made.rpc
    async def nap(seconds: float) -> float:
        return await asyncio.create_task(asyncio.sleep(seconds, seconds))

    async def main() -> None:
        eager: Any = getattr(asyncio, "eager_task_factory", None)
        async with MeshTest(made) as m:
            asyncio.get_running_loop().set_task_factory(eager)
            found = await asyncio.gather(*[m.call("shop.nap", 0.01) for _ in range(1000)])
            assert found == [0.01] * 1000

    asyncio.run(asyncio.wait_for(main(), 20.0))
