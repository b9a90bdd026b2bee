"""What the storage service accepts: limits, and the checks of them at both of its edges."""

from __future__ import annotations

from typing import Any

from xxhash import xxh3_64_digest

from mesh.errors import InvalidArgument
from mesh.protocol.checks import MAX_KEY as MAX_KEY
from mesh.protocol.checks import MAX_MANY as MAX_MANY
from mesh.protocol.checks import MAX_PAGE_OCTETS as MAX_PAGE_OCTETS
from mesh.protocol.checks import check_choice as check_choice
from mesh.protocol.checks import check_items as check_items
from mesh.protocol.checks import check_key as check_key
from mesh.protocol.checks import check_keys as check_keys
from mesh.protocol.checks import check_limit as check_limit
from mesh.protocol.checks import check_prefix as check_prefix
from mesh.protocol.checks import check_quota as check_quota
from mesh.protocol.checks import check_version as check_version
from mesh.protocol.checks import duration_ms as duration_ms
from mesh.protocol.checks import shown, utf8

DEFAULT_BUCKET = "default"
MAX_BUCKET = 64
# A record is one write and one answer; what is larger is an object.
MAX_RECORD = 1024 * 1024
PART = 1024 * 1024
"""Octets of a part of an object; the last one may have fewer. One of up to that many is one write.
"""
MAX_PARTS = 1024 * 1024
PARTS_AT_A_TIME = 1024
"""Parts whose digests one call asks for: as many as are read in a second or two."""
DISK_RESERVE = 64 * 1024 * 1024
"""Octets of the disk that parts must leave: deleting things takes a little room first."""
MAX_CONTENT_TYPE = 255
MAX_METADATA = 16 * 1024
MAX_IDEMPOTENCY_KEY = 255

RECORD, OBJECT = "record", "object"


def check_bucket(name: Any) -> str:
    """`name` if it may name a bucket. Raises InvalidArgument."""
    if name == DEFAULT_BUCKET:
        return DEFAULT_BUCKET
    if not isinstance(name, str) or not name or len(utf8(name, "bucket")) > MAX_BUCKET:
        raise InvalidArgument(
            f"bucket={shown(name)} is not text of 1 to {MAX_BUCKET} octets; "
            f"leave it out for {DEFAULT_BUCKET!r}"
        )
    if not name.isprintable() or "/" in name or "\\" in name:
        raise InvalidArgument(f"bucket={name!r} has slashes or characters that cannot be printed")
    return name


def check_body(body: bytes) -> bytes:
    """A packed value. Raises InvalidArgument."""
    if len(body) > MAX_RECORD:
        raise InvalidArgument(
            f"the value packs to {len(body):,} octets, the limit of a record is {MAX_RECORD:,}: "
            "store it as an object (put_object)"
        )
    return body


def check_upload(upload: Any) -> bytes:
    """The 16 octets that name an upload, chosen by its client. Raises InvalidArgument."""
    if not isinstance(upload, bytes) or len(upload) != 16:
        raise InvalidArgument(f"upload={shown(upload)} is not 16 octets")
    return upload


def check_number(what: str, number: Any, most: int) -> int:
    """A whole number from 0 to `most`. Raises InvalidArgument."""
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= most:
        raise InvalidArgument(f"{what}={shown(number)} is not a whole number from 0 to {most:,}")
    return number


def check_part(data: Any, digest: Any) -> bytes:
    """One part of an object, as it left its client. Raises InvalidArgument."""
    if not isinstance(data, bytes) or not 0 < len(data) <= PART:
        raise InvalidArgument(f"data={shown(data)} is not 1 to {PART:,} octets")
    if part_digest(data) != digest:
        raise InvalidArgument("the part differs from its digest: it was damaged on its way")
    return data


def part_digest(data: bytes | memoryview) -> bytes:
    """What a part is known by: XXH3-64."""
    return xxh3_64_digest(data)


def check_sha256(digest: Any) -> bytes:
    """SHA-256 of an object. Raises InvalidArgument."""
    if not isinstance(digest, bytes) or len(digest) != 32:
        raise InvalidArgument(f"sha256={shown(digest)} is not 32 octets")
    return digest


def check_content_type(text: Any) -> str:
    """What kind of content it is, as in text/plain. Raises InvalidArgument."""
    if not isinstance(text, str) or len(utf8(text, "content_type")) > MAX_CONTENT_TYPE:
        raise InvalidArgument(
            f"content_type={shown(text)} is not text of up to {MAX_CONTENT_TYPE} octets"
        )
    return text


def check_metadata(metadata: Any) -> dict[str, str]:
    """What else there is to know of an object, by name. Raises InvalidArgument."""
    found = {} if metadata is None else metadata
    if not isinstance(found, dict):
        raise InvalidArgument(f"metadata={shown(metadata)} is not a mapping of names to texts")
    size = 0
    for name, text in found.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise InvalidArgument(f"metadata[{shown(name)}]={shown(text)}: both must be text")
        size += len(utf8(name, "metadata")) + len(utf8(text, "metadata"))
    if size > MAX_METADATA:
        raise InvalidArgument(f"metadata of {size:,} octets; the limit is {MAX_METADATA:,}")
    return found


def check_idempotency_key(key: Any) -> bytes:
    """The caller's own name of a request, as octets; none if empty. Raises InvalidArgument."""
    if not isinstance(key, str) or len(utf8(key, "idempotency_key")) > MAX_IDEMPOTENCY_KEY:
        raise InvalidArgument(
            f"idempotency_key={shown(key)} is not text of up to {MAX_IDEMPOTENCY_KEY} octets"
        )
    return key.encode()
