"""The verbs of the storage service as a client calls them: what goes out, how an answer is read.

Nothing is called here: each function checks its arguments and describes one request. The blocking
and the asyncio client turn these functions into their methods; the first argument is then the
bucket of the object, and the result that of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, overload

from mesh.client.storage.requests import (
    BucketInfo,
    Item,
    ObjectInfo,
    Page,
    Record,
    bucket_info,
    item,
    object_info,
)
from mesh.client.verbs import Request
from mesh.errors import InvalidArgument
from mesh.protocol import payload
from mesh.protocol import storage as limits

Absence = Literal["", "absent", "present"]


def _same(answer: Any) -> Any:
    return answer


def _nothing(answer: Any) -> None:
    return None


def _named(bucket: str, **given: Any) -> dict[str, Any]:
    """Keyword arguments without those that are not given."""
    found = {name: value for name, value in given.items() if value}
    if bucket != limits.DEFAULT_BUCKET:
        found["bucket"] = bucket
    return found


def key_of(key: str) -> str:
    """A key, checked."""
    limits.check_key(key)
    return key


def _keys(keys: Iterable[str]) -> list[str]:
    found = [keys] if isinstance(keys, str) else list(keys)
    limits.check_keys(found)
    return found


def _pack(value: Any, root: str = "value") -> bytes:
    return limits.check_body(payload.encode(value, root=root))


def conditions(
    bucket: str, ttl: float | None, only_if: str, version: int | None, idempotency_key: str = ""
) -> dict[str, Any]:
    """What a write asks for beside its content, checked as far as no store is needed."""
    limits.check_idempotency_key(idempotency_key)
    kwargs = _named(bucket, only_if=only_if, idempotency_key=idempotency_key)
    limits.check_choice("only_if", only_if, ("", "absent", "present"))
    if ttl is not None:
        limits.duration_ms("ttl", ttl)
        kwargs["ttl"] = ttl
    if version is not None:
        if only_if:
            raise InvalidArgument("only_if together with version: give one of them")
        kwargs["version"] = limits.check_version(version)
    return kwargs


# -------------------------------------------------------------------- reading


def get(bucket: str, key: str, default: Any = None) -> Request[Any]:
    """The value of a record, or `default` if there is none.

    Raises:
        DataCorrupted: it is not what was written.
        InvalidArgument: the key holds an object.
    """
    kwargs = _named(bucket)
    kwargs["packed"] = True

    def read(body: Any) -> Any:
        return default if body is None else payload.decode(body)

    return Request("get", (key_of(key),), kwargs, read, True)


def entry(bucket: str, key: str) -> Request[Record | None]:
    """The value of a record with its version and times; None if there is none."""

    def read(found: Any) -> Record | None:
        if found is None:
            return None
        value = payload.decode(found["value"])
        return Record(value, found["version"], found["modified_at"], found["expire_at"])

    return Request("entry", (key_of(key),), _named(bucket, packed=True), read, True)


def get_many(bucket: str, keys: Iterable[str]) -> Request[dict[str, Any]]:
    """The values of those records that exist, by key; up to 1,000 at a time, of one moment."""

    def read(found: Any) -> dict[str, Any]:
        return {key: payload.decode(body) for key, body in found.items()}

    return Request("get_many", (_keys(keys),), _named(bucket, packed=True), read, True)


def exists(bucket: str, *keys: str) -> Request[int]:
    """How many of the keys exist, as records or objects."""
    return Request("exists", (_keys(keys),), _named(bucket), _same, True)


def keys_page(
    bucket: str,
    prefix: str = "",
    *,
    start: str = "",
    end: str = "",
    reverse: bool = False,
    cursor: bytes = b"",
    limit: int = 500,
) -> Request[Page[str]]:
    """Up to `limit` keys that begin with `prefix`, start <= key < end, from `cursor` on."""
    return _page("scan_page", bucket, prefix, start, end, reverse, cursor, limit, str)


def list_page(
    bucket: str,
    prefix: str = "",
    *,
    start: str = "",
    end: str = "",
    reverse: bool = False,
    cursor: bytes = b"",
    limit: int = 500,
) -> Request[Page[Item]]:
    """The same with size, version and so on of each key. The page's own cursor leads on."""
    return _page("list_page", bucket, prefix, start, end, reverse, cursor, limit, item)


def _page(
    verb: str,
    bucket: str,
    prefix: str,
    start: str,
    end: str,
    reverse: bool,
    cursor: bytes,
    limit: int,
    one: Callable[[Any], Any],
) -> Request[Page[Any]]:
    limits.check_limit(limit)
    kwargs = {**scanned(bucket, prefix, start, end, reverse), "limit": limit}
    if cursor:
        kwargs["cursor"] = cursor

    def read(page: Any) -> Page[Any]:
        return Page([one(found) for found in page["items"]], page["cursor"])

    return Request(verb, (prefix,), kwargs, read, True)


def scanned(bucket: str, prefix: str, start: str, end: str, reverse: bool) -> dict[str, Any]:
    """What a scan is about, checked; all but the prefix."""
    limits.check_prefix(prefix)
    for name, bound in (("start", start), ("end", end)):
        if bound != "":
            limits.check_key(bound, name)
    return _named(bucket, start=start, end=end, reverse=reverse)


def bound(bucket: str, found: Any) -> tuple[str, Any]:
    """A pair of a scan: a key with its value, or with what is known of an object."""
    key, value = found
    return key, payload.decode(value) if isinstance(value, bytes) else object_info(value)


def info(bucket: str) -> Request[BucketInfo | None]:
    """What the bucket holds and may hold; None if nothing was ever written to it."""

    def read(found: Any) -> BucketInfo | None:
        return None if found is None else bucket_info(found)

    return Request("info", (), {"bucket": bucket}, read, True)


def buckets(bucket: str) -> Request[list[BucketInfo]]:
    """All buckets, by name."""
    return Request("buckets", (), {}, lambda found: [bucket_info(one) for one in found], True)


def object_info_of(bucket: str, key: str) -> Request[ObjectInfo | None]:
    """What is known of an object; None if there is none."""

    def read(page: Any) -> ObjectInfo | None:
        first = page["items"][0] if page["items"] else None
        if first is None or first["key"] != key or "sha256" not in first:
            return None
        return object_info(first)

    kwargs = _named(bucket, start=key_of(key), limit=1)
    return Request("list_page", (key,), kwargs, read, True)


# -------------------------------------------------------------------- writing


@overload
def put(
    bucket: str,
    key: str,
    value: Any,
    *,
    ttl: float | None = None,
    version: int | None = None,
    idempotency_key: str = "",
) -> Request[int]: ...
@overload
def put(
    bucket: str,
    key: str,
    value: Any,
    *,
    ttl: float | None = None,
    only_if: Literal["absent", "present"],
    idempotency_key: str = "",
) -> Request[int | None]: ...
def put(
    bucket: str,
    key: str,
    value: Any,
    *,
    ttl: float | None = None,
    only_if: Absence = "",
    version: int | None = None,
    idempotency_key: str = "",
) -> Request[Any]:
    """Write a record, on disk when this returns; its version, None if `only_if` prevented it.

    Args:
        ttl: seconds until it expires, in a bucket that has a ttl.
        only_if: "absent": only if there is no such key; "present": only if there is.
        version: only if the key has it (0: does not exist).
        idempotency_key: done once, however often it is asked for within ten minutes.

    Raises:
        VersionConflict: the key has another version; `data["version"]` says which.
        KeyReused: the idempotency key was used for something else.
        QuotaExceeded: the bucket has no room for it.
    """
    kwargs = conditions(bucket, ttl, only_if, version, idempotency_key)
    kwargs["packed"] = True
    return Request("put", (key_of(key), _pack(value)), kwargs, _same)


def put_many(
    bucket: str,
    items: Mapping[str, Any],
    *,
    ttl: float | None = None,
    idempotency_key: str = "",
) -> Request[dict[str, int]]:
    """Write up to 1,000 records together, all or none; their versions, by key."""
    if not isinstance(items, Mapping):
        raise InvalidArgument(f"items is {type(items).__name__}; give a mapping of keys to values")
    packed = {key_of(key): _pack(value, f"items[{key!r}]") for key, value in items.items()}
    limits.check_items(packed)
    kwargs = conditions(bucket, ttl, "", None, idempotency_key)
    kwargs["packed"] = True
    return Request("put_many", (packed,), kwargs, _same)


def delete(
    bucket: str, *keys: str, version: int | None = None, idempotency_key: str = ""
) -> Request[int]:
    """Remove up to 1,000 records and objects; how many there were.

    Raises:
        VersionConflict: one of them has not that `version`; nothing was removed.
    """
    kwargs = conditions(bucket, None, "", version, idempotency_key)
    return Request("delete", (_keys(keys),), kwargs, _same)


def copy(
    bucket: str,
    key: str,
    to: str,
    *,
    to_bucket: str = "",
    ttl: float | None = None,
    only_if: Absence = "",
    version: int | None = None,
    idempotency_key: str = "",
) -> Request[int | None]:
    """Give the key `to` what `key` holds; its version, None if `only_if` prevented it.

    `only_if` and `version` are about `to`. Objects share their content: it costs nothing.

    Raises:
        InvalidArgument: there is no `key`.
    """
    kwargs = conditions(bucket, ttl, only_if, version, idempotency_key)
    if to_bucket:
        kwargs["to_bucket"] = limits.check_bucket(to_bucket)

    def read(found: Any) -> int | None:
        if found == 0:
            raise InvalidArgument(f"there is no key {key!r} in bucket {bucket!r}")
        return None if found is None else int(found)

    return Request("copy", (key_of(key), key_of(to)), kwargs, read)


def configure(
    bucket: str, *, quota: int | str | None = None, ttl: float | None = None
) -> Request[None]:
    """Set how the bucket is kept.

    Args:
        quota: octets that it may hold, as a number or as in "64MB"; 0 for no quota.
        ttl: seconds that what is written from now on lives unless it says otherwise; 0 for ever.
    """
    given = {"quota": quota, "ttl": ttl}
    wanted = {name: value for name, value in given.items() if value is not None}
    return Request("configure", (), {"bucket": bucket, **wanted}, _nothing, True)


def drop(bucket: str) -> Request[int]:
    """Remove the bucket with all that is in it, at once; how many entries it had."""
    return Request("drop", (), {"bucket": bucket}, _same)
