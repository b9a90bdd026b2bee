"""Sizes and durations as people write them: 1GB, 64MiB, 30s, 5m."""

from __future__ import annotations

import math
import re

from mesh.errors import ConfigError

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?)(i?B)?", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}

_DURATION = re.compile(r"(\d{1,15}(?:\.\d{1,25})?(?:e-?\d{1,3})?)\s*(us|ms|s|m|h|d)?", re.ASCII)
_PARTS = {"us": 1e6, "ms": 1e3}
_SECONDS = {None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


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
    base, power = 1024 if binary else 1000, _POWERS[found[2].upper()]
    whole, _, fraction = found[1].partition(".")
    octets: int = int(whole) * base**power  # exact, where a float would not be
    if fraction:
        octets += int(float(f"0.{fraction}") * base**power)
    if octets < 1:
        raise ConfigError(f"size {text!r} is less than one octet")
    return octets


def show_size(octets: int) -> str | int:
    """`octets` with the largest unit that gives a whole number; `parse_size` reads it."""
    for unit, factor in _UNITS:
        if octets and octets % factor == 0:
            return f"{octets // factor}{unit}"
    return octets


_UNITS = sorted(
    [
        (f"{letter}{mark}", base**power)
        for letter, power in _POWERS.items()
        if power
        for mark, base in (("B", 1000), ("iB", 1024))
    ],
    key=lambda unit: -unit[1],
)


def parse_duration(text: str | int | float) -> float:
    """Seconds in `text`: a number of them, or one with us, ms, s, m, h or d.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        if math.isfinite(text) and text >= 0:
            return float(text)
    elif isinstance(text, str) and (found := _DURATION.fullmatch(text.strip())) is not None:
        number = float(found[1])
        # Divided, where that is exact and a factor of 0.001 would not be.
        return number / _PARTS[found[2]] if found[2] in _PARTS else number * _SECONDS[found[2]]
    raise ConfigError(
        f"duration {text!r} is not a number of seconds, or one as in 500ms, 30s or 5m"
    )


def show_duration(seconds: float) -> int | float:
    """`seconds` as the simplest number."""
    return int(seconds) if seconds.is_integer() else seconds
