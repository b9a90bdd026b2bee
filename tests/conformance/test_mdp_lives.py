"""Lives and deaths of MDP workers: what the well-known brokers of the ZeroMQ guide get wrong.

Each test starts a broker of its own with fast heartbeats. `BEAT` is its interval; an idle worker
is lost after four of them.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable

import pytest

from tests.conformance.raw import (
    DIALECTS,
    LEGACY02,
    MDP01,
    MDP02,
    PATIENCE,
    Broker,
    Dialect,
    MdpWorker,
)
from tests.support import Start

BEAT = 0.2
FAST = ("--mdp-heartbeat", str(BEAT), "--mdp-busy-timeout", "60")

dialects = pytest.mark.parametrize("dialect", DIALECTS, ids=str)
BrokerWith = Callable[..., Broker]


def beat_until(
    done: Callable[[], bool], *workers: MdpWorker, timeout: float = 2 * PATIENCE
) -> None:
    """Let `workers` show signs of life until `done`. They may send HEARTBEAT at any time."""
    give_up_at = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < give_up_at, "did not happen in time"
        for worker in workers:
            worker.send_frames(*worker.dialect.heartbeat)
        if workers:
            workers[0].socket.poll(int(BEAT * 250))


@dialects
def test_heartbeats_come_regularly_idle_and_busy(broker_with: BrokerWith, dialect: Dialect) -> None:
    broker = broker_with(*FAST)
    worker = broker.mdp_worker(dialect, b"echo")

    def interval() -> float:
        worker.expect(*dialect.heartbeat)
        began = time.monotonic()
        worker.expect(*dialect.heartbeat)
        return time.monotonic() - began

    assert interval() < 2.5 * BEAT
    broker.mdp_client(MDP02).request(b"echo", b"x")
    address, _ = worker.receive_work()
    assert interval() < 2.5 * BEAT
    worker.reply(address, b"y")


@dialects
def test_an_idle_silent_worker_is_lost(broker_with: BrokerWith, dialect: Dialect) -> None:
    broker = broker_with(*FAST)
    began = time.monotonic()
    silent = broker.mdp_worker(dialect, b"echo")
    lively = broker.mdp_worker(dialect, b"echo")  # the guide's purge stops at the first such
    silent_too = broker.mdp_worker(dialect, b"echo")
    beat_until(lambda: broker.workers_of(b"echo") == 1, lively)
    assert time.monotonic() - began > 3 * BEAT
    silent.expect_disconnect()
    silent_too.expect_disconnect()
    client = broker.mdp_client(MDP02)
    client.request(b"echo", b"x")
    address, _ = lively.receive_work()
    lively.reply(address, b"y")
    client.expect_final(b"echo", b"y")


@dialects
def test_a_busy_silent_worker_is_not_dead(broker_with: BrokerWith, dialect: Dialect) -> None:
    broker = broker_with(*FAST)
    worker = broker.mdp_worker(dialect, b"echo")
    client = broker.mdp_client(MDP02)
    client.request(b"echo", b"x")
    address, _ = worker.receive_work()
    client.expect_nothing(10 * BEAT)
    assert broker.workers_of(b"echo") == 1
    worker.reply(address, b"late")
    client.expect_final(b"echo", b"late")


@dialects
def test_a_hung_worker_is_lost_at_the_busy_timeout(
    broker_with: BrokerWith, dialect: Dialect
) -> None:
    broker = broker_with("--mdp-heartbeat", str(BEAT), "--mdp-busy-timeout", "1.5")
    hung = broker.mdp_worker(dialect, b"echo")
    client = broker.mdp_client(MDP02)
    client.request(b"echo", b"x")
    hung.receive_work()
    hung.expect_disconnect()
    fresh = broker.mdp_worker(dialect, b"echo")
    address, body = fresh.receive_work()
    fresh.reply(address, *body)
    client.expect_final(b"echo", b"x")


@dialects
def test_a_worker_that_vanishes_with_a_request_costs_milliseconds(
    broker_with: BrokerWith, dialect: Dialect
) -> None:
    broker = broker_with()  # at 2.5 s heartbeats would need ten seconds
    doomed = broker.mdp_worker(dialect, b"echo")
    client = broker.mdp_client(dialect)
    client.request(b"echo", b"x")
    doomed.receive_work()
    heir = broker.mdp_worker(dialect, b"echo")
    began = time.monotonic()
    doomed.close()
    address, body = heir.receive_work()
    assert time.monotonic() - began < 1.0
    heir.reply(address, *body)
    client.expect_final(b"echo", b"x")
    broker.await_workers(b"echo", 1)
    heir.close()
    broker.await_workers(b"echo", 0)
    assert client.ask(b"mmi.service", b"echo") == [b"404"]


@dialects
def test_disconnect_of_a_busy_worker_gives_its_request_to_another(
    broker_with: BrokerWith, dialect: Dialect
) -> None:
    broker = broker_with(*FAST)
    leaving = broker.mdp_worker(dialect, b"echo")
    client = broker.mdp_client(dialect)
    client.request(b"echo", b"x")
    address, _ = leaving.receive_work()
    leaving.send_frames(*dialect.disconnect)
    broker.await_workers(b"echo", 0)
    leaving.reply(address, b"too late")
    heir = broker.mdp_worker(dialect, b"echo")
    address, body = heir.receive_work()
    heir.reply(address, *body)
    client.expect_final(b"echo", b"x")
    client.expect_nothing()
    broker.assert_alive()


@dialects
def test_disconnect_of_an_idle_worker_leaves_nothing_behind(
    broker_with: BrokerWith, dialect: Dialect
) -> None:
    broker = broker_with(*FAST)
    leaving = broker.mdp_worker(dialect, b"echo")
    leaving.send_frames(*dialect.disconnect)
    broker.await_workers(b"echo", 0)
    assert broker.mdp_client(dialect).ask(b"mmi.service", b"echo") == [b"404"]
    # Long enough for an entry that was left in some table to expire.
    while leaving.socket.poll(0):
        leaving.socket.recv_multipart()
    assert not leaving.socket.poll(int(6 * BEAT * 1000)), "something came after its DISCONNECT"
    broker.assert_alive()


def test_disconnect_before_ready_is_nothing(broker_with: BrokerWith) -> None:
    broker = broker_with()
    for dialect in DIALECTS:
        broker.mdp_worker(dialect).send_frames(*dialect.disconnect)
    broker.assert_alive()


def test_a_worker_that_vanishes_idle_loses_no_request(broker_with: BrokerWith) -> None:
    broker = broker_with()
    doomed = broker.mdp_worker(MDP01, b"echo")
    worker = broker.mdp_worker(MDP01, b"echo")
    client = broker.mdp_client(MDP02)
    doomed.close()
    for number in range(1000):
        client.request(b"echo", b"%d" % number)
    got = []
    for _ in range(1000):
        address, body = worker.receive_work()
        worker.reply(address, *body)
        got += client.receive_frames()[3:]
    assert sorted(got, key=int) == [b"%d" % number for number in range(1000)]


def test_requests_that_nobody_serves_expire(broker_with: BrokerWith) -> None:
    broker = broker_with("--mdp-ttl", "0.4")
    client = broker.mdp_client(MDP02)
    for _ in range(5):
        client.request(b"echo", b"stale")
    native = broker.native_client()
    give_up_at = time.monotonic() + PATIENCE
    while native.status()["services"]:  # names that clients make up are forgotten, too
        assert time.monotonic() < give_up_at
    client.expect_nothing(0.05)
    worker = broker.mdp_worker(MDP02, b"echo")
    worker.expect_nothing()
    client.request(b"echo", b"fresh")
    assert worker.receive_work()[1] == [b"fresh"]


def test_a_request_that_takes_too_long_frees_its_worker_when_it_answers(
    broker_with: BrokerWith,
) -> None:
    broker = broker_with("--mdp-ttl", "0.3")
    worker = broker.mdp_worker(MDP02, b"echo")
    client = broker.mdp_client(MDP02)
    client.request(b"echo", b"slow")
    address, _ = worker.receive_work()
    client.expect_nothing(0.6)
    worker.reply(address, b"nobody waits for this")
    client.expect_nothing()
    client.request(b"echo", b"next")
    address, body = worker.receive_work()
    worker.reply(address, *body)
    client.expect_final(b"echo", b"next")


def test_nothing_is_given_twice_once_a_partial_was_forwarded(broker_with: BrokerWith) -> None:
    broker = broker_with()
    doomed = broker.mdp_worker(MDP02, b"echo")
    client = broker.mdp_client(MDP02)
    client.request(b"echo", b"x")
    address, _ = doomed.receive_work()
    doomed.part(address, b"first half")
    client.expect_partial(b"echo", b"first half")
    other = broker.mdp_worker(MDP02, b"echo")
    doomed.close()
    broker.await_workers(b"echo", 1)
    other.expect_nothing()
    client.expect_nothing(0.05)


def test_parts_kept_for_a_client_of_the_first_version_are_not_forwarded(
    broker_with: BrokerWith,
) -> None:
    """They die with their worker, and another one starts anew."""
    broker = broker_with()
    doomed = broker.mdp_worker(MDP02, b"echo")
    client = broker.mdp_client(MDP01)
    client.request(b"echo", b"x")
    address, _ = doomed.receive_work()
    doomed.part(address, b"kept")
    client.expect_nothing()
    other = broker.mdp_worker(MDP02, b"echo")
    doomed.close()
    address, _ = other.receive_work()
    other.part(address, b"new")
    other.reply(address, b"end")
    client.expect_final(b"echo", b"new", b"end")


def test_replies_to_a_client_that_left_harm_nobody(broker_with: BrokerWith) -> None:
    broker = broker_with(*FAST)
    worker = broker.mdp_worker(MDP01, b"echo")
    impatient = broker.mdp_client(MDP01)
    impatient.request(b"echo", b"x")
    address, _ = worker.receive_work()
    impatient.close()
    patient = broker.mdp_client(MDP01)
    patient.request(b"echo", b"y")
    worker.reply(address, b"for nobody")
    address, body = worker.receive_work()
    worker.reply(address, *body)
    patient.expect_final(b"echo", b"y")


def test_workers_are_told_when_the_broker_leaves(broker_with: BrokerWith) -> None:
    broker = broker_with()
    workers = [broker.mdp_worker(dialect, dialect.name.encode()) for dialect in DIALECTS]
    busy = workers[0]
    client = broker.mdp_client(MDP02)
    client.request(b"mdp01", b"open")
    address, _ = busy.receive_work()
    broker.child.send_signal(signal.SIGTERM)
    client.expect_nothing(0.3)
    busy.reply(address, b"finished")
    client.expect_final(b"mdp01", b"finished")
    for worker in workers:
        worker.expect_disconnect()
    assert broker.child.wait() == 0


def test_a_killed_mdp_process_is_noticed(broker_with: BrokerWith, process: Start) -> None:
    """The real thing: SIGKILL while it computes."""
    broker = broker_with()
    code = (
        "import sys, time, zmq\n"
        "s = zmq.Context().socket(zmq.DEALER)\n"
        "s.connect(sys.argv[1])\n"
        "s.send_multipart([b'', b'MDPW01', b'\\1', b'echo'])\n"
        "s.recv_multipart()\n"
        "print('busy', flush=True)\n"
        "time.sleep(60)\n"
    )
    doomed = process(sys.executable, "-c", code, broker.endpoint)
    client = broker.mdp_client(MDP01)
    client.request(b"echo", b"x")
    doomed.expect("busy")
    heir = broker.mdp_worker(LEGACY02, b"echo")
    began = time.monotonic()
    doomed.kill()
    address, body = heir.receive_work()
    assert time.monotonic() - began < 1.0
    heir.reply(address, *body)
    client.expect_final(b"echo", b"x")
