"""What a service offers: `Service`, its decorators, and the methods they declare.

Everything that can be wrong with a declaration is refused here, when the module is imported, not
when the first call arrives.
"""

from __future__ import annotations

import collections.abc as abc
import difflib
import functools
import inspect
import logging
import os
import sys
import typing
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from mesh.errors import ConfigError
from mesh.protocol.messages import MAX_NAME

if TYPE_CHECKING:
    from mesh.service.lanes import Execute
    from mesh.service.runtime import Runtime

F = TypeVar("F", bound=Callable[..., Any])
Hook = TypeVar("Hook", bound=Callable[[], Any])

INLINE, THREAD, ASYNC = range(3)

MAX_TIMEOUT = 300.0
DEFAULT_BROKER = "tcp://127.0.0.1:8080"
ASYNC_CAPACITY = 256
MAX_THREADS = 32

_OPTIONS = ("name", "timeout", "idempotent", "concurrency", "inline", "lane")
_BATCH_OPTIONS = ("max_size", "max_wait", "name", "timeout", "idempotent", "lane")
_ITERATORS = (abc.Iterator, abc.Generator, abc.AsyncIterator, abc.AsyncGenerator)

log = logging.getLogger("mesh.service")


class Method:
    """One declared method: its handler and how to run it.

    `kind` is INLINE, THREAD or ASYNC. `stream`: its result is a stream. `takes_stream`: one of its
    parameters is. `batch` is `(max_size, max_wait)` if the handler serves many calls at once.
    `code` is the code object of the handler's own body, where it has one in Python.
    """

    __slots__ = (
        "batch",
        "code",
        "concurrency",
        "debug",
        "doc",
        "function",
        "idempotent",
        "kind",
        "lane",
        "name",
        "reported",
        "service",
        "signature",
        "stream",
        "takes_stream",
        "timeout",
    )

    def __init__(self, service: str, name: str, function: Callable[..., Any]) -> None:
        self.service = service
        self.name = name
        self.function = function
        self.kind = THREAD
        self.stream = False
        self.takes_stream = False
        self.lane = ""
        self.timeout: float | None = None
        self.concurrency: int | None = None
        self.idempotent = False
        self.batch: tuple[int, float] | None = None
        self.debug = False
        self.doc = (inspect.getdoc(function) or "").split("\n\n")[0][:300]
        self.reported: set[tuple[str, str]] = set()
        plain = inspect.unwrap(function)
        while isinstance(plain, functools.partial):
            plain = plain.func
        self.code = getattr(plain, "__code__", None)
        try:
            self.signature: inspect.Signature | None = inspect.signature(function)
        except (TypeError, ValueError):
            self.signature = None  # written in C, and silent about its parameters

    def facts(self) -> dict[str, Any]:
        """The entry of this method in the READY map."""
        found: dict[str, Any] = {}
        if self.lane:
            found["lane"] = self.lane
        if self.idempotent:
            found["idempotent"] = True
        if self.stream:
            found["stream"] = True
        if self.doc:
            found["doc"] = self.doc
        return found

    def refuses(self, args: list[Any], kwargs: dict[str, Any]) -> str:
        """Why the handler does not accept these arguments; empty if it does."""
        if self.signature is None:
            return ""
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            return f"{self.service}.{self.name}{self.signature}: {error}"
        return ""

    def report(self, error: BaseException, request_id: str = "") -> None:
        """Log an exception that the handler did not foresee: with its trace the first time."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
        key = (type(error).__name__, where)
        if key in self.reported or len(self.reported) > 1000:
            return
        self.reported.add(key)
        log.error(
            "%s.%s raised %s; further ones from the same line are not logged",
            self.service,
            self.name,
            type(error).__name__,
            exc_info=error,
            extra={"request": request_id, "target": f"{self.service}.{self.name}"},
        )


class Service:
    """A named set of methods, and the process that serves them.

    `concurrency` is how many requests a worker process wants in hand at a time; by default 256, or
    twice the threads if every handler is a plain function. `threads` bounds the pool for plain
    functions. `lifespan(service)` is an async context manager around the serving. `debug` sends
    tracebacks to callers (default: the environment variable SAGE_DEBUG). `spin` lets the I/O
    thread look for messages for a tenth of a millisecond before it sleeps. `facts` is what brokers
    are told of it besides (docs/protocol.md section 6: `store`).

    Raises:
        ConfigError: a value is not allowed; the message says what is.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str = "",
        concurrency: int | None = None,
        threads: int | None = None,
        lifespan: Callable[[Service], AbstractAsyncContextManager[Any]] | None = None,
        debug: bool | None = None,
        heartbeat: float = 0.5,
        spin: bool = True,
    ) -> None:
        _check_name("service", name)
        if name.startswith(("mmi.", "mesh.")):
            raise ConfigError(f"service name {name!r}: names in mmi. and mesh. are reserved")
        _check_count("concurrency", concurrency, 10_000)
        _check_count("threads", threads, 1000)
        if not 0.1 <= heartbeat <= 10.0:
            raise ConfigError(f"heartbeat={heartbeat!r} is not between 0.1 and 10 seconds")
        self.name = name
        self.version = version
        self.concurrency = concurrency
        self.threads_chosen = threads is not None
        self.threads = threads or min(MAX_THREADS, (os.cpu_count() or 1) * 4)
        self.lifespan = lifespan
        self.debug = os.environ.get("SAGE_DEBUG", "") not in ("", "0") if debug is None else debug
        self.heartbeat = heartbeat
        self.spin = spin
        self.facts: dict[str, Any] = {}
        self.methods: dict[str, Method] = {}
        self.executors: dict[str, tuple[Execute, bool]] = {}
        self.portions: dict[str, int] = {}
        self.startup_hooks: list[Callable[[], Any]] = []
        self.drain_hooks: list[Callable[[], Any]] = []
        self.shutdown_hooks: list[Callable[[], Any]] = []
        self._lanes: dict[str, int] = {}

    # ---------------------------------------------------------------- declaring

    @overload
    def rpc(self, function: F, /) -> F: ...
    @overload
    def rpc(
        self,
        /,
        *,
        name: str | None = None,
        timeout: float | None = None,
        idempotent: bool = False,
        concurrency: int | None = None,
        inline: bool = False,
        lane: str = "",
    ) -> Callable[[F], F]: ...
    def rpc(self, function: Any = None, /, **options: Any) -> Any:
        """Offer a function as a method; it stays what it was and can be called as before.

        A plain function runs in a thread, an `async def` on the event loop, and a generator of
        either kind is a stream. `inline` promises that a plain function never blocks: it then runs
        on the I/O thread, which is faster. `timeout` (seconds) bounds each call, `concurrency` how
        many run at once. `idempotent` promises that running it twice does no harm, so that the
        mesh may repeat a call whose worker died. Handlers that never suspend share a task:
        `mesh.current()` tells calls apart, `asyncio.current_task()` does not.

        Raises:
            ConfigError: an option or the function's signature is not allowed; says what is.
        """
        if function is not None:
            return self._declare(function, options)
        _check_options("rpc", options, _OPTIONS)
        return lambda decorated: self._declare(decorated, options)

    @overload
    def batch(self, function: F, /) -> F: ...
    @overload
    def batch(
        self,
        /,
        *,
        max_size: int = 64,
        max_wait: float = 0.005,
        name: str | None = None,
        timeout: float | None = None,
        idempotent: bool = False,
        lane: str = "",
    ) -> Callable[[F], F]: ...
    def batch(self, function: Any = None, /, **options: Any) -> Any:
        """Offer a function that serves many calls in one execution.

        Each call has one argument. The handler is given the list of the arguments of up to
        `max_size` calls that came within `max_wait` seconds, and returns a list of as many results;
        an exception in it fails that call alone.

        Raises:
            ConfigError: an option or the function's signature is not allowed; says what is.
        """
        _check_options("batch", options, _BATCH_OPTIONS)
        size, wait = options.pop("max_size", 64), options.pop("max_wait", 0.005)
        _check_count("max_size", size, 10_000)
        if not isinstance(wait, int | float) or not 0.0 <= wait <= 10.0:
            raise ConfigError(f"max_wait={wait!r} is not between 0 and 10 seconds")
        if function is not None:
            return self._declare(function, options, (size, wait))
        return lambda decorated: self._declare(decorated, options, (size, wait))

    def on_startup(self, hook: Hook) -> Hook:
        """Run `hook()`, sync or async, before the service registers."""
        self.startup_hooks.append(hook)
        return hook

    def on_drain(self, hook: Hook) -> Hook:
        """Run `hook()`, sync or async, when no new work is taken, to end what would never end."""
        self.drain_hooks.append(hook)
        return hook

    def on_shutdown(self, hook: Hook) -> Hook:
        """Run `hook()`, sync or async, after the last call has ended."""
        self.shutdown_hooks.append(hook)
        return hook

    def lane(
        self,
        name: str,
        *,
        capacity: int = ASYNC_CAPACITY,
        execute: Execute | None = None,
        inline: bool = False,
        portion: int = 0,
    ) -> None:
        """Declare a lane: a queue of its own at the brokers, for methods with `lane=name`.

        `capacity` 0 declares a lane that this process does not serve yet (`Runtime.set_lane`).
        `execute(jobs)`, if given, is handed everything that has arrived and runs it, on a thread of
        its own or with `inline` on the I/O thread; nothing is answered before it returns. An inline
        one may be handed no more than a `portion` at a time, so that the first answers do not wait
        for the last.

        Raises:
            ConfigError: a value is not allowed.
        """
        if not isinstance(name, str) or len(name.encode()) > MAX_NAME:
            raise ConfigError(f"lane {name!r}: a lane's name is text of at most {MAX_NAME} octets")
        if capacity:
            _check_count("capacity", capacity, 10_000)
        self._lanes[name] = capacity
        if execute is not None:
            self.executors[name] = (execute, inline)
            self.portions[name] = portion or sys.maxsize

    # ---------------------------------------------------------------- serving

    def lanes(self) -> dict[str, int]:
        """The capacity of each lane."""
        found = {method.lane: self._default_capacity() for method in self.methods.values()}
        return {**found, **self._lanes} or {"": self._default_capacity()}

    def _default_capacity(self) -> int:
        if self.concurrency is not None:
            return self.concurrency
        plain = all(m.kind == THREAD and m.batch is None for m in self.methods.values())
        return 2 * self.threads if plain and not self.executors else ASYNC_CAPACITY

    def start(self, *brokers: str) -> Runtime:
        """Serve in the background of this process; the result tells when it is ready and stops it.

        Raises:
            ConfigError: an endpoint is wrong, or there is nothing to serve.
        """
        from mesh.service.runtime import Runtime

        return Runtime(self, brokers or (DEFAULT_BROKER,)).start()

    def run(self, *brokers: str, workers: int = 1) -> None:
        """Serve until SIGTERM or SIGINT, then finish what is in hand and return.

        With `workers` above 1 that many processes serve, and one that dies is replaced. A second
        signal ends the process at once.

        Raises:
            ConfigError: an endpoint is wrong, or there is nothing to serve.
        """
        from mesh.service.process import run

        run(self, brokers or (DEFAULT_BROKER,), workers)

    # ---------------------------------------------------------------- rules of a declaration

    def _declare(
        self, function: F, options: dict[str, Any], batch: tuple[int, float] | None = None
    ) -> F:
        if not callable(function) or inspect.isclass(function):
            raise ConfigError(
                f"{function!r} is not a function; decorate a function, and put @{self.name}.rpc "
                "above @staticmethod and the like"
            )
        name: str = options.get("name") or str(getattr(function, "__name__", ""))
        where = f"{self.name}.{name}"
        _check_name("method", name, f" (the name of {function!r}; give name=...)")
        if "." in name:
            raise ConfigError(f"method name {name!r} contains a dot, which ends the service's name")
        if name in self.methods:
            raise ConfigError(f"{where} is declared twice; give one of them another name=...")
        method = Method(self.name, name, function)
        method.batch = batch
        method.lane = options.get("lane", "")
        method.idempotent = options.get("idempotent", False)
        method.concurrency = options.get("concurrency")
        method.timeout = options.get("timeout")
        method.debug = self.debug
        if not isinstance(method.idempotent, bool):
            raise ConfigError(f"{where}: idempotent={method.idempotent!r}; write True or False")
        if not isinstance(method.lane, str):
            raise ConfigError(f"{where}: lane={method.lane!r}; a lane is named by text")
        _check_count(f"{where}: concurrency", method.concurrency, 10_000)
        _check_timeout(where, method.timeout)
        self._classify(method, bool(options.get("inline")), where)
        self.methods[name] = method
        facts = {
            "timeout": method.timeout,
            "idempotent": method.idempotent,
            "stream": method.stream,
            "batch": batch is not None,
        }
        if not inspect.ismethod(function):
            typing.cast(Any, function).__mesh_service__ = self.name
            typing.cast(Any, function).__mesh_method__ = name
            typing.cast(Any, function).__mesh_options__ = facts
        return function

    def _classify(self, method: Method, inline: bool, where: str) -> None:
        """How to run `method`, and whether its signature makes sense."""
        function = method.function
        parameters = list(method.signature.parameters.values()) if method.signature else []
        hints = _hints(function)
        generator = inspect.isgeneratorfunction(function)
        async_generator = inspect.isasyncgenfunction(function)
        coroutine = inspect.iscoroutinefunction(function)
        result = typing.get_origin(hints.get("return")) or hints.get("return")
        method.stream = generator or async_generator or result in _ITERATORS
        streams = [p.name for p in parameters if _is_stream(hints.get(p.name, p.annotation))]
        method.takes_stream = bool(streams)
        if coroutine or async_generator:
            method.kind = ASYNC
        elif inline:
            method.kind = INLINE
        if coroutine and method.stream:
            raise ConfigError(
                f"{where} returns an iterator from a coroutine; write it as an async generator: "
                "async def with yield"
            )
        if parameters and parameters[0].name == "self" and not inspect.ismethod(function):
            raise ConfigError(
                f"{where} takes self: declare the method of an instance instead, as in "
                f"service.rpc(instance.{method.name})"
            )
        if len(streams) > 1:
            raise ConfigError(f"{where} takes {len(streams)} streams; one call carries one stream")
        if inline and method.kind == ASYNC:
            raise ConfigError(f"{where}: inline=True is for plain functions; drop it or the async")
        if inline and (method.stream or method.takes_stream):
            raise ConfigError(f"{where}: inline=True is not for streams, which wait for readers")
        if method.lane in self.executors and (method.stream or method.kind == ASYNC):
            raise ConfigError(f"{where}: lane {method.lane!r} runs plain functions only")
        if method.batch is not None:
            required = [p for p in parameters if p.default is p.empty]
            if method.stream or method.takes_stream:
                raise ConfigError(f"{where}: a batch handler takes and returns lists, not streams")
            one = len(required) == 1 and required[0].kind in (
                inspect.Parameter.POSITIONAL_ONLY,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
            )
            if method.signature is not None and not one:
                raise ConfigError(
                    f"{where}{method.signature}: a batch handler has one parameter, the list of "
                    "the callers' arguments"
                )


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of `function`, as types where they can be had, else as text."""
    target = inspect.unwrap(function)
    while isinstance(target, functools.partial):
        target = target.func
    try:
        return typing.get_type_hints(target)
    except Exception:  # a name that exists for type checkers only
        return dict(getattr(target, "__annotations__", {}))


def _is_stream(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return annotation.partition("[")[0].rpartition(".")[2] == "Stream"
    origin = typing.get_origin(annotation) or annotation
    return getattr(origin, "__mesh_stream__", False) is True


def _check_options(decorator: str, options: dict[str, Any], allowed: tuple[str, ...]) -> None:
    for option in options:
        if option not in allowed:
            near = difflib.get_close_matches(option, allowed, 1)
            advice = f"did you mean {near[0]}?" if near else f"allowed are: {', '.join(allowed)}"
            raise ConfigError(f"@{decorator} has no option {option!r}; {advice}")


def _check_name(what: str, name: Any, advice: str = "") -> None:
    if not isinstance(name, str) or not name or name != name.strip(".") or not name.isprintable():
        raise ConfigError(
            f"{what} name {name!r} is empty, not text, or begins or ends with a dot{advice}"
        )
    if "<" in name or " " in name:
        raise ConfigError(f"{what} name {name!r} contains a space or <{advice}")
    if len(name.encode()) > MAX_NAME:
        raise ConfigError(f"{what} name {name!r} is longer than {MAX_NAME} octets{advice}")


def _check_count(what: str, value: Any, most: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError(f"{what}={value!r} is not a whole number from 1 to {most}")


def _check_timeout(where: str, timeout: Any) -> None:
    if timeout is None:
        return
    if (
        isinstance(timeout, bool)
        or not isinstance(timeout, int | float)
        or not 0.0 < timeout <= MAX_TIMEOUT
    ):
        raise ConfigError(
            f"{where}: timeout={timeout!r} is not a number of seconds above 0 and up to "
            f"{MAX_TIMEOUT:.0f}; longer work is a stream, or is started and asked about later"
        )
