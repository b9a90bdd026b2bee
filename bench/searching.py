"""What is searched, and by whom: `python -m bench.searching KIND ADDRESS [options]`.

mesh      the search service: bulk loading, queries one at a time and several in flight
tantivy   the same in this process, as its readme shows it
columns   the same with the columns that the service makes of a text, and one thread
sqlite    the same with FTS5, in a file
vectors   nearest vectors through the mesh, and with usearch in this process
many      a million short documents: memory, disk, the time of a query
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tantivy
import usearch.index

from bench import loops
from bench.harness import Figures, processor_time
from mesh import connect, connect_async
from mesh.client.search import text, vector

COLLECTION = "docs"
FIELDS = {"body": text()}
WORDS = 30_000
QUERIES = 20_000
"""More than a service remembers, so that what is measured is no memory of queries."""
WINDOW = 16
HEAP = 64 * 1024 * 1024
"""Octets that the service's writer of an index gathers."""
SIZE, NEAREST = 64, 10


class Corpus:
    """Texts whose words are as frequent as in real ones (Zipf), and queries of two or three."""

    def __init__(self, count: int, words: int = 40, seed: int = 1) -> None:
        source = random.Random(seed)
        letters = "etaoinshrdlucmfwypvbgk"
        self.names = ["".join(source.choices(letters, k=source.randrange(3, 10)))
                      for _ in range(WORDS)]  # fmt: skip
        ranks = np.random.default_rng(seed).zipf(1.2, size=(count, words)) % WORDS
        self.documents = [
            {"id": f"d{number}", "body": " ".join([self.names[rank] for rank in row])}
            for number, row in enumerate(ranks)
        ]
        self.queries = [
            " ".join(source.choices(self.names[20:3000], k=source.randrange(2, 4)))
            for _ in range(QUERIES)
        ]

    def asking(self) -> Callable[[], str]:
        """The queries, over and over."""
        number = -1

        def ask() -> str:
            nonlocal number
            number += 1
            return self.queries[number % len(self.queries)]

        return ask


async def measured(
    ask: Callable[[], Awaitable[object]], seconds: float, service: int
) -> tuple[float, float]:
    """Queries/s with 16 in flight, and queries per second of the service's processor time."""
    done = 0

    async def counted() -> None:
        nonlocal done
        await ask()
        done += 1

    before = processor_time(service)
    rate = (await loops.in_flight(counted, [WINDOW], seconds))[str(WINDOW)]
    return rate, done / max(0.01, processor_time(service) - before)


def mesh(address: str, corpus: Corpus, seconds: float, calls: int, service: int) -> Figures:
    """Load, then ask: documents/s, latencies in us, queries/s."""
    with connect(address, timeout=120.0) as m:
        m.search.create(COLLECTION, FIELDS, dynamic=False)
        begun = time.perf_counter()
        m.search.load(COLLECTION, corpus.documents, batch=1000, refresh="wait")
        figures = {"load": len(corpus.documents) / (time.perf_counter() - begun)}
        ask = corpus.asking()
        empty = loops.one_at_a_time_blocking(lambda: m.call("bench.get", "x"), calls)
        one = loops.one_at_a_time_blocking(lambda: m.search.query(COLLECTION, ask()), calls)
        figures |= {
            "p50": one["p50"], "p99": one["p99"], "empty call p50": empty["p50"],
            "p50 less 1.2 empty calls": one["p50"] - 1.2 * empty["p50"],
        }  # fmt: skip

    async def several() -> tuple[float, float]:
        async with connect_async(address) as client:
            return await measured(lambda: client.search.query(COLLECTION, ask()), seconds, service)

    figures["queries/s"], figures["queries/s of a core"] = asyncio.run(several())
    return figures


def in_process(corpus: Corpus, load: Callable[[], None], ask_one: Callable[[str], Any],
               seconds: float, calls: int) -> Figures:  # fmt: skip
    """The same without a mesh."""
    begun = time.perf_counter()
    load()
    figures = {"load": len(corpus.documents) / (time.perf_counter() - begun)}
    ask = corpus.asking()
    one = loops.one_at_a_time_blocking(lambda: ask_one(ask()), calls)
    figures |= {"p50": one["p50"], "p99": one["p99"]}
    begun, done = time.perf_counter(), 0
    while time.perf_counter() < begun + seconds:
        ask_one(ask())
        done += 1
    figures["queries/s"] = done / (time.perf_counter() - begun)
    figures["queries/s of a core"] = figures["queries/s"]
    return figures


def in_tantivy(corpus: Corpus, seconds: float, calls: int) -> Figures:
    """tantivy as its readme shows it: English stems, documents kept in it; on disk."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("id", stored=True, tokenizer_name="raw")
    builder.add_text_field("body", stored=True, tokenizer_name="en_stem")
    return _tantivy(builder.build(), (), ("body",), corpus, seconds, calls)


def in_columns(corpus: Corpus, seconds: float, calls: int) -> Figures:
    """tantivy with the columns of the service: rows, stems, whole words; documents kept in it."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("id", stored=True, tokenizer_name="raw")
    builder.add_text_field("body", stored=True, tokenizer_name="en_stem")
    builder.add_text_field("words", index_option="basic")
    builder.add_text_field("has", tokenizer_name="raw", index_option="basic")
    builder.add_integer_field("row", indexed=True, fast=True)
    return _tantivy(builder.build(), (HEAP, 1), ("body", "words"), corpus, seconds, calls)


def _tantivy(schema: Any, writing: tuple[int, ...], fields: Sequence[str], corpus: Corpus,
             seconds: float, calls: int) -> Figures:  # fmt: skip
    """`writing`: the heap and the threads of the writer; `fields`: those that get the text."""
    with tempfile.TemporaryDirectory() as folder:
        index = tantivy.Index(schema, folder)
        marked = len(fields) > 1

        def load() -> None:
            writer = index.writer(*writing)
            for row, one in enumerate(corpus.documents):
                document = tantivy.Document(id=[one["id"]])
                for field in fields:
                    document.add_text(field, one["body"])
                if marked:
                    document.add_text("has", "body")
                    document.add_integer("row", row)
                writer.add_document(document)
            writer.commit()
            writer.wait_merging_threads()
            index.reload()

        def ask_one(query: str) -> list[Any]:
            searcher = index.searcher()
            found = searcher.search(index.parse_query(query, ["body"]), 10)
            return [searcher.doc(address).to_dict() for _, address in found.hits]

        return in_process(corpus, load, ask_one, seconds, calls)


def in_sqlite(corpus: Corpus, seconds: float, calls: int) -> Figures:
    """FTS5 with English stems, in a file, flushed."""
    with tempfile.TemporaryDirectory() as folder:
        base = sqlite3.connect(str(Path(folder) / "docs.db"))
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("PRAGMA synchronous=FULL")
        base.execute("CREATE VIRTUAL TABLE docs USING fts5(id UNINDEXED, body, tokenize=porter)")

        def load() -> None:
            base.executemany("INSERT INTO docs VALUES (:id, :body)", corpus.documents)
            base.commit()

        def ask_one(query: str) -> list[Any]:
            return base.execute(
                "SELECT id, body, bm25(docs) AS score FROM docs WHERE docs MATCH ? "
                "ORDER BY score LIMIT 10",
                (" OR ".join(query.split()),),
            ).fetchall()

        try:
            return in_process(corpus, load, ask_one, seconds, calls)
        finally:
            base.close()


def settled(service: int, least: float = 4.0, most: float = 60.0) -> None:
    """Return once the service has nothing more to do: after `least` seconds, and one at rest."""
    time.sleep(least)
    for _ in range(int(most)):
        before = processor_time(service)
        time.sleep(1.0)
        if processor_time(service) - before < 0.05:
            return


def vectors(address: str, count: int, seconds: float, service: int) -> Figures:
    """Queries/s for the ten nearest of clustered vectors, through the mesh and in process.

    Through the mesh right after the load, while graphs are still being built, and once they are.
    """
    source = np.random.default_rng(1)
    centres = source.normal(size=(100, SIZE))
    made = centres[source.integers(100, size=count)] + 0.4 * source.normal(size=(count, SIZE))
    data = made.astype("<f4")
    asked = (data[source.integers(count, size=500)] + 0.1).astype("<f4")
    number = -1

    def ask() -> Any:
        nonlocal number
        number += 1
        return asked[number % len(asked)]

    with connect(address, timeout=120.0) as m:
        m.search.create("near", {"at": vector(SIZE)}, dynamic=False)
        rows = ({"id": f"d{at}", "at": row.tobytes()} for at, row in enumerate(data))
        m.search.load("near", rows, batch=1000, refresh="wait")

    async def several() -> tuple[float, float]:
        async with connect_async(address) as client:
            return await measured(
                lambda: client.search.query("near", vector=ask().tobytes(), source=False),
                seconds, service,
            )  # fmt: skip

    at_once = asyncio.run(several())
    settled(service)
    later = asyncio.run(several())
    figures = {
        "at once": at_once[0], "at once, of a core": at_once[1],
        "settled": later[0], "settled, of a core": later[1],
    }  # fmt: skip
    index = usearch.index.Index(ndim=SIZE, metric="cos", dtype="f32")
    index.add(np.arange(count, dtype=np.uint64), data)
    begun, done = time.perf_counter(), 0
    while time.perf_counter() < begun + seconds:
        index.search(ask(), NEAREST)
        done += 1
    figures["usearch"] = done / (time.perf_counter() - begun)
    return figures


def many(address: str, count: int, calls: int) -> Figures:
    """Documents of eight words: how fast they come in, how long a query takes among them."""
    corpus = Corpus(count, words=8)
    with connect(address, timeout=300.0) as m:
        m.search.create(COLLECTION, FIELDS, dynamic=False)
        begun = time.perf_counter()
        m.search.load(COLLECTION, corpus.documents, batch=1000, refresh="wait")
        taken = time.perf_counter() - begun
        ask = corpus.asking()
        one = loops.one_at_a_time_blocking(lambda: m.search.query(COLLECTION, ask()), calls)
    return {"load": count / taken, "p50": one["p50"], "p99": one["p99"]}


IN_PROCESS = {"tantivy": in_tantivy, "columns": in_columns, "sqlite": in_sqlite}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("mesh", *IN_PROCESS, "vectors", "many"))
    parser.add_argument("address")
    parser.add_argument("--count", type=int, default=30_000)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--service", type=int, default=0, help="its process")
    options = parser.parse_args()
    given = (options.seconds, options.calls)
    if options.kind == "vectors":
        result = vectors(options.address, options.count, options.seconds, options.service)
    elif options.kind == "many":
        result = many(options.address, options.count, options.calls)
    else:
        texts = Corpus(options.count)
        if options.kind == "mesh":
            result = mesh(options.address, texts, *given, options.service)
        else:
            result = IN_PROCESS[options.kind](texts, *given)
    print(json.dumps(result))
