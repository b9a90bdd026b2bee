"""The client: `connect` for threads, `connect_async` for asyncio, over one core."""

from __future__ import annotations

from mesh.client.aio import AsyncMesh, connect_async
from mesh.client.calls import ClientSettings
from mesh.client.sync import CallOptions, Mesh, connect

__all__ = ["AsyncMesh", "CallOptions", "ClientSettings", "Mesh", "connect", "connect_async"]
