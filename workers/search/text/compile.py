"""The query tree as a query of tantivy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import tantivy

from mesh.errors import InvalidArgument
from workers.search.query.clauses import MAX_LIKE
from workers.search.query.nodes import (
    All,
    Bool,
    Boost,
    Exists,
    Fuzzy,
    Like,
    Match,
    Node,
    Phrase,
    Prefix,
    Range,
    Terms,
)
from workers.search.schema import EXACT, TEXT, Field, Schema
from workers.search.text import analysis, likeness, ranges
from workers.search.text.analysis import Token, runs
from workers.search.text.columns import HAS, WHOLE, kept, pairs_of, spoken, whole_of, words_of

MUST: Final = tantivy.Occur.Must
MUST_NOT: Final = tantivy.Occur.MustNot
SHOULD: Final = tantivy.Occur.Should
Q: Final = tantivy.Query
MAX_SLOP: Final = 100
MAX_SPELT: Final = 8192
"""Characters, over all fields, of words that others are to begin or be spelt like: each takes up to
17 KB while the query runs."""

Part = tuple[Any, Any]
Words = Match | Phrase | Prefix | Fuzzy


class Compiler:
    """Makes queries for one index.

    `frequency` tells in how many documents a column has a word, `documents` how many there are.
    """

    def __init__(
        self,
        schema: Schema,
        native: Any,
        frequency: Callable[[str, str], int],
        documents: Callable[[], int],
    ) -> None:
        self._schema = schema
        self._native = native
        self._frequency = frequency
        self._documents = documents
        self._spelt = 0

    def query(self, node: Node) -> Any:
        """The query of tantivy.

        Raises:
            InvalidArgument: a field is unknown, or cannot be searched like that.
        """
        make = _MAKERS.get(type(node))
        if make is None:
            raise InvalidArgument(f"{node!r:.80} is no node of a query")
        return make(self, node)

    # ---------------------------------------------------------------- words

    def _over(self, node: Words, make: Callable[[Field], Any]) -> Any:
        """In the field of a node; in the best of them, if it has several."""
        if node.field:
            return make(self._schema.field(node.field))
        return _best([_boosted(make(field), weight) for field, weight in self._fields(node)])

    def _fields(self, node: Words) -> list[tuple[Field, float]]:
        """The fields of a node that names not one alone, with their weights."""
        if node.fields:
            return [(self._schema.field(name), weight) for name, weight in node.fields]
        return [(field, field.boost) for field in self._schema.texts]

    def _match(self, node: Match) -> Any:
        def make(field: Field) -> Any:
            if field.kind != TEXT:
                return self._whole(field, [spoken(field, node.text)])
            if not node.every:
                return self._any(field, node.text)
            return self._every(field, analysis.asked(node.text, field.analyzer))

        if node.every and not node.field:
            return self._across(self._fields(node), node.text)
        return self._over(node, make)

    def _across(self, fields: Sequence[tuple[Field, float]], text: str) -> Any:
        """All words, each in whichever field. What one field leaves out as frequent none demands.

        Analyzers differ in what they make of a word, not in where words begin.
        """
        found = [
            {one.position: one for one in analysis.asked(text, field.analyzer)}
            for field, _ in fields
        ]
        if not found:
            return Q.empty_query()
        wanted = set(found[0]).intersection(*found)
        parts: list[Part] = []
        for run in runs([one for place, one in found[0].items() if place in wanted]):
            best = [
                _boosted(self._run(field, [words[one.position] for one in run]), weight)
                for (field, weight), words in zip(fields, found, strict=True)
            ]
            parts.append((MUST, _best(best)))
        return _boolean(parts)

    def _any(self, field: Field, text: str) -> Any:
        """Any word; two characters side by side count beyond each of them."""
        words = dict.fromkeys(_ranked(field, text))
        return _boolean([(SHOULD, self._word(column, word)) for column, word in words])

    def _every(self, field: Field, words: Sequence[Token]) -> Any:
        """All words; characters side by side stand so in the text too."""
        return _boolean([(MUST, self._run(field, run)) for run in runs(words)])

    def _run(self, field: Field, run: Sequence[Token], slop: int = 0) -> Any:
        if len(run) == 1:
            return self._word(field.name, run[0].text)
        first = run[0].position
        return Q.phrase_query(
            self._native, field.name, [(one.position - first, one.text) for one in run], slop
        )

    def _word(self, column: str, word: str) -> Any:
        return Q.term_query(self._native, column, word, "freq")

    def _phrase(self, node: Phrase) -> Any:
        if node.slop not in range(MAX_SLOP + 1):
            raise InvalidArgument(f"slop={node.slop!r:.40} is not 0 to {MAX_SLOP}")

        def make(field: Field) -> Any:
            if field.kind != TEXT:
                return self._whole(field, [spoken(field, node.text)])
            words = analysis.phrase(node.text, field.analyzer)
            return self._run(field, words, node.slop) if words else Q.empty_query()

        return self._over(node, make)

    def _prefix(self, node: Prefix) -> Any:
        def make(field: Field) -> Any:
            if field.kind != TEXT:
                return self._like(field, whole_of(field), node.text, 0, begins=True)
            spelt = analysis.phrase(node.text, "plain")
            if not spelt:
                return Q.empty_query()
            *words, last = spelt
            if last.character:
                return self._every(field, [*self._stems(field, words), last])
            parts = [(MUST, self._run(field, run)) for run in runs(self._stems(field, words))]
            parts.append((MUST, self._like(field, words_of(field.name), last.text, 0, begins=True)))
            return _boolean(parts)

        return self._over(node, make)

    def _fuzzy(self, node: Fuzzy) -> Any:
        if node.distance not in (0, 1, 2):
            raise InvalidArgument(f"distance={node.distance!r:.40} is not 1 or 2")

        def make(field: Field) -> Any:
            if field.kind != TEXT:
                return self._like(field, whole_of(field), node.text, node.distance)
            parts: list[Part] = []
            for run in runs(analysis.phrase(node.text, "plain")):
                word = run[0].text
                if run[0].character:
                    parts.append((MUST, self._run(field, run)))
                else:
                    column = words_of(field.name)
                    parts.append((MUST, self._like(field, column, word, node.distance)))
            return _boolean(parts)

        return self._over(node, make)

    def _stems(self, field: Field, words: Sequence[Token]) -> list[Token]:
        """Words as the column of the field has them."""
        return [
            one if one.character else one._replace(text=analysis.stem(one.text, field.analyzer))
            for one in words
        ]

    def _like(
        self, field: Field, column: str, text: str, distance: int, *, begins: bool = False
    ) -> Any:
        """Words about like `text`; `begins`: words that begin so."""
        if field.kind not in WHOLE:
            raise InvalidArgument(
                f"field {field.name!r} is a {field.kind}; only texts begin with something or are "
                "spelt wrong: ask for a value or a range"
            )
        if len(text) > EXACT + distance:  # no word and no value is that long
            return Q.empty_query()
        self._spelt += len(text)
        if self._spelt > MAX_SPELT:
            raise InvalidArgument(
                f"beginnings and misspellings of more than {MAX_SPELT:,} characters, over all "
                "fields that are searched: ask for less, or name fields"
            )
        return Q.fuzzy_term_query(self._native, column, text, distance, True, begins)

    def _telling(self, node: Like) -> Any:
        words: list[likeness.Word] = []
        left = MAX_LIKE
        for name, text in node.texts:
            field = self._schema.field(name)
            if field.kind != TEXT:
                raise InvalidArgument(f"field {name!r} is a {field.kind}: likeness needs text")
            words += _ranked(field, text[:left], singles=False)
            left = max(0, left - len(text))
        found = likeness.telling(words, self._frequency, self._documents())
        return _boolean([(SHOULD, self._word(column, word)) for column, word in found])

    # ---------------------------------------------------------------- values

    def _terms(self, node: Terms) -> Any:
        return self._whole(self._schema.field(node.field), node.values)

    def _whole(self, field: Field, values: Iterable[Any]) -> Any:
        column = whole_of(field)
        found = [kept(field, value) for value in values]
        if len(found) == 1:
            return Q.const_score_query(Q.term_query(self._native, column, found[0], "basic"), 1.0)
        return Q.term_set_query(self._native, column, found)

    def _range(self, node: Range) -> Any:
        if node.low is None and node.high is None:
            return self._exists(Exists(node.field))
        return Q.const_score_query(
            ranges.query(self._native, self._schema.field(node.field), node), 1.0
        )

    def _exists(self, node: Exists) -> Any:
        field = self._schema.field(node.field)
        if field.kind == TEXT:
            found = Q.term_query(self._native, HAS, field.name, "basic")
        else:
            found = Q.exists_query(whole_of(field))
        return Q.const_score_query(found, 1.0)

    # ---------------------------------------------------------------- trees

    def _all(self, node: All) -> Any:
        return Q.all_query()

    def _bool(self, node: Bool) -> Any:
        parts: list[Part] = [(MUST, self.query(one)) for one in node.must]
        parts += [(MUST, Q.const_score_query(self.query(one), 0.0)) for one in node.filters]
        least = node.at_least
        if not parts:
            if node.should:
                least = max(least, 1)
            else:
                parts.append((MUST, Q.const_score_query(Q.all_query(), 0.0)))
        if least > len(node.should):
            return Q.empty_query()
        parts += [(SHOULD, self.query(one)) for one in node.should]
        parts += [(MUST_NOT, self.query(one)) for one in node.must_not]
        return Q.boolean_query(parts, least or None)

    def _boost(self, node: Boost) -> Any:
        if not (math.isfinite(node.factor) and node.factor >= 0):
            raise InvalidArgument(f"a boost of {node.factor!r:.40} is not a number from 0")
        return _boosted(self.query(node.node), node.factor)


def constant(node: Node) -> bool:
    """Whether all documents that it finds have the same score."""
    if isinstance(node, Bool):
        return not node.should and all(map(constant, node.must))
    if isinstance(node, Boost):
        return constant(node.node)
    return isinstance(node, Terms | Range | Exists | All)


def _ranked(field: Field, text: str, *, singles: bool = True) -> list[likeness.Word]:
    """What a text is ranked by, with the columns that have it: words, and characters two by two.

    `singles`: characters also each by itself.
    """
    if text.isascii():
        return [(field.name, word) for word in analysis.asked_ascii(text, field.analyzer)]
    words = analysis.asked(text, field.analyzer)
    if field.analyzer == "jieba" and any(one.character for one in words):
        cut = filter(_wide, analysis.whole_words(text, field.analyzer))
        found = [(words_of(field.name), word) for word in cut]
        return found + [(field.name, one.text) for one in words if not one.character]
    found = []
    before = ""
    for one in words:
        if one.joined:
            found.append((pairs_of(field.name), before + one.text))
        if singles or not one.character:
            found.append((field.name, one.text))
        before = one.text
    return found


def _best(queries: Sequence[Any]) -> Any:
    """The best of some queries counts."""
    if not queries:
        return Q.empty_query()
    return queries[0] if len(queries) == 1 else Q.disjunction_max_query(list(queries))


def _boosted(query: Any, factor: float) -> Any:
    return query if factor == 1 else Q.boost_query(query, factor)


def _boolean(parts: list[Part]) -> Any:
    if not parts:
        return Q.empty_query()
    return parts[0][1] if len(parts) == 1 else Q.boolean_query(parts)


def _wide(word: str) -> bool:
    return analysis.MARK in analysis.normal(word)


_MAKERS: Final[dict[type, Callable[[Compiler, Any], Any]]] = {
    Match: Compiler._match,
    Phrase: Compiler._phrase,
    Prefix: Compiler._prefix,
    Fuzzy: Compiler._fuzzy,
    Terms: Compiler._terms,
    Range: Compiler._range,
    Exists: Compiler._exists,
    All: Compiler._all,
    Bool: Compiler._bool,
    Boost: Compiler._boost,
    Like: Compiler._telling,
}
