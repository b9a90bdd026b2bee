"""A librarian over the search service: it has read Python's own documentation, and a Chinese book.

The documents are the docstrings of this Python installation's library (read, not imported), and the
chapters of `examples/data/distributed.zh.txt`. While they are loaded the process that writes is
killed, and another takes its place. Then real questions are asked in both languages, a name is
looked up that is spelled wrong (by vectors that are made here), and a word is completed. What must
come first is known.

Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import ast
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any
from zlib import crc32

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from examples.archive import kill_writer
from mesh import connect
from mesh.cli.processes import Process, broker_environment, start_broker
from mesh.client.search import Hit, Search, keyword, text, vector

BOOK = Path(__file__).with_name("data") / "distributed.zh.txt"
PACKAGES = (
    "asyncio", "collections", "concurrent/futures", "email", "html", "http", "importlib", "json",
    "logging", "multiprocessing", "sqlite3", "unittest", "urllib", "xml",
)  # fmt: skip
DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
DIMENSION = 64
BATCH = 200
BEFORE, AFTER = "\x02", "\x03"


@dataclass(frozen=True)
class Question:
    """What is asked of a collection, and the document that must come first."""

    collection: str
    words: str
    first: str
    filter: str = ""


QUESTIONS = (
    Question("python", '"delete a directory tree"', "shutil.rmtree"),
    Question("python", "gather coroutines, aggregating results", "asyncio.tasks.gather"),
    Question("python", "split a string by shell-like syntax", "shlex.split"),
    Question("python", "the n smallest elements", "heapq.nsmallest"),
    Question("python", "parse a URL into 6 components", "urllib.parse.urlparse"),
    Question("python", "close matches of a word", "difflib.get_close_matches"),
    Question("python", "cryptographically strong random numbers", "secrets"),
    Question("python", "name:nlargest AND dataset", "heapq.nlargest"),
    Question("python", "most recently added first", "queue.LifoQueue", filter="module:queue"),
    Question("book", "网络断开以后两边都接受写入", "脑裂"),
    Question("book", "时钟倒退了怎么测量时间", "时钟漂移"),
    Question("book", "增加机器时哪些键要搬家", "一致性哈希"),
    Question("book", "請求重複執行會怎樣", "幂等"),
    Question("book", "许多缓存同时过期", "缓存雪崩"),
    Question("book", "title:快照 OR 备份", "快照"),
)
MISSPELLED = {"shutil.copytre": "shutil.copytree", "asynco.tasks.waitfor": "asyncio.tasks.wait_for"}


def docstrings(limit: int) -> Iterator[dict[str, Any]]:
    """What the library says of its modules, classes and functions; up to `limit`."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [
        *root.glob("*.py"),
        *(path for name in PACKAGES for path in (root / name).glob("*.py")),
    ]
    count = 0
    for path in sorted(paths):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for document in _documents(module, path.read_text("utf-8", errors="replace")):
            yield document
            count += 1
            if count == limit:
                return


def _documents(module: str, source: str) -> Iterator[dict[str, Any]]:
    left: list[tuple[str, ast.AST]] = [(module, ast.parse(source))]
    seen: set[str] = set()
    while left:
        name, node = left.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, DOCUMENTED) and not child.name.startswith("_"):
                left.append((f"{name}.{child.name}", child))
        said = ast.get_docstring(node) if isinstance(node, (ast.Module, *DOCUMENTED)) else None
        if said and name not in seen:
            seen.add(name)
            kind = type(node).__name__.removeprefix("Async").removesuffix("Def").lower()
            yield {"id": name, "name": name, "module": module, "kind": kind, "says": said}


def chapters() -> list[dict[str, Any]]:
    """The chapters of the book."""
    found = []
    for part in BOOK.read_text("utf-8").strip().split("\n\n"):
        title, _, body = part.partition("\n")
        title = title.removeprefix("# ")
        found.append({"id": title, "title": title, "body": body})
    return found


def trigrams(texts: list[str]) -> list[list[float]]:
    """Vectors of how texts are spelled: each three letters count at one of so many places."""
    vectors = []
    for one in texts:
        found = [0.0] * DIMENSION
        padded = f"^{one.lower()}$"
        for at in range(len(padded) - 2):
            found[crc32(padded[at : at + 3].encode()) % DIMENSION] += 1.0
        vectors.append(found)
    return vectors


def start_service(stack: ExitStack) -> str:
    """A broker and a search service of two processes that end with `stack`; the address."""
    data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="librarian-"))) / "search"
    broker, endpoint = start_broker()
    stack.callback(broker.end)
    command = [sys.executable, "-P", "-m", "workers", "search", "--broker", endpoint]
    workers = Process([*command, "--data", str(data), "--processes", "2"], env=broker_environment())
    stack.callback(workers.end)
    workers.wait_for("serving ", 2)
    return endpoint


def load(search: Search, documents: Sequence[dict[str, Any]], kill: Any) -> float:
    """Load everything, `kill` the writer half-way; documents a second."""
    search.create("python", {
        "name": text(), "module": keyword(), "kind": keyword(), "says": text(),
        "spelling": vector(DIMENSION),
    })  # fmt: skip
    search.create("book", {"title": text(boost=2.0), "body": text()})
    half_way = threading.Event()

    def killed() -> None:
        half_way.wait()
        kill()

    def told(done: int, _: int | None) -> None:
        if done >= len(documents) // 2:
            half_way.set()

    killer = threading.Thread(target=killed)
    killer.start()
    begun = perf_counter()
    try:
        search.load(
            "python", documents, batch=BATCH, in_flight=2, refresh="wait", progress=told,
            embed=trigrams, embed_from="name",
        )  # fmt: skip
    finally:
        half_way.set()
        killer.join()
    search.load("book", chapters(), refresh="wait")
    return len(documents) / (perf_counter() - begun)


def fragment(hit: Hit) -> Text:
    """What was found in a hit, marked."""
    fragments = [*hit.highlight.values(), [""]][0]
    found = Text()
    for part in " ".join(fragments[0].split()).split(BEFORE):
        marked, _, rest = part.rpartition(AFTER)
        found.append(marked, style="bold yellow").append(rest)
    return found


def ask(search: Search, question: Question) -> tuple[Hit | None, str]:
    """The first answer to a question; what is wrong with it, or ""."""
    fields = ["says", "name"] if question.collection == "python" else ["body", "title"]
    found = search.query(
        question.collection, question.words, filter=question.filter or None, limit=3,
        highlight={"fields": fields, "size": 60, "count": 1, "before": BEFORE, "after": AFTER},
    )  # fmt: skip
    first = found[0] if found.hits else None
    names = [hit.id for hit in found]
    wrong = "" if names[:1] == [question.first] else f"{question.words}: {names}"
    return first, wrong


def main(arguments: list[str] | None = None) -> int:
    """Run everything; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.librarian", description=__doc__)
    parser.add_argument("--documents", type=int, default=10_000, help="at most (default: 10000)")
    parser.add_argument("--address", help="of a mesh with a search service (default: start one)")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    documents = list(docstrings(options.documents))
    wrong: list[str] = []

    with ExitStack() as stack:
        address = options.address or start_service(stack)
        console.print(f"Search service at {address}, 2 worker processes")
        search = stack.enter_context(connect(address)).search

        def kill() -> None:
            writer = kill_writer(address, "search")
            console.print(f"  [yellow]![/] writer {writer} killed while documents are loaded")

        speed = load(search, documents, kill)
        console.print(f"{len(documents):,} docstrings loaded, {speed:,.0f}/s")
        there = [one["id"] for one in search.scan("python")]
        if there != sorted((one["id"] for one in documents), key=str.encode):
            wrong.append(f"{len(there)} docstrings are there, {len(documents)} were loaded")
        if search.count("python") != len(documents):
            wrong.append(f"{search.count('python')} can be searched")

        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for name in ("asked", "first answer", "what was found in it"):
            table.add_column(name)
        begun = perf_counter()
        for question in QUESTIONS:
            hit, complaint = ask(search, question)
            wrong += [complaint] if complaint else []
            if hit is not None:
                table.add_row(Text(question.words), hit.id, fragment(hit))
        took = (perf_counter() - begun) / len(QUESTIONS)
        for spelled, meant in MISSPELLED.items():
            found = search.query("python", embed=trigrams, embed_text=spelled, limit=1)
            if found[0].id != meant:
                wrong.append(f"{spelled}: {found[0].id}")
            table.add_row(f"{spelled} [dim](by vector)[/]", found[0].id, f"{found[0].score:.2f}")
        words = [word for word, _ in search.suggest("python", "says", "asynch", limit=3)]
        if "asynchronous" not in words:
            wrong.append(f"asynch...: {words}")
        table.add_row("asynch... [dim](completed)[/]", ", ".join(words), "")

    console.print()
    console.print(table)
    console.print(f"\n{1000 * took:.1f} ms an answer")
    for line in wrong[:5]:
        console.print(line, style="red", markup=False)
    if wrong:
        console.print(f"[bold red]NOT OK[/]: {len(wrong)} wrong")
        return 1
    console.print(f"[bold green]OK[/]: {len(documents):,} docstrings, every answer is right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
