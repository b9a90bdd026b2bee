"""Chooses the frame pump: the compiled one where it was built, else its twin in Python.

Set `SAGE_PUMP=pure` in the environment to force the twin.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mesh.transport.pure import LARGE, MAX_FRAMES, Body, LargeBody, Wake

if TYPE_CHECKING:
    from mesh.transport.pure import Pump

__all__ = ["KIND", "LARGE", "MAX_FRAMES", "Body", "LargeBody", "Pump", "Wake", "why"]


def _choose() -> tuple[type[Pump], str]:
    """The pump, and the reason if it is the pure one."""
    from mesh.transport import pure

    if os.environ.get("SAGE_PUMP") == "pure":
        return pure.Pump, "SAGE_PUMP=pure is set in the environment"
    try:
        from mesh.transport import _pump
    except ImportError as error:
        return pure.Pump, f"the compiled pump could not be loaded: {error}"
    return _pump.Pump, ""


_chosen, _reason = _choose()
if not TYPE_CHECKING:
    Pump = _chosen

KIND: str = _chosen.kind


def why() -> str:
    """Why the pure pump was chosen; empty when the compiled one is in use."""
    return _reason
