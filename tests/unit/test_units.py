"""Sizes as people write them, and how the rest is refused."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.errors import ConfigError, InvalidArgument
from mesh.protocol import memory as limits
from mesh.units import parse_size


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("1GB", 10**9), ("1GiB", 2**30), ("64MB", 64 * 10**6), ("1.5 kb", 1500), (4096, 4096),
        ("10", 10), ("2T", 2 * 10**12), ("512KiB", 2**19),
    ],
)  # fmt: skip
def test_sizes(text: Any, octets: int) -> None:
    assert parse_size(text) == octets


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1XB", "0", True, None, "1 GB extra", "nan"])
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(ConfigError, match="size"):
        parse_size(text)


def test_quotas() -> None:
    assert (limits.check_quota(0), limits.check_quota("1MB")) == (0, 10**6)
    with pytest.raises(InvalidArgument, match="quota"):
        limits.check_quota("much")
