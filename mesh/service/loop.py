"""Async handlers: an event loop, and the least that can be done per call on it.

Requests come in lists. A *runner* is a task that works through the queue; as long as the handlers
it awaits do not suspend, one task serves them all. When one suspends, the task belongs to that
call until its end, and another runner takes over the queue. One that has nothing to do is parked,
to go on with the next requests within the callback that brings them. So a call that never waits
costs no task, one that waits costs one, and `asyncio.current_task()`, timeouts and cancellation
mean what they always mean. Each call runs in a copy of the context of its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextvars import Context, copy_context
from typing import Any, TypeAlias, TypeVar

from mesh import context, errors
from mesh.context import running
from mesh.ending import Ending
from mesh.errors import CallError
from mesh.protocol.messages import BATCH, RAW
from mesh.service.batching import Group
from mesh.service.declare import Method
from mesh.service.invoke import (
    FAIL,
    FINISH,
    GRANT,
    NIL,
    Outbox,
    Outcome,
    arguments,
    failure,
    item_failure,
    outcome,
    part,
    run_ready,
)
from mesh.service.many import BATCH_CONCURRENCY, Many, Turn
from mesh.service.requests import Request
from mesh.service.streams import Incoming, Pace

T = TypeVar("T")

# A GeneratorExit that leaves a runner says that the runner itself is being closed.
GENERATOR_EXIT = "the handler raised GeneratorExit"


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs on this thread; None without one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


Job: TypeAlias = "Request | tuple[Method, Sequence[Request]]"


class LoopRunner:
    """Runs async handlers on the loop it is used on. Only `submit` may be called elsewhere.

    `driven`: whoever submits on the loop calls `run_queued` himself afterwards, not from a task.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        outbox: Outbox,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.loop = loop
        self._clock = clock
        self._outbox = outbox
        self._post = outbox.post
        self._queue: deque[Job | Many] = deque()
        self.driven = False
        self._parked: Ending | None = None
        self._scheduled = False
        self._running = False
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Run requests, and `(method, requests)` as one execution of a batch handler."""
        self._queue.extend(jobs)
        here = running_loop() is self.loop
        if not self._scheduled and not (here and self.driven):
            self._scheduled = True
            call_soon = self.loop.call_soon if here else self.loop.call_soon_threadsafe
            call_soon(self.run_queued)

    def cancel(self, request: Request) -> None:
        """Cancel a call that has begun; one that has not is refused when its turn comes."""
        if request.handle is not None:
            request.handle.cancel()

    def stop(self) -> None:
        """Cancel whatever still runs, and the runner that waits for more."""
        for task in list(self._tasks):
            task.cancel()

    def run_queued(self) -> None:
        """Let a runner work through what was submitted. Not to be called from a task."""
        self._scheduled = False
        if not self._queue or self._running:
            return
        parked, self._parked = self._parked, None
        if parked is None or parked.done():  # cancelled: who did so may still hold the task
            self._new_runner()
        else:
            self._running = True
            parked.wake()

    async def _park(self) -> None:
        """Wait until there is something to do."""
        running.set(None)  # a parked runner holds on to no request
        self._running = False
        self._parked = parked = Ending(self.loop)
        try:
            await parked
        finally:
            if self._parked is parked:
                self._parked = None

    def _new_runner(self) -> None:
        self._running = True
        # Not by the loop's factory: an eager one would begin it within the handler that has just
        # suspended, and so on, as deep as there are requests.
        task = asyncio.Task(self._runner(), loop=self.loop)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _runner(self) -> None:
        context.clock.set(self._clock)
        while await self._work_through():
            await self._park()

    async def _work_through(self) -> bool:
        """Run what is queued; whether this task may wait for more."""
        queue = self._queue
        outbox = self._outbox
        post = outbox.post
        clock = self._clock
        task: Any = asyncio.current_task()
        while queue:
            suspended = run_ready(queue, outbox, clock, task)
            outbox.rouse()
            if suspended is not None:
                request, call, within, awaited = suspended
                try:
                    value = await self._go_on(call, within, request, awaited)
                    result = outcome(request, value)
                except GeneratorExit:
                    raise
                except BaseException as error:  # what a handler raises is the answer of its call
                    result = failure(request, error)
                post(result)
                request.handle = None
                return self._may_park(task)
            if not queue or task.cancelling():
                # A handler may cancel the task it ran in and return: nobody else may suffer.
                break
            job = queue.popleft()
            if not isinstance(job, Request):
                if await self._special(job):
                    return self._may_park(task)
                continue
            request = job
            code = request.refusal(clock())
            if code:
                post((FAIL, request, (code, {"message": "it ended before it began"}), False))
                continue
            if request.flags & BATCH:
                try:
                    request.handle = many = Many(request)
                    queue.appendleft(many)
                except CallError as error:
                    post(failure(request, error))
                continue
            running.set(request)
            method: Any = request.target
            try:
                stream = self._stream(request, method)
                result = await self._drive(stream, copy_context(), request)
            except GeneratorExit:
                raise
            except BaseException as error:  # what a handler raises is the answer of its call
                result = failure(request, error)
            post(result)
            if request.handle is not None:
                request.handle = None
                return self._may_park(task)
            if task.cancelling():
                break
        self._running = False
        if queue:
            self._new_runner()
            return False
        return self._may_park(task)

    def _may_park(self, task: asyncio.Task[Any]) -> bool:
        return not self._running and self._parked is None and not task.cancelling()

    @types.coroutine
    def _drive(
        self, call: Coroutine[Any, Any, T], within: Context, owner: Request | Turn
    ) -> Generator[Any, Any, T]:
        """Await `call`, each step in `within`. When it first suspends, give the queue away."""
        try:
            awaited = within.run(call.send, None)
        except StopIteration as stop:
            result: T = stop.value
            return result
        except GeneratorExit as error:
            raise RuntimeError(GENERATOR_EXIT) from error
        return (yield from self._go_on(call, within, owner, awaited))

    @types.coroutine
    def _go_on(
        self, call: Coroutine[Any, Any, T], within: Context, owner: Request | Turn, awaited: Any
    ) -> Generator[Any, Any, T]:
        """As `_drive`, of a `call` that waits for `awaited`."""
        run = within.run
        send = call.send
        self._suspended(owner)
        while True:
            try:
                value = yield awaited
            except GeneratorExit:
                call.close()
                raise
            except BaseException as error:  # a cancellation, on its way to the handler
                step: Callable[[Any], Any] = call.throw
                value = error
            else:
                step = send
            try:
                awaited = run(step, value)
            except StopIteration as stop:
                result: T = stop.value
                return result
            except GeneratorExit as error:
                raise RuntimeError(GENERATOR_EXIT) from error

    def _suspended(self, owner: Request | Turn) -> None:
        owner.handle = task = asyncio.current_task()
        if owner.cancel_code and task is not None:
            task.cancel()
        many = owner.many if type(owner) is Turn else None
        if many is not None and not many.begun and len(many.turns) < BATCH_CONCURRENCY:
            self._queue.append(many)
        self._running = False
        if self._queue:
            self._new_runner()

    async def _stream(self, request: Request, method: Method) -> Outcome:
        """A handler with a stream in either direction, or both."""
        post = self._post
        incoming = None
        if method.takes_stream:
            incoming = Incoming(request, lambda r, items: post((GRANT, r, items, None)))
        args, kwargs = arguments(request, incoming)
        value = method.function(*args, **kwargs)
        if not method.stream:
            return outcome(request, await value)
        pace = Pace(request)
        following = value.__anext__
        try:
            while True:
                if not pace.open():
                    await pace.wait_async()
                if request.cancel_code:
                    return (FAIL, request, (request.cancel_code, {"message": "cancelled"}), True)
                try:
                    found = await following()
                except StopAsyncIteration:
                    raw = request.flags & RAW
                    return (FINISH, request, () if raw else NIL, raw)
                result = part(request, found)
                if result[0] == FAIL:
                    return result
                post(result)
                pace.produced += 1
        finally:
            close = getattr(value, "aclose", None)
            if close is not None:
                await close()

    # ---------------------------------------------------------------- batches

    async def _special(self, job: Many | tuple[Method, Sequence[Request]]) -> bool:
        """Work on a client's batch or on a group; True if that used this task up."""
        if isinstance(job, Many):
            if job.done:
                return False
            turn = Turn(job)
            job.turns.add(turn)
            running.set(job.request)
            try:
                await self._drive(self._work_on(job), copy_context(), turn)
            except GeneratorExit:
                raise
            except BaseException as error:  # of the whole
                job.turns.discard(turn)
                job.error = error
                job.cancel()
            job.turns.discard(turn)
            if not job.turns and job.begun:
                job.done = True
                self._post(job.outcome())
        else:
            turn = Turn(None)
            group = Group(job[0], job[1], self._clock())
            running.set(group.call)
            try:
                await self._drive(self._run_group(group), copy_context(), turn)
                results = group.close()
            except GeneratorExit:
                raise
            except BaseException as error:  # of the whole
                results = [failure(request, error) for request in job[1]]
            for result in results:
                self._post(result)
        return turn.handle is not None

    async def _work_on(self, many: Many) -> None:
        method: Any = many.request.target
        while not many.begun:
            index = many.following
            many.following += 1
            call = many.calls[index]
            if isinstance(call, CallError):
                many.results[index] = errors.to_wire(call)
                continue
            try:
                many.results[index] = (0, await method.function(*call[0], **call[1]))
            except GeneratorExit:
                raise
            except BaseException as error:  # the answer of this call alone
                many.results[index] = item_failure(method, error, call)

    async def _run_group(self, group: Group) -> None:
        for portion in group.portions():
            try:
                group.took(portion, await group.method.function(portion))
            except GeneratorExit:
                raise
            except BaseException as error:  # the answer of every call in the portion
                group.raised(portion, error)


class LoopThread:
    """An event loop on a thread of its own, with a LoopRunner."""

    def __init__(self, outbox: Outbox, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.runner = LoopRunner(self.loop, outbox)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` on the loop; blocks until it is done. Not to be called on the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Run `jobs`, from any thread."""
        self.runner.submit(jobs)

    def cancel(self, request: Request) -> None:
        """Cancel a call, from any thread."""
        self.loop.call_soon_threadsafe(self.runner.cancel, request)

    def stop(self, timeout: float) -> None:
        """Cancel what still runs, and end the loop; waits up to `timeout` seconds."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout)

    def _work(self) -> None:
        loop = self.loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
