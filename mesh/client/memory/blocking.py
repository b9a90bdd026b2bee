"""`m.memory` of the blocking client."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from mesh.client.memory import calls, plans
from mesh.client.memory.plans import Compute, Later, Lease, Pause, Plan, Wanted
from mesh.client.memory.requests import Change, Request, instead
from mesh.client.memory.steps import Steps
from mesh.client.verbs import caller_for
from mesh.errors import CallError
from mesh.protocol import memory as limits

if TYPE_CHECKING:
    from mesh.client.sync import Caller

P = ParamSpec("P")
T = TypeVar("T")

WATCH_TIMEOUT = 300.0
# Values computed anew in the background at a time; beyond them, whoever asks computes.
REFRESHES = 8


def _blocking(
    build: Callable[Concatenate[str, P], Request[T]],
) -> Callable[Concatenate[Memory, P], T]:
    """The verb that `build` describes, as a method."""

    @wraps(build)
    def verb(self: Memory, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._ask(build(self._ns, *args, **kwargs))

    return verb


class Memory:
    """The verbs of the memory service, on one namespace. Any number of threads may use it.

    Everything raises CallError if it fails; InvalidArgument says what would be accepted. Values
    are whatever the mesh can carry: None, numbers, text, bytes, lists, dicts, sets, times.
    """

    def __init__(
        self,
        caller: Caller,
        timeout: float,
        ns: str = limits.DEFAULT_NAMESPACE,
        relaxed: set[str] | None = None,
    ) -> None:
        self._caller = caller
        self._safe = caller.options(idempotent=True)
        self._timeout = timeout
        self._ns = ns
        self._relaxed = relaxed if relaxed is not None else set()
        self._refreshes = threading.BoundedSemaphore(REFRESHES)

    def namespace(self, name: str) -> Memory:
        """The same verbs on the keys of another namespace."""
        return Memory(self._caller, self._timeout, limits.check_namespace(name), self._relaxed)

    get = _blocking(calls.get)
    entry = _blocking(calls.entry)
    get_many = _blocking(calls.get_many)
    exists = _blocking(calls.exists)
    ttl = _blocking(calls.ttl)
    scan_page = _blocking(calls.scan_page)
    lock_info = _blocking(calls.lock_info)
    stats = _blocking(calls.stats)

    set = _blocking(calls.set)
    set_many = _blocking(calls.set_many)
    compare_and_set = _blocking(calls.compare_and_set)
    delete = _blocking(calls.delete)
    expire = _blocking(calls.expire)
    persist = _blocking(calls.persist)
    get_and_touch = _blocking(calls.get_and_touch)
    get_and_delete = _blocking(calls.get_and_delete)
    increment = _blocking(calls.increment)
    invalidate = _blocking(calls.invalidate)
    clear = _blocking(calls.clear)
    configure = _blocking(calls.configure)

    def scan(self, prefix: str = "", *, page: int = 500) -> Iterator[str]:
        """All keys that begin with `prefix`, `page` at a time."""
        cursor = b""
        while True:
            found = self.scan_page(prefix, cursor=cursor, limit=page)
            yield from found.items
            if not (cursor := found.cursor):
                return

    def scan_items(self, prefix: str = "", *, page: int = 500) -> Iterator[tuple[str, Any]]:
        """All keys that begin with `prefix`, with their values, up to `page` at a time."""
        cursor = b""
        while True:
            found = self.scan_page(prefix, values=True, cursor=cursor, limit=page)
            yield from found.items
            if not (cursor := found.cursor):
                return

    def get_or_set(
        self,
        key: str,
        make: Callable[[], T],
        *,
        ttl: float | None = None,
        stale_ttl: float | None = None,
        tags: Iterable[str] = (),
        lease: float = 30.0,
    ) -> T:
        """The value of a key; if nobody has it, `make` computes it, once for all who ask.

        Others wait meanwhile, also in other processes and on other machines. If the key is
        deleted, written or invalidated while `make` runs, its result is returned but not kept.

        Args:
            ttl: seconds that the value is good for; without it, for ever.
            stale_ttl: seconds after its ttl in which the old value is returned at once, while one
                of those who ask computes it anew in the background.
            tags: names by which `invalidate` finds it.
            lease: seconds after which another may compute it, if `make` has not come to an end.

        Raises:
            Exception: whatever `make` raised. Others who wait try again then.
            DeadlineExceeded: others computed it for longer than this client's timeout.
        """
        times = calls.lifetime(ttl, None, stale_ttl)
        wanted = Wanted(self._ns, key, make, times, calls.tag_list(tags), lease)
        value: T = self._follow(plans.get_or_set(wanted, time.monotonic, self._timeout))
        return value

    def batch(self) -> Batch:
        """Several changes of this namespace, done together or not at all."""
        return Batch(self)

    def lock(
        self,
        name: str,
        *,
        ttl: float = 10.0,
        wait: float = 30.0,
        owner: str = "",
        renew: bool = True,
    ) -> Lock:
        """A lock across processes and machines, for `with`.

        Args:
            ttl: seconds after which it ends by itself, if its holder dies.
            wait: seconds to wait for it.
            owner: shown by `lock_info`.
            renew: extend it in the background as long as it is held.
        """
        return Lock(self, Lease(self._ns, name, ttl, owner), wait, renew)

    def watch(self, prefix: str = "") -> Iterator[Change]:
        """What happens to the keys that begin with `prefix`, for ever.

        The first change is of the kind "watching". It comes again whenever the stream had to begin
        anew: what happened in between is not known, so read again what you keep. Others are "set",
        "deleted", "expired", "evicted", "cleared" (`key` is the prefix or tag), "unlocked",
        "released" and "missed" (`missed` changes came faster than they were read).
        """
        limits.check_prefix(prefix)
        resumption = plans.Resumption(time.monotonic, self._timeout, random.Random())
        caller = self._caller.options(timeout=WATCH_TIMEOUT)
        while True:
            try:
                with caller.stream("memory.watch", prefix, ns=self._ns) as events:
                    for event in events:
                        yield resumption.change(event)
            except CallError as error:
                time.sleep(resumption.pause(error))

    # ---------------------------------------------------------------- how it is done

    def _ask(self, request: Request[T]) -> T:
        if request.safe and self._ns in self._relaxed:
            request = request.at_writer()
        try:
            return self._call(request)
        except CallError as error:
            request = instead(request, error)
        self._relaxed.add(self._ns)
        return self._call(request)

    def _call(self, request: Request[T]) -> T:
        caller = caller_for(request, self._caller, self._safe)
        return request.read(caller.call(f"memory.{request.verb}", *request.args, **request.kwargs))

    def _follow(self, plan: Plan[T], pause: Callable[[float], None] = time.sleep) -> T:
        """Do what a plan says; what it returns. Raises whatever it raises."""
        try:
            step = next(plan)
            while True:
                outcome: Any = None
                try:
                    match step:
                        case Request():
                            outcome = self._ask(step)
                        case Compute(make):
                            outcome = make()
                        case Later(later):
                            self._later(later)
                        case Pause(seconds):
                            pause(seconds)
                except BaseException as error:
                    step = plan.throw(error)
                else:
                    step = plan.send(outcome)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def _later(self, plan: Plan[Any]) -> None:
        if not self._refreshes.acquire(blocking=False):
            self._follow(plan)
            return

        def run() -> None:
            try:
                self._follow(plan)
            finally:
                self._refreshes.release()

        threading.Thread(target=run, name="memory-refresh", daemon=True).start()


class Batch(Steps):
    """Steps of one transaction; see `Memory.batch`."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory._ns)
        self._memory = memory

    def run(self) -> list[Any]:
        """Do all steps, in their order; what each returned.

        Raises:
            VersionConflict: something `require`d is not so; nothing was done.
        """
        return self._memory._ask(self._request())


class _Stopped(Exception):
    """Ends the thread that extends a lock."""


class Lock:
    """A lock; see `Memory.lock`. `with` takes it and gives it back. For one thread at a time."""

    def __init__(self, memory: Memory, lease: Lease, wait: float, renew: bool) -> None:
        self._memory = memory
        self._blank = lease
        self._lease = lease
        self._wait = wait
        self._renew = renew
        self._stop = threading.Event()

    @property
    def token(self) -> int:
        """The fencing token: greater than that of any holder before. 0: it was never held.

        Hand it to what the lock protects, which must refuse smaller ones.
        """
        return self._lease.token

    @property
    def held(self) -> bool:
        """Whether it is held, as far as this process can know without asking."""
        return self._lease.held(time.monotonic())

    def check(self) -> None:
        """Raises LockLost unless it is held, as far as this process can know without asking."""
        self._lease.check(time.monotonic())

    def acquire(self, wait: float | None = None) -> bool:
        """Take it, within `wait` seconds; whether that was possible."""
        lease = self._blank.another()
        wait = self._wait if wait is None else wait
        if not self._memory._follow(plans.acquire(lease, time.monotonic, wait)):
            return False
        self._lease = lease
        if self._renew:
            self._stop = threading.Event()
            threading.Thread(
                target=self._keep, args=(lease, self._stop), name="memory-lock", daemon=True
            ).start()
        return True

    def extend(self, ttl: float | None = None) -> bool:
        """Hold it for `ttl` seconds from now; False if it was lost."""
        lease = self._lease
        return self._memory._follow(
            plans.extend(lease, time.monotonic, lease.ttl if ttl is None else ttl)
        )

    def release(self) -> bool:
        """Give it back; False if it had been lost."""
        self._stop.set()
        lease, self._lease = self._lease, self._blank
        if not lease.token:
            return False
        return self._memory._ask(calls.release_lock(lease.ns, lease.name, lease.token))

    def _keep(self, lease: Lease, stop: threading.Event) -> None:
        def pause(seconds: float) -> None:
            if stop.wait(seconds):
                raise _Stopped

        with suppress(_Stopped):
            self._memory._follow(plans.keep(lease, time.monotonic), pause)

    def __enter__(self) -> Self:
        if not self.acquire():
            raise plans.not_acquired(self._blank, self._wait)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        lease = self._lease
        if not self.release() and kind is None:
            raise plans.lost(lease)
