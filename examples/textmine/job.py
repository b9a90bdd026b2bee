"""The job: every text through the mesh in four ways, with two failures on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

from examples.textmine import service
from examples.textmine.cluster import Cluster, redispatched, resent, status
from mesh import CallError, connect_async

T = TypeVar("T")

CALLS_IN_FLIGHT = 48
BATCHES_IN_FLIGHT = 6
BATCH = 8
STREAMS_OPEN = 8
FAILURE_AT = 0.35


@dataclass(slots=True)
class Phase:
    """One way through the mesh: `spans` are begin and end of each call, `errors` what failed."""

    name: str
    unit: str
    total: int
    done: int = 0
    begun: float = 0.0
    ended: float = 0.0
    spans: list[tuple[float, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    results: Any = None

    @property
    def seconds(self) -> float:
        """How long the phase took."""
        return self.ended - self.begun


@dataclass(slots=True)
class Failure:
    """What was done to the mesh, and what it cost. Times are in seconds."""

    what: str
    at: float = 0.0
    repaired: float = 0.0
    caught: int = 0
    usual: float = 0.0
    slowest: float = 0.0
    silence: float = 0.0
    repeated: int = 0
    repeated_by: str = ""
    failed: int = 0

    def cost(self, phase: Phase) -> None:
        """Work out what the calls of `phase` felt of it."""
        calls = [end - begin for begin, end in phase.spans]
        caught = [end - begin for begin, end in phase.spans if begin <= self.at < end]
        ends = sorted(end for _, end in phase.spans if end >= self.at)
        self.usual = median(calls) if calls else 0.0
        self.caught = len(caught)
        self.slowest = max(caught, default=0.0)
        self.silence = max(
            (after - before for before, after in zip([self.at, *ends], ends, strict=False)),
            default=0.0,
        )
        self.failed = len(phase.errors)


class Job:
    """Runs the four phases; `show` is called with a phase whenever it has advanced."""

    def __init__(
        self,
        cluster: Cluster,
        texts: dict[str, str],
        show: Callable[[Phase], None],
        say: Callable[[str], None],
    ) -> None:
        self.cluster = cluster
        self.texts = texts
        self.show = show
        self.say = say
        number = len(texts)
        self.calls = Phase("calls", "files", number)
        self.batches = Phase("batches", "files", number)
        self.streams = Phase("streams out", "files", number)
        self.upload = Phase("stream in", "files", number)
        self.worker_killed = Failure("one worker killed (-9)")
        self.broker_killed = Failure("broker killed (-9)")

    @property
    def phases(self) -> list[Phase]:
        """All phases, in order."""
        return [self.calls, self.batches, self.streams, self.upload]

    async def run(self) -> None:
        """All phases, one after the other."""
        async with connect_async(self.cluster.endpoint) as mesh:
            self.mesh = mesh
            self.options = mesh.options(timeout=60)
            await self.cluster.wait_complete(mesh)
            await self._with_failure(self.calls, self._all_calls, self._kill_worker)
            await self._with_failure(self.batches, self._all_batches, self._restart_broker)
            await self._with_failure(self.streams, self._all_streams)
            await self._with_failure(self.upload, self._upload_all)

    async def _with_failure(
        self,
        phase: Phase,
        work: Callable[[Phase], Awaitable[Any]],
        hurt: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._half_way = asyncio.Event()
        phase.begun = perf_counter()
        self.show(phase)
        surgeon = asyncio.create_task(self._when_half_way(hurt)) if hurt else None
        try:
            phase.results = await work(phase)
            phase.ended = perf_counter()
            self.show(phase)
            if surgeon:
                await surgeon
        finally:
            if surgeon:
                surgeon.cancel()
                with suppress(asyncio.CancelledError):
                    await surgeon

    async def _when_half_way(self, hurt: Callable[[], Awaitable[None]]) -> None:
        await self._half_way.wait()
        await hurt()

    async def _kill_worker(self) -> None:
        failure = self.worker_killed
        before = await status(self.mesh)
        victim = max(before["workers"], key=lambda worker: worker["in_flight"])["pid"]
        self.cluster.kill_worker(victim)
        failure.at = perf_counter()
        self.say(f"worker {victim} killed with {self._open(self.calls)} calls open")
        failure.repaired = await self.cluster.wait_complete(self.mesh, without=victim)
        after = await status(self.mesh)
        failure.repeated = redispatched(after["counters"]) - redispatched(before["counters"])
        failure.repeated_by = "by the broker"
        self.say(f"a new worker has taken its place after {failure.repaired:.2f} s")

    async def _restart_broker(self) -> None:
        failure = self.broker_killed
        before = resent(self.mesh.counters)
        self.cluster.kill_broker()
        failure.at = perf_counter()
        self.say(f"broker killed with {self._open(self.batches)} batches open")
        await self.cluster.start_broker()
        await self.cluster.wait_complete(self.mesh)
        failure.repaired = perf_counter() - failure.at
        failure.repeated = resent(self.mesh.counters) - before
        failure.repeated_by = "by the client"
        self.say(f"new broker, all workers registered after {failure.repaired:.2f} s")

    def _open(self, phase: Phase) -> int:
        return self._begun - len(phase.spans)

    async def _all_calls(self, phase: Phase) -> dict[str, Any]:
        async def one(item: tuple[str, str]) -> tuple[str, Any]:
            path, text = item
            return path, await self.options.call(service.profile, text)

        answers = await self._through(phase, CALLS_IN_FLIGHT, self.texts.items(), one)
        return dict(answers)

    async def _all_batches(self, phase: Phase) -> dict[str, Any]:
        async def one(part: Sequence[tuple[str, str]]) -> dict[str, Any]:
            outcomes = await self.options.batch(service.keywords, [(text,) for _, text in part])
            found = {}
            for (path, _), outcome in zip(part, outcomes, strict=True):
                if isinstance(outcome, CallError):
                    phase.errors.append(f"{path}: {outcome}")
                else:
                    found[path] = outcome
            return found

        found: dict[str, Any] = {}
        parts = list(chunks(list(self.texts.items()), BATCH))
        for answer in await self._through(phase, BATCHES_IN_FLIGHT, parts, one, weight=len):
            found.update(answer)
        return found

    async def _all_streams(self, phase: Phase) -> dict[str, Any]:
        async def one(item: tuple[str, str]) -> tuple[str, list[Any]]:
            path, text = item
            stream = self.options.stream(service.outline, text)
            return path, [definition async for definition in stream]

        return dict(await self._through(phase, STREAMS_OPEN, self.texts.items(), one))

    async def _upload_all(self, phase: Phase) -> Any:
        def texts() -> Iterator[str]:
            for text in self.texts.values():
                yield text
                phase.done += 1
                self.show(phase)

        self._begun = 1
        begun = perf_counter()
        try:
            return await self.options.call("textmine.vocabulary", texts())
        except CallError as error:
            phase.errors.append(str(error))
            return None
        finally:
            phase.spans.append((begun, perf_counter()))

    async def _through(
        self,
        phase: Phase,
        in_flight: int,
        items: Iterable[Any],
        one: Callable[[Any], Awaitable[T]],
        weight: Callable[[Any], int] = lambda _: 1,
    ) -> list[T]:
        """Run `one` on all items, `in_flight` at a time; what fails is noted in the phase."""
        todo = iter(items)
        results: list[T] = []
        self._begun = 0
        failure_at = phase.total * FAILURE_AT

        async def caller() -> None:
            for item in todo:
                self._begun += 1
                begun = perf_counter()
                try:
                    results.append(await one(item))
                except CallError as error:
                    phase.errors.append(f"{type(error).__name__}: {error}")
                phase.spans.append((begun, perf_counter()))
                phase.done += weight(item)
                if phase.done >= failure_at:
                    self._half_way.set()
                self.show(phase)

        await asyncio.gather(*(caller() for _ in range(in_flight)))
        return results


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """`items` in parts of `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
