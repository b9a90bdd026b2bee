"""The search service over random verbs against plain Python: what is found, and in what order.

Each clause of a query is written down three times: as a query string, as a mapping, and as what it
means for a document. Words are chosen so that each is its own stem.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mesh.errors import InvalidArgument
from tests.unit.workers.search.driver import Driver, opened
from workers.search import indexing
from workers.search.handler import SearchHandler

SOAK: Final = bool(os.environ.get("SAGE_SOAK"))
# Each commit waits for the disk several times: in memory it is quick.
MEMORY: Final = "/dev/shm" if os.path.isdir("/dev/shm") else None

Document = dict[str, Any]

DECLARED: Final = {
    "title": {"kind": "text", "exact": True}, "body": "text", "price": "integer", "tags": "tags",
    "made": "date", "sold": "boolean", "look": {"kind": "vector", "dimension": 2, "metric": "l2"},
}  # fmt: skip
FIRST: Final = {
    "id": "first", "title": "tea", "body": "cup", "price": 1, "tags": ["a"], "sold": False,
    "made": datetime(2025, 6, 1, tzinfo=UTC),
}  # fmt: skip
"""Brings the dynamic collection its fields: of the same kinds, but `body` is kept whole too."""

IDS = st.sampled_from(["1", "2", "3", "ü", "五", "6:x"])
COLLECTIONS = st.sampled_from(["declared", "dynamic"])
WORDS: Final = ("tea", "cup", "green", "gray", "绿茶", "红茶")
TITLES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
VALUES: Final[dict[str, st.SearchStrategy[Any]]] = {
    "title": TITLES,
    "body": TITLES | st.lists(TITLES, max_size=2),
    "price": st.integers(-2, 5),
    "tags": st.lists(st.sampled_from(["a", "b", "a b"]), max_size=2),
    "made": st.sampled_from(["2025-12-31T23:59:59.5", "2026-01-01", "2026-01-31T12:00+08:00"]),
    "sold": st.booleans(),
    "look": st.tuples(st.integers(-3, 3), st.integers(-3, 3)).map(list),
    "rest": st.sampled_from([{"deep": [1, {"er": None}]}, [1, "x"], b"\0"]),
}
FIELDS = st.fixed_dictionaries({}, optional=VALUES)
ONLY_IN: Final = {"look": "declared", "rest": "dynamic"}
"""Fields that one of the collections does not take, or does not search."""
DOCUMENTS = st.dictionaries(IDS, FIELDS, min_size=1, max_size=4).map(
    lambda found: [{"id": name, **fields} for name, fields in found.items()]
)
CHANGES = st.dictionaries(
    IDS,
    st.fixed_dictionaries({}, optional={name: st.none() | of for name, of in VALUES.items()}),
    min_size=1,
    max_size=3,
).map(lambda found: [{"id": name, **fields} for name, fields in found.items()])
REFRESHES = st.sampled_from(["wait", "wait", "interval"])


def fitting(collection: str, documents: list[Document]) -> list[Document]:
    """The documents with those fields that the collection takes."""
    return [
        {name: value for name, value in one.items() if ONLY_IN.get(name, collection) == collection}
        for one in documents
    ]


def told(document: Document) -> Document:
    """A document as it is given back: vectors only where they are asked for."""
    return {name: value for name, value in document.items() if name != "look"}


# ---------------------------------------------------------------- what queries mean


class Asked(NamedTuple):
    """A query, in both ways of writing, and what it means for a document."""

    text: str
    mapping: Any
    holds: Callable[[Document], bool]


def texts(document: Document, name: str) -> list[str]:
    value = document.get(name)
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def tokens(text: str) -> list[str]:
    """The words; a Chinese character is one."""
    return [one for word in text.split() for one in ([word] if word.isascii() else word)]


def worded(name: str, fits: Callable[[list[str]], bool]) -> Callable[[Document], bool]:
    """Whether the words of one of the texts fit; name "": in any field."""
    names = [name] if name else ["title", "body"]
    return lambda document: any(
        fits(tokens(text)) for one in names for text in texts(document, one)
    )


def holding(name: str, every: bool, *words: str) -> Callable[[Document], bool]:
    """Whether a field has one of the words, or all of them, in any of its texts."""

    def holds(document: Document) -> bool:
        for one in [name] if name else ["title", "body"]:
            found = {token for text in texts(document, one) for token in tokens(text)}
            if (all if every else any)(word in found for word in words):
                return True
        return False

    return holds


def at(document: Document) -> datetime | None:
    value = document.get("made")
    if value is None or isinstance(value, datetime):
        return value
    found = datetime.fromisoformat(value)
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def adjacent(one: str, other: str) -> Callable[[list[str]], bool]:
    wanted = [*tokens(one), *tokens(other)]
    return lambda found: any(
        found[begin : begin + len(wanted)] == wanted for begin in range(len(found))
    )


def compared(document: Document, fits: Callable[[int], bool]) -> bool:
    return document.get("price") is not None and fits(document["price"])


@st.composite
def clauses(draw: st.DrawFn) -> Asked:
    """One condition."""
    kind = draw(st.integers(0, 12))
    name = draw(st.sampled_from(["", "title", "body"]))
    mark = f"{name}:" if name else ""
    word, other = draw(st.sampled_from(WORDS)), draw(st.sampled_from(WORDS))
    price = draw(st.integers(-2, 5))

    def under(form: str, text: Any) -> Any:
        return {form: {name: text} if name else text}

    match kind:
        case 0 | 1:
            holds = holding(name, False, *tokens(word))
            return Asked(mark + word, under("match", word), holds)
        case 2:
            text = f"{word} {other}"
            return Asked(
                f"{mark}({text})" if mark else f"({text})",
                under("match", text),
                holding(name, False, *tokens(text)),
            )
        case 3:
            return Asked(
                f'{mark}"{word} {other}"',
                under("phrase", f"{word} {other}"),
                worded(name, adjacent(word, other)),
            )
        case 4:
            holds = worded(name, lambda found: any(one.startswith("gr") for one in found))
            return Asked(f"{mark}gr*", under("prefix", "gr"), holds)
        case 5:
            return Asked(f"{mark}gren~", under("fuzzy", "gren"), holding(name, False, "green"))
        case 6:
            return Asked(
                f"price:>={price}", {"range": {"price": {"gte": price}}},
                lambda one: compared(one, lambda found: found >= price),
            )  # fmt: skip
        case 7:
            return Asked(
                f"price:{{{price} TO 4]", {"range": {"price": {"gt": price, "lte": 4}}},
                lambda one: compared(one, lambda found: price < found <= 4),
            )  # fmt: skip
        case 8:
            return Asked(
                f'tags:("a b" {word})', {"terms": {"tags": ["a b", word]}},
                lambda one: "a b" in texts(one, "tags"),
            )  # fmt: skip
        case 9:
            return Asked(
                "made:2026-01", {"range": {"made": {"gte": "2026-01", "lte": "2026-01"}}},
                lambda one: (found := at(one)) is not None and f"{found:%Y-%m}" == "2026-01",
            )  # fmt: skip
        case 10:
            return Asked("sold:true", {"term": {"sold": True}}, lambda one: one.get("sold") is True)
        case 11:
            return Asked(
                f'title:="{word} {other}"', {"term": {"title": f"{word} {other}"}},
                lambda one: one.get("title") == f"{word} {other}",
            )  # fmt: skip
        case _:
            field = draw(st.sampled_from(["body", "price", "tags", "made"]))
            return Asked(
                f"{field}:*", {"exists": field}, lambda one: one.get(field) not in (None, [])
            )


@st.composite
def joined(draw: st.DrawFn, inner: st.SearchStrategy[Asked]) -> Asked:
    """Several conditions."""
    one, other = draw(inner), draw(inner)
    match draw(st.integers(0, 3)):
        case 0:
            return Asked(
                f"({one.text} AND {other.text})",
                {"bool": {"must": [one.mapping], "filter": other.mapping}},
                lambda found: one.holds(found) and other.holds(found),
            )
        case 1:
            return Asked(
                f"({one.text} OR {other.text})",
                {"bool": {"should": [one.mapping, other.mapping]}},
                lambda found: one.holds(found) or other.holds(found),
            )
        case 2:
            return Asked(
                f"(NOT {one.text})",
                {"bool": {"must_not": one.mapping}},
                lambda found: not one.holds(found),
            )
        case _:
            return Asked(
                f"(+{one.text} {other.text})",
                {"bool": {"must": one.text, "should": other.text}},
                one.holds,
            )


QUERIES = st.recursive(clauses(), joined, max_leaves=4)
EVERYTHING: Final = Asked("*", None, lambda document: True)


# ---------------------------------------------------------------- the machine


class SearchMachine(RuleBasedStateMachine):
    """Verbs on the real engine and on dictionaries."""

    @initialize(small=st.sampled_from([0, indexing.SMALL]))
    def begin(self, small: int) -> None:
        """`small` 0: an index is built anew in slices, beside the others, as a large one is."""
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(indexing, "SMALL", small)
        self.patch.setattr(indexing, "SLICE", 2)
        self.path = Path(tempfile.mkdtemp(dir=MEMORY))
        self.reopen()
        self.model: dict[str, dict[str, Document]] = {"declared": {}, "dynamic": {}}
        self.version = dict.fromkeys(self.model, 0)
        self.make("declared")
        self.make("dynamic")

    def reopen(self) -> None:
        engine = opened(self.path / "s")
        self.store = Driver(engine)
        self.handler = SearchHandler(engine)
        self.pending = {"declared", "dynamic"}

    def make(self, collection: str) -> None:
        self.model[collection] = {}
        if collection == "declared":
            self.store.write("create", collection, DECLARED, dynamic=False)
        else:
            self.store.write("index", collection, [FIRST], refresh="wait")
            self.model[collection]["first"] = dict(FIRST)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.engine.close()
            self.patch.undo()
            shutil.rmtree(self.path)

    def wrote(self, collection: str, refresh: str, answer: Any = None) -> None:
        if answer is not None:
            assert answer["version"] > self.version[collection] or not answer["ids"]
            self.version[collection] = answer["version"]
        if refresh == "interval":
            self.pending.add(collection)
        else:
            self.pending.discard(collection)

    def settle(self, collection: str) -> None:
        """Have searches see what nobody has waited for."""
        if collection in self.pending:
            self.store.engine.refresh(collection)
            self.pending.discard(collection)

    # ------------------------------------------------------------ writing

    @rule(
        collection=COLLECTIONS, documents=DOCUMENTS, refresh=REFRESHES,
        only_if=st.sampled_from(["", "", "absent", "present"]),
    )  # fmt: skip
    def index(self, collection: str, documents: list[Document], refresh: str, only_if: str) -> None:
        documents = fitting(collection, documents)
        known = self.model[collection]
        wanted = [one for one in documents if not only_if
                  or (one["id"] in known) == (only_if == "present")]  # fmt: skip
        answer = self.store.write("index", collection, documents, only_if=only_if, refresh=refresh)
        assert answer["ids"] == [one["id"] for one in wanted]
        known.update((one["id"], one) for one in wanted)
        self.wrote(collection, refresh, answer)

    @rule(collection=COLLECTIONS, changes=CHANGES, refresh=REFRESHES, upsert=st.booleans())
    def update(self, collection: str, changes: list[Document], refresh: str, upsert: bool) -> None:
        changes = fitting(collection, changes)
        known = self.model[collection]
        if not upsert and any(one["id"] not in known for one in changes):
            with pytest.raises(InvalidArgument, match="no document"):
                self.store.write("update", collection, changes)
            return
        answer = self.store.write("update", collection, changes, upsert=upsert, refresh=refresh)
        assert answer["ids"] == [one["id"] for one in changes]
        for one in changes:
            merged = {**known.get(one["id"], {}), **one}
            known[one["id"]] = {name: value for name, value in merged.items() if value is not None}
        self.wrote(collection, refresh, answer)

    @rule(collection=COLLECTIONS, ids=st.sets(IDS, min_size=1, max_size=3), refresh=REFRESHES)
    def delete(self, collection: str, ids: set[str], refresh: str) -> None:
        there = ids & self.model[collection].keys()
        assert self.store.write("delete", collection, list(ids), refresh=refresh) == len(there)
        for name in there:
            del self.model[collection][name]
        self.wrote(collection, refresh)

    @rule(collection=COLLECTIONS, asked=clauses(), refresh=REFRESHES)
    def delete_by_query(self, collection: str, asked: Asked, refresh: str) -> None:
        known = self.model[collection]
        gone = [name for name, one in known.items() if asked.holds(one)]
        removed = self.handler.delete_by_query(collection, filter=asked.text, refresh=refresh)
        assert removed == len(gone)
        for name in gone:
            del known[name]
        self.pending.add(collection)

    @rule(collection=COLLECTIONS, documents=DOCUMENTS)
    def a_batch_with_a_wrong_document_is_refused(
        self, collection: str, documents: list[Document]
    ) -> None:
        documents = fitting(collection, documents)
        with pytest.raises(InvalidArgument, match="document 'wrong'"):
            self.store.index(collection, *documents, {"id": "wrong", "price": "dear"})

    # ------------------------------------------------------------ what goes on beside

    @rule(collection=COLLECTIONS)
    def rebuild(self, collection: str) -> None:
        self.store.write("rebuild", collection)

    @rule(collection=COLLECTIONS)
    def drop(self, collection: str) -> None:
        assert self.store.write("drop", collection) is True
        with pytest.raises(InvalidArgument, match="no collection"):
            self.store.ids(collection)
        self.version[collection] = 0
        self.make(collection)

    @rule()
    def restart(self) -> None:
        self.store.engine.close()
        self.reopen()

    # ------------------------------------------------------------ reading

    @rule(collection=COLLECTIONS)
    def documents_are_there(self, collection: str) -> None:
        known = {name: told(one) for name, one in self.model[collection].items()}
        found = {one["id"]: one for one in self.store.read("scan_page", collection)["documents"]}
        assert found == known
        assert self.store.read("get_many", collection, [*known, "never"]) == known
        info = self.store.read("info", collection)
        assert info["documents"] == len(known)

    @rule(
        collection=COLLECTIONS, asked=QUERIES, kept=st.just(EVERYTHING) | clauses(),
        mapped=st.booleans(), limit=st.integers(1, 8),
        sort=st.sampled_from([[], [["price", "asc"]], [["made", "desc"], ["title", "asc"]]]),
    )  # fmt: skip
    def query(
        self, collection: str, asked: Asked, kept: Asked, mapped: bool, limit: int, sort: Any
    ) -> None:
        self.settle(collection)
        known = self.model[collection]
        wanted = {name for name, one in known.items() if asked.holds(one) and kept.holds(one)}
        query, filters = (asked.mapping, kept.mapping) if mapped else (asked.text, kept.text)
        hits: list[dict[str, Any]] = []
        cursor = b""
        while True:
            page = self.store.read(
                "query", collection, query, filter=filters, limit=limit, cursor=cursor, sort=sort
            )
            assert page["total"] == len(wanted) and len(page["hits"]) <= limit
            hits += page["hits"]
            cursor = page["cursor"]
            if not cursor:
                break
        assert sorted(hit["id"] for hit in hits) == sorted(wanted)
        assert self.store.read("count", collection, query, filter=filters) == len(wanted)
        for hit in hits:
            assert hit["source"] == told(known[hit["id"]])
        if not sort:
            scores = [hit["score"] for hit in hits]
            assert scores == sorted(scores, reverse=True)
        else:
            self.in_order([known[hit["id"]] for hit in hits], sort)
        middle = self.store.read(
            "query", collection, query, filter=filters, limit=limit, offset=2, sort=sort
        )
        assert [one["id"] for one in middle["hits"]] == [one["id"] for one in hits][2 : 2 + limit]

    def in_order(self, documents: list[Document], sort: Any) -> None:
        """What has no value comes last."""

        def value(document: Document, name: str) -> Any:
            found = at(document) if name == "made" else document.get(name)
            return found

        found = list(documents)
        for name, direction in reversed(sort):
            present = [one for one in found if value(one, name) is not None]
            missing = [one for one in found if value(one, name) is None]
            present.sort(key=lambda one: value(one, name), reverse=direction == "desc")
            found = present + missing
        assert found == documents

    @rule(
        kept=st.just(EVERYTHING) | clauses(), limit=st.integers(1, 8),
        vector=st.tuples(st.integers(-3, 3), st.integers(-3, 3)),
    )  # fmt: skip
    def nearest(self, kept: Asked, vector: tuple[int, int], limit: int) -> None:
        self.settle("declared")
        away = {
            name: sum((one - other) ** 2 for one, other in zip(found["look"], vector, strict=True))
            for name, found in self.model["declared"].items()
            if "look" in found and kept.holds(found)
        }
        hits = self.store.read(
            "query", "declared", vector=list(vector), filter=kept.mapping, limit=limit
        )["hits"]
        assert [-away[hit["id"]] for hit in hits] == [-one for one in sorted(away.values())][:limit]
        assert [hit["score"] for hit in hits] == [-away[hit["id"]] for hit in hits]
        assert len({hit["id"] for hit in hits}) == len(hits)

    @rule(collection=COLLECTIONS, asked=QUERIES, mapped=st.booleans())
    def facets(self, collection: str, asked: Asked, mapped: bool) -> None:
        self.settle(collection)
        wanted = [one for one in self.model[collection].values() if asked.holds(one)]
        page = self.store.read(
            "query", collection, asked.mapping if mapped else asked.text, limit=0,
            facets={
                "tags": "tags",
                "sold": {"kind": "terms", "field": "sold"},
                "price": {"kind": "stats", "field": "price"},
                "cheap": {"kind": "ranges", "field": "price", "ranges": [[None, 2], [2, None]]},
            },
        )  # fmt: skip
        assert page["total"] == len(wanted)
        tags = Counter(tag for one in wanted for tag in set(texts(one, "tags")))
        found = page["facets"]
        assert dict(found["tags"]["values"]) == tags and not found["tags"]["other"]
        sold = Counter(one["sold"] for one in wanted if one.get("sold") is not None)
        assert dict(found["sold"]["values"]) == sold
        prices = [one["price"] for one in wanted if one.get("price") is not None]
        assert found["price"]["count"] == len(prices)
        if prices:
            assert found["price"]["min"] == min(prices) and found["price"]["max"] == max(prices)
            assert found["price"]["sum"] == sum(prices)
        cheap = sum(price < 2 for price in prices)
        assert [one[2] for one in found["cheap"]["ranges"]] == [cheap, len(prices) - cheap]


SearchMachine.TestCase.settings = settings(
    max_examples=300 if SOAK else 6, stateful_step_count=40, deadline=None
)
TestSearch = SearchMachine.TestCase
# Each step commits an index or two; a disk that is busy makes that slow.
pytestmark = pytest.mark.timeout(3600 if SOAK else 240)
