"""Checks of arguments that the built-in services share, made at both of their edges.

The client refuses at once what the service would refuse. Every refusal names the value and says
what would be accepted.
"""

from __future__ import annotations

import math
from typing import Any

from mesh.errors import ConfigError, InvalidArgument
from mesh.units import parse_size

# LMDB takes keys of 511 octets; the longest index entry is 8 + 1 + 4 octets and the key.
MAX_KEY = 480
MAX_MANY = 1000
MAX_PAGE = 1000
MAX_PAGE_OCTETS = 1024 * 1024
MAX_TTL = 10 * 366 * 86_400.0


def check_key(key: Any, what: str = "key") -> bytes:
    """`key` as octets. Raises InvalidArgument."""
    if not isinstance(key, str):
        raise InvalidArgument(f"{what}={shown(key)} is {type(key).__name__}; keys are text")
    octets = utf8(key, what)
    if not octets:
        raise InvalidArgument(f"{what} is empty; give it at least one character")
    if len(octets) > MAX_KEY:
        raise InvalidArgument(
            f"{what}={shown(key)} has {len(octets)} octets, the limit is {MAX_KEY}: "
            "use a digest of it as the key"
        )
    return octets


def check_prefix(prefix: Any) -> bytes:
    """`prefix` as octets; it may be empty. Raises InvalidArgument."""
    return check_key(prefix, "prefix") if prefix != "" else b""


def check_keys(keys: Any) -> list[bytes]:
    """Some keys as octets. Raises InvalidArgument."""
    if not isinstance(keys, list | tuple):
        raise InvalidArgument(f"keys={shown(keys)} is not a list of keys")
    _check_many(len(keys))
    try:
        return [check_key(key) for key in keys]
    except InvalidArgument:  # once more, to say which: names cost as much as the checks
        return [check_key(key, f"keys[{index}]") for index, key in enumerate(keys)]


def check_items(items: Any) -> dict[str, Any]:
    """Some keys with their values. Raises InvalidArgument."""
    if not isinstance(items, dict):
        raise InvalidArgument(f"items={shown(items)} is not a mapping of keys to values")
    _check_many(len(items))
    return items


def duration_ms(what: str, seconds: Any) -> int:
    """`seconds` as whole milliseconds, rounded up. Raises InvalidArgument."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not 0 < seconds <= MAX_TTL:
        raise InvalidArgument(
            f"{what}={shown(seconds)} is not a number of seconds above 0 and up to {MAX_TTL:.0f}"
        )
    return math.ceil(float(seconds) * 1000)


def moment_ms(what: str, at: Any, now: int) -> int:
    """The Unix time `at`, in seconds, as milliseconds; one that has passed is allowed.

    Raises InvalidArgument.
    """
    number = isinstance(at, int | float) and not isinstance(at, bool)
    if not number or not 0 < at * 1000 <= now + MAX_TTL * 1000:
        raise InvalidArgument(f"{what}={shown(at)} is not a Unix time in seconds within ten years")
    return math.ceil(float(at) * 1000)


def check_version(version: Any) -> int:
    """A version for a comparison; 0: the key does not exist. Raises InvalidArgument."""
    if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version < 2**63:
        raise InvalidArgument(f"version={shown(version)} is not a whole number from 0")
    return version


def check_limit(limit: Any, most: int = MAX_PAGE) -> int:
    """How many things are wanted at a time. Raises InvalidArgument."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= most:
        raise InvalidArgument(f"limit={shown(limit)} is not a whole number from 1 to {most}")
    return limit


def check_choice(what: str, value: Any, allowed: tuple[str, ...]) -> str:
    """`value` if it is one of `allowed`. Raises InvalidArgument."""
    if value not in allowed:
        raise InvalidArgument(
            f"{what}={shown(value)} is not one of {', '.join(map(repr, allowed))}"
        )
    return str(value)


def check_quota(quota: int | str) -> int:
    """Octets, as a number or as text with a unit; 0 for none. Raises InvalidArgument."""
    if quota == 0 and not isinstance(quota, bool):
        return 0
    try:
        return parse_size(quota)
    except ConfigError as error:
        raise InvalidArgument(f"quota: {error}") from None


def _check_many(count: int) -> None:
    if count > MAX_MANY:
        raise InvalidArgument(f"{count} keys in one call, the limit is {MAX_MANY}: make several")


def utf8(text: str, what: str) -> bytes:
    """`text` as octets. Raises InvalidArgument."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what}={shown(text)} has half of a surrogate pair") from None


def shown(value: Any) -> str:
    """A value for messages, never long."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write whole numbers of thousands of digits
        text = f"a {type(value).__name__} with a whole number too long to show"
    return text if len(text) <= 60 else f"{text[:57]}..."
