"""Times as queries write them. All are in UTC unless they name another zone.

| written                                | stands for                                              |
|----------------------------------------|---------------------------------------------------------|
| 2026, 2026-01, 2026-01-31              | the whole year, month, day                              |
| 2026-01-31T12, ...T12:30, ...T12:30:15 | the whole hour, minute, second; a zone may follow       |
| 2026-01-31T12:30:15.25                 | that moment                                             |
| yesterday, today, tomorrow             | that day                                                |
| now, now-7d, now+2h                    | that moment; units are s, m (minutes), h, d, w          |
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from workers.search.schema import as_date

FORMS: Final = "2026-01-31, 2026-01, 2026, 2026-01-31T12:30, today, yesterday, tomorrow, now-7d"
"""Some that are accepted, for messages."""

_CALENDAR: Final = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?", re.ASCII)
_CLOCK: Final = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d(:\d\d)?(:\d\d)?(?:Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII
)
_RELATIVE: Final = re.compile(r"now(?:([+-]\d{1,9})([smhdw]))?", re.ASCII)
_UNITS: Final = {
    "s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1),
    "d": timedelta(days=1), "w": timedelta(weeks=1),
}  # fmt: skip
_DAYS: Final = {"yesterday": -1, "today": 0, "tomorrow": 1}


class Span(NamedTuple):
    """From `start` up to, but without, `end`; None: without end. A moment ends where it starts."""

    start: datetime
    end: datetime | None

    @property
    def moment(self) -> bool:
        """Whether this is one moment."""
        return self.start == self.end


def span_of(text: str, now: datetime | None = None) -> Span | None:
    """What a text stands for; None if it is no time."""
    try:
        if found := _CALENDAR.fullmatch(text):
            return _of_calendar(*found.groups())
        if text in _DAYS:
            day = (now or datetime.now(UTC)).replace(hour=0, minute=0, second=0, microsecond=0)
            return _span(day + _DAYS[text] * _UNITS["d"], "d")
        if found := _RELATIVE.fullmatch(text):
            at = now or datetime.now(UTC)
            if found[1]:
                at += int(found[1]) * _UNITS[found[2]]
            return Span(at, at)
    except (ValueError, OverflowError):
        return None
    at_ = as_date(text)
    if at_ is None:
        return None
    if found := _CLOCK.fullmatch(text):
        return _span(at_, "s" if found[2] else "m" if found[1] else "h")
    return Span(at_, at_)


def _of_calendar(year: str, month: str | None, day: str | None) -> Span:
    start = datetime(int(year), int(month or 1), int(day or 1), tzinfo=UTC)
    if day:
        return _span(start, "d")
    months = start.year * 12 + start.month - 1 + (1 if month else 12)
    if months >= 120_000:  # there is no year 10,000
        return Span(start, None)
    return Span(start, start.replace(year=months // 12, month=months % 12 + 1))


def _span(start: datetime, unit: str) -> Span:
    try:
        return Span(start, start + _UNITS[unit])
    except OverflowError:
        return Span(start, None)
