"""Requests that come twice are done once: their outcomes lie in the transaction of their effects.

**By request id.** A request is named by its client's session (the incarnation, random and new for
each client) and its number in it. The outcome of number n lies in slot n mod 1024 of its session
and stays there until a higher number needs the slot, so at least the last 1,024 numbers of each
session are known. A number whose slot holds a higher one is too old to tell whether it was done: it
is refused with OutcomeUnknown, never run.

**By a key of the caller's own.** The outcome is kept for `KEEP` seconds after it came to be.

**Forgetting.** A session that has written nothing for `KEEP` seconds loses its slots. What remains
for another `REMEMBER` seconds is the highest number it had: a copy of an old request that turns up
late (out of a process that was stopped, say) is refused with OutcomeUnknown, and a live client goes
on with higher numbers and notices nothing. Only after `KEEP + REMEMBER` without a sign is a session
unknown; a call has ended 300 s after it began, so a copy older than that has outlived its call more
than two hundred times. These times are counted by a clock of the store that runs only while a
writer does and is saved with what it writes: it cannot jump, and a stop delays forgetting.

**Full.** Nothing is forgotten to make room. When the records take `quota` octets on disk, a request
that needs a new one is refused with QuotaExceeded before it is run; those that use a slot again, or
only repeat, are served.

A request that failed has left no trace and is not remembered: sent again, it is run again. The same
id or key with another content is refused with KeyReused.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Final

from xxhash import xxh3_128

from mesh.errors import InvalidArgument, KeyReused, OutcomeUnknown, QuotaExceeded
from workers.store.checksum import printable
from workers.store.expiry import ExpiryIndex
from workers.store.tables import Change, Table
from workers.store.writer import Job

TABLES: Final = {"dedup": False, "dedup.due": True}
"""Tables that a store with a `Dedup` must be opened with."""

WINDOW: Final = 1024
KEEP: Final = 600.0
REMEMBER: Final = 24 * 3600.0
QUOTA: Final = 256 * 1024 * 1024
MAX_KEY: Final = 255
MAX_OUTCOME: Final = 64 * 1024
"""Octets of an outcome that are kept. Of a larger one only the fact is: see `once`."""

_TOUCH_EVERY_MS: Final = 60_000
_MAX_CACHED: Final = 65_536
_MEASURE_EVERY: Final = 64
_KEEP_MS: Final = int(KEEP * 1000)
_REMEMBER_MS: Final = int(REMEMBER * 1000)
_LAST_NUMBER: Final = 2**64 - 1
_SWEEP_EVERY: Final = 1.0
_SWEEP_LIMIT: Final = 64

_CLOCK: Final = b"c"
_HEAD: Final = struct.Struct(">QQ?")
"""Of a session: lowest number that may still be done, when it is due, whether it has its slots."""
_RECORD: Final = struct.Struct(">Q?16s")
"""Number (of a key: when due), whether the outcome is kept, digest of the content."""
_NUMBER: Final = struct.Struct(">Q")
_SLOT: Final = struct.Struct(">cQH")
_SESSION: Final = struct.Struct(">cQ")


def digest(*parts: bytes | memoryview) -> bytes:
    """What tells the content of one request from that of another: 16 octets, not cryptographic."""
    hashed = xxh3_128()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.digest()


class Dedup:
    """The records of one store, in the process that writes. Make a new one for each term."""

    def __init__(
        self,
        tables: dict[str, Table],
        *,
        quota: int = QUOTA,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use two of the store's `tables`. `quota`: octets on disk. `clock`: seconds, monotonic."""
        self._table = tables["dedup"]
        self._due_table = tables["dedup.due"]
        self._due = ExpiryIndex(self._due_table)
        self._quota = quota
        self._clock = clock
        self._began = clock()
        self._base_ms: int | None = None
        self._swept_at = self._began
        self._cached: dict[int, tuple[int, int, bool]] = {}
        # Of sessions that began in this term, the highest number that was ever given to `remember`,
        # or more: no slot of theirs holds a higher one.
        self._highest: dict[int, int] = {}
        self._left = 0
        self._unmeasured = _MEASURE_EVERY

    def once(
        self,
        change: Change,
        run: Callable[[Change], bytes],
        *,
        session: int,
        sequence: int,
        content: bytes,
        key: bytes = b"",
    ) -> bytes:
        """The outcome of a request: of `run(change)`, or what that was the first time.

        `session`, `sequence`: the request id, 64 bits each. `key`: the caller's own idempotency
        key, 1 to 255 octets; where there is one, it alone counts. `content`: `digest` of
        everything that the request asks for. An outcome beyond MAX_OUTCOME is returned the first
        time, and OutcomeUnknown from then on.

        Raises:
            KeyReused: the id or key was used for another content.
            OutcomeUnknown: it is, or may be, a repetition whose outcome is no longer kept.
            QuotaExceeded: there is no room for a new record.
            InvalidArgument: `key` is too long.
            Exception: whatever `run` raises; nothing is recorded.
        """
        known = (
            self.recall_key(change, key, content)
            if key
            else self.recall(change, session, sequence, content)
        )
        if known is not None:
            return known
        outcome = run(change)
        if key:
            self.remember_key(change, key, content, outcome)
        else:
            self.remember(change, session, sequence, content, outcome)
        return outcome

    def recall(self, change: Change, session: int, sequence: int, content: bytes) -> bytes | None:
        """The outcome of a request that was done; None of one that was not, and may be done now.

        `once` in two steps: what was done is told to `remember`, in the same change.

        Raises:
            KeyReused, OutcomeUnknown, QuotaExceeded, InvalidArgument: as `once`.
        """
        if not (0 <= session <= _LAST_NUMBER and 0 <= sequence < _LAST_NUMBER):
            raise InvalidArgument(f"{session}-{sequence} is no request id: 64 bits each")
        head = self._head(change, session, self._now_ms(change))
        first = head[0]
        found = None
        highest = self._highest.get(session)
        new = head[1] == 0 if highest is None else sequence > highest
        if not (new and self._has_room(change)):
            found = change.get(self._table, _SLOT.pack(b"r", session, sequence % WINDOW))
        if found is not None:
            number = _RECORD.unpack_from(found)[0]
            if number == sequence:
                return _repeated(found, content, f"request {session:x}-{sequence}")
            first = max(first, number + 1)
        if sequence < first:
            raise OutcomeUnknown(
                f"request {session:x}-{sequence} came too late: its session has gone on so far, or"
                " been idle so long, that it is not known whether it was done",
                maybe_executed=True,
            )
        if found is None:
            self._check_room(change)
        return None

    def remember(
        self, change: Change, session: int, sequence: int, content: bytes, outcome: bytes
    ) -> None:
        """Record what became of a request that `recall` did not know."""
        now_ms = self._now_ms(change)
        _, due, alive = self._head(change, session, now_ms)
        if not (alive and _fresh(due, now_ms)):
            self._touch(change, session, now_ms)
        highest = self._highest.get(session, sequence if due == 0 else None)
        if highest is not None:
            self._raise_highest(session, max(highest, sequence))
        self._put(change, _SLOT.pack(b"r", session, sequence % WINDOW), sequence, content, outcome)

    def housekeeping(self) -> Job | None:
        """A job that forgets what is due, at most one a second; None if it is not time for it."""
        now = self._clock()
        if now - self._swept_at < _SWEEP_EVERY:
            return None
        self._swept_at = now
        return Job(self.sweep, releases=True)

    def sweep(self, change: Change, limit: int = _SWEEP_LIMIT) -> int:
        """Forget at most `limit` sessions and keys that are due, save the clock. How many."""
        now_ms = self._now_ms(change)
        due = self._due.due(change, now_ms, limit)
        for at_ms, name in due:
            self._due.remove(change, at_ms, name)
            if name[:1] == b"h":
                self._forget_session(change, name, now_ms)
            else:
                change.delete(self._table, name)
        change.put(self._table, _CLOCK, _NUMBER.pack(now_ms))
        self._unmeasured = _MEASURE_EVERY
        return len(due)

    # ------------------------------------------------------------ sessions

    def _head(self, change: Change, session: int, now_ms: int) -> tuple[int, int, bool]:
        cached = self._cached.get(session)
        if cached is not None and _fresh(cached[1], now_ms):
            return cached
        return self._stored_head(change, _SESSION.pack(b"h", session))

    def _stored_head(self, change: Change, name: bytes) -> tuple[int, int, bool]:
        found = change.get(self._table, name)
        return _HEAD.unpack(found) if found is not None else (0, 0, False)

    def _touch(self, change: Change, session: int, now_ms: int) -> None:
        """The session is in use: it is due later."""
        name = _SESSION.pack(b"h", session)
        first, due, _ = self._stored_head(change, name)
        if due:
            self._due.remove(change, due, name)
        head = (first, now_ms + _KEEP_MS, True)
        change.put(self._table, name, _HEAD.pack(*head))
        self._due.add(change, head[1], name)
        change.after_commit(lambda: self._cache(session, head))

    def _cache(self, session: int, head: tuple[int, int, bool]) -> None:
        if len(self._cached) >= _MAX_CACHED:
            self._cached.clear()
        self._cached[session] = head

    def _raise_highest(self, session: int, number: int) -> None:
        if len(self._highest) >= _MAX_CACHED and session not in self._highest:
            self._highest.clear()
        self._highest[session] = number

    def _forget_session(self, change: Change, name: bytes, now_ms: int) -> None:
        """Leave of a session no more than how far it came; in the end not even that."""
        first, _, alive = self._stored_head(change, name)
        if not alive:
            change.delete(self._table, name)
            return
        slots = list(change.items(self._table, prefix=b"r" + name[1:]))
        for slot, record in slots:
            first = max(first, _RECORD.unpack_from(record)[0] + 1)
            change.delete(self._table, slot)
        change.put(self._table, name, _HEAD.pack(first, now_ms + _REMEMBER_MS, False))
        self._due.add(change, now_ms + _REMEMBER_MS, name)

    # ------------------------------------------------------------ keys

    def recall_key(self, change: Change, key: bytes, content: bytes) -> bytes | None:
        """As `recall`, of a request under the caller's own `key`."""
        if len(key) > MAX_KEY:
            raise InvalidArgument(
                f"an idempotency key has at most {MAX_KEY} octets, not {len(key)}"
            )
        found = change.get(self._table, b"k" + key)
        if found is not None:
            return _repeated(found, content, f"idempotency key {printable(key)}")
        self._check_room(change)
        return None

    def remember_key(self, change: Change, key: bytes, content: bytes, outcome: bytes) -> None:
        """As `remember`, of a request under the caller's own `key`."""
        name = b"k" + key
        due = self._now_ms(change) + _KEEP_MS
        self._put(change, name, due, content, outcome)
        self._due.add(change, due, name)

    # ------------------------------------------------------------ common

    def _put(
        self, change: Change, name: bytes, number: int, content: bytes, outcome: bytes
    ) -> None:
        kept = len(outcome) <= MAX_OUTCOME
        record = _RECORD.pack(number, kept, content) + (outcome if kept else b"")
        change.put(self._table, name, record)
        self._left -= len(record)

    def _has_room(self, change: Change) -> bool:
        """Whether there is room for another record."""
        self._unmeasured += 1
        if self._left <= 0 or self._unmeasured >= _MEASURE_EVERY:
            self._left = self._quota - change.size(self._table) - change.size(self._due_table)
            self._unmeasured = 0
        return self._left > 0

    def _check_room(self, change: Change) -> None:
        """Raise QuotaExceeded if the records take all that they may."""
        if not self._has_room(change):
            raise QuotaExceeded(
                f"the records that keep requests from being done twice take {self._quota} octets;"
                f" they are kept for {KEEP:g} s: write less often, or raise the quota",
                retry_after=10.0,
            )

    def _now_ms(self, change: Change) -> int:
        if self._base_ms is None:
            saved = change.get(self._table, _CLOCK)
            self._base_ms = _NUMBER.unpack(saved)[0] if saved is not None else 0
        return self._base_ms + int((self._clock() - self._began) * 1000)


def _fresh(due: int, now_ms: int) -> bool:
    """Whether a session that is due at `due` need not be touched yet."""
    return due - now_ms > _KEEP_MS - _TOUCH_EVERY_MS


def _repeated(record: bytes, content: bytes, what: str) -> bytes:
    """The outcome in a record, for a request that came again."""
    _, kept, first_content = _RECORD.unpack_from(record)
    if first_content != content:
        raise KeyReused(f"{what} was used before, for something else; use a new one")
    if not kept:
        raise OutcomeUnknown(
            f"{what} was done; its outcome had more than {MAX_OUTCOME} octets and was not kept",
            maybe_executed=True,
        )
    return record[_RECORD.size :]
