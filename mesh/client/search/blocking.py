"""`m.search` of the blocking client."""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from mesh.client.search import calls, loading, plans
from mesh.client.search.embedding import Embed, packed_all
from mesh.client.search.loading import Await, Begin, Pause, Take
from mesh.client.search.plans import Compute, Plan
from mesh.client.search.requests import HOW_TO_START, SERVICE, Hit, Loaded
from mesh.client.verbs import Patience, Request, caller_for, explain
from mesh.errors import CallError, InvalidArgument
from mesh.protocol import search as limits

if TYPE_CHECKING:
    from mesh.client.sync import Caller, Pending

P = ParamSpec("P")
T = TypeVar("T")

STREAM_TIMEOUT = 300.0


def _blocking(build: Callable[P, Request[T]]) -> Callable[Concatenate[Search, P], T]:
    """The verb that `build` describes, as a method."""

    @wraps(build)
    def verb(self: Search, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._ask(build(*args, **kwargs))

    return verb


def _planned(build: Callable[P, Plan[T]]) -> Callable[Concatenate[Search, P], T]:
    """What `build` plans, as a method."""

    @wraps(build)
    def verb(self: Search, /, *args: P.args, **kwargs: P.kwargs) -> T:
        found: T = self._follow(build(*args, **kwargs))
        return found

    return verb


def _embedding(
    build: Callable[P, Plan[T]], plain: Callable[..., Request[T]]
) -> Callable[Concatenate[Search, P], T]:
    """What `build` plans, as a method; the request that `plain` describes without `embed`."""

    @wraps(build)
    def verb(self: Search, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if "embed" not in kwargs and "embed_text" not in kwargs:
            return self._ask(plain(*args, **kwargs))
        found: T = self._follow(build(*args, **kwargs))
        return found

    return verb


class Search:
    """The verbs of the search service. Any number of threads may use it.

    What a write returns for is on disk, and found by searches a moment later (`refresh_every`), or
    at once with refresh="wait". Everything raises CallError if it fails; InvalidArgument says what
    would be accepted.
    """

    def __init__(self, caller: Caller, timeout: float) -> None:
        self._caller = caller
        self._safe = caller.options(idempotent=True)
        self._timeout = timeout

    create = _blocking(calls.create)
    extend = _blocking(calls.extend)
    drop = _blocking(calls.drop)
    rebuild = _blocking(calls.rebuild)
    info = _blocking(calls.info)
    collections = _blocking(calls.collections)

    index = _planned(plans.index)
    update = _planned(plans.update)
    delete = _blocking(calls.delete)
    delete_by_query = _blocking(calls.delete_by_query)

    get = _blocking(calls.get)
    get_many = _blocking(calls.get_many)
    query = _embedding(plans.query, calls.query)
    similar = _embedding(plans.similar, calls.similar)
    suggest = _blocking(calls.suggest)
    count = _blocking(calls.count)

    def hits(
        self,
        collection: str,
        query: calls.Query | None = None,
        *,
        fields: str | Sequence[str] = (),
        operator: calls.Operator = "or",
        filter: calls.Filter | None = None,
        sort: calls.Sort = (),
        highlight: str | Sequence[str] | Mapping[str, Any] = (),
        source: bool | Sequence[str] = True,
        page: int = 100,
    ) -> Iterator[Hit]:
        """All that match, the best first, however many; arguments as of `query`.

        `page`: how many are asked for at a time. What is written meanwhile may be missed.
        """
        limits.check_whole("page", page, 1, limits.MAX_PAGE)
        cursor = b""
        while True:
            found = self._ask(
                calls.query(
                    collection, query, fields=fields, operator=operator, filter=filter, sort=sort,
                    highlight=highlight, source=source, limit=page, cursor=cursor, total=False,
                )
            )  # fmt: skip
            yield from found.hits
            if not (cursor := found.cursor):
                return

    def scan(self, collection: str) -> Iterator[dict[str, Any]]:
        """All documents in the order of their ids; `hits` finds some of them.

        A document that exists all the time comes exactly once, also if a worker dies meanwhile.
        """
        name = limits.check_collection(collection)
        reached: dict[str, bytes] = {}
        patience = self._patience()
        caller = self._caller.options(timeout=STREAM_TIMEOUT)
        while True:
            try:
                with caller.stream("search.scan", name, **reached) as found:
                    for document in found:
                        reached["cursor"] = document["id"].encode()
                        patience.worked()
                        yield document
                return
            except CallError as error:
                time.sleep(self._pause(patience, error))

    def load(
        self,
        collection: str,
        documents: Iterable[Mapping[str, Any]],
        *,
        batch: int = loading.BATCH,
        in_flight: int = loading.IN_FLIGHT,
        only_if: calls.Absence = "",
        refresh: calls.Refresh = "interval",
        progress: loading.Progress | None = None,
        on_error: loading.OnError | None = None,
        embed: Embed | None = None,
        embed_field: str = "",
        embed_from: str | Sequence[str] = (),
    ) -> Loaded:
        """Write any number of documents; what was done, in numbers.

        They are read as they are sent: no more than `in_flight` + 2 batches are held. What fails
        for want of a service is written again until it has failed for the timeout of the client.

        Args:
            batch: documents of one call, up to 1,000; fewer if they are large.
            in_flight: calls on their way at a time.
            only_if: "absent" goes on with a load that was cut off, without writing anything twice.
            progress: called with documents done, and in all, None if `documents` has no length.
            on_error: called with a document that cannot be written and the error; the load goes
                on. Without it the load ends there.
            embed: as for `index`, also the rest.

        Raises:
            InvalidArgument: a document does not fit; `data` has its "id" and "number". What came
                before is written.
        """
        total = len(documents) if isinstance(documents, Sized) else None
        source = loading.Incoming(iter(documents), total, batch=batch, on_error=on_error)
        of = loading.loading(
            collection, source, self._patience(), embed=embed, embed_field=embed_field,
            embed_from=embed_from, only_if=only_if, refresh=refresh, in_flight=in_flight,
            progress=progress, on_error=on_error,
        )  # fmt: skip
        found: Loaded = self._follow(loading.load(of))
        return found

    # ---------------------------------------------------------------- how it is done

    def _patience(self) -> Patience:
        return Patience(time.monotonic, self._timeout, random.Random())

    def _pause(self, patience: Patience, error: CallError) -> float:
        try:
            return patience.pause(error)
        except CallError as last:
            explain(last, SERVICE, HOW_TO_START)

    def _ask(self, request: Request[T]) -> T:
        try:
            found = caller_for(request, self._caller, self._safe).call(
                f"search.{request.verb}", *request.args, **request.kwargs
            )
        except CallError as error:
            explain(error, SERVICE, HOW_TO_START)
        return request.read(found)

    def _answer(self, pending: Pending[T]) -> T:
        try:
            return pending.result()
        except CallError as error:
            explain(error, SERVICE, HOW_TO_START)

    def _begin(self, request: Request[Any]) -> Pending[Any]:
        try:
            return caller_for(request, self._caller, self._safe).submit(
                f"search.{request.verb}", *request.args, **request.kwargs
            )
        except CallError as error:
            explain(error, SERVICE, HOW_TO_START)

    def _vectors(self, step: Compute) -> list[bytes]:
        by = step.by
        found: Any = self._safe.call(by, step.texts) if isinstance(by, str) else by(step.texts)
        if inspect.isawaitable(found):
            getattr(found, "close", lambda: None)()
            raise InvalidArgument("embed gave something to be awaited; use connect_async() for it")
        return packed_all(found, len(step.texts))

    def _follow(self, plan: Any) -> Any:
        """Do what a plan says; what it returns."""
        open_calls: dict[int, tuple[Request[Any], Pending[Any]]] = {}
        outcome: Any = None
        failure: BaseException | None = None
        try:
            while True:
                try:
                    step = plan.send(outcome) if failure is None else plan.throw(failure)
                except StopIteration as stop:
                    return stop.value
                outcome = failure = None
                try:
                    match step:
                        case Request():
                            outcome = self._ask(step)
                        case Compute():
                            outcome = self._vectors(step)
                        case Begin(request):
                            outcome = self._begin(request)
                            open_calls[id(outcome)] = request, outcome
                        case Await(ticket):
                            request, pending = open_calls.pop(id(ticket))
                            outcome = request.read(self._answer(pending))
                        case Take(source):
                            outcome = source.take()
                        case Pause(seconds):
                            time.sleep(seconds)
                except BaseException as error:
                    failure = error
        finally:
            plan.close()
            for _, pending in open_calls.values():
                pending.cancel()
