"""From the arguments of a call to an operation of the store, and from its result to the answer.

Each method checks what it was given and returns an `Act`; nothing is run here. The methods are the
service's own: `handler` offers them under their names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from mesh.errors import InvalidArgument
from mesh.protocol import payload
from mesh.protocol import storage as limits
from mesh.protocol.storage import DEFAULT_BUCKET as DEFAULT
from workers.acts import Act, misfit, packed_body, packed_items, same
from workers.storage.operations import Op
from workers.storage.records import OBJECT, Content, Entry, facts
from workers.store.dedup import digest

MAX_STEPS = 1000
NIL = b"\xc0"


class Verbs:
    """The methods. `new_blob()` gives 16 octets that were never given before."""

    def __init__(self, new_blob: Callable[[], bytes] = lambda: os.urandom(16)) -> None:
        self._new_blob = new_blob

    # ---------------------------------------------------------------- reading

    def get(self, key: str, *, bucket: str = DEFAULT, packed: bool = False) -> Act[Op]:
        """The value of a record; None if it does not exist."""
        op = Op("get", limits.check_bucket(bucket), {"key": limits.check_key(key)})
        return Act(op, _body) if packed else Act(op, _value, _packed_value)

    def entry(self, key: str, *, bucket: str = DEFAULT, packed: bool = False) -> Act[Op]:
        """What is known of a record; None if it does not exist."""
        op = Op("get", limits.check_bucket(bucket), {"key": limits.check_key(key)})
        return Act(op, lambda found: _facts(found, packed))

    def get_many(self, keys: list[str], *, bucket: str = DEFAULT, packed: bool = False) -> Act[Op]:
        """The values of those records that exist, by key."""
        checked = limits.check_keys(keys)
        op = Op("get_many", limits.check_bucket(bucket), {"keys": checked})
        read = _body if packed else _value

        def answer(found: Any) -> dict[str, Any]:
            return {key: read(entry) for key, entry in zip(keys, found, strict=True) if entry}

        return Act(op, answer)

    def exists(self, keys: list[str], *, bucket: str = DEFAULT) -> Act[Op]:
        """How many of the keys exist, as records or objects."""
        arguments = {"keys": limits.check_keys(keys)}
        return Act(Op("exists", limits.check_bucket(bucket), arguments), same)

    def scan_page(
        self,
        prefix: str = "",
        *,
        start: str = "",
        end: str = "",
        reverse: bool = False,
        cursor: bytes = b"",
        limit: int = 100,
        values: bool = False,
        bucket: str = DEFAULT,
        packed: bool = False,
    ) -> Act[Op]:
        """A page of keys with start <= key < end, or of [key, value], and where the next begins.

        With `values` an object stands there as what is known of it, in a mapping.
        """
        if not isinstance(cursor, bytes) or len(cursor) > limits.MAX_KEY:
            raise InvalidArgument(f"cursor={cursor!r:.60} was not given out by a scan")
        arguments = {
            "prefix": limits.check_prefix(prefix),
            "start": limits.check_key(start, "start") if start else b"",
            "end": limits.check_key(end, "end") if end else b"",
            "reverse": bool(reverse),
            "after": cursor,
            "limit": limits.check_limit(limit),
            "values": bool(values),
        }

        def answer(page: Any) -> dict[str, Any]:
            found, after = page
            names: Iterable[Any] = (key.decode() for key, _ in found)
            if values:
                names = (_item(key.decode(), entry, packed) for key, entry in found)
            return {"items": list(names), "cursor": after}

        return Act(Op("scan", limits.check_bucket(bucket), arguments), answer)

    def list_page(
        self,
        prefix: str = "",
        *,
        start: str = "",
        end: str = "",
        reverse: bool = False,
        cursor: bytes = b"",
        limit: int = 100,
        bucket: str = DEFAULT,
    ) -> Act[Op]:
        """As `scan_page`, with what is known of each key in the place of its value."""
        act = self.scan_page(
            prefix, start=start, end=end, reverse=reverse, cursor=cursor, limit=limit,
            bucket=bucket, values=True,
        )  # fmt: skip

        def answer(page: Any) -> dict[str, Any]:
            found, after = page
            return {"items": [_listed(key.decode(), entry) for key, entry in found],
                    "cursor": after}  # fmt: skip

        return Act(act.op, answer)

    def changes_page(
        self, after: int = 0, *, prefix: str = "", limit: int = 500, bucket: str = DEFAULT
    ) -> Act[Op]:
        """Changes after a version, as [version, kind, key], and the version they reach."""
        arguments = {
            "after": limits.check_version(after),
            "limit": limits.check_limit(limit),
            "prefix": limits.check_prefix(prefix),
        }

        def answer(found: Any) -> dict[str, Any]:
            rows, reached = found
            return {
                "items": [[version, kind, key.decode()] for version, kind, key in rows],
                "version": reached,
            }

        return Act(Op("changes", limits.check_bucket(bucket), arguments), answer)

    def info(self, *, bucket: str = DEFAULT) -> Act[Op]:
        """What is known of a bucket; None if nothing was ever written to it."""
        return Act(Op("info", limits.check_bucket(bucket)), same)

    def buckets(self) -> Act[Op]:
        """What is known of every bucket."""
        return Act(Op("buckets", ""), same)

    def object(self, key: str, *, version: int = 0, bucket: str = DEFAULT) -> Act[Op]:
        """What is known of an object, with its content if that is one part; None without one.

        With `version`, only if it still has that.
        """
        arguments = {"key": limits.check_key(key), "version": limits.check_version(version)}

        def answer(found: Any) -> dict[str, Any] | None:
            return None if found is None else {**facts(key, found[0]), "data": found[1]}

        return Act(Op("object", limits.check_bucket(bucket), arguments), answer)

    # ---------------------------------------------------------------- writing

    def put(
        self,
        key: str,
        value: Any,
        *,
        ttl: float | None = None,
        only_if: str = "",
        version: int | None = None,
        bucket: str = DEFAULT,
        packed: bool = False,
        idempotency_key: str = "",
    ) -> Act[Op]:
        """Write a record; its version, None if `only_if` ("absent", "present") kept it from that.

        With `version`, only if the key has it (0: does not exist).
        """
        arguments = {
            "key": limits.check_key(key),
            "body": limits.check_body(packed_body(value, packed)),
        }
        arguments.update(_conditions(ttl, only_if, version))
        op = Op("put", limits.check_bucket(bucket), arguments)
        return Act(_once(op, idempotency_key), _version)

    def put_many(
        self,
        items: dict[str, Any],
        *,
        ttl: float | None = None,
        bucket: str = DEFAULT,
        packed: bool = False,
        idempotency_key: str = "",
    ) -> Act[Op]:
        """Write some records, all or none; their versions, by key."""
        names = list(limits.check_items(items))
        keys = [limits.check_key(key) for key in names]
        bodies = [limits.check_body(body) for body in packed_items(items, packed)]
        arguments = {"items": list(zip(keys, bodies, strict=True)), "ttl": _ttl(ttl)}
        op = Op("put_many", limits.check_bucket(bucket), arguments)
        return Act(
            _once(op, idempotency_key),
            lambda versions: dict(zip(names, versions, strict=True)),
        )

    def delete(
        self,
        keys: list[str],
        *,
        version: int | None = None,
        bucket: str = DEFAULT,
        idempotency_key: str = "",
    ) -> Act[Op]:
        """Remove records and objects; how many there were. With `version`, if they have it."""
        arguments: dict[str, Any] = {"keys": limits.check_keys(keys)}
        if version is not None:
            arguments["version"] = limits.check_version(version)
        op = Op("delete", limits.check_bucket(bucket), arguments)
        return Act(_once(op, idempotency_key), same)

    def batch(
        self,
        steps: list[Any],
        *,
        conditions: dict[str, int] | None = None,
        bucket: str = DEFAULT,
        packed: bool = False,
        idempotency_key: str = "",
    ) -> Act[Op]:
        """Do all steps, each [verb, args, kwargs] of put or delete, or none of them.

        `conditions`: key -> the version that it must have.
        """
        if not isinstance(steps, list | tuple) or not isinstance(conditions, dict | None):
            raise InvalidArgument("batch wants a list of steps and a mapping of conditions")
        if len(steps) > MAX_STEPS:
            raise InvalidArgument(f"{len(steps)} steps in one batch, the limit is {MAX_STEPS}")
        checked = [
            (limits.check_key(key), limits.check_version(version))
            for key, version in (conditions or {}).items()
        ]
        acts = [self._step(number, step, bucket, packed) for number, step in enumerate(steps)]
        arguments = {
            "conditions": checked,
            "steps": [(act.op.verb, act.op.arguments) for act in acts],
        }
        op = Op("batch", limits.check_bucket(bucket), arguments)
        return Act(
            _once(op, idempotency_key),
            lambda results: [act.answer(result) for act, result in zip(acts, results, strict=True)],
        )

    def _step(self, number: int, step: Any, bucket: str, packed: bool) -> Act[Op]:
        wrong = f'steps[{number}] is not ["put" or "delete", arguments, keyword arguments]'
        if not isinstance(step, list | tuple) or len(step) != 3 or step[0] not in ("put", "delete"):
            raise InvalidArgument(wrong)
        verb, args, kwargs = step
        if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
            raise InvalidArgument(wrong)
        if kwargs.keys() & {"only_if", "version", "idempotency_key", "bucket", "packed"}:
            raise InvalidArgument(
                f"steps[{number}]: what must hold before is said once, in conditions"
            )
        extra: dict[str, Any] = {"packed": packed} if verb == "put" else {}
        build = getattr(self, verb)
        try:
            act: Act[Op] = build(*args, **kwargs, **extra, bucket=bucket)
        except TypeError as error:
            why = misfit(build, args, {**kwargs, **extra, "bucket": bucket}) or error
            raise InvalidArgument(f"steps[{number}]: {why}") from None
        return act

    def copy(
        self,
        key: str,
        to: str,
        *,
        to_bucket: str = "",
        ttl: float | None = None,
        only_if: str = "",
        version: int | None = None,
        bucket: str = DEFAULT,
        idempotency_key: str = "",
    ) -> Act[Op]:
        """Give the key `to` what `key` holds; its version, None if `only_if` kept it from that.

        `only_if` and `version` are about `to`. 0: there is no `key`.
        """
        arguments = {
            "key": limits.check_key(key),
            "to_key": limits.check_key(to, "to"),
            "to_bucket": limits.check_bucket(to_bucket or bucket),
            **_conditions(ttl, only_if, version),
        }
        op = Op("copy", limits.check_bucket(bucket), arguments)
        return Act(_once(op, idempotency_key), lambda found: 0 if found is None else found or None)

    def configure(
        self, *, quota: int | str | None = None, ttl: float | None = None, bucket: str = DEFAULT
    ) -> Act[Op]:
        """Set how a bucket is kept: octets it may hold, seconds that entries live; 0 for none."""
        arguments = {
            "quota": None if quota is None else limits.check_quota(quota),
            "ttl": 0 if ttl == 0 else None if ttl is None else limits.duration_ms("ttl", ttl),
        }
        return Act(Op("configure", limits.check_bucket(bucket), arguments), same)

    def drop(self, *, bucket: str) -> Act[Op]:
        """Remove a bucket with all that is in it; how many entries."""
        return Act(Op("drop", limits.check_bucket(bucket)), same)

    def put_object(
        self,
        key: str,
        data: bytes,
        *,
        sha256: bytes,
        content_type: str = "",
        metadata: dict[str, str] | None = None,
        ttl: float | None = None,
        only_if: str = "",
        version: int | None = None,
        bucket: str = DEFAULT,
        idempotency_key: str = "",
    ) -> Act[Op]:
        """Make `key` an object of up to one part; its version, None if `only_if` prevented it."""
        if not isinstance(data, bytes) or len(data) > limits.PART:
            raise InvalidArgument(
                f"data={data!r:.40} is not up to {limits.PART:,} octets; upload what is larger"
            )
        op = self._object(
            key, self._new_blob(), len(data), sha256, content_type, metadata, bucket,
            {"data": data, **_conditions(ttl, only_if, version)},
        )  # fmt: skip
        return Act(_once(op, idempotency_key), lambda version: version or None)

    def upload_finished(
        self,
        key: str,
        upload: bytes,
        size: int,
        digests: bytes,
        *,
        sha256: bytes,
        content_type: str = "",
        metadata: dict[str, str] | None = None,
        ttl: float | None = None,
        only_if: str = "",
        version: int | None = None,
        bucket: str = DEFAULT,
    ) -> Act[Op]:
        """What makes `key` an object of the parts of an upload."""
        limits.check_number("size", size, limits.MAX_PARTS * limits.PART)
        parts = -(-size // limits.PART)
        if size <= limits.PART:
            raise InvalidArgument(f"size={size} is one part: use put_object")
        if not isinstance(digests, bytes) or len(digests) != parts * 8:
            raise InvalidArgument(
                f"{size:,} octets are {parts} parts, with 8 octets of digest each"
            )
        op = self._object(
            key, limits.check_upload(upload), size, sha256, content_type, metadata, bucket,
            {"digests": digests, **_conditions(ttl, only_if, version)},
        )  # fmt: skip
        return Act(op, lambda version: version or None)

    def _object(
        self,
        key: str,
        blob: bytes,
        size: int,
        sha256: bytes,
        content_type: str,
        metadata: dict[str, str] | None,
        bucket: str,
        arguments: dict[str, Any],
    ) -> Op:
        content = Content(
            blob,
            size,
            limits.check_sha256(sha256),
            limits.check_content_type(content_type),
            limits.check_metadata(metadata),
        )
        given = {"key": limits.check_key(key), "content": content, **arguments}
        return Op("put_object", limits.check_bucket(bucket), given)


def _version(version: int) -> int | None:
    return version or None


def _conditions(ttl: Any, only_if: Any, version: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if ttl is None and version is None and only_if == "":
        return found
    if ttl is not None:
        found["ttl"] = _ttl(ttl)
    if only_if:
        found["only_if"] = limits.check_choice("only_if", only_if, ("", "absent", "present"))
    if version is not None:
        found["version"] = limits.check_version(version)
        if only_if:
            raise InvalidArgument("only_if together with version: give one of them")
    return found


def _ttl(ttl: Any) -> int:
    return 0 if ttl is None else limits.duration_ms("ttl", ttl)


def _once(op: Op, key: str) -> Op:
    """The operation, done once under a key of the caller's own if there is one."""
    if key == "":
        return op
    name = limits.check_idempotency_key(key) if key else b""
    if name:
        given = {**op.arguments}
        content = given.pop("content", None)
        if content is not None:  # all but the random name
            given["content"] = [content.size, content.sha256, content.content_type,
                                content.metadata]  # fmt: skip
        asked = [op.verb, op.bucket, sorted(given.items())]
        op.once = (name, digest(payload.encode(asked)))
    return op


def _value(entry: Entry | None) -> Any:
    return None if entry is None else payload.decode(_body(entry) or NIL)


def _packed_value(entry: Entry | None) -> bytes:
    return _body(entry) or NIL


def _body(entry: Entry | None) -> bytes | None:
    if entry is None:
        return None
    if entry.kind == OBJECT:
        raise InvalidArgument("the key holds an object: read it with get_object()")
    return entry.body


def _facts(entry: Entry | None, packed: bool) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {
        "value": _body(entry) if packed else _value(entry),
        "version": entry.version,
        "modified_at": entry.modified_at / 1000,
        "expire_at": entry.expire_at / 1000 or None,
    }


def _item(key: str, entry: Entry, packed: bool) -> list[Any]:
    if entry.kind == OBJECT:
        return [key, facts(key, entry)]
    return [key, entry.body if packed else payload.decode(entry.body)]


def _listed(key: str, entry: Entry) -> dict[str, Any]:
    if entry.kind == OBJECT:
        return facts(key, entry)
    return {
        "key": key,
        "version": entry.version,
        "modified_at": entry.modified_at / 1000,
        "expire_at": entry.expire_at / 1000 or None,
        "size": len(entry.body),
    }
