"""Plain handlers: a bounded pool of threads, and one thread for each lane with an executor.

A pool of its own instead of concurrent.futures: no future, no lock and no callback per call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from mesh import context
from mesh.context import running
from mesh.errors import OVERLOADED
from mesh.protocol.messages import RAW
from mesh.service.batching import Group
from mesh.service.declare import Method
from mesh.service.invoke import (
    FAIL,
    FINISH,
    GRANT,
    NIL,
    Post,
    arguments,
    failure,
    outcome,
    part,
    run,
)
from mesh.service.lanes import Execute, execute_all
from mesh.service.requests import Request
from mesh.service.streams import Incoming, Pace

STOP = None


class ThreadPool:
    """Runs requests and groups, each on one of up to `size` threads, which start as needed."""

    def __init__(
        self, size: int, post: Post, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size = size
        self._clock = clock
        self._post = post
        self._name = name
        self._queue: SimpleQueue[tuple[Callable[[Any], None], Any, int] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._last_job = 0
        self._unfinished: set[int] = set()

    def submit(self, request: Request) -> None:
        """Run one request."""
        self._put(self._serve, request)

    def submit_group(self, method: Method, requests: Sequence[Request]) -> None:
        """Run one execution of a batch handler."""
        self._put(self._serve_group, (method, requests))

    def stop(self, timeout: float) -> None:
        """End the threads that are idle; wait up to `timeout` seconds for those that are not."""
        for _ in self._threads:
            self._queue.put(STOP)
        end_at = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end_at - time.monotonic()))

    def _put(self, serve: Callable[[Any], None], job: Any) -> None:
        # Counted from here to its end: a job between the queue and its thread is not overlooked.
        self._last_job += 1
        self._unfinished.add(self._last_job)
        if len(self._threads) < self._size and len(self._unfinished) > len(self._threads):
            name = f"{self._name}-{len(self._threads) + 1}"
            # Daemons: a handler that never returns must not keep the process from ending.
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            try:
                thread.start()
                self._threads.append(thread)
            except RuntimeError:  # the system has no more threads; the next job tries again
                if not self._threads:
                    self._refuse(job)
                    return
        self._queue.put((serve, job, self._last_job))

    def _refuse(self, job: Any) -> None:
        """There is not one thread to run it."""
        self._unfinished.discard(self._last_job)
        for request in [job] if isinstance(job, Request) else job[1]:
            fields = {"message": "the worker's system has no thread to run it"}
            self._post((FAIL, request, (OVERLOADED, fields), False))

    def _work(self) -> None:
        get = self._queue.get
        unfinished = self._unfinished
        context.clock.set(self._clock)
        while True:
            job = get()
            if job is STOP:
                return
            job[0](job[1])
            unfinished.discard(job[2])

    def _serve(self, request: Request) -> None:
        serve_here(request, self._post, self._clock())

    def _serve_group(self, job: tuple[Method, Sequence[Request]]) -> None:
        for result in run_group(Group(job[0], job[1], self._clock())).close():
            self._post(result)


def serve_here(request: Request, post: Post, now: float) -> None:
    """Run a plain handler, stream or not, on this thread until its end."""
    code = request.refusal(now)
    if code:
        post((FAIL, request, (code, {"message": "it ended before it began"}), False))
        return
    method: Any = request.target
    if method.stream or method.takes_stream:
        _serve_stream(request, method, post)
    else:
        post(run(request))


def _serve_stream(request: Request, method: Method, post: Post) -> None:
    token = running.set(request)
    try:
        incoming = None
        if method.takes_stream:
            incoming = Incoming(request, lambda r, items: post((GRANT, r, items, None)))
        args, kwargs = arguments(request, incoming)
        value = method.function(*args, **kwargs)
        post(_send_items(request, iter(value), post) if method.stream else outcome(request, value))
    except BaseException as error:  # whatever a handler raises is the answer of this call
        post(failure(request, error))
    finally:
        running.reset(token)


def _send_items(request: Request, iterator: Any, post: Post) -> Any:
    """Send what `iterator` yields as fast as the reader wants it; the final outcome."""
    pace = Pace(request)
    try:
        while True:
            if not pace.open():
                pace.wait()
            if request.cancel_code:
                return (FAIL, request, (request.cancel_code, {"message": "cancelled"}), True)
            try:
                value = next(iterator)
            except StopIteration:
                return (FINISH, request, () if request.flags & RAW else NIL, request.flags & RAW)
            result = part(request, value)
            if result[0] == FAIL:
                return result
            post(result)
            pace.produced += 1
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def run_group(group: Group) -> Group:
    """Run a plain batch handler over the portions of `group`."""
    token = running.set(group.call)
    try:
        for portion in group.portions():
            try:
                group.took(portion, group.method.function(portion))
            except BaseException as error:  # the answer of every call in the portion
                group.raised(portion, error)
    finally:
        running.reset(token)
    return group


class LaneThread:
    """Gives everything that has arrived in a lane to its executor, on a thread of its own."""

    def __init__(self, name: str, execute: Execute, post: Post) -> None:
        self._execute = execute
        self._post = post
        self._queue: SimpleQueue[Sequence[Request] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> None:
        """Run `requests`, together with what else is waiting."""
        self._queue.put(requests)

    def stop(self, timeout: float) -> None:
        """End the thread when it has run what is waiting."""
        self._queue.put(STOP)
        self._thread.join(timeout)

    def _work(self) -> None:
        while True:
            first = self._queue.get()
            if first is STOP:
                return
            requests = list(first)
            ending = False
            while not self._queue.empty():
                more = self._queue.get()
                if more is STOP:
                    ending = True
                    break
                requests += more
            for result in execute_all(self._execute, requests):
                self._post(result)
            if ending:
                return
