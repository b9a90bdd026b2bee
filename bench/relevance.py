"""How well the text index ranks: `python -m bench.relevance [--analyzer default]`.

Two collections in the folder that SAGE_BENCH_DATA names, both with judgements by people:
Vaswani (English abstracts; `vaswani/` in TREC markup) and CMRC 2018 (Chinese passages and questions
about them; a question's own passage is the one that is relevant). MAP is the mean average precision
of the first 1,000 results, nDCG@10 is of the first ten.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.harness import Unavailable
from workers.search.query.nodes import Match
from workers.search.schema import ANALYZERS, parse
from workers.search.text.index import TextReader, TextWriter

DEPTH = 1000


class Collection(NamedTuple):
    """Documents and queries by their numbers; for each query, the documents that are relevant."""

    name: str
    documents: Mapping[int, str]
    queries: Mapping[int, str]
    relevant: Mapping[int, set[int]]


def folder(name: str) -> Path:
    """Where a collection lies. Raises Unavailable."""
    data = os.environ.get("SAGE_BENCH_DATA")
    if not data:
        raise Unavailable("SAGE_BENCH_DATA does not name the folder with the collections")
    path = Path(data) / name
    if not path.is_dir():
        raise Unavailable(f"{path} does not exist")
    return path


def vaswani() -> Collection:
    """11,429 English abstracts, 93 queries."""
    path = folder("vaswani")
    relevant: dict[int, set[int]] = {}
    for line in (path / "qrels").read_text().splitlines():
        query, _, document, grade = map(int, line.split())
        if grade > 0:
            relevant.setdefault(query, set()).add(document)
    with gzip.open(path / "doc-text.trec.gz", "rt") as packed:
        documents = dict(_trec(packed.read(), r"<DOC>\s*<DOCNO>(\d+)</DOCNO>(.*?)</DOC>"))
    queries = dict(
        _trec((path / "query-text.trec").read_text(), r"<num>(\d+)</num>\s*<title>(.*?)</title>")
    )
    return Collection("Vaswani", documents, queries, relevant)


def cmrc() -> Collection:
    """848 Chinese passages, 3,219 questions."""
    with gzip.open(folder("cmrc2018") / "cmrc2018_dev.json.gz", "rt") as packed:
        articles = json.load(packed)["data"]
    documents: dict[int, str] = {}
    queries: dict[int, str] = {}
    relevant: dict[int, set[int]] = {}
    for paragraph in (one for article in articles for one in article["paragraphs"]):
        documents[len(documents) + 1] = paragraph["context"]
        for asked in paragraph["qas"]:
            queries[len(queries) + 1] = asked["question"]
            relevant[len(queries)] = {len(documents)}
    return Collection("CMRC 2018", documents, queries, relevant)


def average_precision(found: Sequence[int], relevant: set[int]) -> float:
    """The mean of the precision at each relevant document."""
    hits, total = 0, 0.0
    for rank, document in enumerate(found, 1):
        if document in relevant:
            hits += 1
            total += hits / rank
    return total / len(relevant)


def ndcg(found: Sequence[int], relevant: set[int], depth: int = 10) -> float:
    """The discounted gain of the first `depth`, as a share of the best there could be."""
    gain = sum(
        1 / math.log2(rank + 1) for rank, one in enumerate(found[:depth], 1) if one in relevant
    )
    best = sum(1 / math.log2(rank + 1) for rank in range(1, min(depth, len(relevant)) + 1))
    return gain / best


def measure(collection: Collection, analyzer: str) -> str:
    """Index and search a collection; a line of a table."""
    schema = parse({"text": {"kind": "text", "analyzer": analyzer}})
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "text"
        writer = TextWriter(path, schema)
        began = time.perf_counter()
        writer.apply(
            [], [(number, {"text": [one]}) for number, one in collection.documents.items()]
        )
        writer.commit()
        indexed = len(collection.documents) / (time.perf_counter() - began)
        reader = TextReader(path, schema)
        found = {
            number: reader.search(Match("text", text), limit=DEPTH, total=False).rows
            for number, text in collection.queries.items()
        }
        began = time.perf_counter()
        for text in collection.queries.values():
            reader.search(Match("text", text), limit=10, total=False)
        searched = len(collection.queries) / (time.perf_counter() - began)
        reader.close()
        writer.close()
    means = [
        sum(score(rows, collection.relevant[number]) for number, rows in found.items()) / len(found)
        for score in (average_precision, ndcg)
    ]
    return (
        f"{collection.name:10} {analyzer:9} {means[0]:7.4f} {means[1]:9.4f} "
        f"{indexed:10,.0f} {searched:10,.0f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--analyzer", choices=ANALYZERS, action="append")
    given = parser.parse_args()
    print(f"{'':10} {'analyzer':9} {'MAP':>7} {'nDCG@10':>9} {'docs/s':>10} {'queries/s':>10}")
    loaders: tuple[Callable[[], Collection], ...] = (vaswani, cmrc)
    for load in loaders:
        collection = load()
        for analyzer in given.analyzer or ANALYZERS:
            print(measure(collection, analyzer), flush=True)


def _trec(text: str, pattern: str) -> Iterator[tuple[int, str]]:
    for number, content in re.findall(pattern, text, re.DOTALL):
        yield int(number), content.strip()


if __name__ == "__main__":
    main()
