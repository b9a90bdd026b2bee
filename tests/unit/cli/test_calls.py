"""How `sage-mesh call` reads its arguments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.cli import calls
from mesh.cli.output import USAGE, Failure, to_json


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("c1", "c1"),
        ("42", 42),
        ('"42"', "42"),
        ("-1.5", -1.5),
        ("true", True),
        ("null", None),
        ('{"sku": "tea"}', {"sku": "tea"}),
        ('{"sku": ', '{"sku": '),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("", ""),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_arguments_are_json_or_else_text(text: str, value: object) -> None:
    assert calls.parse_value(text) == value


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_what_is_printed_as_json_can_be_given_as_an_argument(value: object) -> None:
    assert calls.parse_value(to_json(value)) == value


def test_pairs() -> None:
    assert calls.parse_pairs(["qty=2", "note=a=b", "empty="], "--kwarg") == {
        "qty": 2,
        "note": "a=b",
        "empty": "",
    }


@pytest.mark.parametrize("texts", [["qty"], ["=2"], ["a=1", "a=2"]])
def test_wrong_pairs_are_refused(texts: list[str]) -> None:
    with pytest.raises(Failure) as refused:
        calls.parse_pairs(texts, "--kwarg")
    assert refused.value.code == USAGE
    assert "--kwarg" in refused.value.what
    assert refused.value.advice


@pytest.mark.parametrize("target", ["cart", "cart.", ".total", "."])
def test_a_target_needs_service_and_method(target: str) -> None:
    with pytest.raises(Failure) as refused:
        calls.Request(target)
    assert refused.value.code == USAGE


def test_a_service_name_may_have_dots() -> None:
    assert calls.Request("mesh.broker.status").target == "mesh.broker.status"


def test_negative_numbers_are_arguments_and_mistyped_options_are_not() -> None:
    calls.refuse_options(["-1", "-.5", "-", "a-b"], ["sage-mesh", "call", "m.add", "-1"])
    calls.refuse_options(["--verbose"], ["sage-mesh", "call", "m.add", "--", "--verbose"])
    with pytest.raises(Failure, match="no such option: --tiemout") as refused:
        calls.refuse_options(["--tiemout", "2"], ["sage-mesh", "call", "m.add", "--tiemout", "2"])
    assert refused.value.code == USAGE


def test_only_options_that_were_given_are_bound() -> None:
    assert calls.options(timeout=2.0, retries=None, idempotent=False, metadata={}) == {
        "timeout": 2.0
    }
    assert calls.options(retries=0) == {"retries": 0}
