"""How the asyncio client waits: on the user's event loop, through the descriptors of the sockets.

Calls that are made in the same turn of the loop leave together, and what arrived together is taken
in together. There is no task and no timer per call: the core keeps the deadlines, and one timer
watches them.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakSet

from mesh.client.base import Options, begin
from mesh.client.calls import ENDED, Call
from mesh.client.core import ClientCore
from mesh.ending import Ending
from mesh.errors import CallError, MeshError


class Carrier(Protocol):
    """What moves the core's messages: `mesh.client.wire.Wire`, or its like in a test."""

    changed: int
    clock: Callable[[], float]
    on_open: Callable[[list[int]], None]
    on_close: Callable[[list[int]], None]

    def turn(self, rounds: int = ...) -> bool:
        """Receive, let time pass, send; True if there is more to do."""

    def flush(self) -> bool:
        """Send; True if it is necessary to `turn` afterwards."""

    def close(self) -> None:
        """End all connections."""


class Reading(Protocol):
    """What stands in `Call.handle` of a call with a stream."""

    def wake(self) -> None:
        """Something happened to the call."""


class LoopDriver:
    """One client's core and sockets on one event loop."""

    def __init__(self, core: ClientCore, wire: Carrier, loop: asyncio.AbstractEventLoop) -> None:
        self.core = core
        self.wire = wire
        self.loop = loop
        self._abandoned: deque[Call] = deque()
        self._woken: deque[Ending] = deque()
        self._clock = wire.clock
        self._ended = loop.create_future()
        self._ended.set_result(None)
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._forked = False
        wire.on_open = self._watch
        wire.on_close = self._unwatch
        _drivers.add(self)
        self._turn()

    def leave_to_parent(self) -> None:
        """This process is a fork: what is open belongs to the parent and must not be touched."""
        self._forked = True

    def aim(self, endpoints: Sequence[str], trouble: str) -> bool:
        """The brokers are at `endpoints` now; False if that is of no interest any more."""
        if self._forked or self.core.closed or self.loop.is_closed():
            return False
        with suppress(RuntimeError):  # closed at this moment
            self.loop.call_soon_threadsafe(self._aim, endpoints, trouble)
        return True

    def _aim(self, endpoints: Sequence[str], trouble: str) -> None:
        self.core.aim(endpoints, trouble, self.wire.clock())
        self.soon()

    def begin(self, options: Options, target: Any, frame: bytes, flags: int = 0) -> Call:
        """Begin a call; it leaves at the end of this turn of the loop."""
        if self._forked:
            raise MeshError("this client was made before the process forked; connect anew")
        call = begin(self.core, options, target, frame, self._clock(), flags)
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._turn)
        return call

    def ended(self, call: Call) -> Ending:
        """Done when the call, which has not ended, has. Who gives up waiting cancels the call."""
        call.handle = ending = Ending(self.loop)
        return ending

    def soon(self) -> None:
        """Send what the core has, at the end of this turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._turn)

    def cancel(self, call: Call, error: CallError | None = None) -> None:
        """End a call that has not ended, as cancelled or with `error`."""
        if call.state != ENDED and not self._forked:
            if error is None:
                self.core.cancel(call, self.wire.clock())
            else:
                self.core.fail(call, error, self.wire.clock())
            self.soon()

    def abandon(self, call: Call) -> None:
        """Cancel a call from wherever garbage is being collected."""
        self._abandoned.append(call)
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.soon)

    def taken(self, call: Call, items: int) -> None:
        """The caller has read `items` of a stream."""
        self.core.taken(call, items)
        self.soon()

    def chunk(self, call: Call, items: int, body: bytes, flags: int) -> None:
        """Send `items` of the caller's stream; there must be room."""
        self.core.chunk(call, items, body, flags)
        self.soon()

    def finish(self, call: Call, code: int = 0, fields: Mapping[str, Any] | None = None) -> None:
        """The caller's stream has ended."""
        self.core.finish(call, code, fields)
        self.soon()

    def close(self) -> None:
        """End all calls and connections."""
        if self._forked or self.core.closed:
            return
        self.core.close(self.wire.clock())
        self._turn()
        self.wire.close()
        if self._timer is not None:
            self._timer.cancel()

    def _turn(self) -> None:
        self._scheduled = False
        core = self.core
        while self._abandoned:
            core.cancel(self._abandoned.popleft(), self.wire.clock())
        # One round: what waits for the replies is to run, and its next calls to leave, before more
        # are read.
        unread = self.wire.turn(1)
        for call in core.take_news():
            handle = call.handle
            if isinstance(handle, Ending):
                if call.state == ENDED:
                    call.handle = None
                    self._woken.append(handle)
            elif handle is not None:
                handle.wake()
        if self._woken:
            self._step()
        if unread:
            self.soon()
        at = core.next_deadline()
        if at < self._timer_at - 0.001:
            self._arm(at)

    def _step(self) -> None:
        """Run the tasks whose calls have ended; what they call leaves together."""
        woken = self._woken
        ended = self._ended
        if asyncio.current_task(self.loop) is not None:
            # A task that closes the client: no other can run inside it.
            self.soon()
            return
        before = self._scheduled
        self._scheduled = True
        try:
            while woken:
                ending = woken.popleft()
                ending.wake(ended)
        except BaseException:  # SystemExit or the like: the rest of this turn is still to be done
            self._scheduled = before
            self.soon()
            raise
        self._scheduled = before
        if self.wire.flush():
            self.soon()

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        delay = max(0.0, at - self.wire.clock())
        self._timer = self.loop.call_later(delay, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        self._turn()

    def _watch(self, descriptors: list[int]) -> None:
        for fd in descriptors:
            self.loop.add_reader(fd, self._turn)

    def _unwatch(self, descriptors: list[int]) -> None:
        if not self.loop.is_closed():
            for fd in descriptors:
                self.loop.remove_reader(fd)


_drivers: WeakSet[LoopDriver] = WeakSet()


def _forked() -> None:
    for driver in list(_drivers):
        driver.leave_to_parent()


os.register_at_fork(after_in_child=_forked)
