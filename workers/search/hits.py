"""Hits as they travel: MessagePack, made of the records of documents without a look inside."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

from mesh.protocol import payload
from mesh.protocol.search import MAX_KEY
from workers.search.records import HEAD

HEAD_SIZE: Final = HEAD.size
NOTHING: Final = b"\x80"
"""An empty map: nothing else is told."""
_MIDDLE: Final = struct.Struct(">7sd9sQ")
_SCORE: Final = b"\xa5score\xcb"
_VERSION: Final = b"\xa7version\xcf"
_SOURCE: Final = b"\xa6source"
_PLACE: Final = struct.Struct(">6sI7sd")
_RANK: Final = b"\xa4rank\xce"
_BEGINS: Final = [bytes((0x80 | entries,)) + b"\xa2id" for entries in range(16)]
_IDS: Final = [payload.text_header(octets) for octets in range(MAX_KEY + 1)]


def packed_hit(record: bytes, row: int, score: float, told: bytes, source: bool) -> bytes:
    """{id, score, version, ..., source} of the document in `record`, the latter if `source`.

    `told`: a map of up to eleven further entries.
    """
    name_size = record[0] << 8 | record[1]  # as HEAD has it
    begin = HEAD_SIZE + name_size
    entries = 3 + source + (told[0] & 0x0F)
    parts = [
        _BEGINS[entries], _IDS[name_size], record[HEAD_SIZE : begin],
        _MIDDLE.pack(_SCORE, score, _VERSION, row), told[1:],
    ]  # fmt: skip
    if source:
        body_size = HEAD.unpack_from(record)[1]
        parts += (_SOURCE, record[begin : begin + body_size])
    return b"".join(parts)


def joined(told: bytes, more: dict[str, Any]) -> bytes:
    """What is told of a hit, with more entries."""
    packed = payload.encode(more)
    return bytes((told[0] + (packed[0] & 0x0F),)) + told[1:] + packed[1:]


def place(rank: int, score: float) -> bytes:
    """Where a hit stands in one leg: {rank, score}."""
    return b"\x82" + _PLACE.pack(_RANK, rank, _SCORE, score)


def places(name: bytes, scores: Sequence[float], begin: int) -> list[bytes]:
    """{name: {rank, score}} of each hit of the only leg, the first of which stands after `begin`.

    `name`: packed.
    """
    start = b"\x81" + name
    return [start + place(begin + at, score) for at, score in enumerate(scores, 1)]


def packed_answer(hits: list[bytes], around: dict[str, Any]) -> bytes:
    """The answer to a query: {hits, ...around}, which are up to fourteen entries."""
    packed = payload.encode(around)
    head = bytes((packed[0] + 1,)) + b"\xa4hits\xdd" + len(hits).to_bytes(4, "big")
    return b"".join((head, *hits, packed[1:]))
