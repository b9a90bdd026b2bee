"""The verbs of the memory service as a client calls them: what goes out, how an answer is read.

Nothing is called here: each function checks its arguments and describes one request. The blocking
and the asyncio client turn these functions into their methods; the first argument is then the
namespace of the object, and the result that of the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, overload

from mesh.client.memory.requests import Entry, LockInfo, Page, Request, Reservation
from mesh.errors import InvalidArgument
from mesh.protocol import memory as limits
from mesh.protocol import payload


def _same(answer: Any) -> Any:
    return answer


def _nothing(answer: Any) -> None:
    return None


def _reading(default: Any) -> Callable[[Any], Any]:
    """How a packed value is read; `default` if there is none."""
    return lambda body: default if body is None else payload.decode(body)


def _pack(value: Any, root: str = "value") -> bytes:
    return limits.check_body(payload.encode(value, root=root))


def lifetime(
    ttl: float | None, expire_at: float | None = None, stale: float | None = None
) -> dict[str, float]:
    """The arguments that say how long, checked as far as no clock is needed."""
    limits.check_lifetime(ttl, expire_at, stale)
    given = {"ttl": ttl, "stale": stale}
    found = {name: seconds for name, seconds in given.items() if seconds is not None}
    for name, seconds in found.items():
        limits.duration_ms(name, seconds)
    if expire_at is not None:
        found["expire_at"] = expire_at
    return found


def _packed(ns: str) -> dict[str, Any]:
    """The keyword arguments of what is asked most: values are packed, nothing else is given."""
    return {"packed": True} if ns == limits.DEFAULT_NAMESPACE else {"packed": True, "ns": ns}


def _named(ns: str, **given: Any) -> dict[str, Any]:
    """Keyword arguments without those that are not given."""
    found = {name: value for name, value in given.items() if value}
    if ns != limits.DEFAULT_NAMESPACE:
        found["ns"] = ns
    return found


def _key(key: str) -> str:
    limits.check_key(key)
    return key


def _keys(keys: Iterable[str]) -> list[str]:
    found = [keys] if isinstance(keys, str) else list(keys)
    limits.check_keys(found)
    return found


def tag_list(tags: Iterable[str]) -> list[str]:
    """The tags of an entry, checked."""
    if tags == ():
        return []
    return list(limits.check_tags([tags] if isinstance(tags, str) else list(tags)))


# -------------------------------------------------------------------- reading


def get(ns: str, key: str, default: Any = None, *, stale: bool = False) -> Request[Any]:
    """The value of a key, or `default` if there is none.

    With `stale` also one whose `ttl` is over but not the seconds of its `stale`.
    """
    kwargs = _packed(ns)
    if stale:
        kwargs["stale"] = stale
    return Request("get", (_key(key),), kwargs, _reading(default), True)


def entry(ns: str, key: str, *, stale: bool = False) -> Request[Entry | None]:
    """The value of a key with its version, time to live and tags; None if there is none."""

    def read(found: Any) -> Entry | None:
        if found is None:
            return None
        ttl = math.inf if found["ttl"] < 0 else found["ttl"]
        value = payload.decode(found["value"])
        return Entry(value, found["version"], ttl, found["fresh"], tuple(found["tags"]))

    return Request("entry", (_key(key),), _named(ns, stale=stale, packed=True), read, True)


def get_many(ns: str, keys: Iterable[str], *, stale: bool = False) -> Request[dict[str, Any]]:
    """The values of those keys that exist, by key; up to 1,000 at a time."""

    def read(found: Any) -> dict[str, Any]:
        return {key: payload.decode(body) for key, body in found.items()}

    return Request("get_many", (_keys(keys),), _named(ns, stale=stale, packed=True), read, True)


def exists(ns: str, *keys: str) -> Request[int]:
    """How many of the keys exist."""
    return Request("exists", (_keys(keys),), _named(ns), _same, True)


def ttl(ns: str, key: str) -> Request[float | None]:
    """Seconds until a key is gone: infinite for never, None if it does not exist."""

    def read(seconds: Any) -> float | None:
        return math.inf if seconds is not None and seconds < 0 else seconds

    return Request("ttl", (_key(key),), _named(ns), read, True)


@overload
def scan_page(
    ns: str,
    prefix: str = "",
    *,
    values: Literal[False] = False,
    cursor: bytes = b"",
    limit: int = 500,
) -> Request[Page[str]]: ...
@overload
def scan_page(
    ns: str, prefix: str = "", *, values: Literal[True], cursor: bytes = b"", limit: int = 500
) -> Request[Page[tuple[str, Any]]]: ...
def scan_page(
    ns: str, prefix: str = "", *, values: bool = False, cursor: bytes = b"", limit: int = 500
) -> Request[Any]:
    """Up to `limit` keys that begin with `prefix`, or pairs of key and value, from `cursor` on.

    The page's own cursor leads on to the next. What exists all the time is found exactly once.
    """
    limits.check_prefix(prefix)
    limits.check_limit(limit)

    def read(page: Any) -> Page[Any]:
        items = page["items"]
        if values:
            items = [(key, payload.decode(body)) for key, body in items]
        return Page(items, page["cursor"])

    kwargs = _named(ns, cursor=cursor, limit=limit, values=values, packed=True)
    return Request("scan_page", (prefix,), kwargs, read, True)


def lock_info(ns: str, name: str) -> Request[LockInfo | None]:
    """Who holds a lock; None if nobody does."""

    def read(found: Any) -> LockInfo | None:
        return None if found is None else LockInfo(found["token"], found["owner"], found["ttl"])

    return Request("lock_info", (_key(name),), _named(ns), read, True)


def stats(ns: str) -> Request[dict[str, Any]]:
    """Entries, octets, hits, misses, written, deleted, expired, evicted: of the whole service.

    The same by namespace under "namespaces". Counted since the present writer began.
    """
    return Request("stats", (), {}, _same, True)


# -------------------------------------------------------------------- writing


@overload
def set(
    ns: str,
    key: str,
    value: Any,
    *,
    ttl: float | None = None,
    expire_at: float | None = None,
    keep_ttl: bool = False,
    stale: float | None = None,
    tags: Iterable[str] = (),
) -> Request[int]: ...
@overload
def set(
    ns: str,
    key: str,
    value: Any,
    *,
    ttl: float | None = None,
    expire_at: float | None = None,
    keep_ttl: bool = False,
    stale: float | None = None,
    tags: Iterable[str] = (),
    only_if: Literal["absent", "present"],
) -> Request[int | None]: ...
def set(
    ns: str,
    key: str,
    value: Any,
    *,
    ttl: float | None = None,
    expire_at: float | None = None,
    keep_ttl: bool = False,
    stale: float | None = None,
    tags: Iterable[str] = (),
    only_if: str = "",
) -> Request[Any]:
    """Write a key; returns its version, or None if `only_if` kept it from that.

    Args:
        ttl: seconds until it expires; without it, it never does.
        expire_at: the same as Unix time.
        keep_ttl: it expires when the value before would have.
        stale: seconds after its ttl in which `get(stale=True)` and `get_or_set` still find it.
        tags: names by which `invalidate` finds it; up to 16.
        only_if: "absent": only if there is no such key; "present": only if there is.
    """
    kwargs = _packed(ns)
    if keep_ttl or only_if or tags != ():
        kwargs |= _named(ns, keep_ttl=keep_ttl, tags=tag_list(tags), only_if=only_if)
    if ttl is not None or expire_at is not None or stale is not None:
        kwargs |= lifetime(ttl, expire_at, stale)
    return Request("set", (_key(key), _pack(value)), kwargs, _same)


def set_many(
    ns: str,
    items: Mapping[str, Any],
    *,
    ttl: float | None = None,
    expire_at: float | None = None,
    stale: float | None = None,
    tags: Iterable[str] = (),
) -> Request[dict[str, int]]:
    """Write up to 1,000 keys together, all or none; their versions, by key."""
    packed = _packed_items(limits.check_items(dict(items) if isinstance(items, Mapping) else items))
    kwargs = _named(ns, tags=tag_list(tags), packed=True)
    return Request("set_many", (packed,), kwargs | lifetime(ttl, expire_at, stale), _same)


def _packed_items(items: dict[str, Any]) -> dict[str, bytes]:
    for key in items:
        limits.check_key(key)
    try:
        return {key: limits.check_body(payload.encode(value)) for key, value in items.items()}
    except InvalidArgument:  # once more, to say which: names cost as much as values
        return {key: _pack(value, f"items[{key!r}]") for key, value in items.items()}


def compare_and_set(
    ns: str,
    key: str,
    value: Any,
    version: int,
    *,
    ttl: float | None = None,
    expire_at: float | None = None,
    keep_ttl: bool = False,
    tags: Iterable[str] = (),
) -> Request[int]:
    """Write a key that still has `version` (0: that does not exist); its new version.

    Raises:
        VersionConflict: it has another; `data["version"]` says which.
    """
    kwargs = _named(ns, keep_ttl=keep_ttl, tags=tag_list(tags), packed=True)
    kwargs |= lifetime(ttl, expire_at)
    arguments = (_key(key), _pack(value), limits.check_version(version))
    return Request("compare_and_set", arguments, kwargs, _same)


def delete(ns: str, *keys: str, version: int | None = None) -> Request[int]:
    """Remove up to 1,000 keys; how many there were. With `version`, only if they have it.

    Raises:
        VersionConflict: one of them has another version; nothing was removed.
    """
    kwargs = _named(ns)
    if version is not None:
        kwargs["version"] = limits.check_version(version)
    return Request("delete", (_keys(keys),), kwargs, _same)


def expire(
    ns: str,
    key: str,
    ttl: float | None = None,
    *,
    at: float | None = None,
    only_if: Literal["", "none", "some", "later", "sooner"] = "",
) -> Request[bool]:
    """Let a key expire in `ttl` seconds, or at the Unix time `at`; whether it will.

    `only_if`: it has no expiry yet ("none"), has one ("some"), or the new one is "later" or
    "sooner".
    """
    kwargs = _named(ns, only_if=only_if) | lifetime(ttl)
    if at is not None:
        kwargs["at"] = at
    return Request("expire", (_key(key),), kwargs, _same)


def persist(ns: str, key: str) -> Request[bool]:
    """Let a key never expire; False if it did not expire before, or does not exist."""
    return Request("persist", (_key(key),), _named(ns), _same)


def get_and_touch(ns: str, key: str, ttl: float | None = None, default: Any = None) -> Request[Any]:
    """The value of a key, which from now on lives `ttl` seconds (None: for ever).

    A session that is kept so lives while it is used.
    """
    kwargs = _named(ns, packed=True) | lifetime(ttl)
    return Request("get_and_touch", (_key(key),), kwargs, _reading(default))


def get_and_delete(ns: str, key: str, default: Any = None) -> Request[Any]:
    """The value of a key, which is removed."""
    return Request("get_and_delete", (_key(key),), _named(ns, packed=True), _reading(default))


@overload
def increment(
    ns: str, key: str, by: int = 1, *, ttl: float | None = None, renew: bool = False
) -> Request[int]: ...
@overload
def increment(
    ns: str, key: str, by: float, *, ttl: float | None = None, renew: bool = False
) -> Request[float]: ...
def increment(
    ns: str, key: str, by: float = 1, *, ttl: float | None = None, renew: bool = False
) -> Request[Any]:
    """Add `by` to a number, 0 if it does not exist; the sum.

    `ttl` is given to a key that comes into being, with `renew` to any.
    """
    kwargs = _named(ns, renew=renew) | lifetime(ttl)
    return Request("increment", (_key(key), by), kwargs, _same)


def invalidate(ns: str, *, prefix: str | None = None, tag: str | None = None) -> Request[int]:
    """Remove, at once, all keys that begin with `prefix` or have `tag`; how many, at least."""
    if (prefix is None) == (tag is None):
        raise InvalidArgument("invalidate wants prefix or tag, one of them; or use clear()")
    what = {"tag": limits.check_tag(tag)} if prefix is None else {"prefix": _key(prefix)}
    return Request("invalidate", (), _named(ns) | what, _same, True)


def clear(ns: str) -> Request[int]:
    """Empty the namespace, at once; how many entries it had."""
    return Request("clear", (), {"ns": ns}, _same, True)


def configure(
    ns: str,
    *,
    durability: Literal["always", "relaxed"] | None = None,
    quota: int | str | None = None,
) -> Request[None]:
    """Set how the namespace is kept.

    Args:
        durability: "relaxed" acknowledges before the disk has it; a crash may take the last second.
        quota: octets that it may hold, as a number or as in "64MB"; 0 for no quota.
    """
    given = {"durability": durability, "quota": quota}
    wanted = {name: value for name, value in given.items() if value is not None}
    return Request("configure", (), {"ns": ns, **wanted}, _nothing, True)


# -------------------------------------------------------------------- locks, reservations, waiting


def take_lock(ns: str, name: str, ttl: float, owner: str) -> Request[int]:
    """A lock's token; 0 if somebody has it."""
    limits.duration_ms("ttl", ttl)
    kwargs = _named(ns, owner=limits.check_owner(owner))
    return Request("lock", (_key(name), ttl), kwargs, lambda token: token or 0)


def extend_lock(ns: str, name: str, token: int, ttl: float, timeout: float) -> Request[bool]:
    """Whether `token` holds a lock, which it does for `ttl` seconds more then."""
    limits.duration_ms("ttl", ttl)
    return Request("extend", (name, token, ttl), _named(ns), _same, None, timeout)


def release_lock(ns: str, name: str, token: int) -> Request[bool]:
    """Give a lock back; False if `token` does not hold it any more."""
    return Request("unlock", (name, token), _named(ns), _same)


def reserve(ns: str, key: str, ttl: float) -> Request[Reservation]:
    """A value, or the task to compute it."""
    limits.duration_ms("lease", ttl)

    def read(found: Any) -> Reservation:
        body = found.get("value")
        value = None if body is None else payload.decode(body)
        return Reservation(body is not None, value, found.get("token", 0))

    return Request("reserve", (_key(key), ttl), _named(ns, packed=True), read)


def fill(
    ns: str, key: str, value: Any, token: int, times: Mapping[str, float], tags: Sequence[str]
) -> Request[int | None]:
    """Write what was computed; None if it comes too late."""
    kwargs = {**_named(ns, tags=tags, packed=True), **times}
    return Request("fill", (_key(key), _pack(value), token), kwargs, _same)


def release(ns: str, key: str, token: int) -> Request[bool]:
    """Give a reservation back without a value."""
    return Request("release", (key, token), _named(ns), _same)


def wait(ns: str, key: str, seconds: float, *, lock: bool = False) -> Request[bool]:
    """Wait for what somebody else computes, or until a lock is free."""
    kwargs = _named(ns, lock=lock)
    return Request("wait", (key, seconds), kwargs, _same, True, seconds + 5.0)
