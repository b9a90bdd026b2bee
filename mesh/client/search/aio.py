"""`m.search` of the asyncio client."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
    Sized,
)
from functools import wraps
from time import monotonic
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from mesh.client.search import calls, loading, plans
from mesh.client.search.embedding import Embed, packed_all
from mesh.client.search.loading import Await, Batch, Begin, Incoming, Pause, Take
from mesh.client.search.plans import Compute, Plan
from mesh.client.search.requests import HOW_TO_START, SERVICE, Hit, Loaded
from mesh.client.verbs import Patience, Request, caller_for, explain
from mesh.errors import CallError
from mesh.protocol import search as limits

if TYPE_CHECKING:
    from mesh.client.aio import AsyncCaller

P = ParamSpec("P")
T = TypeVar("T")

STREAM_TIMEOUT = 300.0


def _awaited(
    build: Callable[P, Request[T]],
) -> Callable[Concatenate[AsyncSearch, P], Coroutine[Any, Any, T]]:
    """The verb that `build` describes, as a method to be awaited."""

    @wraps(build)
    def verb(self: AsyncSearch, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return self._ask(build(*args, **kwargs))

    return verb


def _planned(
    build: Callable[P, Plan[T]],
) -> Callable[Concatenate[AsyncSearch, P], Coroutine[Any, Any, T]]:
    """What `build` plans, as a method to be awaited."""

    @wraps(build)
    def verb(self: AsyncSearch, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return self._follow(build(*args, **kwargs))

    return verb


def _embedding(
    build: Callable[P, Plan[T]], plain: Callable[..., Request[T]]
) -> Callable[Concatenate[AsyncSearch, P], Coroutine[Any, Any, T]]:
    """What `build` plans, to be awaited; the request that `plain` describes without `embed`."""

    @wraps(build)
    def verb(self: AsyncSearch, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        if "embed" not in kwargs and "embed_text" not in kwargs:
            return self._ask(plain(*args, **kwargs))
        return self._follow(build(*args, **kwargs))

    return verb


class AsyncSearch:
    """The verbs of the search service; those of `Search`, to be awaited.

    `embed` may be a coroutine function; another function runs in a thread.
    """

    def __init__(self, caller: AsyncCaller, timeout: float) -> None:
        self._caller = caller
        self._safe = caller.options(idempotent=True)
        self._timeout = timeout

    create = _awaited(calls.create)
    extend = _awaited(calls.extend)
    drop = _awaited(calls.drop)
    rebuild = _awaited(calls.rebuild)
    info = _awaited(calls.info)
    collections = _awaited(calls.collections)

    index = _planned(plans.index)
    update = _planned(plans.update)
    delete = _awaited(calls.delete)
    delete_by_query = _awaited(calls.delete_by_query)

    get = _awaited(calls.get)
    get_many = _awaited(calls.get_many)
    query = _embedding(plans.query, calls.query)
    similar = _embedding(plans.similar, calls.similar)
    suggest = _awaited(calls.suggest)
    count = _awaited(calls.count)

    async def hits(
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
    ) -> AsyncIterator[Hit]:
        """As `Search.hits`."""
        limits.check_whole("page", page, 1, limits.MAX_PAGE)
        cursor = b""
        while True:
            found = await self._ask(
                calls.query(
                    collection, query, fields=fields, operator=operator, filter=filter, sort=sort,
                    highlight=highlight, source=source, limit=page, cursor=cursor, total=False,
                )
            )  # fmt: skip
            for hit in found.hits:
                yield hit
            if not (cursor := found.cursor):
                return

    async def scan(self, collection: str) -> AsyncIterator[dict[str, Any]]:
        """As `Search.scan`."""
        name = limits.check_collection(collection)
        reached: dict[str, bytes] = {}
        patience = self._patience()
        caller = self._caller.options(timeout=STREAM_TIMEOUT)
        while True:
            try:
                async with caller.stream("search.scan", name, **reached) as found:
                    async for document in found:
                        reached["cursor"] = document["id"].encode()
                        patience.worked()
                        yield document
                return
            except CallError as error:
                await asyncio.sleep(self._pause(patience, error))

    async def load(
        self,
        collection: str,
        documents: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
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
        """As `Search.load`; `documents` may come asynchronously, others are read in a thread."""
        total = len(documents) if isinstance(documents, Sized) else None
        pieces = aiter(documents) if isinstance(documents, AsyncIterable) else None
        given = None if isinstance(documents, AsyncIterable) else iter(documents)
        source = Incoming(given, total, batch=batch, on_error=on_error)
        of = loading.loading(
            collection, source, self._patience(), embed=embed, embed_field=embed_field,
            embed_from=embed_from, only_if=only_if, refresh=refresh, in_flight=in_flight,
            progress=progress, on_error=on_error,
        )  # fmt: skip
        found: Loaded = await self._follow(loading.load(of), pieces)
        return found

    # ---------------------------------------------------------------- how it is done

    def _patience(self) -> Patience:
        return Patience(monotonic, self._timeout, random.Random())

    def _pause(self, patience: Patience, error: CallError) -> float:
        try:
            return patience.pause(error)
        except CallError as last:
            explain(last, SERVICE, HOW_TO_START)

    async def _ask(self, request: Request[T]) -> T:
        caller = caller_for(request, self._caller, self._safe)
        try:
            answer = await caller.call(f"search.{request.verb}", *request.args, **request.kwargs)
        except CallError as error:
            explain(error, SERVICE, HOW_TO_START)
        return request.read(answer)

    async def _vectors(self, step: Compute) -> list[bytes]:
        by = step.by
        found: Any
        if isinstance(by, str):
            found = await self._safe.call(by, step.texts)
        elif inspect.iscoroutinefunction(by):
            found = await by(step.texts)
        else:
            found = await asyncio.to_thread(by, step.texts)
            if inspect.isawaitable(found):
                found = await found
        return packed_all(found, len(step.texts))

    async def _follow(self, plan: Any, pieces: AsyncIterator[Any] | None = None) -> Any:
        """Do what a plan says; what it returns."""
        tasks: set[asyncio.Task[Any]] = set()
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
                            outcome = await self._ask(step)
                        case Compute():
                            outcome = await self._vectors(step)
                        case Begin(request):
                            outcome = asyncio.ensure_future(self._ask(request))
                            tasks.add(outcome)
                        case Await(ticket):
                            tasks.discard(ticket)
                            outcome = await ticket
                        case Take(source):
                            outcome = await _take(source, pieces)
                        case Pause(seconds):
                            await asyncio.sleep(seconds)
                except BaseException as error:
                    failure = error
        finally:
            plan.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _take(source: Incoming, pieces: AsyncIterator[Any] | None) -> Batch | None:
    while pieces is not None and source.lacking:
        try:
            source.push(await anext(pieces))
        except StopAsyncIteration:
            source.end()
    return await asyncio.to_thread(source.take) if pieces is None else source.take()
