"""What is computed for a text. Plain functions: the service and the check both use them."""

from __future__ import annotations

import builtins
import hashlib
import keyword
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

_WORD = re.compile(r"[^\W\d]\w*")
_DEFINITION = re.compile(r"^[ \t]*(async def|def|class)[ \t]+(\w+)", re.MULTILINE)
_KNOWN = frozenset(keyword.kwlist) | frozenset(dir(builtins))
COMMON = 10


def profile(text: str) -> dict[str, Any]:
    """Size, shape and checksum of one text."""
    lines = text.splitlines()
    stripped = [line.strip() for line in lines]
    octets = text.encode()
    return {
        "octets": len(octets),
        "compressed": len(zlib.compress(octets, 9)),
        "lines": len(lines),
        "blank": stripped.count(""),
        "comments": sum(line.startswith("#") for line in stripped),
        "characters": len(text),
        "longest": max(map(len, lines), default=0),
        "words": len(_WORD.findall(text)),
        "digest": hashlib.sha256(octets).hexdigest(),
    }


def keywords(text: str) -> dict[str, int]:
    """How often the text uses each of Python's own names."""
    return dict(Counter(word for word in _WORD.findall(text) if word in _KNOWN))


def outline(text: str) -> Iterator[list[Any]]:
    """Each definition of the text: `[line, kind, name]`."""
    line, at = 1, 0
    for found in _DEFINITION.finditer(text):
        start = found.start(1)
        line += text.count("\n", at, start)
        at = start
        yield [line, found[1], found[2]]


def vocabulary(texts: Iterable[str]) -> dict[str, Any]:
    """The names in all texts together: how many different ones, and the most common."""
    counts: Counter[str] = Counter()
    number = 0
    for text in texts:
        counts.update(_WORD.findall(text))
        number += 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {
        "texts": number,
        "words": counts.total(),
        "distinct": len(counts),
        "common": [[word, times] for word, times in ranked[:COMMON]],
    }
