"""Facets: what the values of a field are in all that a query finds.

| kind      | options                                   | result                                   |
|-----------|-------------------------------------------|------------------------------------------|
| terms     | size (10, to 1,000)                       | {"values": [[value, count]], "other": n} |
| ranges    | ranges: [[from, to]], None: without bound | {"ranges": [[from, to, count]]}          |
| histogram | interval: a number; offset (0)            | {"buckets": [[begin, count]]}            |
| dates     | interval: day, week, month, quarter, year | {"buckets": [[begin, count]]}            |
|           | (of UTC), or seconds                      |                                          |
| stats     |                                           | {"count", "min", "max", "avg", "sum"}    |

A range has `from` and ends before `to`. Buckets without documents are left out. `other` counts the
values that are not among the most frequent ones. Dates are datetimes; they have no sum.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from sys import float_info
from typing import Any, Final

from mesh.errors import InvalidArgument
from mesh.protocol.checks import shown as told
from workers.search.schema import DATE, FLOAT, INTEGER, Field, Schema
from workers.search.text.columns import date_of, kept, microseconds, shown, whole_of

TERMS, RANGES, HISTOGRAM, DATES, STATS = "terms", "ranges", "histogram", "dates", "stats"
CALENDAR: Final = ("day", "week", "month", "quarter", "year")
MAX_SIZE: Final = 1000
MAX_BUCKETS: Final = 10_000
LONGEST: Final = 10**12
"""Seconds of an interval of dates: more than there are between the first and the last."""
_OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    TERMS: ("size",),
    RANGES: ("ranges",),
    HISTOGRAM: ("interval", "offset"),
    DATES: ("interval",),
    STATS: (),
}
_KINDS: Final[dict[str, tuple[str, ...]]] = {
    RANGES: (INTEGER, FLOAT, DATE),
    HISTOGRAM: (INTEGER, FLOAT),
    DATES: (DATE,),
    STATS: (INTEGER, FLOAT, DATE),
}
_SECOND: Final = 1_000_000

_NOTHING: Final = {
    "buckets": [], "sum_other_doc_count": 0,
    "count": 0, "min": None, "max": None, "avg": None, "sum": None,
}  # fmt: skip

Aggregate = Callable[[dict[str, Any]], dict[str, Any]]
"""Runs aggregations of tantivy over what the query finds."""


@dataclass(frozen=True, slots=True)
class FacetSpec:
    """A facet that is asked for; bounds of `ranges`, `interval` and `offset` as the column is."""

    kind: str
    field: Field
    size: int = 10
    ranges: tuple[tuple[Any, Any], ...] = ()
    interval: float = 0.0
    offset: float = 0.0
    calendar: str = ""

    @classmethod
    def parse(cls, name: str, given: Mapping[str, Any], schema: Schema) -> FacetSpec:
        """What is asked for as facet `name`. Raises InvalidArgument."""
        options = dict(given)
        kind, field = options.pop("kind", TERMS), schema.field(options.pop("field", ""))
        if kind not in _OPTIONS:
            raise InvalidArgument(
                f"facet {name!r}: kind={told(kind)} is none of {', '.join(_OPTIONS)}"
            )
        for option in options:
            if option not in _OPTIONS[kind]:
                takes = ", ".join(_OPTIONS[kind]) or "no options"
                raise InvalidArgument(
                    f"facet {name!r}: unknown option {told(option)}; {kind} takes {takes}"
                )
        whole_of(field)
        kinds = _KINDS.get(kind)
        if kinds and field.kind not in kinds:
            raise InvalidArgument(
                f"facet {name!r}: {kind} is for {', '.join(kinds)}; "
                f"field {field.name!r} is a {field.kind}"
            )
        return cls(kind, field, **_READERS[kind](name, field, options))


def count(aggregate: Aggregate, wanted: Mapping[str, FacetSpec]) -> dict[str, Any]:
    """The results of all facets, by their names.

    Raises:
        InvalidArgument: a facet has too many buckets.
    """
    spans = _spans(aggregate, wanted)
    asked = {name: _ask(name, spec, spans.get(name)) for name, spec in wanted.items()}
    asked = {name: one for name, one in asked.items() if one}
    found = aggregate(asked) if asked else {}
    return {name: _RESULTS[spec.kind](spec, found.get(name)) for name, spec in wanted.items()}


def nothing(wanted: Mapping[str, FacetSpec]) -> dict[str, Any]:
    """The results of all facets where nothing was found."""
    return count(lambda asked: dict.fromkeys(asked, _NOTHING), wanted)


def _spans(aggregate: Aggregate, wanted: Mapping[str, FacetSpec]) -> dict[str, tuple[Any, Any]]:
    """The least and the greatest value, for facets that cut what lies between them."""
    asked = {
        name: {"stats": {"field": whole_of(spec.field)}}
        for name, spec in wanted.items()
        if spec.kind in (HISTOGRAM, DATES)
    }
    found = aggregate(asked) if asked else {}
    return {name: (one["min"], one["max"]) for name, one in found.items() if one["min"] is not None}


def _ask(name: str, spec: FacetSpec, span: tuple[Any, Any] | None) -> dict[str, Any] | None:
    """The aggregation of tantivy; None if there is nothing to count."""
    column = whole_of(spec.field)
    if spec.kind == TERMS:
        # Each segment tells of as many: then the counts are exact.
        return {"terms": {"field": column, "size": spec.size, "segment_size": 65_000}}
    if spec.kind == STATS:
        return {"stats": {"field": column}}
    if spec.kind == RANGES:
        return _cut(column, _edges(spec))
    if span is None:
        return None
    low, high = span
    if spec.calendar:
        begins = list(_begins(date_of(low), date_of(high), spec.calendar))
        many = len(begins)
    else:
        # Each by itself: what lies between them may be more than a float can say.
        span_steps = high / spec.interval - low / spec.interval
        many = math.floor(span_steps) + 1 if span_steps < MAX_BUCKETS else MAX_BUCKETS + 1
    if many > MAX_BUCKETS:
        raise InvalidArgument(
            f"facet {name!r}: more than {MAX_BUCKETS:,} buckets between {shown(spec.field, low)} "
            f"and {shown(spec.field, high)}: choose a longer interval"
        )
    if spec.calendar:
        return _cut(column, [microseconds(one) for one in begins])
    return {
        "histogram": {
            "field": column, "interval": spec.interval, "offset": spec.offset, "min_doc_count": 1,
        }
    }  # fmt: skip


def _cut(column: str, edges: Sequence[Any]) -> dict[str, Any]:
    ranges: list[dict[str, Any]] = [{"to": edges[0]}] if edges else [{}]
    ranges += [{"from": low, "to": high} for low, high in pairwise(edges)]
    if edges:
        ranges.append({"from": edges[-1]})
    return {"range": {"field": column, "ranges": ranges, "keyed": False}}


def _edges(spec: FacetSpec) -> list[Any]:
    edges = {edge for one in spec.ranges for edge in one if edge is not None}
    if spec.field.kind == INTEGER:  # tantivy takes those beyond 64 bits for the last ones within
        edges = {edge for edge in edges if abs(edge) < 2**63}
    return sorted(edges)


def _piece(edges: Sequence[Any], edge: Any) -> int:
    """The piece that begins at `edge`; one that is not among `edges` is beyond all values."""
    at = bisect_left(edges, edge)
    return at + 1 if edge > 0 or edge in edges[at : at + 1] else at


def _terms(spec: FacetSpec, found: Any) -> dict[str, Any]:
    values = [(_value(spec.field, one), one["doc_count"]) for one in found["buckets"]]
    values.sort(key=lambda one: (-one[1], one[0]))
    return {"values": [list(one) for one in values], "other": found["sum_other_doc_count"]}


def _ranges(spec: FacetSpec, found: Any) -> dict[str, Any]:
    """Each range is made of the pieces between the edges of all of them."""
    edges = _edges(spec)
    pieces = _counts(edges, found)
    ranges = []
    for low, high in spec.ranges:
        begin = 0 if low is None else _piece(edges, low)
        end = len(pieces) if high is None else _piece(edges, high)
        ends = [one if one is None else _shown_edge(spec.field, one) for one in (low, high)]
        ranges.append([*ends, sum(pieces[begin:end])])
    return {"ranges": ranges}


def _counts(edges: Sequence[Any], found: Any) -> list[int]:
    """How many lie before the first edge, between each two, and from the last one on."""
    counts = [0] * (len(edges) + 1)
    floats = [float(edge) for edge in edges]  # tantivy tells of them so
    for one in found["buckets"]:
        low = one.get("from")
        counts[0 if low is None else bisect_left(floats, low) + 1] += one["doc_count"]
    return counts


def _buckets(spec: FacetSpec, found: Any) -> dict[str, Any]:
    if found is None:
        return {"buckets": []}
    at = "from" if spec.calendar else "key"
    return {
        "buckets": [
            [shown(spec.field, one[at]), one["doc_count"]]
            for one in found["buckets"]
            if one["doc_count"]
        ]
    }


def _stats(spec: FacetSpec, found: Any) -> dict[str, Any]:
    """Averages of whole numbers are no whole numbers."""
    result: dict[str, Any] = {"count": int(found["count"])}
    for name in ("min", "max", "avg", "sum"):
        value = found[name] if found["count"] else None
        exact = spec.field.kind != INTEGER or name != "avg"
        result[name] = shown(spec.field, value) if exact else value
    if spec.field.kind == DATE:
        del result["sum"]
    return result


def _value(field: Field, bucket: Mapping[str, Any]) -> Any:
    return shown(field, bucket["key"])


def _begins(low: datetime, high: datetime, calendar: str) -> Iterator[datetime]:
    """Where each part of the calendar begins, from the one of `low` to the one of `high`."""
    day = low.replace(hour=0, minute=0, second=0, microsecond=0)
    if calendar in ("day", "week"):
        step = timedelta(days=7 if calendar == "week" else 1)
        begin = day - timedelta(days=day.weekday() if calendar == "week" else 0)
        many = min((high - begin) // step + 1, MAX_BUCKETS + 1)
        yield from (begin + at * step for at in range(many))
        return
    step_months = {"month": 1, "quarter": 3, "year": 12}[calendar]
    month = (low.year * 12 + low.month - 1) // step_months * step_months
    last = high.year * 12 + high.month - 1
    for at in range(month, min(last, month + step_months * MAX_BUCKETS) + 1, step_months):
        yield datetime(at // 12, at % 12 + 1, 1, tzinfo=UTC)


def _read_terms(name: str, field: Field, options: Mapping[str, Any]) -> dict[str, Any]:
    size = options.get("size", 10)
    if isinstance(size, bool) or size not in range(1, MAX_SIZE + 1):
        raise InvalidArgument(f"facet {name!r}: size={told(size)} is not 1 to {MAX_SIZE:,}")
    return {"size": size}


def _read_ranges(name: str, field: Field, options: Mapping[str, Any]) -> dict[str, Any]:
    given = options.get("ranges")
    pairs = isinstance(given, list | tuple) and all(
        isinstance(one, list | tuple) and len(one) == 2 for one in given
    )
    if not given or not pairs or len(given) > MAX_SIZE:
        raise InvalidArgument(
            f"facet {name!r}: ranges={told(given)} is not a list of up to {MAX_SIZE:,} pairs "
            "[from, to], as in [[None, 10], [10, None]]"
        )
    kind = Field(field.name, FLOAT) if field.kind == INTEGER else field
    return {
        "ranges": tuple(
            tuple(None if edge is None else _edge(field, kept(kind, edge)) for edge in one)
            for one in given
        )
    }


def _edge(field: Field, value: Any) -> Any:
    """Whole numbers are shown as such, as far as there are any of 64 bits."""
    whole = field.kind == INTEGER and abs(value) < 2**63 and value == int(value)
    return int(value) if whole else value


def _shown_edge(field: Field, value: Any) -> Any:
    return date_of(value) if field.kind == DATE else value


def _read_histogram(name: str, field: Field, options: Mapping[str, Any]) -> dict[str, Any]:
    interval, offset = (
        _number(name, option, options.get(option, 0)) for option in ("interval", "offset")
    )
    if interval <= 0:
        raise InvalidArgument(f"facet {name!r}: interval={interval!r} is not above 0")
    return {"interval": interval, "offset": offset % interval}


def _read_dates(name: str, field: Field, options: Mapping[str, Any]) -> dict[str, Any]:
    interval = options.get("interval", "month")
    if interval in CALENDAR:
        return {"calendar": interval}
    if isinstance(interval, str) or not (
        1 <= (seconds := _number(name, "interval", interval)) <= LONGEST
    ):
        raise InvalidArgument(
            f"facet {name!r}: interval={told(interval)} is none of {', '.join(CALENDAR)}, "
            f"nor a number of seconds, 1 to {LONGEST:,}"
        )
    return {"interval": seconds * _SECOND}


def _number(name: str, option: str, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not abs(value) <= float_info.max:
        raise InvalidArgument(f"facet {name!r}: {option}={told(value)} is not a number")
    return float(value)


_READERS: Final[dict[str, Callable[[str, Field, Mapping[str, Any]], dict[str, Any]]]] = {
    TERMS: _read_terms,
    RANGES: _read_ranges,
    HISTOGRAM: _read_histogram,
    DATES: _read_dates,
    STATS: lambda name, field, options: {},
}
_RESULTS: Final[dict[str, Callable[[FacetSpec, Any], dict[str, Any]]]] = {
    TERMS: _terms,
    RANGES: _ranges,
    HISTOGRAM: _buckets,
    DATES: _buckets,
    STATS: _stats,
}
