"""`MeshTest`: a whole mesh inside one process, for the unit tests of services.

The broker's router, the worker's session and the client are the real ones, and so are the
handlers; only the sockets are missing. The mesh's own timers (deadlines, heartbeats, backoff,
breakers) run on a clock that jumps ahead as soon as nothing else is going on, so a test of a
timeout takes no time. While a handler runs, the clock keeps pace with the real one.

    async with MeshTest(cart) as m:                 with MeshTest(cart) as m:
        assert await m.call("cart.total", "c1")         assert m.call("cart.total", "c1")

This is the one module of `mesh` that knows the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from broker.router import Router
from mesh.client import base
from mesh.client.aio import AsyncMesh
from mesh.client.aio_driver import LoopDriver
from mesh.client.aio_streams import AsyncResults
from mesh.client.awaited import Connection
from mesh.client.base import Options
from mesh.client.calls import ClientSettings
from mesh.client.core import ClientCore
from mesh.errors import ConfigError
from mesh.protocol import native
from mesh.protocol.messages import Message
from mesh.service.declare import Service
from mesh.service.dispatch import Dispatcher
from mesh.service.invoke import Outbox, apply
from mesh.service.loop import Job, LoopRunner
from mesh.service.requests import Request
from mesh.service.session import SessionCore

T = TypeVar("T")

BROKER = "tcp://127.0.0.1:1"
QUIET_TURNS = 4
STOP_TIMEOUT = 2.0


class Clock:
    """The mesh's time in a test, in seconds. `advance` lets it pass."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric

    @property
    def now(self) -> float:
        """The time; only differences mean something."""
        return self._fabric.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, with everything that is due in between."""
        self._fabric.on_loop(lambda: self._fabric.advance(seconds))


class _OwnLoop:
    """Runs async handlers on the test's own loop."""

    def __init__(self, runner: LoopRunner) -> None:
        self._runner = runner

    def run(self, coroutine: Any) -> Any:
        raise RuntimeError("hooks are awaited here")

    def submit(self, jobs: Sequence[Job]) -> None:
        self._runner.submit(jobs)

    def cancel(self, request: Request) -> None:
        self._runner.cancel(request)

    def stop(self, timeout: float) -> None:
        self._runner.stop()


class _Worker:
    """One worker of a service: its session, its handlers, and the outcomes on their way."""

    def __init__(self, fabric: Fabric, service: Service, number: int) -> None:
        if not service.methods:
            raise ConfigError(f"service {service.name!r} has no methods; declare one with @rpc")
        self.service = service
        self.number = number
        self.outbox = Outbox(fabric.kick)
        self.session = SessionCore(
            service.name,
            service.methods.values(),
            service.lanes(),
            [BROKER],
            uniform=random.Random(f"{fabric.seed}.{number}").random,
            facts={"instance": str(number), "version": service.version},
            incarnation=number,
            now=fabric.now,
        )
        runner = LoopRunner(fabric.loop, self.outbox, fabric.clock)
        self.dispatcher = Dispatcher(service, self.outbox, _OwnLoop(runner), fabric.clock)

    @property
    def executing(self) -> int:
        """Requests whose handlers are at work, or about to be."""
        return self.session.in_hand - self.dispatcher.gathered

    def peer(self, link: int) -> bytes:
        """The name under which the broker knows a link of this worker."""
        return b"w%d.%d" % (self.number, link)


class Fabric:
    """Carries messages between the cores, in place of sockets. Lives on one event loop.

    For the client it is its `Carrier`.
    """

    def __init__(self, services: Sequence[Service], seed: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.seed = seed
        self.now = time.monotonic()
        self.clock: Callable[[], float] = lambda: self.now
        self.changed = 0
        self.on_open: Callable[[list[int]], None] = lambda fds: None
        self.on_close: Callable[[list[int]], None] = lambda fds: None
        self.services = services
        self.workers: list[_Worker] = []
        self.driver: LoopDriver | None = None
        rng = random.Random(seed)
        settings = ClientSettings()
        self.client: ClientCore = base.new_core(
            [BROKER], settings, seed=rng.getrandbits(128), now=self.now
        )
        self.router = Router(broker_id="test")
        self._real = time.monotonic()
        self._started = 0
        self._kicked = False
        self._quiet = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    # ---------------------------------------------------------------- life

    async def add(self, service: Service) -> None:
        """Start a worker of `service`."""
        self._started += 1
        worker = _Worker(self, service, self._started)
        await worker.dispatcher.start_up()
        self.workers.append(worker)
        self.turn()

    def kill(self, service: Service | str) -> None:
        """End every worker of `service` in an instant, as a power cut would."""
        name = service if isinstance(service, str) else service.name
        found = [worker for worker in self.workers if worker.service.name == name]
        if not found:
            raise ConfigError(f"no worker of {name!r} is running")
        for worker in found:
            self.workers.remove(worker)
            for link in list(worker.session.links):
                self.router.lost(worker.peer(link), self.now)
                worker.session.lost(link, self.now)
            worker.dispatcher.turn(worker.session, self.now)
            worker.dispatcher.stop(0.0)
        self.turn()
        self.kick()

    async def end(self) -> None:
        """Drain every worker and run its shut-down hooks."""
        workers = list(self.workers)
        for worker in workers:
            worker.session.drain(self.now)
            await worker.dispatcher.leaving()
        end_at = time.monotonic() + STOP_TIMEOUT
        while any(w.executing for w in workers) and time.monotonic() < end_at:
            self.turn()
            await asyncio.sleep(0.001)
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for worker in workers:
            worker.session.leave(self.now)
            worker.dispatcher.turn(worker.session, self.now)
            await worker.dispatcher.shut_down()
            worker.dispatcher.stop(0.0)

    def close(self) -> None:
        """The client has closed; workers end with the test."""

    # ---------------------------------------------------------------- moving messages

    def turn(self, rounds: int = 0) -> bool:
        """Carry messages until all is quiet."""
        self._keep_pace()
        try:
            while self._round():
                self._quiet = 0
        except BaseException:
            self.client.close(self.now)  # nobody may wait for what will never come
            raise
        self._rearm()
        return False

    def flush(self) -> bool:
        """Everything moves in `turn`."""
        return True

    def _keep_pace(self) -> None:
        """While handlers run, time passes as it really does."""
        real = time.monotonic()
        if any(worker.executing for worker in self.workers):
            self.now += real - self._real
        self._real = real

    def _round(self) -> bool:
        now = self.now
        moved = False
        self.client.tick(now)
        for link, endpoint in self.client.take_links():
            moved = True
            if endpoint is None:
                self.router.lost(b"c%d" % link, now)
            else:
                self.client.connected(link, now)
        for link, message in self.client.take():
            moved = True
            self.router.receive(b"c%d" % link, _copy(message), now)
        for worker in list(self.workers):
            moved = self._worker_round(worker, now) or moved
        self.router.tick(now)
        for peer, message in self.router.take():
            moved = True
            self._deliver(peer, _copy(message), now)
        return moved

    def _worker_round(self, worker: _Worker, now: float) -> bool:
        session = worker.session
        outbox = worker.outbox
        moved = worker.dispatcher.turn(session, now) or bool(outbox)
        apply(session, outbox.take())
        session.tick(now)
        actions = session.take_links()
        for link, message in session.take():
            moved = True
            self.router.receive(worker.peer(link), _copy(message), now)
        for link, endpoint in actions:
            if endpoint is None:
                self.router.lost(worker.peer(link), now)
        return moved

    def _deliver(self, peer: bytes, message: Message, now: float) -> None:
        if peer.startswith(b"c"):
            self.client.receive(int(peer[1:]), message, now)
            return
        number, _, link = peer[1:].partition(b".")
        for worker in self.workers:
            if worker.number == int(number):
                worker.session.receive(int(link), message, now)

    # ---------------------------------------------------------------- time

    def next_deadline(self) -> float:
        """When the next of the mesh's timers is due."""
        found = [self.client.next_deadline(), self.router.next_deadline()]
        for worker in self.workers:
            found += [worker.session.next_deadline(), worker.dispatcher.next_deadline()]
        return min(found)

    def advance(self, seconds: float) -> None:
        """Let time pass, from one timer to the next."""
        end_at = self.now + seconds
        self.turn()
        while self.now < end_at:
            self.now = min(end_at, max(self.now, self.next_deadline()))
            self.turn()
            # A timer that is due and does not move must not stop the clock.
            if self.next_deadline() <= self.now:
                self.now = min(end_at, self.now + 0.001)
        self.kick()

    def kick(self) -> None:
        """Take in what handlers have produced; from any thread."""
        if not self._kicked:
            self._kicked = True
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the test with it
                self.loop.call_soon_threadsafe(self._kick)

    def _kick(self) -> None:
        self._kicked = False
        if not self._closed and self.driver is not None:
            self.driver.soon()

    def _rearm(self) -> None:
        """See to it that time goes on for calls that are open."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.client.calls or self._closed:
            return
        if any(worker.executing for worker in self.workers):
            delay = max(0.001, self.next_deadline() - self.now)
            self._timer = self.loop.call_later(delay, self._kick)
        else:
            self._timer = self.loop.call_later(0.0, self._idle)

    def _idle(self) -> None:
        """Nothing happens any more: go on to the next timer. But let the test's own tasks run."""
        self._quiet += 1
        if self._quiet > QUIET_TURNS:
            self._quiet = 0
            self.now = max(self.now, self.next_deadline())
        self._kick()

    def on_loop(self, action: Callable[[], T]) -> T:
        """Run `action` on the loop, from any thread."""
        try:
            here = asyncio.get_running_loop() is self.loop
        except RuntimeError:
            here = False
        if here:
            return action()

        async def run() -> T:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result()


def _copy(message: Message) -> Message:
    """Through the codec, as over a wire: the other side never sees the same object."""
    return native.decode(native.encode(message))


class AsyncTestMesh(AsyncMesh):
    """What `async with MeshTest(...)` gives: a client of the mesh in the test."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.clock = Clock(fabric)

        def make(loop: asyncio.AbstractEventLoop) -> LoopDriver:
            fabric.driver = LoopDriver(fabric.client, fabric, loop)
            return fabric.driver

        super().__init__(Connection(make, ClientSettings()), Options())

    def kill(self, service: Service | str) -> None:
        """End every worker of `service` in an instant; what it had in hand is lost."""
        self.fabric.kill(service)

    async def start(self, service: Service) -> None:
        """Start one more worker of `service`."""
        await self.fabric.add(service)


class SyncTestMesh:
    """What `with MeshTest(...)` gives: the same, blocking. The mesh runs on a thread of its own."""

    def __init__(self, inner: Any, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._inner = inner
        self._run = run

    @property
    def clock(self) -> Clock:
        """The mesh's time."""
        clock: Clock = self._inner.clock
        return clock

    def options(self, **given: Any) -> SyncTestMesh:
        """The same mesh with other options for its calls."""
        return SyncTestMesh(self._inner.options(**given), self._run)

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a method and return its value. Raises CallError."""
        return self._run(self._inner.call(target, *args, **kwargs))

    def batch(self, target: Any, items: Any, **options: Any) -> Any:
        """Many calls of one method; their values or errors, in order."""
        return self._run(self._inner.batch(target, items, **options))

    def stream(self, target: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """The items of a stream, as they come."""

        async def begin() -> AsyncResults[Any]:
            found: AsyncResults[Any] = self._inner.stream(target, *args, **kwargs)
            return found

        results = self._run(begin())
        try:
            while True:
                try:
                    yield self._run(results.__anext__())
                except StopAsyncIteration:
                    return
        finally:
            self._run(results.close())

    def kill(self, service: Service | str) -> None:
        """End every worker of `service` in an instant; what it had in hand is lost."""
        self._inner.fabric.on_loop(lambda: self._inner.kill(service))

    def start(self, service: Service) -> None:
        """Start one more worker of `service`."""
        self._run(self._inner.start(service))


class MeshTest:
    """A mesh of `services` in this process; see the module. `seed` fixes its random choices."""

    def __init__(self, *services: Service, seed: int = 0) -> None:
        self._services = services
        self._seed = seed
        self._mesh: AsyncTestMesh | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> AsyncTestMesh:
        fabric = Fabric(self._services, self._seed)
        self._mesh = AsyncTestMesh(fabric)
        await self._mesh
        try:
            for service in self._services:
                await fabric.add(service)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self._mesh

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        mesh, self._mesh = self._mesh, None
        if mesh is not None:
            await mesh.fabric.end()
            await mesh.close()

    def __enter__(self) -> SyncTestMesh:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="mesh-test", daemon=True
        )
        self._thread.start()
        try:
            return SyncTestMesh(self._run(self.__aenter__()), self._run)
        except BaseException:
            self._end_thread()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._run(self.__aexit__(kind, error, trace))
        finally:
            self._end_thread()

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        if self._loop is None:
            raise RuntimeError("the mesh is not running; use it inside `with MeshTest(...)`")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _end_thread(self) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            tasks = asyncio.all_tasks(self._loop)
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
        self._loop = self._thread = None
