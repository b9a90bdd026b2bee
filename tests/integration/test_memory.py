"""The memory service as it runs: broker, worker processes, clients."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mesh import connect, connect_async
from mesh.errors import InvalidArgument, VersionConflict
from mesh.service.process import EXIT_CONFIG
from tests import support

SOAK = bool(os.environ.get("SAGE_SOAK"))


@pytest.fixture
def broker(process: support.Start) -> str:
    """The endpoint of a broker."""
    _, (endpoint,) = support.start_broker(process)
    return endpoint


def start_memory(
    start: support.Start, broker: str, *words: str, processes: int = 2
) -> tuple[support.Child, list[int]]:
    """The service, once all its processes are registered; its supervisor, and their numbers."""
    child = start(
        sys.executable, "-m", "workers", "memory", "--broker", broker, *words,
        "--processes", str(processes),
    )  # fmt: skip
    found = child.expect_all(r"^serving memory pid=(\d+)$", processes, timeout=20)
    return child, [int(match[1]) for match in found]


def writer_of(data: Path) -> int:
    """The process that writes the store in `data`."""
    from workers.store import lock_holder

    holder = lock_holder(data)
    assert holder is not None, "nobody holds the lock of the store"
    return holder


def test_verbs_over_the_mesh(process: support.Start, broker: str, tmp_path: Path) -> None:
    start_memory(process, broker, "--data", str(tmp_path / "m"))
    with connect(broker) as m:
        assert m.call("memory.get", "k") is None
        version = m.call("memory.set", "k", {"a": [1, None]}, ttl=60, tags=["t"])
        assert m.call("memory.get", "k") == {"a": [1, None]}
        entry = m.call("memory.entry", "k")
        assert (entry["version"], entry["tags"], entry["fresh"]) == (version, ["t"], True)
        assert 59 < entry["ttl"] <= 60
        with pytest.raises(VersionConflict):
            m.call("memory.compare_and_set", "k", 1, version + 1)
        with pytest.raises(InvalidArgument, match="ttl=-1"):
            m.call("memory.set", "k", 1, ttl=-1)
        with pytest.raises(InvalidArgument, match="missing a required argument"):
            m.call("memory.set", "k")
        assert m.call("memory.increment", "n", ttl=5) == 1
        assert m.call("memory.set_many", {"x:1": 1, "x:2": b"\x00"}).keys() == {"x:1", "x:2"}
        assert m.call("memory.get_many", ["x:2", "none", "x:1"]) == {"x:2": b"\x00", "x:1": 1}
        assert list(m.stream("memory.scan", "x:", values=True)) == [["x:1", 1], ["x:2", b"\x00"]]
        assert m.call("memory.get_and_delete", "x:1") == 1
        packed = m.call("memory.get", "x:2", packed=True)
        assert packed == b"\xc4\x01\x00"
        answers = m.call(
            "memory.batch",
            [
                ["set", ["b", 1]],
                ["increment", ["b"], {"by": 2}],
                ["get", ["b"]],
                ["exists", [["b"]]],
            ],
            conditions={"b": 0},
        )
        assert answers[1:] == [3, 3, 1]
        token = m.call("memory.lock", "l", 10, owner="me")
        assert m.call("memory.lock", "l", 10) is None
        assert m.call("memory.lock_info", "l")["token"] == token
        assert m.call("memory.unlock", "l", token) is True
        assert m.call("memory.invalidate", tag="t") == 1
        assert m.call("memory.stats", ns="default")["namespaces"]["default"]["entries"] == 3


def test_a_batch_of_calls_is_one_transaction(
    process: support.Start, broker: str, tmp_path: Path
) -> None:
    start_memory(process, broker, "--data", str(tmp_path / "m"), processes=1)
    with connect(broker) as m:
        results = m.batch("memory.increment", [("n",)] * 50 + [("n", "x")])
        assert results[:50] == list(range(1, 51))
        assert isinstance(results[50], InvalidArgument)
        assert m.call("memory.get", "n") == 50


def test_relaxed_namespaces_are_read_at_the_writer(
    process: support.Start, broker: str, tmp_path: Path
) -> None:
    start_memory(process, broker, "--data", str(tmp_path / "m"))
    with connect(broker) as m:
        m.call("memory.configure", ns="fast", durability="relaxed")
        m.call("memory.set", "k", 1, ns="fast")
        assert m.call("memory.at_writer", "get", ["k"], {"ns": "fast"}) == 1
        with pytest.raises(InvalidArgument) as caught:
            m.call("memory.get", "k", ns="fast")
        assert caught.value.data == {"lane": "writer"}


@pytest.mark.timeout(600 if SOAK else 60)
def test_the_writer_dies_under_load(process: support.Start, broker: str, tmp_path: Path) -> None:
    """Nothing acknowledged is lost, and no increment is done twice, over kills of the writer."""
    rounds = 30 if SOAK else 3
    data = tmp_path / "m"
    start_memory(process, broker, "--data", str(data))
    acknowledged: dict[str, int] = {}
    stop = threading.Event()
    failures: list[BaseException] = []

    def load(name: str) -> None:
        try:
            with connect(broker) as m:
                while not stop.is_set():
                    found = m.call("memory.increment", name)
                    assert found == acknowledged.get(name, 0) + 1, name
                    acknowledged[name] = found
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=load, args=(f"n{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    with connect(broker) as m:
        for turn in range(rounds):
            before = m.call("memory.increment", "turn")
            assert before == turn + 1
            os.kill(writer_of(data), signal.SIGKILL)
            assert m.call("memory.increment", "after") == turn + 1
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures
        for name, number in acknowledged.items():
            assert m.call("memory.get", name) == number
        assert len(acknowledged) == len(threads)


@pytest.mark.parametrize("backend", ["lmdb", "memory"])
def test_a_second_store_is_refused_while_the_first_serves(
    process: support.Start, broker: str, tmp_path: Path, backend: str
) -> None:
    def words(name: str) -> list[str]:
        return ["--data", str(tmp_path / name)] if backend == "lmdb" else ["--backend", "memory"]

    first, _ = start_memory(process, broker, *words("a"), processes=1)
    with connect(broker) as m:
        m.call("memory.set", "k", "of the first")
        second = process(
            sys.executable, "-m", "workers", "memory", "--broker", broker, *words("b"),
            "--processes", "1",
        )  # fmt: skip
        second.expect("a second store for .*open the same store, stop those workers", timeout=20)
        assert m.call("memory.get", "k") == "of the first"
        first.send_signal(signal.SIGTERM)
        second.expect(r"^serving memory pid=\d+$", timeout=20)
        assert m.options(idempotent=True).call("memory.get", "k") is None


def test_two_services_over_one_directory_take_turns(
    process: support.Start, broker: str, tmp_path: Path
) -> None:
    data = tmp_path / "m"
    first, (one,) = start_memory(process, broker, "--data", str(data), processes=1)
    _, (other,) = start_memory(process, broker, "--data", str(data), processes=1)
    with connect(broker) as m:
        assert m.call("memory.increment", "n") == 1
        assert writer_of(data) == one
        first.send_signal(signal.SIGTERM)
        assert m.call("memory.increment", "n") == 2
        assert first.wait() == 0
        assert m.call("memory.increment", "n") == 3
        assert writer_of(data) == other


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a namespace of its own")
def test_a_second_container_on_one_volume_waits_for_its_turn_outside(
    process: support.Start, broker: str, tmp_path: Path
) -> None:
    """It is refused and ends; started again when the first one is gone, it has what was kept."""
    container = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if process(*container, "true").wait():
        pytest.skip("namespaces cannot be made here")
    words = (
        sys.executable, "-m", "workers", "memory", "--broker", broker,
        "--data", str(tmp_path / "m"), "--processes", "1",
    )  # fmt: skip
    first = process(*words)
    first.expect(r"^serving memory pid=\d+$", timeout=20)
    with connect(broker) as m:
        m.call("memory.set", "k", "of the first")
        second = process(*container, *words)
        second.expect("in use by another container or machine", timeout=20)
        assert second.wait() == EXIT_CONFIG
        m.call("memory.set", "k", "of the first, still")
        first.send_signal(signal.SIGTERM)
        assert first.wait() == 0
        process(*container, *words).expect(r"^serving memory pid=\d+$", timeout=20)
        assert m.call("memory.get", "k") == "of the first, still"


def test_the_writer_lane_is_claimed_with_the_epoch_of_the_store(
    process: support.Start, broker: str, tmp_path: Path
) -> None:
    start_memory(process, broker, "--data", str(tmp_path / "m"))
    with connect(broker) as m:
        m.call("memory.set", "k", 1)
        before = {w["store"]["uuid"] for w in m.call("mesh.broker.status")["workers"]}
        assert len(before) == 1
        os.kill(writer_of(tmp_path / "m"), signal.SIGKILL)
        m.call("memory.set", "k", 2)
        counters = m.call("mesh.broker.status")["counters"]
        assert counters.get("refused:old_epoch", 0) == counters.get("closed:old_epoch", 0) == 0


def test_a_stopped_writer_is_killed_by_its_supervisor(
    process: support.Start, broker: str, tmp_path: Path
) -> None:
    data = tmp_path / "m"
    child, _ = start_memory(process, broker, "--data", str(data))
    with connect(broker) as m:
        m.call("memory.set", "k", 1)
        stopped = writer_of(data)
        os.kill(stopped, signal.SIGSTOP)
        child.expect(rf"writer \(pid {stopped}\) hangs; killing it", timeout=20)
        assert m.options(timeout=20).call("memory.set", "k", 2)
        assert m.call("memory.get", "k") == 2


def test_a_rolling_stop_hands_the_lane_over(
    process: support.Start, broker: str, tmp_path: Path
) -> None:
    data = tmp_path / "m"
    start_memory(process, broker, "--data", str(data))
    with connect(broker) as m:
        for turn in range(3):
            first = writer_of(data)
            os.kill(first, signal.SIGTERM)
            for step in range(20):
                assert m.call("memory.increment", "n") == 20 * turn + step + 1
            while writer_of(data) == first:
                m.call("memory.get", "n")


def test_watching(process: support.Start, broker: str, tmp_path: Path) -> None:
    start_memory(process, broker, "--data", str(tmp_path / "m"))

    async def run() -> list[dict[str, Any]]:
        async with connect_async(broker) as m:
            seen: list[dict[str, Any]] = []
            async for event in m.stream("memory.watch", "user:"):
                seen.append(event)
                if event["kind"] == "watching":
                    await m.call("memory.set", "user:1", 1, ttl=0.3)
                    await m.call("memory.set", "other", 1)
                    await m.call("memory.delete", ["other"])
                if event["kind"] == "expired":
                    return seen
        return seen

    seen = asyncio.run(run())
    assert [(event["kind"], event["key"]) for event in seen] == [
        ("watching", "user:"),
        ("set", "user:1"),
        ("expired", "user:1"),
    ]


def test_single_flight(process: support.Start, broker: str, tmp_path: Path) -> None:
    start_memory(process, broker, "--data", str(tmp_path / "m"))
    computed: list[int] = []

    async def get_or_set(m: Any, number: int) -> Any:
        while True:
            found = await m.call("memory.reserve", "k", 5)
            if "token" in found:
                computed.append(number)
                await asyncio.sleep(0.1)
                await m.call("memory.fill", "k", number, found["token"], ttl=60)
                return number
            if "value" in found:
                return found["value"]
            await m.call("memory.wait", "k", 5)

    async def run() -> list[Any]:
        async with connect_async(broker) as m:
            return await asyncio.gather(*(get_or_set(m, number) for number in range(20)))

    values = asyncio.run(run())
    assert len(computed) == 1
    assert values == computed * 20


def test_in_memory_wants_one_process(process: support.Start) -> None:
    child = process(
        sys.executable, "-m", "workers", "memory", "--backend", "memory", "--processes", "2"
    )
    assert child.wait() == 78
    assert "one process" in child.output()


def test_in_memory_serves(process: support.Start, broker: str) -> None:
    start_memory(process, broker, "--backend", "memory", processes=1)
    with connect(broker) as m:
        m.call("memory.set", "k", 1)
        assert m.call("memory.get", "k") == 1
