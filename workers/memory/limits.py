"""Sizes as people write them: "1GB", "64 MiB"."""

from __future__ import annotations

import re

from mesh.errors import ConfigError, InvalidArgument

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?", re.IGNORECASE)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str | int) -> int:
    """Octets in `text`: a number, or one with KB, MB, GB, TB or KiB, MiB, GiB, TiB.

    KB is 1,000 octets and KiB 1,024.

    Raises:
        ConfigError: it is something else, or less than 1.
    """
    found = None if isinstance(text, bool) else _SIZE.fullmatch(str(text).strip())
    if found is None:
        raise ConfigError(f"size {text!r} is not a number with KB, MB, GB or TB, as in 1GB")
    binary = (found[3] or "").lower() == "ib"
    octets = int(float(found[1]) * (1024 if binary else 1000) ** _UNITS[found[2].upper()])
    if octets < 1:
        raise ConfigError(f"size {text!r} is less than one octet")
    return octets


def check_quota(quota: int | str) -> int:
    """Octets, as a number or as text with a unit; 0 for none. Raises InvalidArgument."""
    if quota == 0 and not isinstance(quota, bool):
        return 0
    try:
        return parse_size(quota)
    except ConfigError as error:
        raise InvalidArgument(f"quota: {error}") from None
