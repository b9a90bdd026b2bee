"""Fixtures of the transport tests: both pumps, and sockets that are closed whatever happens."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh.transport import Bound, Link, Pump, dealer_socket, pure, router_socket

try:
    from mesh.transport import _pump
except ImportError as error:
    _pump, NOT_BUILT = None, f"the compiled pump is not built: {error}"


@pytest.fixture(params=["compiled", "pure"])
def pump_class(request: pytest.FixtureRequest) -> type[Pump]:
    """Each of the two pumps."""
    if request.param == "pure":
        return pure.Pump
    if _pump is None:
        pytest.skip(NOT_BUILT)
    return _pump.Pump


@pytest.fixture(params=["tcp", "ipc"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An endpoint to bind to, of each transport."""
    return "tcp://127.0.0.1:0" if request.param == "tcp" else f"ipc://{tmp_path}/socket"


@pytest.fixture
def opened() -> Iterator[list[Bound | Link]]:
    """Sockets to be closed after the test."""
    sockets: list[Bound | Link] = []
    yield sockets
    for socket in sockets:
        socket.close()


@pytest.fixture
def listen(pump_class: type[Pump], opened: list[Bound | Link]) -> Callable[..., Bound]:
    """A function like `router_socket`, with the pump under test."""

    def make(endpoint: str = "tcp://127.0.0.1:0", **options: object) -> Bound:
        bound = router_socket(endpoint, **options)
        bound.pump = pump_class(bound.socket, router=True, wake=(bound.watch.socket,))
        opened.append(bound)
        return bound

    return make


@pytest.fixture
def dial(pump_class: type[Pump], opened: list[Bound | Link]) -> Callable[..., Link]:
    """A function like `dealer_socket`, with the pump under test; it waits for the handshake."""

    def make(bound: Bound, **options: object) -> Link:
        link = dealer_socket(bound.endpoints[0], **options)
        link.pump = pump_class(link.socket, wake=(link.watch.socket,))
        opened.append(link)
        while not link.watch.up:
            assert link.pump.wait(5), "no connection within 5 s"
            link.watch.drain()
            assert not link.watch.lost
        return link

    return make


@pytest.fixture
def numbers() -> Iterator[int]:
    """1, 2, 3, ..."""
    return itertools.count(1)
