"""The text index against plain Python: random documents, changes of them, and random queries."""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.search_naive import matching, whole_values
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
from workers.search.schema import parse
from workers.search.text.analysis import phrase
from workers.search.text.index import Sort, TextReader, TextWriter

SOAK = bool(os.environ.get("SAGE_SOAK"))
SCHEMA: Final = parse(
    {
        "title": {"kind": "text", "exact": True, "boost": 2.0},
        "body": {"kind": "text", "analyzer": "plain"},
        "zh": {"kind": "text", "analyzer": "jieba"},
        "kind": "keyword",
        "tags": "tags",
        "size": "integer",
        "price": "float",
        "at": "date",
        "open": "boolean",
    }
)
# Each commit waits for the disk several times: in memory it is quick.
MEMORY: Final = "/dev/shm" if os.path.isdir("/dev/shm") else None
TEXTS: Final = ("title", "body", "zh")
WHOLE: Final = ("title", "kind", "tags")
NUMBERS: Final = ("size", "price", "at", "open")

WORDS = st.sampled_from(
    [
        "run",
        "running",
        "Runs",
        "fox",
        "FOXES",
        "the",
        "quick",
        "quikc",
        "café",
        "cafe\u0301",
        "１２",
        "12",
        "分布式",
        "分散式",
        "缓存",
        "緩存",
        "存",
        "系统",
        "iPhone手机",
        "ﬁne",
        "x_y",
        "カメラ",
        "한국어",
    ]
)
GAPS = st.sampled_from([" ", " ", "", "，", ". ", "-", "\n"])


@st.composite
def texts(draw: st.DrawFn, most: int = 6) -> str:
    parts: list[str] = []
    for word in draw(st.lists(WORDS, max_size=most)):
        parts += [word, draw(GAPS)]
    return "".join(parts)


VALUES = st.sampled_from(
    ["", "a", "ab", "b", "B", "run", "rung", "ruin", "分布", "分布式", "a b", "z" * 60]
)
INTEGERS = st.sampled_from([-(2**63), -5, -1, 0, 1, 2, 7, 2**53 + 1, 2**63 - 1])
FLOATS = st.sampled_from([-1e300, -1.5, -0.0, 0.0, 0.5, 1.5, 2.0, 1e17])
DATES = st.sampled_from([0, 1, 86_400_000_000, -1, -(10**15), 10**15, 10**17]).map(
    lambda number: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=number)
)
OF: Final[dict[str, st.SearchStrategy[Any]]] = {
    "title": texts() | st.lists(texts(3), max_size=3) | VALUES,
    "body": texts() | st.lists(texts(3), max_size=3),
    "zh": texts(),
    "kind": VALUES,
    "tags": st.lists(VALUES, max_size=3),
    "size": INTEGERS,
    "price": FLOATS,
    "at": DATES,
    "open": st.booleans(),
}
DOCUMENTS = st.fixed_dictionaries({}, optional=OF)
ANY_FIELD = st.sampled_from(["", *TEXTS])


def _short(node: Phrase) -> bool:
    """Phrases of more than two words with a slop are not decided by the plain evaluator."""
    fields = [SCHEMA.field(node.field)] if node.field else SCHEMA.texts
    return not node.slop or all(len(phrase(node.text, one.analyzer)) <= 2 for one in fields)


def _ranges(name: str) -> st.SearchStrategy[Range]:
    bounds = st.none() | (VALUES.filter(lambda one: len(one) < 50) if name in WHOLE else OF[name])
    if name == "size":
        bounds |= st.sampled_from([-1.5, 0.5, 1e30, -1e30, 2**63])
    return st.builds(Range, st.just(name), bounds, bounds, st.booleans(), st.booleans())


LEAVES: st.SearchStrategy[Node] = st.one_of(
    st.builds(Match, ANY_FIELD, texts(3), st.booleans()),
    st.builds(Match, st.just(""), texts(3), st.booleans(), st.just((("title", 2.0), ("zh", 1.0)))),
    st.builds(Phrase, ANY_FIELD, texts(3), st.integers(0, 2)).filter(_short),
    st.builds(Prefix, ANY_FIELD, texts(2)),
    st.builds(Prefix, ANY_FIELD, st.sampled_from(["ru", "fo", "分", "分布", "i", "quick fo", "X"])),
    st.builds(Fuzzy, ANY_FIELD, texts(2), st.integers(1, 2)),
    st.builds(Match, st.sampled_from(["kind", "tags"]), VALUES),
    st.builds(Prefix, st.sampled_from(["kind", "tags"]), VALUES),
    st.builds(Fuzzy, st.sampled_from(["kind", "tags"]), VALUES, st.integers(1, 2)),
    st.builds(Exists, st.sampled_from(list(SCHEMA.fields))),
    st.just(All()),
    *(st.builds(Terms, st.just(name), st.lists(VALUES, max_size=3).map(tuple)) for name in WHOLE),
    *(
        st.builds(Terms, st.just(name), st.lists(OF[name], max_size=3).map(tuple))
        for name in NUMBERS
    ),
    *(_ranges(name) for name in (*WHOLE, *NUMBERS)),
)


def _trees(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    several = st.lists(nodes, max_size=2).map(tuple)
    return st.builds(Bool, several, several, several, several, st.integers(0, 2)) | st.builds(
        Boost, nodes, st.sampled_from([0.5, 1.0, 3.0])
    )


NODES = st.recursive(LEAVES, _trees, max_leaves=5)
SORTS = st.lists(
    st.tuples(st.sampled_from(["title", "kind", *NUMBERS]), st.booleans()),
    min_size=1, max_size=3, unique_by=lambda key: key[0],
)  # fmt: skip
# In one go, or with a commit in between: several segments, and rows that are removed.
CHANGES = st.lists(
    st.tuples(st.lists(DOCUMENTS, max_size=5), st.sets(st.integers(1, 12))), max_size=4
)


class Opened:
    """An index with the documents that the changes leave, and those documents."""

    def __init__(self, path: Path, changes: list[tuple[list[dict[str, Any]], set[int]]]) -> None:
        self.documents: dict[int, dict[str, Any]] = {}
        writer = TextWriter(path, SCHEMA)
        last = 0
        for documents, removed in changes:
            added = [(last + at, SCHEMA.checked(one)) for at, one in enumerate(documents, 1)]
            last += len(added)
            gone = [row for row in sorted(removed) if row <= last]
            # As after a crash: what was applied already is applied again.
            for _ in range(1 + len(gone) % 2):
                writer.apply(gone, added)
            writer.commit()
            self.documents |= dict(added)
            for row in gone:
                self.documents.pop(row, None)
        writer.close()
        self.reader = TextReader(path, SCHEMA)


@settings(
    max_examples=1000 if SOAK else 60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(changes=CHANGES, nodes=st.lists(NODES, min_size=5, max_size=20))
def test_it_finds_what_plain_python_finds(
    changes: list[tuple[list[dict[str, Any]], set[int]]], nodes: list[Node]
) -> None:
    # tantivy may still merge segments in the background.
    with tempfile.TemporaryDirectory(dir=MEMORY, ignore_cleanup_errors=True) as directory:
        opened = Opened(Path(directory) / "text", changes)
        note(f"{opened.documents}")
        for node in nodes:
            expected = matching(opened.documents, SCHEMA, node)
            found = opened.reader.search(node, limit=100)
            assert set(found.rows) == expected, node
            assert found.total == len(found.rows) == len(expected)
            assert found.scores == sorted(found.scores, reverse=True)
            rows = opened.reader.rows(node, 100)
            assert rows is not None and rows.tolist() == sorted(expected)
            for row in opened.documents:
                assert (opened.reader.explain(node, row) is not None) == (row in expected)


@settings(max_examples=1000 if SOAK else 40, deadline=None)
@given(changes=CHANGES, node=NODES, sort=SORTS, size=st.integers(1, 4), offset=st.integers(0, 6))
def test_pages_are_the_whole_in_order(
    changes: list[tuple[list[dict[str, Any]], set[int]]],
    node: Node,
    sort: list[tuple[str, bool]],
    size: int,
    offset: int,
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY, ignore_cleanup_errors=True) as directory:
        opened = Opened(Path(directory) / "text", changes)
        rows = sorted(matching(opened.documents, SCHEMA, node))
        expected = _ordered(opened, rows, sort)
        keys = Sort(tuple(sort))
        assert opened.reader.search(node, limit=100, sort=keys).rows == expected
        assert (
            opened.reader.search(node, limit=size, sort=keys, offset=offset).rows
            == expected[offset : offset + size]
        )
        for order in (keys, None):
            whole = opened.reader.search(node, limit=100, sort=order)
            for at in range(size, len(whole.rows), size):
                place = whole.position(at - 1)
                assert place.seen == at
                # A wrong number, or none, costs time alone.
                for seen in (at, 0, at + 3, max(0, at - 2)):
                    page = opened.reader.search(
                        node, limit=size, sort=order, after=place._replace(seen=seen)
                    )
                    assert page.rows == whole.rows[at : at + size]
                    assert seen != at or page.position(0).seen == at + 1
            page = opened.reader.search(node, limit=size, sort=order, offset=offset)
            assert page.rows == whole.rows[offset : offset + size]


def _ordered(opened: Opened, rows: list[int], sort: list[tuple[str, bool]]) -> list[int]:
    """Sorted by the last key first, each time keeping the order of equals; what lacks it last."""
    for name, descending in reversed(sort):
        field = SCHEMA.field(name)
        values = {row: whole_values(opened.documents[row], field) for row in rows}
        having = [row for row in rows if values[row]]
        lacking = [row for row in rows if not values[row]]
        distinct = sorted({values[row][0] for row in having}, reverse=descending)
        rows = [row for value in distinct for row in having if values[row][0] == value] + lacking
    return rows
