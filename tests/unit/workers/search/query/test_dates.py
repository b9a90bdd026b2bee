"""Times as queries write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from workers.search.query.dates import Span, span_of

NOW = datetime(2026, 3, 1, 12, 30, 15, 500, tzinfo=UTC)


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2026", at(2026, 1, 1), at(2027, 1, 1)),
        ("2026-12", at(2026, 12, 1), at(2027, 1, 1)),
        ("2024-02", at(2024, 2, 1), at(2024, 3, 1)),
        ("2024-02-29", at(2024, 2, 29), at(2024, 3, 1)),
        ("0001", at(1, 1, 1), at(2, 1, 1)),
        ("9999", at(9999, 1, 1), None),
        ("9999-12", at(9999, 12, 1), None),
        ("9999-12-31", at(9999, 12, 31), None),
        ("9999-11", at(9999, 11, 1), at(9999, 12, 1)),
        ("2026-01-31T12", at(2026, 1, 31, 12), at(2026, 1, 31, 13)),
        ("2026-01-31 12:30", at(2026, 1, 31, 12, 30), at(2026, 1, 31, 12, 31)),
        ("2026-01-31T12:30:15", at(2026, 1, 31, 12, 30, 15), at(2026, 1, 31, 12, 30, 16)),
        ("2026-01-31T12:30Z", at(2026, 1, 31, 12, 30), at(2026, 1, 31, 12, 31)),
        ("2026-01-31T12+02:00", at(2026, 1, 31, 10), at(2026, 1, 31, 11)),
        ("today", at(2026, 3, 1), at(2026, 3, 2)),
        ("yesterday", at(2026, 2, 28), at(2026, 3, 1)),
        ("tomorrow", at(2026, 3, 2), at(2026, 3, 3)),
    ],
)
def test_spans(text: str, start: datetime, end: datetime | None) -> None:
    assert span_of(text, NOW) == Span(start, end)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T12:30:15.25", at(2026, 1, 31, 12, 30, 15, 250_000)),
        ("2026-01-31T12:30:15.25+01:00", at(2026, 1, 31, 11, 30, 15, 250_000)),
        ("now", NOW),
        ("now-7d", NOW - timedelta(days=7)),
        ("now+2h", NOW + timedelta(hours=2)),
        ("now-90s", NOW - timedelta(seconds=90)),
        ("now-5m", NOW - timedelta(minutes=5)),
        ("now-1w", NOW - timedelta(weeks=1)),
    ],
)
def test_moments(text: str, moment: datetime) -> None:
    found = span_of(text, NOW)
    assert found is not None and found.moment and found.start == moment


@pytest.mark.parametrize(
    "text",
    [
        "", "soon", "Today", "now-", "now-d", "now-1", "now-1y", "now-999999999w", "now - 1d",
        "2026-13", "2026-02-30", "2026-1-1", "20", "０００１", "2026-01-31T25",
        "0001-01-01T00:00+05:00", "9999-12-31T23:59-05:00", "12:30",
    ],
)  # fmt: skip
def test_what_is_no_time(text: str) -> None:
    assert span_of(text, NOW) is None
