"""Offering services: declare methods with `Service`, and serve them."""

from __future__ import annotations

from mesh.context import Call, current
from mesh.service.declare import Service
from mesh.service.lanes import Job
from mesh.service.process import serve
from mesh.service.runtime import Runtime
from mesh.service.streams import Stream

__all__ = ["Call", "Job", "Runtime", "Service", "Stream", "current", "serve"]
