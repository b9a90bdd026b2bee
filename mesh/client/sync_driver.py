"""How the blocking client waits: the calling threads themselves drive the sockets.

Threads that wait at the same time share the work: one of them, the leader, waits for the sockets
and takes in what arrives for all; the others wait for it, each at its own gate. When the leader has
what it waited for, it hands the lead on.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any
from weakref import WeakSet

from mesh import errors
from mesh.client import base
from mesh.client.base import Options
from mesh.client.calls import ENDED, Call, ClientSettings
from mesh.client.wire import Wire
from mesh.discovery import names
from mesh.errors import CallError
from mesh.spin import Spin

IDLE = 0.001


class Waker:
    """Ends a wait in another thread. `fd` is readable after `set`, until `clear`."""

    def __init__(self) -> None:
        self.fd, self._end = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._end, False)

    def set(self) -> None:
        with suppress(BlockingIOError):  # full: it is readable already
            os.write(self._end, b"\0")

    def clear(self) -> None:
        with suppress(BlockingIOError):
            while len(os.read(self.fd, 512)) == 512:
                pass

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._end)


class Driver:
    """One client's core and sockets, shared by its threads."""

    def __init__(self, endpoints: tuple[str, ...], settings: ClientSettings, spin: float) -> None:
        self.endpoints = endpoints
        self.settings = settings
        self.spin = Spin(spin)
        self.closed = False
        self.abandoned: deque[Call] = deque()  # by whoever lost interest and cannot say so itself
        self._left_behind: list[Any] = []
        self._start()
        with self.lock:
            self.wire.turn()
        names.follow(self.endpoints, self)
        _drivers.add(self)

    def _start(self) -> None:
        self.lock = threading.Lock()
        seed = int.from_bytes(os.urandom(16), "little")
        self.core = base.new_core(self.endpoints, self.settings, seed=seed, now=monotonic())
        self.wire = Wire(self.core)
        self._waker = Waker()
        self._gates: dict[Call, threading.Lock] = {}
        self._leader: Call | None = None
        self._until = 0.0
        self._poll = select.poll()
        self._polled = -1
        self.stale = False

    def leave_to_parent(self) -> None:
        """This process is a fork: what is open belongs to the parent and must not be touched."""
        self._left_behind += [self.wire, self.core, self.lock, self._poll]
        self.stale = True
        self.abandoned.clear()
        for call in list(self.core.calls.values()):
            # Its sequence number may come again here, for another call.
            call.error = errors.Cancelled(
                "the process forked; the call stays with the parent",
                maybe_executed=True,
                **call.identity(),
            )
            call.state = ENDED
        self.lock = threading.Lock()

    def refresh(self) -> None:
        """Connect anew in a forked child."""
        with self.lock:
            if self.stale:
                if not self.closed:  # else its descriptors may be somebody else's by now
                    self._waker.close()
                self._start()
                if self.closed:
                    self.core.close(monotonic())
                else:
                    names.follow(self.endpoints, self)

    def aim(self, endpoints: Sequence[str], trouble: str) -> bool:
        """The brokers are at `endpoints` now; False if that is of no interest any more."""
        with self.lock:
            if self.closed or self.stale:
                return False
            self.core.aim(endpoints, trouble, monotonic())
            self._turn()
            return True

    def begin(self, options: Options, target: Any, frame: bytes, flags: int = 0) -> Call:
        """Begin a call; it leaves with the next `turn`, which `wait` makes."""
        if self.stale:
            self.refresh()
        with self.lock:
            now = monotonic()
            if self._leader is None and now - self.wire.turned_at > IDLE:
                # Nobody has listened: hear of lost connections and drains before sending.
                self._turn()
            return base.begin(self.core, options, target, frame, now, flags)

    def turn(self) -> None:
        """Send and receive what can be, without waiting."""
        with self.lock:
            self._turn()

    def cancel(self, call: Call, error: CallError | None = None) -> None:
        """End a call that has not ended, as cancelled or with `error`."""
        with self.lock:
            if call.state != ENDED:
                if error is None:
                    self.core.cancel(call, monotonic())
                else:
                    self.core.fail(call, error, monotonic())
                self._turn()

    def taken(self, call: Call, items: int) -> None:
        """The caller has read `items` of a stream."""
        with self.lock:
            self.core.taken(call, items)
            self._turn()

    def chunk(self, call: Call, items: int, body: bytes, flags: int) -> None:
        """Send `items` of the caller's stream; there must be room."""
        with self.lock:
            self.core.chunk(call, items, body, flags)
            self._turn()

    def finish(self, call: Call, code: int = 0, fields: Mapping[str, Any] | None = None) -> None:
        """The caller's stream has ended."""
        with self.lock:
            self.core.finish(call, code, fields)
            self._turn()

    def close(self) -> None:
        """End all calls and connections, in whatever threads they are."""
        with self.lock:
            if self.closed or self.stale:
                self.closed = True
                return
            self.closed = True
            self.core.close(monotonic())
            self._turn()
            self.wire.close()
            if self._leader is None:
                self._waker.close()
            else:
                self._waker.set()

    def wait(self, call: Call, ready: Callable[[], bool]) -> None:
        """Drive the sockets, or let another thread do it, until `ready`.

        If the wait itself is interrupted, the call is cancelled.
        """
        self.lock.acquire()
        try:
            self._turn()
            while not ready():
                if self._leader is None:
                    self._lead(call, ready)
                else:
                    self._follow(call)
        except BaseException:
            if call.state != ENDED:
                self.core.cancel(call, monotonic())
                self._turn()
            raise
        finally:
            if self._leader is None and self._gates:
                self._gates.popitem()[1].release()
            self.lock.release()

    # The methods below are called with the lock held.

    def _turn(self) -> None:
        if self.stale:
            return
        wire = self.wire
        while self.abandoned:
            self.core.cancel(self.abandoned.popleft(), monotonic())
        while wire.turn():
            pass
        leader = self._leader
        for call in self.core.take_news():
            if call is leader:
                self._waker.set()
            elif (gate := self._gates.pop(call, None)) is not None:
                gate.release()
        if leader is not None and (
            wire.changed != self._polled or self.core.next_deadline() < self._until
        ):
            self._waker.set()

    def _follow(self, call: Call) -> None:
        gate = threading.Lock()
        gate.acquire()
        self._gates[call] = gate
        self.lock.release()
        try:
            gate.acquire()
        finally:
            self.lock.acquire()
            self._gates.pop(call, None)

    def _lead(self, call: Call, ready: Callable[[], bool]) -> None:
        spin = self.spin.due()
        try:
            while not ready():
                if spin and not self._gates:
                    found = self.wire.spin(spin)
                    self.spin.tell(found)
                    if found:
                        self._turn()
                        continue
                spin = 0.0
                if self.wire.changed != self._polled:
                    self._watch()
                self._leader = call
                self._until = self.core.next_deadline()
                timeout = max(0.0, self._until - monotonic())
                self.lock.release()
                try:
                    fired = self._poll.poll(min(timeout, 3600.0) * 1e3)
                finally:
                    self.lock.acquire()
                    self._leader = None
                if any(fd == self._waker.fd for fd, _ in fired):
                    self._waker.clear()
                self._turn()
        finally:
            if self.closed:
                self._waker.close()

    def _watch(self) -> None:
        self._polled = self.wire.changed
        self._poll = select.poll()
        for fd in (*self.wire.descriptors(), self._waker.fd):
            self._poll.register(fd, select.POLLIN)


_drivers: WeakSet[Driver] = WeakSet()


def _forked() -> None:
    for driver in list(_drivers):
        driver.leave_to_parent()


os.register_at_fork(after_in_child=_forked)
