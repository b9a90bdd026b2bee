"""Brokers behind a name: `dns://HOST:PORT` stands for every address that HOST has.

So brokers may come and go, as behind a headless Service of Kubernetes. With `tcp://HOST:PORT` a
name stands for one broker, whatever addresses lead to it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol
from weakref import ref

SCHEME = "dns://"
LOOK_EVERY = 5.0
MOST = 64
"""Brokers that one name may stand for; further addresses are left out."""

Lookup = Callable[[str, int], list[str]]


class Follower(Protocol):
    """Who is told of brokers that come and go."""

    def aim(self, endpoints: Sequence[str], trouble: str) -> bool:
        """The brokers are at `endpoints` now; `trouble` says why some may be missing.

        Called from another thread, at every look. False: it wants to hear no more.
        """


def lookup(host: str, port: int) -> list[str]:
    """The endpoints at all addresses of `host`. Raises OSError if it has none.

    They are of one family: a broker with an address in both must not be taken for two.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family = found[0][0]
    hosts = sorted({str(address[0]) for kind, _, _, _, address in found if kind == family})
    form = "tcp://[{}]:{}" if family == socket.AF_INET6 else "tcp://{}:{}"
    return [form.format(each, port) for each in hosts[:MOST]]


def addressed(endpoints: Sequence[str]) -> list[str]:
    """Those of `endpoints` that need no looking up."""
    return [endpoint for endpoint in endpoints if not endpoint.startswith(SCHEME)]


class Looking:
    """The brokers behind `endpoints`, as far as names could be looked up."""

    def __init__(self, endpoints: Sequence[str], lookup: Lookup = lookup) -> None:
        self._endpoints = endpoints
        self._lookup = lookup
        self._known: dict[str, list[str]] = {}

    def look(self) -> tuple[list[str], str]:
        """All endpoints, each once, and what could not be looked up; that stays as it was."""
        troubles = []
        for endpoint in self._endpoints:
            if not endpoint.startswith(SCHEME):
                continue
            host, _, port = endpoint.removeprefix(SCHEME).rpartition(":")
            try:
                self._known[endpoint] = self._lookup(host, int(port))
            except OSError as error:
                troubles.append(f"{endpoint}: {error.strerror or error}")
            except UnicodeError as error:  # a part of the name is empty or too long
                troubles.append(f"{endpoint}: {error}")
        found = [f for each in self._endpoints for f in self._known.get(each, addressed([each]))]
        return list(dict.fromkeys(found)), "; ".join(troubles)


def follow(
    endpoints: Sequence[str],
    follower: Follower,
    *,
    every: float = LOOK_EVERY,
    lookup: Lookup = lookup,
) -> None:
    """Tell `follower` where the brokers behind `endpoints` are, now and every `every` seconds.

    If there are names among them: on a thread that lives no longer than the follower.
    """
    if len(addressed(endpoints)) < len(endpoints):
        looking = Looking(endpoints, lookup)
        threading.Thread(
            target=_follow, args=(looking, ref(follower), every), name="mesh-names", daemon=True
        ).start()


def _follow(looking: Looking, whom: ref[Follower], every: float) -> None:
    while True:
        endpoints, trouble = looking.look()
        follower = whom()
        if follower is None or not follower.aim(endpoints, trouble):
            return
        del follower
        time.sleep(every)
