"""A broker and the memory service, whose processes can be killed, and clients that keep a record.

`SEED` of a failed test, given as SAGE_SEED, makes the same choices again; the moments differ.
"""

from __future__ import annotations

import math
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from mesh import connect
from mesh.client.sync import Caller
from mesh.errors import CallError, VersionConflict
from tests import support
from tests.linearizability import UNKNOWN, Conflict, Operation
from workers.store import lock_holder

SOAK: Final = bool(os.environ.get("SAGE_SOAK"))
SEED: Final = int(os.environ.get("SAGE_SEED", "0")) or random.getrandbits(32)


def until(ready: Callable[[], Any], *, timeout: float = 30.0) -> Any:
    """What `ready` returns, once that is true: nothing tells of another process's state."""
    ends_at = time.monotonic() + timeout
    while not (found := ready()):
        if time.monotonic() > ends_at:
            raise AssertionError(f"{ready} was not true within {timeout} s")
        threading.Event().wait(0.005)
    return found


class MemoryMesh:
    """One broker at a fixed port, and the processes of the memory or another service."""

    def __init__(
        self,
        start: support.Start,
        data: Path | None,
        *words: str,
        processes: int = 3,
        service: str = "memory",
    ) -> None:
        """Start both. `data`: where the LMDB store is; None: the backend is one in memory."""
        self._start = start
        self._data = data
        self._processes = processes
        self.endpoint = f"tcp://127.0.0.1:{support.free_port()}"
        self._broker = self._start_broker()
        backend = ("--data", str(data)) if data else ("--backend", "memory")
        self.supervisor = start(
            sys.executable, "-m", "workers", service, "--broker", self.endpoint,
            *backend, *words, "--processes", str(processes),
        )  # fmt: skip
        self._serving = rf"^serving {service} pid=(\d+)$"
        self.supervisor.expect_all(self._serving, processes, timeout=20)

    def _start_broker(self) -> support.Child:
        return support.start_broker(self._start, binds=(self.endpoint,))[0]

    def workers(self) -> list[int]:
        """The processes that have registered and are alive."""
        pids = map(int, re.findall(self._serving, self.supervisor.output(), re.M))
        return [pid for pid in pids if _alive(pid)]

    def broker_pid(self) -> int:
        """The process of the broker."""
        return self._broker.pid

    def complete(self) -> bool:
        """Whether all processes run."""
        return len(self.workers()) >= self._processes

    def writer(self) -> int:
        """The process that writes the store, as soon as there is one."""
        assert self._data is not None
        data = self._data
        return int(until(lambda: lock_holder(data)))

    def kill_writer(self) -> int:
        """kill -9 of whoever writes; who that was."""
        writer = self.writer()
        kill(writer)
        return writer

    def kill_reader(self, rng: random.Random) -> None:
        """kill -9 of one that does not write, if there is any."""
        writer = self.writer()
        readers = [pid for pid in self.workers() if pid != writer]
        if readers:
            kill(rng.choice(readers))

    def kill_broker(self) -> None:
        """kill -9 of the broker; another one begins at the same port."""
        self._broker.kill()
        self._broker = self._start_broker()


def anonymous(pid: int) -> int:
    """Private memory of a process in octets, without mapped pages of the store."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no RssAnon of {pid}")


def kill(pid: int) -> None:
    """kill -9; it may be gone already."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Recorder:
    """What some clients did to a few keys, as a history."""

    def __init__(self, endpoint: str, seed: int = SEED, service: str = "memory") -> None:
        self.service = service
        self.history: list[Operation] = []
        self.errors: Counter[tuple[str, bool]] = Counter()
        """Calls that failed, by error and whether they may have been executed."""
        self.prefix = "0"
        """Keys begin with it: with another one from time to time, each history stays short."""
        self._endpoint = endpoint
        self._seed = seed
        self._failures: list[BaseException] = []

    @contextmanager
    def running(self, clients: int, work: Callable[[Client], None]) -> Iterator[None]:
        """While the block runs, `work` is done again and again by each client in its thread.

        Raises:
            BaseException: what one of them raised.
        """
        stop = threading.Event()

        def loop(number: int) -> None:
            try:
                with connect(self._endpoint, timeout=30.0) as m:
                    client = Client(self, m, number)
                    while not stop.is_set():
                        work(client)
            except BaseException as error:
                self._failures.append(error)

        threads = [threading.Thread(target=loop, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        if self._failures:
            raise self._failures[0]

    def read_all(self) -> None:
        """Read every key once more."""
        with connect(self._endpoint, timeout=30.0) as m:
            client = Client(self, m, -1)
            for key in sorted({operation.key for operation in self.history}):
                client.entry(key)


class Client:
    """One client: it makes calls one after the other and notes them."""

    def __init__(self, recorder: Recorder, m: Caller, number: int) -> None:
        self.number = number
        self.rng = random.Random(f"{recorder._seed} {number}")
        self.mesh = m
        self.turns = 0
        self._recorder = recorder
        self._values = 0
        self._versions: dict[str, int] = {}

    def note(
        self, key: str, verb: str, arguments: tuple[Any, ...], method: str, *args: Any, **kw: Any
    ) -> Any:
        """Make a call and note it; its result, UNKNOWN if it failed."""
        recorder = self._recorder
        called_at = time.monotonic()
        returned_at = math.inf
        result: Any = UNKNOWN
        try:
            result = self.mesh.call(f"{recorder.service}.{method}", *args, **kw)
            returned_at = time.monotonic()
        except VersionConflict as error:
            result, returned_at = Conflict(error.data["version"]), time.monotonic()
        except CallError as error:
            recorder.errors[type(error).__name__, error.maybe_executed] += 1
            if not error.retryable and not error.maybe_executed:
                raise
            threading.Event().wait(0.01)
            if not error.maybe_executed or verb in ("get", "entry"):
                return result
        if verb == "entry" and result is not None:
            result = (result["value"], result["version"])
        recorder.history.append(
            Operation(key, verb, arguments, result, called_at, returned_at, self.number)
        )
        return result

    def entry(self, key: str) -> None:
        """Read a key with its version."""
        found = self.note(key, "entry", (), "entry", key)
        if found is not UNKNOWN:
            self._versions[key] = found[1] if found else 0

    def act(self) -> None:
        """One random verb on one of a few keys. Values are never used twice."""
        key = f"{self._recorder.prefix}:{self.rng.randrange(6)}"
        verb = self.rng.choice(
            ("get", "entry", "entry", "set", "increment", "increment", "compare_and_set", "delete")
        )
        self._values += 1
        value = (self.number + 1) * 10**9 + self._values * 1000
        if verb == "get":
            self.note(key, verb, (), verb, key)
        elif verb == "entry":
            self.entry(key)
        elif verb == "set":
            found = self.note(key, verb, (value,), verb, key, value)
            if found is not UNKNOWN:
                self._versions[key] = found
        elif verb == "increment":
            self.note(key, verb, (1,), verb, key)
        elif verb == "delete":
            self.note(key, verb, (), verb, [key])
        else:
            version = self._versions.get(key, 0)
            found = self.note(key, verb, (value, version), verb, key, value, version)
            if isinstance(found, Conflict):
                self._versions[key] = found.found
            elif found is not UNKNOWN:
                self._versions[key] = found
