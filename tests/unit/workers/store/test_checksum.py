"""Values with checksums."""

from __future__ import annotations

import pytest

from mesh.errors import DataCorrupted
from workers.store.checksum import OVERHEAD, printable, seal, unseal


@pytest.mark.parametrize("value", [b"", b"x", b"\0" * 8, bytes(range(256)) * 300])
def test_what_was_sealed_comes_back(value: bytes) -> None:
    sealed = seal(b"key", value)
    assert len(sealed) == len(value) + OVERHEAD
    assert unseal(b"key", sealed) == value
    assert unseal(b"key", memoryview(sealed)) == value


def test_every_single_changed_bit_is_found() -> None:
    sealed = seal(b"key", b"some value")
    for place in range(len(sealed) * 8):
        damaged = bytearray(sealed)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(DataCorrupted):
            unseal(b"key", bytes(damaged))


@pytest.mark.parametrize("cut", range(OVERHEAD + 3))
def test_a_value_that_was_cut_is_found(cut: int) -> None:
    with pytest.raises(DataCorrupted):
        unseal(b"key", seal(b"key", b"abc")[:cut])


def test_a_value_under_another_key_is_found_and_named() -> None:
    with pytest.raises(DataCorrupted, match=r"key 'other' in table 'items'") as caught:
        unseal(b"other", seal(b"key", b"value"), "items")
    assert caught.value.data == {"table": "items", "key": b"other"}
    assert not caught.value.retryable


def test_keys_are_shown_as_text_where_they_are_text() -> None:
    assert printable("键".encode()) == "'键'"
    assert printable(b"\xff\x00") == "ff00"
    assert printable(b"a\nb") == "610a62"
    assert len(printable(b"x" * 500)) == 120
