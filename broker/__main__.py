"""`python -m broker`: run one broker process.

SIGTERM, SIGINT    drain and leave; a second one: at once
SIGHUP             read the configuration file again, if there is one
"""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
from typing import TYPE_CHECKING

from broker.config import Reloader, endpoints, log, router_settings
from broker.router import Router
from broker.server import Server, announce
from mesh import logs
from mesh.errors import ConfigError
from mesh.settings import Settings, monitor_at
from mesh.settings.flags import add_flags, chosen

if TYPE_CHECKING:
    from mesh.monitoring.http import Monitor

FLAGS = {
    "--bind": ("broker.bind", "ENDPOINT"),
    "--bind-clients": ("broker.bind_clients", "ENDPOINT"),
    "--bind-workers": ("broker.bind_workers", "ENDPOINT"),
    "--insecure": ("broker.insecure", ""),
    "--drain-timeout": ("broker.drain_timeout", "SECONDS"),
    "--spin": ("broker.spin", "SECONDS"),
    "--monitor": ("monitoring.address", "ADDRESS"),
    "--heartbeat": ("broker.heartbeat", "SECONDS"),
    "--grace": ("broker.grace", "SECONDS"),
    "--max-queue": ("broker.max_queue", "N"),
    "--mdp-heartbeat": ("broker.mdp.heartbeat", "SECONDS"),
    "--mdp-ttl": ("broker.mdp.ttl", "SECONDS"),
    "--mdp-busy-timeout": ("broker.mdp.busy_timeout", "SECONDS"),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m broker", description="Run a SAGE Mesh broker.")
    add_flags(found, FLAGS)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and the configuration, and serve until a signal; the exit status."""
    choice = chosen(parser().parse_args(arguments), FLAGS)
    try:
        loaded = choice.load()
        settings = loaded.settings
        logs.begin(settings.log_level, settings.log_format)
        for note in loaded.notes:
            log.warning("%s", note)
        server = Server(
            Router(router_settings(settings), broker_id=secrets.token_hex(8)),
            endpoints(settings),
            insecure=settings.broker.insecure,
            spin=settings.broker.spin,
            drain_timeout=settings.broker.drain_timeout,
        )
        monitor = monitored(server, settings)
    except ConfigError as error:
        print(f"broker: {error}", file=sys.stderr)
        return 2
    if loaded.path is not None:
        # Without a file a hangup means what it means to any program: the terminal is gone.
        reload = Reloader(choice.load, loaded, server).reload
        signal.signal(signal.SIGHUP, lambda *_: server.ask(reload))
    try:
        server.run(announce)
    finally:
        if monitor is not None:
            monitor.close()
    return 0


def monitored(server: Server, settings: Settings) -> Monitor | None:
    """What tells of the broker over HTTP, if that is wanted.

    Raises:
        ConfigError: the address is in use.
    """
    address = monitor_at(settings)
    if address is None:
        return None
    from broker.monitor import BrokerSource  # a broker that is restarted is waited for
    from mesh.monitoring.http import Monitor

    return Monitor(address, BrokerSource(server)).start()


if __name__ == "__main__":
    sys.exit(main())
