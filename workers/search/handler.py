"""The search service's methods. Each call of the mesh service `search`:

Documents, mappings with a text "id". What a write returns for is on disk; searches see it within
`refresh_every` seconds, or with refresh="wait" before the call returns:

    index(collection, [document], only_if="absent"|"present") -> {ids, version}      all or none
    update(collection, [fields with id], upsert=False) -> {ids, version}
    delete(collection, [id]) -> int
    delete_by_query(collection, query, fields, operator, filter) -> int
    get(collection, id) -> document | None          get_many(collection, [id]) -> {id: document}
    scan(collection) -> stream of documents         scan_page(collection, cursor=b"", limit=100)

Queries (docs/search.md has their language):

    query(collection, query, vector=, filter=, limit=10, offset=0, cursor=b"", sort=, facets=,
          highlight=, source=True, explain=False, weights=, min_score=0, total=True, k=100,
          fusion="scores")
        -> {hits: [{id, score, version, source, ...}], total, cursor, facets, refreshed, took}
    similar(collection, ids, text=, unlike=, ...) -> the same
    count(collection, query, filter=) -> int
    suggest(collection, field, prefix, limit=10, filter=) -> [[text, count]]

Collections:

    create(collection, schema, dynamic=True, refresh_every=0.2) -> {created}
    extend(collection, schema)      drop(collection) -> bool      rebuild(collection)
    info(collection) -> {...} | None                collections() -> [the same]

Errors: InvalidArgument (a malformed query says where), StoreFull, StoreBusy (a take-over, or an
index that is being replaced; retry), DataCorrupted, and those of a repeated request.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mesh import Service
from mesh.protocol import search as limits
from mesh.service.lanes import Job
from workers.acts import Planned, finish, finish_each, operations, plan_all, requests
from workers.search.engine import SearchEngine
from workers.search.operations import Op, together
from workers.search.verbs import Verbs

if TYPE_CHECKING:
    from prometheus_client.core import Metric

WRITER, SWEEP, SCAN = "writer", "sweep", "scan"
WINDOWS = {"": 32, SCAN: 16}
PORTION = 8
"""Reads that are answered together. Fewer are answered sooner; what they have in common, the search
for their vectors above all, is done once for all of them."""
CLAIMED = {WRITER: 256, SWEEP: 4}
PAGE = 100
DELETED_AT_ONCE = 1000

READING = (
    "get", "get_many", "query", "similar", "count", "suggest", "scan_page", "info", "collections",
)  # fmt: skip
CHANGING = ("create", "extend", "drop", "rebuild", "index", "update", "delete")

log = logging.getLogger("workers.search")


class SearchHandler:
    """The methods of one process over `engine`; `service` is what is to be served."""

    def __init__(self, engine: SearchEngine, name: str = "search", version: str = "") -> None:
        self.engine = engine
        self.verbs = Verbs()
        self.service = self._declare(name, version)

    def _declare(self, name: str, version: str) -> Service:
        service = Service(name, version=version)
        service.facts["store"] = {**self.engine.identity(), "host": socket.gethostname()}
        service.lane("", capacity=WINDOWS[""], execute=self.answer, inline=True, portion=PORTION)
        service.lane(SCAN, capacity=WINDOWS[SCAN])
        service.lane(WRITER, capacity=0, execute=self.execute)
        service.lane(SWEEP, capacity=0)
        for verb in READING:
            service.rpc(name=verb, idempotent=True)(getattr(self.verbs, verb))
        for verb in CHANGING:
            service.rpc(name=verb, lane=WRITER, idempotent=True)(getattr(self.verbs, verb))
        service.rpc(name="scan", lane=SCAN, idempotent=True)(self.scan)
        service.rpc(name="delete_by_query", lane=SWEEP, idempotent=True)(self.delete_by_query)
        return service

    # ---------------------------------------------------------------- reading

    def answer(self, jobs: Sequence[Job]) -> None:
        """Run everything that has arrived in the default lane."""
        planned: Planned[Op] = plan_all(jobs)
        ops = operations(planned)
        results = iter(self.engine.read(ops) if ops else ())
        for job, acts in planned:
            finish(job, acts, results)

    def scan(self, collection: str, *, cursor: bytes = b"") -> Iterator[Any]:
        """All documents in the order of their ids, as a stream, from the id `cursor` on."""
        while True:
            act = self.verbs.scan_page(collection, cursor=cursor, limit=PAGE)
            page = act.answer(self._read(act.op))
            yield from page["documents"]
            cursor = page["cursor"]
            if not cursor:
                return

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

    def delete_by_query(
        self,
        collection: str,
        query: str | Mapping[str, Any] | None = None,
        *,
        fields: Sequence[str] = (),
        operator: str = "or",
        filter: Any = None,
        refresh: str = "interval",
    ) -> int:
        """Remove all documents that a query finds, as of now; how many."""
        wait = limits.check_refresh(refresh) == "wait"
        op = self.verbs.found_rows(collection, query, fields, operator, filter)
        self.engine.refresh(op.collection)
        rows = self._read(op)
        removed = 0
        for begin in range(0, len(rows), DELETED_AT_ONCE):
            # A row never comes again, so a request that is repeated removes nothing twice.
            part = Op("delete_rows", op.collection, {"rows": rows[begin : begin + DELETED_AT_ONCE]})
            part.wait = wait and begin + DELETED_AT_ONCE >= len(rows)
            (result,) = self.engine.execute((part,))
            if isinstance(result, Exception):
                raise result
            removed += result
        return removed

    # ---------------------------------------------------------------- life

    def stand(self, set_lane: Callable[[str, int, int], None], fail: Callable[[], None]) -> None:
        """Begin to write as soon as it is this process's turn; see `serving.Handler`."""

        def gained(epoch: int) -> None:
            for lane, capacity in CLAIMED.items():
                set_lane(lane, capacity, epoch)

        def lost(error: Exception) -> None:
            log.critical("this process can write the store no longer: %s", error)
            fail()

        self.engine.stand(gained, lost)

    def families(self) -> Iterable[Metric]:
        """What there is to tell over HTTP."""
        from workers.search import monitor  # most run without

        return monitor.families(self.engine)

    def close(self) -> None:
        """Hand over, close the store."""
        self.engine.close()
