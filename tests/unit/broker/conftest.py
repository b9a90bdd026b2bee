"""Fixtures of the router's tests."""

from __future__ import annotations

import pytest

from tests.unit.broker.driver import Mesh


@pytest.fixture
def mesh() -> Mesh:
    """A router with the usual settings that has just started."""
    return Mesh()
