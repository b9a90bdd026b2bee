"""The broker that a reader of pyzmq's documentation would write.

`python -m bench.peers.plain_broker lru`: two ROUTER sockets and a queue of free places. A worker
sends one frame for each place that it offers; a place is used once and comes back with the reply.

`python -m bench.peers.plain_broker relay`: a ROUTER and a DEALER, every frame handed over as the
object it arrived in (copy=False). It knows nothing of workers: the least that a broker can do.

Prints `listening FRONT BACK` when both sockets are bound.
"""

from __future__ import annotations

import sys
from collections import deque

import zmq


def lru() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    frontend, backend = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
    _bind(frontend, backend)
    poller = zmq.Poller()
    poller.register(backend, zmq.POLLIN)
    free: deque[bytes] = deque()
    waits_for_clients = False
    while True:
        ready = dict(poller.poll())
        if backend in ready:
            message = backend.recv_multipart()
            free.append(message[0])
            if len(message) > 2:
                frontend.send_multipart(message[1:])
        if frontend in ready:
            request = frontend.recv_multipart()
            backend.send_multipart([free.popleft(), *request])
        if bool(free) != waits_for_clients:
            waits_for_clients = bool(free)
            poller.register(frontend, zmq.POLLIN if free else 0)


def relay() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    frontend, backend = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    _bind(frontend, backend)
    poller = zmq.Poller()
    poller.register(backend, zmq.POLLIN)
    poller.register(frontend, zmq.POLLIN)
    while True:
        ready = dict(poller.poll())
        if frontend in ready:
            backend.send_multipart(frontend.recv_multipart(copy=False), copy=False)
        if backend in ready:
            frontend.send_multipart(backend.recv_multipart(copy=False), copy=False)


def _bind(frontend: zmq.Socket[bytes], backend: zmq.Socket[bytes]) -> None:
    for socket in (frontend, backend):
        socket.setsockopt(zmq.SNDHWM, 100_000)
        socket.setsockopt(zmq.RCVHWM, 100_000)
        socket.bind("tcp://127.0.0.1:0")
    addresses = [socket.getsockopt_string(zmq.LAST_ENDPOINT) for socket in (frontend, backend)]
    print("listening", *addresses, flush=True)


if __name__ == "__main__":
    {"lru": lru, "relay": relay}[sys.argv[1]]()
