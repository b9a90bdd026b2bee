"""Talking to a mesh that runs: a socket in its run folder, for its owner alone.

One request a connection, one answer: a line of JSON each way. `{"do": "members"}` is answered with
what runs, `{"do": "rollout"}` when the rollout has ended, everything wrong with `{"error": ...}`.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mesh.cli.output import Failure

SOCKET = "control.sock"
MAX_REQUEST = 64 * 1024
ASK_TTL = 10.0

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class Control(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers requests by `answer`, on threads of its own, from `start` to `close`.

    Raises:
        Failure: there can be no socket in that folder.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path, answer: Answer) -> None:
        self.answer = answer
        self._path = folder / SOCKET
        self._path.unlink(missing_ok=True)  # whoever holds the folder's lock is the only one
        before = os.umask(0o177)
        try:
            super().__init__(str(self._path), _Handler)
        except OSError as error:
            reason = error.strerror or error
            raise Failure(
                f"{self._path}: {reason}", "name another folder, or a shorter one: --run DIR"
            ) from None
        finally:
            os.umask(before)

    def start(self) -> None:
        """Begin to answer."""
        threading.Thread(target=self.serve_forever, name="mesh-control", daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        self.shutdown()
        self.server_close()
        with suppress(FileNotFoundError):
            self._path.unlink()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has left; nothing is to be done."""


class _Handler(socketserver.StreamRequestHandler):
    server: Control

    def handle(self) -> None:
        self.connection.settimeout(ASK_TTL)
        try:
            request = json.loads(self.rfile.readline(MAX_REQUEST))
            answer = self.server.answer(request)
        except (ValueError, KeyError, TypeError):
            answer = {"error": 'a request is a line of JSON, as in {"do": "members"}'}
        self.connection.settimeout(ASK_TTL)
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def ask(folder: Path, request: dict[str, Any], timeout: float) -> dict[str, Any]:
    """What the mesh of that run folder answers.

    Raises:
        Failure: none runs there, it answers with an error, or not within `timeout` seconds.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(folder / SOCKET))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
        except (FileNotFoundError, ConnectionRefusedError):
            raise Failure(f"no mesh runs in {folder}", "name its folder: --run DIR") from None
        except TimeoutError:
            raise Failure(
                f"the mesh in {folder} has not answered within {timeout:g} s",
                "it may still be at it: look again, or give --timeout",
            ) from None
        except (OSError, ValueError) as error:
            raise Failure(f"the mesh in {folder}: {error or 'it has just ended'}") from None
    if "error" in answer:
        raise Failure(str(answer["error"]), str(answer.get("hint", "")))
    return answer
