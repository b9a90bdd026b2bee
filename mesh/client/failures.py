"""The errors that the client itself finds, with their words."""

from __future__ import annotations

from typing import Any

from mesh.client.calls import Call
from mesh.errors import (
    BrokerLost,
    Cancelled,
    CircuitOpen,
    DeadlineExceeded,
    Overloaded,
    TooLarge,
)

BUSY_PAUSE = 0.1


def _names(service: bytes, method: bytes) -> dict[str, Any]:
    return {
        "service": service.decode("utf-8", "replace"),
        "method": method.decode("utf-8", "replace"),
    }


def broker_lost(call: Call, text: str) -> BrokerLost:
    """The connection ended with the call in hand, and the call must not run twice."""
    return BrokerLost(text, maybe_executed=True, **call.identity())


def closed(service: bytes, method: bytes) -> Cancelled:
    """Nothing can be called through a closed client."""
    return Cancelled("the client is closed", **_names(service, method))


def no_time(service: bytes, method: bytes) -> DeadlineExceeded:
    """The deadline, perhaps inherited, has passed already."""
    return DeadlineExceeded("no time was left to make the call", **_names(service, method))


def too_large(service: bytes, method: bytes, size: int, limit: int) -> TooLarge:
    """The arguments exceed what one message may hold."""
    return TooLarge(
        f"the arguments are {size:,} octets; the limit is {limit:,}: send them as a stream",
        **_names(service, method),
    )


def too_much_open(service: bytes, method: bytes, calls: int, octets: int) -> Overloaded:
    """This client has as much open as it may."""
    return Overloaded(
        f"{calls:,} calls with {octets:,} octets are open in this client",
        retry_after=BUSY_PAUSE,
        **_names(service, method),
    )


def circuit_open(service: bytes, method: bytes, remaining: float) -> CircuitOpen:
    """The breaker of the service is open for `remaining` seconds."""
    return CircuitOpen(
        "refused here: recent calls to this service failed too often",
        retry_after=max(0.0, remaining),
        **_names(service, method),
    )
