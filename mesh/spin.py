"""Trying for a moment before blocking: a wake-up costs more than the work of one message."""

from __future__ import annotations

SPIN = 0.00025
# After so many misses in a row, only one in so many times is spent on trying.
MISSES = 16


class Spin:
    """How long to try: not at all while what is awaited keeps coming too late for it."""

    def __init__(self, duration: float = SPIN) -> None:
        self.duration = duration
        self._misses = 0
        self._left_out = 0

    def due(self) -> float:
        """Seconds to try before blocking; 0 to block at once."""
        if self._misses < MISSES:
            return self.duration
        self._left_out += 1
        if self._left_out < MISSES:
            return 0.0
        self._left_out = 0
        return self.duration

    def tell(self, found: bool) -> None:
        """Tell what the try has brought."""
        if found:
            self._misses = 0
        else:
            self._misses += 1
