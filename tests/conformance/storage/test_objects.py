"""Objects: what every engine must do."""

from __future__ import annotations

import os

import pytest

from mesh.errors import InvalidArgument, QuotaExceeded, VersionConflict
from mesh.protocol.storage import PART
from tests.conformance.storage.driver import Driver

SIZES = (0, 1, PART - 1, PART, PART + 1, 3 * PART, 3 * PART + 5)


@pytest.mark.parametrize("size", SIZES)
def test_content_comes_back(store: Driver, size: int) -> None:
    data = os.urandom(size)
    put = store.put_small if size <= PART else store.put_large
    version = put("o", data, content_type="text/plain", metadata={"by": "me"})
    found = store.object("o")
    assert (found["size"], found["version"], found["key"]) == (size, version, "o")
    assert (found["content_type"], found["metadata"]) == ("text/plain", {"by": "me"})
    assert store.content("o") == data
    assert store.info()["octets"] > size and store.exists(["o"]) == 1
    assert store.delete(["o"]) == 1
    assert store.content("o") is None and store.info()["octets"] == 0


def test_replaced_content_stays_for_its_readers_and_goes_then(store: Driver) -> None:
    data = os.urandom(2 * PART)
    store.put_large("o", data)
    blob = store.object("o")["blob"]
    store.put_large("o", os.urandom(PART + 1))
    store.put_small("small", b"x")
    store.put("small", "a record now")
    assert store.engine.read_part(blob, 1, 0, PART) == data[PART:]
    assert store.engine.read_part(blob, 1, 5, 9) == data[PART + 5 : PART + 9]
    store.tick()
    assert store.engine.read_part(blob, 0, 0, PART) == data[:PART]
    store.clock.advance(61)
    store.tick()
    assert store.engine.read_part(blob, 0, 0, PART) is None
    assert store.content("o") is not None and store.get("small") == "a record now"


def test_copies_share_content_until_the_last_is_gone(store: Driver) -> None:
    data = os.urandom(PART + 5)
    store.put_large("o", data)
    store.put_small("small", b"content")
    store.put("record", {"x": 1})
    assert store.copy("o", "p") and store.copy("small", "small2", to_bucket="other")
    assert store.copy("record", "record2") and store.get("record2") == {"x": 1}
    assert store.copy("nothing", "p") == 0
    assert store.copy("o", "p", only_if="absent") is None
    with pytest.raises(VersionConflict):
        store.copy("o", "p", version=0)
    same = store.object("p")["version"]
    assert store.copy("o", "p") == same and store.copy("o", "o") == store.object("o")["version"]
    store.delete(["o", "small"])
    store.clock.advance(61)
    store.tick()
    assert store.content("p") == data and store.content("small2", bucket="other") == b"content"
    blob = store.object("p")["blob"]
    store.delete(["p"])
    store.clock.advance(61)
    store.tick()
    assert store.engine.read_part(blob, 0, 0, PART) is None


def test_an_upload_that_lacks_something(store: Driver) -> None:
    data = os.urandom(2 * PART + 9)
    name, digests = store.send(data[: 2 * PART])
    with pytest.raises(InvalidArgument, match="send the parts that are missing"):
        store.finish("o", data, name, digests + b"x" * 8)
    _, digests = store.send(data, name)
    with pytest.raises(InvalidArgument) as raised:
        store.finish("o", data, name, digests[:8] + b"x" * 8 + digests[16:])
    assert raised.value.data == {"part": 1}
    assert store.object("o") is None
    assert store.finish("o", data, name, digests)
    assert store.content("o") == data


def test_an_upload_goes_on_where_it_was(store: Driver) -> None:
    data = os.urandom(3 * PART)
    name, digests = store.send(data[:PART])
    assert store.engine.upload_parts(name) == [digests]
    assert store.engine.upload_parts(os.urandom(16)) == []
    _, digests = store.send(data, name)
    version = store.finish("o", data, name, digests)
    assert store.finish("o", data, name, digests) == version
    assert b"".join(store.engine.upload_parts(name)) == digests
    store.delete(["o"])
    with pytest.raises(InvalidArgument) as raised:
        store.finish("o", data, name, digests)
    assert raised.value.data == {"finished": True}


def test_only_if_prevents_an_object(store: Driver) -> None:
    version = store.put("o", 1)
    data = os.urandom(PART + 1)
    assert store.put_small("o", b"x", only_if="absent") is None
    assert store.put_large("o", data, only_if="absent") is None
    with pytest.raises(VersionConflict):
        store.put_large("o", data, version=version + 5)
    assert store.get("o") == 1
    assert store.put_large("o", data, version=version)
    store.configure(quota=PART)
    with pytest.raises(QuotaExceeded):
        store.put_large("p", data)
    assert store.object("p") is None


def test_objects_expire_and_go_with_their_bucket(store: Driver) -> None:
    store.configure(ttl=10)
    data = os.urandom(PART + 1)
    store.put_large("o", data, ttl=5)
    blob = store.object("o")["blob"]
    store.clock.advance(5)
    assert store.object("o") is None
    store.put_large("p", data, bucket="b")
    other = store.object("p", bucket="b")["blob"]
    store.drop(bucket="b")
    store.tick()
    store.clock.advance(61)
    store.tick()
    assert store.engine.read_part(blob, 0, 0, PART) is None
    assert store.engine.read_part(other, 0, 0, PART) is None


def test_lists_tell_what_is_known(store: Driver) -> None:
    store.put("a", "xy")
    store.put_small("b", b"12345", content_type="c")
    first, second = store.list_page()["items"]
    assert (first["key"], first["size"]) == ("a", 3) and "sha256" not in first
    assert (second["size"], second["content_type"]) == (5, "c")
    assert store.scan_page(values=True)["items"][1][1]["size"] == 5


def test_repeats_of_objects(store: Driver) -> None:
    version = store.put_small("o", b"x", idempotency_key="k")
    assert store.put_small("o", b"x", idempotency_key="k") == version
