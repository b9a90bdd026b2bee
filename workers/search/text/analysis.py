"""How texts become words: the same for what is indexed, asked for and highlighted.

A text is first made `normal`: full-width and other compatibility forms become the usual ones,
traditional Chinese characters simplified ones, and each Chinese or Japanese character stands
between marks, so that a plain tokenizer (runs of letters and digits) takes it as a word. Words are
then put in lower case; the analyzers `default` and `jieba` reduce them to English stems.

Each text field has a second column of its words as they are, without stems, and with the runs of
Chinese characters whole (`jieba`: cut into words by its dictionary): for prefixes, misspellings,
completions. A third one has each two characters that stand side by side; they rank Chinese texts as
well as words of a dictionary do. `jieba` ranks by its words instead.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, Final, NamedTuple

import opencc
import tantivy

from mesh.errors import ConfigError
from workers.search.text import stems

VERSION: Final = 1
"""Goes up when a text becomes other words than before; indexes are then built anew."""
LONGEST: Final = 100
"""Octets up to which a word is searched."""

MARK: Final = "\x1f"
_JOINT: Final = MARK + MARK
# Ideographs and their radicals, kana, and the compatibility and supplementary ranges.
_IDEOGRAPHS: Final = (
    (0x2E80, 0x2FE0), (0x3005, 0x3008), (0x3040, 0x3100), (0x31F0, 0x3200), (0x3400, 0x4DC0),
    (0x4E00, 0xA000), (0xF900, 0xFB00), (0xFF66, 0xFFA0), (0x20000, 0x323B0),
)  # fmt: skip
_HANGUL: Final = range(0xAC00, 0xD7B0)
_SURROGATES: Final = range(0xD800, 0xE000)


class Token(NamedTuple):
    """A word of a text: as it is indexed, its place among the words, and where it stands."""

    text: str
    position: int
    start: int
    end: int
    joined: bool = False
    """A character that follows upon another one, with nothing between them."""
    character: bool = False
    """A Chinese or Japanese character, not a word of letters."""


def normal(text: str) -> str:
    """The text in its usual forms, with marks about each Chinese or Japanese character."""
    if text.isascii():
        return text.replace(MARK, " ")
    found = text.translate(_table())
    return found if unicodedata.is_normalized("NFC", found) else unicodedata.normalize("NFC", found)


def words(normalized: str, analyzer: str) -> str:
    """The text of the column of whole words, of a normalized text."""
    if MARK not in normalized:
        return normalized
    found = normalized.replace(_JOINT, "")
    return _cut(found) if analyzer == "jieba" else found


def pairs(normalized: str) -> list[str]:
    """The texts of the column of pairs: the runs of characters, of a normalized text."""
    if MARK not in normalized:
        return []
    return [run for run in normalized.replace(_JOINT, "").split(MARK)[1::2] if len(run) > 1]


def tokens(text: str, analyzer: str) -> list[Token]:
    """The words of a text, with their places in the text as it was given."""
    found = normal(text)
    spelt = _marked(found, _full(analyzer))
    if found is text:
        return list(spelt)
    begins, ends = _places(text, found)
    return [one._replace(start=begins[one.start], end=ends[one.end - 1]) for one in spelt]


def asked(text: str, analyzer: str) -> list[Token]:
    """The words of a text that is looked for, in the places of its normal form.

    Frequent English words are left out unless there are no others; `plain` has no such words.
    """
    found = normal(text)
    kept = list(_marked(found, _telling(analyzer)))
    return kept or list(_marked(found, _full(analyzer)))


def asked_ascii(text: str, analyzer: str) -> list[str]:
    """What the words of `asked` are, for a text of ASCII alone; in a fraction of the time."""
    found = normal(text)
    words: list[str] = _telling(analyzer).analyze(found) or _full(analyzer).analyze(found)
    return words


def phrase(text: str, analyzer: str) -> list[Token]:
    """All words of a text that is looked for, in the places of its normal form."""
    return list(_marked(normal(text), _full(analyzer)))


def runs(words: Iterable[Token]) -> list[list[Token]]:
    """Each word alone, characters side by side together."""
    found: list[list[Token]] = []
    for one in words:
        if one.joined:
            found[-1].append(one)
        else:
            found.append([one])
    return found


def whole_words(text: str, analyzer: str) -> list[str]:
    """The words of a text without stems, as the column of whole words has them."""
    return list(_plain().analyze(words(normal(text), analyzer)))


def stem(word: str, analyzer: str) -> str:
    """A whole word as the analyzer indexes it."""
    found = _full(analyzer).analyze(word)
    return found[0] if found else word


def indexed(analyzer: str) -> Callable[[str], stems.Columns]:
    """What makes the texts of both columns of a normalized text; for one thread at a time."""
    if analyzer == "plain":
        return lambda normalized: (normalized, words(normalized, analyzer))
    simple = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).build()
    reduced = stems.reducer(simple, lambda word: stem(word, analyzer), LONGEST)

    def columns(normalized: str) -> stems.Columns:
        found, spelt = reduced(normalized)
        # Characters are taken together there, and the words of `jieba` are counted.
        apart = analyzer == "jieba" or MARK in normalized
        return found, words(normalized, analyzer) if apart else spelt

    return columns


def native(analyzer: str) -> dict[str, Any]:
    """The analyzers of tantivy, by the names that the functions below give them.

    None makes stems: what is indexed is stems already, with spaces between them.
    """
    return {
        column(analyzer): _plain() if analyzer == "plain" else _spaced(),
        words_column(analyzer): _plain(),
        pairs_column(): tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.ngram(2, 2)).build(),
    }


def column(analyzer: str) -> str:
    """The name of the analyzer of a field's text."""
    return f"{analyzer}-{VERSION}"


def words_column(analyzer: str) -> str:
    """The name of the analyzer of a field's whole words."""
    return f"{analyzer}-words-{VERSION}"


def pairs_column() -> str:
    """The name of the analyzer of a field's pairs of characters."""
    return f"pairs-{VERSION}"


def _marked(found: str, analyzer: Any) -> Iterator[Token]:
    """The words of a normal text; `joined` tells which characters stand side by side."""
    ends = -2
    for one in analyzer.pre_tokenize(found).tokens:
        start, end = one.char_offset_from, one.char_offset_to
        character = found[end : end + 1] == MARK and start > 0 and found[start - 1] == MARK
        yield Token(one.text, one.position, start, end, character and start == ends + 2, character)
        ends = end if character else -2


def _places(text: str, found: str) -> tuple[list[int], list[int]]:
    """Where each character of the normal text comes from: begins and ends in the text."""
    table = _table()
    begins: list[int] = []
    made: list[str] = []
    for at, one in enumerate(text):
        new = table.get(ord(one), one)
        made.append(new)
        begins.extend([at] * len(new))
    ends = [at + 1 for at in begins]
    usual = "".join(made)
    if usual == found:
        return begins, ends
    # Marks were composed with their letters, or put into order: they come from all of them.
    composed: tuple[list[int], list[int]] = ([], [])
    for begin, end in _clusters(usual):
        length = len(unicodedata.normalize("NFC", usual[begin:end]))
        composed[0].extend([begins[begin]] * length)
        composed[1].extend([ends[end - 1]] * length)
    return composed


def _clusters(text: str) -> Iterator[tuple[int, int]]:
    """Where each letter begins and its combining marks end."""
    begin = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or not _combines(text[at]):
            yield begin, at
            begin = at


def _combines(one: str) -> bool:
    return bool(unicodedata.combining(one)) or 0x1160 <= ord(one) < 0x1200


@cache
def _table() -> dict[int, str]:
    """What each character becomes, by its number."""
    table = {ord(MARK): " "}
    for number in range(0x80, _IDEOGRAPHS[-1][1]):
        if number not in _HANGUL and number not in _SURROGATES:
            usual = unicodedata.normalize("NFKC", chr(number))
            if usual != chr(number):
                table[number] = usual
    characters = [chr(one) for low, high in _IDEOGRAPHS for one in range(low, high)]
    # Its dictionary of single characters, through the one call that there is.
    simplified = dict(
        zip(
            characters, opencc.OpenCC("t2s").convert("\n".join(characters)).split("\n"), strict=True
        )
    )
    for one in characters:
        usual = table.get(ord(one), one)
        if usual.isalnum():
            table[ord(one)] = "".join(f"{MARK}{simplified.get(c, c)}{MARK}" for c in usual)
    return table


@cache
def _full(analyzer: str) -> Any:
    """The analyzer of tantivy that takes normal texts apart."""
    return _build(*(() if analyzer == "plain" else (tantivy.Filter.stemmer("english"),)))


@cache
def _telling(analyzer: str) -> Any:
    """The same, without frequent English words."""
    if analyzer == "plain":
        return _full(analyzer)
    return _build(tantivy.Filter.stopword("english"), tantivy.Filter.stemmer("english"))


@cache
def _plain() -> Any:
    return _build()


@cache
def _spaced() -> Any:
    """The analyzer of the texts that `indexed` makes."""
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
    return builder.filter(tantivy.Filter.remove_long(LONGEST)).build()


def _build(*filters: Any) -> Any:
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for one in (tantivy.Filter.remove_long(LONGEST), tantivy.Filter.lowercase(), *filters):
        builder = builder.filter(one)
    return builder.build()


def _cut(text: str) -> str:
    """The text with its runs of characters, between marks, cut into words."""
    cut = _jieba()
    parts = text.split(MARK)
    parts[1::2] = [" ".join(cut(run)) for run in parts[1::2]]
    return " ".join(parts)


def require(analyzer: str) -> None:
    """See to it that the analyzer can be used here.

    Raises:
        ConfigError: a package is missing; the message names the extra that brings it.
    """
    if analyzer == "jieba":
        _jieba()


@cache
def _jieba() -> Callable[[str], list[str]]:
    try:
        import rjieba
    except ModuleNotFoundError:
        raise ConfigError(
            "the analyzer jieba needs the package rjieba: pip install 'sage-mesh[jieba]', "
            "or use the analyzer default, which needs no dictionary"
        ) from None
    cut: Callable[[str], list[str]] = rjieba.cut_for_search
    return cut
