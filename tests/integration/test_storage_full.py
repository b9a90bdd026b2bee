"""The storage service on a disk that becomes full: what is refused, what stays, how it goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh import connect
from mesh.client.storage.local import LocalUpload
from mesh.errors import StoreFull
from mesh.protocol.storage import PART
from tests import support
from tests.integration.memory_mesh import MemoryMesh
from workers.storage import maintenance


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MiB, of which 64 are kept from uploads."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("way", ["written", "sent"])
def test_a_full_disk(
    process: support.Start, small_disk: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "sent":
        monkeypatch.setattr(LocalUpload, "open", lambda path, upload: None)
    mesh = MemoryMesh(process, small_disk / "s", processes=2, service="storage")
    with connect(mesh.endpoint, timeout=1.0) as m:
        s = m.storage
        large: dict[str, bytes] = {}
        with pytest.raises(StoreFull, match="disk is full"):
            for number in range(20):
                data = os.urandom(3 * PART + 1)
                s.put_object(f"large{number}", data)
                large[f"large{number}"] = data
        assert len(large) >= 2
        small: dict[str, bytes] = {}
        with pytest.raises(StoreFull):
            for number in range(200):
                value = os.urandom(PART // 2)
                s.put(f"small{number}", value)
                small[f"small{number}"] = value
        assert len(small) > 50
        for key, wanted in small.items():
            assert s.get(key) == wanted
        for key, wanted in large.items():
            found = s.get_object(key)
            assert found is not None and found.read() == wanted
        # Deleting works, and makes room: for records at once, for what was refused before too.
        assert s.delete(*small, "large0") == len(small) + 1
    with connect(mesh.endpoint, timeout=20.0) as m:
        s = m.storage
        assert s.put("again", 1)
        assert s.get("again") == 1
        found = s.get_object("large1")
        assert found is not None and found.read() == large["large1"]
    assert len(mesh.workers()) == 2  # nobody has died of it
    assert maintenance.verify(small_disk / "s").damage == []
