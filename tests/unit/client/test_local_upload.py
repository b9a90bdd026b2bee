"""The file of an upload on the client's own machine: what is written to, and what never is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mesh.client.storage import local
from mesh.client.storage.local import LocalUpload
from mesh.protocol.storage import PART

NAME = bytes(range(16))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The empty file that a service has made for an upload."""
    made = tmp_path / NAME.hex()
    made.touch(mode=0o600)
    return made


def test_parts_go_to_their_places(path: Path) -> None:
    file = LocalUpload.open(str(path), NAME)
    assert file is not None
    file.write(1, b"end")
    file.write(0, memoryview(b"a" * PART))
    file.flush()
    file.close()
    file.close()
    assert path.read_bytes() == b"a" * PART + b"end"
    with pytest.raises(OSError):
        file.write(0, b"late")


def test_one_at_a_time(path: Path) -> None:
    file = LocalUpload.open(str(path), NAME)
    assert file is not None
    assert LocalUpload.open(str(path), NAME) is None
    file.close()
    again = LocalUpload.open(str(path), NAME)
    assert again is not None  # nothing was written yet
    again.close()


def test_nothing_else_is_ever_written_to(path: Path, tmp_path: Path) -> None:
    """Whatever answers for the service, it cannot have a client overwrite a file of its user."""
    assert LocalUpload.open(str(path), bytes(16)) is None  # of another name
    for odd in ("", NAME.hex(), "/nowhere/" + NAME.hex(), "a\0b", None, 5, [str(path)]):
        assert LocalUpload.open(odd, NAME) is None
    second = tmp_path / "second"
    os.link(path, second)  # it is somebody's file under another name
    assert LocalUpload.open(str(path), NAME) is None
    second.unlink()
    path.write_bytes(b"precious")
    assert LocalUpload.open(str(path), NAME) is None
    assert path.read_bytes() == b"precious"
    path.unlink()
    second.touch()
    path.symlink_to(second)
    assert LocalUpload.open(str(path), NAME) is None
    path.unlink()
    os.mkfifo(path)
    assert LocalUpload.open(str(path), NAME) is None
    path.unlink()
    path.mkdir()
    assert LocalUpload.open(str(path), NAME) is None


def test_a_file_of_another_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert LocalUpload.open(str(path), NAME) is None


def test_the_disk_keeps_its_reserve(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = os.statvfs(path)
    monkeypatch.setattr(local, "DISK_RESERVE", disk.f_blocks * disk.f_frsize)
    file = LocalUpload.open(str(path), NAME)
    assert file is not None
    with pytest.raises(OSError, match="no room"):
        file.write(0, b"x")
    file.close()
    assert path.read_bytes() == b""
