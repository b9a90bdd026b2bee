"""Errors on their way to the caller: whatever a handler raises can be sent, and harms no other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import Service, errors
from mesh.errors import CallError, InvalidArgument, RemoteError
from mesh.protocol import payload
from mesh.testing import MeshTest


class Silent(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


RAISED: dict[str, BaseException] = {
    "huge": ValueError("x" * 100_000_000),
    "silent": Silent(),
    "half a character": OSError("no such file: \udcff"),
    "no text at all": InvalidArgument(None),  # type: ignore[arg-type]
    "huge data": InvalidArgument("wrong", data={"all": b"x" * 100_000_000}),
    "data that cannot be sent": InvalidArgument("wrong", data={"it": object()}),
    "a long name": type("E" * 10_000, (Exception,), {})("text"),
    "a code that no header holds": type("Own", (CallError,), {"code": 70_000})("text"),
    "a kind that is no text": RemoteError("text", kind=object()),  # type: ignore[arg-type]
    "a message that cannot be had": InvalidArgument(Silent()),  # type: ignore[arg-type]
    "the end of a generator": GeneratorExit(),
    "the end of a program": SystemExit(3),
}


@pytest.mark.parametrize("case", RAISED)
def test_what_is_told_of_an_error_is_bounded(case: str) -> None:
    _, fields = errors.to_wire(RAISED[case], traceback="t" * 10_000_000)
    fields.pop("data", None)
    assert len(payload.encode(fields)) < 2 * (errors.MAX_MESSAGE + errors.MAX_TRACEBACK)


def test_what_was_left_out_is_said() -> None:
    _, fields = errors.to_wire(ValueError("x" * 20_000))
    assert fields["message"].endswith(f"... ({20_000 - errors.MAX_MESSAGE:,} more characters)")


@pytest.mark.parametrize("case", RAISED)
@pytest.mark.parametrize("kind", ["plain", "loop", "late", "stream", "group"])
def test_the_worker_lives_on(case: str, kind: str) -> None:
    service = Service("s")
    error = RAISED[case]

    @service.rpc
    def plain() -> None:
        raise error

    @service.rpc
    async def loop() -> None:
        raise error

    @service.rpc
    async def late() -> None:
        await asyncio.sleep(0)
        raise error

    @service.rpc
    async def stream() -> Any:
        yield 1
        raise error

    @service.batch(max_size=1)
    async def group(values: list[int]) -> list[int]:
        raise error

    @service.rpc
    def ping() -> str:
        return "pong"

    @service.rpc
    async def answer() -> str:
        return "well"

    async def use() -> None:
        async with MeshTest(service) as m:
            with pytest.raises(CallError) as caught:
                if kind == "stream":
                    _ = [item async for item in m.stream("s.stream")]
                else:
                    await m.call(f"s.{kind}", *[1] * (kind == "group"))
            assert isinstance(caught.value, RemoteError | InvalidArgument)
            if kind not in ("plain", "stream"):
                (failed,) = await m.batch(f"s.{kind}", [1] if kind == "group" else [()])
                assert isinstance(failed, RemoteError | InvalidArgument)
            assert await m.call("s.ping") == "pong"
            assert await m.call("s.answer") == "well"

    asyncio.run(use())
