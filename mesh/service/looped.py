"""A service with async handlers: its event loop drives the sockets itself, and a thread guards it.

A request that a loop reads, runs and answers needs no other thread; each hand-over would cost a
wake-up, which is most of what a short call costs. But a handler that blocks the loop must not stop
the heartbeats, nor the answers of handlers on other threads. So the guard looks now and then: if
something is due and the loop has not moved since, the guard drives until the loop comes back.

Whoever drives holds the lock, so the sockets are used by one thread at a time.
"""

from __future__ import annotations

import asyncio
import math
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from mesh.service.loop import LoopThread, running_loop

if TYPE_CHECKING:
    from mesh.service.runtime import Channel, Runtime

GUARD_EVERY = 0.02
GUARD_EVERY_IDLE = 0.1
LATE = 0.02
LET_GO_TTL = 1.0


class LoopDrive:
    """Drives `runtime` on the loop of `thread`.

    `guard` is run by the runtime's own thread, until the end.
    """

    def __init__(self, runtime: Runtime, thread: LoopThread) -> None:
        self._runtime = runtime
        self._loop = thread.loop
        thread.runner.driven = True
        # Outside of the lock: a handler that blocks must not keep the guard from driving.
        self._run_queued = thread.runner.run_queued
        self._driving = threading.Lock()
        self._over = threading.Event()
        self._scheduled = False
        self._asked_back = False
        self._steps = 0
        self._due_at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._watched: dict[int, tuple[int, ...]] = {}
        self._retired: list[Channel] = []
        self._error: BaseException | None = None

    def soon(self) -> None:
        """Let the loop look what there is to do; from any thread."""
        if self._scheduled:
            return
        self._scheduled = True
        if running_loop() is self._loop:
            self._loop.call_soon(self._step)
        else:
            with suppress(RuntimeError):  # the loop has ended: so has everything else
                self._loop.call_soon_threadsafe(self._step)

    def retire(self, channel: Channel) -> None:
        """Close the link of `channel` as soon as the loop no longer watches it."""
        self._retired.append(channel)

    # ---------------------------------------------------------------- on the loop

    def _step(self) -> None:
        self._scheduled = False
        if not self._driving.acquire(blocking=False):
            self._asked_back = True
            self._runtime.wake()
            return
        try:
            if self._over.is_set():
                return
            again = self._runtime.step()
            self._steps += 1
            again = self._tidy() or again or self._runtime.spin()
            if self._runtime.done:
                self._over.set()
            elif again:
                self.soon()
            else:
                self._arm()
        except BaseException as error:
            self._error = error
            self._over.set()
        finally:
            self._driving.release()
        self._run_queued()
        if self._runtime.waiting:
            self._answer()

    def _answer(self) -> None:
        """Send what the handlers have answered, unless the guard does it."""
        if not self._driving.acquire(blocking=False):
            return
        try:
            if not self._over.is_set():
                self._runtime.answer()
        except BaseException as error:
            self._error = error
            self._over.set()
        finally:
            self._driving.release()

    def _readable(self) -> None:
        if not self._scheduled:
            self._step()

    def _tidy(self) -> bool:
        """Watch new channels and let go of old ones; whether there were any."""
        channels = self._runtime.channels
        if not self._retired and channels.keys() == self._watched.keys():
            return False
        for number in self._watched.keys() - channels.keys():
            self._unwatch(number)
        for channel in self._retired:
            channel.close()
        self._retired.clear()
        for number in channels.keys() - self._watched.keys():
            descriptors = self._watched[number] = channels[number].descriptors()
            for fd in descriptors:
                self._loop.add_reader(fd, self._readable)
        return True

    def _unwatch(self, number: int) -> None:
        for fd in self._watched.pop(number):
            self._loop.remove_reader(fd)

    def _arm(self) -> None:
        self._due_at = at = self._runtime.next_deadline()
        if at < self._timer_at - 0.001:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_later(max(0.0, at - time.monotonic()), self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        self._step()

    def _let_go(self) -> None:
        for number in list(self._watched):
            self._unwatch(number)
        if self._timer is not None:
            self._timer.cancel()

    # ---------------------------------------------------------------- on the guard's thread

    def guard(self) -> None:
        """Watch over the loop until everything is over; raises what ended it early."""
        self.soon()
        seen = -1
        over = self._over
        while not over.wait(GUARD_EVERY if self._runtime.in_hand else GUARD_EVERY_IDLE):
            steps = self._steps
            if steps == seen and self._neglected():
                self._take_over()
            seen = steps
        self._on_loop(self._let_go)
        with self._driving:
            for channel in self._retired:
                channel.close()
        if self._error is not None:
            raise self._error

    def _neglected(self) -> bool:
        """Whether there is something to do that the loop does not do."""
        if self._runtime.waiting or self._due_at + LATE < time.monotonic():
            return True
        poll = select.poll()
        for descriptors in list(self._watched.values()):
            for fd in descriptors:
                poll.register(fd, select.POLLIN)
        return any(event & select.POLLIN for _, event in poll.poll(0))

    def _take_over(self) -> None:
        if not self._driving.acquire(blocking=False):
            return
        runtime = self._runtime
        try:
            runtime.count("guard:took_over")
            self._asked_back = False
            while not self._asked_back and not runtime.done:
                if not runtime.step():
                    runtime.wait()
            if runtime.done:
                self._over.set()
        finally:
            self._driving.release()
        self._scheduled = False
        self.soon()

    def _on_loop(self, action: Callable[[], None]) -> None:
        """Run `action` on the loop, and wait for it unless the loop is stuck."""
        finished = threading.Event()

        def run() -> None:
            action()
            finished.set()

        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(run)
            finished.wait(LET_GO_TTL)
