"""A small HTTP server for what a process tells of itself. Only GET and HEAD, and no secrets.

    /health     200 if the process does its work, else 503       {"status": ..., "reasons": [...]}
    /ready      200 if it should get work now, else 503          the same
    /metrics    the figures, as text for Prometheus
    /status     everything, as JSON

Whoever can reach the address can read them. Connections, their time and what they may send are
bounded, so that no client of it can hold up the process.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import socketserver
import stat
import threading
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from time import monotonic
from typing import Any, ClassVar, Protocol, Self

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from mesh.errors import ConfigError

MAX_CONNECTIONS = 16
REQUEST_TTL = 10.0
UNIX = "unix:"

log = logging.getLogger("mesh.monitoring")


class Unresponsive(Exception):
    """The process does not answer: it hangs, or has ended."""


class Source(Protocol):
    """What is told. Called on threads of the server; each may raise Unresponsive."""

    def status(self) -> dict[str, Any]:
        """Everything, as plain data."""

    def unready(self) -> list[str]:
        """Why it should get no work now; empty if it should."""

    def families(self) -> Iterable[Metric]:
        """The figures."""


class Monitor:
    """Tells of `source` at `address`: HOST:PORT (port 0 takes a free one) or unix:PATH.

    From `start` to `close`.

    Raises:
        ConfigError: the address is wrong, or in use.
    """

    def __init__(self, address: str, source: Source) -> None:
        try:
            if address.startswith(UNIX):
                self._path: str | None = _vacant(address.removeprefix(UNIX))
                self._server: _Server = _UnixServer(self._path, source)
            else:
                self._path = None
                host, _, port = address.rpartition(":")
                self._server = _serve_tcp(host.strip("[]"), int(port), source)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"monitoring at {address}: {reason}; choose another place: "
                "monitoring.metrics_port, monitoring.address or --monitor"
            ) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="mesh-monitor", daemon=True
        )

    @property
    def address(self) -> str:
        """Where it really listens."""
        if self._path is not None:
            return UNIX + self._path
        host, port = self._server.server_address[:2]
        name = host.decode() if isinstance(host, bytes) else str(host)
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    def start(self) -> Self:
        """Begin to answer, in a thread."""
        self._thread.start()
        log.info("monitoring at %s", self.address)
        return self

    def close(self) -> None:
        """Answer no more."""
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        if self._path is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._path)


def _vacant(path: str) -> str:
    """`path`, for a new socket: one that was left behind by a process that died is removed."""
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    os.unlink(path)
    except FileNotFoundError:
        pass
    return path


def _serve_tcp(host: str, port: int, source: Source) -> _Server:
    name = None if host in ("", "*") else host
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return (_Server6 if found[0][0] == socket.AF_INET6 else _Server)(found[0][4], source)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: Any, source: Source) -> None:
        self.source = source
        self._open: dict[Any, float] = {}
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            log.warning("more than %d connections; one was refused", MAX_CONNECTIONS)
            request.close()
            return
        self._open[request] = monotonic() + REQUEST_TTL
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Twice a second: end what takes too long, however busily it drips."""
        now = monotonic()
        for request, until in list(self._open.items()):
            if until < now:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:  # it has ended at this moment
                    self._open.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection to the monitor broke", exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _UnixServer(_Server):
    address_family = socket.AF_UNIX
    allow_reuse_address = False

    def server_bind(self) -> None:
        before = os.umask(0o177)  # for its owner only
        try:
            super().server_bind()
        finally:
            os.umask(before)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "sage-mesh"
    sys_version = ""
    timeout = REQUEST_TTL

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        tell = self._PATHS.get(path)
        if tell is None:
            self._answer(HTTPStatus.NOT_FOUND, {"error": f"try {', '.join(self._PATHS)}"})
            return
        try:
            tell(self, self.server.source)
        except Unresponsive as error:
            self._answer(
                HTTPStatus.SERVICE_UNAVAILABLE, {"status": "unhealthy", "reasons": [str(error)]}
            )

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def _health(self, source: Source) -> None:
        source.status()
        self._answer(HTTPStatus.OK, {"status": "healthy", "reasons": []})

    def _ready(self, source: Source) -> None:
        reasons = source.unready()
        if reasons:
            self._answer(
                HTTPStatus.SERVICE_UNAVAILABLE, {"status": "not ready", "reasons": reasons}
            )
        else:
            self._answer(HTTPStatus.OK, {"status": "ready", "reasons": []})

    def _metrics(self, source: Source) -> None:
        self._send(HTTPStatus.OK, CONTENT_TYPE_LATEST, text_of(source.families()))

    def _status(self, source: Source) -> None:
        self._answer(HTTPStatus.OK, source.status())

    _PATHS: ClassVar = {
        "/health": _health,
        "/ready": _ready,
        "/metrics": _metrics,
        "/status": _status,
    }

    def _answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(body).encode() + b"\n")

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def address_string(self) -> str:
        return str(self.client_address)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


class _Collected:
    """What Prometheus's own writer wants to be given families by."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def text_of(families: Iterable[Metric]) -> bytes:
    """The families as text for Prometheus."""
    registry = CollectorRegistry()
    registry.register(_Collected(families))
    return generate_latest(registry)
