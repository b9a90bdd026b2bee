"""Wrong configuration: every message names the place, the key, the value and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.errors import ConfigError
from mesh.settings import load

# A text of YAML, the line of the error in it, and what the message says: the key and the remedy.
FILES = {
    "a mistyped section": ("brokr: {}", 1, ["brokr", "did you mean broker?"]),
    "a mistyped key": ("broker:\n  graec: 1", 2, ["broker.graec", "did you mean grace?"]),
    "a key of another section": (
        "broker:\n  cache_size: 1GB",
        2,
        ["broker.cache_size", "performance.cache_size"],
    ),
    "a key that never was": (
        "performance:\n  turbo: true",
        2,
        ["performance.turbo", "thread_pool_size, connection_pool_size, cache_size"],
    ),
    "a mistyped key at the third level": (
        "resilience:\n  retry_policy:\n    max_retrys: 3",
        3,
        ["resilience.retry_policy.max_retrys", "did you mean max_retries?"],
    ),
    "capitals": ("Services: {}", 1, ["Services", "did you mean services?"]),
    "a port as a word": (
        "services:\n  memory:\n    port: http",
        3,
        ["services.memory.port", "'http'", "a whole number from 1 to 65535"],
    ),
    "a port in quotes": (
        "services:\n  memory:\n    port: '8080'",
        3,
        ["services.memory.port", "'8080'", "without quotes"],
    ),
    "a port beyond the last": (
        "services:\n  memory:\n    port: 65536",
        3,
        ["services.memory.port", "65536", "from 1 to 65535"],
    ),
    "a port with a fraction": (
        "services:\n  memory:\n    port: 80.5",
        3,
        ["services.memory.port", "80.5", "a whole number"],
    ),
    "true as a number": (
        "services:\n  memory:\n    processes: true",
        3,
        ["services.memory.processes", "true", "from 1 to 256"],
    ),
    "no process": (
        "services:\n  memory:\n    processes: 0",
        3,
        ["services.memory.processes", "from 1 to 256"],
    ),
    "null where a value is needed": (
        "services:\n  memory:\n    port: null",
        3,
        ["services.memory.port", "null", "from 1 to 65535"],
    ),
    "a host with a scheme": (
        "services:\n  memory:\n    host: tcp://localhost",
        3,
        ["services.memory.host", "'tcp://localhost'", "as in 127.0.0.1"],
    ),
    "a host that others can reach": (
        "services:\n  memory:\n    host: 0.0.0.0",
        3,
        ["services.memory.host", "tcp://0.0.0.0:8080", "127.0.0.1", "broker.insecure: true"],
    ),
    "an endpoint that others can reach": (
        "broker:\n  bind: ['tcp://127.0.0.1:1', 'tcp://*:8080']",
        2,
        ["broker.bind", "tcp://*:8080", "broker.insecure: true"],
    ),
    "an endpoint without a port": (
        "broker:\n  bind: localhost",
        2,
        ["broker.bind", "'localhost'", "tcp://HOST:PORT"],
    ),
    "an endpoint of another transport": (
        "broker:\n  bind_workers: [udp://localhost:1]",
        2,
        ["broker.bind_workers", "udp", "tcp://HOST:PORT"],
    ),
    "a broker to connect to everywhere": (
        "brokers: ['tcp://*:8080']",
        1,
        ["brokers", "name the host to connect to"],
    ),
    "a number among endpoints": (
        "brokers: ['localhost:1', 8080]",
        1,
        ["brokers", "8080", "is not text"],
    ),
    "a list in a list": ("brokers: [['localhost:1']]", 1, ["brokers", "texts only"]),
    "a duration as words": (
        "broker:\n  grace: a while",
        2,
        ["broker.grace", "'a while'", "500ms, 30s or 5m"],
    ),
    "a duration of unknown unit": (
        "broker:\n  grace: 5 minutes",
        2,
        ["broker.grace", "'5 minutes'", "5m"],
    ),
    "a duration below zero": (
        "broker:\n  drain_timeout: -1",
        2,
        ["broker.drain_timeout", "-1", "from 0"],
    ),
    "a duration without end": (
        "broker:\n  drain_timeout: .inf",
        2,
        ["broker.drain_timeout", "inf", "a duration from 0 to"],
    ),
    "a duration that is too long": (
        "client:\n  timeout: 1h",
        2,
        ["client.timeout", "'1h'", "to 300 seconds"],
    ),
    "a time of day": (
        "broker:\n  grace: 1:30",
        2,
        ["broker.grace", "1:30", "base 60", "write it out"],
    ),
    "a size of unknown unit": (
        "performance:\n  cache_size: 1 gigabyte",
        2,
        ["performance.cache_size", "'1 gigabyte'", "1GB"],
    ),
    "a size that is too small": (
        "performance:\n  cache_size: 1KB",
        2,
        ["performance.cache_size", "'1KB'", "from 1MB"],
    ),
    "a size with a fraction of an octet": (
        "broker:\n  max_body: 2000.5",
        2,
        ["broker.max_body", "2000.5", "1KB to 64MiB"],
    ),
    "yes as text": (
        "broker:\n  insecure: 'true'",
        2,
        ["broker.insecure", "'true'", "true or false", "without quotes"],
    ),
    "a number as a switch": (
        "resilience:\n  circuit_breaker: 1",
        2,
        ["resilience.circuit_breaker", "1", "true or false"],
    ),
    "a mistyped choice": (
        "services:\n  memory:\n    backend: reddis",
        3,
        ["services.memory.backend", "'reddis'", "did you mean redis?"],
    ),
    "an unknown choice": (
        "log_level: loud",
        1,
        ["log_level", "'loud'", "debug, info, warning, error, critical"],
    ),
    "an address of another kind of server": (
        "services:\n  memory:\n    url: postgres://u:geheim@h/0",
        3,
        ["services.memory.url", "postgres://u:***@h/0", "redis://"],
    ),
    "an empty directory": (
        "services:\n  memory:\n    data: ''",
        3,
        ["services.memory.data", "''", "/var/lib/sage/memory"],
    ),
    "processes of a memory that is not shared": (
        "services:\n  memory:\n    backend: memory\n    processes: 2",
        4,
        ["services.memory.processes", "2 processes", "use the backend lmdb, or one process"],
    ),
    "retries that are not counted": (
        "resilience:\n  retry_policy:\n    max_retries: often",
        3,
        ["resilience.retry_policy.max_retries", "'often'", "from 0 to 100"],
    ),
    "a wait that shrinks": (
        "resilience:\n  retry_policy:\n    backoff_multiplier: 0.5",
        3,
        ["resilience.retry_policy.backoff_multiplier", "0.5", "from 1 to 100"],
    ),
    "a pool that is too small": (
        "performance:\n  connection_pool_size: 1",
        2,
        ["performance.connection_pool_size", "from 8 to"],
    ),
    "encryption": (
        "security:\n  tls_enabled: true",
        2,
        ["security.tls_enabled", "true", "not available in this version", "set it to false"],
    ),
    "access rules": (
        "security:\n  auth_required: true",
        2,
        ["security.auth_required", "not available in this version", "set it to false"],
    ),
    "rates": (
        "security:\n  rate_limiting: 1000",
        2,
        ["security.rate_limiting", "1000", "not available in this version", "set it to 0"],
    ),
    "consul": (
        "services:\n  discovery:\n    type: consul",
        3,
        ["services.discovery.type", "'consul'", "not available", "set it to static"],
    ),
    "etcd": ("discovery:\n  type: etcd", 2, ["discovery.type", "'etcd'", "set it to static"]),
    "kubernetes": (
        "discovery:\n  type: kubernetes",
        2,
        ["discovery.type", "'kubernetes'", "set it to static"],
    ),
    "a registry": (
        "services:\n  discovery:\n    address: localhost:8500",
        3,
        ["services.discovery.address", "'localhost:8500'", "remove it"],
    ),
    "a port for metrics": (
        "services:\n  monitoring:\n    metrics_port: 90900",
        3,
        ["services.monitoring.metrics_port", "90900", "65535"],
    ),
    "no address for metrics": (
        "monitoring:\n  address: localhost",
        2,
        ["monitoring.address", "'localhost'", "HOST:PORT", "unix:PATH"],
    ),
    "health checks": (
        "monitoring:\n  health_check_interval: 0",
        2,
        ["monitoring.health_check_interval", "0 is not"],
    ),
    "the same key twice": (
        "broker:\n  grace: 1\n  grace: 2",
        3,
        ["broker.grace", "twice", "line 2", "remove one"],
    ),
    "the same key under two names": (
        "discovery:\n  type: static\nservices:\n  discovery:\n    type: static",
        5,
        ["services.discovery.type", "set twice", "discovery.type", "remove one"],
    ),
    "a list for a section": ("broker: [1, 2]", 1, ["broker", "a list", "a section", "grace"]),
    "a word for a section": ("broker: fast", 1, ["broker", "'fast'", "a section"]),
    "a list for the file": ("- broker\n- client", 1, ["a list", "a section", "broker"]),
    "a section for a value": (
        "broker:\n  grace:\n    seconds: 1",
        3,
        ["broker.grace", "a mapping", "500ms, 30s or 5m"],
    ),
    "a number for a key": ("8080: broker", 1, ["8080", "unknown key"]),
    "a list for a key": ("[a, b]: broker", 1, ["a key must be a word"]),
    "a merge": ("broker:\n  <<: {grace: 1}", 2, ["broker.<<", "unknown key"]),
    "something to be run": (
        "log_level: !!python/object/apply:os.system ['id']",
        1,
        ["log_level", "plain values"],
    ),
    "a date that is none": ("log_level: 2026-13-45", 1, ["log_level", "in quotes"]),
    "a deadline beyond the longest": (
        "client:\n  timeout: 60\n  max_timeout: 30",
        2,
        ["client.timeout", "60", "client.max_timeout", "change one of them"],
    ),
    "lost before suspected": (
        "broker:\n  lost_beats: 2\n  suspect_beats: 5",
        3,
        ["broker.suspect_beats", "5", "broker.lost_beats", "change one of them"],
    ),
    "a tab": ("broker:\n\tgrace: 1", 2, ["not YAML", "spaces, not tabs"]),
    "an open bracket": ("broker: {grace: 1\nclient: {}", 2, ["not YAML"]),
    "two documents": ("broker: {}\n---\nclient: {}", 2, ["not YAML", "single document"]),
}


@pytest.mark.parametrize(("text", "line", "said"), FILES.values(), ids=FILES.keys())
def test_in_a_file(tmp_path: Path, text: str, line: int, said: list[str]) -> None:
    path = tmp_path / "sage.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, environ={})
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: "), message
    for part in said:
        assert part in message
    assert "geheim" not in message


ENVIRONMENT = {
    "a port": ({"SAGE_SERVICE_PORT": "http"}, "SAGE_SERVICE_PORT", ["services.memory.port"]),
    "a port by its full name": (
        {"SAGE_SERVICES_MEMORY_PORT": "0"},
        "SAGE_SERVICES_MEMORY_PORT",
        ["0", "from 1 to 65535"],
    ),
    "a switch": ({"SAGE_BROKER_INSECURE": "maybe"}, "SAGE_BROKER_INSECURE", ["true or false"]),
    "a level": ({"SAGE_LOG_LEVEL": "inof"}, "SAGE_LOG_LEVEL", ["did you mean info?"]),
    "a list": ({"SAGE_BROKERS": "a:1, b"}, "SAGE_BROKERS", ["'b'", "tcp://HOST:PORT"]),
    "encryption": (
        {"SAGE_SECURITY_TLS_ENABLED": "true"},
        "SAGE_SECURITY_TLS_ENABLED",
        ["not available in this version", "set it to false"],
    ),
    "a password": (
        {"SAGE_MEMORY_URL": "http://:geheim@h"},
        "SAGE_MEMORY_URL",
        ["services.memory.url", "redis://"],
    ),
}


@pytest.mark.parametrize(("environ", "name", "said"), ENVIRONMENT.values(), ids=ENVIRONMENT.keys())
def test_in_the_environment(environ: dict[str, str], name: str, said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ=environ)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    for part in said:
        assert part in message
    assert "geheim" not in message


ASSIGNMENTS = {
    "no value": ("broker.grace", ["KEY=VALUE"]),
    "an unknown key": ("broker.graec=1", ["broker.graec", "did you mean grace?"]),
    "a section": ("broker=1", ["broker", "unknown key"]),
    "a wrong value": ("broker.grace=soon", ["broker.grace", "'soon'", "30s"]),
    "a wrong number": ("broker.max_queue=many", ["broker.max_queue", "'many'", "whole number"]),
}


@pytest.mark.parametrize(("text", "said"), ASSIGNMENTS.values(), ids=ASSIGNMENTS.keys())
def test_on_the_command_line(text: str, said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(assignments=[text], environ={})
    assert str(caught.value).startswith("--set")
    for part in said:
        assert part in str(caught.value)


def test_all_errors_are_named_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sage.yaml"
    path.write_text("log_level: loud\nbrokr: 1\nbroker:\n  grace: x\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, environ={"SAGE_SERVICE_PORT": "x"})
    lines = str(caught.value).splitlines()
    assert lines[0] == "4 errors in the configuration:"
    assert [line.split(": ")[0].strip() for line in lines[1:]] == [
        f"{path}:1",
        f"{path}:2",
        f"{path}:4",
        "SAGE_SERVICE_PORT",
    ]
    assert [problem.key for problem in caught.value.problems] == [
        "log_level",
        "brokr",
        "broker.grace",
        "services.memory.port",
    ]


def test_a_wrong_file_is_refused_even_where_something_else_has_the_last_word(
    tmp_path: Path,
) -> None:
    path = tmp_path / "sage.yaml"
    path.write_text("broker: {grace: x}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broker\.grace: 'x'"):
        load(path, environ={"SAGE_BROKER_GRACE": "1"})


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"broker:\n  grace: \xff", ":2: not UTF-8; save the file as UTF-8"),
        (b"# much\n" * 200_000, "octets; that is no configuration"),
        (b"[" * 5000, "not YAML"),
        (b"a: \x00", "not YAML"),
        (b"a: &a [*a]\nbrokers: *b", "not YAML"),
    ],
    ids=["not text", "too long", "too deep", "a zero byte", "an unknown anchor"],
)
def test_files_that_are_no_yaml(tmp_path: Path, octets: bytes, said: str) -> None:
    path = tmp_path / "sage.yaml"
    path.write_bytes(octets)
    with pytest.raises(ConfigError) as caught:
        load(path, environ={})
    assert str(caught.value).startswith(f"{path}:")
    assert said in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sage-mesh config init"):
        load(tmp_path / "sage.yaml", environ={})
    with pytest.raises(ConfigError, match="cannot be read"):
        load(environ={"SAGE_CONFIG": str(tmp_path)})


def test_a_file_cannot_grow_by_its_aliases(tmp_path: Path) -> None:
    lines = ["brokers: [&a0 [x, x]]"]
    lines += [f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    path = tmp_path / "sage.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, environ={})
    assert len(str(caught.value)) < 20_000
