"""Locks with fencing tokens, and reservations for computing a value once, over ordered tables.

Also what every verb that writes has in common: namespaces, versions, and what is counted.
"""

from __future__ import annotations

import struct

from workers.memory.records import Entry, Lock, Space, read_lock
from workers.memory.tables import EXPIRY, LOCKS, META, SPACES, Tables
from workers.memory.view import FILL, LOCK, NAME, NUMBER, TOTALS, Totals, View, slot_of

AN_ENTRY, A_LOCK = b"e", b"l"
# What `reserve` may find.
HIT, STALE, LEAD, WAIT = "hit", "stale", "lead", "wait"

_U32 = struct.Struct(">I")
_TIME = struct.Struct(">Q")

Event = tuple[str, bytes, str, int]
"""Namespace, key (or prefix, or tag), what happened, version."""


class Locks(View):
    """A view that can change the tables. `close` writes what was counted; nothing may follow it."""

    def __init__(self, tables: Tables, now: int) -> None:
        super().__init__(tables, now)
        self.events: list[Event] = []
        self._totals = super().totals()
        self._before = self._totals.pack()
        # Mostly there are none, and every write would look for one.
        self._any_locks = next(iter(tables.keys(LOCKS, b"")), None) is not None

    def close(self) -> None:
        """Write what was counted meanwhile."""
        for space in self._spaces.values():
            if space is not None and space.changed:
                self.tables.put(SPACES, NAME + space.name.encode(), space.pack())
                space.changed = False
        totals = self._totals.pack()
        if totals != self._before:
            self.tables.put(META, TOTALS, totals)

    def totals(self) -> Totals:
        """Of the whole store, what is being changed included."""
        return self._totals

    # ---------------------------------------------------------------- locks and reservations

    def lock(self, ns: str, name: bytes, owner: str, expire_at: int) -> int:
        """Take a lock: its fencing token, greater than any before; 0 if somebody has it."""
        if self._lock(ns, LOCK, name) is not None:
            return 0
        return self._take(ns, LOCK, name, expire_at, owner)

    def extend(self, ns: str, name: bytes, token: int, expire_at: int) -> bool:
        """Hold a lock until `expire_at`; False if `token` does not hold it any more."""
        held = self._lock(ns, LOCK, name)
        if held is None or held.token != token:
            return False
        slot = slot_of(self._space(ns), LOCK + name)
        self.drop_lock(slot)
        self.put_lock(slot, Lock(token, expire_at, held.owner))
        return True

    def unlock(self, ns: str, name: bytes, token: int) -> bool:
        """Give a lock back; False if `token` does not hold it any more."""
        held = self._lock(ns, LOCK, name)
        if held is None or held.token != token:
            return False
        self.drop_lock(slot_of(self._space(ns), LOCK + name))
        self.events.append((ns, name, "unlocked", token))
        return True

    def reserve(self, ns: str, key: bytes, expire_at: int) -> tuple[str, Entry | None, int]:
        """For computing a value once: what is there, the entry, and a token for who computes.

        HIT: fresh. STALE: may be used; with a token, compute it anew. LEAD: nothing is there,
        compute it. WAIT: somebody else does. (Leases of Nishtala et al., "Scaling Memcache at
        Facebook", NSDI 2013: a delete ends the reservation, so nothing outdated is kept.)
        """
        entry = self.get(ns, key)
        if entry is not None:
            return HIT, entry, 0
        entry = self.get(ns, key, True)
        state = LEAD if entry is None else STALE
        if self._lock(ns, FILL, key) is not None:
            return (WAIT if entry is None else STALE), entry, 0
        return state, entry, self._take(ns, FILL, key, expire_at, "")

    def release(self, ns: str, key: bytes, token: int) -> bool:
        """Give a reservation back without a value; False if `token` does not hold it any more."""
        held = self._lock(ns, FILL, key)
        if held is None or held.token != token:
            return False
        self.drop_lock(slot_of(self._space(ns), FILL + key))
        self.events.append((ns, key, "released", token))
        return True

    # ---------------------------------------------------------------- parts

    def _space(self, ns: str) -> Space:
        space = self.space(ns)
        if space is None:
            space = self._spaces[ns] = Space(ns, 0)
            self._renumber(space)
        return space

    def _renumber(self, space: Space) -> None:
        self._totals.spaces += 1
        space.number = self._totals.spaces
        space.changed = True
        self.tables.put(SPACES, NUMBER + _U32.pack(space.number), space.name.encode())

    def _next_version(self) -> int:
        self._totals.version += 1
        return self._totals.version

    def _take(self, ns: str, kind: bytes, name: bytes, expire_at: int, owner: str) -> int:
        slot = slot_of(self._space(ns), kind + name)
        self.drop_lock(slot)
        token = self._next_version()
        self.put_lock(slot, Lock(token, expire_at, owner))
        return token

    def put_lock(self, slot: bytes, lock: Lock) -> None:
        """Write a lock or reservation."""
        self._any_locks = True
        self.tables.put(LOCKS, slot, lock.pack())
        self.tables.put(EXPIRY, _TIME.pack(lock.expire_at) + A_LOCK + slot, b"")

    def drop_lock(self, slot: bytes) -> None:
        """Remove a lock or reservation, if there is one."""
        if not self._any_locks:
            return
        record = self.tables.get(LOCKS, slot)
        if record is not None:
            self.tables.delete(LOCKS, slot)
            self.tables.delete(EXPIRY, _TIME.pack(read_lock(record).expire_at) + A_LOCK + slot)

    def end_lock(self, slot: bytes) -> None:
        """Remove a lock or reservation that its holder did not give back; who waits is told."""
        if not self._any_locks:
            return
        record = self.tables.get(LOCKS, slot)
        if record is None:
            return
        self.drop_lock(slot)
        space = self.space_at(slot)
        if space is not None:
            kind = "unlocked" if slot[4:5] == LOCK else "released"
            self.events.append((space.name, slot[5:], kind, read_lock(record).token))

    def _drop_fills(self, space: Space, prefix: bytes) -> None:
        for slot, _ in list(self._starting(LOCKS, slot_of(space, FILL + prefix))):
            self.end_lock(slot)
