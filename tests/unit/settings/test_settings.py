"""Settings: where they come from, and how what is wrong is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import ConfigError
from mesh.settings import (
    Settings,
    default_yaml,
    keys,
    load,
    schema_text,
    show_yaml,
    value_of,
)
from mesh.settings.kinds import Choice, Count, Duration, Missing, Size, Switch

CONFIG = Path(__file__).parents[3] / "config"


def written(folder: Path, text: str) -> Path:
    path = folder / "sage.yaml"
    path.write_text(text)
    return path


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(written(folder, text), environ={})
    return str(caught.value)


# -------------------------------------------------------------------- the files that ship


def test_the_default_file_is_what_init_writes() -> None:
    assert (CONFIG / "default.yaml").read_text() == default_yaml()
    assert (CONFIG / "schema.json").read_text() == schema_text()


def test_the_default_file_says_the_defaults() -> None:
    loaded = load(CONFIG / "default.yaml", environ={})
    assert loaded.settings == Settings() and not loaded.notes
    assert len(loaded.origins) == len(keys())


def test_the_production_file_is_right() -> None:
    loaded = load(CONFIG / "production.yaml", environ={})
    assert loaded.settings.services.memory.processes == 2 and not loaded.notes


# -------------------------------------------------------------------- where values come from


def test_flags_count_before_the_environment_before_the_file_before_defaults(
    tmp_path: Path,
) -> None:
    path = written(
        tmp_path, "broker: {grace: 1, spin: 0, max_queue: 5}\nservices: {memory: {port: 1}}\n"
    )
    loaded = load(
        path,
        environ={"SAGE_BROKER_GRACE": "2s", "SAGE_BROKER_SPIN": "2us", "SAGE_SERVICE_PORT": "2"},
        flags={"broker.grace": ("--grace", "3s")},
        assignments=["client.timeout=7"],
    )
    found = loaded.settings
    assert (found.broker.grace, found.broker.spin, found.broker.max_queue) == (3.0, 2e-6, 5)
    assert (found.services.memory.port, found.client.timeout) == (2, 7.0)
    assert loaded.origin("broker.grace") == "--grace"
    assert loaded.origin("broker.spin") == "SAGE_BROKER_SPIN"
    assert loaded.origin("broker.max_queue") == f"{path}:1"
    assert loaded.origin("broker.heartbeat") == "default"


def test_the_file_may_be_named_in_the_environment(tmp_path: Path) -> None:
    path = written(tmp_path, "log_level: debug\n")
    assert load(environ={"SAGE_CONFIG": str(path)}).settings.log_level == "debug"


def test_a_variable_that_looks_mistyped_is_pointed_out() -> None:
    (note,) = load(environ={"SAGE_BROKER_GRASE": "1"}).notes
    assert "did you mean SAGE_BROKER_GRACE" in note


def test_what_has_no_effect_is_pointed_out(tmp_path: Path) -> None:
    path = written(tmp_path, "services: {memory: {url: 'redis://x:1/0'}}\n")
    (note,) = load(path, environ={}).notes
    assert "has no effect: the backend is lmdb" in note


# -------------------------------------------------------------------- what is refused

WRONG = {
    # kinds of values
    "services: {memory: {port: 99999}}": ("services.memory.port", "from 1 to 65535"),
    "services: {memory: {port: 0}}": ("services.memory.port", "from 1 to 65535"),
    "services: {memory: {port: -1}}": ("services.memory.port", "from 1 to 65535"),
    "services: {memory: {port: eighty}}": ("services.memory.port", "whole number"),
    "services: {memory: {port: 80.5}}": ("services.memory.port", "whole number"),
    "services: {memory: {port: true}}": ("services.memory.port", "whole number"),
    "services: {memory: {port: [80]}}": ("services.memory.port", "whole number"),
    "services: {memory: {port: null}}": ("services.memory.port", ""),
    "services: {memory: {host: ''}}": ("services.memory.host", ""),
    "services: {memory: {host: 'a b'}}": ("services.memory.host", ""),
    "services: {memory: {host: 'http://x'}}": ("services.memory.host", ""),
    "services: {memory: {max_connections: 0}}": ("services.memory.max_connections", "from 1"),
    "services: {memory: {max_connections: many}}": ("services.memory.max_connections", "number"),
    "services: {memory: {timeout: soon}}": ("services.memory.timeout", "30s"),
    "services: {memory: {timeout: -1}}": ("services.memory.timeout", ""),
    "services: {memory: {timeout: 10 parsecs}}": ("services.memory.timeout", ""),
    "services: {memory: {backend: oracle}}": ("services.memory.backend", "lmdb"),
    "services: {memory: {backend: rediss}}": ("services.memory.backend", "redis"),
    "services: {memory: {eviction: random}}": ("services.memory.eviction", "s3-fifo"),
    "services: {memory: {processes: 0}}": ("services.memory.processes", "from 1"),
    "services: {memory: {backend: redis, url: 'http://x'}}": ("services.memory.url", "redis://"),
    "performance: {cache_size: lots}": ("performance.cache_size", "1GB"),
    "performance: {cache_size: -1GB}": ("performance.cache_size", "1GB"),
    "performance: {cache_size: 1XB}": ("performance.cache_size", "1GB"),
    "performance: {thread_pool_size: 0}": ("performance.thread_pool_size", "from 1"),
    "performance: {connection_pool_size: x}": ("performance.connection_pool_size", "number"),
    "resilience: {circuit_breaker: maybe}": ("resilience.circuit_breaker", "true or false"),
    "resilience: {retry_policy: {max_retries: -1}}": ("resilience.retry_policy.max_retries", ""),
    "resilience: {retry_policy: {backoff_multiplier: 0}}": ("backoff_multiplier", ""),
    "log_level: loud": ("log_level", "info"),
    "brokers: tcp://x:1:2": ("brokers", "tcp://"),
    "brokers: ['udp://x:1']": ("brokers", "tcp://"),
    "broker: {bind: 'tcp://127.0.0.1'}": ("broker.bind", "tcp://"),
    "broker: {heartbeat: 0}": ("broker.heartbeat", ""),
    "broker: {max_queue: 1.5}": ("broker.max_queue", "whole number"),
    "broker: {max_body: 1PB}": ("broker.max_body", ""),
    # keys
    "services: {memory: {hots: x}}": ("services.memory.hots", "did you mean host"),
    "service: {memory: {host: x}}": ("service", "did you mean services"),
    "services: {memroy: {host: x}}": ("services.memroy", "did you mean memory"),
    "resilience: {retries: 3}": ("resilience.retries", "unknown"),
    "broker: 5": ("broker", ""),
    "services: [memory]": ("services", ""),
    # what does not go together
    "services: {memory: {host: 0.0.0.0}}": ("services.memory.host", "broker.insecure"),
    "broker: {bind: 'tcp://*:8080'}": ("broker.bind", "broker.insecure"),
    "services: {memory: {backend: redis}}": ("services.memory.backend", "services.memory.url"),
    "services: {memory: {backend: memory, processes: 2}}": ("processes", "one process"),
    "broker: {default_timeout: 50, max_timeout: 40}": ("broker.default_timeout", "max_timeout"),
    "broker: {suspect_beats: 20}": ("broker.suspect_beats", "broker.lost_beats"),
    # what is not there yet
    "security: {tls_enabled: true}": ("security.tls_enabled", "set it to false"),
    "security: {auth_required: yes}": ("security.auth_required", "set it to false"),
    "security: {rate_limiting: 1000}": ("security.rate_limiting", "not available"),
    "services: {discovery: {type: consul}}": ("services.discovery.type", "static"),
    "discovery: {address: 'localhost:8500'}": ("discovery.address", "remove it"),
    "monitoring: {enabled: true}": ("monitoring.enabled", "set it to false"),
    "services: {monitoring: {metrics_port: 9090}}": ("services.monitoring.metrics_port", "remove"),
    # YAML
    "broker: {grace: 1": ("sage.yaml", ""),
    "broker:\n\tgrace: 1": ("sage.yaml", ""),
    "broker: {grace: 1, grace: 2}": ("broker.grace", ""),
    "just text": ("sage.yaml", ""),
    "- a list": ("sage.yaml", ""),
}


def test_there_are_enough_of_them() -> None:
    assert len(WRONG) >= 40


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named_with_its_place_and_a_remedy(tmp_path: Path, text: str) -> None:
    name, remedy = WRONG[text]
    said = complaint(tmp_path, text)
    assert name in said and remedy in said
    assert "sage.yaml:" in said or text.startswith(("just", "- a"))
    assert "Traceback" not in said and "pydantic" not in said


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    said = complaint(tmp_path, "log_level: loud\nbroker:\n  grace: x\n  spni: 1\n")
    assert "3 errors" in said
    assert [f"sage.yaml:{line}:" in said for line in (1, 3, 4)] == [True] * 3


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml"):
        load(tmp_path / "nothing.yaml", environ={})


@pytest.mark.parametrize(
    ("environ", "assignments", "said"),
    [
        ({"SAGE_BROKER_GRACE": "x"}, [], "SAGE_BROKER_GRACE"),
        ({"SAGE_SERVICE_PORT": "http"}, [], "SAGE_SERVICE_PORT"),
        ({}, ["broker.grace"], "KEY=VALUE"),
        ({}, ["broker.grase=1"], "did you mean grace"),
        ({}, ["broker.grace=x"], "broker.grace"),
    ],
)
def test_what_is_wrong_elsewhere_names_where(
    environ: dict[str, str], assignments: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        load(environ=environ, assignments=assignments)


# -------------------------------------------------------------------- there and back


def _values(name: str) -> st.SearchStrategy[object] | None:
    """Values that the key may have by itself; None for what depends on others."""
    kind = keys()[name].kind
    if isinstance(kind, Missing):
        return None
    if isinstance(kind, Switch):
        return st.booleans()
    if isinstance(kind, Choice):
        return None if name.endswith("backend") else st.sampled_from(list(kind.names))
    if isinstance(kind, Size):
        return st.sampled_from(["64MB", "1GB", "128MiB", 3_000_001])
    if isinstance(kind, Duration):
        return st.sampled_from([1, "2s", "1500ms", 2.5])
    if isinstance(kind, Count):
        return st.integers(1, 5)
    return None


ORDERED = ("timeout", "beats", "max_body", "max_held_bytes", "max_bytes")
FREE = [
    name
    for name in keys()
    if _values(name) is not None and not name.endswith(ORDERED) and name != "broker.insecure"
]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.lists(st.sampled_from(FREE), unique=True, max_size=8))
def test_what_is_shown_can_be_loaded_again(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("settings")
    tree: dict[str, object] = {}
    for name in names:
        place = tree
        *sections, last = name.split(".")
        for section in sections:
            place = place.setdefault(section, {})  # type: ignore[assignment]
        strategy = _values(name)
        assert strategy is not None
        place[last] = data.draw(strategy)
    try:
        first = load(written(folder, yaml.safe_dump(tree)), environ={})
    except ConfigError:
        return  # a value out of the bounds of its key
    again = load(written(folder, show_yaml(first)), environ={})
    assert again.settings == first.settings
    for name in names:
        assert value_of(again.settings, name) == value_of(first.settings, name)
