"""A storage directory as a whole: copied while it works, restored, verified, made small again.

What holds for `workers.store.backup` holds here; a backup is a directory of the same shape, with
`data.mdb` and `objects`. All of it happens on the machine that has the directory.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mesh.errors import ConfigError, DataCorrupted
from mesh.protocol.storage import PART, part_digest
from workers.storage.records import (
    DELETED,
    NAME,
    OBJECT,
    ROW,
    TABLES,
    U32,
    Blob,
    Bucket,
    Entry,
    cost,
    read_blob,
    read_bucket,
    read_content,
    read_entry,
)
from workers.storage.view import DIGEST
from workers.store import Store, Table, View, backup, dedup, place

OBJECTS: Final = "objects"
MAX_DAMAGE: Final = 1000

Tables = dict[str, Table]


@dataclass(slots=True)
class Report:
    """What a verification found. `damage` is one line each, and empty if all is well."""

    entries: int = 0
    octets: int = 0
    objects: int = 0
    damage: list[str] = field(default_factory=list)

    def found(self, what: str) -> None:
        """Something is wrong."""
        if len(self.damage) < MAX_DAMAGE:
            self.damage.append(what)


@contextmanager
def opened(path: Path) -> Iterator[tuple[View, Tables]]:
    """One moment of the store in `path`, whether or not it is in use.

    As long as it is looked at, the pages of older moments cannot be used again.

    Raises:
        ConfigError: there is none.
        DataCorrupted: it cannot be opened.
    """
    with ExitStack() as stack:
        try:
            found = stack.enter_context(backup.alone(path))
        except ConfigError:
            if not (path / "data.mdb").exists():
                raise
            tables = {**TABLES, **dedup.TABLES}
            store = Store.open(path, service="storage", tables=tables)
            stack.callback(store.close)
            found = (stack.enter_context(store.view()), dict(store.tables))
        yield found


# -------------------------------------------------------------------- copies


def copy(path: Path, target: Path) -> Report:
    """Copy the store in `path`, which may be in use, into the new directory `target`, verified.

    Raises:
        ConfigError: `target` exists, or there is no store.
        DataCorrupted: an object's file is damaged or missing; there is no copy then.
    """
    if target.exists():
        raise ConfigError(f"{target} exists; name a new directory for the backup")
    if not (path / "data.mdb").exists():
        raise ConfigError(f"there is no store in {path}")
    suffix = uuid.uuid4().hex[:8]
    # Names of their own, so that files stay although their objects are deleted meanwhile.
    held = path / f"backup-{suffix}"
    partial = target.with_name(f"{target.name}.partial-{suffix}")
    held.mkdir(mode=0o700)
    try:
        _hold(path, held)
        tables = {**TABLES, **dedup.TABLES}
        with closing(Store.open(path, service="storage", tables=tables)) as store:
            store.backup(partial)
        _hold(path, held)  # those that came between
        _copy_objects(held, partial)
        report = verify(partial)
        if report.damage:
            raise DataCorrupted(f"the store {path} is damaged: {'; '.join(report.damage[:3])}")
        (partial / place.OPENERS).unlink(missing_ok=True)
        partial.rename(target)
        place.sync_directory(target.parent)
        return report
    finally:
        shutil.rmtree(held, ignore_errors=True)
        shutil.rmtree(partial, ignore_errors=True)


def _hold(path: Path, held: Path) -> None:
    for file in (path / OBJECTS).iterdir() if (path / OBJECTS).exists() else ():
        if not (held / file.name).exists():
            try:
                os.link(file, held / file.name)
            except FileNotFoundError:
                continue  # it has been removed just now


def _copy_objects(source: Path, made: Path) -> None:
    """Copy the files that the store in `made` names, and no others."""
    objects = made / OBJECTS
    objects.mkdir(mode=0o700)
    with backup.alone(made) as (view, tables):
        for name, blob in _blobs(view, tables):
            if blob.whole or not blob.refs or not (source / name.hex()).exists():
                continue  # what is missing is found when the copy is verified
            with (source / name.hex()).open("rb") as old, (objects / name.hex()).open("xb") as new:
                os.fchmod(new.fileno(), 0o600)
                shutil.copyfileobj(old, new, PART)
                new.flush()
                os.fsync(new.fileno())
    place.sync_directory(objects)


def restore(source: Path, target: Path, *, replace: bool = False) -> uuid.UUID:
    """Make a store in `target` of a backup; its uuid. `replace` as in `workers.store.backup`.

    Raises:
        ConfigError: `target` exists, or is in use.
        DataCorrupted: the backup is damaged; nothing was changed.
    """
    damage = verify(source).damage
    if damage:
        raise DataCorrupted(f"the backup {source} is damaged: {'; '.join(damage[:3])}")
    return backup.restore(
        source, target, replace=replace, complete=lambda made: _copy_objects(source / OBJECTS, made)
    )


def compact(path: Path) -> tuple[int, int]:
    """Give the free pages of a store that nobody has open back to the disk: octets before, after.

    Files of objects have none. Raises ConfigError if it is in use.
    """
    return backup.compact(path)


# -------------------------------------------------------------------- verification


def verify(path: Path, tell: Callable[[int], object] = lambda octets: None) -> Report:
    """Read everything in `path`, which may be in use, and compare what tells the same twice.

    Found are values that are not what was written, keys that are missing (the log of changes and
    the counters of their bucket know them), content that is missing, damaged or of nobody.
    `tell(octets)` is called as it goes on.

    Raises:
        ConfigError: there is no store.
        DataCorrupted: it cannot even be opened.
    """
    report = Report()
    with opened(path) as (view, tables):
        read = backup.verify_tables(view, tables.values())
        for what in read.damage:
            report.found(what)
        if read.damage:
            return report  # what cannot be read cannot be compared
        buckets = _buckets(view, tables)
        references: Counter[bytes] = Counter()
        _verify_entries(view, tables, buckets, references, report)
        blobs = dict(_blobs(view, tables))
        for name, count in references.items():
            if name not in blobs:
                report.found(f"the content {name.hex()} of {count} object(s) is missing")
        for name, blob in blobs.items():
            if blob.refs != references[name]:
                report.found(
                    f"content {name.hex()}: {blob.refs} references are counted, "
                    f"{references[name]} found"
                )
            if blob.refs:
                report.objects += 1
                _verify_blob(view, tables, path, name, blob, report)
                tell(blob.size)
    return report


def _buckets(view: View, tables: Tables) -> dict[bytes, Bucket]:
    """All buckets, by the beginning of their slots."""
    found = {}
    for key, record in view.items(tables["buckets"], prefix=NAME):
        bucket = read_bucket(key[1:].decode(), record)
        found[U32.pack(bucket.number)] = bucket
    return found


def _blobs(view: View, tables: Tables) -> Iterator[tuple[bytes, Blob]]:
    for name, record in view.items(tables["blobs"]):
        yield name, read_blob(record)


def _verify_entries(
    view: View,
    tables: Tables,
    buckets: dict[bytes, Bucket],
    references: Counter[bytes],
    report: Report,
) -> None:
    entries: Counter[bytes] = Counter()
    octets: Counter[bytes] = Counter()
    sizes: dict[bytes, set[int]] = defaultdict(set)
    for slot, record in view.items(tables["entries"]):
        entry = read_entry(record)
        stem = slot[:4]
        if entry.kind == OBJECT:
            content = read_content(entry.body)
            references[content.blob] += 1
            sizes[content.blob].add(content.size)
        if stem not in buckets:
            continue  # it was dropped, and is being cleared away
        entries[stem] += 1
        octets[stem] += cost(slot, entry)
        row = view.get(tables["changes"], ROW.pack(U32.unpack(stem)[0], entry.version))
        if row is None or row[1:] != slot[4:]:
            report.found(f"{_named(buckets, slot)}: its change is not in the log")
    _verify_log(view, tables, buckets, report)
    for stem, bucket in buckets.items():
        told, found = (bucket.entries, bucket.octets), (entries[stem], octets[stem])
        if told != found:
            report.found(
                f"bucket {bucket.name!r}: {told[0]} entries of {told[1]} octets are counted, "
                f"{found[0]} of {found[1]} found"
            )
    for blob, different in sizes.items():
        if len(different) > 1:
            report.found(f"content {blob.hex()} is said to have {sorted(different)} octets")
    report.entries, report.octets = sum(entries.values()), sum(octets.values())


def _verify_log(view: View, tables: Tables, buckets: dict[bytes, Bucket], report: Report) -> None:
    """What the log says was put last must be there: later in the log, if it was replaced."""
    missing: set[bytes] = set()
    for row, change in view.items(tables["changes"]):
        stem, version = row[:4], ROW.unpack(row)[1]
        slot = stem + change[1:]
        if stem not in buckets:
            continue
        if change[0] >= DELETED:
            missing.discard(slot)
            continue
        record = view.get(tables["entries"], slot)
        entry: Entry | None = None if record is None else read_entry(record)
        if entry is None or entry.version < version:
            missing.add(slot)
    for slot in sorted(missing):
        report.found(f"{_named(buckets, slot)} is missing")


def _named(buckets: dict[bytes, Bucket], slot: bytes) -> str:
    key = slot[4:].decode(errors="replace")
    return f"key {key!r} of bucket {buckets[slot[:4]].name!r}"


def _verify_blob(
    view: View, tables: Tables, path: Path, name: bytes, blob: Blob, report: Report
) -> None:
    if blob.whole:
        body = view.get(tables["bodies"], name) if blob.size else b""
        if body is None or len(body) != blob.size:
            report.found(f"the content {name.hex()} is missing")
        return
    digests = b"".join(row for _, row in view.items(tables["digests"], prefix=name))
    if len(digests) != -(-blob.size // PART) * DIGEST:
        report.found(f"the digests of content {name.hex()} are incomplete")
        return
    try:
        with (path / OBJECTS / name.hex()).open("rb") as file:
            for number in range(len(digests) // DIGEST):
                data = file.read(min(PART, blob.size - number * PART))
                if part_digest(data) != digests[number * DIGEST : (number + 1) * DIGEST]:
                    report.found(f"part {number} of the file {name.hex()} is damaged")
            if file.read(1):
                report.found(f"the file {name.hex()} is too long")
    except OSError as error:
        report.found(f"the file {name.hex()} cannot be read: {error.strerror}")
