"""Queries as mappings: {FORM: what the form takes}.

    {"match": {"title": "cold cache"}}          words; {"title": {"text", "operator", "boost"}}
    {"phrase": {"title": "hot key"}}            {"title": {"text", "slop", "boost"}}
    {"prefix": {"title": "cach"}}               {"title": {"text", "boost"}}
    {"fuzzy": {"title": "cahce"}}               {"title": {"text", "distance", "boost"}}
    {"term": {"status": "open"}}                a whole value; {"status": {"value", "boost"}}
    {"terms": {"tags": ["a", "b"]}}             one of them; {"tags": {"values", "boost"}}
    {"range": {"price": {"gte": 5, "lt": 9}}}   gt, gte, lt, lte, boost
    {"exists": "title"}                         documents that have the field
    {"all": {}}                                 all documents
    {"bool": {...}}                             must, should, must_not, filter: each one query or a
                                                list; minimum_should, boost
    {"boost": {"query": ..., "factor": 2}}      any query with its score multiplied
    {"like": {"title": "some long text"}}       texts with its most telling words
    {"query": "title:cache +redis"}             a query string; {"text", "operator", "fields",
                                                "boost"}

The first four, and `like`, take a text alone for all text fields. Wherever a query stands, a query
string may stand. In a filter a mapping may also name fields, all of which must fit: {"status":
"open", "tags": ["a", "b"], "price": {"lt": 9}} means that value, one of those, that range. The name
of a form always means the form; a field of that name is reached by `term`, `terms` and `range`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NoReturn, TypeVar

from mesh.errors import InvalidArgument
from mesh.protocol.checks import shown
from mesh.protocol.search import MAX_DOCUMENT
from workers.search.query.clauses import (
    MAX_CLAUSES,
    MAX_DEPTH,
    MAX_LIKE,
    MAX_SLOP,
    Target,
    Targets,
    between,
    boosted,
    check_boost,
    check_spelt,
    combined,
    equals,
    is_text,
    one_of,
    spread,
    targets_of,
)
from workers.search.query.nodes import All, Exists, Fuzzy, Like, Match, Node, Phrase, Prefix
from workers.search.query.parse import MAX_LENGTH, parse
from workers.search.schema import TEXT, Field, Schema

T = TypeVar("T")

_BOUNDS: Final = ("gt", "gte", "lt", "lte")


def query_of(
    given: str | Mapping[str, Any] | None,
    schema: Schema,
    *,
    fields: Sequence[str] = (),
    every: bool = False,
) -> Node:
    """What a query means, a string or a mapping; None means all documents.

    `fields` and `every` are for words that name no field, and no operator; see `parse`.

    Raises:
        InvalidArgument: it means nothing; the message and `data["path"]` say where.
    """
    if given is None:
        return All()
    return _Reader(schema, fields, every).node(given, "query")


def filter_of(given: Any, schema: Schema) -> Node:
    """What a filter means: a query, fields with their values, or a list of such, all to hold.

    Raises:
        InvalidArgument: as from `query_of`.
    """
    return combined(_Reader(schema, (), False).filters(given, "filter"))


class _Reader:
    """Reads one query."""

    def __init__(self, schema: Schema, fields: Sequence[str], every: bool) -> None:
        self.schema = schema
        self.fields = fields
        self.every = every
        self.targets = targets_of(fields, schema)
        self.filtering = False
        self.clauses = self.depth = 0

    def node(self, given: Any, path: str) -> Node:
        self.count(len(given.split()) if isinstance(given, str) else 1, path)
        if isinstance(given, str):
            return self.string(given, path, self.fields, self.every)
        if not isinstance(given, Mapping):
            _fail(path, f"{shown(given)} is neither a query string nor a mapping")
        form = next(iter(given), None) if len(given) == 1 else None
        if form not in _FORMS:
            return self.unformed(given, path)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            _fail(path, f"queries within more than {MAX_DEPTH} others")
        node = _FORMS[form](self, given[form], f"{path}.{form}")
        self.depth -= 1
        return node

    def nodes(self, given: Any, path: str) -> list[Node]:
        """One query, a list of them, or None for none."""
        if not isinstance(given, list | tuple):
            return [] if given is None else [self.node(given, path)]
        return [self.node(one, f"{path}[{at}]") for at, one in enumerate(given)]

    def filters(self, given: Any, path: str) -> list[Node]:
        """The same, where mappings may also name fields."""
        outer, self.filtering = self.filtering, True
        nodes = self.nodes(given, path)
        self.filtering = outer
        return nodes

    def unformed(self, given: Mapping[Any, Any], path: str) -> Node:
        """Fields with their values."""
        forms = ", ".join(_FORMS)
        for name in given:
            if name in _FORMS:
                _fail(
                    path,
                    f"{name!r} is a form of query, which stands alone; put several into "
                    f'{{"bool": ...}}, and reach a field of that name by {{"term": ...}}',
                )
            if not self.filtering and name in self.schema.fields:
                _fail(
                    path,
                    f"{name!r} is a field; say how it is searched, as in "
                    f'{{"match": {{{name!r}: ...}}}}; the forms are: {forms}',
                )
            if name not in self.schema.fields:
                known = ", ".join(self.schema.fields) or "none yet"
                _fail(
                    path,
                    f"{shown(name)} is neither a form of query ({forms}) nor a field ({known})",
                )
        if not given:
            _fail(path, f"an empty mapping; the forms are: {forms}")
        return combined([self.fitting(name, one, f"{path}.{name}") for name, one in given.items()])

    def fitting(self, name: str, value: Any, path: str) -> Node:
        """What a filter says of one field."""
        field = self.schema.fields[name]
        if isinstance(value, Mapping):
            return self.bounded(field, dict(value), path)
        if value is None:
            _fail(path, f'None; what lacks the field is {{"bool": {{"must_not": "{name}:*"}}}}')
        many = value if isinstance(value, list | tuple) else [value]
        return _at(path, lambda: one_of(field, many))

    def match(self, given: Any, path: str) -> Node:
        targets, text, options = self.worded(given, path, ("operator", "boost"))
        every = self.operator(options, path)
        node = self.texts(
            targets, text, path, lambda one, text: Match(one.name, text, every, one.fields)
        )
        return self.weighed(node, options, path)

    def phrase(self, given: Any, path: str) -> Node:
        targets, text, options = self.worded(given, path, ("slop", "boost"))
        slop = options.get("slop", 0)
        if isinstance(slop, bool) or not isinstance(slop, int) or not 0 <= slop <= MAX_SLOP:
            _fail(path, f"slop {shown(slop)} is not a whole number from 0 to {MAX_SLOP}")
        node = self.texts(
            targets, text, path, lambda one, text: Phrase(one.name, text, slop, one.fields)
        )
        return self.weighed(node, options, path)

    def prefix(self, given: Any, path: str) -> Node:
        targets, text, options = self.worded(given, path, ("boost",))
        found = self.text(text, path)
        self.check_spelt(targets, path)
        node = spread(targets, lambda one: Prefix(one.name, found, one.fields))
        return self.weighed(node, options, path)

    def fuzzy(self, given: Any, path: str) -> Node:
        targets, text, options = self.worded(given, path, ("distance", "boost"))
        found = self.text(text, path)
        distance = options.get("distance", 1)
        if isinstance(distance, bool) or distance not in (1, 2) or not isinstance(distance, int):
            _fail(path, f"distance {shown(distance)} is not 1 or 2")
        self.check_spelt(targets, path)
        node = spread(targets, lambda one: Fuzzy(one.name, found, distance, one.fields))
        return self.weighed(node, options, path)

    def like(self, given: Any, path: str) -> Node:
        if isinstance(given, str):
            names = [name for one in self.targets for name in (one.name, *dict(one.fields)) if name]
            given = dict.fromkeys(names or [one.name for one in self.schema.texts], given)
        if not isinstance(given, Mapping) or not given:
            _fail(path, "takes a text, or a mapping of text fields to texts")
        for name, text in given.items():
            if self.field(name, path).kind != TEXT:
                _fail(path, f"{name!r} is no text field")
            self.text(text, f"{path}.{name}", MAX_DOCUMENT)
        return Like(tuple((name, text[:MAX_LIKE]) for name, text in given.items()))

    def term(self, given: Any, path: str) -> Node:
        field, value, options = self.valued(given, path, "value")
        return self.weighed(_at(path, lambda: equals(field, value)), options, path)

    def terms(self, given: Any, path: str) -> Node:
        field, values, options = self.valued(given, path, "values")
        if not isinstance(values, list | tuple):
            _fail(path, f"{shown(values)} is not a list of values")
        return self.weighed(_at(path, lambda: one_of(field, values)), options, path)

    def ranged(self, given: Any, path: str) -> Node:
        name, bounds = _only(given, path, '{"price": {"gte": 5, "lt": 9}}')
        field = self.field(name, path)
        if not isinstance(bounds, Mapping):
            _fail(path, f"{shown(bounds)} is no mapping of {', '.join(_BOUNDS)} to values")
        options = dict(bounds)
        boost = {"boost": options.pop("boost")} if "boost" in options else {}
        return self.weighed(self.bounded(field, options, f"{path}.{name}"), boost, path)

    def bounded(self, field: Field, bounds: dict[Any, Any], path: str) -> Node:
        """A field within bounds."""
        for name in bounds:
            if name not in _BOUNDS:
                _fail(path, f"unknown bound {shown(name)}; there are: {', '.join(_BOUNDS)}")
        given = {name: value for name, value in bounds.items() if value is not None}
        if not given:
            _fail(path, f"no bound is given; there are: {', '.join(_BOUNDS)}")
        for one, other in (("gt", "gte"), ("lt", "lte")):
            if one in given and other in given:
                _fail(path, f"{one} and {other} are two bounds of one side")
        low, high = (given.get(one, given.get(f"{one}e")) for one in ("gt", "lt"))
        return _at(path, lambda: between(field, low, high, "gt" not in given, "lt" not in given))

    def exists(self, given: Any, path: str) -> Node:
        name = given.get("field") if isinstance(given, Mapping) and len(given) == 1 else given
        return Exists(self.field(name, path).name)

    def everything(self, given: Any, path: str) -> Node:
        options = self.options({} if given is None or given is True else given, path, ("boost",))
        return self.weighed(All(), options, path)

    def joined(self, given: Any, path: str) -> Node:
        kinds = ("must", "should", "must_not")
        options = self.options(given, path, (*kinds, "filter", "minimum_should", "boost"))
        must, should, must_not = (self.nodes(options.get(kind), f"{path}.{kind}") for kind in kinds)
        filters = self.filters(options.get("filter"), f"{path}.filter")
        least = options.get("minimum_should")
        whole = isinstance(least, int) and not isinstance(least, bool)
        if least is not None and not (whole and 0 <= least <= len(should)):
            _fail(
                path,
                f"minimum_should {shown(least)} is not a whole number from 0 to {len(should)}, "
                "the number of queries in should",
            )
        return self.weighed(combined(must, should, must_not, filters, least), options, path)

    def boost(self, given: Any, path: str) -> Node:
        options = self.options(given, path, ("query", "factor"))
        if len(options) != 2:
            _fail(path, 'takes {"query": ..., "factor": 2}')
        node = self.node(options["query"], f"{path}.query")
        return self.weighed(node, {"boost": options["factor"]}, path)

    def query(self, given: Any, path: str) -> Node:
        given = {"text": given} if isinstance(given, str) else given
        options = self.options(given, path, ("text", "operator", "fields", "boost"))
        text, fields = options.get("text"), options.get("fields", self.fields)
        if not isinstance(text, str):
            _fail(path, f'{shown(text)} is no query string, as in {{"query": "title:cache"}}')
        listed = isinstance(fields, list | tuple) and all(isinstance(one, str) for one in fields)
        if not listed:
            _fail(path, f"fields {shown(fields)} is not a list of names of fields")
        self.clauses += len(text.split())
        node = self.string(text, path, fields, self.operator(options, path))
        return self.weighed(node, options, path)

    def string(self, text: str, path: str, fields: Sequence[str], every: bool) -> Node:
        return _at(path, lambda: parse(text, self.schema, fields=fields, every=every))

    def texts(
        self, targets: Targets, text: Any, path: str, make: Callable[[Target, str], Node]
    ) -> Node:
        """What `make` makes of the targets that are texts, and equality for the others."""

        def of(target: Target) -> Node:
            if is_text(target, self.schema):
                return make(target, self.text(text, path))
            return equals(self.schema.fields[target.name], text)

        return _at(path, lambda: spread(targets, of))

    def check_spelt(self, targets: Targets, path: str) -> None:
        for one in targets:
            _at(path, partial(check_spelt, one, self.schema))

    def worded(
        self, given: Any, path: str, known: tuple[str, ...]
    ) -> tuple[Targets, Any, Mapping[str, Any]]:
        """The targets, the text and the options of a form that takes words."""
        if isinstance(given, str):
            return self.targets, given, {}
        name, value = _only(given, path, '{"title": "words"}, or "words" for all text fields')
        targets: Targets = (Target(self.field(name, path).name),)
        if not isinstance(value, Mapping):
            return targets, value, {}
        options = self.options(value, f"{path}.{name}", ("text", *known))
        return targets, options.get("text"), options

    def valued(self, given: Any, path: str, key: str) -> tuple[Field, Any, Mapping[str, Any]]:
        """The field, the value and the options of a form that takes values."""
        name, value = _only(given, path, f'{{"status": {key}}}')
        field = self.field(name, path)
        if not isinstance(value, Mapping):
            return field, value, {}
        options = self.options(value, f"{path}.{name}", (key, "boost"))
        return field, options.get(key), options

    def field(self, name: Any, path: str) -> Field:
        if not isinstance(name, str):
            _fail(path, f"{shown(name)} is no name of a field")
        return _at(path, lambda: self.schema.field(name))

    def options(self, given: Any, path: str, known: Iterable[str]) -> Mapping[str, Any]:
        names = ", ".join(known)
        if not isinstance(given, Mapping):
            _fail(path, f"{shown(given)} is no mapping; it takes {names}")
        for name in given:
            if name not in known:
                _fail(path, f"unknown option {shown(name)}; it takes {names}")
        return given

    def operator(self, options: Mapping[str, Any], path: str) -> bool:
        """Whether every word is wanted."""
        operator = options.get("operator", "and" if self.every else "or")
        if operator not in ("and", "or"):
            _fail(path, f"operator {shown(operator)} is none of or, and")
        return bool(operator == "and")

    def weighed(self, node: Node, options: Mapping[str, Any], path: str) -> Node:
        if "boost" not in options:
            return node
        return boosted(node, _at(path, lambda: check_boost(options["boost"])))

    def text(self, text: Any, path: str, most: int = MAX_LENGTH) -> str:
        if not isinstance(text, str) or not text.strip():
            _fail(path, f"{shown(text)} is no text to look for")
        if len(text) > most:
            _fail(path, f"{len(text):,} characters, the limit is {most:,}; `like` takes more")
        if most == MAX_LENGTH:
            self.count(len(text.split()) - 1, path)
        return text

    def count(self, clauses: int, path: str) -> None:
        self.clauses += clauses
        if self.clauses > MAX_CLAUSES:
            _fail(path, f"more than {MAX_CLAUSES:,} words and clauses; ask for less")


def _only(given: Any, path: str, form: str) -> tuple[Any, Any]:
    """The one entry of a mapping."""
    if not isinstance(given, Mapping) or len(given) != 1:
        _fail(path, f"{shown(given)}: it takes one field, as in {form}")
    return next(iter(given.items()))


def _at(path: str, make: Callable[[], T]) -> T:
    """What `make` returns; an error of it is one of that place."""
    try:
        return make()
    except InvalidArgument as error:
        if "path" in error.data:
            raise
        raise InvalidArgument(
            f"{path}: {error.message}", data={**error.data, "path": path}
        ) from None


def _fail(path: str, problem: str) -> NoReturn:
    raise InvalidArgument(f"{path}: {problem}", data={"path": path})


_FORMS: Final[dict[Any, Callable[[_Reader, Any, str], Node]]] = {
    "match": _Reader.match, "phrase": _Reader.phrase, "prefix": _Reader.prefix,
    "fuzzy": _Reader.fuzzy, "term": _Reader.term, "terms": _Reader.terms, "range": _Reader.ranged,
    "exists": _Reader.exists, "all": _Reader.everything, "bool": _Reader.joined,
    "boost": _Reader.boost, "like": _Reader.like, "query": _Reader.query,
}  # fmt: skip
