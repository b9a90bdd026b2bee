"""Those who follow the changes of a bucket: rung when there is something new to read."""

from __future__ import annotations

import asyncio

from mesh.errors import Overloaded, StoreBusy

MAX_FOLLOWERS = 1000


class Bell:
    """Rings for one follower of a bucket, on its event loop."""

    def __init__(self, bucket: str, loop: asyncio.AbstractEventLoop) -> None:
        self.bucket = bucket
        self.ended = False
        self._loop = loop
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """There may be something new; from any thread."""
        self._loop.call_soon_threadsafe(self._rung.set)

    def end(self) -> None:
        """It will ring no more; from any thread."""
        self.ended = True
        self.ring()

    async def wait(self) -> None:
        """Until it has rung since the last time. Raises StoreBusy if it will ring no more."""
        await self._rung.wait()
        self._rung.clear()
        if self.ended:
            raise _leaving()


class Bells:
    """All followers in this process."""

    def __init__(self) -> None:
        self._bells: tuple[Bell, ...] = ()
        self._closed = False

    def ring(self, buckets: set[str]) -> None:
        """Something has changed in these buckets; from any thread."""
        for bell in self._bells:
            if bell.bucket in buckets:
                bell.ring()

    def join(self, bucket: str) -> Bell:
        """Follow from now on. On the event loop.

        Raises:
            Overloaded: there are too many already.
            StoreBusy: this process leaves.
        """
        if self._closed:
            raise _leaving()
        if len(self._bells) >= MAX_FOLLOWERS:
            raise Overloaded("too many follow changes at the same time", retry_after=1.0)
        bell = Bell(bucket, asyncio.get_running_loop())
        self._bells = (*self._bells, bell)
        if self._closed:  # meanwhile, on another thread
            bell.end()
        return bell

    def leave(self, bell: Bell) -> None:
        """Follow no longer."""
        self._bells = tuple(known for known in self._bells if known is not bell)

    def close(self) -> None:
        """This process leaves: end all, so that their clients go on elsewhere."""
        self._closed = True
        for bell in self._bells:
            bell.end()


def _leaving() -> StoreBusy:
    return StoreBusy("the process that tells of changes leaves; another one takes over")
