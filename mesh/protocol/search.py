"""What the search service accepts: limits, and the checks of them at both of its edges.

What depends on the fields of a collection is checked by the service alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from sys import float_info
from typing import Any

from mesh.errors import InvalidArgument
from mesh.protocol.checks import MAX_KEY as MAX_KEY
from mesh.protocol.checks import MAX_MANY as MAX_MANY
from mesh.protocol.checks import MAX_PAGE as MAX_PAGE
from mesh.protocol.checks import MAX_PAGE_OCTETS as MAX_PAGE_OCTETS
from mesh.protocol.checks import check_choice as check_choice
from mesh.protocol.checks import check_key, shown, utf8

MAX_COLLECTION = 64
MAX_COLLECTIONS = 256
# Each document is one answer among a thousand; what is larger is indexed in parts.
MAX_DOCUMENT = 1024 * 1024
MAX_BATCH = 16 * 1024 * 1024
"""Octets of the documents of one call, packed."""
MAX_ANSWER = 48 * 1024 * 1024
"""Octets of the documents of one answer: with what is told of them, a message holds it."""
MAX_QUERY = 64 * 1024
MAX_SUGGESTED = 256
MAX_OFFSET = 10_000
MAX_NEAREST = 10_000
MAX_ROWS = 10_000_000
"""Documents that one query may filter vectors by, or delete."""
MAX_SORT = 8
MAX_FACETS = 64
MAX_FIELDS = 200
MAX_LIKE = 100
MAX_CURSOR = 8 * 1024
MAX_DIMENSION = 4096

REFRESH_EVERY = 0.2
LEAST_REFRESH, MOST_REFRESH = 0.05, 60.0

REFRESHES = ("interval", "wait")
ABSENCES = ("", "absent", "present")
OPERATORS = ("or", "and")
ORDERS = ("asc", "desc")
FACETS = ("terms", "ranges", "histogram", "dates", "stats")
HIGHLIGHT = ("fields", "size", "count", "before", "after", "escape")
LEGS = ("text", "vector")
FUSIONS = ("scores", "ranks")
WEIGHTS = {"text": 1.0, "vector": 0.6}
"""How much words and vectors count where nothing is said; see docs/architecture.md."""


def check_collection(name: Any) -> str:
    """`name` if it may name a collection. Raises InvalidArgument."""
    if not isinstance(name, str) or not name or len(utf8(name, "collection")) > MAX_COLLECTION:
        raise InvalidArgument(
            f"collection={shown(name)} is not text of 1 to {MAX_COLLECTION} octets"
        )
    if not name.isprintable() or "/" in name or "\\" in name:
        raise InvalidArgument(
            f"collection={name!r} has slashes or characters that cannot be printed"
        )
    return name


def check_id(name: Any, what: str = "id") -> bytes:
    """The id of a document as octets. Raises InvalidArgument."""
    return check_key(name, what)


def check_ids(ids: Any, what: str = "ids", most: int = MAX_MANY) -> list[bytes]:
    """Some ids as octets. Raises InvalidArgument."""
    if not isinstance(ids, list | tuple):
        raise InvalidArgument(f"{what}={shown(ids)} is not a list of ids")
    if len(ids) > most:
        raise InvalidArgument(f"{len(ids)} {what} in one call, the limit is {most}: make several")
    return [check_id(name, f"{what}[{index}]") for index, name in enumerate(ids)]


def check_document(document: Any, what: str = "document") -> tuple[str, bytes, dict[str, Any]]:
    """A document: its id, the same as octets, and its fields, the id not among them.

    Raises:
        InvalidArgument: it is not a mapping of names to values with an id.
    """
    if type(document) is not dict and not isinstance(document, Mapping):
        raise InvalidArgument(f"{what}={shown(document)} is not a mapping of fields to values")
    fields = dict(document)
    name = fields.pop("id", None)
    if name is None:
        raise InvalidArgument(f'{what} has no "id": name it, as in {{"id": "a-17", ...}}')
    try:
        octets = check_key(name, "id")
    except InvalidArgument:  # once more, to say where: that costs as much as the check
        octets = check_key(name, f"{what}: id")
    for field in fields:
        if not isinstance(field, str):
            raise InvalidArgument(
                f"{what} ({shown(name)}): {shown(field)} is no name of a field; names are text",
                data={"id": name},
            )
    return name, octets, fields


def check_documents(documents: Any) -> list[tuple[str, bytes, dict[str, Any]]]:
    """The documents of one call, each as `check_document` gives it. Raises InvalidArgument."""
    if not isinstance(documents, list | tuple):
        raise InvalidArgument(f"documents={shown(documents)} is not a list of documents")
    check_count(len(documents))
    try:
        return [check_document(document) for document in documents]
    except InvalidArgument:  # once more, to say which
        return [
            check_document(document, f"documents[{index}]")
            for index, document in enumerate(documents)
        ]


def check_count(documents: int) -> None:
    """How many documents one call brings. Raises InvalidArgument."""
    if documents > MAX_MANY:
        raise InvalidArgument(
            f"{documents} documents in one call, the limit is {MAX_MANY}: make several, or use "
            "load()"
        )


def check_answer(octets: int, how: str) -> None:
    """How much one answer brings; `how` says what to do about it. Raises InvalidArgument."""
    if octets > MAX_ANSWER:
        raise InvalidArgument(
            f"the documents of the answer have more than {MAX_ANSWER:,} octets: {how}"
        )


def check_query(query: Any, what: str = "query") -> str | Mapping[str, Any] | None:
    """A query as text or as a mapping, or none; what it says is not looked at.

    Raises InvalidArgument.
    """
    if query is None or isinstance(query, Mapping):
        return query
    if not isinstance(query, str):
        raise InvalidArgument(
            f"{what}={shown(query)} is neither text nor a mapping, as in 'title:cache' or "
            "{'match': {'title': 'cache'}}"
        )
    if len(utf8(query, what)) > MAX_QUERY:
        raise InvalidArgument(f"{what} has more than {MAX_QUERY:,} octets; use similar() with text")
    return query


def check_filter(given: Any) -> Any:
    """What must hold: a query, a mapping of fields to values, or a list of such; None for nothing.

    What it says is not looked at. Raises InvalidArgument.
    """
    if isinstance(given, list | tuple):
        return [check_query(one, f"filter[{index}]") for index, one in enumerate(given)]
    return check_query(given, "filter")


def check_text(text: Any, most: int = MAX_DOCUMENT, what: str = "text") -> str:
    """Text of up to `most` octets. Raises InvalidArgument."""
    if not isinstance(text, str) or len(utf8(text, what)) > most:
        raise InvalidArgument(f"{what}={shown(text)} is not text of up to {most:,} octets")
    return text


def check_field(name: Any, what: str = "field") -> str:
    """The name of a field; "" for none. Whether there is one is not looked at.

    Raises InvalidArgument.
    """
    return check_text(name, MAX_SUGGESTED, what)


def check_fields(names: Any, what: str = "fields") -> list[str]:
    """Some names of fields. Raises InvalidArgument."""
    if not isinstance(names, list | tuple) or len(names) > MAX_FIELDS:
        raise InvalidArgument(
            f"{what}={shown(names)} is not a list of up to {MAX_FIELDS} names of fields"
        )
    return [check_field(name, f"{what}[{index}]") for index, name in enumerate(names)]


def check_vector(vector: Any) -> bytes | list[float] | None:
    """A vector as numbers, or as 32-bit floats, little endian; None for none.

    Its dimension is not looked at. Raises InvalidArgument.
    """
    if vector is None:
        return None
    if isinstance(vector, bytes):
        if not vector or len(vector) % 4 or len(vector) > MAX_DIMENSION * 4:
            raise InvalidArgument(
                f"vector: {len(vector)} octets are not up to {MAX_DIMENSION} 32-bit floats"
            )
        return vector
    if not isinstance(vector, list | tuple) or not 0 < len(vector) <= MAX_DIMENSION:
        raise InvalidArgument(
            f"vector={shown(vector)} is not a list of 1 to {MAX_DIMENSION} numbers"
        )
    for number in vector:
        if not _is_number(number):
            raise InvalidArgument(f"vector: {shown(number)} is not a finite number")
    return list(vector)


def check_limit(limit: Any) -> int:
    """How many hits are wanted, 0 for none (but facets, total). Raises InvalidArgument."""
    return check_whole("limit", limit, 0, MAX_PAGE)


def check_offset(offset: Any) -> int:
    """How many hits are passed over. Raises InvalidArgument."""
    if isinstance(offset, int) and not isinstance(offset, bool) and offset > MAX_OFFSET:
        raise InvalidArgument(
            f"offset={shown(offset)} is above {MAX_OFFSET:,}: go on from the cursor of a page "
            "instead"
        )
    return check_whole("offset", offset, 0, MAX_OFFSET)


def check_nearest(k: Any) -> int:
    """How many of the nearest vectors take part. Raises InvalidArgument."""
    return check_whole("k", k, 1, MAX_NEAREST)


def check_whole(what: str, number: Any, least: int, most: int) -> int:
    """A whole number from `least` to `most`. Raises InvalidArgument."""
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        raise InvalidArgument(f"{what}={shown(number)} is not a whole number {least} to {most:,}")
    return number


def check_cursor(cursor: Any) -> bytes:
    """Where to go on, as an answer gave it; b"" for the beginning. Raises InvalidArgument."""
    if not isinstance(cursor, bytes) or len(cursor) > MAX_CURSOR:
        raise InvalidArgument(f"cursor={shown(cursor)} was not given out by a search")
    return cursor


def check_refresh(refresh: Any) -> str:
    """Whether a write waits until searches see it. Raises InvalidArgument."""
    return check_choice("refresh", refresh, REFRESHES)


def check_refresh_every(seconds: Any) -> float:
    """Seconds until searches see a change, at the latest. Raises InvalidArgument."""
    if not _is_number(seconds) or not LEAST_REFRESH <= seconds <= MOST_REFRESH:
        raise InvalidArgument(
            f"refresh_every={shown(seconds)} is not {LEAST_REFRESH} to {MOST_REFRESH:.0f} seconds"
        )
    return float(seconds)


def check_only_if(only_if: Any) -> str:
    """Which documents of a write are written. Raises InvalidArgument."""
    return check_choice("only_if", only_if, ABSENCES)


def check_operator(operator: Any) -> str:
    """Whether one word of a query is enough, or all are wanted. Raises InvalidArgument."""
    return check_choice("operator", operator, OPERATORS)


def check_sort(sort: Any) -> list[tuple[str, str]]:
    """What hits are ordered by: pairs of a field and "asc" or "desc"; [] for their score.

    Raises InvalidArgument.
    """
    if not isinstance(sort, list | tuple) or len(sort) > MAX_SORT:
        raise InvalidArgument(
            f"sort={shown(sort)} is not a list of up to {MAX_SORT} pairs, as in "
            '[["published", "desc"]]'
        )
    found: list[tuple[str, str]] = []
    for index, pair in enumerate(sort):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InvalidArgument(
                f'sort[{index}]={shown(pair)} is not a field with "asc" or "desc"'
            )
        name = check_field(pair[0], f"sort[{index}]")
        found.append((name, check_choice(f"sort[{index}]", pair[1], ORDERS)))
    return found


def check_weights(weights: Any) -> dict[str, float]:
    """How much words and vectors count, each at least 0; `WEIGHTS` fills in. Raises."""
    given = {} if weights is None else weights
    if not isinstance(given, Mapping) or not given.keys() <= set(LEGS):
        raise InvalidArgument(
            f"weights={shown(weights)} is not a mapping as {{'text': 1.0, 'vector': 0.5}}"
        )
    for name, weight in given.items():
        if not _is_number(weight) or weight < 0:
            raise InvalidArgument(f"weights: {name}={shown(weight)} is not a number from 0")
    found = {name: float(given.get(name, weight)) for name, weight in WEIGHTS.items()}
    if not any(found.values()):
        raise InvalidArgument("weights of 0 only: nothing would be looked for")
    return found


def check_min_score(score: Any) -> float:
    """What a hit must score at least; 0 for anything. Raises InvalidArgument."""
    if not _is_number(score):
        raise InvalidArgument(f"min_score={shown(score)} is not a finite number")
    return float(score)


def check_source(source: Any) -> bool | list[str]:
    """Whether hits bring their documents, or which fields of them. Raises InvalidArgument."""
    if isinstance(source, bool):
        return source
    if not isinstance(source, list | tuple):
        raise InvalidArgument(
            f"source={shown(source)} is not True, False or a list of names of fields"
        )
    return check_fields(source, "source")


def check_highlight(highlight: Any) -> dict[str, Any]:
    """What is highlighted: {"fields": [...], ...}, {} for nothing; a list names the fields.

    Raises InvalidArgument.
    """
    given = {"fields": highlight} if isinstance(highlight, list | tuple) else highlight
    if not given:
        return {}
    if not isinstance(given, Mapping) or not given.keys() <= set(HIGHLIGHT):
        raise InvalidArgument(
            f"highlight={shown(highlight)} is neither a list of fields nor a mapping of "
            f"{', '.join(HIGHLIGHT)}"
        )
    found: dict[str, Any] = {
        "fields": [*dict.fromkeys(check_fields(given.get("fields", []), "highlight: fields"))],
        "size": check_whole("highlight: size", given.get("size", 150), 20, 10_000),
        "count": check_whole("highlight: count", given.get("count", 3), 1, 100),
        "before": check_text(given.get("before", "<em>"), 100, "highlight: before"),
        "after": check_text(given.get("after", "</em>"), 100, "highlight: after"),
        "escape": given.get("escape", False),
    }
    if not isinstance(found["escape"], bool):
        raise InvalidArgument(f"highlight: escape={shown(found['escape'])} is not True or False")
    return found if found["fields"] else {}


def check_facets(facets: Any) -> dict[str, dict[str, Any]]:
    """What is counted, by the names of the answers; a text names a field whose terms are.

    Each is {"kind": ..., "field": ..., more}; what more there may be is the kind's own affair.
    Raises InvalidArgument.
    """
    if not isinstance(facets, Mapping) or len(facets) > MAX_FACETS:
        raise InvalidArgument(
            f"facets={shown(facets)} is not a mapping of up to {MAX_FACETS} facets, as in "
            "{'by_author': {'kind': 'terms', 'field': 'author'}}"
        )
    found: dict[str, dict[str, Any]] = {}
    for name, given in facets.items():
        check_field(name, "facets: name")
        facet = {"kind": "terms", "field": given} if isinstance(given, str) else given
        if not isinstance(facet, Mapping):
            raise InvalidArgument(f"facets: {name}={shown(given)} is not a mapping")
        check_choice(f"facets: {name}: kind", facet.get("kind"), FACETS)
        if not check_field(facet.get("field"), f"facets: {name}: field"):
            raise InvalidArgument(f"facets: {name}: field is empty")
        found[name] = dict(facet)
    return found


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -float_info.max <= value <= float_info.max
