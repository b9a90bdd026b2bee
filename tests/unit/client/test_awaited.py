"""`await mesh.call(...)`: a coroutine by its protocol, and a future while it is awaited."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mesh.errors import InvalidArgument
from mesh.service import Service
from mesh.testing import MeshTest


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test runs on a loop of its own, for ten seconds at most."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 10.0))

    return run


def shop() -> tuple[Service, list[str]]:
    """A service, and what its handlers note."""
    made = Service("shop", version="1")
    noted: list[str] = []

    @made.rpc
    async def echo(value: Any) -> Any:
        noted.append("echo")
        return value

    @made.rpc
    async def hang() -> None:
        noted.append("begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            noted.append("cancelled")
            raise

    return made, noted


@on_loop
async def test_it_is_a_coroutine_and_no_future_until_it_is_awaited() -> None:
    made, noted = shop()
    async with MeshTest(made) as m:
        call = m.call("shop.echo", 1)
        assert asyncio.iscoroutine(call)
        assert inspect.isawaitable(call)
        assert not asyncio.isfuture(call)
        await asyncio.sleep(0)
        assert noted == []
        assert await call == 1


@on_loop
async def test_tasks_gather_and_timeouts_take_it_as_a_coroutine() -> None:
    made, _ = shop()
    async with MeshTest(made) as m:
        assert await asyncio.create_task(m.call("shop.echo", 1)) == 1
        assert await asyncio.wait_for(m.call("shop.echo", 2), 5.0) == 2
        found = await asyncio.gather(
            m.call("shop.echo", 3), m.call("shop.echo", object()), return_exceptions=True
        )
        assert found[0] == 3
        assert isinstance(found[1], InvalidArgument)


@on_loop
async def test_it_is_awaited_once_and_by_one_task() -> None:
    made, noted = shop()
    async with MeshTest(made) as m:
        call = m.call("shop.echo", 1)
        await call
        with pytest.raises(RuntimeError, match="awaited already"):
            await call
        open_call = m.call("shop.hang")

        async def wait() -> None:
            await open_call

        first = asyncio.create_task(wait())
        while not noted.count("begun"):
            await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="being awaited already"):
            await wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first


ENDS: dict[str, Callable[[Coroutine[Any, Any, Any]], object]] = {
    "close": lambda call: call.close(),
    "throw": lambda call: _thrown(call),
}


def _thrown(call: Coroutine[Any, Any, Any]) -> None:
    with pytest.raises(ZeroDivisionError, match="why"):
        call.throw(ZeroDivisionError("why"))


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@on_loop
async def test_who_stops_waiting_cancels_the_call(
    end: Callable[[Coroutine[Any, Any, Any]], object],
) -> None:
    made, noted = shop()
    async with MeshTest(made) as m:
        call = m.call("shop.hang")
        call.send(None)
        while "begun" not in noted:
            await asyncio.sleep(0)
        end(call)
        while "cancelled" not in noted:
            await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="awaited already"):
            call.send(None)


@on_loop
async def test_one_that_was_never_awaited_says_so() -> None:
    made, noted = shop()
    async with MeshTest(made) as m:
        with pytest.warns(RuntimeWarning, match=r"call of 'shop\.echo' was never awaited"):
            m.call("shop.echo", 1)
            gc.collect()
        m.call("shop.echo", 1).close()
    assert noted == []


@on_loop
async def test_a_value_cannot_be_sent_to_one_that_has_not_begun() -> None:
    made, _ = shop()
    async with MeshTest(made) as m:
        call = m.call("shop.echo", 1)
        with pytest.raises(TypeError, match="not begun"):
            call.send(1)
        assert await call == 1


@on_loop
async def test_another_that_waits_as_for_a_future_does_not_push_the_first_away() -> None:
    made, noted = shop()
    async with MeshTest(made) as m:
        open_call: Any = m.call("shop.hang")
        first = asyncio.create_task(open_call)
        while "begun" not in noted:
            await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="being awaited already"):
            open_call.add_done_callback(print)
        with pytest.raises(RuntimeError, match="being awaited already"):
            await asyncio.gather(open_call)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
