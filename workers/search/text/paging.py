"""Pages of what a query finds: by score, or by fields and then by row.

tantivy orders by one key. Equals by a field are a query of their own, ordered by the next key: so a
page costs what tantivy takes for it, however many equals there are. Equals by score stay as they
lie in the index, which is one order until the next refresh; there may be too many of them to be
looked at for each page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple, TypeAlias

import tantivy

from workers.search.text.columns import ROW

Q: Final = tantivy.Query
MUST: Final = tantivy.Occur.Must
ASCENDING: Final = tantivy.Order.Asc
DESCENDING: Final = tantivy.Order.Desc

Key: TypeAlias = tuple[str, bool]
"""A column, and whether the greatest comes first. What has no value comes last either way."""
Hit: TypeAlias = tuple[tuple[Any, ...], int]
"""The values of the keys, and the row."""
_Fetch: TypeAlias = Callable[[int, int], list[tuple[Any, Any]]]


class After(NamedTuple):
    """Where a page begins: after the hit with these values and this row, about the `seen`-th."""

    values: tuple[Any, ...]
    row: int
    seen: int = 0


class Pages:
    """Pages of one query over one state of the index. `native` is the schema of tantivy."""

    def __init__(self, searcher: Any, native: Any) -> None:
        self._searcher = searcher
        self._native = native

    def by_score(
        self, query: Any, offset: int, count: int, after: After | None, total: bool
    ) -> tuple[list[tuple[float, int]], int, int]:
        """A page by score, the best first, as (score, row); its place, and how many there are."""
        place = offset
        if after is not None:
            place += self._place(query, after)
        found = self._searcher.search(query, count, total, None, place)
        return self._with_rows(found.hits), place, found.count if total else 0

    def by_fields(
        self,
        query: Any,
        keys: Sequence[Key],
        offset: int,
        count: int,
        after: After | None = None,
    ) -> list[Hit]:
        """A page in the order of the keys, then of the rows."""
        if not keys:
            return self._by_row(query, offset, count, after)
        if after is None:
            return self._by_fields(query, keys, offset, count)
        column, descending = keys[0]
        value = after.values[0]
        equals = self._and(query, self._equal(column, value))
        wanted = offset + count
        rest = After(after.values[1:], after.row)
        page = [
            ((value, *values), row)
            for values, row in self.by_fields(equals, keys[1:], 0, wanted, rest)
        ]
        if len(page) < wanted and value is not None:
            begin = _first(
                self._ordered(query, column, descending),
                lambda found: _past(found, value, descending),
                after.seen,
            )
            page += self._by_fields(query, keys, begin, wanted - len(page))
        return page[offset:wanted]

    def _place(self, query: Any, after: After) -> int:
        """The place of the hit that comes after another one."""
        fetch = self._scored(query)
        score, row, seen = after.values[0], after.row, after.seen
        if seen and self._with_rows(fetch(seen - 1, 1)) == [(score, row)]:
            return seen
        # Where it was is not known, or the index has changed: among its equals, if it is there.
        begin = _first(fetch, lambda found: found <= score, seen)
        end = _first(fetch, lambda found: found < score, max(begin, seen))
        equals = self._with_rows(fetch(begin, end - begin)) if end > begin else []
        at = next((at for at, hit in enumerate(equals, 1) if hit[1] == row), None)
        return begin + at if at is not None else min(max(begin, seen), end)

    def _by_row(self, query: Any, offset: int, count: int, after: After | None) -> list[Hit]:
        if after is not None:
            further = Q.range_query(
                self._native, ROW, tantivy.FieldType.Integer, after.row, None, False, True
            )
            query = self._and(query, further)
        hits = self._ordered(query, ROW, False)(offset, count)
        return [((), row) for row, _ in hits]

    def _by_fields(self, query: Any, keys: Sequence[Key], offset: int, count: int) -> list[Hit]:
        (column, descending), rest = keys[0], keys[1:]
        fetch = self._ordered(query, column, descending)
        hits = fetch(offset, count + 1)
        page: list[Hit] = []
        place = offset
        for value, group in groupby(hits, lambda hit: hit[0]):
            equals = list(group)
            begin = place
            if place == offset and offset:
                begin = _first(fetch, lambda found: _at(found, value, descending), offset)  # noqa: B023
            place += len(equals)
            whole = begin == place - len(equals) and place < offset + count + 1
            if whole and (len(equals) == 1 or not rest):
                rows = sorted(row for _, row in self._with_rows(equals))
                page += [((value,), row) for row in rows]
            else:
                same = self._and(query, self._equal(column, value))
                skipped = place - len(equals) - begin
                wanted = min(len(equals), offset + count - (place - len(equals)))
                if wanted > 0:
                    found = self.by_fields(same, rest, skipped, wanted)
                    page += [((value, *values), row) for values, row in found]
        return self._completed(page[:count], keys)

    def _completed(self, page: list[Hit], keys: Sequence[Key]) -> list[Hit]:
        """With the values of all keys."""
        lacking = [row for values, row in page if len(values) < len(keys)]
        if not lacking:
            return page
        rows = Q.term_set_query(self._native, ROW, lacking)
        known: list[dict[int, Any]] = []
        for column, descending in keys[1:]:
            found = self._with_rows(self._ordered(rows, column, descending)(0, len(lacking)))
            known.append({row: value for value, row in found})
        return [
            (values if len(values) == len(keys) else (*values, *(one[row] for one in known)), row)
            for values, row in page
        ]

    def _scored(self, query: Any) -> _Fetch:
        return lambda offset, count: self._searcher.search(query, count, False, None, offset).hits

    def _ordered(self, query: Any, column: str, descending: bool) -> _Fetch:
        order = DESCENDING if descending else ASCENDING
        return lambda offset, count: (
            self._searcher.search(query, count, False, column, offset, order).hits
        )

    def _with_rows(self, hits: Sequence[tuple[Any, Any]]) -> list[tuple[Any, int]]:
        rows = self._searcher.fast_field_values(ROW, [address for _, address in hits])
        return [(hit[0], row) for hit, row in zip(hits, rows, strict=True)]

    def _equal(self, column: str, value: Any) -> Any:
        if value is not None:
            return Q.term_query(self._native, column, value, "basic")
        return Q.boolean_query(
            [(MUST, Q.all_query()), (tantivy.Occur.MustNot, Q.exists_query(column))]
        )

    def _and(self, one: Any, other: Any) -> Any:
        return Q.boolean_query([(MUST, one), (MUST, other)])


def _first(fetch: _Fetch, holds: Callable[[Any], bool], about: int) -> int:
    """The first place for whose value `holds`, which it does for all further ones; or the end."""

    def beyond(place: int) -> bool:
        hit = fetch(place, 1)
        return not hit or holds(hit[0][0])

    low, high, step = -1, about, 1
    if beyond(high):
        while high > 0 and beyond(at := max(0, high - step)):
            high, step = at, step * 4
        low = max(-1, high - step) if high else -1
    else:
        low = high
        while not beyond(high := low + step):
            low, step = high, step * 4
    while high - low > 1:
        middle = (low + high) // 2
        if beyond(middle):
            high = middle
        else:
            low = middle
    return high


def _past(found: Any, value: Any, descending: bool) -> bool:
    """Whether `found` comes after `value`."""
    if found is None or value is None:
        return found is None and value is not None
    return bool(found < value if descending else found > value)


def _at(found: Any, value: Any, descending: bool) -> bool:
    """Whether `found` comes after `value` or is the same."""
    return found == value or _past(found, value, descending)
