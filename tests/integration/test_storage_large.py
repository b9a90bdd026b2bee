"""Objects that are larger than the memory anybody should need for them."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mesh import connect
from mesh.client.storage.local import LocalUpload
from tests import support
from tests.integration.memory_mesh import SOAK, MemoryMesh

SIZE = (4096 if SOAK else 256) * 1024 * 1024
BLOCK = bytes(range(256)) * 4096
BOUND = 64 * 1024 * 1024


def anonymous(pid: int) -> int:
    """Octets of anonymous memory of a process; 0 if it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


@contextmanager
def growth(pids: list[int]) -> Iterator[dict[int, int]]:
    """How much the anonymous memory of processes grows at most while the block runs."""
    before = {pid: anonymous(pid) for pid in pids}
    most = dict.fromkeys(pids, 0)
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            for pid in pids:
                most[pid] = max(most[pid], anonymous(pid) - before[pid])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()


def blocks() -> Iterator[bytes]:
    """The content, never all at once."""
    for number in range(SIZE // len(BLOCK)):
        yield BLOCK[number % 251 :] + BLOCK[: number % 251]


@pytest.mark.timeout(600 if SOAK else 60)
@pytest.mark.parametrize("way", ["written", "sent"])
def test_an_object_in_and_out_with_bounded_memory(
    process: support.Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "sent":  # as from another machine
        monkeypatch.setattr(LocalUpload, "open", lambda path, upload: None)
    mesh = MemoryMesh(process, tmp_path / "s", processes=2, service="storage")
    wanted = hashlib.sha256()
    for block in blocks():
        wanted.update(block)
    with connect(mesh.endpoint, timeout=120.0) as m:
        m.storage.put_object("first", BLOCK * 3)  # buffers, and whatever else is made once
        found = m.storage.get_object("first")
        assert found is not None and found.read()
        pids = [os.getpid(), mesh.broker_pid(), *mesh.workers()]
        with growth(pids) as grown:
            m.storage.put_object("large", blocks())
            info = m.storage.object_info("large")
            assert info is not None
            assert (info.size, info.sha256) == (SIZE, wanted.hexdigest())
            reading = m.storage.get_object("large")
            assert reading is not None
            assert sum(map(len, reading)) == SIZE  # and compared with its digest
        print({pid: f"{octets / 1e6:.1f} MB" for pid, octets in grown.items()})
        assert max(grown.values()) < BOUND, grown
        assert m.storage.delete("large") == 1
