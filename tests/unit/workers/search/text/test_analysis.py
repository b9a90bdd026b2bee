"""Words of texts, and where they stand in the text as it was given."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConfigError
from workers.search.text import analysis

PIECES = st.sampled_from(
    ["running ", "Cafe\u0301 ", "Ｆｕｌｌ", "ﬁne", "緩存", "分布式", "㎏", "ｶﾞ", "，",
     "한국어 ", "e\u0323\u0301", "①", "𠮷"]
) | st.text(max_size=3)  # fmt: skip

ASCII = st.text(st.characters(max_codepoint=127), max_size=60)


def spelt(text: str, analyzer: str = "default") -> list[str]:
    return [one.text for one in analysis.tokens(text, analyzer)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Runners ran quickly", ["the", "runner", "ran", "quick"]),
        ("分布式cache系统", ["分", "布", "式", "cach", "系", "统"]),
        ("分佈式緩存", ["分", "布", "式", "缓", "存"]),
        ("ＡＢＣ１２３", ["abc123"]),
        ("iPhone手机", ["iphon", "手", "机"]),
        ("Cafe\u0301", ["café"]),
        ("カメラ", ["カ", "メ", "ラ"]),
        ("한국어 검색", ["한국어", "검색"]),
        ("", []),
        ("…—，。", []),
        ("x\x1fy", ["x", "y"]),
        ("w" * 200, []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert spelt(text) == words


def test_plain_keeps_the_forms_of_words() -> None:
    assert spelt("The Runners ran", "plain") == ["the", "runners", "ran"]


@given(ASCII, st.sampled_from(["default", "plain"]))
def test_texts_of_ascii_are_asked_for_by_the_same_words(text: str, analyzer: str) -> None:
    for given_text in (text, f"the {text}", f"the of {text}"):
        words = [one.text for one in analysis.asked(given_text, analyzer)]
        assert analysis.asked_ascii(given_text, analyzer) == words


def test_frequent_words_are_asked_for_only_where_there_are_no_others() -> None:
    assert [one.text for one in analysis.asked("the fox of", "default")] == ["fox"]
    assert [one.text for one in analysis.asked("to be", "default")] == ["to", "be"]
    assert [one.text for one in analysis.asked("the fox", "plain")] == ["the", "fox"]


def test_characters_are_joined_where_nothing_stands_between_them() -> None:
    found = [(one.text, one.joined) for one in analysis.phrase("分布，式 x存", "default")]
    assert found == [("分", False), ("布", True), ("式", False), ("x", False), ("存", False)]


def test_columns_of_whole_words_and_pairs() -> None:
    normal = analysis.normal("Running 分佈式cache，存 緩存")
    assert analysis.pairs(normal) == ["分布式", "缓存"]
    assert analysis.whole_words("Running 分佈式cache，存", "default") == [
        "running", "分布式", "cache", "存",
    ]  # fmt: skip
    assert analysis.pairs(analysis.normal("plain x\x1fy\x1f\x1f words")) == []


def test_jieba_cuts_into_words_of_its_dictionary() -> None:
    assert "缓存" in analysis.whole_words("分布式緩存系统", "jieba")
    assert analysis.whole_words("한국어 café-au-lait 缓存x", "jieba") == [
        "한국어", "café", "au", "lait", "缓存", "x",
    ]  # fmt: skip


def test_jieba_names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rjieba", None)
    analysis._jieba.cache_clear()
    with pytest.raises(ConfigError, match=r"sage-mesh\[jieba\]"):
        analysis.require("jieba")
    analysis.require("default")
    monkeypatch.undo()
    analysis._jieba.cache_clear()


@given(st.lists(PIECES, max_size=8).map("".join))
def test_each_word_is_found_where_it_is_said_to_stand(text: str) -> None:
    last = 0
    for one in analysis.tokens(text, "plain"):
        assert last <= one.start < one.end <= len(text)
        assert one.text in analysis.normal(text[one.start : one.end]).lower()
        last = one.start
