"""SAGE Mesh: services in Python that call each other through brokers.

from mesh import Service, connect

cart = Service("cart")

@cart.rpc
def total(cart_id: str) -> int: ...

with connect("tcp://localhost:8080") as m:
    m.call("cart.total", "c1")
"""

from __future__ import annotations

import typing as _typing
from importlib import import_module as _import_module

from mesh import compiled as _compiled  # noqa: F401 - first: it decides what the others are

if _typing.TYPE_CHECKING:
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

_HOME = {
    "mesh.client": (
        "AsyncMesh",
        "CallOptions",
        "ClientSettings",
        "Mesh",
        "connect",
        "connect_async",
    ),
    "mesh.context": ("Call", "current"),
    "mesh.service": ("Service", "Stream"),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> object:
    """Import on first use: a broker needs no client, and a command line answers sooner."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(_MODULES.get(name, "mesh.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
