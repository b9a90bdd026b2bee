"""Copies of a store: taken while it works, verified, restored, and made small again.

A backup is a store of its own in a directory of its own: `data.mdb` and nothing else. It carries
the identity of its original, but a restored store is a new one, so that nobody takes it for the
running original; only `replace=True` keeps the identity, and then starts a new era of epochs above
all that the original can have reached, so that no late writer or broker prefers it.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import lmdb

from mesh.errors import ConfigError, DataCorrupted
from workers.store import format, place
from workers.store.engine import open_environment
from workers.store.tables import Table, View

_ERA: Final = 2**32
"""Epochs of one era: a store would have to be elected once a second for a century to use them."""
_MAX_DAMAGE: Final = 1000


@dataclass(slots=True)
class Report:
    """What a verification found."""

    entries: dict[str, int] = field(default_factory=dict)
    """Table -> entries read."""
    damage: list[str] = field(default_factory=list)
    """What is wrong, one line each; empty if nothing is."""


def copy(env: Any, target: Path) -> None:
    """Copy an open environment as of now, without its free pages, into the new directory `target`.

    Writers go on meanwhile. The copy is durable, and has its name only once it is complete.

    Raises:
        ConfigError: `target` exists.
    """
    if target.exists():
        raise ConfigError(f"{target} exists; name a new directory for the copy")
    partial = target.with_name(f"{target.name}.partial-{uuid.uuid4().hex[:8]}")
    partial.mkdir(mode=0o700, parents=True)
    try:
        env.copy(os.fspath(partial), compact=True)
        with (partial / place.DATA).open("rb") as file:
            os.fchmod(file.fileno(), 0o600)
            os.fsync(file.fileno())
        place.sync_directory(partial)
        partial.rename(target)
        place.sync_directory(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def verify(path: Path) -> Report:
    """Read every entry of the store or backup in the directory `path`, which nobody has open.

    Raises:
        ConfigError: it is in use, or there is none.
        DataCorrupted: it cannot even be opened.
    """
    with alone(path) as (view, tables):
        return verify_tables(view, tables.values())


@contextmanager
def alone(path: Path) -> Iterator[tuple[View, dict[str, Table]]]:
    """One moment of the store or backup in `path`, which nobody has open, and all its tables.

    Raises:
        ConfigError: it is in use, or there is none.
        DataCorrupted: it cannot even be opened.
    """
    with closing(_Alone(path)) as found, found.env.begin(buffers=True) as txn:
        with format.trusting_no_bit(path):
            tables = {
                name: Table(name, index, found.env.open_db(name.encode(), txn=txn, create=False))
                for name, index in format.recorded_tables(txn, found.own).items()
            }
        yield View(txn), tables


def verify_tables(view: View, tables: Iterable[Table]) -> Report:
    """Read every entry of some tables."""
    report = Report()
    for table in tables:
        try:
            _verify_table(view, table, report)
        except lmdb.Error as error:  # where one tree is broken, the others cannot be walked either
            report.damage.append(f"table {table.name!r} cannot be read: {error}")
    return report


def restore(
    backup: Path,
    target: Path,
    *,
    replace: bool = False,
    complete: Callable[[Path], object] = lambda made: None,
) -> uuid.UUID:
    """Make a store in `target` of the backup in the directory `backup`; its uuid.

    Without `replace`, `target` must not exist and the store gets a uuid of its own. With it, the
    store takes the place of the lost one: it keeps the uuid, and what is in `target` moves aside to
    `target` + `.replaced-<number>`; nobody may have it open. `complete` is called with the
    directory that was made, before it gets its name, for what belongs to it beside `data.mdb`.

    Raises:
        ConfigError: `target` exists, or is in use.
        DataCorrupted: the backup is damaged; nothing was changed.
    """
    damage = verify(backup).damage
    if damage:
        raise DataCorrupted(f"the backup {backup} is damaged: {'; '.join(damage[:3])}")
    fresh = target.with_name(f"{target.name}.restored-{uuid.uuid4().hex[:8]}")
    epoch = 0
    if replace and (target / place.DATA).exists():
        # What is so damaged that it cannot be opened is what a backup is for.
        with suppress(DataCorrupted), closing(_Alone(target)) as old:
            epoch = old.identity().epoch
    elif target.exists() and not replace:
        raise ConfigError(f"{target} exists; name a new directory, or replace what is there")
    try:
        with closing(_Alone(backup)) as source:
            copy(source.env, fresh)
        with closing(_Alone(fresh, writable=True)) as store, store.env.begin(write=True) as txn:
            identity = format.read(txn, store.own)
            chosen = identity.uuid if replace else uuid.uuid4()
            format.set_uuid(txn, store.own, chosen)
            if replace:
                era = max(epoch, identity.epoch) // _ERA + 1
                format.set_epoch(txn, store.own, era * _ERA)
        complete(fresh)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if replace and target.exists():
        number = 1
        while (aside := target.with_name(f"{target.name}.replaced-{number}")).exists():
            number += 1
        target.rename(aside)
    fresh.rename(target)
    place.sync_directory(target.parent)
    return chosen


def compact(path: Path) -> tuple[int, int]:
    """Give the free pages of a store that nobody has open back to the disk: octets before, after.

    Raises:
        ConfigError: it is in use, or there is none.
    """
    data = path / place.DATA
    if not data.exists():
        raise ConfigError(f"there is no store in {path}")
    smaller = path / "compacting"
    openers = place.Openers(path, exclusive=True)
    try:
        before = data.stat().st_size
        shutil.rmtree(smaller, ignore_errors=True)  # of one that was interrupted
        env = open_environment(path, 0)
        try:
            copy(env, smaller)
        finally:
            env.close()
        (smaller / place.DATA).replace(data)
        place.sync_directory(path)
        smaller.rmdir()
    finally:
        openers.close()
    return before, data.stat().st_size


class _Alone:
    """A store that nobody else has open, opened for its maintenance."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        if not (path / place.DATA).exists():
            raise ConfigError(f"there is no store in {path}")
        self._openers = place.Openers(path, exclusive=True)
        try:
            self.env = open_environment(path, 0, readonly=not writable)
            try:
                self.own = self.env.open_db(format.SELF, create=False)
            except BaseException:
                self.env.close()
                raise
        except lmdb.Error as error:
            self._openers.close()
            raise DataCorrupted(f"{path} holds no store: {error}") from None
        except BaseException:
            self._openers.close()
            raise

    def identity(self) -> format.Identity:
        """Who the store is."""
        with self.env.begin() as txn:
            return format.read(txn, self.own)

    def close(self) -> None:
        """Let others in again."""
        self.env.close()
        self._openers.close()


def _verify_table(view: View, table: Table, report: Report) -> None:
    """Count the entries of `table`, going on after each that is damaged."""
    count = 0
    start = b""
    while True:
        try:
            for key, _ in view.items(table, start=start):
                start = key
                count += 1
            break
        except DataCorrupted as error:
            report.damage.append(error.message)
            if error.__cause__ is not None or len(report.damage) >= _MAX_DAMAGE:
                break  # the table's tree is broken: there is no way to what lies behind
            start = error.data["key"] + b"\0"
            count += 1
    report.entries[table.name] = count
