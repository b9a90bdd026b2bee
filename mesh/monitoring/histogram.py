"""Durations counted by size: what a latency histogram of Prometheus shows."""

from __future__ import annotations

from collections.abc import Sequence

FIRST = 2.0**-16
LAST = 25
BOUNDS = tuple(FIRST * 2.0**power for power in range(LAST))
"""Upper ends of the buckets, in seconds: 15 us to 256 s, each twice the one before. One more bucket
holds what is longer."""


class Histogram:
    """How many durations fell into each bucket, and their sum in seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (LAST + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        end = FIRST
        bucket = 0
        while seconds >= end and bucket < LAST:
            end += end
            bucket += 1
        self.counts[bucket] += 1
        self.sum += seconds

    def snapshot(self) -> dict[str, object]:
        """`counts` of each bucket, and their `sum` in seconds."""
        return {"counts": list(self.counts), "sum": self.sum}


class Latency:
    """What became of the time of calls: waiting in the queue, at the worker, and both.

    Most calls do not wait where there is room: those are counted once for all three.
    """

    __slots__ = ("_queue", "_service", "_straight", "_total")

    def __init__(self) -> None:
        self._straight = Histogram()
        self._queue = Histogram()
        self._service = Histogram()
        self._total = Histogram()

    def observe(self, queued_at: float, given_at: float, now: float) -> None:
        """A worker has answered a call that came, and was given to it, at these times."""
        if given_at <= queued_at:
            self._straight.observe(now - queued_at)
            return
        self._queue.observe(given_at - queued_at)
        self._service.observe(now - given_at)
        self._total.observe(now - queued_at)

    def snapshot(self) -> dict[str, dict[str, object]]:
        """`queue`, `service` and `total`, each `{"counts": [...], "sum": seconds}`."""
        straight = self._straight
        queue = list(self._queue.counts)
        queue[0] += sum(straight.counts)
        found = {"queue": {"counts": queue, "sum": self._queue.sum}}
        for name, waited in (("service", self._service), ("total", self._total)):
            counts = [a + b for a, b in zip(straight.counts, waited.counts, strict=True)]
            found[name] = {"counts": counts, "sum": straight.sum + waited.sum}
        return found


def quantile(counts: Sequence[int], share: float) -> float:
    """About the duration, in seconds, that `share` of those counted did not exceed; 0 for none.

    Within a bucket they are taken as evenly spread; what exceeds the last bound counts as that.
    """
    rank = share * sum(counts)
    below = 0.0
    for bound, count in zip(BOUNDS, counts, strict=False):
        if count and rank <= count:
            return below + (bound - below) * rank / count
        rank -= count
        below = bound
    return below if any(counts) else 0.0
