"""Brokers that come and go behind a name, as a headless Service has it, under load."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mesh import Service, connect, connect_async
from mesh.discovery import names
from mesh.errors import DeadlineExceeded
from mesh.service import Runtime
from tests import support

NAME = "brokers.test"
FIRST, SECOND = "127.0.0.1", "127.0.0.2"

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The addresses of NAME, for this process; it is looked up all the time."""
    found: list[str] = []
    real = socket.getaddrinfo

    def lookup(host: str, port: int, *words: Any, **options: Any) -> Any:
        if host != NAME:
            return real(host, port, *words, **options)
        if not found:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setitem(names.follow.__kwdefaults__, "every", 0.05)
    yield found


def until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 15.0
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def doubler() -> Service:
    service = Service("doubler")

    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    return service


def test_brokers_come_and_go_without_a_failed_call(
    process: support.Start, hosts: list[str]
) -> None:
    first, (endpoint,) = support.start_broker(process)
    port = endpoint.rpartition(":")[2]
    address = f"dns://{NAME}:{port}"
    failed: list[BaseException] = []
    done: set[str] = set()
    ending = threading.Event()

    def load() -> None:
        with connect(address, timeout=10.0) as m:
            while not ending.is_set():
                try:
                    assert m.call("doubler.double", 2) == 4
                    done.update(link.route.endpoint for link in m._driver.core._links.usable)
                except Exception as error:
                    failed.append(error)

    with Runtime(doubler(), [address]).start() as worker:
        hosts.append(FIRST)
        assert worker.wait_ready(10.0)
        caller = threading.Thread(target=load)
        caller.start()
        try:
            second, _ = support.start_broker(process, binds=[f"tcp://{SECOND}:{port}"])
            hosts.append(SECOND)
            until(lambda: (worker.look(5.0) or {})["brokers"] == 2 and len(done) == 2)
            hosts.remove(FIRST)
            first.send_signal(signal.SIGTERM)
            assert first.wait(timeout=20) == 0
            done.clear()
            until(lambda: bool(done))
        finally:
            ending.set()
            caller.join()
    assert failed == []
    assert done == {f"tcp://{SECOND}:{port}"}
    assert second.returncode is None


def test_asyncio_client_and_a_name_that_is_not_known_yet(
    process: support.Start, hosts: list[str]
) -> None:
    _, (endpoint,) = support.start_broker(process)

    async def use() -> None:
        async with connect_async(f"dns://{NAME}:{endpoint.rpartition(':')[2]}") as m:
            with pytest.raises(DeadlineExceeded, match=f"{NAME}.*not known"):
                await m.options(timeout=0.5).call("mesh.broker.status")
            hosts.append(FIRST)
            status = await m.options(timeout=10.0).call("mesh.broker.status")
            assert status["draining"] is False

    asyncio.run(use())
