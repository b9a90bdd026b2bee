"""Which documents a query tree finds, by plain Python: what the search service is checked against.

Documents are given by row with their checked values (`Schema.checked`). How a text becomes words is
taken from `workers.search.text.analysis`; all else is written down here once more, as the nodes'
docstrings say it. `Like` is left out: what it finds depends on what is frequent. Phrases with a
slop are decided for two words alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workers.search.query.nodes import (
    All,
    Bool,
    Boost,
    Exists,
    Fuzzy,
    Match,
    Node,
    Phrase,
    Prefix,
    Range,
    Terms,
)
from workers.search.schema import (
    BOOLEAN,
    EXACT,
    FLOAT,
    INTEGER,
    TAGS,
    TEXT,
    Field,
    Schema,
    checked_value,
)
from workers.search.text import analysis

Values = Mapping[str, Any]


def matching(documents: Mapping[int, Values], schema: Schema, node: Node) -> set[int]:
    """The rows of the documents that `node` finds."""
    return {row for row, values in documents.items() if matches(values, schema, node)}


def matches(values: Values, schema: Schema, node: Node) -> bool:
    """Whether `node` finds a document with these checked values."""
    match node:
        case All():
            return True
        case Boost():
            return matches(values, schema, node.node)
        case Bool():
            return _bool(values, schema, node)
        case Exists():
            return _exists(values, schema.field(node.field))
        case Terms():
            return _terms(values, schema.field(node.field), node.values)
        case Range():
            return _range(values, schema.field(node.field), node)
        case Match() | Phrase() | Prefix() | Fuzzy():
            names = [node.field] if node.field else [name for name, _ in node.fields]
            fields = [schema.field(name) for name in names] or schema.texts
            if isinstance(node, Match) and node.every and not node.field:
                return _across(values, fields, node.text)
            return any(_words(values, field, node) for field in fields)
    raise AssertionError(f"{node!r} cannot be decided here")


def whole_values(values: Values, field: Field) -> list[Any]:
    """What is compared, sorted and counted of a field; a text only if it is short and alone."""
    found = values.get(field.name)
    if found is None:
        return []
    if field.kind == TEXT:
        short = [one for one in found if len(one.encode()) <= EXACT]
        return short if field.exact and len(found) == 1 else []
    return list(found) if field.kind == TAGS else [found]


def _bool(values: Values, schema: Schema, node: Bool) -> bool:
    def holds(one: Node) -> bool:
        return matches(values, schema, one)

    least = node.at_least
    if node.should and not node.must and not node.filters:
        least = max(least, 1)
    return (
        all(map(holds, (*node.must, *node.filters)))
        and not any(map(holds, node.must_not))
        and sum(map(holds, node.should)) >= least
    )


def _exists(values: Values, field: Field) -> bool:
    found = values.get(field.name)
    return found is not None and found != []


def _terms(values: Values, field: Field, wanted: Sequence[Any]) -> bool:
    if field.kind not in (TEXT, TAGS):
        wanted = [checked_value(field, one) for one in wanted]
    return any(one in wanted for one in whole_values(values, field))


def _range(values: Values, field: Field, node: Range) -> bool:
    if node.low is None and node.high is None:
        return _exists(values, field)

    def bound(value: Any) -> Any:
        return value if field.kind in (TEXT, TAGS, INTEGER, FLOAT) else checked_value(field, value)

    def above(one: Any) -> bool:
        if node.low is None:
            return True
        low = bound(node.low)
        return bool(one > low or (node.include_low and one == low))

    def below(one: Any) -> bool:
        if node.high is None:
            return True
        high = bound(node.high)
        return bool(one < high or (node.include_high and one == high))

    found = whole_values(values, field)
    if field.kind == TAGS:
        # Each bound may be kept by another one of the values.
        return any(map(above, found)) and any(map(below, found))
    return any(above(one) and below(one) for one in found)


def _words(values: Values, field: Field, node: Match | Phrase | Prefix | Fuzzy) -> bool:
    if field.kind != TEXT:
        return _value(values, field, node)
    texts: list[str] = values.get(field.name) or []
    match node:
        case Match(every=False):
            return _any(texts, field, node.text)
        case Match():
            return _every(texts, field, analysis.asked(node.text, field.analyzer))
        case Phrase():
            wanted = analysis.phrase(node.text, field.analyzer)
            return bool(wanted) and _phrase(texts, field, wanted, node.slop)
        case Prefix():
            spelt = analysis.phrase(node.text, "plain")
            if not spelt:
                return False
            *before, last = spelt
            if last.character:
                return _every(texts, field, [*_stems(before, field), last])
            begun = _spelt(texts, field, lambda word: word.startswith(last.text))
            return begun and (not before or _every(texts, field, _stems(before, field)))
        case Fuzzy():
            wanted = analysis.phrase(node.text, "plain")
            return bool(wanted) and all(
                _phrase(texts, field, run)
                if run[0].character
                else _spelt(texts, field, lambda word: edits(word, run[0].text) <= node.distance)  # noqa: B023
                for run in _runs(wanted)
            )


def _value(values: Values, field: Field, node: Match | Phrase | Prefix | Fuzzy) -> bool:
    found = whole_values(values, field)
    if isinstance(node, Prefix):
        return any(one.startswith(node.text) for one in found)
    if isinstance(node, Fuzzy):
        return any(edits(one, node.text) <= node.distance for one in found)
    text: Any = node.text
    if field.kind == BOOLEAN:
        text = text.lower() == "true"
    elif field.kind in (INTEGER, FLOAT):
        text = float(text)
    elif field.kind != TAGS:
        text = checked_value(field, text)
    return text in found


def _any(texts: Sequence[str], field: Field, text: str) -> bool:
    wanted = analysis.asked(text, field.analyzer)
    if field.analyzer == "jieba":
        cut = {
            word
            for word in analysis.whole_words(text, field.analyzer)
            if any(one.character for one in analysis.phrase(word, "plain"))
        }
        if any(cut & set(analysis.whole_words(one, field.analyzer)) for one in texts):
            return True
        wanted = [one for one in wanted if not one.character]
    return any(_phrase(texts, field, [one]) for one in wanted)


def _across(values: Values, fields: Sequence[Field], text: str) -> bool:
    """Whether each word is in one of the fields; not those that one of them leaves out."""
    found = [
        {one.position: one for one in analysis.asked(text, field.analyzer)} for field in fields
    ]
    wanted = set.intersection(*map(set, found)) if found else set()
    runs = _runs(
        [one for place, one in sorted(found[0].items()) if place in wanted] if found else []
    )
    return bool(runs) and all(
        any(
            _phrase(values.get(field.name) or [], field, [words[one.position] for one in run])
            for field, words in zip(fields, found, strict=True)
        )
        for run in runs
    )


def _every(texts: Sequence[str], field: Field, wanted: Sequence[analysis.Token]) -> bool:
    return bool(wanted) and all(_phrase(texts, field, run) for run in _runs(wanted))


def _phrase(
    texts: Sequence[str], field: Field, wanted: Sequence[analysis.Token], slop: int = 0
) -> bool:
    """Whether the words stand one after the other, in one of the texts."""
    assert not slop or len(wanted) <= 2, "not decided here"
    places: dict[str, list[int]] = {}
    base = 0
    for text in texts:
        found = analysis.phrase(text, field.analyzer)
        for one in found:
            places.setdefault(one.text, []).append(base + one.position)
        # Between two texts of a field there is a gap of one word.
        base += (found[-1].position + 1 if found else 0) + 1
    first = wanted[0].position
    starts = [
        {place - (one.position - first) for place in places.get(one.text, ())} for one in wanted
    ]
    return any(max(choice) - min(choice) <= slop for choice in itertools.product(*starts))


def _spelt(texts: Sequence[str], field: Field, fits: Callable[[str], bool]) -> bool:
    """Whether one of the whole words fits, among which runs of characters are."""
    return any(fits(one) for text in texts for one in analysis.whole_words(text, field.analyzer))


def _stems(words: Sequence[analysis.Token], field: Field) -> list[analysis.Token]:
    stems = analysis.phrase(" ".join(one.text for one in words), field.analyzer)
    return [
        one if one.character else one._replace(text=stem.text)
        for one, stem in zip(words, stems, strict=True)
    ]


def _runs(words: Sequence[analysis.Token]) -> list[list[analysis.Token]]:
    runs: list[list[analysis.Token]] = []
    for one in words:
        if one.joined:
            runs[-1].append(one)
        else:
            runs.append([one])
    return runs


def edits(one: str, other: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours from one to the other."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for at, to in itertools.product(range(len(one) + 1), range(len(other) + 1)):
        if not at or not to:
            table[at][to] = at + to
            continue
        same = one[at - 1] == other[to - 1]
        best = min(table[at - 1][to] + 1, table[at][to - 1] + 1, table[at - 1][to - 1] + (not same))
        if at > 1 and to > 1 and one[at - 1] == other[to - 2] and one[at - 2] == other[to - 1]:
            best = min(best, table[at - 2][to - 2] + 1)
        table[at][to] = best
    return table[-1][-1]
