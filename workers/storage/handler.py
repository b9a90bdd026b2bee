"""The service `storage`: the verbs of `verbs.Verbs` over an engine, for the mesh.

Lanes: reads are in the default lane and served by every process; what has arrived together is read
as of one moment. `scan` and the parts of objects have lanes of their own. What changes something is
in the lane `writer`, which one process serves at a time; parts that are sent, and `changes`, are
served by the same process.

Common keyword arguments: `bucket="default"`; with `packed=True` values go both ways as `bytes` that
hold their MessagePack. Times are seconds, versions whole numbers above 0 that grow with each change
of the store; 0 stands for no such key. `idempotency_key` makes a write happen once, however often
it is asked for within ten minutes; without one, that holds for the retries of a client.

Records:

    get(key) -> value | None
    entry(key) -> {value, version, modified_at, expire_at} | None
    get_many([key]) -> {key: value}                         those that exist
    exists([key]) -> int
    put(key, value, ttl, only_if="absent"|"present", version=) -> version | None    VersionConflict
    put_many({key: value}, ttl) -> {key: version}           all or none
    delete([key], version=) -> int                          objects too
    batch([[verb, args, kwargs]], conditions={key: version}) -> [answer]    VersionConflict
    copy(key, to, to_bucket=) -> version | None | 0         objects too; 0: there is no `key`
    scan_page(prefix="", start="", end="", reverse, cursor=b"", limit=100, values)
        -> {items: [key] | [[key, value]], cursor}          b"": the end
    scan(...) -> stream of the same items
    list_page(...) -> {items: [{key, version, modified_at, expire_at, size, ...}], cursor}

Objects, whose content goes in parts of 1 MiB, known by their XXH3-64:

    put_object(key, data, sha256=, content_type, metadata, ttl, only_if, version) -> version | None
    put_part(upload, number, data, digest) -> None          16 octets, chosen by the client; from 0
    share_upload(upload) -> text                            path of its empty file, or ""
    upload_parts(upload, start=0) -> octets                 digests of up to 1,024, if there
    finish_upload(key, upload, size, digests, sha256=, ...) -> version | None
    discard_upload(upload) -> bool
    object(key, version=0) -> {size, sha256, content_type, metadata, blob, data, ...} | None
    get_part(blob, number, start=0, end=1 MiB) -> octets | None         None: it is gone

Buckets:

    configure(quota=octets, ttl=seconds) -> None            0 for none
    drop(bucket=) -> int
    info() -> {entries, octets, quota, ttl, version, ...} | None
    buckets() -> [the same]
    changes(after=0, prefix="", follow=True) -> stream of [version, kind, key]
    changes_page(after=0, prefix="", limit=500) -> {items, version}

Errors: InvalidArgument, VersionConflict (`data["version"]`), QuotaExceeded, StoreFull, StoreBusy (a
take-over; retry), DataCorrupted (`data["key"]`), and those of a repeated request: KeyReused,
OutcomeUnknown.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mesh import Service, current
from mesh.protocol import storage as limits
from mesh.protocol.storage import DEFAULT_BUCKET as DEFAULT
from mesh.service.lanes import Job
from workers.acts import Planned, finish, finish_each, operations, plan_all, requests
from workers.storage.following import Bells
from workers.storage.operations import Engine, Op, together
from workers.storage.verbs import Verbs
from workers.store.dedup import digest

if TYPE_CHECKING:
    from prometheus_client.core import Metric

WRITER, UPLOAD, CHANGES, SCAN, PARTS = "writer", "upload", "changes", "scan", "parts"
WINDOWS = {"": 256, SCAN: 64, PARTS: 16}
CLAIMED = {WRITER: 1024, UPLOAD: 16, CHANGES: 1000}
TICK_EVERY = 0.25
PAGE = 200

READING = (
    "get", "entry", "get_many", "exists", "scan_page", "list_page", "changes_page", "info",
    "buckets", "object",
)  # fmt: skip
CHANGING = (
    "put", "put_many", "delete", "batch", "copy", "configure", "drop", "put_object",
)  # fmt: skip

IN_LANES = {
    "scan": SCAN, "get_part": PARTS, "changes": CHANGES, "put_part": UPLOAD,
    "share_upload": UPLOAD, "upload_parts": UPLOAD, "finish_upload": UPLOAD,
    "discard_upload": UPLOAD,
}  # fmt: skip

log = logging.getLogger("workers.storage")


class StorageHandler:
    """The methods of one process over `engine`; `service` is what is to be served."""

    def __init__(self, engine: Engine, name: str = "storage", version: str = "") -> None:
        self.engine = engine
        self.verbs = Verbs()
        self.bells = Bells()
        engine.watch(self.bells.ring)
        self._ticking = threading.Event()
        self._ticker: threading.Thread | None = None
        self.service = self._declare(name, version)

    def _declare(self, name: str, version: str) -> Service:
        service = Service(name, version=version)
        identity = self.engine.identity()
        if identity:
            service.facts["store"] = {**identity, "host": socket.gethostname()}
        service.lane("", capacity=WINDOWS[""], execute=self.answer, inline=True)
        service.lane(SCAN, capacity=WINDOWS[SCAN])
        service.lane(PARTS, capacity=WINDOWS[PARTS])
        service.lane(WRITER, capacity=0, execute=self.execute)
        service.lane(UPLOAD, capacity=0)
        service.lane(CHANGES, capacity=0)
        for verb in READING:
            service.rpc(name=verb, idempotent=True)(getattr(self.verbs, verb))
        for verb in CHANGING:
            service.rpc(name=verb, lane=WRITER, idempotent=True)(getattr(self.verbs, verb))
        for verb, lane in IN_LANES.items():
            service.rpc(name=verb, lane=lane, idempotent=True)(getattr(self, verb))
        service.on_drain(self.bells.close)
        return service

    # ---------------------------------------------------------------- reading

    def answer(self, jobs: Sequence[Job]) -> None:
        """Run everything that has arrived in the default lane as of one moment."""
        planned: Planned[Op] = plan_all(jobs)
        ops = operations(planned)
        results = iter(self.engine.read(ops) if ops else ())
        for job, acts in planned:
            finish(job, acts, results)

    def scan(
        self,
        prefix: str = "",
        *,
        start: str = "",
        end: str = "",
        reverse: bool = False,
        cursor: bytes = b"",
        values: bool = False,
        bucket: str = DEFAULT,
        packed: bool = False,
    ) -> Iterator[Any]:
        """Keys, or pairs of key and value, as a stream."""
        while True:
            act = self.verbs.scan_page(
                prefix, start=start, end=end, reverse=reverse, cursor=cursor, limit=PAGE,
                values=values, bucket=bucket, packed=packed,
            )  # fmt: skip
            page = act.answer(self._read(act.op))
            yield from page["items"]
            cursor = page["cursor"]
            if not cursor:
                return

    def get_part(
        self, blob: bytes, number: int, start: int = 0, end: int = limits.PART
    ) -> bytes | None:
        """Octets `start` to `end` of a part of an object; None if it is gone."""
        limits.check_number("number", number, limits.MAX_PARTS - 1)
        limits.check_number("start", start, limits.PART)
        limits.check_number("end", end, limits.PART)
        return self.engine.read_part(limits.check_upload(blob), number, start, end)

    async def changes(
        self, after: int = 0, *, prefix: str = "", follow: bool = True, bucket: str = DEFAULT
    ) -> AsyncIterator[list[Any]]:
        """Changes after a version, as [version, kind, key], and with `follow` those to come.

        Kinds are put, object, deleted and expired; [version, "now", ""] says that all changes up to
        that version have been told.
        """
        bell = self.bells.join(limits.check_bucket(bucket))
        told = -1
        try:
            while True:
                act = self.verbs.changes_page(after, prefix=prefix, limit=PAGE, bucket=bucket)
                rows, reached = self._read(act.op)
                for version, kind, key in rows:
                    yield [version, kind, key.decode()]
                caught_up, after = reached == after or len(rows) < PAGE, reached
                if not caught_up:
                    continue
                if told < after:
                    told = after
                    yield [after, "now", ""]
                if not follow:
                    return
                await bell.wait()
        finally:
            self.bells.leave(bell)

    def _read(self, op: Op) -> Any:
        (result,) = self.engine.read((op,))
        if isinstance(result, Exception):
            raise result
        return result

    # ---------------------------------------------------------------- writing

    def execute(self, jobs: Sequence[Job]) -> None:
        """Run everything that has arrived in the writer lane as one group."""
        planned: Planned[Op] = plan_all(jobs)
        ops = requests(planned, together)
        finish_each(planned, self.engine.execute(ops) if ops else ())

    def put_part(self, upload: bytes, number: int, data: bytes, digest: bytes) -> None:
        """Keep part `number`, from 0, of an upload, which begins with the first that arrives."""
        limits.check_number("number", number, limits.MAX_PARTS - 1)
        checked = limits.check_part(data, digest)
        self.engine.write_part(limits.check_upload(upload), number, checked, digest)

    def share_upload(self, upload: bytes) -> str:
        """Begin an upload whose parts its client, on this machine, may write to the file itself.

        The path of the file; empty if the upload has begun before, or that is not wanted.
        """
        return self.engine.share_upload(limits.check_upload(upload))

    def upload_parts(self, upload: bytes, start: int = 0) -> bytes:
        """The digests of up to 1,024 parts of an upload from `start` on, none beyond its end.

        A part that has not arrived counts as one of zeros.
        """
        limits.check_number("start", start, limits.MAX_PARTS)
        return b"".join(self.engine.upload_parts(limits.check_upload(upload), start))

    def finish_upload(
        self,
        key: str,
        upload: bytes,
        size: int,
        digests: bytes,
        *,
        sha256: bytes,
        content_type: str = "",
        metadata: dict[str, str] | None = None,
        ttl: float | None = None,
        only_if: str = "",
        version: int | None = None,
        bucket: str = DEFAULT,
    ) -> int | None:
        """Make `key` an object of an upload; its version, None if `only_if` prevented it."""
        act = self.verbs.upload_finished(
            key, upload, size, digests, sha256=sha256, content_type=content_type,
            metadata=metadata, ttl=ttl, only_if=only_if, version=version, bucket=bucket,
        )  # fmt: skip
        call = current(None)
        if call is not None and call.incarnation:
            content = digest(upload, key.encode(), bucket.encode(), sha256)
            act.op.call = (call.incarnation, call.sequence, content)
        result = self.engine.finish_upload(act.op, size, digests)
        if isinstance(result, Exception):
            raise result
        found: int | None = act.answer(result)
        return found

    def discard_upload(self, upload: bytes) -> bool:
        """Forget an upload. Whether there was one."""
        return self.engine.discard_upload(limits.check_upload(upload))

    # ---------------------------------------------------------------- life

    def stand(self, set_lane: Callable[[str, int, int], None], fail: Callable[[], None]) -> None:
        """Begin to write as soon as it is this process's turn; see `serving.Handler`."""

        def gained(epoch: int) -> None:
            for lane, capacity in CLAIMED.items():
                set_lane(lane, capacity, epoch)

        def lost(error: Exception) -> None:
            log.critical("this process can write the store no longer: %s", error)
            fail()

        self._ticker = threading.Thread(target=self._tick, name="storage-tick", daemon=True)
        self._ticker.start()
        self.engine.stand(gained, lost)

    def families(self) -> Iterable[Metric]:
        """What there is to tell over HTTP."""
        from workers.storage import monitor  # most run without

        return monitor.families(self.engine)

    def close(self) -> None:
        """Hand over, close the store."""
        self._ticking.set()
        if self._ticker is not None:
            self._ticker.join()
        self.engine.close()

    def _tick(self) -> None:
        more = False
        while not self._ticking.wait(0.0 if more else TICK_EVERY):
            try:
                more = self.engine.tick()
            except Exception:
                more = False
                log.exception("clearing up failed; it is tried again")
