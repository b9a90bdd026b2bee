"""Texts as the stems of their words, made here so that tantivy need not stem each word anew.

Texts have few different words: each is stemmed once. What comes out has spaces between the stems,
and one for each word of the text, in its place: also for those that are too long to be searched,
which the analyzer of the column leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

try:
    from workers.search.text._stems import Table
except ImportError:  # not compiled
    COMPILED = False
else:
    COMPILED = True

MOST: Final = 100_000
"""Different words that are remembered."""
LONG: Final = 64
"""Characters from which on a word is not remembered."""
_CHUNKS: Final = re.compile(r"[^\x00-/:-@\[-`{-\x7f]+")
"""All but the signs of ASCII, which stand between words."""

Columns = tuple[str, str]
"""The stems of a text in its order, and its words, each at least once."""


class Plain(dict[str, str]):
    """The stems of what stands between signs of ASCII: one word, or what the analyzer makes of it.

    `words` is the analyzer without stems that takes any word, `stem` gives a word's; words of
    `longest` octets are left out by the analyzer of the column.
    """

    def __init__(self, words: Any, stem: Callable[[str], str], longest: int) -> None:
        self._words = words
        self._stem = stem
        self._gap = "x" * longest
        self._longest = longest

    def columns(self, text: str) -> Columns:
        """The columns of a text."""
        found = _CHUNKS.findall(text)
        if len(self) >= MOST:
            self.clear()
        stems = " ".join(map(self.__getitem__, found))
        return stems, " ".join(dict.fromkeys(found)) if text.isascii() else text

    def __missing__(self, chunk: str) -> str:
        if chunk.isascii():
            made = self._of(chunk)
        else:
            made = " ".join(map(self._of, self._words.analyze(chunk)))
        if len(chunk) < LONG:
            self[chunk] = made
        return made

    def _of(self, word: str) -> str:
        short = len(word.encode(errors="replace")) < self._longest
        return self._stem(word) if short else self._gap


def reducer(words: Any, stem: Callable[[str], str], longest: int) -> Callable[[str], Columns]:
    """What makes the columns of a text; for one thread at a time."""
    plain = Plain(words, stem, longest)
    if not COMPILED:
        return plain.columns
    quick = Table(stem, longest, MOST).columns

    def columns(text: str) -> Columns:
        found: Columns = quick(text) or plain.columns(text)
        return found

    return columns
