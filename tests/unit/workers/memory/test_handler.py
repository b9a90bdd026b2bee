"""The service over a store in memory: lanes, methods, streams, in one process without sockets."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import ConfigError, InvalidArgument, Overloaded, StoreBusy, VersionConflict
from mesh.settings import Settings
from mesh.testing import MeshTest
from tests.conformance.memory.conftest import opened_lmdb
from tests.conformance.memory.driver import Clock
from workers.memory.backend import Backend
from workers.memory.backends.inmemory import MemoryBackend
from workers.memory.handler import CHANGING, READING, MemoryHandler
from workers.memory.process import backend_maker
from workers.memory.watching import MAX_WATCHERS, MOST, Hub, stream


def handler(backend: Backend | None = None) -> MemoryHandler:
    """One that writes at once."""
    made = MemoryHandler(backend or MemoryBackend(64_000_000, clock=Clock()))
    made.service.lane("writer", capacity=100, execute=made.execute)
    made.service.lane("watch", capacity=100)
    return made


def test_who_serves_what() -> None:
    service = MemoryHandler(MemoryBackend(64_000_000)).service
    assert service.lanes() == {"": 256, "scan": 64, "writer": 0, "watch": 0}
    assert {name for name, method in service.methods.items() if method.lane == "writer"} == set(
        CHANGING
    )
    for name in READING:
        assert service.methods[name].lane == "" and service.methods[name].idempotent
    assert not service.methods["increment"].idempotent, "this store does not recognise repeats"
    assert service.methods["persist"].idempotent


@pytest.mark.parametrize("backend", ["lmdb", "memory"])
def test_what_cannot_be_is_refused_before_anything_is_started(backend: str) -> None:
    performance = replace(Settings().performance, cache_size=1_000_000)
    memory = replace(Settings().services.memory, backend=backend, data="data")
    services = replace(Settings().services, memory=memory)
    with pytest.raises(ConfigError, match="give it at least 4MiB"):
        backend_maker(replace(Settings(), performance=performance, services=services))


def test_each_method_says_what_it_does() -> None:
    for method in handler().service.methods.values():
        assert method.doc and method.signature


def test_calls() -> None:
    with MeshTest(handler().service) as m:
        assert m.call("memory.set", "k", {"a": 1}) == 1
        assert m.call("memory.get", "k") == {"a": 1}
        assert m.call("memory.at_writer", "get", ["k"]) == {"a": 1}
        with pytest.raises(VersionConflict) as caught:
            m.call("memory.compare_and_set", "k", 2, 9)
        assert caught.value.data["version"] == 1
        for number in range(3):
            m.call("memory.set", f"x{number}", number)
        assert list(m.stream("memory.scan", "x", values=True)) == [["x0", 0], ["x1", 1], ["x2", 2]]


@pytest.mark.parametrize(
    ("method", "args", "complaint"),
    [
        ("set", ["k"], "missing a required argument: 'value'"),
        ("set", [5, 1], "keys are text"),
        ("get", [""], "key is empty"),
        ("at_writer", ["set", ["k", 1]], "at_writer: 'set' is not one of"),
        ("at_writer", ["get", []], "missing"),
        ("at_writer", ["get", 5], "a list"),
        ("at_writer", [["get"]], "is not one of"),
    ],
)
def test_refusals(method: str, args: list[Any], complaint: str) -> None:
    with MeshTest(handler().service) as m, pytest.raises(InvalidArgument, match=complaint):
        m.call(f"memory.{method}", *args)


def test_too_much_to_be_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.memory.change.MAX_SWEEPS", 1)
    made = handler()
    with MeshTest(made.service) as m:
        for first in (0, 900):
            m.call("memory.set_many", {f"k{n}": n for n in range(first, first + 900)})
        assert m.call("memory.invalidate", prefix="k") == 1000
        for verb, what in (("invalidate", {"prefix": "x"}), ("clear", {"ns": "default"})):
            with pytest.raises(Overloaded, match="still being cleared") as caught:
                m.options(retries=0).call(f"memory.{verb}", **what)
            assert caught.value.retry_after == 1.0
        while made.backend.tick():
            pass
        assert m.call("memory.clear", ns="default") == 0


def test_each_call_of_a_batch_has_its_own_outcome() -> None:
    with MeshTest(handler().service) as m:
        results = m.batch("memory.set", [("a", 1), ("", 2), ("b",), ("c", 3)])
        assert [type(result).__name__ for result in results] == [
            "int", "InvalidArgument", "InvalidArgument", "int",
        ]  # fmt: skip
        assert m.call("memory.get_many", ["a", "b", "c"]) == {"a": 1, "c": 3}


def test_values_arrive_as_they_were_sent() -> None:
    """They are handed on packed: alone, many at once, in a batch with and without a refusal."""
    values = {"n": None, "b" * 31: b"\x00" * 300, "s" * 32: {1, 2}, "é" * 150: [1.5, {"a": ()}]}
    expected = {**values, "é" * 150: [1.5, {"a": []}]}
    with MeshTest(handler().service) as m:
        m.call("memory.set_many", values)
        for key, value in expected.items():
            assert m.call("memory.get", key) == value
        assert m.call("memory.get_many", [*values, "none", "n"]) == expected
        assert m.call("memory.get_many", [f"{n}" for n in range(20)]) == {}
        assert m.batch("memory.get", [*values, "none"]) == [*expected.values(), None]
        *found, refused = m.batch("memory.get", [*values, ""])
        assert found == [*expected.values()] and isinstance(refused, InvalidArgument)
        many = {f"k{n}": n for n in range(300)}
        m.call("memory.set_many", many)
        assert m.call("memory.get_many", list(many)) == many
        assert m.batch("memory.get", list(many)) == list(many.values())


def test_watching_and_waiting() -> None:
    async def scenario() -> None:
        async with MeshTest(handler().service) as m:
            seen = []
            async for event in m.stream("memory.watch", "a"):
                seen.append((event["kind"], event["key"]))
                if event["kind"] == "watching":
                    waiting = asyncio.create_task(m.call("memory.wait", "abc", 30))
                    await m.call("memory.set", "b", 1)
                    await m.call("memory.set", "abc", 1)
                    await m.call("memory.clear", ns="default")
                if event["kind"] == "cleared":
                    break
            assert seen == [("watching", "a"), ("set", "abc"), ("cleared", "")]
            assert await waiting is True
            assert await m.call("memory.wait", "never", 0.05) is False

    asyncio.run(scenario())


def test_waiting_in_a_relaxed_namespace(tmp_path: Path) -> None:
    """What is there already is not on disk yet."""
    backend = opened_lmdb(tmp_path / "store", Clock())

    async def scenario() -> None:
        async with MeshTest(handler(backend).service) as m:
            await m.call("memory.configure", ns="fast", durability="relaxed")
            await m.call("memory.set", "k", 1, ns="fast")
            token = await m.call("memory.lock", "held", 60, ns="fast")
            assert await m.call("memory.wait", "k", 30, ns="fast") is True
            assert await m.call("memory.wait", "free", 30, lock=True, ns="fast") is True
            assert await m.call("memory.wait", "held", 0.05, lock=True, ns="fast") is False
            assert await m.call("memory.unlock", "held", token, ns="fast")

    asyncio.run(asyncio.wait_for(scenario(), 20))
    backend.close()


def test_what_is_told_to_a_distant_store_holds_up_nobody() -> None:
    """It may take long, and comes in the order in which watchers come and go."""
    told: list[set[str]] = []
    go_on = threading.Event()

    def follow(namespaces: set[str]) -> None:
        assert go_on.wait(10)
        told.append(namespaces)

    async def run() -> None:
        hub = Hub(follow, remote=True)
        joining = [asyncio.create_task(hub.join(ns, b"")) for ns in ("a", "b")]
        await asyncio.sleep(0)
        assert not any(task.done() for task in joining)
        go_on.set()
        first, _ = await asyncio.gather(*joining)
        assert told[-1] == {"a", "b"}
        hub.leave(first)
        async with asyncio.timeout(10):
            while told[-1] != {"b"}:
                await asyncio.sleep(0.001)

    asyncio.run(run())


def test_who_watches_is_told_when_the_process_leaves() -> None:
    """What has happened before is still handed over."""

    async def run() -> None:
        hub = Hub(lambda namespaces: None)
        watcher, idle = await hub.join("n", b"k"), await hub.join("n", b"other")
        hub.report([("n", b"k", "set", 1), ("n", b"k", "set", 2)])
        hub.close()
        seen = []
        with pytest.raises(StoreBusy):
            async for event in stream(watcher):
                seen.append(event["version"])
        assert seen == [1, 2]
        with pytest.raises(StoreBusy):
            await idle.wait()
        with pytest.raises(StoreBusy):
            await hub.join("n", b"k")

    asyncio.run(run())


def test_a_slow_watcher_is_told_what_it_missed() -> None:
    async def run() -> None:
        hub = Hub(lambda namespaces: None)
        watcher = await hub.join("n", b"")
        hub.report([("n", b"k", "set", 1)] * (MOST + 7) + [("other", b"k", "set", 1)])
        assert (len(watcher.waiting), watcher.missed) == (MOST, 7)
        hub.leave(watcher)
        hub.report([("n", b"k", "set", 2)])
        assert watcher.missed == 7
        for _ in range(MAX_WATCHERS):
            await hub.join("n", b"")
        with pytest.raises(Overloaded):
            await hub.join("n", b"")

    asyncio.run(run())
