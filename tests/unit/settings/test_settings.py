"""Right configuration: what counts before what, what each notation means, and the files shipped."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import jsonschema
import pytest
import yaml

from broker.config import router_settings
from broker.state import RouterSettings
from mesh.client.calls import ClientSettings
from mesh.client.configured import client_settings, configure
from mesh.errors import ConfigError
from mesh.settings import (
    BUILT_IN,
    CLIENTS,
    WORKERS,
    Loaded,
    Settings,
    Wanted,
    binds,
    brokers,
    default_yaml,
    keys,
    load,
    monitor_at,
    schema,
    schema_text,
    show_rows,
    show_yaml,
    value_of,
    wanted,
)
from mesh.settings.keys import variables
from mesh.settings.kinds import Missing
from mesh.settings.model import EVICTIONS, Broker, Memory
from tests.support import ROOT
from workers.memory.eviction import POLICIES

# The blocks of the product's description, as they stand there.
BASIC = """
services:
  memory:
    host: "0.0.0.0"
    port: 8080
    max_connections: 1000
    timeout: 30
  discovery:
    type: "consul"  # consul, etcd, kubernetes
    address: "localhost:8500"
  monitoring:
    enabled: true
    metrics_port: 9090
    health_check_interval: 30
"""
ADVANCED = """
performance:
  thread_pool_size: 100
  connection_pool_size: 50
  cache_size: "1GB"
security:
  tls_enabled: true
  auth_required: true
  rate_limiting: 1000  # requests per minute
resilience:
  circuit_breaker: true
  retry_policy:
    max_retries: 3
    backoff_multiplier: 2
"""


@pytest.fixture
def write(tmp_path: Path):
    """Writes a file and returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "sage.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def loaded_from(path: Path, **environ: str) -> Loaded:
    return load(path, environ=environ)


def test_flags_before_environment_before_file_before_defaults(write) -> None:
    path = write("broker:\n  grace: 1\n  max_queue: 1\n  spin: 0\n")
    environ = {"SAGE_BROKER_GRACE": "2", "SAGE_BROKER_MAX_QUEUE": "2"}
    found = load(path, flags={"broker.grace": ("--grace", "3s")}, environ=environ)
    broker = found.settings.broker
    assert (broker.grace, broker.max_queue, broker.spin, broker.heartbeat) == (3.0, 2, 0.0, 0.5)
    names = ["grace", "max_queue", "spin", "heartbeat"]
    assert [found.origin(f"broker.{name}") for name in names] == [
        "--grace",
        "SAGE_BROKER_MAX_QUEUE",
        f"{path}:4",
        "default",
    ]


def test_the_file_may_be_named_by_the_environment(write) -> None:
    path = write("log_level: debug")
    assert load(environ={"SAGE_CONFIG": str(path)}).settings.log_level == "debug"
    assert load(environ={"SAGE_CONFIG": ""}).settings == Settings()


def test_assignments_count_as_flags() -> None:
    found = load(assignments=["broker.grace=5m", "discovery.type=static"], environ={})
    assert found.settings.broker.grace == 300.0
    assert found.origin("broker.grace") == "--set broker.grace"


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("SAGE_SERVICE_PORT", "9000", "services.memory.port", 9000),
        ("SAGE_SERVICES_MEMORY_PORT", "9001", "services.memory.port", 9001),
        ("SAGE_SERVICES_MEMORY_TIMEOUT", "500ms", "services.memory.timeout", 0.5),
        ("SAGE_SERVICES_MEMORY_TIMEOUT", "null", "services.memory.timeout", None),
        ("SAGE_MEMORY_URL", "redis://h", "services.memory.url", "redis://h"),
        ("SAGE_MEMORY_BACKEND", "Redis", "services.memory.backend", "redis"),
        ("SAGE_MEMORY_SIZE", "64 MiB", "performance.cache_size", 64 * 2**20),
        ("SAGE_LOG_LEVEL", "WARNING", "log_level", "warning"),
        ("SAGE_BROKERS", "a:1 b:2,a:1", "brokers", ("tcp://a:1", "tcp://b:2")),
        ("SAGE_BROKER_INSECURE", "1", "broker.insecure", True),
        ("SAGE_BROKER_INSECURE", "off", "broker.insecure", False),
        ("SAGE_BROKER_MAX_QUEUE", " ", "broker.max_queue", 10_000),
        ("SAGE_SECURITY_TLS_ENABLED", "false", "security.tls_enabled", False),
        ("SAGE_SECURITY_RATE_LIMITING", "0", "security.rate_limiting", 0),
        ("SAGE_SERVICES_DISCOVERY_TYPE", "static", "discovery.type", "static"),
        ("SAGE_RESILIENCE_RETRY_POLICY_BACKOFF_MULTIPLIER", "3",
         "resilience.retry_policy.backoff_multiplier", 3.0),
    ],
)  # fmt: skip
def test_the_environment(variable: str, text: str, key: str, value: object) -> None:
    assert value_of(load(environ={variable: text}).settings, key) == value


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("broker: {grace: 1.5}", "broker.grace", 1.5),
        ("broker: {grace: 250ms}", "broker.grace", 0.25),
        ("broker: {grace: 2 m}", "broker.grace", 120.0),
        ("broker: {spin: 50us}", "broker.spin", 5e-05),
        ("broker: {spin: 1e-4}", "broker.spin", 0.0001),
        ("performance: {cache_size: 1GB}", "performance.cache_size", 10**9),
        ("performance: {cache_size: 1.5GiB}", "performance.cache_size", 3 * 2**29),
        ("performance: {cache_size: 5000000}", "performance.cache_size", 5_000_000),
        ("resilience: {circuit_breaker: no}", "resilience.circuit_breaker", False),
        ("broker: {bind: localhost:1}", "broker.bind", ("tcp://127.0.0.1:1",)),
        ("broker: {bind: [ipc:///x, '127.0.0.1:0']}", "broker.bind",
         ("ipc:///x", "tcp://127.0.0.1:*")),
        ("broker:", "broker", Broker()),
        ("services:\n  memory:\n", "services.memory", Memory()),
        ("services: {discovery: {type: static, address: null}}", "discovery.type", "static"),
        ("services: {monitoring: {enabled: false}}", "monitoring.enabled", False),
        ("monitoring: {address: ' [::1]:9091 '}", "monitoring.address", "[::1]:9091"),
        ("monitoring: {address: 'unix:/run/x.sock'}", "monitoring.address", "unix:/run/x.sock"),
        ("monitoring: {address: null}", "monitoring.address", None),
        ("security: {rate_limiting: 0, auth_required: false}", "security.rate_limiting", 0),
        ("", "log_level", "info"),
        ("# nothing\n", "log_level", "info"),
        ("a: &x 1\n".replace("a", "log_level").replace("&x 1", "&x debug"), "log_level", "debug"),
    ],
)  # fmt: skip
def test_notations(write, text: str, key: str, value: object) -> None:
    assert value_of(loaded_from(write(text)).settings, key) == value


def test_every_key_of_the_description_is_known_and_what_is_not_there_yet_is_refused(
    write,
) -> None:
    refused = {
        "discovery.type", "discovery.address", "security.tls_enabled", "security.auth_required",
        "security.rate_limiting",
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        loaded_from(write(BASIC + ADVANCED))
    problems = caught.value.problems
    assert {problem.key for problem in problems} == refused
    assert all("not available in this version" in problem.text for problem in problems)
    assert {key.name for key in keys().values() if isinstance(key.kind, Missing)} == refused


def test_what_the_description_asks_for_and_there_is_takes_effect(write) -> None:
    text = yaml.safe_load(BASIC + ADVANCED)
    del text["services"]["discovery"], text["security"]
    text["broker"] = {"insecure": True}
    settings = loaded_from(write(yaml.safe_dump(text))).settings
    assert binds(settings)["both"] == ("tcp://0.0.0.0:8080",)
    assert monitor_at(settings) == "127.0.0.1:9090"
    assert settings.monitoring.health_check_interval == 30.0
    assert brokers(settings, WORKERS) == ("tcp://127.0.0.1:8080",)
    assert router_settings(settings).max_clients == 1000
    client = client_settings(settings)
    assert (client.retries, client.retry_factor, client.breaker.share) == (3, 2.0, 0.5)
    assert settings.services.memory.timeout == 30.0
    assert settings.performance.cache_size == 10**9
    assert settings.performance.thread_pool_size == 100
    assert settings.performance.connection_pool_size == 50


def test_defaults_are_those_of_the_parts() -> None:
    assert router_settings(Settings()) == RouterSettings()
    assert client_settings(Settings()) == ClientSettings()
    assert tuple(POLICIES) == EVICTIONS


def test_settings_from_a_program_are_checked_as_those_from_a_file() -> None:
    assert Broker(grace="5m").grace == 300.0  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"grace: 'x' is not a duration"):
        Broker(grace="x")  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        Broker().grace = 1.0  # type: ignore[misc]


# ---------------------------------------------------------------- what follows from the settings


@pytest.mark.parametrize(
    ("text", "listening", "workers", "clients"),
    [
        ("", ["tcp://127.0.0.1:8080"], ["tcp://127.0.0.1:8080"], ["tcp://127.0.0.1:8080"]),
        ("services: {memory: {port: 9, host: '::1'}}", ["tcp://[::1]:9"], ["tcp://[::1]:9"],
         ["tcp://[::1]:9"]),
        ("broker: {bind: ['*:9'], insecure: true}", ["tcp://*:9"], ["tcp://127.0.0.1:9"],
         ["tcp://127.0.0.1:9"]),
        ("broker: {bind_clients: '127.0.0.1:1', bind_workers: 'ipc:///w'}",
         ["tcp://127.0.0.1:1", "ipc:///w"], ["ipc:///w"], ["tcp://127.0.0.1:1"]),
        ("{brokers: [a:1], broker: {bind: '127.0.0.1:0'}}", ["tcp://127.0.0.1:*"], ["tcp://a:1"],
         ["tcp://a:1"]),
    ],
)  # fmt: skip
def test_workers_and_clients_find_the_broker_of_the_same_file(
    write, text: str, listening: list[str], workers: list[str], clients: list[str]
) -> None:
    settings = loaded_from(write(text)).settings
    assert [address for found in binds(settings).values() for address in found] == listening
    assert list(brokers(settings, WORKERS)) == workers
    assert list(brokers(settings, CLIENTS)) == clients


def test_a_port_that_nobody_can_know_has_to_be_named(write) -> None:
    settings = loaded_from(write("broker: {bind: '127.0.0.1:0'}")).settings
    with pytest.raises(ConfigError, match=r"brokers: .* name one"):
        brokers(settings, WORKERS)


def test_a_client_takes_its_settings_from_a_file(write) -> None:
    path = write(
        "brokers: [b:1]\nclient: {timeout: 2s}\n"
        "resilience: {circuit_breaker: false, retry_policy: {max_retries: 1}}\n"
    )
    endpoints, settings = configure((), "me", None, path)
    assert endpoints == ("tcp://b:1",)
    assert (settings.name, settings.timeout, settings.retries) == ("me", 2.0, 1)
    assert settings.breaker.share > 1.0
    assert configure(("c:1",), "", None, path)[0] == ("tcp://c:1",)
    with pytest.raises(ConfigError, match="not both"):
        configure((), "", ClientSettings(), path)


# ---------------------------------------------------------------- remarks


@pytest.mark.parametrize(
    ("text", "environ", "note"),
    [
        ("services: {memory: {url: 'redis://h'}}", {}, "services.memory.url has no effect"),
        ("performance: {connection_pool_size: 9}", {}, "the backend is lmdb"),
        ("services: {memory: {port: 9}}\nbroker: {bind: '127.0.0.1:1'}", {}, "broker.bind says"),
        ("{}", {"SAGE_BROKER_GRACEE": "1"}, "did you mean SAGE_BROKER_GRACE?"),
        ("{}", {"SAGE_SERVICE_PORT": "1", "SAGE_SERVICES_MEMORY_PORT": "2"},
         "SAGE_SERVICE_PORT is ignored"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_remarked_on(write, text: str, environ: dict, note: str) -> None:
    (found,) = load(write(text), environ=environ).notes
    assert note in found


def test_what_is_ordinary_is_not_remarked_on(write) -> None:
    kubernetes = {
        "SAGE_BROKER_PORT": "tcp://10.0.0.1:8080",
        "SAGE_BROKER_PORT_8080_TCP_ADDR": "10.0.0.1",
        "SAGE_BROKER_SERVICE_HOST": "10.0.0.1",
        "SAGE_SERVICE_PORT": "8080",
        "SAGE_PUMP": "pure",
    }
    assert not load(write(default_yaml()), environ=kubernetes).notes
    flags = {"broker.bind": ("--bind", ["127.0.0.1:1"])}
    assert not load(flags=flags, environ={"SAGE_SERVICE_PORT": "9"}).notes


# ---------------------------------------------------------------- the files


def test_the_default_file_is_what_is_generated() -> None:
    assert (ROOT / "config/default.yaml").read_text("utf-8") == default_yaml()
    assert (ROOT / "config/schema.json").read_text("utf-8") == schema_text()


def test_the_default_file_has_every_key_with_its_default() -> None:
    found = load(ROOT / "config/default.yaml", environ={})
    assert found.settings == Settings()
    assert found.origins.keys() == keys().keys()
    lines = default_yaml().splitlines()
    for number, line in enumerate(lines):
        if ":" in line and not line.lstrip().startswith("#"):
            assert lines[number - 1].lstrip().startswith("#"), f"{line} has no comment"


def test_the_production_file_is_right() -> None:
    found = load(ROOT / "config/production.yaml", environ={})
    assert not found.notes
    assert found.settings.services.memory.data


@pytest.mark.parametrize("name", ["default.yaml", "production.yaml"])
def test_editors_find_nothing_wrong_with_the_files(name: str) -> None:
    text = (ROOT / "config" / name).read_text("utf-8")
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    jsonschema.Draft7Validator.check_schema(schema())
    jsonschema.validate(yaml.safe_load(text), json.loads(schema_text()))


def test_names_in_the_environment_are_unique() -> None:
    assert len({key.variable for key in keys().values()}) == len(keys())
    assert set(variables().values()) == set(keys().values())


def test_showing(write) -> None:
    path = write(
        "services: {memory: {backend: redis, url: 'redis://u:geheim@h/1?password=geheim'}}"
    )
    found = loaded_from(path, SAGE_BROKER_GRACE="5")
    text = show_yaml(found)
    assert "geheim" not in text
    assert f"url: redis://u:***@h/1?password=***  # {path}:1" in text
    assert "grace: 5  # SAGE_BROKER_GRACE" in text
    assert "geheim" in show_yaml(found, secrets=True)
    assert show_yaml(found, only="broker.mdp").splitlines()[:2] == ["broker:", "  mdp:"]
    (row,) = show_rows(found, only="broker.grace")
    assert row == {
        "key": "broker.grace",
        "value": 5,
        "origin": "SAGE_BROKER_GRACE",
        "variable": "SAGE_BROKER_GRACE",
        "live": True,
    }


def test_up_runs_memory_and_each_service_that_has_a_directory() -> None:
    def asked(**environ: str) -> dict[str, Wanted]:
        return wanted(load(environ=environ).settings)

    assert asked() == {"memory": Wanted(1, None)}
    found = asked(**{f"SAGE_{name.upper()}_DATA": f"/d/{name}" for name in BUILT_IN})
    assert found == {name: Wanted(1, Path(f"/d/{name}")) for name in BUILT_IN}
    elsewhere = asked(SAGE_MEMORY_BACKEND="redis", SAGE_MEMORY_DATA="/d/memory")
    assert elsewhere == {"memory": Wanted(1, None)}
