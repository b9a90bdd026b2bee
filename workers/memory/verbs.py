"""From the arguments of a call to an operation of the store, and from its result to the answer.

Each method checks what it was given and returns an `Act`; nothing is run here. The methods are the
service's own: `handler` offers them under their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mesh.errors import InvalidArgument
from mesh.protocol import memory as limits
from mesh.protocol import payload
from mesh.protocol.memory import DEFAULT_NAMESPACE as DEFAULT
from workers.acts import Act, misfit, packed_body, packed_items, same
from workers.memory.backend import Op
from workers.memory.records import Entry, Lock

CONDITIONS = ("", "none", "some", "later", "sooner")
MAX_STEPS = 1000
_ONLY_IF = ("", "absent", "present")
NIL = b"\xc0"


class Verbs:
    """The methods. `now()` is the store's clock: Unix time in ms."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self.readers: Mapping[str, Callable[..., Act[Op]]] = {
            verb: getattr(self, verb)
            for verb in ("get", "entry", "get_many", "exists", "ttl", "lock_info", "scan_page")
        }

    # ---------------------------------------------------------------- reading

    def get(
        self, key: str, *, ns: str = DEFAULT, stale: bool = False, packed: bool = False
    ) -> Act[Op]:
        """The value of a key; None if it does not exist."""
        op = Op("get", limits.check_namespace(ns), _get(key, stale))
        return Act(op, _body) if packed else Act(op, _value, _packed_value)

    def entry(
        self, key: str, *, ns: str = DEFAULT, stale: bool = False, packed: bool = False
    ) -> Act[Op]:
        """What is known of a key; None if it does not exist."""
        op = Op("get", limits.check_namespace(ns), _get(key, stale))
        return Act(op, lambda found: self._facts(found, packed))

    def get_many(
        self, keys: list[str], *, ns: str = DEFAULT, stale: bool = False, packed: bool = False
    ) -> Act[Op]:
        """The values of those keys that exist, by key."""
        checked = limits.check_keys(keys)
        op = Op("get_many", limits.check_namespace(ns), {"keys": checked, "stale": bool(stale)})
        read = _body if packed else _value

        def answer(found: Any) -> dict[str, Any]:
            return {key: read(entry) for key, entry in zip(keys, found, strict=True) if entry}

        return Act(op, answer, None if packed else lambda found: _packed_map(checked, found))

    def exists(self, keys: list[str], *, ns: str = DEFAULT) -> Act[Op]:
        """How many of the keys exist."""
        return Act(
            Op("exists", limits.check_namespace(ns), {"keys": limits.check_keys(keys)}), same
        )

    def ttl(self, key: str, *, ns: str = DEFAULT) -> Act[Op]:
        """Seconds until a key is gone, -1 for never, None if it does not exist."""
        op = Op("ttl", limits.check_namespace(ns), {"key": limits.check_key(key)})
        return Act(op, lambda ms: ms if ms is None or ms < 0 else ms / 1000)

    def scan_page(
        self,
        prefix: str = "",
        *,
        cursor: bytes = b"",
        limit: int = 100,
        values: bool = False,
        ns: str = DEFAULT,
        packed: bool = False,
    ) -> Act[Op]:
        """A page of keys, or of pairs with their values, and the cursor of the next one."""
        if not isinstance(cursor, bytes) or len(cursor) > limits.MAX_KEY + 4:
            raise InvalidArgument(f"cursor={cursor!r:.60} was not given out by a scan")
        arguments = {
            "prefix": limits.check_prefix(prefix),
            "after": cursor,
            "limit": limits.check_limit(limit),
            "values": bool(values),
        }
        read = _body if packed else _value

        def answer(page: Any) -> dict[str, Any]:
            found, after = page
            names: Iterable[Any] = (key.decode() for key, _ in found)
            if values:
                names = ([key.decode(), read(entry)] for key, entry in found)
            return {"items": list(names), "cursor": after}

        return Act(Op("scan", limits.check_namespace(ns), arguments), answer)

    def lock_info(self, name: str, *, ns: str = DEFAULT) -> Act[Op]:
        """Who holds a lock: token, owner, ttl in seconds; None if nobody does."""
        op = Op("lock_info", limits.check_namespace(ns), {"name": limits.check_key(name, "name")})
        return Act(op, self._lock_facts)

    def stats(self, *, ns: str = "") -> Act[Op]:
        """Entries, octets, hits, misses, expired, evicted: of all, and of each namespace."""
        return Act(Op("stats", limits.check_namespace(ns) if ns else ""), same)

    # ---------------------------------------------------------------- writing

    def set(
        self,
        key: str,
        value: Any,
        *,
        ns: str = DEFAULT,
        ttl: float | None = None,
        expire_at: float | None = None,
        keep_ttl: bool = False,
        stale: float | None = None,
        tags: list[str] | tuple[str, ...] = (),
        only_if: str = "",
        packed: bool = False,
    ) -> Act[Op]:
        """Write a key; its version, None if `only_if` ("absent", "present") kept it from that."""
        # What is left out is left out further on, too: most calls give a key and a value alone.
        arguments: dict[str, Any] = {
            "key": limits.check_key(key),
            "body": _packed(value, packed),
        }
        if keep_ttl:
            arguments["keep_ttl"] = True
        if only_if != "":
            arguments["only_if"] = limits.check_choice("only_if", only_if, _ONLY_IF)
        if ttl is not None or expire_at is not None or stale is not None:
            arguments.update(self._lifetime(ttl, expire_at, stale))
        if tags != ():
            arguments["tags"] = limits.check_tags(tags)
        if keep_ttl and (ttl is not None or expire_at is not None):
            raise InvalidArgument("keep_ttl together with ttl or expire_at: give one of them")
        return Act(
            Op("set", limits.check_namespace(ns), arguments), lambda version: version or None
        )

    def set_many(
        self,
        items: dict[str, Any],
        *,
        ns: str = DEFAULT,
        ttl: float | None = None,
        expire_at: float | None = None,
        stale: float | None = None,
        tags: list[str] | tuple[str, ...] = (),
        packed: bool = False,
    ) -> Act[Op]:
        """Write some keys together; their versions, by key."""
        names = list(limits.check_items(items))
        keys = [limits.check_key(key) for key in names]
        bodies = [limits.check_body(body) for body in packed_items(items, packed)]
        pairs = list(zip(keys, bodies, strict=True))
        lifetime = self._lifetime(ttl, expire_at, stale)
        arguments = {"items": pairs, **lifetime, "tags": limits.check_tags(tags)}
        return Act(
            Op("set_many", limits.check_namespace(ns), arguments),
            lambda versions: dict(zip(names, versions, strict=True)),
        )

    def compare_and_set(
        self,
        key: str,
        value: Any,
        version: int,
        *,
        ns: str = DEFAULT,
        ttl: float | None = None,
        expire_at: float | None = None,
        keep_ttl: bool = False,
        tags: list[str] | tuple[str, ...] = (),
        packed: bool = False,
    ) -> Act[Op]:
        """Write a key that still has `version` (0: that does not exist); its new version."""
        act = self.set(
            key,
            value,
            ns=ns,
            ttl=ttl,
            expire_at=expire_at,
            keep_ttl=keep_ttl,
            tags=tags,
            packed=packed,
        )
        act.op.arguments["version"] = limits.check_version(version)
        return act

    def delete(self, keys: list[str], *, version: int | None = None, ns: str = DEFAULT) -> Act[Op]:
        """Remove some keys; how many there were. With `version`, only if they have it."""
        arguments: dict[str, Any] = {"keys": limits.check_keys(keys)}
        if version is not None:
            arguments["version"] = limits.check_version(version)
        return Act(Op("delete", limits.check_namespace(ns), arguments), same)

    def expire(
        self,
        key: str,
        ttl: float | None = None,
        *,
        at: float | None = None,
        only_if: str = "",
        ns: str = DEFAULT,
    ) -> Act[Op]:
        """Let a key expire in `ttl` seconds or at the Unix time `at`; whether it will."""
        if (ttl is None) == (at is None):
            raise InvalidArgument("expire wants ttl or at, one of them")
        arguments = {
            "key": limits.check_key(key),
            "expire_at": self._moment(ttl, at),
            "condition": limits.check_choice("only_if", only_if, CONDITIONS),
        }
        return Act(Op("expire", limits.check_namespace(ns), arguments), same)

    def persist(self, key: str, *, ns: str = DEFAULT) -> Act[Op]:
        """Let a key never expire; False if it did not expire before, or does not exist."""
        arguments = {"key": limits.check_key(key), "expire_at": 0, "condition": "some"}
        return Act(Op("expire", limits.check_namespace(ns), arguments), same)

    def get_and_touch(
        self, key: str, ttl: float | None = None, *, ns: str = DEFAULT, packed: bool = False
    ) -> Act[Op]:
        """The value of a key, which from now on lives `ttl` seconds (None: for ever)."""
        arguments = {"key": limits.check_key(key), "expire_at": self._moment(ttl, None)}
        op = Op("touch", limits.check_namespace(ns), arguments)
        return Act(op, _body if packed else _value)

    def get_and_delete(self, key: str, *, ns: str = DEFAULT, packed: bool = False) -> Act[Op]:
        """The value of a key, which is removed."""
        op = Op("pop", limits.check_namespace(ns), {"key": limits.check_key(key)})
        return Act(op, _body if packed else _value)

    def increment(
        self,
        key: str,
        by: int | float = 1,
        *,
        ttl: float | None = None,
        renew: bool = False,
        ns: str = DEFAULT,
    ) -> Act[Op]:
        """Add to a number, 0 if it does not exist; the sum."""
        arguments = {
            "key": limits.check_key(key),
            "by": _number(by),
            "expire_at": self._moment(ttl, None),
            "renew": bool(renew),
        }
        return Act(Op("increment", limits.check_namespace(ns), arguments), same)

    def invalidate(
        self, *, prefix: str | None = None, tag: str | None = None, ns: str = DEFAULT
    ) -> Act[Op]:
        """Remove what begins with `prefix` or has `tag`, at once; how many, at least."""
        if (prefix is None) == (tag is None):
            raise InvalidArgument("invalidate wants prefix or tag, one of them; or use clear")
        arguments: dict[str, Any] = (
            {"tag": limits.check_tag(tag)}
            if tag is not None
            else {"prefix": limits.check_key(prefix, "prefix")}
        )
        return Act(Op("invalidate", limits.check_namespace(ns), arguments), same)

    def clear(self, *, ns: str) -> Act[Op]:
        """Empty a namespace; how many entries it had."""
        return Act(Op("clear", limits.check_namespace(ns)), same)

    def configure(
        self, *, ns: str, durability: str | None = None, quota: int | str | None = None
    ) -> Act[Op]:
        """Set how a namespace is kept: `durability` "always" or "relaxed", `quota` in octets."""
        relaxed = None
        if durability is not None:
            limits.check_choice("durability", durability, ("always", "relaxed"))
            relaxed = durability == "relaxed"
        octets = None if quota is None else limits.check_quota(quota)
        arguments = {"relaxed": relaxed, "quota": octets}
        return Act(Op("configure", limits.check_namespace(ns), arguments), same)

    def batch(
        self,
        steps: list[Any],
        *,
        conditions: dict[str, int] | None = None,
        ns: str = DEFAULT,
        packed: bool = False,
    ) -> Act[Op]:
        """Do all steps or none; their answers. `conditions`: the versions that keys must have.

        A step is `[verb, arguments, keyword arguments]` of set, delete, expire, increment, get,
        exists; the namespace is the batch's.
        """
        if not isinstance(steps, list | tuple) or len(steps) > MAX_STEPS:
            raise InvalidArgument(f"steps is not a list of up to {MAX_STEPS} steps")
        acts = [self._step(number, step, ns, packed) for number, step in enumerate(steps)]
        if not isinstance(conditions, dict | None):
            raise InvalidArgument("conditions is not a mapping of keys to versions")
        checked = [
            (limits.check_key(key), limits.check_version(version))
            for key, version in (conditions or {}).items()
        ]
        arguments = {
            "conditions": checked,
            "steps": [(act.op.verb, act.op.arguments) for act in acts],
        }
        return Act(
            Op("batch", limits.check_namespace(ns), arguments),
            lambda results: [act.answer(result) for act, result in zip(acts, results, strict=True)],
        )

    def _step(self, number: int, step: Any, ns: str, packed: bool) -> Act[Op]:
        where = f"steps[{number}]"
        if not isinstance(step, list | tuple) or not 1 <= len(step) <= 3:
            raise InvalidArgument(f"{where} is not [verb, arguments, keyword arguments]")
        verb, args, kwargs = (*step, [], {})[:3] if len(step) == 1 else (*step, {})[:3]
        if verb not in ("set", "delete", "expire", "increment", "get", "exists"):
            raise InvalidArgument(f"{where}: {verb!r:.60} cannot be part of a batch")
        if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
            raise InvalidArgument(f"{where} is not [verb, arguments, keyword arguments]")
        if packed and verb in ("set", "get"):
            kwargs = {**kwargs, "packed": True}
        build, kwargs = getattr(self, verb), {**kwargs, "ns": ns}
        try:
            act: Act[Op] = build(*args, **kwargs)
        except TypeError as error:
            why = misfit(build, args, kwargs) or error
            raise InvalidArgument(f"{where}: {why}") from None
        return act

    # ---------------------------------------------------------------- locks, reservations

    def lock(self, name: str, ttl: float, *, owner: str = "", ns: str = DEFAULT) -> Act[Op]:
        """Take a lock for `ttl` seconds: its fencing token; None if somebody has it."""
        arguments = {
            "name": limits.check_key(name, "name"),
            "owner": limits.check_owner(owner),
            "expire_at": self._moment(ttl, None, required=True),
        }
        return Act(Op("lock", limits.check_namespace(ns), arguments), lambda token: token or None)

    def extend(self, name: str, token: int, ttl: float, *, ns: str = DEFAULT) -> Act[Op]:
        """Hold a lock for `ttl` seconds from now; False if `token` does not hold it any more."""
        arguments = {
            "name": limits.check_key(name, "name"),
            "token": limits.check_version(token),
            "expire_at": self._moment(ttl, None, required=True),
        }
        return Act(Op("extend", limits.check_namespace(ns), arguments), same)

    def unlock(self, name: str, token: int, *, ns: str = DEFAULT) -> Act[Op]:
        """Give a lock back; False if `token` does not hold it any more."""
        arguments = {"name": limits.check_key(name, "name"), "token": limits.check_version(token)}
        return Act(Op("unlock", limits.check_namespace(ns), arguments), same)

    def reserve(
        self, key: str, ttl: float = 10.0, *, ns: str = DEFAULT, packed: bool = False
    ) -> Act[Op]:
        """What to do to have a key's value, when many want it: `{state, value?, token?}`."""
        arguments = {
            "key": limits.check_key(key),
            "expire_at": self._moment(ttl, None, required=True),
        }
        read = _body if packed else _value

        def answer(result: Any) -> dict[str, Any]:
            state, entry, token = result
            found: dict[str, Any] = {"state": state}
            if entry is not None:
                found["value"] = read(entry)
            if token:
                found["token"] = token
            return found

        return Act(Op("reserve", limits.check_namespace(ns), arguments), answer)

    def fill(
        self,
        key: str,
        value: Any,
        token: int,
        *,
        ttl: float | None = None,
        stale: float | None = None,
        tags: list[str] | tuple[str, ...] = (),
        ns: str = DEFAULT,
        packed: bool = False,
    ) -> Act[Op]:
        """Write what was computed under a reservation; None if the reservation has ended."""
        act = self.set(key, value, ns=ns, ttl=ttl, stale=stale, tags=tags, packed=packed)
        act.op.arguments["token"] = limits.check_version(token)
        return act

    def release(self, key: str, token: int, *, ns: str = DEFAULT) -> Act[Op]:
        """Give a reservation back without a value; False if it has ended."""
        arguments = {"key": limits.check_key(key), "token": limits.check_version(token)}
        return Act(Op("release", limits.check_namespace(ns), arguments), same)

    # ---------------------------------------------------------------- parts

    def _moment(self, ttl: Any, at: Any, required: bool = False) -> int:
        if at is not None:
            return limits.moment_ms("at", at, self._now())
        if ttl is None and not required:
            return 0
        return self._now() + limits.duration_ms("ttl", ttl)

    def _lifetime(self, ttl: Any, expire_at: Any, stale: Any) -> dict[str, int]:
        limits.check_lifetime(ttl, expire_at, stale)
        ends_at = self._moment(ttl, expire_at)
        if stale is None:
            return {"expire_at": ends_at, "fresh_until": 0}
        return {
            "expire_at": ends_at + limits.duration_ms("stale", stale),
            "fresh_until": ends_at,
        }

    def _facts(self, entry: Entry | None, packed: bool) -> dict[str, Any] | None:
        if entry is None:
            return None
        now = self._now()
        return {
            "value": entry.body if packed else _value(entry),
            "version": entry.version,
            "ttl": (entry.expire_at - now) / 1000 if entry.expire_at else -1,
            "fresh": not entry.fresh_until or entry.fresh_until > now,
            "tags": list(entry.tags),
        }

    def _lock_facts(self, lock: Lock | None) -> dict[str, Any] | None:
        if lock is None:
            return None
        left = (lock.expire_at - self._now()) / 1000
        return {"token": lock.token, "owner": lock.owner, "ttl": max(0.0, left)}


def _get(key: Any, stale: Any) -> dict[str, Any]:
    return {"key": limits.check_key(key), "stale": bool(stale)}


def _value(entry: Entry | None) -> Any:
    return None if entry is None else payload.decode(entry.body)


def _packed_value(entry: Entry | None) -> bytes:
    return NIL if entry is None else entry.body


def _packed_map(keys: list[bytes], found: list[Entry | None]) -> bytes:
    """The MessagePack of the values that were found, by key."""
    there = {key: entry.body for key, entry in zip(keys, found, strict=True) if entry}
    parts = [payload.map_header(len(there))]
    for key, body in there.items():
        parts += (payload.text_header(len(key)), key, body)
    return b"".join(parts)


def _body(entry: Entry | None) -> bytes | None:
    return None if entry is None else entry.body


def _packed(value: Any, packed: bool, root: str = "value") -> bytes:
    """The value as it is kept, if it is not too large."""
    return limits.check_body(packed_body(value, packed, root))


def _number(by: Any) -> int | float:
    if isinstance(by, bool) or not isinstance(by, int | float) or by != by:
        raise InvalidArgument(f"by={by!r:.60} is not a number")
    low, high = limits.INT_RANGE
    if isinstance(by, int) and not low <= by <= high:
        raise InvalidArgument(f"by={by!r:.60} exceeds 64 bits")
    return by
