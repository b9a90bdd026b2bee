"""`python -m broker`: run one broker process."""

from __future__ import annotations

import argparse
import secrets
import sys

from broker.router import Router
from broker.server import BOTH, CLIENTS, WORKERS, Endpoint, Server, announce
from broker.state import RouterSettings
from mesh.errors import ConfigError

DEFAULT_BIND = "tcp://127.0.0.1:8080"


def parser() -> argparse.ArgumentParser:
    defaults = RouterSettings()
    found = argparse.ArgumentParser(prog="python -m broker", description="Run a SAGE Mesh broker.")
    found.add_argument(
        "--bind",
        action="append",
        default=[],
        metavar="ENDPOINT",
        help=f"listen for clients and workers; may be repeated (default: {DEFAULT_BIND})",
    )
    found.add_argument(
        "--bind-clients", action="append", default=[], metavar="ENDPOINT", help="for clients only"
    )
    found.add_argument(
        "--bind-workers", action="append", default=[], metavar="ENDPOINT", help="for workers only"
    )
    found.add_argument(
        "--insecure",
        action="store_true",
        help="allow endpoints that other machines can reach (nothing checks who connects)",
    )
    found.add_argument("--drain-timeout", type=_seconds, default=30.0, metavar="SECONDS")
    found.add_argument("--spin", type=_seconds, default=0.0001, metavar="SECONDS")
    for option, field, text in (
        ("--heartbeat", "heartbeat", "between signs of life"),
        ("--grace", "grace", "that a request waits for a service nobody offers"),
        ("--mdp-heartbeat", "mdp_heartbeat", "between heartbeats of MDP workers"),
        ("--mdp-ttl", "mdp_ttl", "that a request of an MDP client may take"),
        ("--mdp-busy-timeout", "mdp_busy_timeout", "that a busy MDP worker may be silent"),
    ):
        found.add_argument(
            option,
            dest=field,
            type=_seconds,
            default=getattr(defaults, field),
            metavar="SECONDS",
            help=f"seconds {text} (default: {getattr(defaults, field):g})",
        )
    found.add_argument(
        "--max-queue",
        type=int,
        default=defaults.max_queue,
        metavar="N",
        help=f"requests that may wait in one lane (default: {defaults.max_queue})",
    )
    return found


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 to 1,000,000")
    return value


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    endpoints = [Endpoint(address, BOTH) for address in options.bind]
    endpoints += [Endpoint(address, CLIENTS) for address in options.bind_clients]
    endpoints += [Endpoint(address, WORKERS) for address in options.bind_workers]
    settings = RouterSettings(
        heartbeat=options.heartbeat,
        grace=options.grace,
        mdp_heartbeat=options.mdp_heartbeat,
        mdp_ttl=options.mdp_ttl,
        mdp_busy_timeout=options.mdp_busy_timeout,
        max_queue=options.max_queue,
    )
    router = Router(settings, broker_id=secrets.token_hex(8))
    try:
        server = Server(
            router,
            endpoints or [Endpoint(DEFAULT_BIND)],
            insecure=options.insecure,
            spin=options.spin,
            drain_timeout=options.drain_timeout,
        )
    except ConfigError as error:
        print(f"broker: {error}", file=sys.stderr)
        return 2
    server.run(announce)
    return 0


if __name__ == "__main__":
    sys.exit(main())
