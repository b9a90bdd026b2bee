"""Words, vectors and both: `python -m bench.hybrid [--numbers 200]`; see `bench.relevance`.

No model is at hand, so vectors are made by latent semantic analysis of the collection itself: the
leading singular vectors of its term-document matrix (logarithmic counts times inverse document
frequency), into which queries are folded. Such vectors are worse than words on some collections and
better on others: a fusion has to bear both.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.relevance import Collection, cmrc, ndcg, vaswani
from mesh.protocol.search import WEIGHTS
from workers.search.fusion import Leg, by_ranks, by_scores
from workers.search.query.nodes import Match
from workers.search.schema import Field, parse
from workers.search.text.analysis import tokens
from workers.search.text.index import TextReader, TextWriter
from workers.search.vectors.index import VectorReader, VectorWriter

Floats = npt.NDArray[np.float32]
DEPTH = 100
PASSES = 4


class Encoder:
    """Latent semantic analysis, fitted on texts."""

    def __init__(self, texts: Sequence[str], numbers: int) -> None:
        words = [[token.text for token in tokens(text, "default")] for text in texts]
        self._terms = {
            term: at for at, term in enumerate(sorted({w for one in words for w in one}))
        }
        counts = self._counts(words)
        known = np.maximum(1, (counts > 0).sum(axis=0))
        self._weights = np.log(len(texts) / known).astype(np.float32)
        matrix = counts * self._weights
        matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-9)
        rng = np.random.default_rng(0)
        basis = rng.standard_normal((len(self._terms), numbers + 40)).astype(np.float32)
        for _ in range(PASSES):  # subspace iteration: a full decomposition takes minutes
            basis, _ = np.linalg.qr(matrix.T @ (matrix @ basis))
        _, _, turned = np.linalg.svd(matrix @ basis, full_matrices=False)
        self._basis = basis @ turned.T[:, :numbers]

    def __call__(self, texts: Sequence[str]) -> Floats:
        """A vector for each text."""
        words = [[token.text for token in tokens(text, "default")] for text in texts]
        found: Floats = (self._counts(words) * self._weights) @ self._basis
        return found.astype(np.float32)

    def _counts(self, texts: Sequence[Sequence[str]]) -> Floats:
        counts = np.zeros((len(texts), len(self._terms)), np.float32)
        for at, words in enumerate(texts):
            for word in words:
                if word in self._terms:
                    counts[at, self._terms[word]] += 1
        return np.log1p(counts)


Ranking = Callable[[Leg, Leg], list[tuple[int, float]]]
EVEN = {"text": 1.0, "vector": 1.0}
RANKINGS: Mapping[str, Ranking] = {
    "words": lambda text, vector: list(zip(*text, strict=True)),
    "vectors": lambda text, vector: list(zip(*vector, strict=True)),
    "by scores": lambda text, vector: by_scores({"text": text, "vector": vector}, WEIGHTS, DEPTH),
    "by ranks": lambda text, vector: by_ranks({"text": text, "vector": vector}, WEIGHTS),
    "by ranks, even": lambda text, vector: by_ranks({"text": text, "vector": vector}, EVEN),
}


def legs(collection: Collection, numbers: int) -> dict[int, tuple[Leg, Leg]]:
    """What words and vectors find for each query."""
    encoder = Encoder(list(collection.documents.values()), numbers)
    field = Field("v", "vector", dimension=numbers)
    schema = parse({"text": "text"})
    with tempfile.TemporaryDirectory() as folder:
        texts, vectors = Path(folder) / "text", Path(folder) / "vectors"
        writers: list[Any] = [TextWriter(texts, schema), VectorWriter(vectors, field)]
        documents = collection.documents
        writers[0].apply([], [(number, {"text": [one]}) for number, one in documents.items()])
        encoded = encoder(list(documents.values()))
        pairs = zip(documents, encoded, strict=True)
        writers[1].apply([], [(number, one.tobytes()) for number, one in pairs if one.any()])
        for writer in writers:
            writer.commit()
        by_text, by_vector = TextReader(texts, schema), VectorReader(vectors, field)
        found: dict[int, tuple[Leg, Leg]] = {}
        queries = encoder(list(collection.queries.values()))
        for (number, text), vector in zip(collection.queries.items(), queries, strict=True):
            hits = by_text.search(Match("text", text), limit=DEPTH, total=False)
            near = by_vector.search(vector, DEPTH) if vector.any() else ([], [])
            found[number] = Leg(hits.rows, hits.scores), Leg(*near)
        for one in (*writers, by_text, by_vector):
            one.close()
    return found


def measure(collection: Collection, numbers: int) -> dict[str, float]:
    """The mean nDCG@10 of each ranking."""
    found = legs(collection, numbers)
    return {
        name: sum(
            ndcg([row for row, _ in ranking(*both)], collection.relevant[number])
            for number, both in found.items()
        )
        / len(found)
        for name, ranking in RANKINGS.items()
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, action="append", help="of a vector (100 and 300)")
    given = parser.parse_args()
    print(f"{'nDCG@10':18}", *(f"{name:>15}" for name in RANKINGS))
    for load in (vaswani, cmrc):
        collection = load()
        for numbers in given.numbers or (100, 300):
            figures = measure(collection, numbers)
            name = f"{collection.name}, {numbers}"
            print(f"{name:18}", *(f"{figures[one]:15.4f}" for one in RANKINGS), flush=True)


if __name__ == "__main__":
    main()
