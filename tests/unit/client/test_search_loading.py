"""A load, with a service that exists in the test alone: what is sent, and what is sent again."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from mesh.client.search import loading
from mesh.client.search.loading import Await, Begin, Incoming, Pause, Take
from mesh.client.search.plans import Compute
from mesh.client.search.requests import Loaded, Written
from mesh.client.verbs import Patience, Request
from mesh.errors import CallError, DeadlineExceeded, InvalidArgument, StoreBusy, WorkerLost
from mesh.protocol import payload
from mesh.protocol.search import MAX_DOCUMENT
from tests.unit.client.test_search_calls import info


class Service:
    """Answers requests in the order in which they are awaited; `fails` may raise instead."""

    def __init__(self, fails: Callable[[list[dict[str, Any]]], None] | None = None) -> None:
        self.documents: dict[str, dict[str, Any]] = {}
        self.batches: list[list[str]] = []
        self.refreshes: list[str] = []
        self.most_in_flight = 0
        self.building: list[dict[str, int] | None] = []
        self.paused = 0.0
        self._fails = fails or (lambda documents: None)
        self._open: list[Request[Written]] = []
        self._now = 0.0

    def run(self, plan: Any) -> Loaded:
        """Follow a plan to its end."""
        outcome: Any = None
        failure: Exception | None = None
        while True:
            try:
                step = plan.throw(failure) if failure is not None else plan.send(outcome)
            except StopIteration as stop:
                assert not self._open
                return stop.value
            outcome = failure = None
            try:
                outcome = self._do(step)
            except CallError as error:
                failure = error

    def _do(self, step: Any) -> Any:
        match step:
            case Request():
                found = info(t="text", v="vector")
                return replace(found, rebuilding=self.building.pop(0)) if self.building else found
            case Compute(texts):
                return [text.encode().ljust(4)[:4] for text in texts]
            case Begin(request):
                self._open.append(request)
                self.most_in_flight = max(self.most_in_flight, len(self._open))
                names = [name for one in self._open for name in self.names(one)]
                again = [name for name, count in Counter(names).items() if count > 1]
                assert not again or len(self._open) == 1, "one document is on its way twice"
                return request
            case Await(request):
                self._open.remove(request)
                documents = [payload.decode(body) for body in request.args[1]]
                self._fails(documents)
                self.batches.append([one["id"] for one in documents])
                self.refreshes.append(request.kwargs.get("refresh", "interval"))
                kept = documents
                if request.kwargs.get("only_if") == "absent":
                    kept = [one for one in documents if one["id"] not in self.documents]
                self.documents |= {one["id"]: one for one in kept}
                return Written([one["id"] for one in kept], len(self.batches))
            case Take(source):
                return source.take()
            case Pause(seconds):
                self._now += seconds
                self.paused += seconds
                return None
        raise AssertionError(step)

    @staticmethod
    def names(request: Request[Written]) -> set[str]:
        return {payload.decode(body)["id"] for body in request.args[1]}

    def load(self, documents: Iterable[Any], **options: Any) -> Loaded:
        wanted: dict[str, Any] = {
            "batch": 3, "in_flight": 2, "embed": None, "embed_field": "", "embed_from": (),
            "only_if": "", "refresh": "interval", "progress": None, "on_error": None, **options,
        }  # fmt: skip
        source = Incoming(
            iter(documents), None, batch=wanted.pop("batch"), on_error=wanted["on_error"]
        )
        patience = Patience(lambda: self._now, 5.0, random.Random(1))
        return self.run(loading.load(loading.loading("docs", source, patience, **wanted)))


def some(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"d{number}", "n": number} for number in range(start, start + count)]


def test_all_are_written_once_and_in_batches() -> None:
    service = Service()
    told: list[tuple[int, int | None]] = []
    loaded = service.load(some(10), progress=lambda done, of: told.append((done, of)))
    assert loaded == Loaded(10, 0, 0, 4)
    assert [len(batch) for batch in service.batches] == [3, 3, 3, 1]
    assert [name for batch in service.batches for name in batch] == [f"d{n}" for n in range(10)]
    assert service.most_in_flight == 2
    assert told == [(3, None), (6, None), (9, None), (10, None)]


def test_nothing_is_a_load_too() -> None:
    assert Service().load([]) == Loaded(0, 0, 0, 0)


def test_only_the_last_batch_waits_to_be_searched() -> None:
    service = Service()
    service.load(some(7), refresh="wait")
    assert service.refreshes == ["interval", "interval", "wait"]


def test_it_waits_for_an_index_that_is_built_anew() -> None:
    service = Service()
    service.building = [{"applied": 0, "of": 9}, {"applied": 5, "of": 9}, None]
    assert service.load(some(2), refresh="wait").written == 2
    assert not service.building and service.paused == pytest.approx(2 * loading.BUILT_EVERY)
    service.building = [{"applied": 5, "of": 9}]
    service.load(some(2))
    assert service.building, "unless it is not to wait"
    service.building = [{"applied": 5, "of": 9}] * 1000
    with pytest.raises(DeadlineExceeded, match="stays at 5 of 9"):
        service.load(some(2), refresh="wait")
    assert len(service.building) > 800


def test_the_source_is_read_as_the_documents_go() -> None:
    service = Service()
    read = 0

    def documents() -> Iterable[dict[str, Any]]:
        nonlocal read
        for document in some(60):
            read += 1
            assert read - sum(map(len, service.batches)) <= 3 * (2 + 2)
            yield document

    assert service.load(documents()).written == 60


def test_a_batch_has_so_many_octets() -> None:
    service = Service()
    large = [{"id": f"d{n}", "t": "x" * 900_000} for n in range(12)]
    assert service.load(large, batch=1000).written == 12
    assert [len(batch) for batch in service.batches] == [5, 5, 2]


def test_what_fails_for_a_moment_is_written_again() -> None:
    left = Counter({"d0": 2, "d4": 1, "d9": 3})

    def fails(documents: list[dict[str, Any]]) -> None:
        for one in documents:
            if left[one["id"]]:
                left[one["id"]] -= 1
                raise WorkerLost("gone", maybe_executed=True)

    service = Service(fails)
    assert service.load(some(10)).written == 10
    assert sorted(service.documents) == sorted(f"d{n}" for n in range(10))


def test_what_goes_on_failing_ends_the_load() -> None:
    def fails(documents: list[dict[str, Any]]) -> None:
        raise StoreBusy("no writer")

    with pytest.raises(StoreBusy):
        Service(fails).load(some(4))


def test_the_last_of_one_id_wins_however_batches_fail() -> None:
    rng = random.Random(5)

    def fails(documents: list[dict[str, Any]]) -> None:
        if rng.random() < 0.4:
            raise WorkerLost("gone", maybe_executed=True)

    service = Service(fails)
    documents = [{"id": f"d{rng.randrange(8)}", "n": number} for number in range(200)]
    service.load(documents, in_flight=4)
    assert service.documents == {one["id"]: one for one in documents}


def refuses(*names: str) -> Callable[[list[dict[str, Any]]], None]:
    def fails(documents: list[dict[str, Any]]) -> None:
        for one in documents:
            if one["id"] in names:
                raise InvalidArgument(f"document {one['id']!r}: no", data={"id": one["id"]})

    return fails


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"document 'd4'.*document 4 of the load; 3 were"):
        Service(refuses("d4")).load(some(10))
    with pytest.raises(InvalidArgument, match="document 5 ") as caught:
        Service().load([*some(5), {"id": "large", "t": "x" * (MAX_DOCUMENT + 1)}])
    assert caught.value.data == {"id": "large", "number": 5}
    with pytest.raises(InvalidArgument, match="document 1='text' is not a mapping"):
        Service().load([*some(1), "text"])


def test_what_does_not_fit_is_left_out_if_one_wants() -> None:
    told: list[tuple[Any, str]] = []
    service = Service(refuses("d1", "d4", "d5", "d9"))
    given = [*some(7), "text", *some(3, start=7)]
    loaded = service.load(given, on_error=lambda one, error: told.append((one, error.message)))
    assert loaded.written == 6 and loaded.failed == 5
    assert sorted(service.documents) == ["d0", "d2", "d3", "d6", "d7", "d8"]
    named = sorted(one["id"] if isinstance(one, dict) else one for one, _ in told)
    assert named == ["d1", "d4", "d5", "d9", "text"]


def test_an_error_about_no_document_ends_the_load_anyway() -> None:
    def fails(documents: list[dict[str, Any]]) -> None:
        raise InvalidArgument("256 collections are the most")

    with pytest.raises(InvalidArgument, match="256 collections"):
        Service(fails).load(some(4), on_error=lambda one, error: None)


def test_a_load_that_was_cut_off_goes_on() -> None:
    service = Service()
    service.load(some(5))
    assert service.load(some(9), only_if="absent") == Loaded(4, 5, 0, 5)


def test_vectors_are_made_on_the_way() -> None:
    service = Service()
    service.load([{"id": "a", "t": "one"}, {"id": "b"}], embed="e.m")
    assert service.documents == {"a": {"id": "a", "t": "one", "v": b"one "}, "b": {"id": "b"}}
