"""Clients of a store of keys: `python -m bench.kv ROLE KIND ADDRESS [options]`.

The same loops over the memory service (`mesh`), the storage service, redis-py, PostgreSQL with
psycopg, and SQLite in this very process. Prints one JSON line of figures. `echo` calls the empty
method instead: what a call costs before there is a store.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from bench import loops, workload
from bench.harness import Figures
from mesh import connect, connect_async

BATCH = 100
LOAD = 1000


class Store(Protocol):
    """What the loops do with a store."""

    async def get(self, key: str) -> object: ...
    async def set(self, key: str, value: bytes) -> object: ...
    async def get_many(self, keys: list[str]) -> object: ...
    async def set_many(self, items: dict[str, bytes]) -> object: ...
    async def get_calls(self, keys: list[str]) -> object: ...
    async def set_calls(self, items: dict[str, bytes]) -> object: ...
    async def close(self) -> None: ...


class MeshStore:
    """The memory service. `get_calls`: as many calls of `get`, in one message."""

    def __init__(self, mesh: Any) -> None:
        self._mesh = mesh
        self._memory = mesh.memory

    async def get(self, key: str) -> object:
        return await self._memory.get(key)

    async def set(self, key: str, value: bytes) -> object:
        return await self._memory.set(key, value)

    async def get_many(self, keys: list[str]) -> object:
        return await self._memory.get_many(keys)

    async def set_many(self, items: dict[str, bytes]) -> object:
        return await self._memory.set_many(items)

    async def get_calls(self, keys: list[str]) -> object:
        return await self._mesh.batch("memory.get", [(key,) for key in keys], raise_errors=True)

    async def set_calls(self, items: dict[str, bytes]) -> object:
        return await self._mesh.batch("memory.set", list(items.items()), raise_errors=True)

    async def close(self) -> None:
        await self._mesh.close()


class StorageStore(MeshStore):
    """The storage service."""

    def __init__(self, mesh: Any) -> None:
        self._mesh = mesh
        self._storage = mesh.storage

    async def get(self, key: str) -> object:
        return await self._storage.get(key)

    async def set(self, key: str, value: bytes) -> object:
        return await self._storage.put(key, value)

    async def get_many(self, keys: list[str]) -> object:
        return await self._storage.get_many(keys)

    async def set_many(self, items: dict[str, bytes]) -> object:
        return await self._storage.put_many(items)

    async def get_calls(self, keys: list[str]) -> object:
        return await self._mesh.batch("storage.get", [(key,) for key in keys], raise_errors=True)

    async def set_calls(self, items: dict[str, bytes]) -> object:
        return await self._mesh.batch("storage.put", list(items.items()), raise_errors=True)


class EchoStore(MeshStore):
    """No store: a handler that gives back what a `get` would, or takes what a `set` would."""

    async def get(self, key: str) -> object:
        return await self._mesh.call("bench.get", key)

    async def set(self, key: str, value: bytes) -> object:
        return await self._mesh.call("bench.set", key, value)


class RedisStore:
    """redis-py with a pool of connections. `get_calls`: a pipeline, not a transaction.

    Up to 100 callers, the default pool; for more, which that refuses, the pool in which they wait.
    """

    def __init__(self, url: str, callers: int) -> None:
        import redis.asyncio as redis

        if callers <= 100:
            self._client = redis.Redis.from_url(url)
        else:
            pool: Any = redis.BlockingConnectionPool
            self._client = redis.Redis(connection_pool=pool.from_url(url, timeout=None))

    async def get(self, key: str) -> object:
        return await self._client.get(key)

    async def set(self, key: str, value: bytes) -> object:
        return await self._client.set(key, value)

    async def get_many(self, keys: list[str]) -> object:
        return await self._client.mget(keys)

    async def set_many(self, items: dict[str, bytes]) -> object:
        return await self._client.mset(items)

    async def get_calls(self, keys: list[str]) -> object:
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.get(key)
        return await pipeline.execute()

    async def set_calls(self, items: dict[str, bytes]) -> object:
        pipeline = self._client.pipeline(transaction=False)
        for key, value in items.items():
            pipeline.set(key, value)
        return await pipeline.execute()

    async def close(self) -> None:
        await self._client.aclose()


class SqlStore:
    """A table of keys and values; each change is committed before it is acknowledged."""

    PUT: str
    GET: str

    async def get_many(self, keys: list[str]) -> object:
        return [await self.get(key) for key in keys]

    async def get_calls(self, keys: list[str]) -> object:
        return await self.get_many(keys)

    async def set_calls(self, items: dict[str, bytes]) -> object:
        for key, value in items.items():
            await self.set(key, value)
        return None

    async def get(self, key: str) -> object:
        raise NotImplementedError

    async def set(self, key: str, value: bytes) -> object:
        raise NotImplementedError


class PostgresStore(SqlStore):
    """PostgreSQL with psycopg, over up to 64 connections that prepare their statements."""

    PUT = "insert into kv values (%s, %s) on conflict (k) do update set v = excluded.v"
    GET = "select v from kv where k = %s"

    @classmethod
    async def open(cls, url: str, callers: int) -> PostgresStore:
        import psycopg

        store = cls()
        store._free = asyncio.Queue()
        for number in range(min(callers, 64)):
            connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
            connection.prepare_threshold = 0
            if not number:
                await connection.execute(
                    "create table if not exists kv (k text primary key, v bytea not null)"
                )
            store._free.put_nowait(connection)
        return store

    _free: asyncio.Queue[Any]

    async def _do(self, work: Callable[[Any], Awaitable[object]]) -> object:
        connection = await self._free.get()
        try:
            return await work(connection)
        finally:
            self._free.put_nowait(connection)

    async def get(self, key: str) -> object:
        async def work(connection: Any) -> object:
            row: Any = await (await connection.execute(self.GET, (key,))).fetchone()
            return row and row[0]

        return await self._do(work)

    async def set(self, key: str, value: bytes) -> object:
        return await self._do(lambda connection: connection.execute(self.PUT, (key, value)))

    async def set_many(self, items: dict[str, bytes]) -> object:
        async def work(connection: Any) -> object:
            async with connection.transaction(), connection.cursor() as cursor:
                return await cursor.executemany(self.PUT, list(items.items()))

        return await self._do(work)

    async def close(self) -> None:
        while not self._free.empty():
            await self._free.get_nowait().close()


class SqliteStore(SqlStore):
    """SQLite in this process, with a write-ahead log and full synchronisation."""

    PUT = "insert into kv values (?, ?) on conflict (k) do update set v = excluded.v"
    GET = "select v from kv where k = ?"

    def __init__(self, path: str) -> None:
        import sqlite3

        self._connection = sqlite3.connect(path, isolation_level=None)
        for statement in (
            "pragma journal_mode=wal", "pragma synchronous=full",
            "create table if not exists kv (k text primary key, v blob not null) without rowid",
        ):  # fmt: skip
            self._connection.execute(statement)

    async def get(self, key: str) -> object:
        row = self._connection.execute(self.GET, (key,)).fetchone()
        return row and row[0]

    async def set(self, key: str, value: bytes) -> object:
        return self._connection.execute(self.PUT, (key, value))

    async def set_many(self, items: dict[str, bytes]) -> object:
        self._connection.execute("begin")
        self._connection.executemany(self.PUT, items.items())
        return self._connection.execute("commit")

    async def close(self) -> None:
        self._connection.close()


async def open_store(kind: str, address: str, callers: int) -> Store:
    """The store at `address`, filled with all keys (but for `echo`), for that many callers."""
    if kind == "redis":
        store: Store = RedisStore(address, callers)
    elif kind == "postgres":
        store = await PostgresStore.open(address, callers)
    elif kind == "sqlite":
        store = SqliteStore(address)
    else:
        mesh = await connect_async(address)
        if kind == "echo":
            return EchoStore(mesh)
        store = StorageStore(mesh) if kind == "storage" else MeshStore(mesh)
    source = workload.values()
    names = [workload.key(number) for number in range(workload.KEYS)]
    for begin in range(0, len(names), LOAD):
        await store.set_many({name: next(source) for name in names[begin : begin + LOAD]})
    return store


def mixed(store: Store, reads: float, modifies: float = 0.0) -> Callable[[], Awaitable[object]]:
    """What one caller does each time: the next step of the mix."""
    following = workload.steps(reads, modifies)
    source = workload.values()

    async def step() -> None:
        kind, key = next(following)
        if kind != "write":
            found = await store.get(key)
            if found is None:
                raise RuntimeError(f"{key} is not there")
        if kind != "read":
            await store.set(key, next(source))

    return step


async def mix(store: Store, window: int, options: argparse.Namespace) -> Figures:
    """Operations per second of one mix, by callers in flight."""
    step = mixed(store, options.reads)
    return await loops.in_flight(step, [window], options.seconds)


async def ycsb(store: Store, window: int, options: argparse.Namespace) -> Figures:
    """Operations per second of the mixes of YCSB, with as many callers."""
    found: Figures = {}
    for name, shares in workload.MIXES.items():
        rates = await loops.in_flight(mixed(store, *shares), [window], options.seconds)
        found.update({f"{name} {window}": rate for window, rate in rates.items()})
    return found


async def batches(store: Store, window: int, options: argparse.Namespace) -> Figures:
    """Keys per second in batches of 100: several keys in one command, and several commands."""
    names = workload.batches(BATCH)
    source = workload.values()
    ways: dict[str, Callable[[], Awaitable[object]]] = {
        "get many": lambda: store.get_many(next(names)),
        "set many": lambda: store.set_many({key: next(source) for key in next(names)}),
        "gets": lambda: store.get_calls(next(names)),
        "sets": lambda: store.set_calls({key: next(source) for key in next(names)}),
    }
    found: Figures = {}
    for way, call in ways.items():
        rates = await loops.in_flight(call, [window], options.seconds)
        found.update({f"{way} {window}": rate * BATCH for window, rate in rates.items()})
    return found


def single(kind: str, address: str, count: int) -> Figures:
    """Latency in microseconds of a blocking client, one operation at a time."""
    names = iter(workload.zipf(2 * count))
    source = workload.values()
    if kind == "redis":
        import redis

        client = redis.Redis.from_url(address)
        get: Callable[[str], object] = client.get
        set_: Callable[[str, bytes], object] = client.set
    else:
        mesh = connect(address)
        if kind == "echo":
            get = functools.partial(mesh.call, "bench.get")
            set_ = functools.partial(mesh.call, "bench.set")
        elif kind == "storage":
            get, set_ = mesh.storage.get, mesh.storage.put
        else:
            get, set_ = mesh.memory.get, mesh.memory.set

    reading = loops.one_at_a_time_blocking(lambda: get(next(names)), count)
    writing = loops.one_at_a_time_blocking(lambda: set_(next(names), next(source)), count // 2)
    return {
        **{f"get {name}": value for name, value in reading.items()},
        **{f"set {name}": value for name, value in writing.items()},
    }


ROLES = {"mix": mix, "ycsb": ycsb, "batches": batches}


async def run(options: argparse.Namespace) -> Figures:
    """One role, over a store that was filled before, for each number of callers."""
    found: Figures = {}
    for window in options.windows:
        store = await open_store(options.store, options.address, window)
        try:
            found.update(await ROLES[options.role](store, window, options))
        finally:
            await store.close()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=sorted({*ROLES, "single"}))
    parser.add_argument("store", choices=("mesh", "storage", "echo", "redis", "postgres", "sqlite"))
    parser.add_argument("address")
    parser.add_argument("--windows", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--reads", type=float, default=0.9)
    arguments = parser.parse_args()
    if arguments.role == "single":
        result = single(arguments.store, arguments.address, arguments.count)
    else:
        result = asyncio.run(run(arguments))
    print(json.dumps(result), flush=True)
