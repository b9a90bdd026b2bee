"""Stems that are made before a text is indexed: those that queries look for, in their places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.search.schema import parse
from workers.search.text import analysis, stems
from workers.search.text.columns import adders

PIECES = st.sampled_from(
    ["Running ", "skies", "SKIES ", "x" * 99, "y" * 100, "Z" * 300, "a_b2", "it's ", "naïve ",
     "缓存", "“quoted”", "word—word ", "İstanbul ", "é" * 60, "कहानी ", "\n", "-"]
) | st.text(max_size=3)  # fmt: skip
FORMS = [pytest.param(False, id="plain")]
if stems.COMPILED:
    FORMS.append(pytest.param(True, id="compiled"))


def placed(analyzer: Any, text: str) -> list[tuple[int, str]]:
    return [(one.position, one.text) for one in analyzer.pre_tokenize(text).tokens]


def made(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], stems.Columns]:
    with monkeypatch.context() as changed:
        if not compiled:
            changed.setattr(stems, "COMPILED", False)
        return analysis.indexed("default")


@pytest.mark.parametrize("compiled", FORMS)
def test_what_is_indexed_is_what_queries_look_for(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = made(compiled, monkeypatch)
    native = analysis.native("default")
    column = native[analysis.column("default")]
    whole = native[analysis.words_column("default")]

    @given(st.lists(PIECES).map("".join))
    def agree(text: str) -> None:
        normal = analysis.normal(text)
        found, words = columns(normal)
        asked = [(one.position, one.text) for one in analysis.phrase(text, "default")]
        assert placed(column, found) == asked
        assert set(whole.analyze(words)) == set(analysis.whole_words(text, "default"))

    agree()


@pytest.mark.parametrize("compiled", FORMS)
def test_more_words_than_are_remembered(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stems, "MOST", 100)
    columns = made(compiled, monkeypatch)
    for number in range(2000):
        found, words = columns(f"Letters w{number} letters w{number // 7}")
        assert found.split() == ["letter", f"w{number}", "letter", f"w{number // 7}"]
        assert {one.lower() for one in words.split()} == {
            "letters", f"w{number}", f"w{number // 7}"
        }  # fmt: skip


def test_fields_of_an_index_remember_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each on its own, 200 fields could take more than a gigabyte."""
    indexed = analysis.indexed
    of: list[str] = []

    def noted(analyzer: str) -> Callable[[str], stems.Columns]:
        of.append(analyzer)
        return indexed(analyzer)

    monkeypatch.setattr(analysis, "indexed", noted)
    adders(parse({"a": "text", "b": "text", "c": {"kind": "text", "analyzer": "plain"}}))
    assert sorted(of) == ["default", "plain"]
