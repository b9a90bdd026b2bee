"""Codec of the native protocol: two total functions between frames and `Message`.

`decode` raises ProtocolError and nothing else, whatever the frames are.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from mesh.errors import ProtocolError
from mesh.protocol.messages import (
    END,
    MAX_NAME,
    NO_FRAMES,
    PRIORITIES,
    RAW,
    Body,
    Message,
    make,
)

MAGIC = 0xE5
VERSION = 1
PREFIX = bytes((MAGIC, VERSION))
HEADER = struct.Struct("!BBBBBBBBQIIQQ")
HEADER_SIZE = HEADER.size
MAX_FRAMES = 1000
MAX_TIMEOUT = 0xFFFFFFFF / 1_000_000

_pack = HEADER.pack
_unpack = HEADER.unpack_from


def encode(message: Message, peer: bytes | None = None) -> list[Body]:
    """Frames of `message`, behind the routing id `peer` if one is given.

    A timeout beyond 4294 s (over an hour) is sent as 4294 s; one below a microsecond, but above
    zero, as one microsecond: on the wire zero means "none stated".
    """
    timeout = message.timeout
    if timeout >= MAX_TIMEOUT:
        microseconds = 0xFFFFFFFF
    elif timeout > 0.0:
        microseconds = int(timeout * 1_000_000 + 0.5) or 1  # to the nearest: a relay is exact
    else:
        microseconds = 0
    service = message.service
    method = message.method
    header = _pack(
        MAGIC,
        VERSION,
        message.command,
        message.flags,
        message.priority,
        message.code,
        len(service),
        len(method),
        message.tag,
        microseconds,
        message.credit,
        message.incarnation,
        message.sequence,
    )
    if service:
        header += service + method
    if peer is None:
        return [header, *message.frames]
    return [peer, header, *message.frames]


def decode(frames: Sequence[Body], start: int = 0) -> Message:
    """The message whose header is `frames[start]`.

    Raises:
        ProtocolError: the frames are not a native message of version 1.
    """
    count = len(frames)
    if count <= start:
        raise ProtocolError("no header frame")
    header = frames[start]
    if type(header) is not bytes or len(header) < HEADER_SIZE:
        raise ProtocolError("header shorter than 40 octets, or far too long")
    (
        magic,
        version,
        command,
        flags,
        priority,
        code,
        service_size,
        method_size,
        tag,
        microseconds,
        credit,
        incarnation,
        sequence,
    ) = _unpack(header)
    if magic != MAGIC or version != VERSION:
        raise ProtocolError(f"not a native header of version {VERSION}")
    if not 0 < command <= END:
        raise ProtocolError(f"unknown command {command}")
    if priority >= PRIORITIES:
        raise ProtocolError(f"priority {priority} is not 0 to {PRIORITIES - 1}")
    service = method = b""
    if service_size:
        middle = HEADER_SIZE + service_size
        if service_size > MAX_NAME or method_size > MAX_NAME:
            raise ProtocolError(f"a name is longer than {MAX_NAME} octets")
        if len(header) != middle + method_size:
            raise ProtocolError("header length does not match its names")
        service = header[HEADER_SIZE:middle]
        method = header[middle:]
    elif method_size or len(header) != HEADER_SIZE:
        raise ProtocolError("header length does not match its names")
    body_frames = count - start - 1
    if body_frames > 2 and (not flags & RAW or body_frames > MAX_FRAMES):
        raise ProtocolError(f"{body_frames} body frames")
    return make(
        command,
        flags,
        priority,
        code,
        tag,
        microseconds * 1e-6,
        credit,
        incarnation,
        sequence,
        service,
        method,
        frames[start + 1 :] if body_frames else NO_FRAMES,
    )
