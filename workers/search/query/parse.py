r"""Query strings.

    cache redis                 texts with one of the words; with all of them, if `every`
    "hot key"  "hot key"~2      the words one after the other; with up to 2 moves between them
    cach*  cahce~  cahce~2      a word that begins so; one that is up to 1 or 2 edits away
    title:cache  title:(a b)    in that field; title:"hot key", title:cach* and the rest alike
    status:open  price:12       a value, where the field is no text; tags:(red blue): one of them
    author:="Jane Doe"          the whole value, also of a text field that is kept whole
    price:>=5  price:[5 TO 9}   ranges: >, >=, <, <=; [ ] with the bound, { } without; * is no bound
    title:*  *                  documents that have the field; all documents
    +must -must_not             signs stand before any part
    a AND b  a OR b  NOT a      NOT binds closest, then AND, then OR, then parts side by side
    (a OR b)^2                  parentheses; ^ multiplies the score of what it follows
    \                           takes the meaning of the sign, space or operator that follows

`sequence := either+`, `either := all (OR all)*`, `all := part (AND part)*`. Times are read by
`dates`. The signs that a Chinese keyboard gives count as theirs where they can mean nothing else:
（ ） “ ” ＂ the full-width space, ： behind the name of a field, and ≥ ≤ ＞ ＜ ＝ behind that.

What only looks like a field is text: a name before :// or ::, before a colon that ends a word, or
before a full-width colon. Any other name before a colon is refused, if it is no field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from workers.search.query import lexis
from workers.search.query.clauses import (
    MAX_CLAUSES,
    MAX_DEPTH,
    MAX_SLOP,
    Target,
    Targets,
    any_of,
    between,
    check_spelt,
    combined,
    equals,
    is_text,
    meant,
    spread,
    targets_of,
)
from workers.search.query.nodes import All, Bool, Exists, Fuzzy, Match, Node, Phrase, Prefix
from workers.search.query.scanning import Scanner
from workers.search.schema import Field, Schema

MAX_LENGTH: Final = 8192
"""Characters of a query string."""


class _Plain(NamedTuple):
    """A word, or a value, that may become one node with those beside it."""

    text: str
    at: int


_Part = _Plain | Node


def parse(text: str, schema: Schema, *, fields: Sequence[str] = (), every: bool = False) -> Node:
    """What a query string means; an empty one means all documents.

    `fields`: where words are looked for that name no field, each perhaps with a boost ("title^2");
    none: in all text fields. `every`: parts side by side must all hold, not one of them.

    Raises:
        InvalidArgument: it cannot be read. The message shows where, `data["position"]` counts the
            characters before that place.
    """
    if not fields and not lexis.SPECIAL.search(text):  # most of what people type
        found = text.split()
        if 0 < len(found) <= MAX_CLAUSES and len(text) <= MAX_LENGTH:
            return Match("", " ".join(found), every)
    return _Parser(text, schema, targets_of(fields, schema), every).whole()


class _Parser(Scanner):
    """Reads one query string, from `at` on."""

    __slots__ = ("clauses", "depth", "every", "name", "schema", "targets")

    def __init__(self, text: str, schema: Schema, targets: Targets, every: bool) -> None:
        super().__init__(text)
        self.schema = schema
        self.targets = targets
        self.every = every
        self.name = ""  # of the field whose value is being read
        self.clauses = self.depth = 0

    def whole(self) -> Node:
        if len(self.text) > MAX_LENGTH:
            self.fail(
                MAX_LENGTH,
                f"the query has {len(self.text):,} characters, the limit is {MAX_LENGTH:,}",
            )
        node = self.sequence()
        if self.at < len(self.text):
            self.fail(self.at, "this parenthesis closes none; write \\) to search for it")
        return All() if node is None else node

    def sequence(self) -> Node | None:
        """Parts side by side, to the end or to a parenthesis that closes."""
        must: list[Node] = []
        should: list[Node] = []
        must_not: list[Node] = []
        loose = must if self.every else should
        run: list[_Plain] = []
        while found := self.either():
            sign, part = found
            if not sign and isinstance(part, _Plain):
                run.append(part)
                continue
            if run:
                loose.append(self.plain(run))
                run = []
            kind = must_not if sign == "-" else must if sign else loose
            kind.append(self.node(part))
        if run:
            loose.append(self.plain(run))
        if not (must or should or must_not):
            return None
        return combined(must, should, must_not)

    def either(self) -> tuple[str, _Part] | None:
        first = self.all()
        operator = first and lexis.OR.match(self.text, self.at)
        if first is None or not operator:
            return first
        should = [self.alternative(*first, operator.start())]
        while operator:
            self.at = operator.end()
            should.append(self.alternative(*self.after(self.all(), "OR"), operator.end()))
            operator = lexis.OR.match(self.text, self.at)
        return "", combined(should=should)

    def alternative(self, sign: str, part: _Part, at: int) -> Node:
        if sign == "+":
            self.fail(at, "OR cannot join what + demands; write +(a OR b), or +a b without OR")
        node = self.node(part)
        return Bool(must_not=(node,)) if sign else node

    def all(self) -> tuple[str, _Part] | None:
        first = self.part()
        operator = first and lexis.AND.match(self.text, self.at)
        if first is None or not operator:
            return first
        found = [first]
        while operator:
            self.at = operator.end()
            found.append(self.after(self.part(), "AND"))
            operator = lexis.AND.match(self.text, self.at)
        return "", combined(
            [self.node(part) for sign, part in found if sign != "-"],
            must_not=[self.node(part) for sign, part in found if sign == "-"],
        )

    def after(self, found: tuple[str, _Part] | None, operator: str) -> tuple[str, _Part]:
        if found is None:
            self.fail(
                self.at, f'{operator} lacks what follows it; write "{operator}" for the word itself'
            )
        return found

    def part(self) -> tuple[str, _Part] | None:
        """A part with its sign; None at the end of the sequence."""
        sign = ""
        start = self.at
        while found := lexis.SIGN.match(self.text, self.at):
            self.at = found.end()
            if found[1] != "+":
                sign = "" if sign == "-" else "-"
            elif not sign:
                sign = "+"
        signed = self.at > start
        if not signed:
            self.skip()
        if self.at == len(self.text) or self.text[self.at] in ")）":
            return self.after(None, "NOT") if signed else None
        self.clauses += len(self.targets)
        if self.clauses > MAX_CLAUSES:
            self.fail(self.at, f"more than {MAX_CLAUSES:,} words and clauses; ask for less")
        return sign, self.operand()

    def operand(self) -> _Part:
        first = self.text[self.at]
        if first in "(（":
            return self.group()
        if first in lexis.QUOTED:
            return self.phrase()
        if found := lexis.FIELD.match(self.text, self.at):
            field = self.schema.fields.get(found[1])
            if field is not None:
                self.at = found.end()
                return self.of_field(field, found.start())
            if found[2] == ":" and not lexis.NO_FIELD.match(self.text, found.end()):
                known = ", ".join(self.schema.fields) or "none yet"
                self.fail(
                    self.at,
                    f"there is no field {found[1]!r}; the fields are: {known}. Write "
                    f"{found[1]}\\: to search for the text",
                )
        return self.word()

    def of_field(self, field: Field, start: int) -> Node:
        """What stands behind the name of a field and its colon."""
        outer = self.targets, self.name
        self.targets, self.name = (Target(field.name),), field.name
        self.skip()
        first = self.text[self.at : self.at + 1]
        if not first or first in ")）":
            self.fail(
                start,
                f"{field.name}: lacks its value; write {field.name}\\: to search for the text",
            )
        if first in "[{":
            found: _Part = self.range(field)
        elif compared := lexis.COMPARED.match(self.text, self.at):
            found = self.compared(field, compared)
        elif first in "(（":
            found = self.group()
        elif first in lexis.QUOTED:
            found = self.phrase()
        else:
            found = self.word(after_field=True)
        node = self.node(found)
        self.targets, self.name = outer
        return node

    def group(self) -> Node:
        start = self.at
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(start, f"parentheses within more than {MAX_DEPTH} others")
        self.at += 1
        node = self.sequence()
        if self.at == len(self.text):
            self.fail(start, "this parenthesis is not closed; write \\( to search for it")
        if node is None:
            self.fail(start, "nothing is in these parentheses; write \\(\\) to search for them")
        self.at += 1
        self.depth -= 1
        return self.ended(node)

    def phrase(self) -> _Part:
        start = self.at
        text = self.quoted()
        number, factor = self.ending()
        if number and not (number.isdecimal() and int(number[:9]) <= MAX_SLOP):
            self.fail(start, f"~{number:.10} is no number of moves from 0 to {MAX_SLOP}")
        slop = int(number or 0)
        only = self.targets[0]
        if len(self.targets) == 1 and not is_text(only, self.schema):
            if slop:
                self.fail(start, f"{only.name} holds whole values: no words could move")
            value = _Plain(text, start)
            return self.boosted(self.node(value), factor) if factor else value
        if not text.strip():
            self.fail(start, "nothing is in these quotes")

        def of(target: Target) -> Node:
            if is_text(target, self.schema):
                return Phrase(target.name, text, slop, target.fields)
            return self.value(target, _Plain(text, start))

        return self.boosted(spread(self.targets, of), factor)

    def range(self, field: Field) -> Node:
        found = lexis.RANGE.match(self.text, self.at)
        if found is None:
            self.fail(
                self.at,
                f"a range is written {field.name}:[low TO high], with {{ or }} for a bound that "
                "is left out, * for no bound, and quotes about what has spaces",
            )
        self.at = found.end()
        low, high = (
            None if raw == "*" else lexis.inner(raw[1:-1]) if raw[0] == '"'
            else lexis.unescaped(raw)
            for raw in found.group(2, 3)
        )  # fmt: skip
        node = self.placed(
            found.start(),
            lambda: between(
                field,
                None if low is None else meant(field, low),
                None if high is None else meant(field, high),
                found[1] == "[",
                found[4] == "]",
            ),
        )
        return self.ended(node)

    def compared(self, field: Field, operator: re.Match[str]) -> Node:
        self.at = start = operator.end()
        sign = operator[1].translate(lexis.COMPARISONS)
        if self.text[start : start + 1] in lexis.QUOTED:
            text = self.quoted()
            factor = self.ending()[1]
        else:
            raw = lexis.WORD.match(self.text, start)
            shaped = raw and lexis.WEIGHED.fullmatch(raw[0])
            if raw is None or not shaped:
                self.fail(start, f"a value follows upon {operator[1]}, perhaps in quotes")
            self.at = raw.end()
            text, factor = lexis.unescaped(shaped[1]), shaped[2] or ""

        def node() -> Node:
            value = meant(field, text)
            if sign == "=":
                return equals(field, value)
            if sign[0] == ">":
                return between(field, value, None, sign == ">=", True)
            return between(field, None, value, True, sign == "<=")

        return self.boosted(self.placed(start, node), factor)

    def word(self, after_field: bool = False) -> _Part:
        start = self.at
        found = lexis.WORD.match(self.text, start)
        if found is None:
            self.fail(start, "this cannot be read; write \\ before it to search for it")
        raw = found[0]
        self.at = found.end()
        if raw in lexis.OPERATORS and not after_field:
            self.fail(start, f'{raw} lacks what comes before it; write "{raw}" for the word itself')
        if not lexis.SHAPING.search(raw):
            return _Plain(lexis.unescaped(raw), start)
        return self.shaped(raw, start)

    def shaped(self, raw: str, start: int) -> _Part:
        """A word with a * or ~ behind it, or a boost."""
        found = lexis.SHAPED.fullmatch(raw)
        if found is None:
            return _Plain(lexis.unescaped(raw), start)
        body, star, distance, factor = found.groups()
        factor = factor or ""
        if not body:
            if not star:
                return _Plain(raw, start)
            return self.boosted(Exists(self.name) if self.name else All(), factor)
        if inner := lexis.STAR.match(body):
            self.fail(
                start + inner.end() - 1,
                "* stands at the end of a word only, as in cach*; write \\* for the sign itself",
            )
        text = lexis.unescaped(body)
        if star:
            self.check_spelt(start)
            node = spread(self.targets, lambda one: Prefix(one.name, text, one.fields))
        elif distance is not None:
            if distance not in ("", "1", "2"):
                self.fail(
                    start, f"~{distance:.10} is no distance: ~ or ~1 for one edit, ~2 for two"
                )
            edits = int(distance or 1)
            self.check_spelt(start)
            node = spread(self.targets, lambda one: Fuzzy(one.name, text, edits, one.fields))
        elif not factor:
            return _Plain(text, start)
        else:
            node = self.node(_Plain(text, start))
        return self.boosted(node, factor)

    def check_spelt(self, start: int) -> None:
        for one in self.targets:
            self.placed(start, partial(check_spelt, one, self.schema))

    def plain(self, run: list[_Plain]) -> Node:
        """Words or values that stand side by side."""

        def of(target: Target) -> Node:
            if is_text(target, self.schema):
                text = " ".join([one.text for one in run])
                return Match(target.name, text, self.every, target.fields)
            found = [self.value(target, one) for one in run]
            return combined(found) if self.every else any_of(found)

        return spread(self.targets, of)

    def value(self, target: Target, part: _Plain) -> Node:
        field = self.schema.fields[target.name]
        return self.placed(part.at, lambda: equals(field, meant(field, part.text)))

    def node(self, part: _Part) -> Node:
        return self.plain([part]) if isinstance(part, _Plain) else part
