"""From a request to its handler's outcome: unpack, call, pack. Knows nothing of threads or loops.

An outcome is a tuple `(operation, request, a, b)` that `apply` gives to the session:
`(FINISH, request, frames, flags)`, `(FAIL, request, (code, fields), started)`,
`(PARTIAL, request, packed item, None)` or `(GRANT, request, items, None)`.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context, copy_context
from typing import Any, TypeAlias

import msgpack

from mesh import errors
from mesh.context import running
from mesh.errors import CallError, InvalidArgument, ProtocolError
from mesh.protocol import payload
from mesh.protocol.messages import BATCH, MORE, RAW
from mesh.protocol.payload import decode, encode
from mesh.service.declare import Method
from mesh.service.requests import Request
from mesh.service.session import SessionCore
from mesh.service.streams import Incoming

FINISH, FAIL, PARTIAL, GRANT = range(4)

# The packed None that ends a stream well.
NIL = (b"\xc0",)
# The extension type that stands where the caller gave an iterator.
STREAM_MARK = 100

Outcome: TypeAlias = tuple[int, Request, Any, Any]
Post: TypeAlias = Callable[[Outcome], None]
Arguments: TypeAlias = tuple[list[Any], dict[str, Any]]
ItemOutcome: TypeAlias = tuple[int, Any]
# A request whose handler waits: its coroutine, the context it runs in, and what it waits for.
Suspended: TypeAlias = tuple[Request, Coroutine[Any, Any, Any], Context, Any]


class Outbox:
    """Outcomes on their way to who drives the session, from any thread; `rouse` wakes it up."""

    __slots__ = ("_outcomes", "rouse")

    def __init__(self, rouse: Callable[[], None]) -> None:
        self.rouse = rouse
        self._outcomes: deque[Outcome] = deque()

    def add(self, outcome: Outcome) -> None:
        """Hand over an outcome, and `rouse` soon."""
        self._outcomes.append(outcome)

    def post(self, outcome: Outcome) -> None:
        """Hand over an outcome."""
        self._outcomes.append(outcome)
        self.rouse()

    def take(self) -> list[Outcome]:
        """What was handed over, in order, and forget it."""
        outcomes = self._outcomes
        return [outcomes.popleft() for _ in range(len(outcomes))]

    def __len__(self) -> int:
        return len(self._outcomes)


def apply(session: SessionCore, outcomes: Iterable[Outcome]) -> None:
    """Give outcomes to the session, in order. Items of one stream in a row leave together."""
    items: list[bytes] = []
    streaming: Request | None = None
    for operation, request, a, b in outcomes:
        if operation == PARTIAL and request is streaming:
            items.append(a)
            continue
        if streaming is not None:
            session.partial(streaming, items)
            streaming = None
        if operation == FINISH:
            session.finish(request, a, b)
        elif operation == FAIL:
            session.fail(request, a[0], a[1], started=b)
        elif operation == PARTIAL:
            streaming, items = request, [a]
        else:
            session.grant(request, a)
    if streaming is not None:
        session.partial(streaming, items)


def run(request: Request) -> Outcome:
    """Call a plain handler here and now, for one call or a batch of calls."""
    method: Any = request.target
    token = running.set(request)
    try:
        if request.flags & BATCH:
            return batch_outcome(request, run_items(request, batch_calls(request)))
        args, kwargs = arguments(request)
        return outcome(request, method.function(*args, **kwargs))
    except BaseException as error:  # whatever a handler raises is the answer of this call
        return failure(request, error)
    finally:
        running.reset(token)


def run_items(request: Request, calls: list[Arguments | CallError]) -> list[ItemOutcome]:
    """The outcome of each call of a batch, one after the other. Stops early when cancelled."""
    method: Any = request.target
    function = method.function
    results: list[ItemOutcome] = []
    for call in calls:
        if isinstance(call, CallError):
            results.append(errors.to_wire(call))
            continue
        if request.cancel_code:
            raise errors.from_wire(request.cancel_code, {"message": "cancelled"}, started=True)
        try:
            results.append((0, function(*call[0], **call[1])))
        except Exception as error:
            results.append(item_failure(method, error, call))
    return results


def run_ready(
    queue: deque[Any], outbox: Outbox, clock: Callable[[], float], task: asyncio.Task[Any]
) -> Suspended | None:
    """Run requests for plain async handlers from the front of `queue`, within `task`.

    Each runs in a copy of the context of its own. None when the queue is empty, when its first is
    something else, or when a handler has cancelled `task`. A handler that waits ends it too.
    """
    while queue:
        if type(queue[0]) is not Request:
            return None
        request = queue[0]
        if request.entry.streams or request.flags & BATCH:
            return None
        queue.popleft()
        code = request.refusal(clock())
        if code:
            outbox.add((FAIL, request, (code, {"message": "it ended before it began"}), False))
            continue
        running.set(request)
        within = copy_context()
        method: Any = request.target
        try:
            args, kwargs = arguments(request)
            call = method.function(*args, **kwargs)
            try:
                awaited = within.run(call.send, None)
            except StopIteration as stop:
                result = outcome(request, stop.value)
            else:
                return request, call, within, awaited
        except BaseException as error:  # whatever a handler raises is the answer of this call
            result = failure(request, error)
        outbox.add(result)
        if task.cancelling():
            return None
    return None


# ---------------------------------------------------------------- arguments


def arguments(request: Request, incoming: Incoming | None = None) -> Arguments:
    """The positional and keyword arguments of `request`; `incoming` takes the place of its stream.

    Raises:
        InvalidArgument: the body does not hold arguments.
    """
    frames = request.frames
    if request.flags & RAW:
        return [bytes(memoryview(frame)) for frame in frames], {}
    if not frames:
        return [], {}
    try:
        if request.flags & MORE:
            return _split(_decode_with_stream(frames[0], incoming))
        return _split(decode(frames[0]))
    except ProtocolError as error:
        raise InvalidArgument(str(error)) from None


def _split(value: Any) -> Arguments:
    """The arguments in `value`: `[args]` or `[args, kwargs]`."""
    if type(value) is list and value:
        items = value
        args = items[0]
        if type(args) is list:
            if len(items) == 1:
                return args, {}
            kwargs = items[1]
            if (
                len(items) == 2
                and type(kwargs) is dict
                and all([type(key) is str for key in kwargs])
            ):
                return args, kwargs
    raise InvalidArgument("the body of a call is [arguments] or [arguments, keyword arguments]")


def _decode_with_stream(body: Any, incoming: Incoming | None) -> Any:
    def hook(code: int, data: bytes) -> Any:
        return incoming if code == STREAM_MARK else payload._ext_hook(code, data)

    try:
        return msgpack.unpackb(body, strict_map_key=False, timestamp=3, ext_hook=hook)
    except Exception as error:
        raise InvalidArgument(f"payload is not valid MessagePack: {error}") from None


def batch_calls(request: Request) -> list[Arguments | CallError]:
    """The calls of a batch, in order; an error in the place of one that is not a call.

    Raises:
        InvalidArgument: the body is not an array.
    """
    try:
        body = payload.decode(request.frames[0]) if request.frames else None
    except ProtocolError as error:
        raise InvalidArgument(str(error)) from None
    if type(body) is not list:
        raise InvalidArgument("the body of a batch is an array of calls")
    calls: list[Arguments | CallError] = []
    for value in body:
        try:
            calls.append(_split(value))
        except InvalidArgument as error:
            calls.append(error)
    return calls


# ---------------------------------------------------------------- outcomes


def outcome(request: Request, value: Any) -> Outcome:
    """The handler returned `value`."""
    if request.flags & RAW:
        return _raw_outcome(request, value)
    try:
        return (FINISH, request, (encode(value, "result"),), 0)
    except InvalidArgument as error:
        return _unsendable(request, error)


def _raw_outcome(request: Request, value: Any) -> Outcome:
    if isinstance(value, bytes):
        return (FINISH, request, [value], RAW)
    if isinstance(value, list) and value and all(isinstance(item, bytes) for item in value):
        return (FINISH, request, value, RAW)
    try:
        return (FINISH, request, [payload.encode(value, root="result")], RAW)
    except InvalidArgument as error:
        return _unsendable(request, error)


def batch_outcome(request: Request, results: list[ItemOutcome]) -> Outcome:
    """Every call of the batch has its outcome: `(0, value)` or `(code, error map)`."""
    try:
        return (FINISH, request, [payload.encode(results)], BATCH)
    except InvalidArgument:
        pass
    # Rare: find the items that cannot be packed.
    mended: list[ItemOutcome] = []
    for index, result in enumerate(results):
        try:
            payload.encode(result[1], root=f"result of call {index}")
            mended.append(result)
        except InvalidArgument as error:
            mended.append(_unsendable_fields(error))
    try:
        return (FINISH, request, [payload.encode(mended, root="results")], BATCH)
    except InvalidArgument as error:
        return _unsendable(request, error)


def part(request: Request, value: Any) -> Outcome:
    """One item of the stream that the handler produces; a FAIL if it cannot be sent."""
    if request.flags & RAW and isinstance(value, bytes):
        return (PARTIAL, request, value, None)
    try:
        return (PARTIAL, request, payload.encode(value, root="item"), None)
    except InvalidArgument as error:
        return _unsendable(request, error)


def _unsendable_fields(error: InvalidArgument) -> ItemOutcome:
    return errors.REMOTE_ERROR, {"kind": "TypeError", "message": error.message}


def _unsendable(request: Request, error: InvalidArgument) -> Outcome:
    return (FAIL, request, _unsendable_fields(error), True)


def failure(request: Request, error: BaseException, call: Arguments | None = None) -> Outcome:
    """The handler raised, or the arguments were refused."""
    method: Any = request.target
    if isinstance(error, InvalidArgument):
        # It was raised before the handler was called, unless its own code is on the way.
        return (FAIL, request, errors.to_wire(error), _in_handler(error, method))
    if isinstance(error, TypeError) and not _in_handler(error, method):
        try:
            refused = method.refuses(*(call or arguments(request, None)))
        except InvalidArgument:
            refused = ""
        if refused:
            fields = {"message": refused}
            return (FAIL, request, (errors.INVALID_ARGUMENT, fields), False)
    return (FAIL, request, _wire(method, error, request.request_id), True)


def item_failure(method: Method, error: BaseException, call: Arguments | None) -> ItemOutcome:
    """One call of a batch failed."""
    if isinstance(error, TypeError) and call is not None and not _in_handler(error, method):
        refused = method.refuses(*call)
        if refused:
            return errors.INVALID_ARGUMENT, {"message": refused}
    return _wire(method, error)


def _in_handler(error: BaseException, method: Method) -> bool:
    """Whether the handler's own code was running when `error` was raised."""
    code = method.code
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is code:
            return True
        trace = trace.tb_next
    return False


def _wire(method: Method, error: BaseException, request_id: str = "") -> tuple[int, dict[str, Any]]:
    if isinstance(error, asyncio.CancelledError):
        return errors.CANCELLED, {"message": "cancelled"}
    text = "".join(traceback.format_exception(error)) if method.debug else ""
    code, fields = errors.to_wire(error, traceback=text)
    if code == errors.REMOTE_ERROR and not isinstance(error, CallError):
        method.report(error, request_id)
    try:
        payload.encode(fields)
    except InvalidArgument:
        fields.pop("data", None)  # what a handler attached cannot be sent; the error itself can
    return code, fields
