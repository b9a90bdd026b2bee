"""Those who watch keys, and those who wait for one: from the writer to their event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from threading import Lock
from typing import Any

from mesh.errors import Overloaded, StoreBusy
from workers.memory.change import CLEARED
from workers.memory.locks import Event

# Events that wait for one who reads slowly; beyond them it is told how many it missed.
MOST = 10_000
MAX_WATCHERS = 1000


class Watcher:
    """One who watches the keys of a namespace that begin with `prefix`."""

    def __init__(self, ns: str, prefix: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self.ns = ns
        self.prefix = prefix
        self.waiting: deque[Event] = deque()
        self.missed = 0
        self.ended = False
        self._loop = loop
        self._awake = asyncio.Event()

    def wants(self, event: Event) -> bool:
        """Whether `event` is about its keys."""
        ns, key, kind, _ = event
        if ns != self.ns:
            return False
        return key.startswith(self.prefix) or kind == CLEARED

    def add(self, events: list[Event]) -> None:
        """Hand over events; from any thread."""
        for event in events:
            if len(self.waiting) >= MOST:
                self.missed += 1
            else:
                self.waiting.append(event)
        self._loop.call_soon_threadsafe(self._awake.set)

    def end(self) -> None:
        """Nothing more will come; from any thread."""
        self.ended = True
        self._loop.call_soon_threadsafe(self._awake.set)

    async def wait(self) -> None:
        """Until there is something. Raises StoreBusy if nothing more will come."""
        if not self.ended:
            await self._awake.wait()
            self._awake.clear()
        if self.ended and not self.waiting:
            raise _leaving()


class Hub:
    """All who watch in this process. `follow` is told which namespaces they are about.

    `remote`: that takes as long as a network takes, and is done beside the event loop.
    """

    def __init__(self, follow: Callable[[set[str]], None], remote: bool = False) -> None:
        self._watchers: tuple[Watcher, ...] = ()
        self._follow = follow
        self._following = Lock()
        self._remote = remote
        self._closed = False

    def report(self, events: list[Event]) -> None:
        """Something happened; from any thread."""
        for watcher in self._watchers:
            found = [event for event in events if watcher.wants(event)]
            if found:
                watcher.add(found)

    def close(self) -> None:
        """This process leaves: end all watches, so that their clients go on elsewhere."""
        self._closed = True
        for watcher in self._watchers:
            watcher.end()

    async def join(self, ns: str, prefix: bytes) -> Watcher:
        """Watch; what happens after it has returned is reported. `leave` must follow.

        Raises:
            Overloaded: there are too many already.
            StoreBusy: this process leaves, or a distant store does not answer.
        """
        if self._closed:
            raise _leaving()
        if len(self._watchers) >= MAX_WATCHERS:
            raise Overloaded("too many watch at the same time", retry_after=1.0)
        watcher = Watcher(ns, prefix, asyncio.get_running_loop())
        self._watchers = (*self._watchers, watcher)
        try:
            if self._remote:
                await asyncio.to_thread(self._follow_all)
            else:
                self._follow_all()
        except BaseException:
            self.leave(watcher)
            raise
        if self._closed:  # meanwhile, on another thread
            watcher.end()
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Watch no longer."""
        self._watchers = tuple(known for known in self._watchers if known is not watcher)
        if self._remote:
            with suppress(RuntimeError):  # the loop ends: nothing is reported any more
                asyncio.get_running_loop().run_in_executor(None, self._follow_fewer)
        else:
            self._follow_all()

    def _follow_fewer(self) -> None:
        with suppress(StoreBusy):  # whoever joins is told
            self._follow_all()

    def _follow_all(self) -> None:
        with self._following:  # so that the last one tells what is so
            self._follow({known.ns for known in self._watchers})


def _leaving() -> StoreBusy:
    return StoreBusy("the process that watches leaves; watch again, another one takes over")


async def stream(watcher: Watcher) -> AsyncIterator[dict[str, Any]]:
    """What happens, for ever: `{"kind", "key", "version"}`."""
    while True:
        while watcher.waiting:
            _, key, kind, version = watcher.waiting.popleft()
            yield {"kind": kind, "key": key.decode(errors="replace"), "version": version}
        if watcher.missed:
            missed, watcher.missed = watcher.missed, 0
            yield {"kind": "missed", "key": "", "version": 0, "count": missed}
        await watcher.wait()
