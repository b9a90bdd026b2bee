"""What the README shows works as it is written, in both languages."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests import support

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "README.zh-CN.md")
PORT = "8080"

pytestmark = pytest.mark.timeout(60)


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of `language`, in order."""
    text = (ROOT / name).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def commands(block: str) -> list[str]:
    """The lines of a shell block, without comments."""
    return [line for text in block.splitlines() if (line := text.partition("#")[0].strip())]


def run(tmp_path: Path, *parts: str) -> str:
    """Run Python code in a process of its own, in `tmp_path`; its output."""
    program = tmp_path / "program.py"
    program.write_text("\n\n".join(parts), "utf-8")
    environment = {"XDG_DATA_HOME": str(tmp_path / "data")}
    done = support.run(sys.executable, str(program), env=environment, timeout=40)
    assert done.returncode == 0, done.report()
    return done.output()


def test_both_languages_show_the_same() -> None:
    english, chinese = READMES
    for ours, theirs in zip(blocks(english, "python"), blocks(chinese, "python"), strict=True):
        assert ast.dump(ast.parse(ours)) == ast.dump(ast.parse(theirs))
    for ours, theirs in zip(blocks(english, "sh"), blocks(chinese, "sh"), strict=True):
        assert commands(ours) == commands(theirs)
    headings = [re.findall(r"^#+ ", (ROOT / name).read_text("utf-8"), re.M) for name in READMES]
    assert headings[0] == headings[1]


@pytest.mark.parametrize("name", READMES)
def test_every_link_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text("utf-8")):
        assert (ROOT / target).exists(), target


def start_storage(process: support.Start, endpoint: str, folder: Path) -> None:
    """The storage service, registered."""
    words = ("storage", "--broker", endpoint, "--data", str(folder / "s"))
    process(sys.executable, "-m", "workers", *words).expect(r"^serving storage", timeout=20)


def start_search(process: support.Start, endpoint: str, folder: Path) -> None:
    """The search service, registered."""
    words = ("search", "--broker", endpoint, "--data", str(folder / "f"))
    process(sys.executable, "-m", "workers", *words).expect(r"^serving search", timeout=20)


def test_the_blocks_of_the_search_service(process: support.Start, tmp_path: Path) -> None:
    _, (endpoint,) = support.start_broker(process)
    start_search(process, endpoint, tmp_path)
    block = blocks("docs/search.md", "python")[0].replace(f"tcp://127.0.0.1:{PORT}", endpoint)
    assert "<em>分布式</em>" in run(tmp_path, block)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a cache that expires")
    (tmp_path / "books.jsonl").write_text('{"id": "c", "title": "A cache", "year": 2020}')
    (tmp_path / "more.csv").write_text("id,title,year\nd,Caching,2021\n")
    load, query, info = commands(blocks("docs/search.md", "sh")[0])
    for line in (load.replace(" docs ", " loaded "), query.replace(" docs ", " loaded "), info):
        command, *words = shlex.split(line)
        assert command == "sage-mesh"
        done = support.run(
            sys.executable, "-m", "mesh.cli", *words,
            cwd=tmp_path, env={"SAGE_BROKERS": endpoint}, timeout=30,
        )  # fmt: skip
        assert done.returncode == 0, done.report()


def test_the_blocks_of_the_storage_service(process: support.Start, tmp_path: Path) -> None:
    _, (endpoint,) = support.start_broker(process)
    start_storage(process, endpoint, tmp_path)
    (block,) = blocks("docs/storage.md", "python")
    block = block.replace(f"tcp://127.0.0.1:{PORT}", endpoint)
    assert run(tmp_path, block).splitlines()[-1] == str(len(b"%PDF ..."))
    care = commands(blocks("docs/storage.md", "sh")[0])
    for number, line in enumerate(care):
        folders = {"/backups": tmp_path, "/var/lib/sage/storage": tmp_path / "s",
                   "/var/lib/sage": tmp_path}  # fmt: skip
        for shown, meant in folders.items():
            line = line.replace(shown, str(meant))
        command, *words = shlex.split(line)
        assert command == "sage-mesh"
        status = 1 if "compact" in words else 0  # it says that the service must be stopped
        done = support.run(sys.executable, "-m", "mesh.cli", *words, timeout=30)
        assert done.returncode == status, (number, done.report())


@pytest.mark.parametrize("name", READMES)
def test_the_python_blocks(name: str, process: support.Start, tmp_path: Path) -> None:
    service, calls, memory, storage, search, unit_test = blocks(name, "python")
    _, (endpoint,) = support.start_broker(process)
    (tmp_path / "shop.py").write_text(service, "utf-8")
    worker = process(
        sys.executable, "-m", "mesh.service", "shop:cart", "--broker", endpoint, cwd=tmp_path,
    )  # fmt: skip
    worker.expect(r"^serving cart")
    calls = calls.replace(f"tcp://127.0.0.1:{PORT}", endpoint)
    assert endpoint in calls
    run(tmp_path, service, calls)
    start_storage(process, endpoint, tmp_path)
    storage = storage.replace(f"tcp://127.0.0.1:{PORT}", endpoint)
    assert "order:17" in run(tmp_path, storage.replace("    list(", "    print(*"))
    start_search(process, endpoint, tmp_path)
    search = search.replace(f"tcp://127.0.0.1:{PORT}", endpoint)
    assert "<em>cache</em>" in run(tmp_path, search)
    memory = memory.replace(PORT, str(support.free_port()))
    printed = run(tmp_path, memory + '    print(client.retrieve("user_session"))')
    assert "{'user_id': 123, 'name': 'Alice'}" in printed
    run(tmp_path, service, unit_test, "import asyncio\nasyncio.run(test_total())")


@pytest.mark.parametrize("name", READMES)
def test_the_shell_blocks(name: str, process: support.Start) -> None:
    two_commands, five_minutes, _ = (commands(block) for block in blocks(name, "sh"))
    makefile = (ROOT / "Makefile").read_text()
    for line in two_commands:
        make, target = line.split()
        assert make == "make"
        assert re.search(rf"^{target}:", makefile, re.M)
    install, *rest = five_minutes
    assert install == "make install && . .venv/bin/activate"
    port = str(support.free_port())
    endpoint = f"tcp://127.0.0.1:{port}"
    environment = {"SAGE_BROKERS": endpoint}
    for line in rest:
        command, *words = shlex.split(line.replace(PORT, port).removesuffix("&"))
        assert command == "sage-mesh"
        words = [sys.executable, "-m", "mesh.cli", *words]
        if line.endswith("&"):
            child = process(*words, cwd=ROOT)
            if "serve" in words:
                child.expect_all(r"^serving cart", 2)
            else:
                child.expect(r"^listening ")
        else:
            done = support.run(*words, env=environment, timeout=20)
            assert done.returncode == 0, done.report()
            if "call" in words:
                assert "tea" in done.output()


def test_the_block_of_a_whole_mesh(process: support.Start, tmp_path: Path) -> None:
    up, *rest = commands(blocks("README.md", "sh")[2])
    assert up == "make up"
    recipe = re.search(r"^up:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert recipe is not None and "up --detach --config config/default.yaml" in recipe[1]
    config = ("--config", str(ROOT / "config" / "default.yaml"), "--run", str(tmp_path / "run"))
    port = str(support.free_port())
    environment = {
        "SAGE_MEMORY_DATA": str(tmp_path / "data"),
        "SAGE_SERVICE_PORT": port,
        "SAGE_BROKERS": f"tcp://127.0.0.1:{port}",
        "SAGE_MONITORING_METRICS_PORT": str(support.free_port()),
    }
    started = support.start_mesh(process, "up", "--detach", *config, env=environment)
    assert started.wait(timeout=40) == 0, started.report()
    try:
        for line in rest:
            command, *words = shlex.split(line.replace(".mesh/run", str(tmp_path / "run")))
            assert command == "sage-mesh"
            child = support.start_mesh(process, *words, env=environment)
            if words == ["top"]:
                child.expect("memory writer")
                child.stop()
            else:
                assert child.wait(timeout=40) == 0, child.report()
    finally:
        down = support.start_mesh(process, "down", *config, env=environment)
        assert down.wait(timeout=40) == 0, down.report()
