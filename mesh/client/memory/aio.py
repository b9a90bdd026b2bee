"""`m.memory` of the asyncio client."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextvars import copy_context
from functools import wraps
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, overload

from mesh import context
from mesh.client.memory import calls, plans
from mesh.client.memory.plans import Compute, Later, Lease, Pause, Plan, Wanted
from mesh.client.memory.requests import Change, Request, instead
from mesh.client.memory.steps import Steps
from mesh.client.verbs import caller_for
from mesh.errors import CallError
from mesh.protocol import memory as limits

if TYPE_CHECKING:
    from mesh.client.aio import AsyncCaller

P = ParamSpec("P")
T = TypeVar("T")

WATCH_TIMEOUT = 300.0


def _awaited(
    build: Callable[Concatenate[str, P], Request[T]],
) -> Callable[Concatenate[AsyncMemory, P], Coroutine[Any, Any, T]]:
    """The verb that `build` describes, as a method to be awaited."""

    @wraps(build)
    def verb(self: AsyncMemory, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return self._ask(build(self._ns, *args, **kwargs))

    return verb


class AsyncMemory:
    """The verbs of the memory service, on one namespace; those of `Memory`, to be awaited."""

    def __init__(
        self,
        caller: AsyncCaller,
        timeout: float,
        ns: str = limits.DEFAULT_NAMESPACE,
        relaxed: set[str] | None = None,
    ) -> None:
        self._caller = caller
        self._safe = caller.options(idempotent=True)
        self._timeout = timeout
        self._ns = ns
        self._relaxed = relaxed if relaxed is not None else set()
        self._refreshes: set[asyncio.Task[None]] = set()

    def namespace(self, name: str) -> AsyncMemory:
        """The same verbs on the keys of another namespace."""
        return AsyncMemory(self._caller, self._timeout, limits.check_namespace(name), self._relaxed)

    get = _awaited(calls.get)
    entry = _awaited(calls.entry)
    get_many = _awaited(calls.get_many)
    exists = _awaited(calls.exists)
    ttl = _awaited(calls.ttl)
    scan_page = _awaited(calls.scan_page)
    lock_info = _awaited(calls.lock_info)
    stats = _awaited(calls.stats)

    set = _awaited(calls.set)
    set_many = _awaited(calls.set_many)
    compare_and_set = _awaited(calls.compare_and_set)
    delete = _awaited(calls.delete)
    expire = _awaited(calls.expire)
    persist = _awaited(calls.persist)
    get_and_touch = _awaited(calls.get_and_touch)
    get_and_delete = _awaited(calls.get_and_delete)
    increment = _awaited(calls.increment)
    invalidate = _awaited(calls.invalidate)
    clear = _awaited(calls.clear)
    configure = _awaited(calls.configure)

    async def scan(self, prefix: str = "", *, page: int = 500) -> AsyncIterator[str]:
        """All keys that begin with `prefix`, `page` at a time."""
        cursor = b""
        while True:
            found = await self.scan_page(prefix, cursor=cursor, limit=page)
            for key in found.items:
                yield key
            if not (cursor := found.cursor):
                return

    async def scan_items(
        self, prefix: str = "", *, page: int = 500
    ) -> AsyncIterator[tuple[str, Any]]:
        """All keys that begin with `prefix`, with their values, up to `page` at a time."""
        cursor = b""
        while True:
            found = await self.scan_page(prefix, values=True, cursor=cursor, limit=page)
            for item in found.items:
                yield item
            if not (cursor := found.cursor):
                return

    @overload
    async def get_or_set(
        self,
        key: str,
        make: Callable[[], Awaitable[T]],
        *,
        ttl: float | None = None,
        stale_ttl: float | None = None,
        tags: Iterable[str] = (),
        lease: float = 30.0,
    ) -> T: ...
    @overload
    async def get_or_set(
        self,
        key: str,
        make: Callable[[], T],
        *,
        ttl: float | None = None,
        stale_ttl: float | None = None,
        tags: Iterable[str] = (),
        lease: float = 30.0,
    ) -> T: ...
    async def get_or_set(
        self,
        key: str,
        make: Callable[[], Any],
        *,
        ttl: float | None = None,
        stale_ttl: float | None = None,
        tags: Iterable[str] = (),
        lease: float = 30.0,
    ) -> Any:
        """As `Memory.get_or_set`; `make` may be a plain function or a coroutine function."""
        times = calls.lifetime(ttl, None, stale_ttl)
        wanted = Wanted(self._ns, key, make, times, calls.tag_list(tags), lease)
        return await self._follow(plans.get_or_set(wanted, monotonic, self._timeout))

    def batch(self) -> AsyncBatch:
        """Several changes of this namespace, done together or not at all."""
        return AsyncBatch(self)

    def lock(
        self,
        name: str,
        *,
        ttl: float = 10.0,
        wait: float = 30.0,
        owner: str = "",
        renew: bool = True,
    ) -> AsyncLock:
        """A lock across processes and machines, for `async with`; as `Memory.lock`."""
        return AsyncLock(self, Lease(self._ns, name, ttl, owner), wait, renew)

    async def watch(self, prefix: str = "") -> AsyncIterator[Change]:
        """What happens to the keys that begin with `prefix`, for ever; as `Memory.watch`."""
        limits.check_prefix(prefix)
        resumption = plans.Resumption(monotonic, self._timeout, random.Random())
        caller = self._caller.options(timeout=WATCH_TIMEOUT)
        while True:
            try:
                async with caller.stream("memory.watch", prefix, ns=self._ns) as events:
                    async for event in events:
                        yield resumption.change(event)
            except CallError as error:
                await asyncio.sleep(resumption.pause(error))

    # ---------------------------------------------------------------- how it is done

    async def _ask(self, request: Request[T]) -> T:
        if request.safe and self._ns in self._relaxed:
            request = request.at_writer()
        try:
            return request.read(await self._call(request))
        except CallError as error:
            request = instead(request, error)
        self._relaxed.add(self._ns)
        return request.read(await self._call(request))

    def _call(self, request: Request[Any]) -> Coroutine[Any, Any, Any]:
        caller = caller_for(request, self._caller, self._safe)
        return caller.call(f"memory.{request.verb}", *request.args, **request.kwargs)

    async def _follow(self, plan: Plan[T]) -> T:
        """Do what a plan says; what it returns. Raises whatever it raises."""
        try:
            step = next(plan)
            while True:
                outcome: Any = None
                try:
                    match step:
                        case Request():
                            outcome = await self._ask(step)
                        case Compute(make):
                            outcome = make()
                            if inspect.isawaitable(outcome):
                                outcome = await outcome
                        case Later(later):
                            self._later(later)
                        case Pause(seconds):
                            await asyncio.sleep(seconds)
                except BaseException as error:
                    step = plan.throw(error)
                else:
                    step = plan.send(outcome)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def _later(self, plan: Plan[Any]) -> None:
        # It outlives the call that is served here, so it must not inherit its deadline.
        around = copy_context()
        around.run(context.running.set, None)
        task = asyncio.get_running_loop().create_task(self._follow(plan), context=around)
        self._refreshes.add(task)
        task.add_done_callback(self._refreshes.discard)


class AsyncBatch(Steps):
    """Steps of one transaction; see `AsyncMemory.batch`."""

    def __init__(self, memory: AsyncMemory) -> None:
        super().__init__(memory._ns)
        self._memory = memory

    async def run(self) -> list[Any]:
        """Do all steps, in their order; what each returned.

        Raises:
            VersionConflict: something `require`d is not so; nothing was done.
        """
        return await self._memory._ask(self._request())


class AsyncLock:
    """A lock; see `AsyncMemory.lock`. `async with` takes it and gives it back."""

    def __init__(self, memory: AsyncMemory, lease: Lease, wait: float, renew: bool) -> None:
        self._memory = memory
        self._blank = lease
        self._lease = lease
        self._wait = wait
        self._renew = renew
        self._keeper: asyncio.Task[None] | None = None

    @property
    def token(self) -> int:
        """The fencing token: greater than that of any holder before. 0: it was never held.

        Hand it to what the lock protects, which must refuse smaller ones.
        """
        return self._lease.token

    @property
    def held(self) -> bool:
        """Whether it is held, as far as this process can know without asking."""
        return self._lease.held(monotonic())

    def check(self) -> None:
        """Raises LockLost unless it is held, as far as this process can know without asking."""
        self._lease.check(monotonic())

    async def acquire(self, wait: float | None = None) -> bool:
        """Take it, within `wait` seconds; whether that was possible."""
        lease = self._blank.another()
        wait = self._wait if wait is None else wait
        if not await self._memory._follow(plans.acquire(lease, monotonic, wait)):
            return False
        self._lease = lease
        if self._renew:
            self._keeper = asyncio.create_task(self._memory._follow(plans.keep(lease, monotonic)))
        return True

    async def extend(self, ttl: float | None = None) -> bool:
        """Hold it for `ttl` seconds from now; False if it was lost."""
        lease = self._lease
        return await self._memory._follow(
            plans.extend(lease, monotonic, lease.ttl if ttl is None else ttl)
        )

    async def release(self) -> bool:
        """Give it back; False if it had been lost."""
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        lease, self._lease = self._lease, self._blank
        if not lease.token:
            return False
        return await self._memory._ask(calls.release_lock(lease.ns, lease.name, lease.token))

    async def __aenter__(self) -> Self:
        if not await self.acquire():
            raise plans.not_acquired(self._blank, self._wait)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        lease = self._lease
        if not await self.release() and kind is None:
            raise plans.lost(lease)
