"""The records that the storage service's answers are read into. Times are Unix seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")

SERVICE = "storage"
HOW_TO_START = "start it with `python -m workers storage --broker ENDPOINT --data DIR`"


@dataclass(slots=True, frozen=True)
class Record:
    """A value and what is known of it. `version` grows with each change of the store."""

    value: Any
    version: int
    modified_at: float
    expire_at: float | None


@dataclass(slots=True, frozen=True)
class ObjectInfo:
    """What is known of an object. `size` in octets, `sha256` in hexadecimal."""

    key: str
    size: int
    sha256: str
    content_type: str
    metadata: dict[str, str]
    version: int
    modified_at: float
    expire_at: float | None


@dataclass(slots=True, frozen=True)
class Item:
    """A key and what is known of it. `size`: octets of the packed record, or of the object."""

    key: str
    size: int
    version: int
    modified_at: float
    expire_at: float | None
    object: ObjectInfo | None = None


@dataclass(slots=True, frozen=True)
class Page(Generic[T]):
    """Some of what a scan finds; an empty `cursor` says that this was the last page."""

    items: list[T]
    cursor: bytes


@dataclass(slots=True, frozen=True)
class Change:
    """Something that happened to a key: "put", "object", "deleted" or "expired".

    Kind "now", without a key: all changes up to `version` have been told.
    """

    kind: str
    key: str
    version: int


@dataclass(slots=True, frozen=True)
class BucketInfo:
    """What a bucket holds. `quota`, octets, and `ttl`, seconds, are 0 for none.

    `version`: that of the last change of the whole store.
    """

    name: str
    entries: int
    octets: int
    quota: int
    ttl: float
    created_at: float
    version: int


def object_info(found: dict[str, Any]) -> ObjectInfo:
    """An object as the service describes it."""
    return ObjectInfo(
        found["key"],
        found["size"],
        found["sha256"].hex(),
        found["content_type"],
        found["metadata"],
        found["version"],
        found["modified_at"],
        found["expire_at"],
    )


def bucket_info(found: dict[str, Any]) -> BucketInfo:
    """A bucket as the service describes it."""
    return BucketInfo(**{name: found[name] for name in BucketInfo.__slots__})


def item(found: dict[str, Any]) -> Item:
    """An entry of a list as the service describes it."""
    return Item(
        found["key"],
        found["size"],
        found["version"],
        found["modified_at"],
        found["expire_at"],
        object_info(found) if "sha256" in found else None,
    )
