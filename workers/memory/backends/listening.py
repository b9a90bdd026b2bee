"""What happens in a Redis server, for those who watch: one connection, one thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import msgpack
import redis

from mesh.errors import StoreBusy
from workers.memory.backend import Watch

# The mark that tells the script to publish; it is renewed while somebody watches.
MARK_TTL = 30
RENEW_EVERY = 10.0
RETRY_EVERY = 0.5
PATIENCE = 5.0

log = logging.getLogger("workers.memory")


class Listener:
    """Subscribes to the channels of the namespaces that are followed.

    While nobody watches a namespace nothing is published about it. What happens while the
    connection is down is not reported; it is counted in `broken`.
    """

    def __init__(self, client: Any, bases: Callable[[str], list[str]]) -> None:
        self.report: Watch = lambda events: None
        self.broken = 0
        self._client = client
        self._bases = bases
        self._channels: dict[bytes, str] = {}
        self._changed = threading.Event()
        self._subscribed = threading.Condition()
        self._at: frozenset[bytes] = frozenset()
        self._closed = False
        self._thread: threading.Thread | None = None

    def follow(self, namespaces: set[str]) -> None:
        """Report on these and no others. Returns when what happens from now on is reported.

        Raises:
            StoreBusy: the server does not answer; it is tried again all the same.
        """
        channels = {f"{base}w".encode(): ns for ns in namespaces for base in self._bases(ns)}
        with self._subscribed:
            self._channels = channels
            if self._thread is None and channels:
                self._thread = threading.Thread(
                    target=self._work, name="memory-listener", daemon=True
                )
                self._thread.start()
            self._changed.set()
            if not self._subscribed.wait_for(lambda: self._at >= channels.keys(), PATIENCE):
                raise StoreBusy("the redis server tells of no changes now", retry_after=0.5)

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._changed.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def _work(self) -> None:
        while not self._closed:
            try:
                self._listen()
            except (redis.exceptions.RedisError, OSError) as error:
                self.broken += 1
                self._at = frozenset()
                log.warning("watching is interrupted: %s", error)
                self._changed.wait(RETRY_EVERY)

    def _listen(self) -> None:
        with self._client.pubsub() as subscription:
            pending: set[bytes] = set()
            held: set[bytes] = set()
            marks = Renewal(self._client)
            while not self._closed:
                self._changed.clear()
                wanted = set(self._channels)
                if wanted - held:
                    subscription.subscribe(*(wanted - held))
                    pending |= wanted - held
                if held - wanted:
                    subscription.unsubscribe(*(held - wanted))
                held = wanted
                marks.renew(held)
                if not held:
                    self._changed.wait(RENEW_EVERY)
                    continue
                message = subscription.get_message(timeout=0.1)
                while message is not None:
                    if message["type"] == "subscribe":
                        pending.discard(message["channel"])
                    elif message["type"] == "message":
                        self._take(message)
                    message = subscription.get_message(timeout=0)
                if not pending and self._at != held:
                    with self._subscribed:
                        self._at = frozenset(held)
                        self._subscribed.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        ns = self._channels.get(message["channel"])
        if ns is None:
            return
        kind, key, version = msgpack.unpackb(message["data"], raw=True)
        self.report([(ns, key, kind.decode(), version)])


class Renewal:
    """Keeps the marks of watched channels alive."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._marked: dict[bytes, float] = {}

    def renew(self, channels: set[bytes]) -> None:
        """Renew what is due."""
        now = time.monotonic()
        self._marked = {name: at for name, at in self._marked.items() if name in channels}
        for name in channels:
            if now - self._marked.get(name, -RENEW_EVERY) >= RENEW_EVERY:
                self._client.set(name, b"1", ex=MARK_TTL)
                self._marked[name] = now
