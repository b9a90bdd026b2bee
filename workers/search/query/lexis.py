"""The signs of query strings: what a word, a field, a range look like; escapes; showing a place."""

from __future__ import annotations

import re
from typing import Final
from unicodedata import east_asian_width

_END: Final = r"(?![^\s()（）\"“”＂])"
_BOOST: Final = r"\^([+-]?[\d.]+(?:e[+-]?\d+)?)"
_VALUE: Final = r'"(?:[^"\\]|\\.)*"|(?:[^\s\]}"\\]|\\.)+'

SPECIAL: Final = re.compile(
    r"[\\\"“＂()（）:：*~^]|(?<!\S)[+-](?=\S)|(?<!\S)(?:AND|OR|NOT|&&|\|\|)(?!\S)"
)
"""What a text does not have that is nothing but words."""
OPERATORS: Final = frozenset({"AND", "OR", "NOT", "&&", "||"})
AND: Final = re.compile(rf"\s*(?:AND|&&){_END}\s*")
OR: Final = re.compile(rf"\s*(?:OR|\|\|){_END}\s*")
SIGN: Final = re.compile(rf"\s*(?:([+-])(?![+\-\s)）]|\Z)|NOT{_END}\s*)")
FIELD: Final = re.compile(r"([^\W\d_][\w-]{0,63})([:：])")
NO_FIELD: Final = re.compile(r"//|:|[\s)）]|\Z")
"""What follows a colon behind a name that need not be one of a field."""
WORD: Final = re.compile(r"(?:[^\s\\\"“＂()（）]|\\.?)+", re.DOTALL)
SHAPING: Final = re.compile(r"[*~^]")
SHAPED: Final = re.compile(
    rf"((?:[^\\]|\\.|\\\Z)*?)(?:(\*)|~([\d.]*))?(?:{_BOOST})?", re.DOTALL | re.ASCII
)
"""A word with * or ~, and a boost."""
WEIGHED: Final = re.compile(rf"((?:[^\\]|\\.|\\\Z)+?)(?:{_BOOST})?", re.DOTALL | re.ASCII)
"""A value with a boost."""
STAR: Final = re.compile(r"(?:[^\\*]|\\.)*\*", re.DOTALL)
ENDING: Final = re.compile(rf"(?:~([\d.]+))?(?:{_BOOST})?", re.ASCII)
"""What follows directly upon a phrase, a group or a range."""
QUOTED: Final = {
    opening: re.compile(rf"{opening}((?:[^{closing}\\]|\\.)*){closing}", re.DOTALL)
    for opening, closing in ('""', "“”", "＂＂")
}
COMPARED: Final = re.compile(r"([><＞＜]?[=＝]|[><＞＜≥≤])\s*")
COMPARISONS: Final = str.maketrans({"≥": ">=", "≤": "<=", "＞": ">", "＜": "<", "＝": "="})
RANGE: Final = re.compile(rf"([\[{{])\s*({_VALUE})\s+TO\s+({_VALUE})\s*([\]}}])", re.DOTALL)
_ESCAPED: Final = re.compile(r"\\([^\w\s]|[\s_])")
_TO_ESCAPE: Final = re.compile(r"[\\\"“”＂()（）:：*~^]|^[+\-><=≥≤＞＜＝\[{]|\s")


def inner(quoted: str) -> str:
    """What stands in quotes, without the backslashes before signs."""
    return _ESCAPED.sub(r"\1", quoted) if "\\" in quoted else quoted


def unescaped(word: str) -> str:
    """A word without the backslashes before signs, spaces and operators."""
    if "\\" not in word:
        return word
    return word[1:] if word[1:] in OPERATORS else _ESCAPED.sub(r"\1", word)


def escaped(word: str) -> str:
    """What is written for a word, spaces and all."""
    if word in OPERATORS:
        return "\\" + word
    return _TO_ESCAPE.sub(r"\\\g<0>", word)


def quoted(text: str) -> str:
    """What is written for a phrase or a whole value."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def pointed(text: str, at: int, around: int = 32) -> str:
    """Two lines: the text around a place, and a caret under it."""
    start = max(0, at - around)
    before = ("..." if start else "") + _printable(text[start:at])
    after = _printable(text[at : at + around]) + ("..." if at + around < len(text) else "")
    width = sum(2 if east_asian_width(one) in "WF" else 1 for one in before)
    return f"  {before}{after}\n  {' ' * width}^"


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text)
