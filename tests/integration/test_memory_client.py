"""`m.memory` of both clients against the service as it runs."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh import Mesh, connect, connect_async
from mesh.client.memory import AsyncMemory, Change, LockInfo, Memory
from mesh.errors import (
    DeadlineExceeded,
    InvalidArgument,
    LockLost,
    ServiceNotFound,
    VersionConflict,
)
from tests import support

NUMBERS = itertools.count()


def start_memory(
    start: support.Start, broker: str, *words: str, processes: int = 2
) -> support.Child:
    """The service, once all its processes are registered."""
    child = start(
        sys.executable, "-m", "workers", "memory", "--broker", broker, *words,
        "--processes", str(processes),
    )  # fmt: skip
    child.expect_all(r"^serving memory pid=(\d+)$", processes, timeout=20)
    return child


@pytest.fixture
def broker(process: support.Start) -> str:
    """The endpoint of a broker of the test's own."""
    _, (endpoint,) = support.start_broker(process)
    return endpoint


@pytest.fixture
def data(process: support.Start, broker: str, tmp_path: Path) -> Path:
    """The directory of a service of the test's own, which runs."""
    start_memory(process, broker, "--data", str(tmp_path / "m"))
    return tmp_path / "m"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a broker with a service for all tests that do no harm to it."""
    started: list[support.Child] = []

    def start(*command: str, **options: Any) -> support.Child:
        started.append(support.Child(command, **options))
        return started[-1]

    try:
        _, (endpoint,) = support.start_broker(start)
        start_memory(start, endpoint, "--data", str(tmp_path_factory.mktemp("memory")))
        yield endpoint
    finally:
        for child in reversed(started):
            child.stop()


@pytest.fixture
def ns(request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own."""
    return f"{request.node.name[:50]}.{next(NUMBERS)}"


@pytest.fixture
def mesh(shared: str) -> Iterator[Mesh]:
    with connect(shared) as m:
        yield m


class Awaiting:
    """The asyncio client as the blocking one: every method runs the loop until it has its result.

    So one suite of tests is about both.
    """

    def __init__(self, inner: Any, run: Callable[[Any], Any]) -> None:
        self._inner = inner
        self._run = run

    def __getattr__(self, name: str) -> Any:
        return self._wrapped(getattr(self._inner, name))

    def __len__(self) -> int:
        return len(self._inner)

    def __enter__(self) -> Any:
        return Awaiting(self._run(self._inner.__aenter__()), self._run)

    def __exit__(self, *about: Any) -> None:
        self._run(self._inner.__aexit__(*about))

    def _wrapped(self, found: Any) -> Any:
        if callable(found):
            return lambda *args, **kwargs: self._wrapped(found(*args, **kwargs))
        if inspect.isawaitable(found):
            return self._run(found)
        if hasattr(found, "__anext__"):
            return self._iterate(found)
        return Awaiting(found, self._run) if type(found).__module__.endswith(".aio") else found

    def _iterate(self, items: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._run(anext(items))
                except StopAsyncIteration:
                    return
        finally:
            self._run(items.aclose())


@pytest.fixture(params=["blocking", "asyncio"])
def memory(request: pytest.FixtureRequest, shared: str, ns: str) -> Iterator[Any]:
    """The client's memory: the blocking one, and the asyncio one made to look the same."""
    if request.param == "blocking":
        with connect(shared) as m:
            yield m.memory.namespace(ns)
        return
    loop = asyncio.new_event_loop()
    found = connect_async(shared)

    async def memory_of() -> AsyncMemory:
        return found.memory.namespace(ns)

    yield Awaiting(loop.run_until_complete(memory_of()), loop.run_until_complete)
    loop.run_until_complete(found.close())
    loop.close()


def test_entries(memory: Memory) -> None:
    assert memory.get("k") is None
    assert memory.get("k", "default") == "default"
    version = memory.set("k", {"a": [1, None]}, ttl=60, tags=["t"])
    assert memory.get("k", "default") == {"a": [1, None]}
    entry = memory.entry("k")
    assert entry is not None
    assert (entry.value, entry.version, entry.tags, entry.fresh) == (
        {"a": [1, None]}, version, ("t",), True,
    )  # fmt: skip
    assert 50 < entry.ttl <= 60
    assert memory.entry("none") is None

    assert memory.set("k", 2, only_if="absent") is None
    later = memory.set("k", 2, only_if="present", keep_ttl=True)
    assert later is not None and later > version
    left = memory.ttl("k")
    assert left is not None and 50 < left <= 60
    assert memory.persist("k") is True
    assert memory.ttl("k") == math.inf
    assert memory.ttl("none") is None
    assert memory.expire("k", 5, only_if="some") is False
    assert memory.expire("k", 5) is True
    assert memory.set("gone", 1, expire_at=1.0) > 0
    assert memory.get("gone") is None

    assert memory.set("nothing", None) > 0
    assert memory.get("nothing", "default") is None
    assert memory.exists("k", "nothing", "none") == 2
    assert memory.get_and_touch("k", 100) == 2
    assert memory.get_and_touch("none", 100, "default") == "default"
    assert memory.get_and_delete("k") == 2
    assert memory.get_and_delete("k", "default") == "default"


def test_versions(memory: Memory) -> None:
    first = memory.compare_and_set("k", 1, 0)
    second = memory.compare_and_set("k", 2, first, ttl=60)
    with pytest.raises(VersionConflict) as caught:
        memory.compare_and_set("k", 3, first)
    assert caught.value.data["version"] == second
    with pytest.raises(VersionConflict):
        memory.delete("k", version=first)
    assert memory.delete("k", "none", version=None) == 1


def test_numbers(memory: Memory) -> None:
    assert [memory.increment("n", ttl=60), memory.increment("n", 10), memory.increment("n", -1)] \
        == [1, 11, 10]  # fmt: skip
    assert memory.increment("f", 0.5) == 0.5
    assert memory.get("n") == 10
    memory.set("text", "x")
    with pytest.raises(InvalidArgument):
        memory.increment("text")


def test_many_keys(memory: Memory) -> None:
    items = {f"x:{number:04}": number for number in range(1000)}
    assert memory.set_many(items, tags=("even",)).keys() == items.keys()
    assert memory.get_many([*[*items][:999], "none"]) == dict([*items.items()][:999])
    memory.set("y", 1)
    assert list(memory.scan("x:")) == list(items)
    assert dict(memory.scan_items("x:", page=300)) == items
    page = memory.scan_page("x:", limit=10, values=True)
    assert page.items == [*items.items()][:10]
    assert memory.scan_page("x:", limit=1000, cursor=page.cursor).items[0] == "x:0010"
    assert memory.invalidate(prefix="x:000") == 10
    assert memory.invalidate(tag="even") == 990
    assert list(memory.scan()) == ["y"]


def test_namespaces(memory: Memory, ns: str) -> None:
    sessions = memory.namespace(f"other {ns}")
    sessions.set("k", 1)
    memory.set("k", 2)
    assert (sessions.get("k"), memory.get("k")) == (1, 2)
    sessions.configure(quota="1MB")
    assert memory.stats()["namespaces"][f"other {ns}"]["entries"] == 1
    assert sessions.clear() == 1
    assert (sessions.get("k"), memory.get("k")) == (None, 2)


def test_a_relaxed_namespace_is_read_where_it_is_known(memory: Memory, ns: str) -> None:
    fast = memory.namespace(f"fast {ns}")
    fast.configure(durability="relaxed")
    fast.set("k", 1)
    assert fast.get("k") == 1
    assert fast.entry("k").value == 1  # type: ignore[union-attr]
    assert list(fast.scan()) == ["k"]
    assert fast.get_or_set("other", lambda: 5, ttl=60) == 5


def test_batches(memory: Memory) -> None:
    version = memory.set("cart", ["tea"])
    batch = memory.batch().require("cart", version).require("order", 0)
    batch.set("order", ["tea"], ttl=60).delete("cart").increment("orders").get("order")
    assert len(batch) == 4
    answers = batch.run()
    assert answers[1:] == [1, 1, ["tea"]]
    with pytest.raises(VersionConflict):
        batch.run()
    assert memory.get("orders") == 1


def test_what_the_service_refuses_is_said(mesh: Mesh) -> None:
    memory = mesh.memory
    with pytest.raises(InvalidArgument, match="give one of them"):
        memory.set("k", 1, ttl=1, expire_at=5.0)
    with pytest.raises(InvalidArgument, match="give a ttl"):
        memory.set("k", 1, stale=5)
    with pytest.raises(InvalidArgument, match="give a ttl"):
        memory.get_or_set("k", dict, stale_ttl=5)
    assert memory.get_or_set("k", lambda: 5) == 5, "the reservation was not given back"


def test_no_service_says_how_to_start_one(broker: str) -> None:
    with connect(broker, timeout=20, retries=0) as m:
        with pytest.raises(ServiceNotFound, match="python -m workers memory") as caught:
            m.memory.get("k")
        assert "--data DIR" in str(caught.value)


# -------------------------------------------------------------------- computing once


def test_one_computes_for_all_clients(shared: str, ns: str) -> None:
    """Threads with clients of their own; then one that finds it."""
    computed: list[int] = []
    begun = threading.Barrier(8)

    def make() -> int:
        computed.append(1)
        time.sleep(0.2)  # the computation
        return 42

    found: list[int] = []

    def ask() -> None:
        with connect(shared) as m:
            memory = m.memory.namespace(ns)
            begun.wait()
            found.append(memory.get_or_set("k", make, ttl=60))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, computed) == ([42] * 8, [1])


def test_coroutines_compute_once(shared: str, ns: str) -> None:
    computed: list[int] = []

    async def make() -> str:
        computed.append(1)
        await asyncio.sleep(0.05)
        return "page"

    async def run() -> list[str]:
        async with connect_async(shared) as m:
            return await asyncio.gather(
                *(m.memory.namespace(ns).get_or_set("k", make, ttl=60) for _ in range(50))
            )

    assert asyncio.run(run()) == ["page"] * 50
    assert computed == [1]


def test_a_failed_computation_is_tried_by_the_next(memory: Memory) -> None:
    def fail() -> int:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        memory.get_or_set("k", fail)
    begun = time.monotonic()
    assert memory.get_or_set("k", lambda: 5) == 5
    assert time.monotonic() - begun < 10, "it waited for a reservation that had been given back"


def test_old_values_serve_while_one_computes(shared: str, ns: str) -> None:
    computing, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        computing.set()
        assert go_on.wait(20)
        return "new"

    with connect(shared) as m:
        memory = m.memory.namespace(ns)
        assert memory.get_or_set("k", lambda: "old", ttl=0.05, stale_ttl=60) == "old"
        while memory.get("k") is not None:
            time.sleep(0.01)
        assert memory.get_or_set("k", slow, ttl=60, stale_ttl=60) == "old"
        assert computing.wait(10)
        assert memory.get_or_set("k", slow, ttl=60, stale_ttl=60) == "old"
        go_on.set()
        while memory.get("k") is None:
            time.sleep(0.01)
        assert memory.get_or_set("k", slow, ttl=60) == "new"


def test_what_was_deleted_meanwhile_is_not_kept(mesh: Mesh, ns: str) -> None:
    memory = mesh.memory.namespace(ns)

    def make() -> str:
        memory.delete("k")
        return "outdated"

    assert memory.get_or_set("k", make, ttl=60) == "outdated"
    assert memory.get("k") is None


# -------------------------------------------------------------------- locks


def test_locks(memory: Memory) -> None:
    lock = memory.lock("l", ttl=30, owner="me")
    assert not lock.held
    with lock:
        assert lock.held
        lock.check()
        first = lock.token
        info = memory.lock_info("l")
        assert info == LockInfo(first, "me", info.ttl if info else 0)
        other = memory.lock("l", wait=0)
        assert other.acquire() is False
        with pytest.raises(DeadlineExceeded, match="held by others"), other:
            pass
        assert lock.extend(60) is True
        with pytest.raises(InvalidArgument, match="ttl=0"):
            lock.extend(0)
    assert not lock.held
    assert memory.lock_info("l") is None
    with pytest.raises(LockLost, match="not held"):
        lock.check()
    with other:
        assert other.token > first


def test_a_lock_is_extended_while_it_is_held(mesh: Mesh, ns: str) -> None:
    """For three times its time; the key of the same name has nothing to do with it."""
    memory = mesh.memory.namespace(ns)
    memory.set("l", "a value")
    with memory.lock("l", ttl=0.6) as lock:
        until = time.monotonic() + 1.8
        other = memory.lock("l", wait=1.8)
        assert other.acquire() is False
        assert time.monotonic() >= until - 0.1
        lock.check()


def test_a_lock_that_was_lost_is_noticed(memory: Memory) -> None:
    with pytest.raises(LockLost, match="somebody else"), memory.lock("l", ttl=30) as lock:
        info = memory.lock_info("l")
        assert info is not None
        steal(memory, info.token)
        assert lock.extend() is False
        assert not lock.held


def steal(memory: Any, token: int) -> None:
    """What an operator may do: give somebody else's lock back."""
    inner = memory._inner if isinstance(memory, Awaiting) else memory
    if isinstance(memory, Awaiting):
        memory._run(inner._caller.call("memory.unlock", "l", token, ns=inner._ns))
    else:
        inner._caller.call("memory.unlock", "l", token, ns=inner._ns)


def test_locks_exclude_each_other(shared: str, ns: str) -> None:
    """A counter that is read and written under the lock loses nothing; tokens only grow."""
    tokens: list[int] = []

    def work() -> None:
        with connect(shared) as m:
            memory = m.memory.namespace(ns)
            for _ in range(10):
                with memory.lock("l", ttl=20) as lock:
                    tokens.append(lock.token)
                    memory.set("n", memory.get("n", 0) + 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with connect(shared) as m:
        memory = m.memory.namespace(ns)
        assert memory.get("n") == 40
    assert tokens == sorted(set(tokens))


def test_coroutines_exclude_each_other(shared: str, ns: str) -> None:
    async def work(m: Any) -> None:
        for _ in range(5):
            async with m.memory.namespace(ns).lock("l", ttl=20):
                await m.memory.namespace(ns).set("n", await m.memory.namespace(ns).get("n", 0) + 1)

    async def run() -> Any:
        async with connect_async(shared) as m:
            await asyncio.gather(*(work(m) for _ in range(5)))
            return await m.memory.namespace(ns).get("n")

    assert asyncio.run(run()) == 25


# -------------------------------------------------------------------- watching


def test_changes_are_watched(memory: Memory) -> None:
    changes = memory.watch("user:")
    assert next(changes) == Change("watching", "user:", 0)
    version = memory.set("user:1", 1)
    memory.set("other", 1)
    memory.delete("user:1")
    assert next(changes) == Change("set", "user:1", version)
    assert next(changes).kind == "deleted"
    changes.close()  # type: ignore[attr-defined]


def test_a_watch_outlives_the_writer(broker: str, data: Path) -> None:
    from workers.store import lock_holder

    with connect(broker) as m:
        changes = m.memory.watch()
        assert next(changes).kind == "watching"
        holder = lock_holder(data)
        assert holder is not None
        os.kill(holder, signal.SIGKILL)
        assert next(changes).kind == "watching"
        version = m.memory.set("k", 1)
        assert next(changes) == Change("set", "k", version)
        changes.close()  # type: ignore[attr-defined]


def test_a_service_that_stops_ends_its_watches(process: support.Start, broker: str) -> None:
    """Without them it would drain for as long as somebody watches."""
    child = start_memory(process, broker, "--backend", "memory", processes=1)
    with connect(broker) as m:
        changes = m.memory.watch()
        assert next(changes).kind == "watching"
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=10) == 0
        start_memory(process, broker, "--backend", "memory", processes=1)
        assert next(changes).kind == "watching"
        changes.close()  # type: ignore[attr-defined]
