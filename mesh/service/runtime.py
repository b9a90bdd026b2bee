"""A worker process at work: the I/O thread between the sockets, the session and the handlers.

The I/O thread only moves frames and heartbeats, plus what was declared inline. So a handler that
blocks, or burns its processor, does not make its worker look dead.
"""

from __future__ import annotations

import gc
import logging
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

from mesh.errors import ConfigError
from mesh.protocol.messages import Body, Message
from mesh.service.declare import Service
from mesh.service.dispatch import Dispatcher
from mesh.service.invoke import Outcome, apply
from mesh.service.session import SessionCore
from mesh.transport import Link, Pump, dealer_socket, parse_endpoint

LIMIT = 256
SPIN = 100e-6
RETRY_SEND = 0.01
FLUSH_TTL = 1.0
DRAIN_TTL = 30.0
LEAVE_TTL = 3.0
LONGEST_WAIT = 60.0

log = logging.getLogger("mesh.service")


class Channel:
    """An open connection to a broker; `backlog` is what its socket would not take yet."""

    __slots__ = ("backlog", "link", "number", "pump", "watch")

    def __init__(self, number: int, link: Link) -> None:
        self.number = number
        self.link = link
        self.pump = link.pump
        self.watch = link.watch
        self.backlog: list[tuple[int, Message]] = []


class Runtime:
    """Serves one service in this process, registered at every broker.

    `start` returns at once; `wait_ready` waits for a broker. `stop` drains. As a context manager it
    is stopped at the end.
    """

    def __init__(self, service: Service, brokers: Sequence[str]) -> None:
        if not service.methods:
            raise ConfigError(f"service {service.name!r} has no methods; declare one with @rpc")
        self.service = service
        self._core = SessionCore(
            service.name,
            service.methods.values(),
            service.lanes(),
            [parse_endpoint(broker) for broker in brokers],
            uniform=random.random,
            facts={
                "instance": uuid.uuid4().hex,
                "version": service.version,
                "host": socket.gethostname(),
                "pid": os.getpid(),
            },
            heartbeat=service.heartbeat,
            incarnation=random.getrandbits(64),
            now=time.monotonic(),
        )
        self._dispatcher = Dispatcher(service, self._post)
        self._channels: dict[int, Channel] = {}
        self._outbox: deque[Outcome] = deque()
        self._commands: deque[Callable[[float], None]] = deque()
        self._sleeping = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._waiter: Pump | None = None
        self._spun = True
        self._noticed: set[str] = set()
        self._ready = threading.Event()
        self._stopped = threading.Event()
        self._stop_lock = threading.Lock()
        self._shut_down = False
        self._broken = False
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
            if self._thread.ident is None:  # never started: there is nothing to wait for
                self._stopped.set()
            self._command(self._core.drain)
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
        if self._sleeping:
            self._wake()

    def _post(self, outcome: Outcome) -> None:
        """Hand an outcome to the I/O thread. The first one wakes it, the following ride along."""
        self._outbox.append(outcome)
        if self._sleeping:
            self._wake()

    def _wake(self) -> None:
        self._sleeping = False
        # Full of wake-ups already, or closed: there is nobody left to wake.
        with suppress(OSError):
            self._wake_out.send(b"\0")

    # ---------------------------------------------------------------- the I/O thread

    def _work(self) -> None:
        try:
            while not self._core.done:
                now = time.monotonic()
                if not self._turn(now, self._receive(now)):
                    self._wait()
        except BaseException:
            self._broken = True
            log.critical("the I/O thread of %s ended", self.service.name, exc_info=True)
        finally:
            for channel in self._channels.values():
                channel.link.close(FLUSH_TTL)
            self._stopped.set()

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
            apply(core, [outbox.popleft() for _ in range(len(outbox))])
            active = True
        core.tick(now)
        return self._send(now) or active

    def _receive(self, now: float) -> bool:
        active = False
        for channel in list(self._channels.values()):
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
        receive = self._core.receive
        number = channel.number
        for _, message in found:
            if type(message) is Message:
                receive(number, message, now)
            else:
                counters = self._core.counters
                counters["dropped:malformed"] = counters.get("dropped:malformed", 0) + 1

    def _send(self, now: float) -> bool:
        """Open links, send everything, close links; whether there was anything to do."""
        core = self._core
        actions = core.take_links()
        messages = core.take()
        for channel in self._channels.values():
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
            if endpoint is None and number in self._channels:
                self._channels.pop(number).link.close(FLUSH_TTL)
                self._waiter = None
        if actions or not self._ready.is_set():
            self._report()
        return True

    def _send_to(self, number: int, entries: list[tuple[int, Message]]) -> None:
        channel = self._channels.get(number)
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
            channel = Channel(number, dealer_socket(endpoint))
        except Exception as error:  # out of descriptors, no such host: all are reasons to try later
            log.warning("%s", error)
            self._core.lost(number, now)
            return
        self._channels[number] = channel
        self._waiter = None

    def _report(self) -> None:
        if self._core.live and not self._ready.is_set():
            self._ready.set()
        for notice in self._core.notices:
            if notice not in self._noticed and len(self._noticed) < 1000:
                self._noticed.add(notice)
                log.warning("%s: %s", self.service.name, notice)
        self._core.notices.clear()

    # ---------------------------------------------------------------- waiting

    def _wait(self) -> None:
        """Block until something happens or is due. Handlers' outcomes wake it through `_wake`."""
        channels = self._channels
        if not self._spun and self.service.spin and len(channels) == 1 and not self._core.in_hand:
            self._spun = True
            channel = next(iter(channels.values()))
            found = channel.pump.read(LIMIT, SPIN)
            if found:
                now = time.monotonic()
                self._feed(channel, found, now)
                self._turn(now, True)
                return
        self._sleeping = True
        if not self._outbox and not self._commands:
            due = min(self._core.next_deadline(), self._dispatcher.next_deadline())
            timeout = min(LONGEST_WAIT, max(0.0, due - time.monotonic()))
            if any(channel.backlog for channel in channels.values()):
                timeout = min(timeout, RETRY_SEND)
            self._block(timeout)
        self._sleeping = False

    def _block(self, timeout: float) -> None:
        if not self._channels:
            select.select([self._wake_in], [], [], timeout)
        else:
            if self._waiter is None:
                first, *others = self._channels.values()
                wake: list[Any] = [self._wake_in.fileno(), first.watch.socket]
                for channel in others:
                    wake += [channel.link.socket, channel.watch.socket]
                self._waiter = Pump(first.link.socket, wake=wake)
            self._waiter.wait(timeout)
        with suppress(BlockingIOError):
            self._wake_in.recv(4096)
