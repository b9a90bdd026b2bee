"""The verbs that write, over any ordered tables. Pure: tables and the time come in.

Each verb checks everything before its first write: one that raises has changed nothing, and needs
no transaction of its own. What happened is left in `effects`, for the eviction policy, and in
`events`, for those who watch.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

from mesh.errors import (
    DataCorrupted,
    InvalidArgument,
    Overloaded,
    QuotaExceeded,
    VersionConflict,
)
from mesh.protocol import payload
from mesh.protocol.memory import INT_RANGE
from workers.memory.locks import A_LOCK, AN_ENTRY, Locks
from workers.memory.records import DAMAGED, Entry, Space, new_entry, read_entry, read_lock
from workers.memory.sweeping import SLICE, clear_slice
from workers.memory.tables import (
    ENTRIES,
    EXPIRY,
    LOCKS,
    SPACES,
    SWEEPS,
    TAGS,
    OverlayTables,
    Tables,
)
from workers.memory.view import (
    FILL,
    LOCK,
    NUMBER,
    OF_PREFIX,
    OF_SPACE,
    OF_TAG,
    Sweep,
    slot_of,
    tag_slot,
)

SET, DELETED, EXPIRED, EVICTED, CLEARED = "set", "deleted", "expired", "evicted", "cleared"
MAX_SWEEPS = 256

_U32 = struct.Struct(">I")
_TIME = struct.Struct(">Q")


class Change(Locks):
    """All verbs that write. `close` must follow the last one."""

    def __init__(self, tables: Tables, now: int) -> None:
        super().__init__(tables, now)
        self.effects: list[tuple[bytes, int, int]] = []

    # ---------------------------------------------------------------- entries

    def set(
        self,
        ns: str,
        key: bytes,
        body: bytes,
        *,
        expire_at: int = 0,
        fresh_until: int = 0,
        keep_ttl: bool = False,
        tags: tuple[str, ...] = (),
        only_if: str = "",
        version: int | None = None,
        token: int | None = None,
    ) -> int:
        """Write an entry; its version, or 0 if `only_if` ("absent", "present") kept it from that.

        `version` is what the entry must have (0: not exist); `token` that of the reservation.

        Raises:
            VersionConflict: it has another version; `data` says which.
            QuotaExceeded: the namespace has no room for it.
        """
        space = self._space(ns)
        slot = slot_of(space, key)
        # What is stale exists for writers: it can be replaced, compared and expired.
        before = self._entry(slot)
        old = None
        if (only_if or keep_ttl or version is not None) and before is not None:
            old = before if self._alive(slot, before, True) else None
        if version is not None and version != (old.version if old else 0):
            found = old.version if old else 0
            raise VersionConflict(
                f"key {key.decode()!r} has version {found}, not {version}; read it again",
                data={"version": found},
            )
        if only_if and (old is None) != (only_if == "absent"):
            return 0
        if token is not None:
            held = self._lock(ns, FILL, key)
            if held is None or held.token != token:
                return 0
        if keep_ttl and old is not None:
            expire_at, fresh_until = old.expire_at, old.fresh_until
        entry = new_entry(0, expire_at, fresh_until, tags, body)
        return self._write(space, slot, entry, before)

    def delete(self, ns: str, keys: Sequence[bytes], version: int | None = None) -> int:
        """Remove entries; how many there were. With `version`, only one that has it.

        Raises:
            VersionConflict: it has another version.
        """
        space = self.space(ns)
        if space is None:
            return 0
        if version is not None:
            for key in keys:
                self._compare(space, key, version)
        return sum(self._remove(space, slot_of(space, key), DELETED) for key in keys)

    def pop(self, ns: str, key: bytes) -> Entry | None:
        """Remove an entry and return it."""
        entry = self.get(ns, key)
        self.delete(ns, (key,))
        return entry

    def expire(self, ns: str, key: bytes, expire_at: int, condition: str = "") -> bool:
        """Give an entry another expiry, 0 for none; whether it was.

        `condition`: "none" only if it has no expiry, "some" if it has one, "later" and "sooner" if
        the new one is. No expiry is later than any.
        """
        space = self.space(ns)
        if space is None:
            return False
        slot = slot_of(space, key)
        old = self._live(slot, True)
        if old is None:
            return False
        if not may_expire(old, expire_at, condition):
            return False
        self._write(space, slot, Entry(0, expire_at, 0, old.tags, old.body), old)
        return True

    def touch(self, ns: str, key: bytes, expire_at: int) -> Entry | None:
        """The entry, after it was given another expiry (0 for none); None if there is none."""
        entry = self.get(ns, key)
        if entry is None or (entry.expire_at == expire_at and not entry.fresh_until):
            return entry
        self.expire(ns, key, expire_at)
        return self.get(ns, key)

    def increment(
        self, ns: str, key: bytes, by: int | float, expire_at: int = 0, renew: bool = False
    ) -> int | float:
        """Add to a number, which is 0 if it does not exist; the sum.

        `expire_at` holds for a key that is created here, with `renew` for any.

        Raises:
            InvalidArgument: it is no number, or the sum is none that can be kept.
        """
        space = self._space(ns)
        slot = slot_of(space, key)
        before = self._entry(slot)
        old = before if before is not None and self._alive(slot, before, False) else None
        total = add(payload.decode(old.body) if old else 0, by, key)
        body = payload.encode(total)
        if old is None:
            self._write(space, slot, Entry(0, expire_at, 0, (), body), before)
        else:
            times = (expire_at, 0) if renew else (old.expire_at, old.fresh_until)
            self._write(space, slot, Entry(0, *times, old.tags, body), before)
        return total

    # ---------------------------------------------------------------- many at once

    def set_many(
        self,
        ns: str,
        items: Sequence[tuple[bytes, bytes]],
        expire_at: int = 0,
        fresh_until: int = 0,
        tags: tuple[str, ...] = (),
    ) -> list[int]:
        """Write some keys with their bodies, all or none; their versions.

        Raises:
            QuotaExceeded: the namespace has no room for them.
        """
        space = self._space(ns)
        within = slot_of(space, b"")
        slots = [within + key for key, _ in items]
        before = [self._entry(slot) for slot in slots]
        entries = [new_entry(0, expire_at, fresh_until, tags, body) for _, body in items]
        if space.quota:
            added = [
                max(0, entry.cost(slot) - (old.cost(slot) if old else 0))
                for slot, entry, old in zip(slots, entries, before, strict=True)
            ]
            grown = sum(added)
            if space.octets + grown > space.quota and grown:
                raise _over_quota(space)
        return [
            self._write(space, slots[index], entries[index], before[index])
            for index in range(len(slots))
        ]

    def batch(
        self,
        ns: str,
        conditions: Sequence[tuple[bytes, int]],
        steps: Sequence[tuple[str, dict[str, Any]]],
    ) -> list[Any]:
        """Do all `steps`, or nothing: each of `conditions` is a key and the version it must have.

        Raises:
            VersionConflict: a condition does not hold.
            InvalidArgument: a step cannot be done.
        """
        space = self.space(ns)
        for key, version in conditions:
            if space is not None:
                self._compare(space, key, version)
            elif version:
                raise _conflict(key, 0, version)
        # What a step raises after others were done undoes them: they are laid over the tables.
        base, undo = self.tables, self._undo(ns)
        self.tables = tried = OverlayTables(base)
        try:
            results = [getattr(self, verb)(ns, **arguments) for verb, arguments in steps]
        except BaseException:
            undo()
            raise
        finally:
            self.tables = base
        tried.pour(base)
        return results

    def _undo(self, ns: str) -> Callable[[], None]:
        """What takes back everything, but in the tables, that verbs do to `ns` from now on."""
        totals, space = self._totals, self.space(ns)
        before = (totals.version, totals.entries, totals.octets, totals.spaces)
        counted = None if space is None else (space.entries, space.octets, space.changed)
        effects, events = len(self.effects), len(self.events)

        def undo() -> None:
            totals.version, totals.entries, totals.octets, totals.spaces = before
            if space is not None and counted is not None:
                space.entries, space.octets, space.changed = counted
            self._spaces[ns] = space
            del self.effects[effects:], self.events[events:]

        return undo

    def invalidate(self, ns: str, *, prefix: bytes = b"", tag: str = "") -> int:
        """Remove what lies under `prefix`, or has `tag`: a lower bound of how many there were.

        Up to 1,000 are removed here and the number is exact; more are void at once and cleared
        later. Reservations of the namespace end: what is being computed may be outdated.

        Raises:
            Overloaded: too much is still to be cleared.
        """
        space = self.space(ns)
        if space is None:
            return 0
        self._check_sweeps()
        within = tag_slot(space.number, tag) if tag else slot_of(space, prefix)
        sweep = Sweep(0, OF_TAG if tag else OF_PREFIX, within, self._totals.version, tag)
        self._drop_fills(space, b"" if tag else prefix)
        removed, done = clear_slice(self, sweep, SLICE)
        if not done:
            self._add_sweep(sweep)
            self.events.append((ns, tag.encode() if tag else prefix, CLEARED, sweep.version))
        return removed

    def clear(self, ns: str) -> int:
        """Empty a namespace; how many entries it had. Its locks stay. Raises as `invalidate`."""
        space = self.space(ns)
        if space is None:
            return 0
        self._check_sweeps()
        sweep = Sweep(0, OF_SPACE, _U32.pack(space.number), self._totals.version)
        locks = list(self._starting(LOCKS, slot_of(space, LOCK)))
        self._drop_fills(space, b"")
        self.tables.delete(SPACES, NUMBER + _U32.pack(space.number))
        removed = space.entries
        self._renumber(space)
        for slot, record in locks:
            self.put_lock(slot_of(space, slot[4:]), read_lock(record))
        space.entries = space.octets = 0
        self._add_sweep(sweep)
        self.events.append((ns, b"", CLEARED, sweep.version))
        return removed

    def configure(self, ns: str, relaxed: bool | None, quota: int | None) -> None:
        """Set how a namespace is kept."""
        space = self._space(ns)
        space.relaxed = space.relaxed if relaxed is None else relaxed
        space.quota = space.quota if quota is None else quota
        space.changed = True

    # ---------------------------------------------------------------- what time and space take

    def evict(self, slot: bytes) -> Entry | None:
        """Remove an entry to make room; what it was."""
        return self.drop(slot, EVICTED)

    def tidy(self, limit: int) -> int:
        """Clear up to about `limit` of what has expired or is void; how many there were."""
        done = self._tidy_expired(limit)
        for sweep in list(self.sweeps()):
            if done >= limit:
                break
            count, ended = clear_slice(self, sweep, limit - done)
            done += count
            if ended:
                self.tables.delete(SWEEPS, _U32.pack(sweep.number))
                self.sweeps().remove(sweep)
            else:
                self.tables.put(SWEEPS, _U32.pack(sweep.number), sweep.pack())
        return done

    def _tidy_expired(self, limit: int) -> int:
        due: list[bytes] = []
        for index in self.tables.keys(EXPIRY, b""):
            if len(due) >= limit or _TIME.unpack_from(index)[0] > self.now:
                break
            due.append(index)
        for index in due:
            self.tables.delete(EXPIRY, index)
            slot, at = index[9:], _TIME.unpack_from(index)[0]
            if index[8:9] == A_LOCK:
                self.end_lock(slot)
            else:
                self.drop(slot, EXPIRED, at)
        return len(due)

    # ---------------------------------------------------------------- writing

    def drop(self, slot: bytes, why: str, expire_at: int | None = None) -> Entry | None:
        """Remove the entry at `slot`, of whatever namespace, dead or alive; what it was.

        With `expire_at` only one that expires then: the index may speak of one that was damaged,
        and replaced since. What lies in a namespace that was emptied counts for the totals alone.
        """
        try:
            record = self.tables.get(ENTRIES, slot)
            if record is None:
                return None
            entry = read_entry(slot[4:], record)
            if expire_at not in (None, entry.expire_at):
                return None
        except DataCorrupted:
            entry = DAMAGED  # one can get rid of it all the same
        cost = entry.cost(slot)
        self.tables.delete(ENTRIES, slot)
        self._unindex(slot, entry)
        space = self.space_at(slot)
        if space is not None:
            space.entries -= 1
            space.octets -= cost
            space.changed = True
            self.events.append((space.name, slot[4:], why, entry.version))
        self._totals.entries -= 1
        self._totals.octets -= cost
        self.effects.append((slot, 0, 0))
        return entry

    def _write(self, space: Space, slot: bytes, entry: Entry, old: Entry | None) -> int:
        """Put `entry` in the place of `old`, which lies there dead or alive; its version."""
        cost = entry.cost(slot)
        old_cost = 0 if old is None else old.cost(slot)
        if space.quota and space.octets + cost - old_cost > space.quota and cost > old_cost:
            raise _over_quota(space)
        totals = self._totals
        totals.version += 1
        entry.version = totals.version
        if old is None or old.expire_at != entry.expire_at or old.tags != entry.tags:
            if old is not None:
                self._unindex(slot, old)
            if entry.expire_at:
                self.tables.put(EXPIRY, _TIME.pack(entry.expire_at) + AN_ENTRY + slot, b"")
            for tag in entry.tags:
                self.tables.put(TAGS, tag_slot(space.number, tag) + slot[4:], b"")
        self.tables.put(ENTRIES, slot, entry.pack())
        space.entries += old is None
        space.octets += cost - old_cost
        space.changed = True
        totals.entries += old is None
        totals.octets += cost - old_cost
        key = slot[4:]
        if self._any_locks:
            self.drop_lock(slot_of(space, FILL + key))
        self.effects.append((slot, cost, entry.expire_at))
        self.events.append((space.name, key, SET, entry.version))
        return entry.version

    def _remove(self, space: Space, slot: bytes, why: str) -> bool:
        self.end_lock(slot_of(space, FILL + slot[4:]))
        try:
            was_there = self._live(slot, False) is not None
        except DataCorrupted:
            was_there = True
        self.drop(slot, why)
        return was_there

    def _unindex(self, slot: bytes, entry: Entry) -> None:
        if entry.expire_at:
            self.tables.delete(EXPIRY, _TIME.pack(entry.expire_at) + AN_ENTRY + slot)
        for tag in entry.tags:
            self.tables.delete(TAGS, tag_slot(_U32.unpack_from(slot)[0], tag) + slot[4:])

    def _compare(self, space: Space, key: bytes, version: int) -> None:
        entry = self._live(slot_of(space, key), True)
        found = entry.version if entry else 0
        if found != version:
            raise _conflict(key, found, version)

    def _check_sweeps(self) -> None:
        if len(self.sweeps()) >= MAX_SWEEPS:
            raise Overloaded(
                f"{MAX_SWEEPS} invalidations are still being cleared; try again in a second",
                retry_after=1.0,
            )

    def _add_sweep(self, sweep: Sweep) -> None:
        sweep.number = max((known.number for known in self.sweeps()), default=0) + 1
        self.sweeps().append(sweep)
        self.tables.put(SWEEPS, _U32.pack(sweep.number), sweep.pack())


def may_expire(old: Entry, expire_at: int, condition: str) -> bool:
    """Whether `old` may be given another expiry: see `Change.expire`."""
    before, after = old.expire_at or math.inf, expire_at or math.inf
    allowed = {
        "": True,
        "none": not old.expire_at,
        "some": bool(old.expire_at),
        "later": after > before,
        "sooner": after < before,
    }
    return allowed[condition]


def add(before: Any, by: int | float, key: bytes) -> int | float:
    """The sum of what is there and `by`. Raises InvalidArgument."""
    if isinstance(before, bool) or not isinstance(before, int | float):
        kind = type(before).__name__
        raise InvalidArgument(f"key {key.decode()!r} holds {kind}, which cannot be incremented")
    total = before + by
    if isinstance(total, float) and not math.isfinite(total):
        raise InvalidArgument(f"key {key.decode()!r}: the sum {total} is not a finite number")
    if isinstance(total, int) and not INT_RANGE[0] <= total <= INT_RANGE[1]:
        raise InvalidArgument(f"key {key.decode()!r}: the sum {total} exceeds 64 bits")
    return total


def _conflict(key: bytes, found: int, wanted: int) -> VersionConflict:
    return VersionConflict(
        f"key {key.decode()!r} has version {found}, not {wanted}; read it again",
        data={"key": key.decode(), "version": found},
    )


def _over_quota(space: Space) -> QuotaExceeded:
    return QuotaExceeded(
        f"namespace {space.name!r} would exceed its {space.quota:,} octets; delete something, "
        "give entries a ttl, or raise its quota"
    )
