"""MeshTest, and through it what handlers of every kind see."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from mesh import errors
from mesh.context import current
from mesh.errors import CallError, MeshError
from mesh.service import Job, Service, Stream
from mesh.testing import MeshTest

SEEN: ContextVar[str] = ContextVar("seen", default="nothing")


def shop() -> Service:
    made = Service("shop", version="1")

    @made.rpc(inline=True, idempotent=True)
    def inline(value: Any) -> Any:
        return value

    @made.rpc
    def plain(value: Any) -> Any:
        return value

    @made.rpc
    async def coroutine(value: Any) -> Any:
        return value

    @made.rpc
    async def nap(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    @made.rpc
    def count(most: int) -> Iterator[int]:
        yield from range(most)

    @made.rpc
    async def acount(most: int) -> AsyncIterator[int]:
        for value in range(most):
            yield value

    @made.rpc
    def add(values: Stream[int]) -> int:
        return sum(values)

    @made.rpc
    async def aadd(values: Stream[int]) -> int:
        return sum([value async for value in values])

    @made.rpc
    async def double(values: Stream[int]) -> AsyncIterator[int]:
        async for value in values:
            yield 2 * value

    @made.batch(max_size=4, max_wait=0.01)
    def lengths(texts: list[str]) -> list[Any]:
        return [ValueError("empty") if not text else (len(text), len(texts)) for text in texts]

    @made.batch(max_size=4, max_wait=0.01)
    async def alengths(texts: list[str]) -> list[int]:
        await asyncio.sleep(0)
        return [len(text) for text in texts]

    @made.batch
    def short(texts: list[str]) -> list[int]:
        return [1]

    @made.rpc
    def fail(kind: str) -> None:
        if kind == "own":
            raise errors.Overloaded("later", retry_after=1.5)
        raise KeyError(kind)

    @made.rpc
    def wrong_inside() -> None:
        raise TypeError("in the handler")

    @made.rpc
    def unsendable() -> Any:
        return {"a": [1, object()]}

    @made.rpc
    async def who() -> Any:
        call = current()
        return [call.service, call.method, call.time_left(), call.metadata]

    @made.rpc
    async def leak() -> str:
        before = SEEN.get()
        SEEN.set("leaked")
        return before

    return made


KINDS = ["inline", "plain", "coroutine"]


async def call_of_every_kind(method: str) -> None:
    async with MeshTest(shop()) as m:
        assert await m.call(f"shop.{method}", {"a": [1, 2]}) == {"a": [1, 2]}
        assert await m.call(f"shop.{method}", value=3) == 3
        assert await m.batch(f"shop.{method}", [1, 2, 3]) == [1, 2, 3]
        assert await asyncio.gather(*[m.call(f"shop.{method}", n) for n in range(50)]) == list(
            range(50)
        )


@pytest.mark.parametrize("method", KINDS)
def test_calls_of_every_kind(method: str) -> None:
    asyncio.run(call_of_every_kind(method))


def test_the_blocking_form() -> None:
    with MeshTest(shop()) as m:
        assert m.call("shop.plain", 1) == 1
        assert m.options(timeout=3).call("shop.coroutine", 2) == 2
        assert list(m.stream("shop.count", 3)) == [0, 1, 2]
        assert m.batch("shop.inline", [1, 2]) == [1, 2]
        with pytest.raises(errors.MethodNotFound):
            m.call("shop.absent")
        m.clock.advance(100)
        assert m.call("shop.plain", 1) == 1


def test_streams_of_every_kind() -> None:
    async def scenario() -> None:
        async with MeshTest(shop()) as m:
            for method in ("shop.count", "shop.acount"):
                found = [value async for value in m.stream(method, 3000)]
                assert found == list(range(3000))
            for method in ("shop.add", "shop.aadd"):
                assert await m.call(method, iter(range(3000))) == sum(range(3000))
            doubled = [value async for value in m.stream("shop.double", iter(range(500)))]
            assert doubled == list(range(0, 1000, 2))
            with pytest.raises(errors.InvalidArgument, match="stream"):
                await m.call("shop.count", 3)

    asyncio.run(scenario())


def test_an_async_handler_must_read_its_stream_with_async_for() -> None:
    async def scenario() -> None:
        made = Service("wrong")

        @made.rpc
        async def add(values: Stream[int]) -> int:
            return sum(values)

        async with MeshTest(made) as m:
            with pytest.raises(errors.RemoteError, match="async for"):
                await m.call("wrong.add", iter([1]))
        assert await aread(Stream([1, 2])) == [1, 2]
        assert list(Stream([1, 2])) == [1, 2]

    async def aread(values: Stream[int]) -> list[int]:
        return [value async for value in values]

    asyncio.run(scenario())


def test_batches_are_gathered_and_fail_singly() -> None:
    async def scenario() -> None:
        async with MeshTest(shop()) as m:
            texts = ["a", "bb", "", "dddd", "eeeee"]
            found: list[Any] = await asyncio.gather(
                *[m.call("shop.lengths", text) for text in texts], return_exceptions=True
            )
            assert [f[0] for i, f in enumerate(found) if i != 2] == [1, 2, 4, 5]
            assert isinstance(found[2], errors.RemoteError)
            assert max(f[1] for i, f in enumerate(found) if i != 2) == 4
            assert await m.call("shop.alengths", "abc") == 3
            outcomes = await m.batch("shop.lengths", ["abc", ("a", "b"), ""])
            assert outcomes[0] == [3, 2]
            assert isinstance(outcomes[1], errors.InvalidArgument)
            assert isinstance(outcomes[2], errors.RemoteError)
            outcomes = await m.batch("shop.short", ["abc", "b"])
            assert all("returned 1 results for 2 calls" in str(e) for e in outcomes)

    asyncio.run(scenario())


def test_errors_say_what_happened() -> None:
    async def scenario() -> None:
        async with MeshTest(shop()) as m:
            with pytest.raises(errors.RemoteError) as remote:
                await m.call("shop.fail", "kind")
            assert (remote.value.kind, remote.value.maybe_executed) == ("KeyError", True)
            with pytest.raises(errors.InvalidArgument, match="missing a required") as refused:
                await m.call("shop.plain")
            assert not refused.value.maybe_executed
            with pytest.raises(errors.RemoteError, match="in the handler"):
                await m.call("shop.wrong_inside")
            with pytest.raises(errors.RemoteError, match=r"result\['a'\]\[1\] cannot be sent"):
                await m.call("shop.unsendable")
            with pytest.raises(errors.Overloaded) as own:
                await m.options(retries=0).call("shop.fail", "own")
            assert own.value.retry_after == 1.5
            outcomes = await m.batch("shop.unsendable", [(), ()])
            assert all(isinstance(outcome, CallError) for outcome in outcomes)

    asyncio.run(scenario())


def test_a_handler_knows_its_call() -> None:
    async def scenario() -> None:
        async with MeshTest(shop()) as m:
            bound = m.options(timeout=5, metadata={"trace": "t"})
            service, method, left, metadata = await bound.call("shop.who")
            assert (service, method, metadata) == ("shop", "who", {"trace": "t"})
            assert 4.9 < left <= 5

    asyncio.run(scenario())
    with pytest.raises(MeshError, match="outside a call"):
        current()
    assert current(None) is None


def test_calls_do_not_share_context() -> None:
    async def scenario() -> None:
        async with MeshTest(shop()) as m:
            assert [await m.call("shop.leak") for _ in range(3)] == ["nothing"] * 3
            found = await asyncio.gather(*[m.call("shop.leak") for _ in range(5)])
            assert found == ["nothing"] * 5

    asyncio.run(scenario())


def test_an_absent_service_takes_no_time() -> None:
    async def scenario() -> None:
        async with MeshTest(shop()) as m:
            begun, begun_at = time.monotonic(), m.clock.now
            with pytest.raises(errors.ServiceNotFound):
                await m.call("nowhere.method")
            assert m.clock.now - begun_at >= 2
            assert time.monotonic() - begun < 2

    asyncio.run(scenario())


def test_a_deadline_ends_a_call_and_cancels_its_handler() -> None:
    async def scenario() -> None:
        cancelled = asyncio.Event()
        slow = Service("slow")

        @slow.rpc
        async def forever() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async with MeshTest(slow) as m:
            with pytest.raises(errors.DeadlineExceeded) as late:
                await m.options(timeout=0.1).call("slow.forever")
            assert late.value.maybe_executed
            await asyncio.wait_for(cancelled.wait(), 5)

    asyncio.run(scenario())


def test_cancelling_reaches_generators() -> None:
    async def scenario() -> None:
        closed = {"sync": threading.Event(), "async": threading.Event()}
        feed = Service("feed")

        @feed.rpc
        def plain() -> Iterator[int]:
            try:
                yield from range(10**9)
            finally:
                closed["sync"].set()

        @feed.rpc
        async def coroutine() -> AsyncIterator[int]:
            try:
                for value in range(10**9):
                    yield value
                    await asyncio.sleep(0)
            finally:
                closed["async"].set()

        async with MeshTest(feed) as m:
            for method, name in (("feed.plain", "sync"), ("feed.coroutine", "async")):
                async with m.stream(method) as items:
                    assert await anext(items) == 0
                for _ in range(500):
                    if closed[name].is_set():
                        break
                    await asyncio.sleep(0.01)
                assert closed[name].is_set(), name

    asyncio.run(scenario())


def test_async_handlers_may_use_timeouts_and_task_groups() -> None:
    async def scenario() -> None:
        made = Service("tasks")

        @made.rpc
        async def bounded() -> str:
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(30)
            except TimeoutError:
                return "in time"
            return "never"

        @made.rpc
        async def grouped() -> int:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(asyncio.sleep(0.001, n)) for n in range(3)]
            return sum(task.result() for task in tasks)

        @made.rpc
        async def rude() -> str:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            return "cancelled my own task"

        async with MeshTest(made) as m:
            calls = [m.call(f"tasks.{name}") for name in ("bounded", "rude", "grouped")] * 5
            found = await asyncio.gather(*calls)
            assert found == ["in time", "cancelled my own task", 3] * 5

    asyncio.run(scenario())


def test_a_batch_of_async_calls_runs_side_by_side() -> None:
    async def scenario() -> None:
        async with MeshTest(shop()) as m:
            begun = time.monotonic()
            assert await m.batch("shop.nap", [0.05] * 100) == [0.05] * 100
            assert time.monotonic() - begun < 2

    asyncio.run(scenario())


def test_kill_loses_what_is_in_hand_and_start_brings_it_back() -> None:
    async def scenario() -> None:
        made = shop()
        async with MeshTest(made) as m:
            pending = asyncio.ensure_future(m.call("shop.nap", 30))
            await asyncio.sleep(0.05)
            m.kill("shop")
            with pytest.raises(errors.WorkerLost) as lost:
                await pending
            assert lost.value.maybe_executed
            await m.start(made)
            assert await m.call("shop.plain", 1) == 1

    asyncio.run(scenario())


def test_lane_executors_run_together_what_has_arrived() -> None:
    async def scenario() -> None:
        runs: list[int] = []
        broken = False
        store = Service("store")

        def execute(jobs: list[Job]) -> None:
            runs.append(len(jobs))
            for job in jobs:
                job.run()
            if broken:
                raise OSError("disk full")

        store.lane("writer", execute=execute)

        @store.rpc(lane="writer")
        def put(key: str) -> str:
            return key

        async with MeshTest(store) as m:
            assert await asyncio.gather(*[m.call(put, str(n)) for n in range(20)]) == [
                str(n) for n in range(20)
            ]
            assert sum(runs) == 20
            assert len(runs) < 20
            assert await m.batch(put, ["a", "b"]) == ["a", "b"]
            broken = True
            with pytest.raises(errors.RemoteError, match="disk full"):
                await m.call(put, "a")

    asyncio.run(scenario())


def test_an_inline_lane_is_run_in_portions() -> None:
    async def scenario() -> None:
        runs: list[int] = []
        store = Service("store")

        def execute(jobs: list[Job]) -> None:
            runs.append(len(jobs))
            for job in jobs:
                job.run()

        store.lane("", execute=execute, inline=True, portion=3)

        @store.rpc
        def get(key: str) -> str:
            return key

        async with MeshTest(store) as m:
            assert await asyncio.gather(*[m.call(get, str(n)) for n in range(20)]) == [
                str(n) for n in range(20)
            ]
            assert sum(runs) == 20
            assert max(runs) == 3

    asyncio.run(scenario())


def test_hooks_and_lifespan_surround_the_serving() -> None:
    order: list[str] = []

    @asynccontextmanager
    async def lifespan(service: Service) -> AsyncIterator[None]:
        order.append(f"enter {service.name}")
        yield
        order.append("leave")

    made = Service("made", lifespan=lifespan)

    @made.on_startup
    def start() -> None:
        order.append("start")

    @made.on_shutdown
    async def stop() -> None:
        order.append("stop")

    @made.on_drain
    def drain() -> None:
        order.append("drain")

    @made.rpc
    def ping() -> str:
        order.append("call")
        return "pong"

    with MeshTest(made) as m:
        assert m.call(ping) == "pong"
    assert order == ["start", "enter made", "call", "drain", "leave", "stop"]


def test_nested_calls_inherit_the_deadline() -> None:
    async def scenario() -> None:
        outer, inner = Service("outer"), Service("inner")
        async with MeshTest(outer_service(outer, inner), inner) as m:
            outer.mesh = m  # type: ignore[attr-defined]
            assert await m.options(timeout=3).call("outer.ask") <= 3

    def outer_service(outer: Service, inner: Service) -> Service:
        @outer.rpc
        async def ask() -> float:
            left: float = await outer.mesh.call("inner.left")  # type: ignore[attr-defined]
            return left

        @inner.rpc
        def left() -> float:
            return current().time_left()

        return outer

    asyncio.run(scenario())


def test_handlers_that_raise_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with MeshTest(shop()) as m:
        for _ in range(3):
            with pytest.raises(errors.RemoteError):
                m.call("shop.fail", "x")
    assert len([r for r in caplog.records if "shop.fail raised KeyError" in r.message]) == 1
