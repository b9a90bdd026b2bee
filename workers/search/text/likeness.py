"""Which words tell most of a text: frequent in it, rare among the documents (tf-idf)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from workers.search.text import analysis

MOST: Final = 25
"""Words that are picked."""
READ: Final = 20_000
"""Characters of all texts together that are looked at."""


def telling(
    texts: Iterable[str], analyzer: str, frequency: Callable[[str], int], documents: int
) -> list[list[str]]:
    """The most telling words; two Chinese characters side by side are taken as a word.

    `frequency` is in how many of the `documents` a word is.
    """
    counts = _counted(texts, analyzer)
    known: dict[str, float] = {}

    def rarity(word: str) -> float:
        if word not in known:
            found = frequency(word)
            known[word] = math.log(1 + documents / found) if found else 0.0
        return known[word]

    def weight(words: tuple[str, ...]) -> float:
        each = [rarity(word) for word in words]
        return counts[words] * sum(each) if all(each) else 0.0

    weights = {words: weight(words) for words in counts}
    best = sorted(weights, key=lambda words: (-weights[words], words))[:MOST]
    return [list(words) for words in best if weights[words]]


def _counted(texts: Iterable[str], analyzer: str) -> Counter[tuple[str, ...]]:
    counts: Counter[tuple[str, ...]] = Counter()
    left = READ
    for text in texts:
        before = ""
        for one in analysis.asked(text[:left], analyzer):
            if one.joined:
                counts[before, one.text] += 1
            elif not one.character:
                counts[one.text,] += 1
            before = one.text
        left -= len(text)
        if left <= 0:
            break
    return counts
