"""Looking from time to time whether what runs also answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from mesh.cli.check import examine
from mesh.cli.endpoints import parse_all
from mesh.cli.findings import FAIL, Finding
from mesh.cli.output import Failure


class Checks:
    """Examines the mesh at `endpoints` every `every` seconds, in a thread of its own.

    `tell` is given what fails, each time that this has changed.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        every: float,
        tell: Callable[[list[Finding]], object],
        timeout: float = 2.0,
    ) -> None:
        self._endpoints = endpoints
        self._every = every
        self._tell = tell
        self._timeout = timeout
        self._failing: list[Finding] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mesh-checks", daemon=True)

    def start(self) -> None:
        """Begin; the first look is after one interval."""
        self._thread.start()

    def close(self) -> None:
        """Look no more; one that is under way is not waited for."""
        self._closing.set()

    def failing(self) -> list[str]:
        """What failed at the last look."""
        return [f"{finding.name}: {finding.text}" for finding in self._failing]

    def _look(self) -> list[Finding]:
        try:
            return examine(parse_all(self._endpoints), self._timeout)
        except Failure as error:
            return [Finding("brokers", FAIL, str(error), error.advice)]

    def _run(self) -> None:
        while not self._closing.wait(self._every):
            found = [f for f in self._look() if f.state == FAIL]
            changed = {f.name for f in found} != {f.name for f in self._failing}
            self._failing = found
            if changed and not self._closing.is_set():
                self._tell(found)
