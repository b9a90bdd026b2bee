"""What the memory service accepts: limits, and the checks of them at both of its edges.

The client refuses at once what the service would refuse. Every refusal names the value and says
what would be accepted.
"""

from __future__ import annotations

from typing import Any

from mesh.errors import InvalidArgument
from mesh.protocol.checks import MAX_KEY as MAX_KEY
from mesh.protocol.checks import MAX_MANY as MAX_MANY
from mesh.protocol.checks import MAX_PAGE as MAX_PAGE
from mesh.protocol.checks import MAX_PAGE_OCTETS as MAX_PAGE_OCTETS
from mesh.protocol.checks import MAX_TTL as MAX_TTL
from mesh.protocol.checks import check_choice as check_choice
from mesh.protocol.checks import check_items as check_items
from mesh.protocol.checks import check_key as check_key
from mesh.protocol.checks import check_keys as check_keys
from mesh.protocol.checks import check_limit as check_limit
from mesh.protocol.checks import check_prefix as check_prefix
from mesh.protocol.checks import check_quota as check_quota
from mesh.protocol.checks import check_version as check_version
from mesh.protocol.checks import duration_ms as duration_ms
from mesh.protocol.checks import moment_ms as moment_ms
from mesh.protocol.checks import shown, utf8

MAX_NAMESPACE = 64
MAX_TAG = 128
MAX_TAGS = 16
# One value is one write: a larger one would hold up everybody. The storage service takes files.
MAX_VALUE = 16 * 1024 * 1024
MAX_OWNER = 128
INT_RANGE = (-(2**63), 2**63 - 1)

DEFAULT_NAMESPACE = "default"


def check_namespace(name: Any) -> str:
    """`name` if it may name a namespace. Raises InvalidArgument."""
    if not isinstance(name, str) or not 0 < len(utf8(name, "ns")) <= MAX_NAMESPACE:
        raise InvalidArgument(
            f"ns={shown(name)} is not text of 1 to {MAX_NAMESPACE} octets; "
            f"leave it out for {DEFAULT_NAMESPACE!r}"
        )
    if not name.isprintable() or "{" in name or "}" in name:
        raise InvalidArgument(f"ns={name!r} has braces or characters that cannot be printed")
    return name


def check_body(body: bytes) -> bytes:
    """A packed value. Raises InvalidArgument."""
    if len(body) > MAX_VALUE:
        raise InvalidArgument(
            f"the value packs to {len(body):,} octets, the limit is {MAX_VALUE:,}: "
            "keep it in the storage service and its name here"
        )
    return body


def check_tags(tags: Any) -> tuple[str, ...]:
    """The tags of an entry, sorted, each once. Raises InvalidArgument."""
    if not isinstance(tags, list | tuple):
        raise InvalidArgument(f"tags={shown(tags)} is not a list of tags")
    if not tags:
        return ()
    found = sorted(set(map(check_tag, tags)))
    if len(found) > MAX_TAGS:
        raise InvalidArgument(f"{len(found)} tags, the limit is {MAX_TAGS} an entry")
    return tuple(found)


def check_tag(tag: Any) -> str:
    """One tag. Raises InvalidArgument."""
    if not isinstance(tag, str) or not 0 < len(utf8(tag, "tag")) <= MAX_TAG:
        raise InvalidArgument(f"tag={shown(tag)} is not text of 1 to {MAX_TAG} octets")
    return tag


def check_owner(owner: Any) -> str:
    """Who holds a lock, for people. Raises InvalidArgument."""
    if not isinstance(owner, str) or len(utf8(owner, "owner")) > MAX_OWNER:
        raise InvalidArgument(f"owner={shown(owner)} is not text of up to {MAX_OWNER} octets")
    return owner


def check_lifetime(ttl: Any, expire_at: Any, stale: Any) -> None:
    """Which of the times of an entry may be given together. Raises InvalidArgument."""
    if ttl is not None and expire_at is not None:
        raise InvalidArgument("ttl together with expire_at: give one of them")
    if stale is not None and ttl is None and expire_at is None:
        raise InvalidArgument("stale says how long to keep a value beyond its ttl: give a ttl")
