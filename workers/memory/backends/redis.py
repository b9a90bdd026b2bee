"""A store in Redis or Valkey, one server or a cluster: for more than one machine.

Every process writes; each verb is atomic at the server (`script`). A namespace lies in one slot, or
in `partitions` of them, by hash of the key (or of its part in braces): then it is spread over a
cluster, and what concerns several keys is atomic within each partition alone.

What the engine decides: durability (`appendfsync`, replicas: a fail-over may lose what was
acknowledged), how much memory there is and what is evicted (`maxmemory`), and the clock.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgpack
import redis
import redis.cluster

from mesh.errors import (
    CallError,
    ConfigError,
    InvalidArgument,
    Overloaded,
    StoreBusy,
    StoreFull,
    VersionConflict,
)
from mesh.protocol import payload
from workers.memory.backend import Capabilities, Op, Watch
from workers.memory.backends.listening import Listener
from workers.memory.backends.script import SCRIPT
from workers.memory.backends.translation import (
    checked,
    keys_of,
    request,
    result_of,
    step_results,
)
from workers.memory.change import CLEARED, add, may_expire
from workers.memory.records import Entry

PREFIX = "sage:"
SPACES = b"sage:spaces"
# Of a namespace in a cluster. Fixed once data is there: another number would look elsewhere.
PARTITIONS = 16
SLICE = 1000
MAX_RETRIES = 50
TIMEOUT = 5.0
TIDY_EVERY = 1.0
# What the client library raises; of a cluster it has a tree of its own.
FAILURES = (redis.exceptions.RedisError, redis.exceptions.RedisClusterException)


class RedisBackend:
    """The store at `url`: redis://, rediss:// or unix://; redis+cluster:// for a cluster.

    `pool_size` bounds the connections, in a cluster those to each server.
    """

    name = "redis"

    def __init__(
        self, url: str, partitions: int | None = None, *, pool_size: int | None = None
    ) -> None:
        self._cluster = url.startswith(("redis+cluster://", "rediss+cluster://"))
        plain = url.replace("+cluster", "", 1)
        self._client: Any = _connect(plain, self._cluster, pool_size)
        self._partitions = partitions or (PARTITIONS if self._cluster else 1)
        whole = self._partitions == 1
        self.capabilities = Capabilities(
            repeats=True,
            shared=True,
            many_writers=True,
            ordered_scan=whole,
            atomic_namespace=whole,
            watches_all=False,
        )
        try:
            self._sha = self._load()
            self._offset = self._measure_clock()
        except FAILURES as error:
            raise ConfigError(f"the redis server at {shown(url)} failed: {error}") from None
        self._report: Watch = lambda events: None
        self._listener = Listener(self._client, self._bases_by_space)
        self._seen: set[str] = set()
        self._registered: set[str] = set()
        self._counts: dict[str, list[int]] = {}
        self._counting = threading.Lock()
        self._tidied_at = 0.0

    # ---------------------------------------------------------------- the interface

    def read(self, ops: Sequence[Op]) -> list[Any]:
        """Run operations that only read."""
        return self.execute(ops)

    def execute(self, ops: Sequence[Op]) -> list[Any]:
        """Run any operations. What concerns one key is sent together, a script for each place."""
        results: list[Any] = [None] * len(ops)
        simple: dict[str, list[tuple[int, Op]]] = {}
        for index, op in enumerate(ops):
            self._seen.add(op.ns)
            base = self._place(op)
            if base is None:
                results[index] = self._attempt(op)
            else:
                simple.setdefault(base, []).append((index, op))
        for base, group in simple.items():
            for begin in range(0, len(group), 256):
                part = group[begin : begin + 256]
                found = self._send(base, [op for _, op in part])
                for (index, op), result in zip(part, found, strict=True):
                    results[index] = result_of(op, result)
        for op, result in zip(ops, results, strict=True):
            self._count(op, result)
        return results

    def now(self) -> int:
        """Unix time in ms by the server's clock, as it was measured at the start."""
        return time.time_ns() // 1_000_000 + self._offset

    def identity(self) -> dict[str, Any]:
        """Unknown: one server has several names, and another takes its place when it fails."""
        return {}

    def stand(self, gained: Callable[[int], None], lost: Any) -> None:
        """Every process writes."""
        gained(0)

    def tick(self) -> bool:
        """Hand over counters, and clear what has expired in namespaces used by this process."""
        self._flush_counts()
        now = time.monotonic()
        if now - self._tidied_at < TIDY_EVERY:
            return False
        more = False
        for ns in list(self._seen - {""}):
            for base in self._bases(ns):
                (count,) = self._send(base, [Op("tidy", ns, {"limit": SLICE})])
                more = more or count == SLICE
        self._tidied_at = 0.0 if more else now
        return more

    def watch(self, report: Watch) -> None:
        """Have `report` called with what has happened in the namespaces that are followed."""
        self._report = report
        self._listener.report = report

    def follow(self, namespaces: set[str]) -> None:
        """The namespaces that somebody watches."""
        self._listener.follow(namespaces)

    def erase(self) -> None:
        """Remove every key of every namespace, whoever uses it."""
        for key in self._client.scan_iter(match=f"{PREFIX}*", count=1000):
            self._client.delete(key)
        self._registered.clear()

    def close(self) -> None:
        """Close the connections."""
        self._flush_counts()
        self._listener.close()
        self._client.close()
        if self._cluster:  # the library leaves the connections open that it made to its first nodes
            manager = self._client.nodes_manager
            for node in (*manager.startup_nodes.values(), *manager.nodes_cache.values()):
                if node.redis_connection is not None:
                    node.redis_connection.close()
                    node.redis_connection.connection_pool.disconnect()

    # ---------------------------------------------------------------- places

    def _base(self, ns: str, key: bytes) -> str:
        if self._partitions == 1:
            return f"{PREFIX}{{{ns}#0}}:"
        # As in a cluster itself: what stands in braces decides, so that keys can be kept together.
        inside = key.partition(b"{")[2].partition(b"}")
        part = zlib.crc32(inside[0] if inside[0] and inside[1] else key) % self._partitions
        return f"{PREFIX}{{{ns}#{part}}}:"

    def _bases(self, ns: str) -> list[str]:
        return [f"{PREFIX}{{{ns}#{part}}}:" for part in range(self._partitions)]

    def _bases_by_space(self, ns: str) -> list[str]:
        return self._bases(ns)

    def _place(self, op: Op) -> str | None:
        """Where an operation is done whole by one run of the script; None if it needs more."""
        if op.verb in ("batch", "invalidate", "clear", "stats", "configure", "many", "set_many"):
            return None
        if op.verb == "scan":
            return self._base(op.ns, b"") if self._partitions == 1 else None
        if op.verb == "increment" and not isinstance(op.arguments["by"], int | float):
            return None
        keys = keys_of(op)
        bases = {self._base(op.ns, key) for key in keys}
        if not bases:
            return self._base(op.ns, b"")
        return bases.pop() if len(bases) == 1 else None

    # ---------------------------------------------------------------- running the script

    def _send(self, base: str, ops: Sequence[Op]) -> list[Any]:
        """The results of `ops` at one place; the error of each if the server did not answer."""
        data = msgpack.packb([request(op) for op in ops], use_bin_type=False)
        try:
            for op in ops:
                if op.ns and op.ns not in self._registered and op.verb in _CREATES:
                    self._client.sadd(SPACES, op.ns)
                    self._registered.add(op.ns)
            try:
                reply = self._client.evalsha(self._sha, 1, base, data)
            except redis.exceptions.NoScriptError:
                self._sha = self._load()
                reply = self._client.evalsha(self._sha, 1, base, data)
        except FAILURES as error:
            return [_failure(error)] * len(ops)
        found: list[Any] = msgpack.unpackb(reply, raw=True, strict_map_key=False)
        return found

    def _one(self, base: str, op: Op) -> Any:
        (found,) = self._send(base, [op])
        if isinstance(found, Exception):
            raise found
        return checked(op, found)

    def _attempt(self, op: Op) -> Any:
        try:
            return getattr(self, f"_{op.verb}")(op)
        except CallError as error:
            return error

    # ---------------------------------------------------------------- verbs of several steps

    def _many(self, op: Op) -> list[Any]:
        for number, part in enumerate(op.parts()):
            if op.call is not None:
                session, sequence, digest = op.call
                part.call = (session, sequence, digest + number.to_bytes(4, "big"))
        return self.execute(op.parts())

    def _set_many(self, op: Op) -> list[int]:
        items = op.arguments["items"]
        common = {name: value for name, value in op.arguments.items() if name != "items"}
        found: dict[bytes, int] = {}
        for base, part in self._by_place(op.ns, [key for key, _ in items]).items():
            wanted = set(part)
            steps = [
                ("set", {"key": key, "body": body, **common})
                for key, body in items
                if key in wanted
            ]
            batch = Op("batch", op.ns, {"conditions": (), "steps": steps})
            results = self._one(base, batch)
            for (_, step), version in zip(steps, results, strict=True):
                found[step["key"]] = version
        return [found[key] for key, _ in items]

    def _delete(self, op: Op) -> int:
        return sum(self._over_places(op))

    _exists = _delete

    def _get_many(self, op: Op) -> list[Entry | None]:
        found: dict[bytes, Entry | None] = {}
        for base, keys in self._by_place(op.ns, op.arguments["keys"]).items():
            part = Op("get_many", op.ns, {**op.arguments, "keys": keys})
            found.update(zip(keys, result_of(part, self._one(base, part)), strict=True))
        return [found[key] for key in op.arguments["keys"]]

    def _over_places(self, op: Op) -> Iterable[Any]:
        for base, keys in self._by_place(op.ns, op.arguments["keys"]).items():
            yield self._one(base, Op(op.verb, op.ns, {**op.arguments, "keys": keys}))

    def _by_place(self, ns: str, keys: Sequence[bytes]) -> dict[str, list[bytes]]:
        places: dict[str, list[bytes]] = {}
        for key in keys:
            places.setdefault(self._base(ns, key), []).append(key)
        return places

    def _scan(self, op: Op) -> tuple[list[Any], bytes]:
        """The partitions one after the other; a cursor is the number of one and a key."""
        after = op.arguments["after"]
        part = int.from_bytes(after[:2], "big") if after else 0
        within = after[2:]
        page: list[Any] = []
        limit = op.arguments["limit"]
        bases = self._bases(op.ns)
        while part < len(bases):
            arguments = {**op.arguments, "after": within, "limit": limit - len(page)}
            found, within = result_of(op, self._one(bases[part], Op("scan", op.ns, arguments)))
            page += found
            if not within:
                part += 1
            if len(page) >= limit or (within and len(page) > 0):
                break
        return page, (part.to_bytes(2, "big") + within if part < len(bases) else b"")

    def _invalidate(self, op: Op) -> int:
        arguments = {"prefix": b"", "tag": "", **op.arguments}
        removed = sum(self._sweep(op.ns, base, arguments) for base in self._bases(op.ns))
        what = op.arguments.get("tag", "").encode() or arguments["prefix"]
        self._report([(op.ns, what, CLEARED, 0)] if removed > SLICE else [])
        return removed

    def _clear(self, op: Op) -> int:
        return self._invalidate(Op("invalidate", op.ns, {}))

    def _sweep(self, ns: str, base: str, arguments: dict[str, Any]) -> int:
        removed = version = 0
        after = b""
        while True:
            step = {**arguments, "limit": SLICE, "version": version, "after": after}
            found, done, version, after = self._one(base, Op("invalidate", ns, step))
            removed += int(found)
            if done:
                return int(removed)

    def _configure(self, op: Op) -> None:
        if op.arguments["relaxed"]:
            raise InvalidArgument(
                "durability='relaxed': with the redis backend the server's appendfsync decides"
            )
        quota = op.arguments["quota"]
        share = None if quota is None else -(-quota // self._partitions)
        for base in self._bases(op.ns):
            self._one(base, Op("configure", op.ns, {"quota": share}))

    def _batch(self, op: Op) -> list[Any]:
        steps = op.arguments["steps"]
        keys = [key for key, _ in op.arguments["conditions"]]
        for verb, arguments in steps:
            keys += keys_of(Op(verb, op.ns, arguments))
        bases = {self._base(op.ns, key) for key in keys}
        if len(bases) > 1:
            raise InvalidArgument(
                f"the keys of the batch lie in {len(bases)} partitions of namespace {op.ns!r}; on "
                "a cluster only keys of one partition can be changed together: give them a common "
                "part in braces, as in {cart:1}:items and {cart:1}:total"
            )
        base = bases.pop() if bases else self._base(op.ns, b"")
        if not any(verb == "increment" for verb, _ in steps):
            found: list[Any] = self._one(base, op)
            return step_results(op, found)
        for _ in range(MAX_RETRIES):
            found = self._batch_once(base, op)
            if found:
                return found
        raise Overloaded("the numbers of this batch are changed all the time", retry_after=0.05)

    def _batch_once(self, base: str, op: Op) -> list[Any]:
        """A batch with increments: read, add here, write on the condition that nothing changed.

        The script cannot take back what it has done before a sum turned out to be impossible.
        Empty if something has changed meanwhile.
        """
        conditions = dict(op.arguments["conditions"])
        wanted = dict(conditions)
        entries: dict[bytes, Entry | None] = {}
        steps: list[Any] = []
        times: tuple[int, int]

        def look(key: bytes) -> Entry | None:
            """The entry as the steps before leave it, stale ones included."""
            if key not in entries:
                get = Op("get", op.ns, {"key": key, "stale": True})
                found = entries[key] = result_of(get, self._one(base, get))
                conditions.setdefault(key, found.version if found else 0)
            return entries[key]

        for verb, given in op.arguments["steps"]:
            if verb != "increment":
                steps.append((verb, given))
            if verb == "set":
                only_if, keep_ttl = given.get("only_if"), given.get("keep_ttl")
                old = look(given["key"]) if only_if or keep_ttl else None
                if only_if and (old is None) != (only_if == "absent"):
                    continue
                times = (given.get("expire_at", 0), given.get("fresh_until", 0))
                if keep_ttl and old is not None:
                    times = (old.expire_at, old.fresh_until)
                tags = tuple(given.get("tags", ()))
                entries[given["key"]] = Entry(0, *times, tags, given["body"])
            elif verb == "delete":
                entries.update(dict.fromkeys(given["keys"]))
            elif verb == "expire":
                old, expire_at = look(given["key"]), given["expire_at"]
                if old is not None and may_expire(old, expire_at, given.get("condition", "")):
                    entries[given["key"]] = Entry(0, expire_at, 0, old.tags, old.body)
            elif verb == "increment":
                key = given["key"]
                old = look(key)
                if old is not None and 0 < old.ends_at(False) <= self.now():
                    old = None
                total = add(payload.decode(old.body) if old else 0, given["by"], key)
                tags = old.tags if old else ()
                times = (given.get("expire_at", 0), 0)
                keep_ttl = old is not None and not given.get("renew")
                again = {"key": key, "body": payload.encode(total), "tags": tags}
                again |= {"expire_at": times[0], "keep_ttl": keep_ttl}
                steps.append(
                    ("set", again, [b"i" if isinstance(total, int) else b"d", repr(total)])
                )
                if old is not None and keep_ttl:
                    times = (old.expire_at, old.fresh_until)
                entries[key] = Entry(0, *times, tags, again["body"])
        arguments = {"conditions": list(conditions.items()), "steps": steps}
        try:
            return step_results(op, self._one(base, Op("batch", op.ns, arguments, op.call)))
        except VersionConflict as error:
            if error.data["key"].encode() in wanted:
                raise
            return []

    def _stats(self, op: Op) -> dict[str, Any]:
        self._flush_counts()
        names = [op.ns] if op.ns else sorted(name.decode() for name in self._smembers())
        figures = ("entries", "octets", "quota", "written", "deleted", "expired", "hits", "misses")
        spaces: dict[str, dict[str, Any]] = {}
        for ns in names:
            rows = [self._one(base, Op("stats", ns)) for base in self._bases(ns)]
            sums = (sum(values) for values in zip(*rows, strict=True))
            spaces[ns] = dict(zip(figures, sums, strict=True))
            spaces[ns] |= {"evicted": 0, "durability": "server"}
        totals = {name: sum(space[name] for space in spaces.values()) for name in figures}
        return {**totals, "evicted": 0, "sweeping": 0, "namespaces": spaces}

    def _smembers(self) -> set[bytes]:
        try:
            found: set[bytes] = self._client.smembers(SPACES)
        except FAILURES as error:
            raise _failure(error) from None
        return found

    # ---------------------------------------------------------------- odds and ends

    def _count(self, op: Op, result: Any) -> None:
        if op.verb not in ("get", "touch", "get_many") or isinstance(result, Exception):
            return
        found = result if op.verb == "get_many" else [result]
        with self._counting:
            counts = self._counts.setdefault(op.ns, [0, 0])
            for entry in found:
                counts[entry is None] += 1

    def _flush_counts(self) -> None:
        with self._counting:
            counts, self._counts = self._counts, {}
        for ns, (hits, misses) in counts.items():
            self._send(self._base(ns, b""), [Op("count", ns, {"hits": hits, "misses": misses})])

    def _load(self) -> str:
        try:
            sha: str = self._client.script_load(SCRIPT)
        except redis.exceptions.ResponseError as error:
            raise ConfigError(f"the server does not take the script: {error}") from None
        return sha

    def _measure_clock(self) -> int:
        """The server's clock minus ours, in ms. Expiry is the server's business."""
        before = time.time_ns()
        base = self._base("", b"")
        found = self._client.eval("return redis.call('TIME')", 1, base)
        middle = (before + time.time_ns()) // 2
        server = int(found[0]) * 1000 + int(found[1]) // 1000
        return int(server - middle // 1_000_000)


_CREATES = frozenset(("set", "batch", "increment", "configure", "lock", "reserve"))


def _connect(url: str, cluster: bool, pool_size: int | None) -> Any:
    """A client. Raises ConfigError."""
    options: dict[str, Any] = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
    if pool_size is not None:
        options["max_connections"] = pool_size
    try:
        if cluster:
            return redis.cluster.RedisCluster.from_url(url, **options)
        if pool_size is None:
            client = redis.Redis.from_url(url, **options)
        else:  # who finds all of them in use waits for one
            pool = redis.BlockingConnectionPool.from_url(url, timeout=TIMEOUT, **options)
            client = redis.Redis.from_pool(pool)
        client.ping()
    except (*FAILURES, ValueError) as error:
        raise ConfigError(f"no redis server at {shown(url)}: {error}") from None
    return client


def shown(url: str) -> str:
    """A URL for messages, without the name and password in it."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _failure(error: Exception) -> CallError:
    """What an error of the client library means."""
    if isinstance(error, redis.exceptions.OutOfMemoryError) or "OOM" in str(error):
        return StoreFull("the redis server has reached maxmemory; raise it, or let it evict")
    reachable = isinstance(error, redis.exceptions.ResponseError)
    return StoreBusy(
        f"the redis server failed: {error}", maybe_executed=not reachable, retry_after=0.2
    )
