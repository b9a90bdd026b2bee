"""What all derived indexes share."""

from __future__ import annotations


class IndexDamaged(Exception):
    """The files of an index cannot be used: it is built anew from the documents."""
