"""Fixtures of all tests: child processes that never outlive their test, and hypothesis profiles."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import hypothesis
import pytest

from mesh.compiled import stale
from tests import support

SOAK: Final = bool(os.environ.get("SAGE_SOAK"))
CHILDREN: Final = pytest.StashKey[list[support.Child]]()

# Wall-clock limits of single examples say more about a busy machine than about the code.
hypothesis.settings.register_profile(
    "usual", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "ci", hypothesis.settings.get_profile("usual"), derandomize=True, print_blob=True
)
hypothesis.settings.register_profile(
    "soak", hypothesis.settings.get_profile("usual"), max_examples=5000
)
hypothesis.settings.load_profile("soak" if SOAK else "ci" if os.environ.get("CI") else "usual")


def pytest_configure() -> None:
    """Mark whatever is started from here on, also by code that knows nothing of `support`."""
    outdated = stale() if os.environ.get("SAGE_PUMP") != "pure" else []
    if outdated:
        raise pytest.UsageError(
            f"compiled before their source was changed: {', '.join(outdated)}; run `make install`"
        )
    os.environ[support.SESSION_VARIABLE] = support.SESSION
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Shells start what runs in the background so, and every child would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip soak tests unless they are asked for."""
    if SOAK:
        return
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.skip(reason="runs for minutes; set SAGE_SOAK=1"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failed test what its children have printed, whatever that was."""
    report = yield
    # Reports travel between processes as UTF-8, and tests print halves of characters on purpose.
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    if report.failed:
        for child in item.stash.get(CHILDREN, []):
            report.sections.append((f"child process {child.pid}", child.report()))
    return report


@pytest.fixture(scope="session", autouse=True)
def nobody_left_behind() -> Iterator[None]:
    """End, and report as an error, every process that outlived the tests."""
    yield
    left = support.survivors()
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if left:
        lines = "\n".join(f"{pid}  {command}" for pid, command in left.items())
        pytest.fail(f"processes left behind by the tests:\n{lines}", pytrace=False)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that gives a free TCP port of 127.0.0.1, a new one at each call."""
    return support.free_port


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[support.Start]:
    """A function that starts a child: `process("prog", "word", env=..., cwd=...)`.

    All are ended after the test, the last started first; their output is shown if it failed.
    """
    children = request.node.stash.setdefault(CHILDREN, [])

    def start(
        *command: str, env: Mapping[str, str] | None = None, cwd: Path = support.ROOT
    ) -> support.Child:
        child = support.Child(command, env=env, cwd=cwd)
        children.append(child)
        return child

    yield start
    for child in reversed(children):
        child.stop()
