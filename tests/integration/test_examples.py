"""The examples run as a reader would run them."""

from __future__ import annotations

import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import pytest

from examples import pagecache
from examples.textmine import analysis, corpus
from examples.textmine.__main__ import compute_alone, differences, summary
from examples.textmine.job import Failure, Phase
from tests import support


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "quickstart",
            [
                r"total: 1690",
                r"offers: \['tea'\]",
                r"in half a second: 2970",
                r"the handler raised KeyError: 'sugar'",
                r"not found, a retry is safe: True",
                r"called directly: 350",
            ],
        ),
        (
            "streams",
            [
                r"whole: \[5, 4, 3, 2, 1\]",
                r"left at: 999997",
                r"upload: \{'name': 'blocks', 'size': 13107200, .*",
                r"sums: \[1, 3, 6, 10, 15, 21, 28, 36, 45, 55\]",
            ],
        ),
        (
            "batching",
            [
                r"root: 2\.0",
                r"root: failed, a negative number has no real root",
                r"root: 1\.5",
                r"5000 calls: .* same results: True",
                r"embed: 20 callers, up to \d+ served by one run",
            ],
        ),
        ("testing_a_service", [r"passed: .*"] * 4),
    ],
)
def test_example(process: support.Start, name: str, lines: list[str]) -> None:
    child = process(sys.executable, "-m", f"examples.{name}")
    assert child.wait(timeout=40) == 0
    printed = child.output().splitlines()
    assert len(printed) == len(lines)
    for line, pattern in zip(printed, lines, strict=True):
        assert re.fullmatch(pattern, line)


def test_textmine(process: support.Start) -> None:
    """Small, but complete: a worker and the broker are killed, and every result is right."""
    child = process(sys.executable, "-m", "examples.textmine", "--files", "250")
    assert child.wait(timeout=55) == 0
    text = child.output()
    assert "OK: " in text
    assert "NOT OK" not in text
    assert "DIFFERENT" not in text
    assert re.search(r"worker \d+ killed", text)
    assert re.search(r"given out again +[1-9]\d* by the broker +[1-9]\d* by the client", text)
    assert re.search(r"calls that failed +0 +0", text)
    assert "no process left behind" in text


def test_the_page_cache(process: support.Start) -> None:
    """Small, but complete: the writer is killed, every counter and every page is right."""
    child = process(
        sys.executable, "-m", "examples.pagecache", "--requests", "3200", "--pages", "100"
    )
    assert child.wait(timeout=55) == 0
    text = child.output()
    assert re.search(r"writer \d+ killed", text)
    assert re.search(r"requests that failed +0\n", text)
    assert re.search(r"of them wrong +0\n", text)
    assert re.search(r"^OK: .*3,200 requests, 0 failed", text, re.M)


def test_a_whole_mesh(process: support.Start) -> None:
    """From one file: used, its writer killed, all of it replaced under load, looked at, ended."""
    words = ("--requests", "1600", "--pages", "60", "--files", "300")
    child = process(sys.executable, "-m", "examples.wholemesh", *words)
    assert child.wait(timeout=55) == 0
    text = child.output()
    assert re.search(r"writer \d+ killed", text)
    assert "4 processes were replaced" in text
    assert re.search(r"^OK: 300 files stored, every checksum is right", text, re.M)
    assert re.search(r"^OK: [\d,]+ docstrings, every answer is right", text, re.M)
    assert "took_over" in text
    assert "sage_mesh_answers_total" in text
    assert len(re.findall(r"^OK: .* 0 failed", text, re.M)) == 2
    assert re.search(r"^OK: a mesh from one file", text, re.M)
    assert support.survivors(grace=5.0, naming="wholemesh") == {}


def test_what_is_wrong_in_the_cache_is_found() -> None:
    class Store:
        """A cache with one wrong counter, one unknown counter and one wrong page."""

        def scan_items(self, prefix: str) -> Iterator[tuple[str, Any]]:
            texts = {"a.py": "class A: pass", "b.py": "other"}
            items: dict[str, Any] = {"hits:a.py": 3, "hits:b.py": 1, "hits:c.py": 1}
            items |= {f"page:{path}": pagecache.page(path, text) for path, text in texts.items()}
            yield from ((key, value) for key, value in items.items() if key.startswith(prefix))

    served = pagecache.Served(hits=Counter({"a.py": 3, "b.py": 2}))
    compared, wrong = pagecache.wrong_in_store(
        cast("Any", Store()), served, {"a.py": "class A: pass", "b.py": "def b(): pass"}
    )
    assert compared == 5
    assert sorted(wrong) == [
        "hits:b.py is 1, the clients were told 2",
        "hits:c.py is 1, the clients were told 0",
        "page:b.py is not what the file gives",
    ]


def test_textmine_leaves_nothing_behind_when_interrupted(process: support.Start) -> None:
    child = process(sys.executable, "-m", "examples.textmine")
    child.expect(r"! worker \d+ killed")
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=20) == 130
    assert "Traceback" not in child.output()
    assert "nothing is left behind" in child.output()
    assert support.survivors(grace=5.0, naming="textmine") == {}


def test_a_wrong_result_is_found() -> None:
    texts = {"a.py": "def f():\n    return 1\n", "b.py": "class C: pass\n"}
    alone, _ = compute_alone(texts)
    mesh, _ = compute_alone(texts)
    assert differences(mesh, alone) == []
    mesh["batches"].pop("a.py")
    mesh["streams out"]["b.py"][0][2] = "D"
    mesh["stream in"]["distinct"] += 1
    mesh["calls"]["c.py"] = {}
    assert differences(mesh, alone) == [
        "batches: a.py",
        "calls: c.py",
        "stream in: distinct",
        "streams out: b.py",
    ]
    mesh["stream in"] = None
    assert "stream in: distinct" in differences(mesh, alone)


def test_the_summary_of_a_phase_that_failed_can_still_be_shown() -> None:
    alone, _ = compute_alone({"a.py": "x = 1\n"})
    broken = {**alone, "calls": {}, "streams out": {}, "batches": {}, "stream in": None}
    assert dict(summary(broken))["files"] == "0"
    assert [label for label, _ in summary(broken)][:5] == [label for label, _ in summary(alone)][:5]


def test_what_a_failure_cost_is_worked_out_from_the_calls() -> None:
    phase = Phase("calls", "files", 4)
    phase.spans = [(0.0, 1.0), (0.5, 1.5), (1.8, 3.0), (1.9, 6.0), (5.0, 6.5)]
    failure = Failure("killed", at=2.0)
    failure.cost(phase)
    assert failure.caught == 2
    assert failure.slowest == pytest.approx(4.1)
    assert failure.usual == pytest.approx(1.2)
    assert failure.silence == pytest.approx(3.0)


def test_the_analysis() -> None:
    text = (
        "# note\nclass Tea:\n    async def brew(self): ...\n\n    def pour(self):\n        pass\n"
    )
    assert list(analysis.outline(text)) == [
        [2, "class", "Tea"],
        [3, "async def", "brew"],
        [5, "def", "pour"],
    ]
    found = analysis.profile(text)
    assert (found["lines"], found["blank"], found["comments"]) == (6, 1, 1)
    assert found["longest"] == len("    async def brew(self): ...")
    assert analysis.keywords(text) == {"class": 1, "async": 1, "def": 2, "pass": 1}
    words = analysis.vocabulary([text, text])
    assert (words["texts"], words["words"]) == (2, 2 * found["words"])
    assert words["common"][0] == ["def", 4]


def test_the_corpus_is_spread_over_the_library() -> None:
    texts = corpus.read(60)
    assert 40 <= len(texts) <= 60
    assert len({path.split("/")[0] for path in texts}) > 5
    assert all(text.strip() for text in texts.values())
