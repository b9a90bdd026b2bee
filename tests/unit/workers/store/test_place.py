"""The data directory and what is refused there."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from mesh.errors import ConfigError
from tests.support import Start
from workers.store import Store, place

OPEN = """
import sys
from workers.store import Store
Store.open(sys.argv[1], service="test", tables={}).close()
print("opened")
"""


def test_all_is_kept_to_the_owner(store: Store) -> None:
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o700
    for file in store.path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_an_open_directory_is_closed_to_others(path: Path) -> None:
    path.mkdir(mode=0o755)
    place.prepare(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_file_is_no_directory(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=f"{path} cannot be used"):
        place.prepare(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory away")
def test_the_directory_of_another_user_is_refused(path: Path) -> None:
    path.mkdir()
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        place.prepare(path)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "fuse", "virtiofs", "9p"])
def test_shared_file_systems_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(place, "file_system", lambda _: kind)
    with pytest.raises(ConfigError, match=f"lies on a {kind} file system"):
        Store.open(path, service="test", tables={})


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_type_of_a_file_system_is_what_the_kernel_says() -> None:
    assert place.file_system(Path("/proc")) == "proc"
    assert place.file_system(Path("/sys")) == "sysfs"
    assert place.file_system(Path.cwd()) not in ("", "proc")


def test_a_second_container_is_refused(store: Store, process: Start) -> None:
    """What it would see: the lock is held, and the first one says that it lives elsewhere."""
    said = json.dumps({"host": "pod-7", "boot": "b", "processes": "1"})
    write = f"open({str(store.path / place.OPENERS)!r}, 'w').write({said!r})"
    assert process(sys.executable, "-c", write).wait() == 0  # here it would drop the lock
    child = process(sys.executable, "-c", OPEN, str(store.path))
    child.expect(r"in use by another container or machine \(pod-7\)")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a namespace of its own")
def test_a_process_in_another_namespace_is_refused(store: Store, process: Start) -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc"]
    probe = process(*command, "true")
    if probe.wait():
        pytest.skip("namespaces cannot be made here")
    child = process(*command, sys.executable, "-c", OPEN, str(store.path))
    child.expect("in use by another container or machine")


def test_the_place_of_those_who_have_left_does_not_matter(store: Store, process: Start) -> None:
    store.close()
    (store.path / place.OPENERS).write_text("of a container that is gone")
    child = process(sys.executable, "-c", OPEN, str(store.path))
    child.expect("opened")


def test_a_process_opens_a_store_once(store: Store) -> None:
    with pytest.raises(ConfigError, match="open in this process already"):
        Store.open(store.path, service="test", tables={})
    with pytest.raises(ConfigError, match="open in this process already"):
        place.Openers(store.path, exclusive=True)


def test_maintenance_is_kept_out_while_the_store_is_open(store: Store, process: Start) -> None:
    code = "import sys; from pathlib import Path; from workers.store.place import Openers\n"
    code += "Openers(Path(sys.argv[1]), exclusive=True); print('alone')"
    process(sys.executable, "-c", code, str(store.path)).expect("is in use; stop its processes")
    store.close()
    process(sys.executable, "-c", code, str(store.path)).expect("^alone")
