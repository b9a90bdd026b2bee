"""Everything that touches ZeroMQ: sockets, the frame pump, and the watch over connections."""

from __future__ import annotations

from mesh.protocol.endpoints import is_local, parse_endpoint
from mesh.transport.guard import ByteGuard
from mesh.transport.links import DIRECT, AnyBound, AnyLink, listen, open_link, waiter
from mesh.transport.monitor import LinkWatch, PeerWatch, disconnect
from mesh.transport.pump import KIND, LARGE, MAX_FRAMES, Body, LargeBody, Pump, why
from mesh.transport.sockets import (
    MAX_MESSAGE,
    Bound,
    Link,
    Troubles,
    context,
    dealer_socket,
    end_context,
    keep_freed_memory,
    router_socket,
    seed_c_random,
)

__all__ = [
    "DIRECT",
    "KIND",
    "LARGE",
    "MAX_FRAMES",
    "MAX_MESSAGE",
    "AnyBound",
    "AnyLink",
    "Body",
    "Bound",
    "ByteGuard",
    "LargeBody",
    "Link",
    "LinkWatch",
    "PeerWatch",
    "Pump",
    "Troubles",
    "context",
    "dealer_socket",
    "disconnect",
    "end_context",
    "is_local",
    "keep_freed_memory",
    "listen",
    "open_link",
    "parse_endpoint",
    "router_socket",
    "seed_c_random",
    "waiter",
    "why",
]
