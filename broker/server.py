"""The shell around the router: sockets in, sockets out, and the clock. It decides nothing.

One thread. Each turn of the loop drains what has arrived, hands it to the router, lets time pass,
and sends what the router gives out. Between turns it first keeps trying for a moment, while traffic
flows, and then blocks: a wake-up costs more than the work of one message.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from errno import EAGAIN
from math import inf
from threading import RLock
from time import monotonic

from broker.backlog import RETRY_EVERY, Backlog
from broker.router import Router
from mesh import transport
from mesh.errors import ConfigError, ProtocolError
from mesh.protocol import mdp, native
from mesh.protocol.messages import (
    CAPACITY,
    FINAL,
    HELLO,
    PARTIAL,
    READY,
    REQUEST,
    Body,
    Message,
)
from mesh.spin import SPIN, Spin

RECEIVE_BUDGET = 256
LINGER = 1.0
# A port that is never read to its end must not hide for longer than this who has left.
DEAF_TTL = 1.0
KEPT_MEMORY = 32 * 1024 * 1024
MAX_FORMS = 20_000

BOTH, CLIENTS, WORKERS = "both", "clients", "workers"
_NOT_FOR = {
    BOTH: frozenset[int](),
    CLIENTS: frozenset({READY, CAPACITY, FINAL, PARTIAL}),
    WORKERS: frozenset({HELLO, REQUEST}),
}

_ALARMING = frozenset({"lost", "expelled", "suspected", "ejected", "refused", "failed"})
_TROUBLES = ("refused:handshake", "cut:endless_message", "dropped:oversize")


log = logging.getLogger("broker")


@dataclass(slots=True)
class Endpoint:
    """Where to listen, and for whom: `role` is both, clients or workers."""

    address: str
    role: str = BOTH


class _Port:
    """One endpoint. Names of peers are unique per endpoint only: where there are several, `prefix`
    makes them unique. It is the port's index, and empty for an only port."""

    __slots__ = (
        "behind_since",
        "bound",
        "guard",
        "other_role",
        "outgoing",
        "prefix",
        "pump",
        "refused",
        "troubles",
        "watch",
    )

    def __init__(self, bound: transport.AnyBound, prefix: bytes, role: str) -> None:
        self.bound = bound
        self.prefix = prefix
        self.pump = bound.pump
        self.watch = bound.watch
        self.guard = bound.guard
        self.refused = _NOT_FOR[role]
        self.other_role = WORKERS if role == CLIENTS else CLIENTS
        self.troubles = transport.Troubles()
        self.outgoing: list[Sequence[Body]] = []
        self.behind_since = inf  # since when it has not been read to its end


class Server:
    """A broker that listens at `endpoints` until it is told to leave.

    Args:
        spin: seconds to keep trying before blocking, while that pays off; 0 always blocks.
        insecure: allow endpoints that other machines can reach.

    Raises:
        ConfigError: an endpoint is wrong, in use, or open to the network without `insecure`.
    """

    def __init__(
        self,
        router: Router,
        endpoints: Sequence[Endpoint],
        *,
        insecure: bool = False,
        spin: float = SPIN,
        drain_timeout: float = 30.0,
    ) -> None:
        if not 0 < len(endpoints) < 256:
            raise ConfigError("a broker needs 1 to 255 endpoints to listen at")
        for endpoint in endpoints:
            address = transport.parse_endpoint(endpoint.address, bind=True)
            if not insecure and not transport.is_local(address):
                raise ConfigError(
                    f"{address} can be reached from other machines, and nothing here checks who "
                    "connects: bind to 127.0.0.1 or ipc://, or allow it with --insecure"
                )
        self.router = router
        self._spin = Spin(spin)
        self.drain_timeout = drain_timeout
        self._stop_signals = 0
        self._reported = 0
        self._jobs: deque[Callable[[], None]] = deque()
        self._forms: dict[bytes, mdp.Form] = {}
        self._prune_at = MAX_FORMS
        self._backlog = Backlog()
        self._waking = RLock()  # signal handlers wake too
        self._closed = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._ports: list[_Port] = []
        try:
            for index, endpoint in enumerate(endpoints):
                self._ports.append(self._open(index, endpoint, len(endpoints) > 1))
            self._sleep = transport.waiter([port.bound for port in self._ports], self._wake_read)
        except BaseException:
            self._close()
            raise
        router.endpoints = self.endpoints

    def _open(self, index: int, endpoint: Endpoint, several: bool) -> _Port:
        bound = transport.listen(endpoint.address)
        return _Port(bound, bytes([index]) if several else b"", endpoint.role)

    @property
    def endpoints(self) -> list[str]:
        """The real addresses, ports filled in."""
        return [address for port in self._ports for address in port.bound.endpoints]

    # ---------------------------------------------------------------- the loop

    def run(self, on_ready: Callable[[Sequence[str]], None] = lambda endpoints: None) -> None:
        """Serve until `stop`, or SIGTERM or SIGINT in the main thread; then drain and leave.

        `on_ready` is called with the endpoints once a signal would be heeded.
        """
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        transport.keep_freed_memory(KEPT_MEMORY)
        try:
            with self._signals():
                try:
                    on_ready(self.endpoints)
                    self._serve()
                    self._drain()
                finally:
                    self.router.farewell()
                    self._flush(monotonic())
                    self._close_ports(LINGER)
        finally:
            self._close()  # what signals are written to, once none is

    def stop(self) -> None:
        """Begin to drain; a second time: leave at once. Safe from signal handlers and threads."""
        self._stop_signals += 1
        self._wake()

    def ask(self, job: Callable[[], None]) -> None:
        """Have `job` run between two turns of the loop. Safe from signal handlers and threads."""
        self._jobs.append(job)
        self._wake()

    def _wake(self) -> None:
        with self._waking, contextlib.suppress(BlockingIOError):
            if not self._closed:
                os.write(self._wake_write, b"\0")

    def _serve(self) -> None:
        while not self._stop_signals:
            self._run_job()
            self._turn()

    def _run_job(self) -> None:
        if self._jobs:
            self._jobs.popleft()()

    def _drain(self) -> None:
        now = monotonic()
        self.router.drain(now)
        give_up_at = now + self.drain_timeout
        while self._stop_signals < 2 and now < give_up_at:
            if self.router.drained(now) and not self._backlog:
                return
            self._run_job()
            self._turn(limit=0.05)
            now = monotonic()

    def _turn(self, limit: float = 3600.0) -> None:
        router = self.router
        busy = False
        ports = self._ports
        now = monotonic()
        for port in ports:
            watch = port.watch
            pump = port.pump
            watch.drain()
            found = pump.read(RECEIVE_BUDGET)
            if found:
                busy = True
                self._receive(port, found, now)
            port.guard.after(found, now)
            if pump.drained:
                port.behind_since = inf
            elif port.behind_since == inf:
                port.behind_since = now
            if pump.drained or now - port.behind_since > DEAF_TTL:
                for peer in port.bound.departed():
                    self._forms.pop(port.prefix + peer, None)
                    self._backlog.discard(port.prefix + peer)
                    router.lost(port.prefix + peer, now)
            if port.bound.troubles != port.troubles:
                self._account(port)
        if router.next_deadline() <= now:
            router.tick(now)
        if router.history.last != self._reported:
            self._report()
        self._flush(now)
        if not busy:
            self._wait(limit)
        elif len(ports) == 1 and (spin := self._spin.due()):
            found = ports[0].pump.read(RECEIVE_BUDGET, spin)
            self._spin.tell(bool(found))
            if found:
                now = monotonic()
                self._receive(ports[0], found, now)
                ports[0].guard.after(found, now)
                self._flush(now)

    def _report(self) -> None:
        """Log what has happened since the last time: of each kind once a second at most."""
        history = self.router.history
        for entry in history.since(self._reported):
            level = logging.WARNING if entry.event in _ALARMING else logging.INFO
            log.log(level, "%s", entry.line(), extra={"facts": entry.facts()})
        self._reported = history.last

    def _account(self, port: _Port) -> None:
        """Count what the port has refused, cut and dropped since the last time."""
        before, port.troubles = port.troubles, port.bound.troubles
        for reason, old, new in zip(_TROUBLES, before, port.troubles, strict=True):
            if new > old:
                self.router.count(reason, new - old)

    def _wait(self, limit: float) -> None:
        now = monotonic()
        until = min(self.router.next_deadline(), now + limit)
        if self._backlog:
            until = min(until, self._backlog.retry_at)
        for port in self._ports:
            until = min(until, port.guard.next_at)
            if port.watch.pending:
                return
        if until > now:
            self._sleep(until - now)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)

    # ---------------------------------------------------------------- in

    def _receive(
        self, port: _Port, found: list[tuple[bytes, Message | list[Body]]], now: float
    ) -> None:
        router = self.router
        forms = self._forms
        prefix = port.prefix
        refused = port.refused
        done = 0
        while done < len(found):
            if not forms and not prefix and not refused:  # the common case
                done = router.receive_native(found, done, now)
                if done == len(found):
                    return
            name, received = found[done]
            done += 1
            peer = prefix + name if prefix else name
            if type(received) is Message and not (forms and peer in forms):
                if refused and received.command in refused:
                    router.wrong_endpoint(peer, port.other_role, now)
                else:
                    router.receive_native([(peer, received)], 0, now)
                continue
            message = self._receive_mdp(peer, name, received)
            if message is None:
                continue
            if refused and message.command in refused:
                router.wrong_endpoint(peer, port.other_role, now)
            else:
                router.receive(peer, message, now)

    def _receive_mdp(
        self, peer: bytes, name: bytes, received: Message | list[Body]
    ) -> Message | None:
        """What a peer that speaks MDP sent, or may begin to speak it with; None if invalid."""
        if isinstance(received, Message):
            frames: list[Body] = native.encode(received, name)  # native, from a peer of MDP
        else:
            frames = received
        form = self._forms.get(peer)
        if form is not None:
            with contextlib.suppress(ProtocolError):
                return self._decode_mdp(form, frames)
        return self._first_of_mdp(peer, frames)

    def _first_of_mdp(self, peer: bytes, frames: list[Body]) -> Message | None:
        """What a peer not yet known to speak MDP sent that is not native; None if invalid."""
        form = mdp.form_of(frames, 1)
        router = self.router
        if form is None or peer in self._forms or peer in router.workers or peer in router.clients:
            router.count("dropped:invalid")
            return None
        try:
            message = self._decode_mdp(form, frames)
        except ProtocolError:
            router.count("dropped:invalid")
            return None
        if len(self._forms) >= self._prune_at:
            self._forms = {
                known: form
                for known, form in self._forms.items()
                if known in router.workers or known in router.clients
            }
            # As many must come before the next time as stay now: each pays for itself only.
            self._prune_at = max(MAX_FORMS, 2 * len(self._forms))
        self._forms[peer] = form
        return message

    @staticmethod
    def _decode_mdp(form: mdp.Form, frames: list[Body]) -> Message:
        message = form.decode(frames, 1)
        if message.command in (REQUEST, READY):
            message.code = form.dialect  # how the router learns what its peer understands
        return message

    # ---------------------------------------------------------------- out

    def _flush(self, now: float) -> None:
        router = self.router
        backlog = self._backlog
        if backlog and backlog.retry_at <= now:
            self._retry(now)
        out = router.take()
        while out:
            failures = self._send(out)
            for peer, message in failures:
                router.undelivered(peer, message, now)
            if backlog.overfull:
                self._part_with_overfull(now)
            out = router.take()

    def _send(self, out: list[tuple[bytes, Message]]) -> list[tuple[bytes, Message]]:
        """Send what the router gave out; returns what could not be sent and is not kept."""
        if not self._forms and not self._backlog and len(self._ports) == 1:
            unsent: list[tuple[bytes, Message]] = []
            for index, error in self._ports[0].pump.write(out):
                peer, message = out[index]
                self._refused(out[index], native.encode(message, peer), error, unsent)
            return unsent
        encode = native.encode
        forms = self._forms
        ports = self._ports
        backlog = self._backlog
        keeping = bool(backlog)
        sent: list[list[tuple[bytes, Message]]] = [[] for _ in ports]
        failures: list[tuple[bytes, Message]] = []
        several = len(ports) > 1
        for item in out:
            peer, message = item
            index = 0
            routing_id = peer
            if several:
                index = peer[0]
                routing_id = peer[1:]
            if forms and peer in forms:
                expressed = forms[peer].encode(message)
                if expressed is None:
                    self.router.inexpressible(peer, message)
                    continue
                frames: list[Body] = [routing_id, *expressed]
            else:
                frames = encode(message, routing_id)
            if keeping and peer in backlog:
                self._refused(item, frames, EAGAIN, failures)
                continue
            ports[index].outgoing.append(frames)
            sent[index].append(item)
        for port, items in zip(ports, sent, strict=True):
            if items:
                outgoing = port.outgoing
                port.outgoing = []
                for index, error in port.pump.send(outgoing):
                    self._refused(items[index], outgoing[index], error, failures)
        return failures

    def _refused(
        self,
        item: tuple[bytes, Message],
        frames: Sequence[Body],
        error: int,
        failures: list[tuple[bytes, Message]],
    ) -> None:
        """Keep what only has to wait. A REQUEST has not: another worker may take it at once."""
        peer, message = item
        if error == EAGAIN and message.command != REQUEST:
            self.router.count("delayed:queue_full")
            self._backlog.add(peer, frames)
        else:
            failures.append(item)

    def _retry(self, now: float) -> None:
        """No event tells that a peer of a ROUTER reads again: try from time to time."""
        backlog = self._backlog
        backlog.retry_at = now + RETRY_EVERY
        for peer in backlog:
            dropped = backlog.retry(peer, self._port_of(peer).pump.send)
            if dropped:
                self.router.count("dropped:gone", dropped)

    def _part_with_overfull(self, now: float) -> None:
        """Throw away what is kept of peers that do not read; the router says GOODBYE instead.

        Their connections are left alone: they find the GOODBYE once they read again.
        """
        backlog = self._backlog
        for peer in list(backlog.overfull):
            backlog.discard(peer)
            self.router.unread(peer, now)

    def _port_of(self, peer: bytes) -> _Port:
        return self._ports[peer[0] if len(self._ports) > 1 else 0]

    # ---------------------------------------------------------------- the end

    def _close_ports(self, linger: float) -> None:
        for port in self._ports:
            port.bound.close(linger)
        if linger and self._ports:
            transport.end_context()
        self._ports = []

    def _close(self) -> None:
        self._close_ports(0.0)
        with self._waking:
            self._closed = True
            os.close(self._wake_read)
            os.close(self._wake_write)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def told_to_stop(*_: object) -> None:
            self.stop()

        previous = {number: signal.signal(number, told_to_stop) for number in _STOPPERS}
        # A signal that comes just before a wait ends it, too: the handlers run after the wait.
        before = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            for number, handler in previous.items():
                signal.signal(number, handler)


_STOPPERS = (signal.SIGTERM, signal.SIGINT)


def announce(endpoints: Sequence[str]) -> None:
    """Say on standard output where the broker listens: one line each, for people and scripts."""
    for endpoint in endpoints:
        print(f"listening {endpoint}", flush=True)
