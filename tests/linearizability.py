"""Is a recorded history of calls linearizable? The search of Wing and Gong, with memoization.

A history is linearizable (Herlihy and Wing, "Linearizability: a correctness condition for
concurrent objects", TOPLAS 12(3), 1990) if every call can be given one moment between its beginning
and its end so that, done one after the other in that order, all would have returned what they did.
It holds for a whole store if it holds for each key (locality, ibid.), so keys are looked at alone.

The search tries every call that nothing has to precede, and goes back where none fits (Wing and
Gong, "Testing and verifying concurrent objects", JPDC 17, 1993); a set of placed calls together
with the state they lead to is never tried twice (Lowe, "Testing for linearizability", CCPE 29(4),
2017). A call whose outcome was never learned may take effect at any time after it began, or never.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

MOST_CONFIGURATIONS: Final = 2_000_000


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()
"""The result of a call that may have been executed."""


class Conflict(NamedTuple):
    """A compare-and-set was refused: the key had this version."""

    found: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One call. Times are seconds of one clock, common to all clients."""

    key: str
    verb: str
    arguments: tuple[Any, ...]
    result: Any
    called_at: float
    returned_at: float
    client: int = 0

    def __str__(self) -> str:
        words = ", ".join(map(repr, self.arguments))
        span = f"{self.called_at:.6f}..{self.returned_at:.6f}"
        return f"{span} client {self.client}: {self.verb}({words}) -> {self.result!r}"


@dataclass(frozen=True, slots=True)
class Model:
    """One object: its state at first, and what a call does to it.

    `step(state, operation)` gives the next state; None if in `state` the call could not have
    returned what it did (where its result is UNKNOWN: if it would change nothing).
    """

    initial: Hashable
    step: Callable[[Any, Operation], Hashable | None]


# ---------------------------------------------------------------- a key


class Key(NamedTuple):
    """What a key holds. `value` None: it does not exist. `version` None: a reader will tell.

    `last` is the greatest version it is known to have had: the next one is greater.
    """

    value: int | None = None
    version: int | None = 0
    last: int = 0


def _had(state: Key, version: int) -> Key | None:
    """The state, if its version can be `version`."""
    if state.version is not None:
        return state if state.version == version else None
    return state._replace(version=version, last=version) if version > state.last else None


def _written(state: Key, value: int, version: Any) -> Key | None:
    if version is UNKNOWN:
        return Key(value, None, state.last)
    return Key(value, version, version) if version > state.last else None


def step_key(state: Key, operation: Operation) -> Key | None:
    """The verbs of a key that holds an integer.

    get() -> value | None; entry() -> (value, version) | None; set(value) -> version;
    compare_and_set(value, version) -> version | Conflict; increment(by) -> sum; delete() -> 0 | 1.
    """
    verb, arguments, result = operation.verb, operation.arguments, operation.result
    unknown = result is UNKNOWN
    if verb == "get":
        return state if result == state.value else None
    if verb == "entry":
        if result is None or state.value is None:
            return state if result == state.value else None
        return _had(state, result[1]) if result[0] == state.value else None
    if verb == "set":
        return _written(state, arguments[0], result)
    if verb == "compare_and_set":
        value, wanted = arguments
        if isinstance(result, Conflict):
            return _had(state, result.found) if result.found != wanted else None
        found = _had(state, wanted)
        return None if found is None else _written(found, value, result)
    if verb == "increment":
        total = (state.value or 0) + arguments[0]
        return Key(total, None, state.last) if unknown or result == total else None
    if verb == "delete":
        existed = state.value is not None
        if not existed and unknown:
            return None
        return Key(None, 0, state.last) if unknown or result == existed else None
    raise ValueError(f"{verb!r} is no verb of this model")


KEY: Final = Model(Key(), step_key)


# ---------------------------------------------------------------- a lock


class Lock(NamedTuple):
    """A lock that does not expire. `holder`: its token, 0 if it is free, None if nobody knows."""

    holder: int | None = 0
    last: int = 0


def step_lock(state: Lock, operation: Operation) -> Lock | None:
    """lock() -> token | None if it is held; unlock(token) -> whether that token held it."""
    result = operation.result
    unknown = result is UNKNOWN
    if operation.verb == "lock":
        if result is None:
            return None if state.holder == 0 else state
        if state.holder != 0:
            return None
        if unknown:
            return Lock(None, state.last)
        return Lock(result, result) if result > state.last else None
    if operation.verb == "unlock":
        token = operation.arguments[0]
        holds = state.holder == token or (state.holder is None and token > state.last)
        if holds and (unknown or result):
            return Lock(0, max(state.last, token))
        return None if unknown or result or holds else state
    raise ValueError(f"{operation.verb!r} is no verb of this model")


LOCK: Final = Model(Lock(), step_lock)


# ---------------------------------------------------------------- the search


class _Configuration(NamedTuple):
    """Which calls have been placed, and the state that this leads to."""

    first: int
    """All known calls before this one are placed."""
    ahead: int
    """Which of those from `first` on are, as bits."""
    unknown: int
    """Which of those with an unknown result are, as bits."""
    state: Any


def violations(history: Iterable[Operation], model: Model = KEY) -> list[str]:
    """What is wrong with each key whose history is not linearizable, in words."""
    by_key: dict[str, list[Operation]] = defaultdict(list)
    for operation in history:
        by_key[operation.key].append(operation)
    found = []
    for key, operations in sorted(by_key.items()):
        problem = _search(operations, model)
        if problem:
            found.append(f"key {key!r} is not linearizable: {problem}")
    return found


def _search(operations: Iterable[Operation], model: Model) -> str:
    """Nothing if there is an order; otherwise how far it could be followed."""
    ordered = sorted(operations, key=lambda operation: operation.called_at)
    known = [operation for operation in ordered if operation.result is not UNKNOWN]
    unknown = [operation for operation in ordered if operation.result is UNKNOWN]
    start = _Configuration(0, 0, 0, model.initial)
    furthest = start
    seen = {start}
    stack = [start]
    while stack:
        at = stack.pop()
        if at.first == len(known):
            return ""
        if at.first >= furthest.first:
            furthest = at
        for follower in _followers(at, known, unknown, model):
            if follower not in seen:
                seen.add(follower)
                stack.append(follower)
        if len(seen) > MOST_CONFIGURATIONS:
            raise AssertionError(f"no verdict over {len(ordered)} calls: too many orders")
    return _explain(furthest, known, unknown)


def _followers(
    at: _Configuration, known: Sequence[Operation], unknown: Sequence[Operation], model: Model
) -> list[_Configuration]:
    """Where one more call leads. The last is tried first: those that returned, the oldest first."""
    candidates, deadline = _next(at, known)
    found: list[_Configuration] = []
    for number, operation in enumerate(unknown):
        if operation.called_at > deadline:
            break
        if not at.unknown >> number & 1:
            state = model.step(at.state, operation)
            if state is not None:
                found.append(at._replace(unknown=at.unknown | 1 << number, state=state))
    for index in reversed(candidates):
        state = model.step(at.state, known[index])
        if state is None:
            continue
        first, ahead = at.first, at.ahead | 1 << index - at.first
        while ahead & 1:
            first, ahead = first + 1, ahead >> 1
        found.append(_Configuration(first, ahead, at.unknown, state))
    return found


def _next(at: _Configuration, known: Sequence[Operation]) -> tuple[list[int], float]:
    """The known calls that may come next: none that is open had ended before they began.

    Also when the first of those ended: nothing that began later may come next.
    """
    candidates: list[int] = []
    deadline = math.inf
    for index in range(at.first, len(known)):
        if known[index].called_at > deadline:
            break
        if not at.ahead >> index - at.first & 1:
            deadline = min(deadline, known[index].returned_at)
            candidates.append(index)
    return candidates, deadline


def _explain(at: _Configuration, known: Sequence[Operation], unknown: Sequence[Operation]) -> str:
    candidates, _ = _next(at, known)
    open_ones = [op for number, op in enumerate(unknown) if not at.unknown >> number & 1]
    lines = [f"after {at.first} of {len(known)} calls it was {at.state}, and none of these fits"]
    lines += [f"  {known[index]}" for index in candidates]
    lines += ["those before:"]
    lines += [f"  {operation}" for operation in known[max(0, at.first - 8) : at.first]]
    if open_ones:
        lines += ["with unknown outcome:"]
        lines += [f"  {operation}" for operation in open_ones[:8]]
    return "\n".join(lines)
