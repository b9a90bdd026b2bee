"""Which words tell most of some texts: frequent in them, rare among the documents (tf-idf)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

MOST: Final = 25
"""Words that are picked."""

Word: TypeAlias = tuple[str, str]
"""A column, and a word of it."""


def telling(
    words: Iterable[Word], frequency: Callable[[str, str], int], documents: int
) -> list[Word]:
    """The most telling of the words of some texts.

    `frequency` is in how many of the `documents` a column has a word.
    """
    weights: dict[Word, float] = {}
    for word, count in Counter(words).items():
        known = frequency(*word)
        if known:
            weights[word] = count * math.log(1 + documents / known)
    return sorted(weights, key=lambda word: (-weights[word], word))[:MOST]
