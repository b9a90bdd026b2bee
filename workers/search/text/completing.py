"""How a word, or a whole value, may go on."""

from __future__ import annotations

from typing import Any, Final

import tantivy

from mesh.errors import InvalidArgument
from workers.search.schema import TEXT, Field
from workers.search.text import analysis
from workers.search.text.columns import WHOLE, whole_of, words_of

Q: Final = tantivy.Query


def completions(
    searcher: Any, field: Field, prefix: str, limit: int, query: Any
) -> list[tuple[str, int]]:
    """Words of texts, whole values of other fields, that begin with `prefix`, with the number of
    documents that have them among what `query` finds (None: all); the most frequent first.

    Of a text with several words the last one is completed; Chinese ones go up to the next sign
    or space.

    Raises:
        InvalidArgument: the field holds no texts.
    """
    if limit < 1:
        return []
    if field.kind == TEXT:
        column, before, last = words_of(field.name), *_last_word(prefix)
    elif field.kind in WHOLE:
        column, before, last = whole_of(field), "", prefix
    else:
        raise InvalidArgument(f"field {field.name!r} is a {field.kind}: only texts are completed")
    # Without a query the words of documents that were removed would count.
    found = searcher.terms_with_prefix(column, last, query or Q.all_query(), limit)
    return [(before + word, many) for word, many in found]


def _last_word(prefix: str) -> tuple[str, str]:
    """What comes before the last word, as it was given, and that word as the column has it."""
    spelt = analysis.tokens(prefix, "plain")
    if not spelt or prefix[-1:].isspace():
        return prefix, ""
    begin = spelt[-1].start
    for one, after in zip(reversed(spelt[:-1]), reversed(spelt), strict=False):
        if not (after.joined and after.start == begin):
            break
        begin = one.start
    words = analysis.whole_words(prefix[begin:], "plain")
    return prefix[:begin], words[-1] if words else ""
