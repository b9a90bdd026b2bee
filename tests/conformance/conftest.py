"""Brokers for the conformance tests. Each test leaves its broker alive, or fails."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.conformance.raw import Broker
from tests.support import Child, Start, start_broker

NUMBERS = itertools.count(1)

# Slow heartbeats: fake peers send none, and must not be taken for dead on a busy machine.
PATIENT = ("--heartbeat", "5", "--grace", "0.3", "--mdp-heartbeat", "5")


@pytest.fixture(scope="module")
def broker_process() -> Iterator[Broker]:
    child, [endpoint] = start_broker(lambda *words, env=None: Child(words, env=env), *PATIENT)
    yield Broker(child, endpoint)
    child.stop()


@pytest.fixture
def broker(broker_process: Broker) -> Iterator[Broker]:
    """A patient broker, shared by the tests of one module."""
    yield broker_process
    broker_process.close_peers()
    broker_process.assert_alive()


@pytest.fixture
def broker_with(process: Start) -> Iterator[Callable[..., Broker]]:
    """Starts a broker of the test's own: `broker_with("--mdp-heartbeat", "0.1")`."""
    brokers = []

    def start(*options: str) -> Broker:
        child, [endpoint] = start_broker(process, *options)
        brokers.append(Broker(child, endpoint))
        return brokers[-1]

    yield start
    for each in brokers:
        each.close_peers()


@pytest.fixture
def service() -> bytes:
    """The name of a service that no other test uses."""
    return b"service%d" % next(NUMBERS)
