"""The service `memory`: the verbs of `verbs.Verbs` over a store, for the mesh.

Lanes: reads are in the default lane and served by every process, `scan` in one of its own; what
has arrived together is read as of one moment. What changes something is in the lane `writer`,
which one process serves at a time (with Redis, every one). `watch` and `wait` are in the lane
`watch`, served where the writer is.

Common keyword arguments: `ns="default"` is the namespace. With `packed=True` values go both ways as
`bytes` that hold their MessagePack, which saves the service from looking into them; raw `bytes` are
an ordinary value. Times: `ttl`, `stale` in seconds from now, `at`, `expire_at` in Unix seconds.
Versions are whole numbers above 0 that grow with each change of a key; 0 stands for no such key.

    get(key, stale=False) -> value | None
    entry(key, stale=False) -> {value, version, ttl, fresh, tags} | None
    get_many([key]) -> {key: value}                         those that exist
    exists([key]) -> int
    ttl(key) -> seconds | -1 (never) | None
    scan(prefix="", values=False) -> stream of keys, or of [key, value]
    scan_page(prefix="", cursor=b"", limit=100, values=False) -> {items, cursor}    b"": the end
    lock_info(name) -> {token, owner, ttl} | None

    set(key, value, ttl, expire_at, keep_ttl, stale, tags, only_if="absent"|"present")
        -> version | None                                   None: only_if kept it from that
    set_many({key: value}, ttl, expire_at, stale, tags) -> {key: version}
    compare_and_set(key, value, version, ttl, ...) -> version               VersionConflict
    delete([key], version=None) -> int                                      VersionConflict
    expire(key, ttl | at=, only_if=""|"none"|"some"|"later"|"sooner") -> bool
    persist(key) -> bool
    get_and_touch(key, ttl=None) -> value | None
    get_and_delete(key) -> value | None
    increment(key, by=1, ttl=None, renew=False) -> int | float              ttl: when it is created
    invalidate(prefix= | tag=) -> int                       at once; exact up to 1,000
    clear(ns=) -> int
    configure(ns=, durability="always"|"relaxed", quota=octets) -> None
    batch([[verb, args, kwargs]], conditions={key: version}) -> [answer]    VersionConflict
    lock(name, ttl, owner="") -> token | None
    extend(name, token, ttl) -> bool
    unlock(name, token) -> bool
    reserve(key, ttl=10) -> {state: hit|stale|lead|wait, value?, token?}
    fill(key, value, token, ttl, stale, tags) -> version | None             None: too late
    release(key, token) -> bool
    at_writer(verb, args, kwargs) -> as that reading verb   for relaxed namespaces
    stats(ns="") -> {entries, octets, hits, ..., namespaces: {ns: {...}}}

    watch(prefix="") -> stream of {kind, key, version}      the first is {kind: "watching"}
    wait(key, timeout, lock=False) -> bool                  until a key exists, or a lock is free

`get_or_set` of a client is: `reserve`; on `hit` use the value; on `lead`, or on `stale` with a
token, compute and `fill` (or `release`, if that fails); on `stale` without one use the value; on
`wait`, `wait(key, ...)` and begin again.

Errors: InvalidArgument (what is wrong and what would be right; `data["lane"] == "writer"` asks for
`at_writer`), VersionConflict (`data["version"]`), QuotaExceeded, StoreFull, StoreBusy (a take-over;
retry), and those of a repeated request: KeyReused, OutcomeUnknown.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mesh import Service
from mesh.errors import InvalidArgument
from mesh.protocol import memory as limits
from mesh.protocol.memory import DEFAULT_NAMESPACE as DEFAULT
from mesh.service.lanes import Job
from workers.acts import (
    Act,
    Planned,
    finish,
    finish_each,
    misfit,
    operations,
    plan_all,
    requests,
)  # fmt: skip
from workers.memory.backend import Backend, Op
from workers.memory.verbs import Verbs
from workers.memory.watching import Hub, stream

if TYPE_CHECKING:
    from prometheus_client.core import Metric

WRITER, WATCH, SCAN = "writer", "watch", "scan"
READ_WINDOW, WRITE_WINDOW, WATCH_WINDOW, SCAN_WINDOW = 256, 1024, 1000, 64
TICK_EVERY = 0.25
PAGE = 200

READING = ("get", "entry", "get_many", "exists", "ttl", "scan_page", "lock_info")
CHANGING = (
    "set", "set_many", "compare_and_set", "delete", "expire", "persist", "get_and_touch",
    "get_and_delete", "increment", "invalidate", "clear", "configure", "batch", "lock", "extend",
    "unlock", "reserve", "fill", "release", "at_writer", "stats",
)  # fmt: skip
# May run twice even where repeats are not recognised: the second time does no harm.
HARMLESS = frozenset(("invalidate", "clear", "configure", "at_writer", "stats", "persist"))

log = logging.getLogger("workers.memory")


class MemoryHandler:
    """The methods of one process over `backend`; `service` is what is to be served."""

    def __init__(self, backend: Backend, name: str = "memory", version: str = "") -> None:
        self.backend = backend
        self.verbs = Verbs(backend.now)
        self.hub = Hub(backend.follow, backend.capabilities.many_writers)
        backend.watch(self.hub.report)
        self._ticking = threading.Event()
        self._ticker: threading.Thread | None = None
        self.service = self._declare(name, version)

    def _declare(self, name: str, version: str) -> Service:
        service = Service(name, version=version)
        identity = self.backend.identity()
        if identity:
            service.facts["store"] = {**identity, "host": socket.gethostname()}
        repeats = self.backend.capabilities.repeats
        remote = self.backend.capabilities.many_writers
        writing = WRITE_WINDOW if remote else 0
        watching = WATCH_WINDOW if remote else 0
        # What is asked over a network is not waited for on the I/O thread.
        service.lane("", capacity=READ_WINDOW, execute=self.answer, inline=not remote)
        service.lane(SCAN, capacity=SCAN_WINDOW)
        service.lane(WRITER, capacity=writing, execute=self.execute)
        service.lane(WATCH, capacity=watching)
        for verb in READING:
            service.rpc(name=verb, idempotent=True)(getattr(self.verbs, verb))
        for verb in CHANGING:
            build = getattr(self.verbs, verb, None) or getattr(self, verb)
            safe = repeats or verb in HARMLESS
            service.rpc(name=verb, lane=WRITER, idempotent=safe)(build)
        service.rpc(name="scan", lane=SCAN, idempotent=True)(self.scan)
        service.rpc(name="watch", lane=WATCH, idempotent=True)(self.watch)
        service.rpc(name="wait", lane=WATCH, idempotent=True, timeout=60.0)(self.wait)
        service.on_drain(self.hub.close)
        return service

    # ---------------------------------------------------------------- reading

    def answer(self, jobs: Sequence[Job]) -> None:
        """Run everything that has arrived in the default lane as of one moment."""
        planned: Planned[Op] = plan_all(jobs)
        ops = operations(planned)
        results = iter(self.backend.read(ops) if ops else ())
        for job, acts in planned:
            finish(job, acts, results)

    def scan(
        self, prefix: str = "", *, values: bool = False, ns: str = DEFAULT, packed: bool = False
    ) -> Iterator[Any]:
        """Keys that begin with `prefix`, or pairs of key and value, as a stream."""
        cursor = b""
        while True:
            act = self.verbs.scan_page(
                prefix, cursor=cursor, limit=PAGE, values=values, ns=ns, packed=packed
            )
            (result,) = self.backend.read((act.op,))
            if isinstance(result, Exception):
                raise result
            page = act.answer(result)
            yield from page["items"]
            cursor = page["cursor"]
            if not cursor:
                return

    def at_writer(
        self, verb: str, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Act[Op]:
        """A reading verb, served by the writer: for namespaces that are relaxed."""
        build = self.verbs.readers.get(verb) if isinstance(verb, str) else None
        if build is None:
            names = ", ".join(self.verbs.readers)
            raise InvalidArgument(f"at_writer: {verb!r:.60} is not one of {names}")
        if not isinstance(args, list | tuple) or not isinstance(kwargs, dict | None):
            raise InvalidArgument("at_writer wants a verb, a list and a mapping of arguments")
        try:
            return build(*args, **(kwargs or {}))
        except TypeError as error:
            why = misfit(build, args, kwargs or {}) or error
            raise InvalidArgument(f"at_writer: {verb}: {why}") from None

    # ---------------------------------------------------------------- writing

    def execute(self, jobs: Sequence[Job]) -> None:
        """Run everything that has arrived in the writer lane as one group."""
        planned: Planned[Op] = plan_all(jobs)
        ops = requests(planned, lambda several: Op("many", "", {"ops": several}))
        finish_each(planned, self.backend.execute(ops) if ops else ())

    # ---------------------------------------------------------------- watching

    async def watch(self, prefix: str = "", *, ns: str = DEFAULT) -> AsyncIterator[dict[str, Any]]:
        """What happens to the keys that begin with `prefix`, as a stream.

        It ends with an error when another process becomes the writer, or this one leaves: what
        happened meanwhile is not known then, so read again what you keep.
        """
        watcher = await self.hub.join(limits.check_namespace(ns), limits.check_prefix(prefix))
        try:
            yield {"kind": "watching", "key": prefix, "version": 0}
            async for event in stream(watcher):
                yield event
        finally:
            self.hub.leave(watcher)

    async def wait(
        self, key: str, timeout: float = 10.0, *, lock: bool = False, ns: str = DEFAULT
    ) -> bool:
        """Until `key` exists or its reservation was given back; False if none happened.

        With `lock`: until nobody holds the lock `key`.
        """
        octets = limits.check_key(key)
        seconds = min(50.0, limits.duration_ms("timeout", timeout) / 1000)
        watcher = await self.hub.join(limits.check_namespace(ns), octets)
        try:
            async with asyncio.timeout(seconds):
                while not await self._awaited(ns, octets, lock):
                    await watcher.wait()
                    kinds = {kind for _, key, kind, _ in watcher.waiting if key == octets}
                    if "unlocked" in kinds if lock else kinds:
                        return True
                    watcher.waiting.clear()
            return True
        except TimeoutError:
            return False
        finally:
            self.hub.leave(watcher)

    async def _awaited(self, ns: str, key: bytes, lock: bool) -> bool:
        """Whether the key exists, or nobody has the lock, as far as this process can see."""
        op = Op("lock_info", ns, {"name": key}) if lock else Op("exists", ns, {"keys": (key,)})
        if self.backend.capabilities.many_writers:  # over a network
            (found,) = await asyncio.to_thread(self.backend.read, (op,))
        else:
            (found,) = self.backend.read((op,))
            if isinstance(found, InvalidArgument):  # relaxed: only the writer knows
                (found,) = await asyncio.to_thread(self.backend.execute, (op,))
        return found is None if lock else bool(found == 1)

    # ---------------------------------------------------------------- life

    def stand(self, set_lane: Callable[[str, int, int], None], fail: Callable[[], None]) -> None:
        """Begin to write as soon as it is this process's turn.

        `set_lane(name, capacity, epoch)` opens a lane, by a claim if `epoch` is not 0, so that no
        process whose turn is over gets anything from it; `fail()` ends the process: it can write
        no longer.
        """

        def gained(epoch: int) -> None:
            set_lane(WRITER, WRITE_WINDOW, epoch)
            set_lane(WATCH, WATCH_WINDOW, epoch)

        def lost(error: Exception) -> None:
            log.critical("this process can write the store no longer: %s", error)
            fail()

        self._ticker = threading.Thread(target=self._tick, name="memory-tick", daemon=True)
        self._ticker.start()
        self.backend.stand(gained, lost)

    def families(self) -> Iterable[Metric]:
        """What there is to tell over HTTP."""
        from workers.memory import monitor  # most run without

        return monitor.families(self.backend)

    def close(self) -> None:
        """Write what is left, hand over, close the store."""
        self._ticking.set()
        if self._ticker is not None:
            self._ticker.join()
        self.backend.close()

    def _tick(self) -> None:
        more = False
        while not self._ticking.wait(0.0 if more else TICK_EVERY):
            try:
                more = self.backend.tick()
            except Exception:
                more = False
                log.exception("clearing up failed; it is tried again")
