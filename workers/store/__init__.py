"""The store that the built-in services share. It knows no service and no mesh."""

from __future__ import annotations

from workers.store.election import lock_holder
from workers.store.progress import Progress, ProgressWatch, read_progress
from workers.store.store import INDEX, PLAIN, Store
from workers.store.tables import MAX_KEY, Change, Table, View
from workers.store.writer import Job

__all__ = [
    "INDEX",
    "MAX_KEY",
    "PLAIN",
    "Change",
    "Job",
    "Progress",
    "ProgressWatch",
    "Store",
    "Table",
    "View",
    "lock_holder",
    "read_progress",
]
