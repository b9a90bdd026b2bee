"""Types flow from a declared function to its caller. Checked by mypy where it is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

pytest.importorskip("mypy")

SOURCE = """
from collections.abc import AsyncIterator, Iterator
from mesh import AsyncMesh, Mesh, Service, Stream

s = Service("s")

@s.rpc
def plain(a: str, b: int = 1) -> float: ...
@s.rpc(timeout=2, idempotent=True)
async def suspended(a: str) -> list[int]: ...
@s.rpc
async def items(n: int) -> AsyncIterator[str]:
    yield ""
@s.rpc
def letters(n: int) -> Iterator[bytes]:
    yield b""

def blocking(m: Mesh) -> None:
    reveal_type(m.call(plain, "a"))
    reveal_type(m.call(suspended, "a"))
    reveal_type(m.call("s.plain", 1, 2))
    reveal_type(next(m.stream(items, 1)))
    reveal_type(next(m.stream(letters, 1)))
    reveal_type(m.options(timeout=1).submit(suspended, "a").result())
    reveal_type(m.batch(suspended, ["a"]))
    m.call(plain, 5)
    m.options(timeuot=1)
    reveal_type(m.search.query("docs", "cache", embed=lambda texts: [[1.0] for _ in texts]))
    reveal_type([hit.source for hit in m.search.hits("docs", {"match": {"title": "cache"}})])
    reveal_type(m.search.index("docs", {"title": "t"}).ids)
    reveal_type(m.search.get("docs", "a"))
    reveal_type(m.search.load("docs", ({"id": str(n)} for n in range(3)), embed="e.vectors"))
    m.search.index("docs", [{"title": "t"}], refresh="now")

async def asynchronous(m: AsyncMesh) -> None:
    reveal_type(await m.call(plain, "a"))
    reveal_type(await m.call(suspended, "a"))
    reveal_type([x async for x in m.stream(items, 1)])
    await m.call(suspended)
    reveal_type(await m.search.similar("docs", "a", embed=embed))
    reveal_type([one async for one in m.search.scan("docs")])
    await m.search.count("docs", limit=5)

async def embed(texts: list[str]) -> list[list[float]]: ...
"""


@pytest.mark.timeout(180)
def test_types_flow_through(tmp_path: Path) -> None:
    path = tmp_path / "user_code.py"
    path.write_text(SOURCE)
    options = ["--no-error-summary", "--disable-error-code=empty-body"]
    options += ["--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
    )
    found = [
        line.partition(": ")[2]
        for line in done.stdout.splitlines()
        if path.name in line.partition(": ")[0]
    ]
    revealed = [text.partition('"')[2][:-1] for text in found if "Revealed" in text]
    short = [re.sub(r"builtins\.|mesh\.(\w+\.)+", "", text) for text in revealed]
    assert short == [
        "float",
        "list[int]",
        "Any",
        "str",
        "bytes",
        "list[int]",
        "list[list[int] | CallError]",
        "Hits",
        "list[dict[str, Any]]",
        "list[str]",
        "dict[str, Any] | None",
        "Loaded",
        "float",
        "list[int]",
        "list[str]",
        "Hits",
        "list[dict[str, Any]]",
    ]
    mistakes = [text for text in found if text.startswith("error")]
    assert len(mistakes) == 5, mistakes
