"""One process of raw load: `python -m bench.raw ROLE ENDPOINT [options]`.

A worker prints `ready` and serves until it is ended. A client prints one JSON line: replies per
second for each window.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

import zmq

from bench.raw import build
from mesh.protocol import native, payload
from mesh.protocol.messages import HEARTBEAT, HELLO, READY, REQUEST, Message

SERVICE = b"bench"
METHOD = b"echo"
SLOTS = 1024
NUMBER_AT = 32
NATS_SUBJECT = b"bench.echo"


def _dealer(endpoint: str) -> zmq.Socket[bytes]:
    dealer: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.SNDHWM, 100_000)
    dealer.setsockopt(zmq.RCVHWM, 100_000)
    dealer.connect(endpoint)
    return dealer


def _frames(message: Message) -> list[bytes]:
    return [frame for frame in native.encode(message) if isinstance(frame, bytes)]


def _measure(
    run: Callable[[int, float, int], tuple[int, float, int]],
    windows: list[int],
    seconds: float,
) -> dict[str, float]:
    rates: dict[str, float] = {}
    number = 0
    _, _, number = run(windows[0], min(0.3, seconds), number)
    for window in windows:
        done, took, number = run(window, seconds, number)
        rates[str(window)] = done / took
    return rates


def native_client(options: argparse.Namespace) -> dict[str, float]:
    """Requests of the native protocol."""
    load: Any = build.load()
    dealer = _dealer(options.endpoint)
    incarnation = int.from_bytes(os.urandom(8), "big")
    hello = Message(HELLO, incarnation=incarnation, frames=[payload.encode({"name": "raw load"})])
    dealer.send_multipart(_frames(hello))
    request = Message(
        REQUEST, timeout=30.0, priority=2, incarnation=incarnation, service=SERVICE, method=METHOD
    )
    header = _frames(request)[0]
    body = os.urandom(options.size)

    def run(window: int, seconds: float, number: int) -> tuple[int, float, int]:
        result: tuple[int, float, int] = load.client(
            dealer.underlying, header, body, NUMBER_AT, window, seconds, True, number
        )
        return result

    return _measure(run, options.windows, options.seconds)


def native_worker(options: argparse.Namespace) -> None:
    """Answers REQUEST with FINAL."""
    load: Any = build.load()
    dealer = _dealer(options.endpoint)
    ready = {"lanes": {"": SLOTS}, "methods": {METHOD.decode(): {}}, "heartbeat": 0.5}
    ready.update({"instance": "raw", "version": "1", "host": "bench", "pid": os.getpid()})
    incarnation = int.from_bytes(os.urandom(8), "big")
    first = Message(READY, service=SERVICE, incarnation=incarnation, frames=[payload.encode(ready)])
    dealer.send_multipart(_frames(first))
    dealer.recv_multipart()
    print("ready", flush=True)
    load.worker(dealer.underlying, _frames(Message(HEARTBEAT))[0], True)


def plain_client(options: argparse.Namespace) -> dict[str, float]:
    """Multipart requests [number][body], as the plain pyzmq peers take them."""
    load: Any = build.load()
    dealer = _dealer(options.endpoint)
    body = os.urandom(options.size)

    def run(window: int, seconds: float, number: int) -> tuple[int, float, int]:
        result: tuple[int, float, int] = load.client(
            dealer.underlying, bytes(8), body, 0, window, seconds, False, number
        )
        return result

    return _measure(run, options.windows, options.seconds)


def plain_worker(options: argparse.Namespace) -> None:
    """Sends all frames back. Announces `--slots` places first, one message for each."""
    load: Any = build.load()
    dealer = _dealer(options.endpoint)
    for _ in range(options.slots):
        dealer.send(b"READY")
    print("ready", flush=True)
    load.worker(dealer.underlying, b"", False)


def _nats_connection(endpoint: str) -> socket.socket:
    host, _, port = endpoint.rpartition("/")[2].partition(":")
    connection = socket.create_connection((host, int(port)), timeout=5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.recv(65536)  # INFO
    connection.sendall(b'CONNECT {"verbose":false,"pedantic":false,"lang":"c"}\r\nPING\r\n')
    _await_pong(connection)
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 15, 0))
    return connection


def _await_pong(connection: socket.socket) -> None:
    answer = b""
    while b"PONG" not in answer:
        part = connection.recv(4096)
        if not part:
            raise RuntimeError(f"nats-server ended the connection: {answer!r}")
        answer += part


def nats_client(options: argparse.Namespace) -> dict[str, float]:
    """Requests with an inbox, over the text protocol."""
    load: Any = build.load()
    connection = _nats_connection(options.endpoint)
    inbox = b"_INBOX." + os.urandom(11).hex().encode()
    connection.sendall(b"SUB " + inbox + b".* 1\r\nPING\r\n")
    _await_pong(connection)
    body = os.urandom(options.size)

    def run(window: int, seconds: float, number: int) -> tuple[int, float, int]:
        result: tuple[int, float, int] = load.nats_client(
            connection.fileno(), NATS_SUBJECT, inbox, body, window, seconds, number
        )
        return result

    return _measure(run, options.windows, options.seconds)


def nats_worker(options: argparse.Namespace) -> None:
    """A queue subscriber that answers each message."""
    load: Any = build.load()
    connection = _nats_connection(options.endpoint)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
    connection.sendall(b"SUB " + NATS_SUBJECT + b" workers 1\r\nPING\r\n")
    _await_pong(connection)
    print("ready", flush=True)
    load.nats_worker(connection.fileno())


ROLES: dict[str, Callable[[argparse.Namespace], Any]] = {
    f"{dialect}-{role}": globals()[f"{dialect}_{role}"]
    for dialect in ("native", "plain", "nats")
    for role in ("client", "worker")
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.raw")
    parser.add_argument("role", choices=sorted(ROLES))
    parser.add_argument("endpoint")
    parser.add_argument("--windows", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--slots", type=int, default=SLOTS)
    options = parser.parse_args()
    result = ROLES[options.role](options)
    if result is not None:
        print(json.dumps(result), flush=True)
        sys.stdout.flush()
        os._exit(0)  # what libzmq has still in hand is of no interest


if __name__ == "__main__":
    main()
