"""`sage-mesh storage`: files in and out, and the care of the directory while the service works."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from contextlib import suppress
from pathlib import Path

from mesh import connect
from mesh.protocol import payload
from mesh.protocol.storage import PART
from tests import support
from tests.integration.memory_mesh import MemoryMesh, until
from workers.storage import maintenance
from workers.storage.records import read_entry


def on_a_terminal(*words: str) -> str:
    """What the command shows on a terminal beside its output."""
    terminal, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    code = "import sys; from mesh.cli import main; sys.exit(main())"
    environment = {**os.environ, "TERM": "xterm"}
    command = [sys.executable, "-c", code, *words]
    child = subprocess.Popen(command, stderr=slave, stdout=subprocess.DEVNULL, env=environment)
    os.close(slave)
    shown = b""
    with suppress(OSError):  # the terminal has no more to show
        while more := os.read(terminal, 4096):
            shown += more
    os.close(terminal)
    assert child.wait(timeout=10) == 0, shown
    return shown.decode()


def test_files_in_and_out(process: support.Start, tmp_path: Path) -> None:
    mesh = MemoryMesh(process, tmp_path / "s", processes=2, service="storage")

    def cli(*words: str, status: int = 0) -> str:
        child = support.start_mesh(
            process, "storage", words[0], "--broker", mesh.endpoint, *words[1:]
        )
        assert child.wait(timeout=30) == status, child.report()
        return child.output()

    def care(*words: str, status: int = 0) -> str:
        child = support.start_mesh(process, "storage", *words)
        assert child.wait(timeout=30) == status, child.report()
        return child.output()

    data = os.urandom(3 * PART + 7)
    source = tmp_path / "source.bin"
    source.write_bytes(data)
    assert f"{len(data):,} octets" in cli("put", str(source), "dir/a")
    shown = on_a_terminal("storage", "put", "--broker", mesh.endpoint, str(source))
    assert "source.bin" in shown and "3.1/3.1 MB" in shown and "━" in shown
    assert "exists" in cli("get", "dir/a", str(source), status=1)
    cli("get", "dir/a", str(tmp_path / "target"))
    assert (tmp_path / "target").read_bytes() == data
    with connect(mesh.endpoint) as m:
        m.storage.put("record", {"x": 1})
    assert json.loads(cli("get", "record", "--json")) == {"x": 1}
    assert "leave out FILE" in cli("get", "record", str(tmp_path / "r"), status=2)
    assert "slashes" in cli("ls", "--bucket", "a/b", status=1)
    listed = [json.loads(line) for line in cli("ls", "--json").splitlines()]
    assert [item["key"] for item in listed] == ["dir/a", "record", "source.bin"]
    assert "dir/a" in cli("ls", "dir/") and "record" not in cli("ls", "dir/")
    assert "default" in cli("ls", "--buckets")
    assert "there is no key" in cli("get", "nothing", status=1)
    assert "1 deleted" in cli("rm", "source.bin", "nothing", status=1)

    store, copied, restored = str(tmp_path / "s"), str(tmp_path / "b"), str(tmp_path / "r")
    assert "all is well" in care("verify", "--data", store)
    assert "all is well" in care("backup", copied, "--data", store)
    with connect(mesh.endpoint) as m:
        assert m.storage.put("after", 1)
    assert "all is well" in care("verify", "--data", copied)
    assert "in use" in care("compact", "--data", store, status=1)
    assert "restored" in care("restore", copied, "--data", restored)
    assert "octets before" in care("compact", "--data", restored)
    assert "2 keys" in care("verify", "--data", restored)
    assert "nothing says where" in care("verify", status=1)

    again = MemoryMesh(process, tmp_path / "r", processes=1, service="storage")
    with connect(again.endpoint) as m:
        found = m.storage.get_object("dir/a")
        assert found is not None and found.read() == data
        assert m.storage.get("after") is None


def test_a_backup_while_all_is_being_written(process: support.Start, tmp_path: Path) -> None:
    """It holds what was acknowledged before it began, and pairs that belong together."""
    mesh = MemoryMesh(process, tmp_path / "s", processes=2, service="storage")
    stop = threading.Event()
    acknowledged = 0

    def write() -> None:
        nonlocal acknowledged
        with connect(mesh.endpoint) as m:
            turn = 0
            while not stop.is_set():
                turn += 1
                m.storage.batch().put("left", turn).put("right", turn).run()
                m.storage.put_object(f"o{turn % 5}", bytes((turn % 256,)) * (PART + turn))
                m.storage.delete(f"o{(turn + 2) % 5}")
                acknowledged = turn

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until(lambda: acknowledged)
        for number in range(3):
            before = acknowledged
            target = tmp_path / f"b{number}"
            child = support.start_mesh(
                process, "storage", "backup", str(target), "--data", str(tmp_path / "s")
            )
            assert child.wait(timeout=30) == 0, child.report()
            with maintenance.opened(target) as (view, tables):
                entries = dict(view.items(tables["entries"]))
            (left,) = [read_entry(e).body for slot, e in entries.items() if slot[4:] == b"left"]
            (right,) = [read_entry(e).body for slot, e in entries.items() if slot[4:] == b"right"]
            assert left == right and payload.decode(left) >= before
    finally:
        stop.set()
        writer.join()
    assert acknowledged > 5
    assert maintenance.verify(tmp_path / "s").damage == []
