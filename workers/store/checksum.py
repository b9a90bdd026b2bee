"""Values as they lie on disk: eight octets of checksum, then the value.

The checksum is XXH3-64 of the value, seeded with that of the key: a value that turns up under
another key is as wrong as a changed one. (crc32 costs twice as much for 100 octets and twenty times
as much for a mebibyte.) It finds accidents, not attackers: whoever can write the file can write the
checksum too.
"""

from __future__ import annotations

from typing import Final

from xxhash import xxh3_64_digest, xxh3_64_intdigest

from mesh.errors import DataCorrupted

OVERHEAD: Final = 8
"""Octets added to each value. Values of k * 4096 - 16 - OVERHEAD fill their pages exactly."""
_SMALL: Final = 4096


def seal(key: bytes, value: bytes | memoryview) -> bytes:
    """`value` with its checksum in front."""
    return xxh3_64_digest(value, xxh3_64_intdigest(key)) + value


def unseal(key: bytes, sealed: bytes | memoryview, table: str = "") -> bytes:
    """The value inside of `sealed`, as bytes of its own.

    Raises:
        DataCorrupted: it is not what was stored under `key`; the message names both.
    """
    if len(sealed) < _SMALL:
        copy = bytes(sealed)  # slices of bytes are cheaper than those of a memoryview
        value, stored = copy[8:], copy[:8]
    else:
        value, stored = bytes(sealed[OVERHEAD:]), bytes(sealed[:OVERHEAD])
    if stored != xxh3_64_digest(value, xxh3_64_intdigest(key)):
        raise DataCorrupted(
            f"the value of key {printable(key)} in table {table!r} fails its checksum;"
            " restore it from a backup, or delete the key",
            data={"table": table, "key": key},
        )
    return value


def printable(key: bytes) -> str:
    """A key for messages: as text where it is text, otherwise in hexadecimal, and never long."""
    text = key.decode(errors="replace")
    shown = repr(text) if text.isprintable() and "\ufffd" not in text else key.hex()
    return shown if len(shown) <= 120 else f"{shown[:117]}..."
