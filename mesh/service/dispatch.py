"""Between the session and the handlers: who runs what, and when.

Used by the thread that drives the session; the executors it owns use their own threads and hand
outcomes back through `post`.
"""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Protocol

from mesh.service.batching import Collector
from mesh.service.declare import ASYNC, INLINE, Method, Service
from mesh.service.invoke import FAIL, Outbox, Outcome, apply, run
from mesh.service.lanes import Execute, execute_all
from mesh.service.loop import Job, LoopThread
from mesh.service.requests import Request
from mesh.service.session import CANCELLED_SIGNAL, CHUNK_SIGNAL, SessionCore
from mesh.service.threads import LaneThread, ThreadPool

log = logging.getLogger("mesh.service")


class Runner(Protocol):
    """Where async handlers run: a LoopThread, or the test's own loop."""

    def run(self, coroutine: Any) -> Any: ...
    def submit(self, jobs: list[Job]) -> None: ...
    def cancel(self, request: Request) -> None: ...
    def stop(self, timeout: float) -> None: ...


class InlineLane:
    """A lane whose executor runs on the thread that drives, up to a `portion` of it in a turn."""

    __slots__ = ("execute", "portion", "waiting")

    def __init__(self, execute: Execute, portion: int) -> None:
        self.execute = execute
        self.portion = portion
        self.waiting: list[Request] = []

    def take(self) -> list[Request]:
        """What is to be run now."""
        portion = self.waiting[: self.portion]
        del self.waiting[: self.portion]
        return portion


class Dispatcher:
    """Starts what the session hands out; cancels, wakes, collects batches.

    `loop` replaces the loop thread that is otherwise made when the service has async parts.
    """

    def __init__(
        self,
        service: Service,
        outbox: Outbox,
        loop: Runner | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        name = f"mesh-{service.name}"
        hooks = service.startup_hooks + service.drain_hooks + service.shutdown_hooks
        needs_loop = (
            any(method.kind == ASYNC for method in service.methods.values())
            or service.lifespan is not None
            or any(map(_is_async, hooks))
        )
        self._loop: Runner | None = loop
        if needs_loop and loop is None:
            self._loop = LoopThread(outbox, f"{name}-loop")
        self._pool = ThreadPool(service.threads, outbox.post, name, clock)
        self._collectors = {
            method: Collector(method) for method in service.methods.values() if method.batch
        }
        self._inline: dict[str, InlineLane] = {}
        self._lanes: dict[str, LaneThread] = {}
        for lane, (execute, inline) in service.executors.items():
            if inline:
                self._inline[lane] = InlineLane(execute, service.portions[lane])
            else:
                self._lanes[lane] = LaneThread(f"{name}-{lane or 'lane'}", execute, outbox.post)
        # The methods whose requests simply run on the loop.
        self._plain = frozenset(
            method
            for method in service.methods.values()
            if method.kind == ASYNC and not method.batch and method.lane not in service.executors
        )
        self._lifespan: AbstractAsyncContextManager[Any] | None = None

    @property
    def loop_thread(self) -> LoopThread | None:
        """Where the async handlers run; None without any."""
        has_any = any(method.kind == ASYNC for method in self._service.methods.values())
        return self._loop if has_any and isinstance(self._loop, LoopThread) else None

    # ---------------------------------------------------------------- life

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run `start_up` or `shut_down` from a thread: on the loop thread, if there is one."""
        if self._loop is not None:
            self._loop.run(coroutine)
            return
        # Without async parts it never suspends.
        with suppress(StopIteration):
            coroutine.send(None)

    async def start_up(self) -> None:
        """Run the start-up hooks and enter the lifespan. What they raise is raised."""
        for hook in self._service.startup_hooks:
            await _call(hook)
        if self._service.lifespan is not None:
            self._lifespan = self._service.lifespan(self._service)
            await self._lifespan.__aenter__()

    async def leaving(self) -> None:
        """Run the drain hooks. One that fails is logged: leaving goes on."""
        for hook in self._service.drain_hooks:
            try:
                await _call(hook)
            except Exception:
                log.exception("a drain hook of %s failed", self._service.name)

    async def shut_down(self) -> None:
        """Leave the lifespan and run the shut-down hooks."""
        try:
            if self._lifespan is not None:
                await self._lifespan.__aexit__(None, None, None)
        finally:
            for hook in self._service.shutdown_hooks:
                await _call(hook)

    def stop(self, timeout: float) -> None:
        """End the executors; handlers that still run are cancelled or left behind."""
        for lane in self._lanes.values():
            lane.stop(timeout)
        self._pool.stop(timeout)
        if self._loop is not None:
            self._loop.stop(timeout)

    @property
    def gathered(self) -> int:
        """Requests that wait for their batch to be complete."""
        return sum(map(len, self._collectors.values()))

    # ---------------------------------------------------------------- each turn

    def next_deadline(self) -> float:
        """When something must be run that was handed out before; infinite if nothing was."""
        if any([lane.waiting for lane in self._inline.values()]):
            return 0.0
        return min((c.flush_at for c in self._collectors.values()), default=math.inf)

    def turn(self, session: SessionCore, now: float) -> bool:
        """Start and signal everything that `session` hands out; whether there was anything."""
        starts = session.take_starts()
        signals = session.take_signals()
        if starts:
            self._start(session, starts, now)
        for kind, request in signals:
            self._signal(kind, request)
        if self._collectors:
            for collector in self._collectors.values():
                if collector.flush_at <= now:
                    self._run_group(collector.method, collector.take())
        active = bool(starts or signals)
        for lane in self._inline.values():
            if lane.waiting:
                active = True
                apply(session, execute_all(lane.execute, lane.take()))
        return active

    def _start(self, session: SessionCore, starts: list[Request], now: float) -> None:
        here: list[Outcome] = []
        jobs: list[Job] = []
        gathered: dict[str, list[Request]] = {}
        plain = self._plain
        for request in starts:
            method: Any = request.target
            if method in plain:
                jobs.append(request)
            elif method.lane in self._lanes or method.lane in self._inline:
                gathered.setdefault(method.lane, []).append(request)
            elif method.batch is not None:
                group = self._collectors[method].add(request, now)
                if group is not None:
                    self._run_group(method, group)
            elif method.kind == INLINE:
                code = request.refusal(now)
                if code:
                    fields = {"message": "it ended before it began"}
                    here.append((FAIL, request, (code, fields), False))
                else:
                    here.append(run(request))
            elif method.kind == ASYNC:
                jobs.append(request)
            else:
                self._pool.submit(request)
        if jobs and self._loop is not None:
            self._loop.submit(jobs)
        for lane, requests in gathered.items():
            if lane in self._lanes:
                self._lanes[lane].submit(requests)
            else:
                self._inline[lane].waiting += requests
        if here:
            apply(session, here)

    def _run_group(self, method: Method, requests: list[Request]) -> None:
        if method.kind == ASYNC and self._loop is not None:
            self._loop.submit([(method, requests)])
        else:
            self._pool.submit_group(method, requests)

    def _signal(self, kind: int, request: Request) -> None:
        flow = request.flow
        if flow is not None:
            if kind != CHUNK_SIGNAL and flow.credit_waker is not None:
                flow.credit_waker()
            if kind in (CHUNK_SIGNAL, CANCELLED_SIGNAL) and flow.chunk_waker is not None:
                flow.chunk_waker()
        if kind == CANCELLED_SIGNAL and self._loop is not None:
            method: Any = request.target
            if method.kind == ASYNC:
                self._loop.cancel(request)


async def _call(hook: Callable[[], Any]) -> None:
    result = hook()
    if inspect.isawaitable(result):
        await result


def _is_async(hook: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(hook)
