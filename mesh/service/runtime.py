"""A worker process at work: between the sockets, the session and the handlers.

One thread drives: it moves frames and heartbeats, and runs what was declared inline. It is the I/O
thread, or, for a service with async handlers, their event loop, with the I/O thread to stand in
for it (`looped`). So a handler that blocks, or burns its processor, does not make its worker look
dead.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import random
import select
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from types import TracebackType
from typing import Any

from mesh.discovery import names
from mesh.errors import ConfigError
from mesh.protocol.messages import Body, Message
from mesh.service.declare import Service
from mesh.service.dispatch import Dispatcher
from mesh.service.invoke import Outbox, apply
from mesh.service.looped import LoopDrive
from mesh.service.session import SessionCore
from mesh.spin import SPIN, Spin
from mesh.transport import AnyLink, open_link, parse_endpoint

# Requests are read in portions: the broker and the callers work on the answers to one while this
# process works on the next.
LIMIT = 128
RETRY_SEND = 0.01
FLUSH_TTL = 1.0
DRAIN_TTL = 30.0
LEAVE_TTL = 3.0
LONGEST_WAIT = 60.0

log = logging.getLogger("mesh.service")


class Channel:
    """An open connection to a broker; `backlog` is what its socket would not take yet."""

    __slots__ = ("backlog", "link", "number", "pump", "watch")

    def __init__(self, number: int, link: AnyLink) -> None:
        self.number = number
        self.link = link
        self.pump = link.pump
        self.watch = link.watch
        self.backlog: list[tuple[int, Message]] = []

    def descriptors(self) -> tuple[int, ...]:
        """What to watch; edge-triggered: after one fires, or anything was sent, look again."""
        return self.link.descriptors()

    def close(self) -> None:
        """End the connection; what was sent before still leaves."""
        self.link.close(FLUSH_TTL)


class Runtime:
    """Serves one service in this process, registered at every broker.

    `start` returns at once; `wait_ready` waits for a broker. `stop` drains. As a context manager it
    is stopped at the end.
    """

    def __init__(self, service: Service, brokers: Sequence[str]) -> None:
        if not service.methods:
            raise ConfigError(f"service {service.name!r} has no methods; declare one with @rpc")
        self.service = service
        self._brokers = [parse_endpoint(broker) for broker in brokers]
        self._core = SessionCore(
            service.name,
            service.methods.values(),
            service.lanes(),
            names.addressed(self._brokers),
            uniform=random.random,
            facts={
                **service.facts,
                "instance": uuid.uuid4().hex,
                "version": service.version,
                "host": socket.gethostname(),
                "pid": os.getpid(),
            },
            heartbeat=service.heartbeat,
            incarnation=random.getrandbits(64),
            now=time.monotonic(),
        )
        # The first outcome wakes who drives, the following ride along.
        self._outbox = Outbox(self._rouse)
        self._dispatcher = Dispatcher(service, self._outbox)
        self.channels: dict[int, Channel] = {}
        self._commands: deque[Callable[[float], None]] = deque()
        self._sleeping = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._poll: select.poll | None = None
        self._spin = Spin(SPIN if service.spin else 0.0)
        self._spun = True
        self._noticed: set[str] = set()
        self._ready = threading.Event()
        self._stopped = threading.Event()
        self._stop_lock = threading.Lock()
        self._shut_down = False
        self._broken = False
        thread = self._dispatcher.loop_thread
        self._drive = LoopDrive(self, thread) if thread is not None else None
        self._thread = threading.Thread(
            target=self._work, name=f"mesh-{service.name}-io", daemon=True
        )

    # ---------------------------------------------------------------- for other threads

    def start(self) -> Runtime:
        """Run the start-up hooks here, then begin to register. What a hook raises is raised."""
        try:
            self._dispatcher.run(self._dispatcher.start_up())
        except BaseException:
            self._dispatcher.stop(0.0)
            self._close()
            raise
        # What exists by now lives as long as the process: no need to look through it again.
        gc.collect()
        gc.freeze()
        self._thread.start()
        names.follow(self._brokers, self)
        return self

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until the service is registered at a broker; False if `timeout` passed before."""
        return self._ready.wait(timeout)

    def wait_stopped(self, timeout: float | None = None) -> bool:
        """Wait until the I/O thread has ended; False if `timeout` passed before."""
        return self._stopped.wait(timeout)

    @property
    def counters(self) -> dict[str, int]:
        """What was dropped, refused or lost, by reason, since the start."""
        return dict(self._core.counters)

    def look(self, timeout: float) -> dict[str, Any] | None:
        """What the session knows, as plain data; None if nothing answers within `timeout` seconds.

        `service`, `brokers` (registered at), `draining`, `in_hand` (by lane), `counters`.
        """
        found: dict[str, Any] = {}
        done = threading.Event()

        def look(now: float) -> None:
            core = self._core
            found.update(
                service=self.service.name,
                brokers=core.live,
                draining=core.draining,
                in_hand={name: lane.in_hand for name, lane in core.lanes.items()},
                counters=dict(core.counters),
            )
            done.set()

        self._command(look)
        return found if done.wait(timeout) else None

    def aim(self, endpoints: Sequence[str], trouble: str) -> bool:
        """The brokers are at `endpoints` now; False if that is of no interest any more."""
        if trouble and trouble not in self._noticed:
            self._noticed.add(trouble)
            log.warning("%s: %s", self.service.name, trouble)
        if self._stopped.is_set():
            return False
        self._command(lambda now: self._core.aim(endpoints, now))
        return True

    def set_lane(self, name: str, capacity: int, epoch: int = 0) -> None:
        """Serve `capacity` requests at a time in lane `name` from now on; 0 gives it up.

        With `epoch` the lane is claimed: brokers let only the newest claim serve it.
        """
        self._command(lambda now: self._core.set_lane(name, capacity, now, epoch))

    def stop(self, timeout: float = DRAIN_TTL) -> bool:
        """Take no new work, finish what is in hand, leave, run the shut-down hooks.

        After `timeout` seconds it leaves what still runs. True if everything was finished; False
        also if the I/O thread had ended with an error.
        """
        with self._stop_lock:
            if self._thread.ident is None:
                self._never_started()
                return True
            self._command(self._core.drain)
            if self.service.drain_hooks:
                self._dispatcher.run(self._dispatcher.leaving())
            finished = self._stopped.wait(timeout) and not self._broken
            if not self._stopped.is_set():
                self._command(self._core.leave)
                self._stopped.wait(LEAVE_TTL)
            if not self._shut_down:
                self._shut_down = True
                try:
                    self._dispatcher.run(self._dispatcher.shut_down())
                finally:
                    self._dispatcher.stop(LEAVE_TTL if finished else 0.0)
                    if self._stopped.is_set():
                        self._close()
        return finished

    def _never_started(self) -> None:
        """There is nothing to wait for, and no hook has begun what another would have to end."""
        self._stopped.set()
        if not self._shut_down:
            self._shut_down = True
            self._dispatcher.stop(LEAVE_TTL)
            self._close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _close(self) -> None:
        self._wake_in.close()
        self._wake_out.close()

    def _command(self, command: Callable[[float], None]) -> None:
        self._commands.append(command)
        self._rouse()

    def _rouse(self) -> None:
        if self._sleeping:
            self.wake()
        elif self._drive is not None:
            self._drive.soon()

    def wake(self) -> None:
        """End the `wait` of the I/O thread; from any thread."""
        self._sleeping = False
        # Full of wake-ups already, or closed: there is nobody left to wake.
        with suppress(OSError):
            self._wake_out.send(b"\0")

    # ---------------------------------------------------------------- for the thread that drives

    def _work(self) -> None:
        try:
            if self._drive is not None:
                self._drive.guard()
            else:
                while not self.done:
                    if not self.step() and not self.spin():
                        self.wait()
        except BaseException:
            self._broken = True
            log.critical("the I/O thread of %s ended", self.service.name, exc_info=True)
        finally:
            for channel in self.channels.values():
                channel.close()
            self._stopped.set()

    @property
    def done(self) -> bool:
        """Whether the drain is over."""
        return self._core.done

    @property
    def in_hand(self) -> int:
        """Requests that have not ended."""
        return self._core.in_hand

    @property
    def waiting(self) -> bool:
        """Whether outcomes or commands wait for who drives."""
        return bool(self._outbox or self._commands)

    def count(self, reason: str) -> None:
        """Count that something happened."""
        counters = self._core.counters
        counters[reason] = counters.get(reason, 0) + 1

    def next_deadline(self) -> float:
        """When `step` has something to do, even if nothing happens."""
        if any([channel.backlog for channel in self.channels.values()]):
            return time.monotonic() + RETRY_SEND
        return min(self._core.next_deadline(), self._dispatcher.next_deadline())

    def step(self) -> bool:
        """Receive, act and send once; whether anything happened."""
        now = time.monotonic()
        return self._turn(now, self._receive(now))

    def answer(self) -> None:
        """Send what handlers have answered, and nothing else."""
        apply(self._core, self._outbox.take())
        self._send(time.monotonic())

    def spin(self) -> bool:
        """Keep trying to receive for a moment, if all is quiet after traffic."""
        channels = self.channels
        if self._spun or len(channels) != 1 or self._core.in_hand:
            return False
        self._spun = True
        if not (duration := self._spin.due()):
            return False
        channel = next(iter(channels.values()))
        found = channel.pump.read(LIMIT, duration)
        self._spin.tell(bool(found))
        if not found:
            return False
        now = time.monotonic()
        self._feed(channel, found, now)
        self._turn(now, True)
        return True

    def wait(self) -> None:
        """Block until something happens or is due. Handlers' outcomes end it through `wake`."""
        self._sleeping = True
        if not self.waiting:
            due = self.next_deadline() - time.monotonic()
            self._block(min(LONGEST_WAIT, max(0.0, due)))
        self._sleeping = False

    def _turn(self, now: float, active: bool) -> bool:
        """Let the session and the handlers act, and send; whether anything happened."""
        core = self._core
        commands = self._commands
        while commands:
            commands.popleft()(now)
            active = True
        if self._dispatcher.turn(core, now):
            active = True
        outbox = self._outbox
        if outbox:
            apply(core, outbox.take())
            active = True
        core.tick(now)
        return self._send(now) or active

    def _receive(self, now: float) -> bool:
        active = False
        for channel in list(self.channels.values()):
            watch = channel.watch
            watch.drain()
            found = channel.pump.read(LIMIT)
            if found:
                active = True
                self._feed(channel, found, now)
            if watch.lost and channel.pump.drained:
                log.debug("%s: %s", channel.link.endpoint, watch.lost)
                self._core.lost(channel.number, now)
                active = True
        return active

    def _feed(
        self, channel: Channel, found: list[tuple[bytes, Message | list[Body]]], now: float
    ) -> None:
        self._spun = False
        for _ in range(self._core.receive_all(channel.number, found, now)):
            self.count("dropped:malformed")

    def _send(self, now: float) -> bool:
        """Open links, send everything, close links; whether there was anything to do."""
        core = self._core
        actions = core.take_links()
        messages = core.take()
        for channel in self.channels.values():
            if channel.backlog:
                waiting, channel.backlog = channel.backlog, []
                self._push(channel, waiting)
        if not actions and not messages:
            return False
        for number, endpoint in actions:
            if endpoint is not None:
                self._open(number, endpoint, now)
        if messages:
            for number, group in groupby(messages, itemgetter(0)):
                self._send_to(number, list(group))
        for number, endpoint in actions:
            if endpoint is None and number in self.channels:
                self._poll = None
                channel = self.channels.pop(number)
                if self._drive is not None:
                    self._drive.retire(channel)
                else:
                    channel.close()
        if actions or not self._ready.is_set():
            self._report()
        return True

    def _send_to(self, number: int, entries: list[tuple[int, Message]]) -> None:
        channel = self.channels.get(number)
        if channel is None:
            return
        if channel.backlog:
            channel.backlog += entries
        else:
            self._push(channel, entries)

    def _push(self, channel: Channel, entries: list[tuple[int, Message]]) -> None:
        failed = channel.pump.write(entries)
        if failed:
            channel.backlog = [entries[index] for index, _ in failed]

    def _open(self, number: int, endpoint: str, now: float) -> None:
        try:
            channel = Channel(number, open_link(endpoint))
        except Exception as error:  # out of descriptors, no such host: all are reasons to try later
            log.warning("%s", error)
            self._core.lost(number, now)
            return
        self.channels[number] = channel
        self._poll = None

    def _report(self) -> None:
        if self._core.live and not self._ready.is_set():
            self._ready.set()
        for notice in self._core.notices:
            if notice not in self._noticed and len(self._noticed) < 1000:
                self._noticed.add(notice)
                log.warning("%s: %s", self.service.name, notice)
        self._core.notices.clear()

    def _block(self, timeout: float) -> None:
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._wake_in, select.POLLIN)
            for channel in self.channels.values():
                for fd in channel.descriptors():
                    self._poll.register(fd, select.POLLIN)
        self._poll.poll(math.ceil(timeout * 1e3))
        with suppress(BlockingIOError):
            self._wake_in.recv(4096)
