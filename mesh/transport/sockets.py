"""Sockets as the mesh uses them: one context, bound ROUTERs, DEALERs that connect once.

Settings that matter for safety are made here and nowhere else.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket as net
import stat
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import zmq

from mesh.errors import ConfigError
from mesh.protocol.endpoints import is_ipv6, parse_endpoint
from mesh.transport.guard import ByteGuard
from mesh.transport.monitor import LinkWatch, PeerWatch
from mesh.transport.pump import Pump, Wake

# A body of 64 MiB and the frames around it.
MAX_MESSAGE = 64 * 1024 * 1024 + 64 * 1024
HANDSHAKE_TIMEOUT = 2.0
BACKLOG = 512
# libzmq's own heartbeat, answered by its I/O thread. A frame is a sign of life only once it is
# whole, and no answer can overtake it: the timeout must be longer than the largest frame takes on a
# slow or shared line. With 0.3 s, six clients that each sent 60 MiB over loopback lost all six
# connections.
HEARTBEAT_EVERY = 0.5
HEARTBEAT_TIMEOUT = 5.0
MAX_SOCKETS = 16_384

_lock = threading.Lock()
_current: zmq.Context[zmq.Socket[bytes]] | None = None
# A context must not be used, nor even ended, in a forked child; dropping the reference would do so.
_inherited: list[zmq.Context[zmq.Socket[bytes]] | None] = []


def _leave_to_parent() -> None:
    global _current, _lock
    _inherited.append(_current)
    _current, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_leave_to_parent)


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """The process's only context; a forked child gets its own.

    It has one I/O thread: with more, the report of a new connection could come after its first
    message.
    """
    global _current
    with _lock:
        if _current is None or _current.closed:
            _current = zmq.Context(io_threads=1)
            _current.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        return _current


def end_context() -> None:
    """Wait until closed sockets have sent what their linger allows, and end the process's context.

    For the end of a program: a process that merely exits throws such messages away. Blocks for ever
    while a socket is open.
    """
    global _current
    with _lock:
        ending, _current = _current, None
    if ending is not None:
        ending.term()


def seed_c_random() -> bool:
    """Seed the C library's random numbers from the system, as far as that is possible.

    libzmq draws a ROUTER's first routing id from them and does not seed them, so that ids could be
    foretold. False if the C library could not be reached.
    """
    try:
        ctypes.CDLL(None).srand(ctypes.c_uint(int.from_bytes(os.urandom(4), "little")))
    except (OSError, AttributeError):
        return False
    return True


class Troubles(NamedTuple):
    """How many connections were refused in the handshake, or cut because of a message without end;
    how many messages of too many frames were dropped."""

    handshake: int = 0
    endless: int = 0
    oversize: int = 0


def keep_freed_memory(octets: int) -> bool:
    """Have the C library keep up to so much of what is freed, instead of giving it back at once.

    For a program that moves large bodies: the kernel would have to clear each page of every one,
    which takes as long as copying it. False if the C library knows no such thing.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h of glibc
    try:
        library = ctypes.CDLL(None)
        return bool(
            library.mallopt(mmap_threshold, octets // 4) and library.mallopt(trim_threshold, octets)
        )
    except (OSError, AttributeError):
        return False


@dataclass(slots=True)
class Bound:
    """A bound ROUTER with its pump and watch; `endpoints` are the real ones, ports filled in."""

    socket: zmq.Socket[bytes]
    endpoints: tuple[str, ...]
    pump: Pump
    watch: PeerWatch
    guard: ByteGuard

    def departed(self) -> list[bytes]:
        """The names of peers that left, each once; to be asked when the pump is drained."""
        return self.watch.departed(self.pump)

    @property
    def troubles(self) -> Troubles:
        """What was refused, cut and dropped so far."""
        return Troubles(self.watch.handshake_failures, self.guard.cut, self.pump.dropped_oversize)

    def close(self, linger: float = 0.0) -> None:
        """Stop listening and end all connections; go on sending for `linger` seconds."""
        self.watch.close()
        self.socket.close(_milliseconds(linger))


@dataclass(slots=True)
class Link:
    """A DEALER on its way to one endpoint, with its pump and watch."""

    socket: zmq.Socket[bytes]
    endpoint: str
    pump: Pump
    watch: LinkWatch

    def descriptors(self) -> tuple[int, ...]:
        """What to wait for; edge-triggered: after one fires, or anything was sent, look again."""
        return int(self.socket.fileno()), self.watch.fileno()

    def close(self, linger: float | None = None) -> None:
        """End the connection; with `linger`, go on sending what is queued for so many seconds."""
        self.watch.close()
        self.socket.close(None if linger is None else _milliseconds(linger))


def router_socket(
    endpoints: str | Sequence[str],
    *,
    wake: Sequence[Wake] = (),
    heartbeat_every: float = HEARTBEAT_EVERY,
    heartbeat_timeout: float = HEARTBEAT_TIMEOUT,
    send_limit: int = 100_000,
    receive_limit: int = 100_000,
    max_frame: int = MAX_MESSAGE,
) -> Bound:
    """A ROUTER that listens at all `endpoints` and says so when a peer cannot be reached.

    `wake` goes to the pump, which always wakes up for its own watch. The two limits are messages
    per peer, `max_frame` is bytes, times are seconds.

    Raises:
        ConfigError: an endpoint is wrong, in use or cannot be listened at.
    """
    wanted = [endpoints] if isinstance(endpoints, str) else endpoints
    addresses = [parse_endpoint(endpoint, bind=True) for endpoint in wanted]
    if not addresses:
        raise ConfigError("a broker needs at least one endpoint to listen at")
    seed_c_random()
    socket = context().socket(zmq.ROUTER)
    try:
        _set_common(socket, heartbeat_every, heartbeat_timeout, max_frame)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.BACKLOG, BACKLOG)
        socket.setsockopt(zmq.SNDHWM, send_limit)
        socket.setsockopt(zmq.RCVHWM, receive_limit)
        watch = PeerWatch(socket)
    except BaseException:
        socket.close(0)
        raise
    try:
        bound = tuple(_bind(socket, address) for address in addresses)
        pump = Pump(socket, router=True, wake=(watch.socket, *wake))
        return Bound(socket, bound, pump, watch, ByteGuard(watch, pump))
    except BaseException:
        watch.close()
        socket.close(0)
        raise


def dealer_socket(
    endpoint: str,
    *,
    wake: Sequence[Wake] = (),
    linger: float = 0.0,
    heartbeat_every: float = HEARTBEAT_EVERY,
    heartbeat_timeout: float = HEARTBEAT_TIMEOUT,
    connect_timeout: float = 5.0,
    send_limit: int = 100_000,
    receive_limit: int = 0,
    max_frame: int = MAX_MESSAGE,
    immediate: bool = False,
) -> Link:
    """A DEALER that connects once and never again: when its watch says `lost`, it is used up.

    Messages may be sent at once and leave when the connection stands; with `immediate` only a
    standing connection takes any (EAGAIN before, and for up to a millisecond after the watch says
    `up`).

    Raises:
        ConfigError: the endpoint is wrong.
    """
    address = parse_endpoint(endpoint)
    socket = context().socket(zmq.DEALER)
    watch: LinkWatch | None = None
    try:
        _set_common(socket, heartbeat_every, heartbeat_timeout, max_frame)
        socket.setsockopt(zmq.LINGER, _milliseconds(linger))
        # A message queued here while the broker was away would be executed after its return, when
        # the caller has long given it up; so a lost connection takes its queue with it.
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, _milliseconds(connect_timeout))
        socket.setsockopt(zmq.IMMEDIATE, int(immediate))
        socket.setsockopt(zmq.SNDHWM, send_limit)
        socket.setsockopt(zmq.RCVHWM, receive_limit)
        watch = LinkWatch(socket)
        pump = Pump(socket, wake=(watch.socket, *wake))
        socket.setsockopt(zmq.IPV6, int(is_ipv6(address)))
        socket.connect(address)
        return Link(socket, address, pump, watch)
    except BaseException as error:
        if watch is not None:
            watch.close()
        socket.close(0)
        if isinstance(error, zmq.ZMQError):
            raise ConfigError(f"cannot connect to {address}: {error.strerror}") from error
        raise


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e3))


def _set_common(
    socket: zmq.Socket[bytes], heartbeat_every: float, heartbeat_timeout: float, max_frame: int
) -> None:
    socket.setsockopt(zmq.MAXMSGSIZE, max_frame)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _milliseconds(HANDSHAKE_TIMEOUT))
    socket.setsockopt(zmq.HEARTBEAT_IVL, _milliseconds(heartbeat_every))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _milliseconds(heartbeat_timeout))
    socket.setsockopt(zmq.HEARTBEAT_TTL, _milliseconds(heartbeat_timeout))


def _bind(socket: zmq.Socket[bytes], address: str) -> str:
    """Listen at `address`; returns it with the port that was chosen."""
    if address.startswith("ipc://"):
        make_way(address.removeprefix("ipc://"))
    socket.setsockopt(zmq.IPV6, int(is_ipv6(address)))
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise ConfigError(f"cannot listen at {address}: {advice(error)}") from error
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    return bytes(endpoint).rstrip(b"\0").decode()


def advice(error: OSError | zmq.ZMQError) -> str:
    """What an error of listening means, and what to do about it."""
    if error.errno == errno.EADDRINUSE:
        return "another process listens there; stop it or choose another port"
    if error.errno in (errno.ENODEV, errno.EADDRNOTAVAIL):
        return "this machine has no such address; use a numeric address of its own, or *"
    return error.strerror or str(error)


def make_way(path: str) -> None:
    """Remove the socket file of a process that is gone.

    libzmq itself would remove whatever is in the way, be it a living broker's socket or a user's
    file.

    Raises:
        ConfigError: somebody listens there, or it is not a socket, or there is no such folder.
    """
    if path.startswith("@"):
        return  # an abstract name leaves nothing behind
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ConfigError(
            f"cannot listen at ipc://{path}: there is no folder {folder}; make it first"
        )
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ConfigError(f"cannot listen at ipc://{path}: a file is there that is no socket")
    except FileNotFoundError:
        return
    with net.socket(net.AF_UNIX, net.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        except BlockingIOError:
            pass  # somebody listens, and is busy
        except OSError as error:
            raise ConfigError(f"cannot listen at ipc://{path}: {error.strerror}") from error
    raise ConfigError(
        f"cannot listen at ipc://{path}: another process listens there; stop it first"
    )
