"""Marks are where the words are in the original text, whatever their forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.search.query.nodes import Bool, Boost, Fuzzy, Like, Match, Node, Phrase, Prefix, Terms
from workers.search.schema import parse
from workers.search.text.highlight import edits, highlight

SCHEMA = parse({"body": "text", "zh": {"kind": "text", "analyzer": "jieba"}, "tags": "tags"})
TEXT = "ﬁne Ｆｕｌｌ Cafe\u0301 运行中的分散式緩存系統。The runners are running quickly; iPhone手机"


def marked(node: Node, text: str = TEXT, field: str = "body") -> list[str]:
    """What is marked in the text."""
    found = highlight(node, SCHEMA, field, [text], size=10_000, before="\x00", after="\x01")
    return [part.split("\x01")[0] for one in found for part in one.split("\x00")[1:]]


@pytest.mark.parametrize(
    ("node", "marks"),
    [
        (Match("", "FULL"), ["Ｆｕｌｌ"]),
        (Match("body", "fine"), ["ﬁne"]),
        (Match("body", "café"), ["Cafe\u0301"]),
        (Match("body", "run"), ["running"]),
        (Match("body", "缓存"), ["緩存"]),
        (Match("body", "iphone 手机"), ["iPhone手机"]),
        (Match("zh", "缓存"), []),
        (Phrase("body", "缓存系统"), ["緩存系統"]),
        (Phrase("body", "are running"), ["are running"]),
        (Phrase("body", "running are"), []),
        (Phrase("body", "runners running", 1), ["runners", "running"]),
        (Prefix("body", "runn"), ["runners", "running"]),
        (Prefix("body", "分散"), ["分散"]),
        (Prefix("body", "are quick"), ["are", "quickly"]),
        (Fuzzy("body", "quikcly", 1), ["quickly"]),
        (Like((("body", "running"),)), ["running"]),
        (Boost(Bool(must=(Match("", "fine"),), should=(Match("", "系统"),)), 2.0), ["ﬁne", "系統"]),
        (Bool(must_not=(Match("body", "run"),)), []),
        (Match("body", "，。"), []),
    ],
)
def test_marks(node: Node, marks: list[str]) -> None:
    assert marked(node) == marks


def test_whole_values_are_marked() -> None:
    node = Terms("tags", ("b", "c"))
    assert highlight(node, SCHEMA, "tags", ["a", "b", "bc"]) == ["<em>b</em>"]
    assert highlight(Prefix("tags", "b"), SCHEMA, "tags", ["a", "b", "bc"]) == [
        "<em>b</em>", "<em>bc</em>",
    ]  # fmt: skip


def test_fragments_are_short_and_the_best_first() -> None:
    text = " ".join(f"Sentence {at} tells of hounds. 这是第{at}句话，讲猎犬。" for at in range(50))
    text = text.replace("Sentence 30 tells", "Sentence 30 of a fox tells")
    found = highlight(Match("body", "fox hounds"), SCHEMA, "body", [text], size=60, count=2)
    assert len(found) == 2
    assert "<em>fox</em>" in found[0] and "<em>hounds</em>" in found[0]
    assert all(len(one) < 60 + 20 * one.count("<em>") for one in found)


def test_html_is_made_safe_if_wanted() -> None:
    text = "<b>fox</b> & fox"
    assert highlight(Match("body", "fox"), SCHEMA, "body", [text], escape=True) == [
        "&lt;b&gt;<em>fox</em>&lt;/b&gt; &amp; <em>fox</em>"
    ]


PIECES = st.sampled_from(
    ["fox ", "Foxes", "緩存", "分布式", "，", "Cafe\u0301 ", "ﬁne ", "㎏", ". ", "\n", "word " * 30]
) | st.text(max_size=4).filter(lambda text: not {"\x00", "\x01"} & set(text))  # fmt: skip


@given(st.lists(PIECES, max_size=20).map("".join), st.integers(20, 200))
def test_without_its_marks_a_fragment_is_a_piece_of_the_text(text: str, size: int) -> None:
    node = Bool(should=(Match("body", "fox 缓存 kg"), Prefix("body", "caf"), Fuzzy("body", "fin")))
    for one in highlight(node, SCHEMA, "body", [text], size=size, before="\x00", after="\x01"):
        assert one.count("\x00") == one.count("\x01") > 0
        assert one.replace("\x00", "").replace("\x01", "") in text


@pytest.mark.parametrize(
    ("one", "other", "many"), [("", "", 0), ("abc", "acb", 1), ("abc", "bc", 1), ("ab", "cd", 2)]
)
def test_edits(one: str, other: str, many: int) -> None:
    assert edits(one, other, 2) == many
    assert edits("aaaaaa", other, 2) > 2 or len(other) > 3


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("中国人民的" * 20_000, Match("body", "中国人民")),
        ("a " * 50_000, Phrase("body", "a a")),
        ("a b " * 50_000, Phrase("body", "a b " * 100, 100)),
    ],
)
def test_long_texts_that_repeat_themselves_take_no_minutes(text: str, node: Node) -> None:
    (first, *_) = highlight(node, SCHEMA, "body", [text])
    assert "<em>" in first
