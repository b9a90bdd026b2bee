"""The pool of threads for plain handlers."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mesh import errors
from mesh.protocol.messages import REQUEST, Message
from mesh.service import Service
from mesh.service.invoke import FAIL, FINISH, Outcome
from mesh.service.requests import Entry, Lane, Request, accept
from mesh.service.threads import ThreadPool

pytestmark = pytest.mark.timeout(30)


class Posted:
    """Outcomes of handlers, which come from their threads."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self._came = threading.Condition()

    def __call__(self, outcome: Outcome) -> None:
        with self._came:
            self.outcomes.append(outcome)
            self._came.notify_all()

    def wait(self, count: int) -> list[Outcome]:
        with self._came:
            assert self._came.wait_for(lambda: len(self.outcomes) >= count, 10)
            return list(self.outcomes)


shop = Service("shop")
gate = threading.Event()


@shop.rpc
def total() -> int:
    gate.wait(10)
    return 1


@shop.batch(max_size=4)
def embed(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def request(name: str, body: bytes = b"\x91\x90") -> Request:
    entry = Entry(shop.methods[name], Lane("", 1))
    return accept(Message(REQUEST, frames=[body]), None, entry, 1e12)  # type: ignore[arg-type]


def no_thread(self: Any) -> None:
    raise RuntimeError("can't start new thread")


def test_threads_start_as_needed_and_idle_ones_are_used_again() -> None:
    posted = Posted()
    pool = ThreadPool(3, posted, "test-pool")

    def threads() -> int:
        return sum(thread.name.startswith("test-pool") for thread in threading.enumerate())

    gate.set()
    for count in range(1, 6):
        pool.submit(request("total"))
        assert posted.wait(count)[-1][0] == FINISH
    # One at a time needs one; a second may have begun before the first was seen to be idle.
    assert 1 <= threads() <= 2
    gate.clear()
    for _ in range(5):
        pool.submit(request("total"))
    assert threads() == 3
    gate.set()
    assert len(posted.wait(10)) == 10
    pool.stop(5)
    assert threads() == 0


def test_without_any_thread_the_work_is_refused_as_not_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    posted = Posted()
    pool = ThreadPool(2, posted, "test-none")
    gate.set()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        pool.submit(request("total"))
        pool.submit_group(shop.methods["embed"], [request("embed"), request("embed")])
    assert [(kind, wire[0], started) for kind, _, wire, started in posted.outcomes] == [
        (FAIL, errors.OVERLOADED, False)
    ] * 3
    pool.submit(request("total"))
    assert posted.wait(4)[-1][0] == FINISH
    pool.stop(5)


def test_when_no_further_thread_can_start_those_there_are_do_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    posted = Posted()
    pool = ThreadPool(4, posted, "test-few")
    gate.clear()
    pool.submit(request("total"))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        for _ in range(5):
            pool.submit(request("total"))
        gate.set()
        assert [outcome[0] for outcome in posted.wait(6)] == [FINISH] * 6
    pool.stop(5)
