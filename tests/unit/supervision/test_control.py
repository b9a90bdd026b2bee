"""The socket of a mesh that runs: answers, nonsense, and folders that cannot hold one."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.cli.output import Failure
from mesh.supervision.control import SOCKET, Control, ask


def answer(request: dict[str, Any]) -> dict[str, Any]:
    match request["do"]:
        case "fail":
            return {"error": "it cannot be done", "hint": "do something else"}
        case what:
            return {"did": what}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    control = Control(tmp_path, answer)
    control.start()
    yield tmp_path
    control.close()
    assert not (tmp_path / SOCKET).exists()


def test_requests_are_answered(folder: Path) -> None:
    assert stat.S_IMODE(os.stat(folder / SOCKET).st_mode) == 0o600
    assert ask(folder, {"do": "this"}, 5.0) == {"did": "this"}
    with pytest.raises(Failure, match="it cannot be done") as caught:
        ask(folder, {"do": "fail"}, 5.0)
    assert caught.value.advice == "do something else"


@pytest.mark.parametrize("nonsense", [b"", b"\n", b"[1]\n", b"{}\n", b"\xff\xfe\n", b"7\n"])
def test_nonsense_is_answered_too(folder: Path, nonsense: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5.0)
        connection.connect(str(folder / SOCKET))
        connection.sendall(nonsense)
        connection.shutdown(socket.SHUT_WR)
        assert "a line of JSON" in json.loads(connection.makefile("rb").readline())["error"]
    assert ask(folder, {"do": "this"}, 5.0) == {"did": "this"}


def test_what_a_dead_mesh_left_behind_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / SOCKET))
    with pytest.raises(Failure, match="no mesh runs"):
        ask(tmp_path, {"do": "this"}, 5.0)
    control = Control(tmp_path, answer)
    control.start()
    assert ask(tmp_path, {"do": "this"}, 5.0) == {"did": "this"}
    control.close()


def test_a_folder_that_cannot_hold_a_socket_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    with pytest.raises(Failure, match="too long") as caught:
        Control(deep, answer)
    assert "--run DIR" in caught.value.advice
