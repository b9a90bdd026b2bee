"""Broker addresses on the command line, and whether somebody listens there."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from mesh.cli.output import Failure

DEFAULT_BROKER = "tcp://127.0.0.1:8080"


def parse_all(texts: Sequence[str]) -> list[str]:
    """The endpoints that `texts` name, without repetition, and for `dns://` those of now.

    Raises:
        ConfigError: one of them is no endpoint.
        Failure: a host has no address.
    """
    from mesh.discovery.names import Looking
    from mesh.protocol.endpoints import parse_endpoint

    looking = Looking([parse_endpoint(text) for text in texts or (DEFAULT_BROKER,)])
    found, trouble = looking.look()
    if trouble:
        raise Failure(trouble, "name a host that is known here, or its brokers one by one")
    return found


def why_unreachable(endpoint: str, timeout: float = 1.0) -> str | None:
    """Why nobody answers at `endpoint`; None if somebody accepts connections there."""
    scheme, _, address = endpoint.partition("://")
    try:
        if scheme == "ipc":
            name = "\0" + address[1:] if address.startswith("@") else address
            with socket.socket(socket.AF_UNIX) as unix:
                unix.settimeout(timeout)
                unix.connect(name)
        else:
            host, _, port = address.rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port)), timeout):
                pass
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return None


def require_one(endpoints: Sequence[str]) -> None:
    """Make sure that at least one broker can be reached, so that no command waits for none.

    Raises:
        Failure: nobody listens at any of `endpoints`.
    """
    reasons = {}
    for endpoint in endpoints:
        reason = why_unreachable(endpoint)
        if reason is None:
            return
        reasons[endpoint] = reason
    what = "; ".join(f"no broker at {endpoint}: {reason}" for endpoint, reason in reasons.items())
    raise Failure(
        what,
        f"start one with `sage-mesh broker --bind {endpoints[0]}`, or name another "
        "one with --broker or SAGE_BROKERS",
    )
