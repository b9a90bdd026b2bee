"""What may be written as an endpoint."""

from __future__ import annotations

import pytest

from mesh.errors import ConfigError
from mesh.protocol.endpoints import is_local, parse_endpoint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("tcp://broker:8080", "tcp://broker:8080"),
        ("broker:8080", "tcp://broker:8080"),
        ("dns://brokers:8080", "dns://brokers:8080"),
        (" 10.0.0.1:1 ", "tcp://10.0.0.1:1"),
        ("mesh-0.mesh.default.svc:65535", "tcp://mesh-0.mesh.default.svc:65535"),
        ("[::1]:8080", "tcp://[::1]:8080"),
        ("ipc:///run/mesh/broker", "ipc:///run/mesh/broker"),
        ("ipc://@abstract", "ipc://@abstract"),
    ],
)
def test_an_endpoint_to_connect_to(text: str, endpoint: str) -> None:
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("localhost:8080", "tcp://127.0.0.1:8080"),
        ("tcp://127.0.0.1:0", "tcp://127.0.0.1:*"),
        ("tcp://*:*", "tcp://*:*"),
        ("*:8080", "tcp://*:8080"),
        ("tcp://0.0.0.0:8080", "tcp://0.0.0.0:8080"),
        ("ipc://relative/path", "ipc://relative/path"),
    ],
)
def test_an_endpoint_to_listen_at(text: str, endpoint: str) -> None:
    assert parse_endpoint(text, bind=True) == endpoint


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "HOST:PORT"),
        ("broker", "HOST:PORT"),
        ("tcp://broker", "HOST:PORT"),
        (":8080", "HOST:PORT"),
        ("tcp://a:b:80", "HOST:PORT"),
        ("tcp://host:80/path", "HOST:PORT"),
        ("::1:8080", "HOST:PORT"),
        ("two words:80", "HOST:PORT"),
        ("http://broker:8080", "unknown transport 'http'"),
        ("inproc://name", "unknown transport 'inproc'"),
        ("host:65536", "out of range"),
        ("host:123456", "HOST:PORT"),
        ("host:0", "a port is needed"),
        ("host:*", "a port is needed"),
        ("*:8080", "name the host"),
        ("ipc://", "path of a socket file"),
        ("ipc://*", "path of a socket file"),
        ("ipc://a\0b", "path of a socket file"),
        ("ipc:///" + "x" * 103, "shorter folder"),
    ],
)
def test_what_is_no_endpoint_is_refused_with_advice(text: str, advice: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_endpoint(text)
    assert advice in str(refusal.value)
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("ipc:///run/x", True),
        ("tcp://127.0.0.1:80", True),
        ("tcp://127.8.9.10:80", True),
        ("tcp://localhost:80", True),
        ("tcp://[::1]:80", True),
        ("tcp://0.0.0.0:80", False),
        ("tcp://*:80", False),
        ("tcp://127.0.0.1.example.org:80", False),
        ("tcp://10.0.0.1:80", False),
        ("tcp://broker:80", False),
    ],
)
def test_what_only_this_machine_can_reach(endpoint: str, local: bool) -> None:
    assert is_local(endpoint) is local
