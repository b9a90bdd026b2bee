"""The SHA-256 of an object, computed while its parts travel."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

LARGE = 256 * 1024
"""Octets from which on a thread of its own pays."""
AHEAD = 4
"""Pieces that may wait for that thread."""


class Sum:
    """Takes pieces in order. What it is given must not change afterwards."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()
        self._thread: ThreadPoolExecutor | None = None
        self._begun: deque[Future[None]] = deque()

    def update(self, data: bytes | memoryview) -> None:
        """Add a piece; waits if many are before it."""
        if len(data) < LARGE and not self._begun:
            self._sum.update(data)
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "storage-sum")
        while len(self._begun) >= AHEAD:
            self._begun.popleft().result()
        self._begun.append(self._thread.submit(self._sum.update, data))

    def digest(self) -> bytes:
        """Of all pieces so far."""
        while self._begun:
            self._begun.popleft().result()
        return self._sum.digest()
