"""What a service may declare, and what is refused where it is declared."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from mesh.errors import ConfigError
from mesh.service import Service, Stream
from mesh.service.declare import ASYNC, INLINE, THREAD

if TYPE_CHECKING:
    from nowhere import Absent  # type: ignore[import-not-found]


def test_a_declared_function_stays_what_it_was() -> None:
    cart = Service("cart")

    @cart.rpc(timeout=2, idempotent=True)
    def total(cart_id: str) -> int:
        return len(cart_id)

    assert total("abc") == 3
    declared: Any = total
    assert declared.__mesh_service__ == "cart"
    assert declared.__mesh_method__ == "total"
    assert declared.__mesh_options__["timeout"] == 2
    assert declared.__mesh_options__["idempotent"] is True
    assert cart.methods["total"].facts() == {"idempotent": True}


def test_the_kind_follows_from_the_definition() -> None:
    shop = Service("shop")

    @shop.rpc
    def plain() -> None: ...

    @shop.rpc(inline=True)
    def inline() -> None: ...

    @shop.rpc
    async def coroutine() -> None: ...

    @shop.rpc
    def items() -> Iterator[int]:
        yield 1

    @shop.rpc
    async def events() -> AsyncIterator[int]:
        yield 1

    @shop.rpc
    def returned_iterator() -> Iterator[int]:
        return iter([1])

    @shop.rpc
    async def upload(name: str, chunks: Stream[bytes]) -> int:
        return 0

    @shop.rpc
    def unknown_type(chunks: Stream[Absent]) -> int:
        return 0

    found = {
        name: (method.kind, method.stream, method.takes_stream)
        for name, method in shop.methods.items()
    }
    assert found == {
        "plain": (THREAD, False, False),
        "inline": (INLINE, False, False),
        "coroutine": (ASYNC, False, False),
        "items": (THREAD, True, False),
        "events": (ASYNC, True, False),
        "returned_iterator": (THREAD, True, False),
        "upload": (ASYNC, False, True),
        "unknown_type": (THREAD, False, True),
    }


def test_methods_of_an_instance_and_partials_can_be_declared() -> None:
    class Store:
        def get(self, key: str) -> str:
            return key

    shop = Service("shop")
    shop.rpc(Store().get)
    shop.rpc(name="least")(functools.partial(min, 1))
    assert shop.methods["get"].function("x") == "x"
    assert shop.methods["least"].function(0) == 0


def _plain() -> None: ...
async def _coroutine() -> None: ...
def _items() -> Iterator[int]:
    yield 1


def _two_streams(a: Stream[int], b: Stream[int]) -> None: ...
async def _iterator_from_coroutine() -> AsyncIterator[int]:
    return _items()  # type: ignore[return-value]


class _Store:
    def get(self, key: str) -> str:
        return key


@pytest.mark.parametrize(
    ("function", "options", "advice"),
    [
        (_plain, {"timeout": 0}, "timeout=0"),
        (_plain, {"timeout": 301}, "up to 300"),
        (_plain, {"timeout": "2"}, "timeout='2'"),
        (_plain, {"idempotent": 1}, "True or False"),
        (_plain, {"concurrency": 0}, "from 1"),
        (_plain, {"retries": 3}, "no option 'retries'"),
        (_plain, {"idempotant": True}, "did you mean idempotent"),
        (_plain, {"name": "a.b"}, "contains a dot"),
        (_plain, {"lane": 3}, "named by text"),
        (_coroutine, {"inline": True}, "inline=True is for plain"),
        (_items, {"inline": True}, "not for streams"),
        (_two_streams, {}, "one call carries one stream"),
        (_iterator_from_coroutine, {}, "async generator"),
        (_Store, {}, "not a function"),
        (_Store.get, {}, "method of an instance"),
        (lambda: 1, {}, "give name="),
    ],
)
def test_wrong_declarations_are_refused_with_advice(
    function: Any, options: dict[str, Any], advice: str
) -> None:
    shop = Service("shop")
    with pytest.raises(ConfigError, match=advice):
        shop.rpc(**options)(function)
    assert not shop.methods


def test_a_name_cannot_be_declared_twice() -> None:
    shop = Service("shop")
    shop.rpc(_plain)
    with pytest.raises(ConfigError, match="declared twice"):
        shop.rpc(_plain)


@pytest.mark.parametrize("name", ["", ".a", "a.", "mmi.x", "mesh.x", "a b", "x" * 201, None])
def test_wrong_service_names_are_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="name"):
        Service(name)


@pytest.mark.parametrize(
    "options", [{"concurrency": 0}, {"threads": True}, {"heartbeat": 0.01}, {"threads": 5000}]
)
def test_wrong_service_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Service("shop", **options)


def _two_lists(a: list[int], b: list[int]) -> list[int]:
    return a + b


@pytest.mark.parametrize(
    ("function", "options", "advice"),
    [
        (_two_lists, {}, "one parameter"),
        (_plain, {}, "one parameter"),
        (_items, {}, "not streams"),
        (_plain, {"max_size": 0}, "max_size=0"),
        (_plain, {"max_wait": -1}, "max_wait=-1"),
        (_plain, {"inline": True}, "no option 'inline'"),
    ],
)
def test_wrong_batch_handlers_are_refused(
    function: Any, options: dict[str, Any], advice: str
) -> None:
    with pytest.raises(ConfigError, match=advice):
        Service("shop").batch(**options)(function)


def test_capacity_by_default() -> None:
    plain = Service("plain", threads=5)
    plain.rpc(_plain)
    assert plain.lanes() == {"": 10}
    mixed = Service("mixed", threads=5)
    mixed.rpc(_plain)
    mixed.rpc(_coroutine)
    assert mixed.lanes() == {"": 256}
    stated = Service("stated", concurrency=7)
    stated.rpc(_plain)
    stated.lane("writer", capacity=3)
    assert stated.lanes() == {"": 7, "writer": 3}


def test_a_service_without_methods_cannot_start() -> None:
    with pytest.raises(ConfigError, match="no methods"):
        Service("empty").start("tcp://127.0.0.1:1")


def test_a_wrong_endpoint_is_refused_at_once() -> None:
    shop = Service("shop")
    shop.rpc(_plain)
    with pytest.raises(ConfigError, match="unknown transport"):
        shop.start("http://127.0.0.1:1")
