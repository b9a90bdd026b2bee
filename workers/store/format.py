"""What a store says about itself: format, identity, owner, epoch, and its tables.

All of it lies in the table `store`. The format version counts changes of the layout of this package
and of the tables' contents; an older store is brought up by `MIGRATIONS`, step by step, in one
transaction and only while no other process has it open; a newer one is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias
from uuid import UUID

import lmdb

from mesh.errors import ConfigError, DataCorrupted
from workers.store.tables import Table

FORMAT: Final = 1
MAX_TABLES: Final = 64
"""LMDB does not store the number of tables: every opener must name the same."""

SELF: Final = b"store"
_FORMAT: Final = b"format"
_UUID: Final = b"uuid"
_SERVICE: Final = b"service"
_EPOCH: Final = b"epoch"
_TABLE: Final = b"table:"

Migration: TypeAlias = Callable[[Any, Any], None]
"""Brings a store from one format to the next: gets LMDB's environment and write transaction."""

MIGRATIONS: Final[dict[int, Migration]] = {}
"""From format version -> the step to the one after it."""


@dataclass(slots=True)
class Identity:
    """Who a store is."""

    uuid: UUID
    service: str
    epoch: int


def describe(
    env: Any,
    *,
    service: str,
    tables: Mapping[str, bool],
    uuid: UUID,
    alone: bool,
    migrations: Mapping[int, Migration] = MIGRATIONS,
    newest: int = FORMAT,
) -> tuple[Identity, dict[str, Table], Any]:
    """Check what the store says about itself, or write it into a new one.

    `tables`: name -> whether it is an index. `uuid`: for a new store. `alone`: no other process has
    the store open. Returns who it is, its tables, and the handle of the table `store`.

    Raises:
        ConfigError: the store belongs to another service, is of a newer format, is of an older one
            and in use, or has one of the tables in another shape.
    """
    own = env.open_db(SELF)
    with env.begin(write=True) as txn:
        if txn.get(_FORMAT, db=own) is None:
            _create(txn, own, service, uuid, newest)
        _check_service(txn, own, service)
        _migrate(env, txn, own, alone, migrations, newest)
        opened = {
            name: _table(env, txn, own, name, index) for name, index in sorted(tables.items())
        }
        identity = read(txn, own)
    return identity, opened, own


@contextmanager
def trusting_no_bit(path: Path) -> Iterator[None]:
    """Read what a store says about itself, which carries no checksum.

    Raises:
        DataCorrupted: in the place of whatever nonsense leads to.
    """
    try:
        yield
    except lmdb.MapResizedError:
        raise
    except (lmdb.Error, ValueError, TypeError, KeyError) as error:
        raise DataCorrupted(
            f"what the store in {path} says about itself is damaged "
            f"({type(error).__name__}: {error}); restore a backup"
        ) from error


def read(txn: Any, own: Any) -> Identity:
    """Who the store is, as seen by `txn`."""
    return Identity(
        uuid=UUID(bytes=bytes(txn.get(_UUID, db=own))),
        service=bytes(txn.get(_SERVICE, db=own)).decode(),
        epoch=epoch(txn, own),
    )


def epoch(txn: Any, own: Any) -> int:
    """The number of the last writer."""
    return int.from_bytes(txn.get(_EPOCH, db=own), "big")


def set_epoch(txn: Any, own: Any, number: int) -> None:
    """Make `number` the epoch: whoever holds a lower one can never commit again."""
    txn.put(_EPOCH, number.to_bytes(8, "big"), db=own)


def set_uuid(txn: Any, own: Any, uuid: UUID) -> None:
    """Give the store another identity."""
    txn.put(_UUID, uuid.bytes, db=own)


def recorded_tables(txn: Any, own: Any) -> dict[str, bool]:
    """All tables ever opened: name -> whether it is an index."""
    found = {}
    with txn.cursor(own) as cursor:
        if cursor.set_range(_TABLE):
            for key, value in cursor:
                name = bytes(key)
                if not name.startswith(_TABLE):
                    break
                found[name[len(_TABLE) :].decode()] = bool(json.loads(bytes(value))["index"])
    return found


def _create(txn: Any, own: Any, service: str, uuid: UUID, newest: int) -> None:
    txn.put(_FORMAT, newest.to_bytes(4, "big"), db=own)
    txn.put(_SERVICE, service.encode(), db=own)
    set_uuid(txn, own, uuid)
    set_epoch(txn, own, 0)


def _check_service(txn: Any, own: Any, service: str) -> None:
    owner = bytes(txn.get(_SERVICE, db=own)).decode()
    if owner != service:
        raise ConfigError(
            f"the store holds the data of the service {owner!r}, not of {service!r};"
            " each service needs a data directory of its own"
        )


def _migrate(
    env: Any, txn: Any, own: Any, alone: bool, migrations: Mapping[int, Migration], newest: int
) -> None:
    found = int.from_bytes(txn.get(_FORMAT, db=own), "big")
    if found > newest:
        raise ConfigError(
            f"the store has format {found} and this version reads up to {newest};"
            " use the newer version of the software, or restore a backup made by this one"
        )
    if found == newest:
        return
    if not alone:
        raise ConfigError(
            f"the store has format {found} and must be brought to {newest}; stop the processes of"
            " the older version that still have it open"
        )
    for version in range(found, newest):
        migrations[version](env, txn)
        txn.put(_FORMAT, (version + 1).to_bytes(4, "big"), db=own)


def _table(env: Any, txn: Any, own: Any, name: str, index: bool) -> Table:
    key = _TABLE + name.encode()
    recorded = txn.get(key, db=own)
    if recorded is None:
        txn.put(key, json.dumps({"index": index}).encode(), db=own)
    elif bool(json.loads(bytes(recorded))["index"]) != index:
        raise ConfigError(f"table {name!r} exists as {'a plain' if index else 'an index'} table")
    try:
        handle = env.open_db(name.encode(), txn=txn, dupsort=index)
    except lmdb.DbsFullError:
        raise ConfigError(f"a store has at most {MAX_TABLES} tables") from None
    return Table(name, index, handle)
