"""Fragments of texts with what a query looks for marked in them.

Works on the texts as they were given: nothing of an index is needed.
"""

from __future__ import annotations

import html
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from workers.search.query.nodes import Bool, Boost, Fuzzy, Like, Match, Node, Phrase, Prefix, Terms
from workers.search.schema import TEXT, Field, Schema
from workers.search.text import analysis
from workers.search.text.analysis import Token

MAX_TEXT: Final = 1_000_000
"""Characters of a text that are looked through."""
MAX_LIKE: Final = 50
"""Words of a text to be resembled that are marked."""
MOST: Final = 100_000
"""Places of a text that are looked at for one phrase."""
_NOWHERE: Final[tuple[list[int], list[int]]] = ([], [])
_ENDS: Final = frozenset(".!?。！？；;\n")

Span = tuple[int, int]


class _Words(NamedTuple):
    """A text's words: as they are indexed, and as they are spelt, at the same places."""

    stems: list[Token]
    spelt: list[Token]


_Marker = Callable[[_Words], Iterator[Span]]
"""Finds what is to be marked, as places of words: from one to before another."""


def highlight(
    node: Node,
    schema: Schema,
    field: str,
    texts: Iterable[str],
    *,
    size: int = 150,
    count: int = 3,
    before: str = "<em>",
    after: str = "</em>",
    escape: bool = False,
) -> list[str]:
    """Up to `count` fragments of about `size` characters, those with most marks first.

    Nothing, if nothing of the query is in the texts. `escape`: what is between the marks is made
    safe to be put into HTML. Raises InvalidArgument if there is no such field.
    """
    one = schema.field(field)
    markers = list(_markers(node, one))
    found: list[tuple[float, int, str]] = []
    for number, text in enumerate(texts):
        spans = _spans(markers, one, text[:MAX_TEXT])
        for begin, end, marked in _fragments(text, spans, size):
            weight = len({text[low:high].lower() for low, high in marked}) + len(marked) / 1000
            shown = _shown(text, begin, end, marked, before, after, escape)
            found.append((-weight, number, shown))
    found.sort(key=lambda fragment: fragment[:2])
    return [shown for _, _, shown in found[:count]]


def _markers(node: Node, field: Field) -> Iterator[_Marker]:
    """What a query looks for in a field; not what it leaves out."""
    if isinstance(node, Bool):
        for one in (*node.must, *node.should, *node.filters):
            yield from _markers(one, field)
    elif isinstance(node, Boost):
        yield from _markers(node.node, field)
    elif isinstance(node, Like):
        for name, text in node.texts:
            if name == field.name:
                yield from _any(analysis.asked(text[:MAX_TEXT], field.analyzer)[:MAX_LIKE])
    elif isinstance(node, Terms):
        if node.field == field.name:
            yield from (_value(value) for value in node.values if isinstance(value, str))
    elif isinstance(node, Match | Phrase | Prefix | Fuzzy) and _covers(node, field.name):
        yield from _words_of(node, field)


def _covers(node: Match | Phrase | Prefix | Fuzzy, name: str) -> bool:
    """Whether a node looks for something in that field."""
    if node.field:
        return node.field == name
    return not node.fields or name in dict(node.fields)


def _words_of(node: Match | Phrase | Prefix | Fuzzy, field: Field) -> Iterator[_Marker]:
    analyzer = field.analyzer
    if field.kind != TEXT:
        if isinstance(node, Prefix):
            yield _beginning(node.text)
        elif isinstance(node, Fuzzy):
            yield _near(node.text, node.distance)
        else:
            yield _value(node.text)
    elif isinstance(node, Match):
        yield from _any(analysis.asked(node.text, analyzer))
    elif isinstance(node, Phrase):
        yield _run(analysis.phrase(node.text, analyzer), node.slop)
    else:
        spelt = analysis.phrase(node.text, "plain")
        for run in analysis.runs(spelt):
            word = run[0].text
            if run[0].character:
                yield _run(run)
            elif isinstance(node, Fuzzy):
                yield _near(word, node.distance)
            elif run[-1] is spelt[-1]:
                yield _beginning(word)
            else:
                yield from _any([one._replace(text=analysis.stem(word, analyzer)) for one in run])


def _any(words: Sequence[Token]) -> Iterator[_Marker]:
    """Each word; characters that stand side by side only as they stand."""
    for run in analysis.runs(words):
        if len(run) == 1:
            yield _run(run)
        else:
            yield from (_run(list(pair)) for pair in pairwise(run))


def _run(words: Sequence[Token], slop: int = 0) -> _Marker:
    """Words one after the other, with up to `slop` moves between them."""
    wanted = [(one.text, one.position - words[0].position) for one in words]

    def mark(found: _Words) -> Iterator[Span]:
        if not wanted:
            return
        places: dict[str, tuple[list[int], list[int]]] = {}
        for at, one in enumerate(found.stems):
            there, positions = places.setdefault(one.text, ([], []))
            there.append(at)
            positions.append(one.position)
        left = MOST
        for at in places.get(wanted[0][0], _NOWHERE)[0]:
            chosen = [at]
            origin = found.stems[at].position
            for text, distance in wanted[1:]:
                there, positions = places.get(text, _NOWHERE)
                low = bisect_left(positions, origin + distance - slop)
                high = bisect_right(positions, origin + distance + slop)
                left -= high - low + 1
                if left < 0:
                    return
                near = [other for other in there[low:high] if other not in chosen]
                if not near:
                    break
                chosen.append(min(near, key=lambda other: abs(other - at)))
            else:
                yield from _joined(chosen)

    return mark


def _joined(places: Iterable[int]) -> Iterator[Span]:
    begin = end = -1
    for at in sorted(places):
        if at == end:
            end += 1
            continue
        if begin >= 0:
            yield begin, end
        begin, end = at, at + 1
    yield begin, end


def _spelt(fits: Callable[[str], bool]) -> _Marker:
    def mark(found: _Words) -> Iterator[Span]:
        for at, one in enumerate(found.spelt):
            if fits(one.text):
                yield at, at + 1

    return mark


def _beginning(text: str) -> _Marker:
    return _spelt(lambda word: word.startswith(text))


def _near(text: str, distance: int) -> _Marker:
    return _spelt(lambda word: edits(word, text, distance) <= distance)


def _value(text: str) -> _Marker:
    return _spelt(lambda word: word == text)


def edits(one: str, other: str, most: int) -> int:
    """How many insertions, deletions, replacements and swaps of neighbours make one of the other;
    any number above `most` where it is more.
    """
    if abs(len(one) - len(other)) > most:
        return most + 1
    before: list[int] = []
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, 1):
        earlier, before, row = before, row, [at]
        for to, target in enumerate(other, 1):
            best = min(before[to] + 1, row[-1] + 1, before[to - 1] + (letter != target))
            if at > 1 and to > 1 and letter == other[to - 2] and one[at - 2] == target:
                best = min(best, earlier[to - 2] + 1)
            row.append(best)
    return row[-1]


def _spans(markers: Sequence[_Marker], field: Field, text: str) -> list[Span]:
    """What is to be marked, as places in the text: in order, apart from each other."""
    if field.kind == TEXT:
        words = _Words(analysis.tokens(text, field.analyzer), analysis.tokens(text, "plain"))
    else:
        whole = [Token(text, 0, 0, len(text))]
        words = _Words(whole, whole)
    found = sorted({span for mark in markers for span in mark(words)})
    merged: list[Span] = []
    for low, high in found:
        begin, end = words.stems[low].start, words.stems[high - 1].end
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged


def _fragments(
    text: str, spans: Sequence[Span], size: int
) -> Iterator[tuple[int, int, list[Span]]]:
    """Pieces of the text about the marks, that do not overlap, each with its marks."""
    at = floor = 0
    while at < len(spans):
        first = at
        while at < len(spans) and (at == first or spans[at][1] - spans[first][0] <= size):
            at += 1
        low, high = spans[first][0], spans[at - 1][1]
        ceiling = spans[at][0] if at < len(spans) else len(text)
        room = max(0, size - (high - low))
        begin = _begin(text, max(floor, low - room // 2), low)
        end = _end(text, high, min(ceiling, max(high, begin + size)))
        yield begin, end, list(spans[first:at])
        floor = end


def _begin(text: str, earliest: int, latest: int) -> int:
    """Where a fragment begins: with a sentence, or else with a word."""
    if earliest == 0:
        return 0
    for at in range(earliest, latest):
        if text[at - 1] in _ENDS and not text[at].isspace() and not text[at].isdigit():
            return at
    for at in range(earliest, latest):
        if text[at - 1].isspace() or not text[at - 1].isascii():
            return at
    return latest


def _end(text: str, earliest: int, latest: int) -> int:
    """Where a fragment ends: with a word."""
    if latest >= len(text):
        return len(text)
    for at in range(latest, earliest, -1):
        if text[at].isspace() or not text[at].isascii():
            return at
    return earliest


def _shown(
    text: str,
    begin: int,
    end: int,
    spans: Sequence[Span],
    before: str,
    after: str,
    escape: bool,
) -> str:
    safe = html.escape if escape else str
    parts: list[str] = []
    at = begin
    for low, high in spans:
        parts += [safe(text[at:low]), before, safe(text[low:high]), after]
        at = high
    parts.append(safe(text[at:end]))
    return "".join(parts).strip()
