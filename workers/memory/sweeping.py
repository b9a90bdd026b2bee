"""Clearing what a sweep has made void, in slices that hold nobody up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.errors import DataCorrupted
from workers.memory.records import read_entry
from workers.memory.tables import ENTRIES, LOCKS, TAGS

if TYPE_CHECKING:
    from workers.memory.change import Change
    from workers.memory.view import Sweep

SLICE = 1000


def clear_slice(change: Change, sweep: Sweep, limit: int) -> tuple[int, bool]:
    """Look at up to `limit` places of `sweep` and remove what is void.

    Returns how many live entries were removed, and whether the sweep has come to its end;
    otherwise `sweep.at` is where it goes on.
    """
    by_tag = bool(sweep.tag)
    places: list[bytes] = []
    ended = True
    for place in change.tables.keys(TAGS if by_tag else ENTRIES, sweep.at or sweep.within):
        if not place.startswith(sweep.within):
            break
        if len(places) >= limit:
            sweep.at = place
            ended = False
            break
        places.append(place)
    removed = 0
    for place in places:
        slot = place[:4] + place[12:] if by_tag else place
        try:
            record = change.tables.get(ENTRIES, slot)
            entry = None if record is None else read_entry(slot[4:], record)
        except DataCorrupted:
            removed += change.drop(slot, "deleted") is not None
            continue
        if entry is None:  # what was damaged and removed could not name its tags
            change.tables.delete(TAGS, place)
            continue
        if entry.version > sweep.version or (by_tag and sweep.tag not in entry.tags):
            continue
        ends_at = entry.ends_at(False)
        removed += not ends_at or ends_at > change.now
        change.drop(slot, "deleted")
    if ended and len(sweep.within) == 4 and not by_tag and change.space_at(sweep.within) is None:
        for slot in list(change.tables.keys(LOCKS, sweep.within)):
            if not slot.startswith(sweep.within):
                break
            change.drop_lock(slot)
    return removed, ended
