"""How the mesh connects and listens: directly where it can, else by libzmq.

Both speak the same on the wire. With `SAGE_LINK=libzmq` in the environment it is always libzmq.
"""

from __future__ import annotations

import math
import os
import select
from collections.abc import Callable, Sequence
from typing import TypeAlias

from mesh.protocol.endpoints import parse_endpoint
from mesh.transport import direct
from mesh.transport.direct import DirectLink
from mesh.transport.listening import DirectBound
from mesh.transport.pump import KIND, Pump, Wake
from mesh.transport.sockets import Bound, Link, dealer_socket, router_socket

AnyLink: TypeAlias = Link | DirectLink
AnyBound: TypeAlias = Bound | DirectBound

DIRECT = direct.AVAILABLE and KIND == "compiled" and os.environ.get("SAGE_LINK") != "libzmq"


def open_link(endpoint: str, connect_timeout: float = 5.0) -> AnyLink:
    """Begin to connect to `endpoint`, once: when the link's watch says `lost`, it is used up.

    Raises:
        ConfigError: the endpoint is wrong.
    """
    if DIRECT:
        return DirectLink(endpoint)
    return dealer_socket(endpoint, connect_timeout=connect_timeout)


def listen(endpoint: str) -> AnyBound:
    """Listen at `endpoint`.

    Raises:
        ConfigError: it is wrong, in use or cannot be listened at.
    """
    if DIRECT:
        return DirectBound(parse_endpoint(endpoint, bind=True))
    # No heartbeats of ours: libzmq 4.3 aborts the process when it is about to send one over a
    # connection that ended while its queue was full. Those of the peers do the same service, as
    # each tells the broker when to take the connection for dead.
    return router_socket(endpoint, heartbeat_every=0.0)


def waiter(ports: Sequence[AnyBound], wake: int) -> Callable[[float], object]:
    """What waits, so many seconds, for something at the `ports` or the descriptor `wake`."""
    by_libzmq = [port for port in ports if isinstance(port, Bound)]
    direct_ports = [port for port in ports if isinstance(port, DirectBound)]
    if by_libzmq:
        sources: list[Wake] = [wake, *(fd for port in direct_ports for fd in port.descriptors())]
        for port in by_libzmq:
            sources += [port.socket, port.watch.socket]
        pump = Pump(by_libzmq[0].socket, wake=sources)
        return pump.wait
    poll = select.poll()
    for fd in (wake, *(fd for port in direct_ports for fd in port.descriptors())):
        poll.register(fd, select.POLLIN)
    return lambda timeout: poll.poll(math.ceil(timeout * 1e3))
