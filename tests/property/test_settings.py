"""Settings: what is shown can be loaded again, and the schema knows what the loader knows."""

from __future__ import annotations

import math
from typing import Any

import jsonschema
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from mesh.errors import ConfigError
from mesh.settings import keys, schema, show_yaml, value_of
from mesh.settings.kinds import (
    Address,
    Choice,
    Count,
    Duration,
    Endpoints,
    Folder,
    Host,
    Kind,
    Missing,
    Number,
    Size,
    Switch,
    Url,
)
from mesh.settings.load import merge
from mesh.settings.yamlfile import read_text

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
PORTS = st.integers(1, 65535)
ENDPOINTS = PORTS.map("127.0.0.1:{}".format) | PORTS.map("ipc:///run/{}".format)


def durations(kind: Duration) -> st.SearchStrategy[Any]:
    seconds = st.floats(kind.least, min(kind.most, 1e5), allow_nan=False)
    with_unit = st.builds(
        lambda s, unit: f"{s / UNITS[unit]:.3f}{unit}", seconds, st.sampled_from(list(UNITS))
    )
    return seconds | with_unit


def values(kind: Kind) -> st.SearchStrategy[Any]:
    """Values that the kind may allow, as they stand in a file."""
    found: st.SearchStrategy[Any]
    match kind:
        case Switch():
            found = st.booleans()
        case Count():
            found = st.integers(kind.least, kind.most)
        case Number():
            found = st.floats(kind.least, kind.most) | st.integers(
                math.ceil(kind.least), math.floor(kind.most)
            )
        case Duration():
            found = durations(kind)
        case Size():
            found = st.integers(kind.least, kind.most) | st.builds(
                "{}{}".format, st.integers(1, 999), st.sampled_from(["MB", "MiB", "K", " GB"])
            )
        case Choice():
            found = st.sampled_from(kind.names)
        case Folder():
            found = st.from_regex(r"/[a-z#:' \"]{1,20}x", fullmatch=True)
        case Host():
            found = st.sampled_from(["127.0.0.1", "localhost", "::1", "[::1]"])
        case Address():
            found = st.sampled_from(["127.0.0.1:9090", "[::1]:0", "*:80", "unix:/run/a b.sock"])
        case Endpoints():
            found = st.lists(ENDPOINTS, max_size=3)
        case Url():
            found = st.builds(
                "redis://:{}@h:1/0".format, st.from_regex(r"[a-z#%]+", fullmatch=True)
            )
        case Missing():
            return st.sampled_from(kind.off)
        case _:
            raise AssertionError(kind)
    return found | st.none() if kind.optional else found


FILES = st.fixed_dictionaries({}, optional={name: values(key.kind) for name, key in keys().items()})


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, last = name.split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return found


@given(FILES)
def test_what_is_shown_can_be_loaded_again(flat: dict[str, Any]) -> None:
    text = yaml.safe_dump(nested(flat), allow_unicode=True)
    try:
        loaded = merge([read_text(text, "a.yaml")])
    except ConfigError:
        assume(False)
    shown = show_yaml(loaded, secrets=True)
    again = merge([read_text(shown, "b.yaml")])
    assert again.settings == loaded.settings
    assert show_yaml(merge([read_text(shown, "b.yaml")]), secrets=True) == show_yaml(
        again, secrets=True
    )


@given(st.data(), st.sampled_from(sorted(keys())))
def test_a_value_from_the_environment_is_that_of_the_file(data: st.DataObject, name: str) -> None:
    kind = keys()[name].kind
    written = data.draw(values(kind))
    try:
        expected = kind.parse(written)
    except ValueError:
        assume(False)
    shown = kind.show(expected)
    assume(not (shown in (None, "") and not kind.optional))
    if isinstance(shown, bool):
        text = "true" if shown else "false"
    elif isinstance(shown, list):
        text = " ".join(shown)
    else:
        text = "null" if shown is None else str(shown)
    assert kind.parse(kind.read(text)) == expected


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
VALIDATOR = jsonschema.Draft7Validator(schema())


@given(st.data(), st.sampled_from(sorted(keys())))
def test_a_value_is_taken_or_refused_in_words_and_the_schema_takes_what_is_taken(
    data: st.DataObject, name: str
) -> None:
    kind = keys()[name].kind
    value = data.draw(ANYTHING | values(kind))
    try:
        parsed = kind.parse(value)
    except ValueError as error:
        text = str(error)
        assert 5 < len(text) < 400
        return
    assert kind.parse(kind.show(parsed)) == parsed
    if not (isinstance(value, str) and isinstance(kind, Choice)):  # capitals are all the same
        assert VALIDATOR.is_valid(nested({name: value})), (name, value)


@given(ANYTHING)
def test_no_content_of_a_file_ends_in_anything_but_a_configuration_error(content: Any) -> None:
    text = yaml.safe_dump(content, allow_unicode=True)
    try:
        loaded = merge([read_text(text, "a.yaml")])
    except ConfigError as error:
        assert "a.yaml" in str(error)
    else:
        assert value_of(loaded.settings, "log_level") == "info"


@given(st.text())
def test_no_text_ends_in_anything_but_a_configuration_error(text: str) -> None:
    try:
        merge([read_text(text, "a.yaml")])
    except ConfigError as error:
        assert "a.yaml" in str(error)
