"""Brokers behind names: what is looked up, how often, and who is told."""

from __future__ import annotations

import gc
import threading
from collections.abc import Sequence
from queue import SimpleQueue

import pytest

from mesh.discovery import names

BROKER = "dns://brokers.test:8080"


class Zone:
    """A name server of its own: `hosts` has the addresses of each name."""

    def __init__(self, **hosts: list[str]) -> None:
        self.hosts = {name.replace("_", "."): found for name, found in hosts.items()}

    def lookup(self, host: str, port: int) -> list[str]:
        if host not in self.hosts:
            raise OSError(-2, "Name or service not known")
        return [f"tcp://{address}:{port}" for address in self.hosts[host]]


def test_a_name_stands_for_each_of_its_addresses() -> None:
    zone = Zone(brokers_test=["10.0.0.1", "10.0.0.2"])
    given = ["tcp://10.0.0.2:8080", BROKER, "ipc:///run/b"]
    found = (["tcp://10.0.0.2:8080", "tcp://10.0.0.1:8080", "ipc:///run/b"], "")
    assert names.Looking(given, zone.lookup).look() == found


def test_what_was_known_stays_while_a_name_cannot_be_looked_up() -> None:
    zone = Zone(brokers_test=["10.0.0.1"])
    looking = names.Looking([BROKER, "dns://other.test:1"], zone.lookup)
    assert looking.look() == (
        ["tcp://10.0.0.1:8080"],
        "dns://other.test:1: Name or service not known",
    )
    zone.hosts.clear()
    found, trouble = looking.look()
    assert found == ["tcp://10.0.0.1:8080"]
    assert "brokers.test" in trouble


def test_a_name_that_no_name_server_can_be_asked_for_is_said() -> None:
    found, trouble = names.Looking(["dns://brokers..test:8080"]).look()
    assert found == []
    assert trouble.startswith("dns://brokers..test:8080: ")


def test_addresses_are_those_of_one_family(monkeypatch: pytest.MonkeyPatch) -> None:
    six, four = ("2001:db8::1", 80, 0, 0), ("10.0.0.1", 80)

    def both(*_: object, **__: object) -> list[object]:
        kinds = [(names.socket.AF_INET6, six), (names.socket.AF_INET, four)]
        return [(family, 1, 6, "", address) for family, address in kinds]

    monkeypatch.setattr(names.socket, "getaddrinfo", both)
    assert names.lookup("brokers.test", 80) == ["tcp://[2001:db8::1]:80"]


class Follower:
    """Hears until it has heard `most` looks."""

    def __init__(self, most: int) -> None:
        self.heard: SimpleQueue[tuple[list[str], str]] = SimpleQueue()
        self._left = most

    def aim(self, endpoints: Sequence[str], trouble: str) -> bool:
        self.heard.put((list(endpoints), trouble))
        self._left -= 1
        return self._left > 0


def lookers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mesh-names"]


def test_a_follower_hears_of_changes_until_it_wants_no_more() -> None:
    answers = [["tcp://10.0.0.1:8080"], ["tcp://10.0.0.2:8080"], ["tcp://10.0.0.2:8080"]]
    looks = iter(answers)
    follower = Follower(3)
    names.follow([BROKER], follower, every=0.001, lookup=lambda host, port: next(looks))
    heard = [follower.heard.get(timeout=10.0) for _ in answers]
    assert heard == [(answer, "") for answer in answers]
    for thread in lookers():
        thread.join(10.0)
    assert lookers() == []
    assert follower.heard.empty()


def test_a_follower_is_not_kept_alive() -> None:
    zone = Zone(brokers_test=["10.0.0.1"])
    follower: Follower | None = Follower(1 << 30)
    names.follow([BROKER], follower, every=0.001, lookup=zone.lookup)
    (thread,) = lookers()
    follower = None
    gc.collect()
    thread.join(10.0)
    assert not thread.is_alive()


def test_nothing_is_looked_up_without_a_name() -> None:
    names.follow(["tcp://brokers.test:8080"], Follower(1), every=0.001)
    assert lookers() == []
