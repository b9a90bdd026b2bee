"""From calls to operations of a store, and from its results to answers: what the services share.

A method of a built-in service builds an `Act` of its arguments and runs nothing. All that has
arrived together is planned, its operations run as one, and each call gets its own answer:

    planned = plan_all(jobs)
    results = iter(backend.read(operations(planned)))
    for job, acts in planned:
        finish(job, acts, results)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import msgpack
from xxhash import xxh3_128_digest

from mesh import errors
from mesh.errors import CallError, InvalidArgument, ProtocolError
from mesh.protocol import payload
from mesh.service.lanes import Job, Packed

CallId: TypeAlias = tuple[int, int, bytes]
"""Incarnation of the client, number of the request, digest of its content."""


_ERROR = 1
"""The code of an error among packed results."""


class Operation(Protocol):
    """Something that a store does."""

    call: CallId | None

    def octets(self) -> int:
        """How much it may add to a transaction."""


OpT = TypeVar("OpT", bound=Operation)


@dataclass(slots=True)
class Act(Generic[OpT]):
    """An operation, and how to turn its result into the answer.

    `packed`, where there is one, gives the MessagePack of the answer without looking into it.
    """

    op: OpT
    answer: Callable[[Any], Any]
    packed: Callable[[Any], bytes] | None = None


Planned: TypeAlias = list[tuple[Job, list["Act[OpT] | CallError"]]]


def same(result: Any) -> Any:
    """The result is the answer."""
    return result


def plan_all(jobs: Sequence[Job]) -> Planned[OpT]:
    """What each job asks for. One whose calls cannot be read is answered here."""
    planned: Planned[OpT] = []
    for job in jobs:
        try:
            method = job.request.target
            planned.append((job, [_plan(method, args, kwargs) for args, kwargs in job.calls()]))
        except CallError as error:
            job.fail(error)
    return planned


def _plan(method: Any, args: list[Any], kwargs: dict[str, Any]) -> Act[OpT] | CallError:
    try:
        act: Act[OpT] = method.function(*args, **kwargs)
        return act
    except CallError as error:
        return error.with_traceback(None)  # which would say that the method was at work
    except TypeError as error:
        return InvalidArgument(method.refuses(args, kwargs) or str(error))
    except ArithmeticError:  # of Decimal, for one that says so if it is only looked at
        return InvalidArgument("an argument is a number that cannot be compared, such as sNaN")


def misfit(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Why `function` does not take these arguments; empty if it does."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return ""


def operations(planned: Planned[OpT]) -> list[OpT]:
    """Every operation, for reading: `finish` takes as many results."""
    return [act.op for _, acts in planned for act in acts if type(act) is Act]


def requests(planned: Planned[OpT], together: Callable[[list[OpT]], OpT]) -> list[OpT]:
    """One operation for each job, for writing: `finish_each` takes as many results.

    It is known by the id of the request; those of a batch become one through `together`.
    """
    found: list[OpT] = []
    for job, acts in planned:
        ops = [act.op for act in acts if type(act) is Act]
        if not ops:
            continue
        request = job.request
        op = ops[0] if len(ops) == 1 else together(ops)
        if request.incarnation:
            content = bytes(request.frames[0]) if request.frames else b""
            digest = xxh3_128_digest(request.target.name.encode() + b"\0" + content)
            op.call = (request.incarnation, request.sequence, digest)
        found.append(op)
    return found


def portions(ops: Sequence[OpT], most: int) -> list[list[OpT]]:
    """`ops` in portions of up to about `most` octets, in order: one transaction each."""
    found: list[list[OpT]] = []
    octets = 0
    for op in ops:
        added = op.octets()
        if not found or octets + added > most:
            found.append([])
            octets = 0
        found[-1].append(op)
        octets += added
    return found


def finish(job: Job, acts: Sequence[Act[OpT] | CallError], results: Iterator[Any]) -> None:
    """Answer `job`; each of `acts` takes one of `results`."""
    found = [_answer(act, next(results)) if type(act) is Act else act for act in acts]
    if found:
        job.finish(found)
    else:
        job.fail(InvalidArgument("the batch holds no calls"))


def finish_each(planned: Planned[OpT], results: Sequence[Any]) -> None:
    """Answer every job with the results of its `requests`."""
    left = iter(results)
    for job, acts in planned:
        if len(acts) > 1 and sum([type(act) is Act for act in acts]) > 1:
            several = next(left)
            each = repeat(several) if isinstance(several, Exception) else iter(several)
            finish(job, acts, each)
        else:
            finish(job, acts, left)


def _answer(act: Act[OpT], result: Any) -> Any:
    if isinstance(result, Exception):
        return result
    try:
        return act.answer(result) if act.packed is None else Packed(act.packed(result))
    except CallError as error:
        return error


def packed_items(items: Mapping[Any, Any], packed: bool) -> list[bytes]:
    """The values of `items` as they are kept. Raises InvalidArgument: as `packed_body`."""
    try:
        return [packed_body(value, packed) for value in items.values()]
    except InvalidArgument:  # once more, to say which: names cost as much as values
        return [packed_body(value, packed, f"items[{key!r}]") for key, value in items.items()]


def packed_body(value: Any, packed: bool, root: str = "value") -> bytes:
    """A value as it is kept: MessagePack. With `packed` it is that already.

    Raises:
        InvalidArgument: it is not, or the mesh cannot carry it.
    """
    if not packed:
        return payload.encode(value, root=root)
    if not isinstance(value, bytes):
        raise InvalidArgument(f"{root} is {type(value).__name__}; packed=True wants MessagePack")
    try:
        payload.decode(value)
    except ProtocolError as error:
        raise InvalidArgument(f"{root} was said to be packed, but is not: {error}") from None
    return value


def pack(result: Any) -> bytes:
    """A result of a verb, or a list of them with errors among them, as octets."""
    if type(result) is int:
        return payload.encode(result)
    packed: bytes = msgpack.packb(result, default=_extend)
    return packed


def unpack(data: bytes) -> Any:
    """What was packed."""
    return msgpack.unpackb(data, ext_hook=_restore)


def _extend(value: Any) -> Any:
    if isinstance(value, CallError):
        return msgpack.ExtType(_ERROR, msgpack.packb(errors.to_wire(value)))
    raise InvalidArgument(f"{type(value).__name__} is no result")


def _restore(code: int, data: bytes) -> Any:
    number, fields = msgpack.unpackb(data)
    return errors.from_wire(number, fields, started=False)
