"""What the memory service of the package `sage` decides before it starts anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mesh.errors import ConfigError, InvalidArgument
from sage.service.memory import CacheRecord, MemoryService
from sage.service.memory.connector import digest
from sage.service.memory.server import default_host, parser


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"storage_backend": "sqlite"}, "storage_backend='sqlite' is not one of lmdb, redis, memo"),
        ({"port": 65_536}, "port=65536 is not a number from 0 to 65535"),
        ({"port": "8080"}, "port='8080'"),
        ({"processes": 0}, "processes=0 is not a whole number from 1"),
        ({"processes": True}, "processes=True"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        MemoryService(**options)


def test_where_data_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SAGE_MEMORY_DATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert MemoryService(port=8081).data == tmp_path / "sage" / "memory-8081"
    with pytest.raises(ConfigError, match="data="):
        MemoryService(port=0).start()
    monkeypatch.setenv("SAGE_MEMORY_DATA", "/data")
    assert MemoryService(port=0).data == Path("/data")
    assert MemoryService(data="/other").data == Path("/other")


def test_the_network_can_be_ruled_out() -> None:
    service = MemoryService("0.0.0.0", storage_backend="memory", insecure=False)
    with pytest.raises(ConfigError, match="can be reached from other machines"):
        service.start()
    assert not service.running


def test_where_clients_of_this_machine_connect() -> None:
    assert MemoryService("0.0.0.0", 8081).address == "127.0.0.1:8081"
    assert MemoryService("10.0.0.1", 8081).address == "10.0.0.1:8081"


def test_a_container_listens_to_the_outside(tmp_path: Path) -> None:
    assert default_host({}, tmp_path) == "127.0.0.1"
    assert default_host({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path) == "0.0.0.0"
    (tmp_path / ".dockerenv").touch()
    assert default_host({}, tmp_path) == "0.0.0.0"


def test_the_command_line_goes_before_the_environment() -> None:
    environment = {"SAGE_SERVICE_PORT": "81", "SAGE_SERVICE_HOST": "::1", "SAGE_MEMORY_SIZE": "2GB"}
    options = parser(environment).parse_args(["--port", "82"])
    assert (options.port, options.host, options.cache_size) == ("82", "::1", "2GB")


def test_equal_items_have_one_key() -> None:
    assert digest({"a": [1, "x"]}) == digest({"a": [1, "x"]}) != digest({"a": [1, "y"]})
    with pytest.raises(InvalidArgument, match="item"):
        digest(object())


def test_a_record_is_filled() -> None:
    assert CacheRecord(5, "k").filled(25) == CacheRecord(5, "k", 25, False)
