"""The blocking client: `connect`."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Iterator
from functools import cached_property
from os import PathLike
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from mesh.client import base, batches
from mesh.client.base import Options
from mesh.client.batches import MAX_BATCH
from mesh.client.calls import ENDED, SENT, Call, ClientSettings
from mesh.client.configured import configure
from mesh.client.streams import NOTHING, Inflow, Outflow
from mesh.client.sync_driver import Driver
from mesh.errors import CallError, InvalidArgument, to_wire
from mesh.protocol.messages import BATCH
from mesh.spin import SPIN

if TYPE_CHECKING:
    from mesh.client.memory import Memory
    from mesh.client.search import Search
    from mesh.client.storage import Storage

P = ParamSpec("P")
T = TypeVar("T")


class CallOptions(TypedDict, total=False):
    """How calls are made: see `Caller.options`."""

    timeout: float | None
    retries: int | None
    idempotent: bool | None
    priority: str | int
    credit: int | None
    metadata: dict[str, Any] | None


class Upload:
    """The caller's iterator on its way to the worker, driven by whoever waits for the call."""

    def __init__(self, driver: Driver, call: Call, source: Any) -> None:
        if not hasattr(source, "__next__"):
            driver.cancel(call)
            raise InvalidArgument(
                "an asynchronous iterator needs the asyncio client: connect_async()"
            )
        self._driver = driver
        self._call = call
        self._flow = Outflow(source)
        self.failure: Exception | None = None

    @property
    def wanted(self) -> bool:
        """Whether the worker waits for items."""
        writer = self._call.writer
        return writer is not None and writer.room > 0 and self._call.state == SENT

    def push(self) -> None:
        """Send the next items, or the end."""
        call, flow, driver = self._call, self._flow, self._driver
        room = call.writer.room if call.writer is not None else 0
        items: list[Any] = []
        ended = False
        try:
            for _ in range(flow.allowance(room) if flow.prompt else 1):
                items.append(next(flow.source))
        except StopIteration:
            ended = True
        except Exception as error:
            self.failure = error
        except BaseException:
            driver.cancel(call)
            raise
        try:
            if items:
                body, flags = flow.pack(items)
                driver.chunk(call, len(items), body, flags)
        except InvalidArgument as error:
            self.failure = error
        if self.failure is not None:
            driver.finish(call, *to_wire(self.failure))
        elif ended:
            driver.finish(call)


def _wait(
    driver: Driver, call: Call, ready: Callable[[], bool], upload: Upload | None = None
) -> None:
    """Until `ready`, drive the sockets and the caller's stream.

    Raises:
        Exception: whatever the caller's iterator raised, once the call has ended.
    """
    if upload is None:
        driver.wait(call, ready)
        return
    while True:
        driver.wait(call, lambda: ready() or upload.wanted)
        if ready():
            break
        upload.push()
    if upload.failure is not None and call.state == ENDED:
        raise upload.failure


class Results(Generic[T]):
    """The items of a stream, as they come. Also a context manager; leaving early ends the stream.

    It belongs to one thread at a time.
    """

    def __init__(self, driver: Driver, call: Call, source: Any) -> None:
        self._driver = driver
        self._call = call
        self._inflow = Inflow(call)
        self._upload = Upload(driver, call, source) if source is not None else None
        self._over = False
        driver.turn()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._over:
            raise StopIteration
        try:
            while (item := self._inflow.get()) is NOTHING:
                _wait(self._driver, self._call, self._ready, self._upload)
            if read := self._inflow.due():
                self._driver.taken(self._call, read)
        except BaseException:
            self.close()
            raise
        return item  # type: ignore[no-any-return]

    def _ready(self) -> bool:
        reader = self._call.reader
        return self._call.state == ENDED or (reader is not None and bool(reader.inbox))

    def close(self) -> None:
        """Take no more items; the worker is told to stop."""
        self._over = True
        if self._call.state != ENDED:
            self._driver.cancel(self._call)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # The lock must not be asked for here: garbage is collected anywhere, also while it is held.
        if not getattr(self, "_over", True) and self._call.state != ENDED:
            self._driver.abandoned.append(self._call)


class Pending(Generic[T]):
    """A call that was submitted and is not waited for yet."""

    def __init__(self, driver: Driver, call: Call, source: Any) -> None:
        self._driver = driver
        self._call = call
        self._upload = Upload(driver, call, source) if source is not None else None
        driver.turn()

    def done(self) -> bool:
        """Whether the call has ended, as far as can be seen without waiting."""
        if self._call.state != ENDED:
            self._driver.turn()
        return self._call.state == ENDED

    def cancel(self) -> bool:
        """End the call; False if it had ended before."""
        if self.done():
            return False
        self._driver.cancel(self._call)
        return True

    def result(self) -> T:
        """Wait for the call's end, which its deadline bounds, and return its value.

        Raises:
            CallError: it failed.
        """
        call = self._call
        _wait(self._driver, call, lambda: call.state == ENDED, self._upload)
        return base.result(call)  # type: ignore[no-any-return]

    def exception(self) -> CallError | None:
        """Like `result`, but returns the error, or None if there is none."""
        try:
            self.result()
        except CallError as error:
            return error
        return None


class Caller:
    """Makes calls, with the options bound to it. Any number of threads may use it."""

    def __init__(self, driver: Driver, options: Options) -> None:
        self._driver = driver
        self._options = options

    def options(self, **given: Unpack[CallOptions]) -> Caller:
        """The same connections with other options, for the calls made through what is returned.

        Args:
            timeout: seconds until DeadlineExceeded, at most 300; a surrounding call's deadline
                bounds it further.
            retries: how often a call is made again where that is safe.
            idempotent: whether it may run twice; None: as the service declares.
            priority: "system", "high", "normal" or "bulk".
            credit: items of a stream that may be on their way, as a fixed number.
            metadata: a dict with text keys that the handler finds in `current().metadata`.

        Raises:
            ConfigError: an option is unknown or wrong.
        """
        return Caller(self._driver, self._options.but(given))

    @cached_property
    def memory(self) -> Memory:
        """The memory service: cache, sessions, counters, locks."""
        from mesh.client.memory import Memory  # here, since not every program needs it

        return Memory(self, self._options.timeout or self._driver.settings.timeout)

    @cached_property
    def storage(self) -> Storage:
        """The storage service: durable records and objects."""
        from mesh.client.storage import Storage

        return Storage(self, self._options.timeout or self._driver.settings.timeout)

    @cached_property
    def search(self) -> Search:
        """The search service: documents found by words, values and vectors."""
        from mesh.client.search import Search

        return Search(self, self._options.timeout or self._driver.settings.timeout)

    @overload
    def call(
        self, target: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    def call(self, target: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def call(self, target: str, *args: Any, **kwargs: Any) -> Any: ...
    def call(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Call "service.method", or a function that a Service declared, and return its value.

        An iterator among the arguments is sent item by item, as the worker asks for them.

        Raises:
            CallError: it failed; the kind of error says why.
            ConfigError: the target makes no sense.
        """
        driver = self._driver
        frame, source = base.pack(args, kwargs)
        flags = base.stream_flags(source, reading=False)
        call = driver.begin(self._options, target, frame, flags)
        if source is None:
            driver.wait(call, lambda: call.state == ENDED)
        else:
            _wait(driver, call, lambda: call.state == ENDED, Upload(driver, call, source))
        return base.result(call)

    @overload
    def submit(
        self, target: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> Pending[T]: ...
    @overload
    def submit(self, target: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Pending[T]: ...
    @overload
    def submit(self, target: str, *args: Any, **kwargs: Any) -> Pending[Any]: ...
    def submit(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Begin a call and return at once; `result()` of what is returned waits for it.

        Raises:
            CallError: it was refused at once.
            ConfigError: the target makes no sense.
        """
        frame, source = base.pack(args, kwargs)
        flags = base.stream_flags(source, reading=False)
        return Pending(
            self._driver, self._driver.begin(self._options, target, frame, flags), source
        )

    @overload
    def stream(
        self, target: Callable[P, Iterable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> Results[T]: ...
    @overload
    def stream(
        self, target: Callable[P, AsyncIterable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> Results[T]: ...
    @overload
    def stream(self, target: str, *args: Any, **kwargs: Any) -> Results[Any]: ...
    def stream(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a method that is a generator; its items come as they are read.

        Raises:
            CallError: it was refused at once; while reading: it failed.
            ConfigError: the target makes no sense.
        """
        frame, source = base.pack(args, kwargs)
        flags = base.stream_flags(source, reading=True)
        return Results(
            self._driver, self._driver.begin(self._options, target, frame, flags), source
        )

    @overload
    def batch(
        self,
        target: Callable[..., Coroutine[Any, Any, T]],
        items: Iterable[Any],
        *,
        raise_errors: bool = ...,
        max_items: int = ...,
    ) -> list[T | CallError]: ...
    @overload
    def batch(
        self,
        target: Callable[..., T],
        items: Iterable[Any],
        *,
        raise_errors: bool = ...,
        max_items: int = ...,
    ) -> list[T | CallError]: ...
    @overload
    def batch(
        self,
        target: str,
        items: Iterable[Any],
        *,
        raise_errors: bool = ...,
        max_items: int = ...,
    ) -> list[Any]: ...
    def batch(
        self,
        target: Any,
        items: Iterable[Any],
        *,
        raise_errors: bool = False,
        max_items: int = MAX_BATCH,
    ) -> Any:
        """Many calls of one method in one message, or in as few as their size allows.

        Each of `items` is one call: a tuple holds its arguments, anything else is its only one.
        Returns the values in the order of `items`; a call that failed has its CallError there,
        which with `raise_errors` is raised instead.
        """
        driver = self._driver
        parts: list[tuple[int, Call | CallError]] = []
        for count, body in batches.pack_batch(items, max_items):
            try:
                parts.append((count, driver.begin(self._options, target, body, BATCH)))
            except CallError as error:
                parts.append((count, error))
        found: list[Any] = []
        for count, part in parts:
            if isinstance(part, CallError):
                found += [part] * count
            else:
                _wait(driver, part, lambda call=part: call.state == ENDED)  # type: ignore[misc]
                found += batches.outcomes(part, count)
        return batches.settle(found, raise_errors)


class Mesh(Caller):
    """A client of the mesh, connected to all of its brokers. See `connect`."""

    def close(self) -> None:
        """End the connections; calls that are open in other threads end as Cancelled."""
        self._driver.close()

    @property
    def counters(self) -> dict[str, int]:
        """What was dropped, refused, retried and resent, by reason, since the start."""
        return dict(self._driver.core.counters)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def connect(
    *endpoints: str,
    name: str = "",
    spin: float = SPIN,
    settings: ClientSettings | None = None,
    config: str | PathLike[str] | None = None,
    **options: Unpack[CallOptions],
) -> Mesh:
    """A blocking client of the brokers at `endpoints`, for any number of threads.

    It returns at once; a call waits, within its deadline, until a broker can be reached. A forked
    child may use it too, and gets connections of its own.

    Args:
        name: shown to operators.
        spin: seconds to keep trying before a wait blocks, while that pays off; shortens round
            trips, 0 saves CPU time.
        settings: limits and policies.
        config: a file that says them instead, and the endpoints if none are given.
        options: how calls are made unless `options()` says otherwise.

    Raises:
        ConfigError: an endpoint, an option or the file is wrong.
    """
    checked, chosen = configure(endpoints, name, settings, config)
    bound = Options().but(options)
    return Mesh(Driver(checked, chosen, spin), bound)
