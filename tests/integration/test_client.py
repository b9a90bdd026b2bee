"""Both clients against a real broker and a real service, over sockets."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from mesh import (
    AsyncMesh,
    BrokerLost,
    CallError,
    Cancelled,
    ConfigError,
    DeadlineExceeded,
    InvalidArgument,
    Mesh,
    MethodNotFound,
    RemoteError,
    ServiceNotFound,
    Stream,
    connect,
    connect_async,
)
from mesh.client import sync_driver
from tests import support
from tests.integration import clerk

pytestmark = pytest.mark.timeout(40)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A broker and a service for all tests that harm neither."""
    children: list[support.Child] = []

    def start(*command: str, env: Any = None, cwd: Path = support.ROOT) -> support.Child:
        children.append(support.Child(command, env=env, cwd=cwd))
        return children[-1]

    try:
        _, (found,) = support.start_broker(start)
        serve(start, found)
        yield found
    finally:
        for child in reversed(children):
            child.stop()


def serve(start: support.Start, endpoint: str) -> support.Child:
    target = "tests.integration.clerk:clerk"
    child = start(sys.executable, "-m", "mesh.service", target, "--broker", endpoint)
    child.expect(r"^serving ")
    return child


class Blocking:
    """The asyncio client as if it were the blocking one, so that both pass the same tests."""

    def __init__(self, endpoint: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.mesh = self.run(connect_async(endpoint).__aenter__())
        self.bound: Any = self.mesh

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def options(self, **given: Any) -> Blocking:
        other = object.__new__(Blocking)
        other.loop, other.mesh, other.bound = self.loop, self.mesh, self.bound.options(**given)
        return other

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self.bound.call(*args, **kwargs))

    def batch(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self.bound.batch(*args, **kwargs))

    def stream(self, *args: Any, **kwargs: Any) -> BlockingStream:
        async def begin() -> Any:
            return self.bound.stream(*args, **kwargs)

        return BlockingStream(self, self.run(begin()))

    def close(self) -> None:
        self.run(self.mesh.close())
        self.loop.close()


class BlockingStream:
    def __init__(self, owner: Blocking, stream: Any) -> None:
        self.owner = owner
        self.stream = stream

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return self.owner.run(self.stream.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        self.owner.run(self.stream.close())


@pytest.fixture(params=["sync", "async"])
def mesh(request: pytest.FixtureRequest, endpoint: str) -> Iterator[Mesh]:
    """Either client. Typed as the blocking one."""
    client = connect(endpoint) if request.param == "sync" else Blocking(endpoint)
    yield cast("Mesh", client)
    client.close()


def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, "it did not come to pass"
        time.sleep(0.01)


# -------------------------------------------------------------------- both clients


def test_a_value_comes_back(mesh: Mesh) -> None:
    value = {"list": [1, 2.5, None, True], "bytes": b"\0\1", "text": "中文"}
    assert mesh.call("test.clerk.echo", value) == value
    assert mesh.call("test.clerk.add", 1, right=2) == 3


def test_a_declared_function_is_a_target(mesh: Mesh) -> None:
    assert mesh.call(clerk.add, 4) == 5
    assert list(mesh.stream(clerk.letters, "abc")) == ["a", "b", "c"]


def test_a_large_value_comes_back(mesh: Mesh) -> None:
    value = os.urandom(10_000_000)
    assert mesh.call("test.clerk.echo", value) == value


def test_errors_say_what_happened(mesh: Mesh) -> None:
    with pytest.raises(RemoteError, match="on purpose") as caught:
        mesh.call("test.clerk.fail", "on purpose")
    assert caught.value.kind == "ValueError"
    assert (caught.value.service, caught.value.method) == ("test.clerk", "fail")
    with pytest.raises(MethodNotFound):
        mesh.call("test.clerk.none")
    with pytest.raises(InvalidArgument):
        mesh.call("test.clerk.add")
    with pytest.raises(ServiceNotFound):
        mesh.options(retries=0).call("test.nobody.none")


def test_arguments_that_cannot_be_sent_are_named(mesh: Mesh) -> None:
    with pytest.raises(InvalidArgument, match=r"args\[1\]\['x'\]"):
        mesh.call("test.clerk.add", 1, {"x": object()})
    with pytest.raises(InvalidArgument, match=r"kwargs\['right'\]"):
        mesh.call("test.clerk.add", 1, right=object())
    assert mesh.call("test.clerk.add", 1) == 2


def test_targets_and_options_that_make_no_sense(mesh: Mesh) -> None:
    for target in ("", "clerk", "clerk.", ".clerk", "a..", "clerk.\udcff", len):
        with pytest.raises(ConfigError):
            mesh.call(target)  # type: ignore[arg-type]
    for options in (
        {"timeout": 0},
        {"timeout": 301},
        {"timeout": "1"},
        {"retries": -1},
        {"priority": "urgent"},
        {"credit": 0},
        {"idempotent": 1},
        {"metadata": [1]},
        {"time_out": 1},
    ):
        with pytest.raises(ConfigError):
            mesh.options(**options)


def test_the_deadline_ends_a_call_and_its_handler(mesh: Mesh) -> None:
    before = mesh.call("test.clerk.seen", "cancelled")
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        mesh.options(timeout=0.2).call("test.clerk.nap", 30)
    assert 0.19 <= time.monotonic() - begun < 5.0
    assert isinstance(caught.value, TimeoutError) and caught.value.maybe_executed
    until(lambda: mesh.call("test.clerk.seen", "cancelled") == before + 1)


def test_the_handler_knows_deadline_and_metadata(mesh: Mesh) -> None:
    bound = mesh.options(timeout=7, metadata={"trace": "t1"}, priority="high")
    found = bound.call("test.clerk.context")
    assert 5.0 < found["left"] <= 7.0
    assert found["metadata"] == {"trace": "t1"}
    assert found["id"] != bound.call("test.clerk.context")["id"]


def test_the_broker_answers_for_itself(mesh: Mesh) -> None:
    assert mesh.call("mmi.service", "test.clerk") == b"200"
    assert mesh.call("mmi.service", "test.other") == b"404"
    assert mesh.call("mesh.broker.status")["services"][0]["name"] == "test.clerk"


def test_a_batch_keeps_order_and_errors_in_their_place(mesh: Mesh) -> None:
    found = mesh.batch("test.clerk.add", [1, (2, 3), ("x",), 5])
    assert [found[0], found[1], found[3]] == [2, 5, 6]
    assert isinstance(found[2], RemoteError)
    with pytest.raises(RemoteError):
        mesh.batch("test.clerk.add", [1, ("x",)], raise_errors=True)
    assert mesh.batch("test.clerk.add", []) == []
    assert mesh.batch("test.clerk.add", range(10), max_items=3) == list(range(1, 11))
    failed = mesh.batch("test.clerk.none", [1, 2])
    assert all(isinstance(item, MethodNotFound) for item in failed) and len(failed) == 2


def test_a_long_stream_comes_in_order(mesh: Mesh) -> None:
    assert list(mesh.stream("test.clerk.count", 5000)) == list(range(5000))
    assert list(mesh.options(credit=1).stream("test.clerk.count", 20)) == list(range(20))
    assert list(mesh.stream("test.clerk.count", 0)) == []


def test_a_stream_of_a_plain_method_has_one_item_or_is_refused(mesh: Mesh) -> None:
    try:
        assert list(mesh.stream("test.clerk.add", 1)) == [2]
    except InvalidArgument as error:
        assert "stream" in str(error)


def test_a_stream_that_fails_gives_its_items_first(mesh: Mesh) -> None:
    found = []
    with pytest.raises(RemoteError, match="no more") as caught:
        for item in mesh.stream("test.clerk.broken", 100):
            found.append(item)
    assert found == list(range(100)) and caught.value.kind == "LookupError"


def test_leaving_a_stream_ends_its_generator(mesh: Mesh) -> None:
    before = mesh.call("test.clerk.seen", "closed")
    stream = mesh.stream("test.clerk.count", 10**9)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    stream.close()
    assert next(stream, "over") == "over"
    until(lambda: mesh.call("test.clerk.seen", "closed") == before + 1)


def test_iterators_are_sent_item_by_item(mesh: Mesh, tmp_path: Path) -> None:
    assert mesh.call("test.clerk.total", iter(range(3000))) == sum(range(3000))
    assert mesh.call("test.clerk.total", iter(())) == 0
    assert mesh.call("test.clerk.total", numbers=Stream([1, 2, 3])) == 6
    path = tmp_path / "file"
    path.write_bytes(bytes(300_000))
    with path.open("rb") as file:
        assert mesh.call("test.clerk.length", "ab", file) == 300_002
    with pytest.raises(InvalidArgument, match="two arguments"):
        mesh.call("test.clerk.total", iter([1]), iter([2]))


def test_an_endless_iterator_is_read_only_as_far_as_wanted(mesh: Mesh) -> None:
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield 1

    assert mesh.call("test.clerk.first", numbers(), 10) == 10
    assert taken < 5000


def test_streams_in_both_directions(mesh: Mesh) -> None:
    found = list(mesh.stream("test.clerk.double", iter(range(2000))))
    assert found == list(range(0, 4000, 2))


def test_an_iterator_that_raises_is_heard_of_at_both_ends(mesh: Mesh) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("in the caller")

    with pytest.raises(ZeroDivisionError, match="in the caller"):
        mesh.call("test.clerk.total", numbers())
    assert "in the caller" in mesh.call("test.clerk.seen", "failed")
    with pytest.raises(InvalidArgument, match="item"):
        mesh.call("test.clerk.total", iter([1, object()]))


# -------------------------------------------------------------------- the blocking client


def test_many_threads_share_one_client(endpoint: str) -> None:
    with connect(endpoint) as mesh, ThreadPoolExecutor(16) as pool:

        def work(thread: int) -> list[int]:
            return [mesh.call("test.clerk.echo", thread * 1000 + n) for n in range(150)]

        for thread, found in enumerate(pool.map(work, range(16))):
            assert found == [thread * 1000 + n for n in range(150)]


def test_a_slow_call_does_not_hold_up_other_threads(endpoint: str) -> None:
    with connect(endpoint) as mesh, ThreadPoolExecutor(4) as pool:
        slow = pool.submit(mesh.call, "test.clerk.nap", 1.0)
        until(lambda: mesh._driver.core.calls)
        begun = time.monotonic()
        for n in range(50):
            assert mesh.call("test.clerk.echo", n) == n
        assert time.monotonic() - begun < 0.9
        assert slow.result() == 1.0


def test_submitted_calls_run_at_the_same_time(endpoint: str) -> None:
    with connect(endpoint) as mesh:
        begun = time.monotonic()
        pending = [mesh.submit("test.clerk.nap", 0.3) for _ in range(20)]
        assert not pending[0].done()
        assert [one.result() for one in pending] == [0.3] * 20
        assert time.monotonic() - begun < 3.0
        last = mesh.submit("test.clerk.nap", 30)
        assert last.cancel() and not last.cancel()
        assert isinstance(last.exception(), Cancelled)


def test_closing_ends_calls_in_other_threads(endpoint: str) -> None:
    mesh = connect(endpoint)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(mesh.call, "test.clerk.nap", 30) for _ in range(3)]
        until(lambda: len(mesh._driver.core.calls) == 3)
        mesh.close()
        for call in calls:
            assert isinstance(call.exception(timeout=5), Cancelled)
    mesh.close()
    with pytest.raises(Cancelled):
        mesh.call("test.clerk.echo", 1)


def test_an_interrupted_call_is_cancelled(endpoint: str) -> None:
    with connect(endpoint) as mesh:
        before = mesh.call("test.clerk.seen", "cancelled")
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            mesh.call("test.clerk.nap", 20)
        timer.join()
        until(lambda: mesh.call("test.clerk.seen", "cancelled") == before + 1)


def test_an_abandoned_stream_is_ended_when_it_is_collected(endpoint: str) -> None:
    with connect(endpoint) as mesh:
        before = mesh.call("test.clerk.seen", "closed")
        assert next(mesh.stream("test.clerk.count", 10**9)) == 0
        until(lambda: mesh.call("test.clerk.seen", "closed") == before + 1)


def test_a_forked_child_gets_connections_of_its_own(endpoint: str) -> None:
    with connect(endpoint) as mesh, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(mesh.call, "test.clerk.nap", 0.5)
        until(lambda: mesh._driver.core.calls)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                identity = mesh.call("test.clerk.context")["id"].partition("-")[0]
                found = [mesh.call("test.clerk.echo", n) for n in range(50)] == list(range(50))
                os.write(writing, f"{found} {identity}".encode())
            finally:
                os._exit(0)
        for n in range(50):
            assert mesh.call("test.clerk.echo", n) == n
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            answer, identity = pipe.read().decode().split()
        os.waitpid(child, 0)
        assert answer == "True"
        assert identity != mesh.call("test.clerk.context")["id"].partition("-")[0]
        assert slow.result() == 0.5


def test_a_client_that_was_closed_stays_closed_in_a_forked_child(endpoint: str) -> None:
    mesh = connect(endpoint)
    assert mesh.call("test.clerk.echo", 1) == 1
    mesh.close()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            mesh.call("test.clerk.echo", 2)
            os.write(writing, b"worked")
        except Exception as error:
            os.write(writing, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"Cancelled"
    os.waitpid(child, 0)


def test_an_asyncio_client_in_a_forked_child_says_what_to_do(endpoint: str) -> None:
    async def main() -> None:
        async with connect_async(endpoint) as mesh:
            assert await mesh.call("test.clerk.echo", 1) == 1
            waiting = asyncio.create_task(mesh.call("test.clerk.nap", 0.3))
            await asyncio.sleep(0)
            reading, writing = os.pipe()
            child = os.fork()
            if not child:
                try:
                    await mesh.call("test.clerk.echo", 2)
                    os.write(writing, b"worked")
                except Exception as error:
                    os.write(writing, str(error).encode())
                finally:
                    os._exit(0)
            os.close(writing)
            with os.fdopen(reading, "rb") as pipe:
                assert b"connect anew" in pipe.read()
            os.waitpid(child, 0)
            assert [await mesh.call("test.clerk.echo", n) for n in range(20)] == [*range(20)]
            assert await waiting == 0.3

    asyncio.run(main())


def test_a_stream_belongs_to_the_process_that_began_it(endpoint: str) -> None:
    with connect(endpoint) as mesh:
        items = iter(mesh.stream("test.clerk.count", 5000))
        taken = [next(items) for _ in range(10)]
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                for _ in items:
                    pass
                os.write(writing, b"worked")
            except Exception as error:
                os.write(writing, f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        taken += items
        assert taken == [*range(5000)]
        assert said and said != b"worked", said


def test_without_spinning_it_works_the_same(endpoint: str) -> None:
    with connect(endpoint, spin=0.0) as mesh:
        assert [mesh.call("test.clerk.echo", n) for n in range(100)] == list(range(100))


def test_a_wakeup_is_not_lost_when_another_thread_takes_the_reply(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of overlapping calls; one lost wake-up would stand still until its deadline."""
    monkeypatch.setattr(sync_driver, "IDLE", 0.0)
    with connect(endpoint, timeout=8) as mesh, ThreadPoolExecutor(8) as pool:

        def work(thread: int) -> int:
            for n in range(300):
                if n % 7 == thread % 7:
                    mesh.submit("test.clerk.echo", n).result()
                else:
                    assert mesh.call("test.clerk.echo", n) == n
            return thread

        assert list(pool.map(work, range(8))) == list(range(8))


def test_a_lost_broker_is_noticed_and_found_again(
    process: support.Start, free_port: Callable[[], int]
) -> None:
    bind = f"tcp://127.0.0.1:{free_port()}"
    broker, _ = support.start_broker(process, binds=[bind])
    serve(process, bind)
    with connect(bind, timeout=10) as mesh, ThreadPoolExecutor(2) as pool:
        assert mesh.call("test.clerk.echo", 1) == 1
        safe = pool.submit(mesh.options(idempotent=True).call, "test.clerk.nap", 0.5)
        lost = pool.submit(mesh.call, "test.clerk.nap", 5)
        until(lambda: len(mesh._driver.core.calls) == 2)
        broker.kill()
        killed_at = time.monotonic()
        assert isinstance(lost.exception(timeout=5), BrokerLost)
        assert time.monotonic() - killed_at < 1.0
        support.start_broker(process, binds=[bind])
        assert mesh.call("test.clerk.echo", 2) == 2
        assert safe.result(timeout=10) == 0.5


def test_a_broker_that_drains_is_left_without_an_error(process: support.Start) -> None:
    first, (one,) = support.start_broker(process)
    _, (other,) = support.start_broker(process)
    serve(process, one)
    serve(process, other)
    with connect(one, other) as mesh:
        for n in range(20):
            assert mesh.call("test.clerk.echo", n) == n
        first.send_signal(signal.SIGTERM)
        for n in range(300):
            assert mesh.call("test.clerk.echo", n) == n
        assert first.wait() == 0
        for n in range(20):
            assert mesh.call("test.clerk.echo", n) == n


# -------------------------------------------------------------------- the asyncio client


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Runs a coroutine on a new loop of either kind."""
    module = asyncio if request.param == "asyncio" else pytest.importorskip("uvloop")
    loop = module.new_event_loop()
    yield loop.run_until_complete
    loop.close()


def test_a_thousand_calls_at_once(endpoint: str, run: Callable[..., Any]) -> None:
    async def scene() -> None:
        async with connect_async(endpoint) as mesh:
            for _ in range(3):
                calls = [mesh.call("test.clerk.echo", n) for n in range(1000)]
                assert await asyncio.gather(*calls) == list(range(1000))

    run(scene())


def test_cancelling_a_task_cancels_its_handler(endpoint: str, run: Callable[..., Any]) -> None:
    async def scene() -> None:
        mesh = await connect_async(endpoint)
        before = await mesh.call("test.clerk.seen", "cancelled")
        task = asyncio.ensure_future(mesh.call("test.clerk.nap", 30))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(mesh.call("test.clerk.nap", 30), 0.1)
        async with asyncio.timeout(5):
            while await mesh.call("test.clerk.seen", "cancelled") < before + 2:
                await asyncio.sleep(0.01)
        await mesh.close()

    run(scene())


def test_asynchronous_iterators_are_sent(endpoint: str, run: Callable[..., Any]) -> None:
    async def numbers(limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            if number % 100 == 0:
                await asyncio.sleep(0)
            yield number

    async def scene() -> None:
        async with connect_async(endpoint) as mesh:
            assert await mesh.call("test.clerk.total", numbers(1000)) == sum(range(1000))
            stream = mesh.stream("test.clerk.double", numbers(500))
            assert [item async for item in stream] == list(range(0, 1000, 2))

    run(scene())


def test_the_blocking_client_refuses_asynchronous_iterators(endpoint: str) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    with connect(endpoint) as mesh, pytest.raises(InvalidArgument, match="connect_async"):
        mesh.call("test.clerk.total", numbers())


def test_a_slow_source_does_not_hold_back_what_is_ready(endpoint: str) -> None:
    """Both ends talk in turns: nothing may wait for a full message."""

    async def scene() -> None:
        answers: asyncio.Queue[int] = asyncio.Queue()

        async def questions() -> AsyncIterator[int]:
            number = 1
            for _ in range(8):
                yield number
                number = await answers.get()

        async with connect_async(endpoint, timeout=5) as mesh:
            found = []
            async for answer in mesh.stream("test.clerk.double", questions()):
                found.append(answer)
                answers.put_nowait(answer)
            assert found == [2, 4, 8, 16, 32, 64, 128, 256]

    asyncio.run(scene())


def test_several_loops_in_several_threads(endpoint: str) -> None:
    async def scene(thread: int) -> int:
        async with connect_async(endpoint) as mesh:
            calls = [mesh.call("test.clerk.echo", n) for n in range(200)]
            assert await asyncio.gather(*calls) == list(range(200))
        return thread

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda n: asyncio.run(scene(n)), range(4))) == [0, 1, 2, 3]


def test_an_abandoned_asynchronous_stream_is_ended_too(endpoint: str) -> None:
    async def scene() -> None:
        async with connect_async(endpoint) as mesh, connect_async(endpoint) as other:
            before = await other.call("test.clerk.seen", "closed")
            assert await anext(mesh.stream("test.clerk.count", 10**9)) == 0
            async with asyncio.timeout(5):
                while await other.call("test.clerk.seen", "closed") == before:
                    await asyncio.sleep(0.01)

    asyncio.run(scene())


def test_closing_ends_open_calls(endpoint: str) -> None:
    async def scene() -> None:
        mesh = await connect_async(endpoint)
        task = asyncio.create_task(mesh.call("test.clerk.nap", 30))
        stream = mesh.stream("test.clerk.count", 10**9)
        assert await anext(stream) == 0
        await mesh.close()
        with pytest.raises(Cancelled):
            await task
        with pytest.raises(CallError):
            async for _ in stream:
                pass

    asyncio.run(scene())


def test_an_idle_client_costs_nothing(endpoint: str) -> None:
    async def scene() -> None:
        async with connect_async(endpoint) as mesh:
            await mesh.call("test.clerk.echo", 1)
            await asyncio.sleep(0.3)
            before = time.thread_time()
            await asyncio.sleep(1.0)
            assert time.thread_time() - before < 0.05

    asyncio.run(scene())


def test_the_surface_of_both_clients_is_the_same() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(Mesh) - public(AsyncMesh) == {"submit"}
    assert public(AsyncMesh) <= public(Mesh)
