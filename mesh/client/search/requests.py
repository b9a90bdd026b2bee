"""The records that the search service's answers are read into. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SERVICE = "search"
HOW_TO_START = "start it with `python -m workers search --broker ENDPOINT --data DIR`"


@dataclass(slots=True, frozen=True)
class Written:
    """What a write has done: the ids of the documents, and the version of the collection then."""

    ids: list[str]
    version: int


@dataclass(slots=True, frozen=True)
class Loaded:
    """What a load has done, in documents. `skipped`: those that `only_if` left out."""

    written: int
    skipped: int
    failed: int
    version: int


@dataclass(slots=True, frozen=True)
class Leg:
    """What words or vectors alone have to say of a hit: its score, and its place from 1."""

    score: float
    rank: int


@dataclass(slots=True)  # not frozen: there are many, and frozen ones take twice as long to make
class Hit:
    """A document that was found.

    `source`: its fields, as far as they were asked for. `highlight`: fragments, by field. `text`
    and `vector`: where it stands by words and by vectors, None for what did not find it. `sort`:
    the values that it was ordered by.
    """

    id: str
    score: float
    version: int
    source: dict[str, Any]
    highlight: dict[str, list[str]]
    sort: list[Any]
    text: Leg | None
    vector: Leg | None
    explain: Any


@dataclass(slots=True, frozen=True)
class Hits:
    """What a query has found; to be iterated.

    `total`: all that match, -1 if they were not counted. `cursor`: where the next page begins, b""
    after the last one. `took`: seconds. `refreshed`: the version of the collection that was
    searched.
    """

    hits: list[Hit]
    total: int
    cursor: bytes
    facets: dict[str, Any]
    took: float
    refreshed: int

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, index: int) -> Hit:
        return self.hits[index]


@dataclass(slots=True, frozen=True)
class CollectionInfo:
    """What is known of a collection.

    `documents`, `octets`: what it holds. `version`: of its last change; `refreshed`: the version
    that searches see. `schema`: its fields as `create` takes them. `rebuilding`: how far a new
    index is, None if there is none.
    """

    name: str
    documents: int
    octets: int
    version: int
    refreshed: int
    refresh_every: float
    dynamic: bool
    schema: dict[str, Any]
    rebuilding: dict[str, int] | None
    created_at: float


def written(found: Mapping[str, Any]) -> Written:
    """A write as the service describes it."""
    return Written(found["ids"], found["version"])


def hits(found: Mapping[str, Any]) -> Hits:
    """What a query has found as the service describes it."""
    total = found.get("total")
    return Hits(
        [_hit(one) for one in found["hits"]],
        -1 if total is None else total,
        found.get("cursor") or b"",
        found.get("facets") or {},
        found.get("took", 0.0),
        found.get("refreshed", 0),
    )


def _hit(found: Mapping[str, Any]) -> Hit:
    get = found.get
    text, vector = get("text"), get("vector")
    return Hit(
        found["id"],
        found["score"],
        found["version"],
        get("source") or {},
        get("highlight") or {},
        get("sort") or [],
        _leg(text) if text else None,
        _leg(vector) if vector else None,
        get("explain"),
    )


def _leg(found: Mapping[str, Any]) -> Leg:
    return Leg(found["score"], found["rank"])


def collection_info(found: Mapping[str, Any]) -> CollectionInfo:
    """A collection as the service describes it."""
    return CollectionInfo(**{name: found[name] for name in CollectionInfo.__slots__})
