"""SAGE Mesh: services in Python that call each other through brokers.

from mesh import Service, connect

cart = Service("cart")

@cart.rpc
def total(cart_id: str) -> int: ...

with connect("tcp://localhost:8080") as m:
    m.call("cart.total", "c1")
"""

from __future__ import annotations

from mesh import compiled as _compiled  # noqa: F401 - first: it decides what the others are
from mesh.client import (
    AsyncMesh,
    CallOptions,
    ClientSettings,
    Mesh,
    connect,
    connect_async,
)
from mesh.context import Call, current
from mesh.errors import (
    BrokerLost,
    CallError,
    Cancelled,
    CircuitOpen,
    ConfigError,
    DeadlineExceeded,
    InvalidArgument,
    MeshError,
    MethodNotFound,
    Overloaded,
    ProtocolError,
    RemoteError,
    ServiceNotFound,
    TooLarge,
    Unauthorized,
    WorkerLost,
)
from mesh.service import Service, Stream

__all__ = [
    "AsyncMesh",
    "BrokerLost",
    "Call",
    "CallError",
    "CallOptions",
    "Cancelled",
    "CircuitOpen",
    "ClientSettings",
    "ConfigError",
    "DeadlineExceeded",
    "InvalidArgument",
    "Mesh",
    "MeshError",
    "MethodNotFound",
    "Overloaded",
    "ProtocolError",
    "RemoteError",
    "Service",
    "ServiceNotFound",
    "Stream",
    "TooLarge",
    "Unauthorized",
    "WorkerLost",
    "connect",
    "connect_async",
    "current",
]
